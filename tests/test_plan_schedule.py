"""The schedule: run stage by stage it is the cell, and every stage has what it needs when it comes."""

from __future__ import annotations

import pytest
import torch
from plan_interpreter import Interpreter, parameters_of
from test_plan import hand_made, plan_of
from tolerance import error
from torch import Tensor

from fastdarts.errors import UserError
from fastdarts.nn import Cell, MixedOp
from fastdarts.plan import (
    MEMORY,
    Candidate,
    CellPlan,
    EdgePlan,
    NodeStage,
    ValuesStage,
    cell_plan,
    kept_rows,
    mixed_op_plan,
    schedule,
)
from fastdarts.spaces import define_space, space

MIXED = define_space(
    "unequal",
    {
        (0, 2): ("skip_connect", "max_pool_3x3"),
        (1, 2): ("none", "sep_conv_7x7", "avg_pool_3x3"),
        (0, 3): ("noise", "dil_conv_3x3"),
        (2, 3): ("none", "skip_connect"),
        (0, 4): ("none", "noise"),
        (3, 4): ("sep_conv_5x5", "dil_conv_5x5"),
    },
    concat=(4, 2),
)
SPACES = {"darts": space("darts"), "s4": space("s4"), "amended": space("amended-s2-full"), "unequal": MIXED}


def close(got: Tensor, want: Tensor) -> None:
    assert got.shape == want.shape
    assert error(got, want) <= 64 * torch.finfo(torch.float64).eps * float(want.abs().max())


def interpreted(cell: Cell, plan: CellPlan, weights: Tensor, s0: Tensor, s1: Tensor) -> Interpreter:
    states = [cell.preprocess0(s0), cell.preprocess1(s1)]
    return Interpreter(plan, states, weights, parameters_of(cell, plan))


def drawn(plan: CellPlan, n: int, height: int, width: int) -> list[Tensor]:
    """The noises, as the reference draws them."""
    found = []
    for edge, _ in plan.noises:
        stride = plan.edges[edge].stride if plan.edges[edge].source < plan.inputs else plan.stride
        found.append(torch.empty(n, plan.mixed, -(-height // stride), -(-width // stride), dtype=torch.float64))
    return [each.normal_() for each in found]


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("partial", [1, 2])
@pytest.mark.parametrize("reduction", [False, True])
@pytest.mark.parametrize("name", SPACES)
def test_run_stage_by_stage_it_is_the_cell(name: str, reduction: bool, partial: int, memory: str) -> None:
    cell_space = SPACES[name].reduce if reduction else SPACES[name].normal
    cell = Cell(cell_space, 3, 5, 4, reduction=reduction, reduction_prev=False, partial=partial).double()
    plan = cell_plan(cell_space, 4, partial=partial, reduction=reduction)
    s0, s1 = torch.randn(2, 3, 5, 6, dtype=torch.float64), torch.randn(2, 5, 5, 6, dtype=torch.float64)
    weights = torch.rand(len(cell_space.edges), cell_space.width, dtype=torch.float64)
    factors = torch.rand(len(cell_space.edges), dtype=torch.float64) if partial > 1 else None
    with torch.no_grad():
        torch.manual_seed(1)
        want = cell(s0, s1, weights, factors)
        run = interpreted(cell, plan, weights, s0, s1)
        torch.manual_seed(1)
        close(run.forward(memory, drawn(plan, 2, 5, 6), factors), want)
    assert sorted(run.statistics) == list(range(len(plan.norms))), "every norm has its statistics once"
    assert sorted(run.made) == list(kept_rows(plan, "fast")), "every value once"


@pytest.mark.parametrize("memory", MEMORY)
def test_paths_with_absent_edges_and_empty_nodes(memory: str) -> None:
    cell = Cell(space("darts").normal, 4, 4, 4, reduction=True, reduction_prev=False, partial=2).double()
    active = [()] * 14
    active[0], active[3], active[9], active[12] = (4,), (3, 1), (0,), (7,)
    plan = cell_plan(space("darts").normal, 4, partial=2, reduction=True, active=active)
    weights, s = torch.rand(14, 8, dtype=torch.float64), torch.randn(2, 2, 4, 5, 5, dtype=torch.float64)
    with torch.no_grad():
        want = cell(s[0], s[1], weights, active=active)
        close(interpreted(cell, plan, weights, s[0], s[1]).forward(memory, []), want)
    node = next(stage for stage in schedule(plan).forward if isinstance(stage, NodeStage) and stage.node == 4)
    assert node.terms == node.inputs == ()


@pytest.mark.parametrize("stride", [1, 2])
def test_a_mixed_operation_alone(stride: int) -> None:
    primitives = space("darts").normal.edges[0].primitives
    op = MixedOp(4, stride, primitives, partial=2).double()
    plan = mixed_op_plan(primitives, 4, stride, partial=2)
    x, weights = torch.randn(2, 4, 5, 4, dtype=torch.float64), torch.rand(8, dtype=torch.float64)
    with torch.no_grad():
        run = Interpreter(plan, [x], weights[None], parameters_of(op, plan))
        close(run.forward("fast", []), op(x, weights))


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("reduction", [False, True])
def test_backward_can_compute_again_what_is_not_kept(memory: str, reduction: bool) -> None:
    """Node by node, from the states, the statistics and the kept values alone, bit for bit."""
    plan = plan_of("darts", 2, reduction=reduction)
    parameters = [torch.randn(each.shape, dtype=torch.float64) for each in plan.parameters]
    inputs = [torch.randn(2, 2, 4, 4, dtype=torch.float64) for _ in range(2)]
    run = Interpreter(plan, inputs, torch.rand(14, 8, dtype=torch.float64), parameters)
    run.forward(memory, [])
    whole, kept = dict(run.values), set(kept_rows(plan, memory))
    for node in schedule(plan, memory).backward:
        run.values = {row: whole[row] for row in kept}
        run.compute(node.missing(memory))
        needed = {term.norm for term in node.terms} | set(node.second.sources)
        assert needed <= set(run.values), f"node {node.node} lacks {needed - set(run.values)}"
        assert set(run.values) - kept <= needed, f"node {node.node} computes more than it needs"
        assert all(torch.equal(run.values[row], whole[row]) for row in needed)


def test_one_call_a_source_or_a_node() -> None:
    plan = plan_of("darts")
    by_source = [type(stage).__name__[0] for stage in schedule(plan, "fast").forward]
    assert "".join(by_source) == "VVNVNVNVN"
    first = schedule(plan, "fast").forward[0]
    assert isinstance(first, ValuesStage)
    assert [each.edge for each in first.first.convolutions] == [e for e in (0, 2, 5, 9) for _ in range(4)]
    assert len(first.second.convolutions) == 8
    assert first.pools[0].max_norms and len(first.pools) == 1
    for memory in ("balanced", "lean"):
        stages = [s for s in schedule(plan, memory).forward if isinstance(s, ValuesStage) and s.first.convolutions]
        assert [sorted({c.edge for c in stage.first.convolutions}) for stage in stages] == [
            list(plan.into(node)) for node in range(2, 6)
        ]


def test_pools_are_measured_once_a_stride() -> None:
    """In a reduction a state's out-edges have one stride; the statistics go to every edge's own norm."""
    plan = plan_of("darts", reduction=True)
    pools = [pool for stage in schedule(plan).forward if isinstance(stage, ValuesStage) for pool in stage.pools]
    assert [(pool.source, pool.stride) for pool in pools] == [(0, 2), (1, 2), (2, 1), (3, 1), (4, 1)]
    assert [len(pool.max_norms) for pool in pools] == [len(pool.avg_norms) for pool in pools] == [4, 4, 3, 2, 1]


def test_backward_visits_what_the_output_depends_on() -> None:
    """Node 2 feeds only node 3, which is not part of the output."""
    edges = (
        EdgePlan(0, 1, 1, (Candidate("sep", 0, 3),)),
        EdgePlan(0, 2, 1, (Candidate("skip", 0),)),
        EdgePlan(2, 3, 1, (Candidate("skip", 0),)),
        EdgePlan(1, 4, 1, (Candidate("skip", 0),)),
    )
    plan = CellPlan(1, 4, (4,), 2, 1, edges)
    assert [stage.node for stage in schedule(plan).backward] == [4, 1]
    nodes = [stage for stage in schedule(plan).forward if isinstance(stage, NodeStage)]
    assert [stage.node for stage in nodes] == [1, 2, 3, 4], "forward makes them all, for their running statistics"
    assert [stage.slot for stage in nodes] == [-1, -1, -1, 0]
    assert [stage.slot for stage in schedule(hand_made()).backward] == [0, 1]


def test_two_edges_of_one_pair_of_states() -> None:
    plan = hand_made()
    node = schedule(plan).backward[0]
    assert [(edge.edge, edge.source, edge.skip, edge.avg_pool) for edge in node.inputs] == [
        (1, 0, -1, -1),
        (2, 1, 0, -1),
        (3, 1, -1, 2),
    ]
    assert node.inputs[2].avg_norm == len(plan.norms) - 1


def test_unknown_modes_are_refused() -> None:
    plan = hand_made()
    for refused in (
        lambda: schedule(plan, "slow"),
        lambda: kept_rows(plan, "slow"),
        lambda: schedule(plan).backward[0].missing("slow"),
    ):
        with pytest.raises(UserError, match="one of fast, balanced, lean"):
            refused()
