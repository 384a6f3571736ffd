"""The peers' names give the peers' numbers: what quark0/darts and PC-DARTS computed, recorded under tests/golden."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from golden import recipe
from tolerance import assert_within
from torch import nn

from fastdarts import use_backend
from fastdarts.compat import darts, pcdarts
from fastdarts.spaces import published

PEERS = {"darts": darts, "pcdarts": pcdarts}
DTYPES = [torch.float64, torch.float32]
_ERROR = {torch.float64: "error64", torch.float32: "error32"}
# The engine adds in another order: in float64 more than the roundings of three losses allow, in float32 not.
RUNS = [("reference", torch.float64), ("reference", torch.float32), ("auto", torch.float32)]


@cache
def golden(name: str) -> dict[str, Any]:
    return recipe.load(name)


def assert_numbers(recorded: dict[str, Any], found: dict[str, Any], dtype: torch.dtype) -> None:
    """Each recorded tensor or set of projections within twice the rounding that the peer's own runs show.

    Those runs were made with every instruction set that torch, MKL and oneDNN have, and with weights and images an eps
    off: one machine's rounding is not another's. One rounding for a run: what three losses happened to round says nothing of what they may.
    """
    assert recorded.keys() == found.keys()
    rounding = max(numbers[_ERROR[dtype]] for numbers in recorded.values() if isinstance(numbers, dict))
    for name, numbers in recorded.items():
        value = found[name]
        if not isinstance(numbers, dict):
            assert value == numbers, name
            continue
        ref64 = torch.tensor(numbers["values"], dtype=torch.float64)
        if isinstance(value, dict):
            value = recipe.projections(value) * 2.0 ** -torch.tensor(numbers["exponents"], dtype=torch.float64)
        # ref64 and the peer's largest error stand for its run in this dtype.
        assert_within(name, value.to(dtype), (ref64 + rounding).to(dtype), ref64, terms=1.0)


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
    """The peer's draws, in its recorded order, are made here: what torch draws for a seed depends on the processor."""
    recorded = golden(peer)["start"]
    torch.manual_seed(recorded["seed"])
    model = PEERS[peer].Network(recipe.CHANNELS[peer], 10, recipe.LAYERS, nn.CrossEntropyLoss())
    weights = recipe.peer_parameters(model)
    drawn = {name: value for name, value in weights.items() if name not in recorded["constant"]}
    assert recipe.digest_of(drawn) == recorded["digest"]
    torch.manual_seed(recorded["seed"])
    for name, value in drawn.items():
        fresh = torch.empty_like(value)
        if name == "classifier.bias":
            bound = weights["classifier.weight"].shape[1] ** -0.5
            nn.init.uniform_(fresh, -bound, bound)
        else:
            nn.init.kaiming_uniform_(fresh, a=5**0.5)
        assert torch.equal(value, fresh), name
    for index, (alpha, shape) in enumerate(zip(model.arch_parameters(), recorded["alphas"], strict=True)):
        assert torch.equal(alpha, 1e-3 * torch.randn(shape)), index


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
