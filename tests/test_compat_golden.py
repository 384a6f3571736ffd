"""The peers' names give the peers' numbers: what quark0/darts and PC-DARTS computed, recorded under tests/golden."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from golden import recipe
from tolerance import assert_within
from torch import Tensor, nn

from fastdarts import use_backend
from fastdarts.compat import darts, pcdarts
from fastdarts.spaces import published

PEERS = {"darts": darts, "pcdarts": pcdarts}
DTYPES = [torch.float64, torch.float32]
# The engine adds in another order: in float64 more than the roundings of three losses allow, in float32 not.
RUNS = [("reference", torch.float64), ("reference", torch.float32), ("auto", torch.float32)]


@cache
def golden(name: str) -> dict[str, Any]:
    return recipe.load(name)


def assert_numbers(recorded: dict[str, Any], found: dict[str, Any], dtype: torch.dtype) -> None:
    """Each recorded tensor or set of projections within twice the rounding that the peer's own run shows.

    One rounding for a run: what three losses happened to round says nothing of what they may.
    """
    assert recorded.keys() == found.keys()
    error32 = max(numbers["error32"] for numbers in recorded.values() if isinstance(numbers, dict))
    for name, numbers in recorded.items():
        value = found[name]
        if not isinstance(numbers, dict):
            assert value == numbers, name
            continue
        ref64 = torch.tensor(numbers["values"], dtype=torch.float64)
        if isinstance(value, dict):
            value = recipe.projections(value) * 2.0 ** -torch.tensor(numbers["exponents"], dtype=torch.float64)
        assert_within(name, value.to(dtype), _peer(ref64, error32, dtype), ref64, terms=1.0)


def _peer(ref64: Tensor, error32: float, dtype: torch.dtype) -> Tensor:
    """Stands for the peer's run in `dtype`: its float32 error is recorded, in float64 as many roundings are finer."""
    finer = torch.finfo(dtype).eps / torch.finfo(torch.float32).eps
    return (ref64 + error32 * finer).to(dtype)


@pytest.mark.parametrize(("backend", "dtype"), RUNS, ids=str)
@pytest.mark.parametrize("peer", PEERS)
def test_forward_loss_and_every_gradient(peer: str, backend: str, dtype: torch.dtype) -> None:
    with use_backend(backend):
        found = recipe.search_forward(PEERS[peer].Network, recipe.CHANNELS[peer], dtype)
    assert_numbers(golden(peer)["forward"], found, dtype)


@pytest.mark.parametrize(
    ("peer", "order", "backend", "dtype"),
    [
        ("darts", "first_order", "reference", torch.float32),
        ("darts", "first_order", "auto", torch.float32),
        ("darts", "unrolled", "reference", torch.float32),
        ("darts", "unrolled", "auto", torch.float32),
        ("darts", "unrolled", "reference", torch.float64),
        ("pcdarts", "first_order", "reference", torch.float32),
        ("pcdarts", "first_order", "auto", torch.float32),
        ("pcdarts", "unrolled", "reference", torch.float64),
    ],
    ids=str,
)
def test_search_loop(peer: str, order: str, backend: str, dtype: torch.dtype) -> None:
    module, unrolled = PEERS[peer], order == "unrolled"
    with use_backend(backend):
        found = recipe.search_loop(module.Network, module.Architect, recipe.CHANNELS[peer], dtype, unrolled)
    assert_numbers(golden(peer)[order], found, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("name", "genotype", "size"),
    [("NetworkCIFAR", "DARTS_V2", 32), ("NetworkCIFAR", "AmoebaNet", 32), ("NetworkImageNet", "DARTS_V2", 224)],
)
def test_derived_networks(name: str, genotype: str, size: int, dtype: torch.dtype) -> None:
    found = recipe.derived_forward(getattr(darts, name), published(genotype), size, dtype)
    assert_numbers(golden("derived")[name][genotype], found, dtype)


@pytest.mark.parametrize("peer", PEERS)
def test_full_size_network_has_the_peers_keys_and_shapes(peer: str) -> None:
    recorded = golden(peer)["full_size"]
    with torch.device("meta"):
        model = PEERS[peer].Network(recorded["channels"], 10, recorded["layers"], nn.CrossEntropyLoss())
    state = model.state_dict()
    assert {key: list(state[key].shape) for key in recorded["some"]} == recorded["some"]
    assert len(state) == recorded["keys"] and recipe.digest(model) == recorded["digest"]


@pytest.mark.parametrize("peer", PEERS)
def test_the_same_seed_starts_from_the_peers_weights_and_alphas(peer: str) -> None:
    recorded = golden(peer)["start"]
    torch.manual_seed(recorded["seed"])
    model = PEERS[peer].Network(recipe.CHANNELS[peer], 10, recipe.LAYERS, nn.CrossEntropyLoss())
    state = model.state_dict()
    for key, values in recorded["first_values"].items():
        assert_start(key, state[key], values)
    for index, values in enumerate(recorded["alphas"]):
        assert_start(f"alpha {index}", model.arch_parameters()[index].detach(), values)


def assert_start(name: str, found: Tensor, values: list[float]) -> None:
    ref64 = torch.tensor(values, dtype=torch.float64)
    assert_within(name, found.flatten()[: len(values)], ref64.float(), ref64)


def test_the_numbers_say_where_they_come_from() -> None:
    for name in (*PEERS, "derived"):
        provenance = golden(name)["provenance"]
        assert provenance["repository"].startswith("https://github.com/") and len(provenance["commit"]) == 40
        assert provenance["torch"] and provenance["how"]


def test_a_wrong_factor_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison is not vacuous: batch norm's epsilon off by a tenth fails it."""
    init: Callable[..., None] = nn.BatchNorm2d.__init__

    def softer(self: nn.BatchNorm2d, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **(kwargs | {"eps": 1.1e-5}))

    monkeypatch.setattr(nn.BatchNorm2d, "__init__", softer)
    found = recipe.search_forward(darts.Network, recipe.CHANNELS["darts"], torch.float32)
    with pytest.raises(AssertionError, match="error"):
        assert_numbers(golden("darts")["forward"], found, torch.float32)
