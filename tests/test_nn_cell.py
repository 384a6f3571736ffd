"""Mixed operations and cells against the oracle, on hostile shapes; what runs, and what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import nn_oracle as oracle
import pytest
import torch
from golden.recipe import peer_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fastdarts import current_backend, use_backend
from fastdarts.errors import UserError
from fastdarts.nn import Cell, MixedOp
from fastdarts.spaces import CellSpace, Edge, space

DARTS = space("darts").normal
ALL = DARTS.edges[0].primitives
# Three states into two nodes, edges of unequal width, one node that is not concatenated.
UNEVEN = CellSpace(
    (
        Edge(0, 2, ("skip_connect", "dil_conv_3x3")),
        Edge(1, 2, ("max_pool_3x3",)),
        Edge(0, 3, ("none", "sep_conv_3x3", "avg_pool_3x3")),
        Edge(2, 3, ("skip_connect",)),
    ),
    nodes=2,
    concat=(3,),
)


@pytest.fixture(autouse=True, params=["reference", "auto"])
def backend(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test in plain torch and, where the native core is there, on the fused engine."""
    with use_backend(request.param):
        yield


@contextmanager
def counted(module: nn.Module) -> Iterator[Counter[str]]:
    """How often each candidate of each mixed operation runs, by its name."""
    calls: Counter[str] = Counter()
    candidates = {
        f"{name}._ops.{k}": op
        for name, mixed in module.named_modules()
        if isinstance(mixed, MixedOp)
        for k, op in enumerate(mixed._ops)
    }
    hooks = [
        op.register_forward_hook(lambda *_, name=name: calls.update([name.removeprefix(".")]))
        for name, op in candidates.items()
    ]
    yield calls
    for hook in hooks:
        hook.remove()


def mixed_functions(op: MixedOp, primitives: tuple[str, ...]) -> tuple[Callable, Callable]:
    wrapped = nn.ModuleDict({"op": op})
    wrapped.forward = lambda x, weights: op(x, weights)

    def by_hand(named: oracle.Named) -> Tensor:
        return oracle.mixed(named["x"], named["weights"], op.stride, primitives, named, "op", op.partial)

    return oracle.called(wrapped, "x", "weights"), by_hand


def mixed_inputs(op: MixedOp, *shape: int, seed: int = 0) -> dict[str, Tensor]:
    weights = oracle.images(len(op._ops), 1, 1, 1, seed=seed + 2).flatten().softmax(0)
    named = {f"op.{name}": value for name, value in oracle.weights_of(op, seed).items()}
    return {"x": oracle.images(*shape, seed=seed), "weights": weights, **named}


@pytest.mark.parametrize("partial", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(2, 2, 5, 7), (1, 4, 3, 8), (3, 2, 1, 1), (2, 6, 2, 1)], ids=str)
def test_mixed_op_is_the_papers(shape: tuple[int, ...], stride: int, partial: int) -> None:
    op = MixedOp(shape[1], stride, ALL, partial=partial)
    oracle.assert_formula(*mixed_functions(op, ALL), mixed_inputs(op, *shape))


@pytest.mark.parametrize("partial", [1, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_mixed_op_rounds_as_plain_torch(stride: int, partial: int) -> None:
    op = MixedOp(8, stride, ALL, partial=partial)
    layer, by_hand = mixed_functions(op, ALL)
    fused = current_backend() != "reference"
    draws = (mixed_inputs(op, 4, 8, 9, 7, seed=seed) for seed in range(4 if fused else 1))
    oracle.assert_rounding(layer, by_hand, *draws, eager=oracle.in_plain_torch(layer) if fused else by_hand)


def test_mixed_op_of_one_channel() -> None:
    op = MixedOp(1, 2, ALL)
    oracle.assert_formula(*mixed_functions(op, ALL), mixed_inputs(op, 2, 1, 5, 3))


def cell_functions(cell: Cell, reduction_prev: bool) -> tuple[Callable, Callable]:
    def by_hand(named: oracle.Named) -> Tensor:
        return oracle.cell(
            cell.space,
            named["s0"],
            named["s1"],
            named["weights"],
            named["edge_weights"],
            named,
            "",
            reduction=cell.reduction,
            reduction_prev=reduction_prev,
            partial=cell._ops[0].partial,
        )

    return oracle.called(cell, "s0", "s1", "weights", "edge_weights"), by_hand


def cell_inputs(cell: Cell, older: tuple[int, int], newer: tuple[int, int], n: int = 2) -> dict[str, Tensor]:
    edges, width = len(cell.space.edges), cell.space.width
    return {
        "s0": oracle.images(n, cell.c_prev_prev, *older),
        "s1": oracle.images(n, cell.c_prev, *newer, seed=1),
        "weights": oracle.images(edges, width, 1, 1, seed=2).flatten(1).softmax(1),
        "edge_weights": oracle.images(edges, 1, 1, 1, seed=3).flatten(),
        **oracle.weights_of(cell),
    }


@pytest.mark.parametrize("reduction", [False, True], ids=["normal", "reduce"])
@pytest.mark.parametrize("partial", [1, 2])
def test_cell_is_the_papers(reduction: bool, partial: int) -> None:
    cell = Cell(DARTS, 3, 5, 2, reduction=reduction, reduction_prev=False, partial=partial)
    oracle.assert_formula(*cell_functions(cell, False), cell_inputs(cell, (5, 4), (5, 4)))


@settings(max_examples=20)
@given(
    n=st.integers(2, 3),
    channels=st.integers(1, 3),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    reduction=st.booleans(),
    reduction_prev=st.booleans(),
    partial=st.integers(1, 2),
)
def test_uneven_cell_of_any_shape(
    n: int, channels: int, size: tuple[int, int], reduction: bool, reduction_prev: bool, partial: int
) -> None:
    channels *= partial
    cell = Cell(UNEVEN, 3, 2, channels, reduction=reduction, reduction_prev=reduction_prev, partial=partial)
    newer = tuple(-(-side // 2) for side in size) if reduction_prev else size
    inputs = cell_inputs(cell, size, newer, n)
    oracle.assert_formula(*cell_functions(cell, reduction_prev), inputs)
    y = cell.double()(inputs["s0"], inputs["s1"], inputs["weights"])
    assert y.shape == (n, channels, *(-(-side // 2) if reduction else side for side in newer))


def test_cell_in_float32_rounds_as_plain_torch() -> None:
    cell = Cell(UNEVEN, 6, 4, 4, reduction=True, reduction_prev=True)
    layer, by_hand = cell_functions(cell, True)
    oracle.assert_rounding(layer, by_hand, cell_inputs(cell, (15, 18), (8, 9), 4), eager=by_hand)


def test_rows_of_unequal_length_equal_a_padded_matrix() -> None:
    cell = Cell(UNEVEN, 2, 2, 2, reduction=False, reduction_prev=False)
    x, matrix = torch.randn(2, 2, 5, 5), torch.rand(4, 3)
    matrix[0, 2], matrix[1, 1:], matrix[3, 1:] = torch.nan, torch.inf, torch.nan
    rows = [row[:count] for row, count in zip(matrix, UNEVEN.counts, strict=True)]
    assert torch.equal(cell(x, x, matrix), cell(x, x, rows)) and cell(x, x, rows).isfinite().all()


@pytest.mark.parametrize("partial", [1, 2])
def test_active_runs_only_the_chosen(partial: int) -> None:
    cell = Cell(DARTS, 4, 4, 4, reduction=True, reduction_prev=False, partial=partial)
    x = torch.randn(2, 4, 6, 6)
    active = [(4,), (3,), (1,), (), (5, 2), (), (7,), (6,), (), (0,), (), (), (), (4,)]
    weights = torch.zeros(14, 8)
    for edge, chosen in enumerate(active):
        weights[edge, list(chosen)] = 1.0 if len(chosen) == 1 else 0.5
    present = torch.tensor([1.0 if chosen else 0.0 for chosen in active])
    full = cell(x, x, weights, present)
    with counted(cell) as calls:
        found = cell(x, x, weights, present, active)
    torch.testing.assert_close(found, full)
    with use_backend("reference"):
        assert torch.equal(found, cell(x, x, weights, present))
    assert calls == {f"_ops.{edge}._ops.{k}": 1 for edge, chosen in enumerate(active) for k in chosen}


def test_what_is_not_active_gets_no_gradient_and_keeps_its_statistics() -> None:
    op = MixedOp(3, 1, ALL)
    weights = torch.rand(8, requires_grad=True)
    op(torch.randn(2, 3, 4, 4), weights, (4, 1)).square().sum().backward()
    assert weights.grad.nonzero().flatten().tolist() == [1, 4]
    assert {name[:6] for name, gradient in peer_gradients(op).items() if gradient.any()} == {"_ops.4"}
    tracked = {name[:6] for name, value in op.state_dict().items() if name.endswith("tracked") and value}
    assert tracked == {"_ops.1", "_ops.4"}


def test_node_without_active_edges_is_zero() -> None:
    cell = Cell(UNEVEN, 2, 2, 2, reduction=True, reduction_prev=False)
    x = torch.randn(2, 2, 5, 3)
    y = cell(x, x, torch.ones(4, 3), None, [(), (), (), ()])
    assert y.shape == (2, 2, 3, 2) and not y.any()


MIXED = {
    "channels": (lambda op: op(torch.ones(2, 3, 4, 4), torch.ones(8)), "shape [2, 3, 4, 4]; expected [N, 4, H, W]"),
    "ndim": (lambda op: op(torch.ones(4, 4, 4), torch.ones(8)), "shape [4, 4, 4]; expected [N, 4, H, W]"),
    "empty batch": (lambda op: op(torch.ones(0, 4, 4, 4), torch.ones(8)), "the input is empty, shape [0, 4, 4, 4]"),
    "empty map": (lambda op: op(torch.ones(2, 4, 0, 4), torch.ones(8)), "the input is empty"),
    "weights": (lambda op: op(torch.ones(2, 4, 4, 4), torch.ones(7)), "weights has shape [7]; expected [8]"),
    "matrix": (lambda op: op(torch.ones(2, 4, 4, 4), torch.ones(1, 8)), "weights has shape [1, 8]; expected [8]"),
    "nothing active": (lambda op: op(torch.ones(2, 4, 4, 4), torch.ones(8), ()), "active is ()"),
    "far active": (lambda op: op(torch.ones(2, 4, 4, 4), torch.ones(8), (8,)), "distinct indices from 0 to 7"),
    "active twice": (lambda op: op(torch.ones(2, 4, 4, 4), torch.ones(8), (1, 1)), "active is (1, 1)"),
    "single value": (lambda op: op(torch.ones(1, 4, 2, 2), torch.ones(8)), "use a larger batch or image, or eval()"),
}


@pytest.mark.parametrize("name", MIXED)
def test_mixed_op_refuses(name: str) -> None:
    call, message = MIXED[name]
    with pytest.raises(UserError) as caught:
        call(MixedOp(4, 2, ALL))
    assert message in str(caught.value) and str(caught.value).startswith("MixedOp: ")


def test_wrong_types_are_type_errors() -> None:
    op, cell = MixedOp(4, 1, ALL), Cell(UNEVEN, 4, 4, 4, reduction=False, reduction_prev=False)
    x = torch.ones(2, 4, 4, 4)
    with pytest.raises(TypeError, match="the input is a list"):
        op([[1.0]], torch.ones(8))
    with pytest.raises(TypeError, match=r"the input is torch\.int64; expected a floating dtype"):
        op(x.long(), torch.ones(8))
    with pytest.raises(TypeError, match="weights is a list"):
        op(x, [1.0] * 8)
    with pytest.raises(TypeError, match="mixing weights of edge 0 are a float"):
        cell(x, x, [0.5] * 4)


CELL = {
    "older": (lambda c, x, w: c(x[:, :1], x, w), "shape [2, 1, 5, 5]; expected [N, 2, H, W]"),
    "edges": (lambda c, x, w: c(x, x, w[:3]), "mixing weights for 3 edges; expected 4 edges"),
    "short": (lambda c, x, w: c(x, x, w[:, :2]), "mixing weights of edge 2 have shape [2]; expected [3]"),
    "edge weights": (lambda c, x, w: c(x, x, w, w[:3, 0]), "edge_weights has shape [3]; expected [4]"),
    "active": (lambda c, x, w: c(x, x, w, None, [(0,)]), "active has 1 entries; expected one for each of the 4 edges"),
    "sizes": (lambda c, x, w: c(x[..., :4], x, w), "inputs of [2, 2, 5, 4] and [2, 2, 5, 5] do not meet"),
}


@pytest.mark.parametrize("name", CELL)
def test_cell_refuses(name: str) -> None:
    call, message = CELL[name]
    with pytest.raises(UserError) as caught:
        call(Cell(UNEVEN, 2, 2, 2, reduction=False, reduction_prev=False), torch.ones(2, 2, 5, 5), torch.ones(4, 3))
    assert message in str(caught.value)


def test_impossible_mixed_ops() -> None:
    with pytest.raises(UserError, match=r"partial is 4 and does not divide 6 channels.*use 8 channels"):
        MixedOp(6, 1, ALL, partial=4)
    with pytest.raises(UserError, match="without primitives"):
        MixedOp(4, 1, ())
    with pytest.raises(UserError, match="unknown_op"):
        MixedOp(4, 1, ("none", "unknown_op"))
    with pytest.raises(UserError, match="c_prev is 0"):
        Cell(UNEVEN, 4, 0, 4, reduction=False, reduction_prev=False)
