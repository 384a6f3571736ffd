"""Plans as data: from a space, to text and back, and what they refuse."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_interpreter import parameters_of

from fastdarts.errors import UserError
from fastdarts.nn import Cell, MixedOp
from fastdarts.plan import Candidate, CellPlan, EdgePlan, cell_plan, mixed_op_plan, unsupported
from fastdarts.spaces import define_space, space, space_names

DARTS = space("darts").normal


def plan_of(name: str, channels: int = 8, **options: object) -> CellPlan:
    found = cell_plan(space(name).normal, channels, **options)
    assert found is not None
    return found


def hand_made(**changes: object) -> CellPlan:
    """One input, two nodes, two edges of one pair of states."""
    edges = (
        EdgePlan(0, 1, 1, (Candidate("sep", 0, 3),)),
        EdgePlan(0, 2, 1, (Candidate("dil", 1, 5, 2),)),
        EdgePlan(1, 2, 1, (Candidate("skip", 0),)),
        EdgePlan(1, 2, 1, (Candidate("avg_pool", 2, 3),)),
    )
    values = {"inputs": 1, "nodes": 2, "concat": (2, 1), "channels": 4, "partial": 2, "edges": edges}
    return CellPlan(**(values | changes))


def test_a_darts_edge() -> None:
    edge = plan_of("darts").edges[0]
    assert [(each.kind, each.column, each.kernel, each.dilation) for each in edge.candidates] == [
        ("none", 0, 1, 1),
        ("max_pool", 1, 3, 1),
        ("avg_pool", 2, 3, 1),
        ("skip", 3, 1, 1),
        ("sep", 4, 3, 1),
        ("sep", 5, 5, 1),
        ("dil", 6, 3, 2),
        ("dil", 7, 5, 2),
    ]
    halved = plan_of("darts", reduction=True)
    assert [edge.stride for edge in halved.edges[:5]] == [2, 2, 2, 2, 1]
    assert halved.edges[0].candidates[3] == Candidate("reduce", 3)
    assert halved.edges[4].candidates[3] == Candidate("skip", 3)


def test_orders_of_parameters_and_norms() -> None:
    """Written out for one edge of each stride; the layers' own modules hold the names and shapes."""
    for stride, reduced in ((1, []), (2, [("conv_1.weight", (2, 3, 1, 1)), ("conv_2.weight", (1, 3, 1, 1))])):
        names = ("skip_connect", "dil_conv_5x5", "max_pool_3x3", "sep_conv_3x3", "noise", "none", "avg_pool_3x3")
        plan = mixed_op_plan(names, 3, stride)
        sep = [("op.1.weight", (3, 1, 3, 3)), ("op.2.weight", (3, 3, 1, 1))]
        sep += [("op.5.weight", (3, 1, 3, 3)), ("op.6.weight", (3, 3, 1, 1))]
        dil = [("op.1.weight", (3, 1, 5, 5)), ("op.2.weight", (3, 3, 1, 1))]
        assert [(each.name, each.shape) for each in plan.parameters] == reduced + dil + sep
        norms = [(1, "op.3"), (2, "1"), (3, "op.3"), (3, "op.7"), (6, "1")]
        assert [(each.position, each.name) for each in plan.norms] == [(0, "bn")] * (stride == 2) + norms
        assert plan.noises == ((0, 4),)
        op = MixedOp(3, stride, names)
        assert len(parameters_of(op, plan)) == len(plan.parameters)
        for norm in plan.norms:
            assert op._ops[norm.position].get_submodule(norm.name).num_features == plan.mixed
    assert [each.name for each in mixed_op_plan(["skip_connect"], 1, 2).parameters] == ["conv_1.weight"]


@pytest.mark.parametrize("name", space_names())
@pytest.mark.parametrize("reduction", [False, True])
def test_every_preset_has_a_plan_of_all_its_parameters(name: str, reduction: bool) -> None:
    assert unsupported(space(name)) == ""
    cell_space = space(name).reduce if reduction else space(name).normal
    plan = cell_plan(cell_space, 8, partial=2, reduction=reduction)
    cell = Cell(cell_space, 8, 8, 8, reduction=reduction, reduction_prev=False, partial=2)
    planned = sum(weight.numel() for weight in parameters_of(cell, plan))
    whole = sum(p.numel() for name, p in cell.named_parameters() if not name.startswith("preprocess"))
    assert planned == whole
    statistics = {name for name, _ in cell.named_buffers() if name.endswith("running_mean")}
    assert plan.norms and statistics
    assert CellPlan.decode(plan.encode()) == plan
    assert CellPlan.decode(plan.encode()) is CellPlan.decode(plan.encode())


@given(
    active=st.lists(
        st.sets(st.integers(0, 7), max_size=8).map(sorted), min_size=len(DARTS.edges), max_size=len(DARTS.edges)
    ),
    reduction=st.booleans(),
)
def test_only_what_is_active_is_in_the_plan(active: list[list[int]], reduction: bool) -> None:
    whole = cell_plan(DARTS, 4, reduction=reduction)
    plan = cell_plan(DARTS, 4, reduction=reduction, active=active)
    for kept, edge, columns in zip(plan.edges, whole.edges, active, strict=True):
        assert kept.candidates == tuple(edge.candidates[column] for column in columns)
    for node in range(2, 6):
        assert plan.into(node) == tuple(e for e in whole.into(node) if active[e])
    assert plan.stride == 1 + reduction
    assert CellPlan.decode(plan.encode()) == plan


def test_the_order_of_active_columns_says_nothing() -> None:
    one = mixed_op_plan(["none", "skip_connect", "sep_conv_7x7"], 4, 1, active=(2, 0))
    assert one == mixed_op_plan(["none", "skip_connect", "sep_conv_7x7"], 4, 1, active=(0, 2))
    assert one.width == 3


def test_pairs_of_dense_convolutions_have_no_plan() -> None:
    own = define_space("own", ["skip_connect", "conv_7x1_1x7", "nor_conv_3x3"], nodes=1)
    assert unsupported(own) == unsupported(own.normal) == "no fused kernel for conv_7x1_1x7"
    assert unsupported(["skip_connect"]) == ""
    assert cell_plan(own.normal, 4) is None
    assert cell_plan(own.normal, 4, active=((0,), (0,))) is not None
    assert mixed_op_plan(["conv_3x1_1x3"], 4, 1) is None


def test_a_hand_made_plan() -> None:
    plan = hand_made()
    assert plan.mixed == 2
    assert plan.into(2) == (1, 2, 3)
    assert CellPlan.decode(plan.encode()) == plan
    assert hand_made(edges=()).width == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Candidate("conv", 0), "kind 'conv'"),
        (lambda: Candidate("sep", 0, 4), "kernel of 4"),
        (lambda: Candidate("max_pool", 0, 5), "window of 5"),
        (lambda: Candidate("skip", -1), "column of a Candidate is -1"),
        (lambda: Candidate("skip", True), "column of a Candidate is True"),
        (lambda: EdgePlan(1, 1, 1, ()), "does not run forwards"),
        (lambda: EdgePlan(0, 1, 3, ()), "stride 3"),
        (lambda: EdgePlan(0, 1, 1, (Candidate("skip", 1), Candidate("none", 0))), "columns [1, 0]"),
        (lambda: EdgePlan(0, 1, 2, (Candidate("skip", 0),)), "has a skip"),
        (lambda: EdgePlan(0, 1, 1, (Candidate("reduce", 0),)), "has a reduce"),
        (lambda: EdgePlan(0, 1, 1, (Candidate("skip", 0), Candidate("skip", 1))), "two candidates of kind skip"),
        (lambda: hand_made(partial=3), "4 channels with partial 3"),
        (lambda: hand_made(concat=(1, 1)), "concat [1, 1]"),
        (lambda: hand_made(concat=(0,)), "concat [0]"),
        (lambda: hand_made(concat=()), "concat []"),
        (lambda: hand_made(nodes=1, concat=(1,)), "feeds no node"),
        (lambda: hand_made(edges=hand_made().edges[::-1]), "out of order"),
        (lambda: hand_made(edges=(EdgePlan(0, 1, 1, ()), EdgePlan(1, 2, 2, ()))), "has stride 2"),
        (lambda: hand_made(channels=0), "channels of a CellPlan is 0"),
        (lambda: plan_of("darts", active=[()]), "active has 1 entries"),
        (lambda: plan_of("darts", active=[(8,)] * 14), "active columns [8]"),
        (lambda: mixed_op_plan(["skip_connect"], 4, 1, active=(0, 0)), "active columns [0, 0]"),
    ],
)
def test_what_is_no_plan_is_refused(make: object, message: str) -> None:
    with pytest.raises(UserError) as error:
        make()
    assert message in str(error.value)


def test_damaged_texts_are_refused() -> None:
    """Every single change of structure; none may be read as another plan."""
    text = hand_made().encode()
    data = json.loads(text)

    def changed(**values: object) -> str:
        return json.dumps(data | values)

    damaged = ["", "{", "[]", "null", text[:-1], text.replace("plan/1", "plan/2")]
    damaged += [json.dumps({k: v for k, v in data.items() if k != name}) for name in data]
    damaged += [changed(more=1), changed(edges=3), changed(edges=[[0, 1]]), changed(edges=[[0, 1, 1.0, []]])]
    damaged += [changed(concat=[1.0]), changed(concat=[[1]]), changed(concat=1), changed(concat=[True])]
    damaged += [changed(edges=[[0, 1, 1, [["sep", "0", 3, 1]]]]), changed(inputs="1"), changed(partial=2.0)]
    for each in damaged:
        with pytest.raises(UserError):
            CellPlan.decode(each)


def test_the_structures_need_no_torch() -> None:
    script = "import sys, fastdarts.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
