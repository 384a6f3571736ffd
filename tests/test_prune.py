"""Dropping candidates: against a second implementation, and that what survives keeps its meaning in a supernet."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastdarts import use_backend
from fastdarts.errors import UserError
from fastdarts.nn import Supernet
from fastdarts.spaces import Space, define_space, prune, random_genotype, space

KEYS = ("normal", "reduce")
MIXED = define_space(
    "mixed",
    {
        (0, 2): ("none", "skip_connect"),
        (1, 2): ("max_pool_3x3", "skip_connect", "sep_conv_3x3", "none"),
        (2, 3): ("dil_conv_3x3",),
    },
    reduce={
        (0, 2): ("avg_pool_3x3", "none", "skip_connect"),
        (1, 2): ("sep_conv_3x3",),
        (2, 3): ("noise", "dil_conv_5x5"),
    },
    layers=3,
    keep=1,
)


def survivors(names: tuple[str, ...], row: list[float], keep: int) -> list[str]:
    """The rule once more, as the paper tells it: the lightest is dropped until few enough are left."""
    left = dict(zip(names, row, strict=False))
    while len(left) > keep:
        lightest = min(left, key=lambda name: left[name])
        if len(left) == 2 and set(left) - {lightest} == {"none"}:
            lightest = "none"
        del left[lightest]
    return list(left)


def draw(of: Space, seed: int, ties: bool = False) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    drawn = {}
    for key in KEYS:
        shape = len(of.cell(key).edges), of.cell(key).width
        drawn[key] = rng.integers(0, 3, shape) / 3 if ties else rng.random(shape)
    return drawn


@pytest.mark.parametrize("of", [space("darts"), space("s1"), space("s3"), MIXED], ids=lambda of: of.name)
@pytest.mark.parametrize("ties", [False, True], ids=["random", "ties"])
@pytest.mark.parametrize("keep", [1, 2, 3, 5])
def test_against_a_second_implementation(of: Space, ties: bool, keep: int) -> None:
    for seed in range(5):
        weights = draw(of, seed, ties)
        found = prune(of, weights, keep)
        for key in KEYS:
            pairs = zip(of.cell(key).edges, found.cell(key).edges, weights[key].tolist(), strict=True)
            for before, after, row in pairs:
                assert (after.source, after.node) == (before.source, before.node)
                assert list(after.primitives) == survivors(before.primitives, row, keep)


def test_from_eight_to_five_to_three() -> None:
    first = prune(space("darts"), draw(space("darts"), 0), 5)
    second = prune(first, draw(first, 1), 3)
    assert (first.name, second.name) == ("darts/5", "darts/5/3")
    assert [set(found.normal.counts + found.reduce.counts) for found in (first, second)] == [{5}, {3}]
    assert (second.layers, second.keep, second.source) == (8, 2, space("darts").source)
    assert Space.from_json(second.to_json()) == second
    assert second.size() < first.size() < space("darts").size()
    for seed in range(10):
        genotype = random_genotype(second, seed)
        first.check(genotype)
        space("darts").check(genotype)


def test_none_may_stay_but_not_alone() -> None:
    row = [0.9, 0.3, 0.4]
    of = define_space("one", ("none", "skip_connect", "sep_conv_3x3"), nodes=1)
    weights = {key: torch.tensor([row, row], requires_grad=True) for key in KEYS}
    assert prune(of, weights, 2).normal.edges[0].primitives == ("none", "sep_conv_3x3")
    assert prune(of, weights, 1).normal.edges[0].primitives == ("sep_conv_3x3",)


def _renamed(full: Supernet, small: Supernet) -> dict[str, Tensor]:
    """The full network's state under the names that the surviving operators have in the small one."""
    state = {key: value for key, value in full.state_dict().items() if "._ops." not in key and "arch." not in key}
    for layer, kind in enumerate(full.space.kinds(full.layers)):
        pairs = zip(full.space.cell(kind).edges, small.space.cell(kind).edges, strict=True)
        for index, (before, after) in enumerate(pairs):
            for column, name in enumerate(after.primitives):
                edge = f"cells.{layer}._ops.{index}._ops."
                old, new = f"{edge}{before.primitives.index(name)}.", f"{edge}{column}."
                found = {key: value for key, value in full.state_dict().items() if key.startswith(old)}
                state |= {new + key.removeprefix(old): value for key, value in found.items()}
    return state | {key: value for key, value in small.state_dict().items() if key.startswith("arch.")}


def _spread(small: Space, of: Space, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mixing weights of the small space in the columns of the full one, 0 for what was dropped."""
    wide = {}
    for key in KEYS:
        rows = []
        for before, after, row in zip(of.cell(key).edges, small.cell(key).edges, weights[key], strict=True):
            of_name = dict(zip(after.primitives, row, strict=False))
            names = [*before.primitives, *[""] * (of.cell(key).width - len(before.primitives))]
            rows.append(torch.stack([of_name.get(name, row.new_zeros(())) for name in names]))
        wide[key] = torch.stack(rows)
    return wide


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_surviving_column_means_what_it_meant(training: bool) -> None:
    """To the bit in float64: the small network is the full one in which the dropped operators weigh nothing, and the
    gradients that reach its columns are those of the full one's columns of the same names."""
    torch.manual_seed(0)
    of = define_space(
        "full", ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3"), nodes=2, layers=3
    )
    full = Supernet(of, channels=2, classes=3).double()
    small_space = prune(of, draw(of, 3), 2)
    small = Supernet(small_space, channels=2, classes=3).double()
    small.load_state_dict(_renamed(full, small), strict=True)
    full.train(training)
    small.train(training)
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    weights = {key: torch.rand(5, 2, dtype=torch.float64, requires_grad=True) for key in KEYS}
    with use_backend("reference"):
        narrow, wide = small(x, weights), full(x, _spread(small_space, of, weights))
    assert torch.equal(narrow, wide)
    ours, theirs = (torch.autograd.grad(y.square().sum(), list(weights.values())) for y in (narrow, wide))
    assert all(bool(grad.abs().sum() > 0) for grad in ours)
    assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize(
    ("of", "weights", "keep", "told"),
    [
        pytest.param(space("amended-s2"), {}, 1, "architecture of its own, cannot be pruned", id="unshared"),
        pytest.param(MIXED, draw(MIXED, 0), 0, "keep 0 candidates", id="keep 0"),
        pytest.param(MIXED, {"normal": []}, 1, "weights for normal; expected for normal, reduce", id="keys"),
        pytest.param(MIXED, {key: [[0.5] * 4] for key in KEYS}, 1, "1 rows of weights for normal", id="rows"),
        pytest.param(MIXED, {key: [[0.5]] * 3 for key in KEYS}, 1, "1 weights on edge 0 -> 2", id="columns"),
        pytest.param(MIXED, {key: [[float("nan")] * 4] * 3 for key in KEYS}, 1, "is nan", id="nan"),
    ],
)
def test_refusals(of: Space, weights: dict[str, Any], keep: int, told: str) -> None:
    with pytest.raises(UserError, match=re.escape(told)):
        prune(of, weights, keep)
