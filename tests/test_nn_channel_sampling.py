"""Channels that are drawn anew for every pass: the cell under other names, every choice as likely, names kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations

import nn_oracle as oracle
import pytest
import torch
from scipy.stats import chisquare
from test_nn_search_regularisation import SEED, TINY, cell_inputs, seeded
from tolerance import assert_within
from torch import Tensor

from fastdarts import use_backend
from fastdarts.errors import UserError
from fastdarts.nn import Cell, Supernet
from fastdarts.nn.channels import channel_order, reordered
from fastdarts.spaces import CellSpace, Edge


@pytest.fixture(autouse=True, params=["reference", "auto"])
def backend(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test in plain torch and, where the native core is there, on the fused engine."""
    with use_backend(request.param):
        yield


def sampled_cell(partial: int, *, reduction: bool = False) -> Cell:
    return Cell(TINY.normal, 3, 5, 8, reduction=reduction, reduction_prev=False, partial=partial, channel_sampling=True)


def sampled_by_hand(cell: Cell) -> Callable[[oracle.Named], Tensor]:
    """The cell of partial channels on states renamed by a permutation, its output named back channel by channel."""
    channels, partial, nodes = cell.channels, cell.partial, len(cell.space.concat)
    group = channels // partial

    def by_hand(named: oracle.Named) -> Tensor:
        chosen = torch.rand(channels).argsort().tolist() if cell.training else list(range(channels))
        states = [
            oracle.relu_conv_bn(named["s0"], named, "preprocess0")[:, chosen],
            oracle.relu_conv_bn(named["s1"], named, "preprocess1")[:, chosen],
        ]
        for node in cell.space.states:
            terms = []
            for e in cell.space.into(node):
                edge, prefix = cell.space.edges[e], f"_ops.{e}"
                stride = 2 if cell.reduction and edge.source < 2 else 1
                row = named["weights"][e]
                y = oracle.mixed(states[edge.source], row, stride, edge.primitives, named, prefix, partial)
                terms.append(named["edge_weights"][e] * y)
            states.append(torch.stack(terms).sum(0))
        y = torch.cat([states[node] for node in cell.space.concat], 1)
        columns: list[Tensor | None] = [None] * (nodes * channels)
        for node in range(nodes):
            for g in range(partial):
                for i in range(group):
                    # Channel g * C/K + i of the renamed states was dealt to place i * K + g.
                    column = y[:, node * channels + i * partial + g]
                    columns[node * channels + chosen[g * group + i]] = column
        return torch.stack([column for column in columns if column is not None], 1)

    return by_hand


@pytest.mark.parametrize("reduction", [False, True], ids=["normal", "reduce"])
@pytest.mark.parametrize("partial", [2, 4, 8])
def test_a_sampled_cell_is_the_cell_under_other_names(partial: int, reduction: bool) -> None:
    cell = sampled_cell(partial, reduction=reduction)
    inputs = cell_inputs(cell) | {"edge_weights": oracle.images(len(cell.space.edges), 1, 1, 1, seed=3).flatten()}
    layer = oracle.called(cell, "s0", "s1", "weights", "edge_weights")
    oracle.assert_formula(seeded(layer), seeded(sampled_by_hand(cell)), inputs)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_channel_c_of_the_output_is_channel_c_of_the_states(training: bool) -> None:
    """Identities of weight 1 and 2: whatever is mixed, every channel comes out where it went in."""
    edges = (Edge(0, 2, ("skip_connect",)), Edge(1, 2, ("skip_connect",)), Edge(0, 3, ("skip_connect",)))
    cell = Cell(
        CellSpace(edges, nodes=2, concat=(2, 3)),
        *(8, 8, 8),
        reduction=False,
        reduction_prev=False,
        partial=4,
        channel_sampling=True,
    ).train(training)
    seen = []
    for layer in (cell.preprocess0, cell.preprocess1):
        layer.op[2].register_forward_hook(lambda _m, _x, y: seen.append(y))
    s0, s1 = oracle.images(2, 8, 4, 4).float(), oracle.images(2, 8, 4, 4, seed=1).float()
    with use_backend("reference"):
        y = cell(s0, s1, torch.ones(3, 1))
    older, newer = seen
    assert torch.equal(y, torch.cat([older + newer, older], 1))
    with use_backend("auto"):
        again = cell(s0, s1, torch.ones(3, 1))
    assert_within("on the engine", again, y, torch.cat([older.double() + newer.double(), older.double()], 1), terms=100)


NOTHING = CellSpace((Edge(0, 2, ("none", "skip_connect")),), nodes=1, concat=(2,))


def mixed_channels(cell: Cell) -> tuple[int, ...]:
    """Which channels a pass mixed, where what is mixed becomes nothing."""
    s0, s1 = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    y = cell(s0, s1, torch.tensor([[1.0, 0.0]]))
    return tuple((y == 0).flatten(2).all(2).all(0).nonzero().flatten().tolist())


def test_every_choice_of_channels_is_as_likely() -> None:
    cell = Cell(NOTHING, 4, 4, 4, reduction=False, reduction_prev=False, partial=2, channel_sampling=True)
    seen = Counter(mixed_channels(cell) for _ in range(600))
    assert sorted(seen) == list(combinations(range(4), 2))
    assert chisquare(list(seen.values())).pvalue > 1e-3
    torch.manual_seed(SEED)
    assert {mixed_channels(cell.eval()) for _ in range(3)} == {(0, 1)}, "in evaluation the first ones"
    fixed = Cell(NOTHING, 4, 4, 4, reduction=False, reduction_prev=False, partial=2)
    assert {mixed_channels(fixed) for _ in range(3)} == {(0, 2)}, "without sampling they stay shuffled"


def test_each_cell_and_each_pass_draws_its_own_channels() -> None:
    orders = [channel_order(64, 4, 2, torch.device("cpu"), draw=True).states for _ in range(3)]
    assert all(order is not None and sorted(order.tolist()) == list(range(64)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 3
    net = Supernet(TINY, channels=8, partial=4, channel_sampling=True)
    x = torch.randn(2, 3, 8, 8)
    torch.manual_seed(SEED)
    first, second = net(x), net(x)
    torch.manual_seed(SEED)
    assert not torch.equal(first, second) and torch.equal(first, net(x)), "one state of the generator, one pass"


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_reordering_keeps_the_format_and_differentiates_twice(memory_format: torch.memory_format) -> None:
    order = torch.tensor([2, 0, 3, 1])
    x = oracle.images(2, 4, 3, 2).contiguous(memory_format=memory_format).requires_grad_()
    y = reordered(x, order)
    assert y.is_contiguous(memory_format=memory_format)
    assert all(torch.equal(y[:, i], x[:, source]) for i, source in enumerate(order.tolist()))
    assert torch.autograd.gradcheck(lambda x: reordered(x, order).sin(), x)
    assert torch.autograd.gradgradcheck(lambda x: reordered(x, order).sin(), x)


def test_nothing_to_sample_is_refused() -> None:
    for build in (
        lambda: Supernet(TINY, channels=2, layers=1, channel_sampling=True),
        lambda: Cell(NOTHING, 2, 2, 2, reduction=False, reduction_prev=False, channel_sampling=True),
    ):
        with pytest.raises(UserError, match=r"channel_sampling with partial 1.*; expected a partial of 2 or more"):
            build()
