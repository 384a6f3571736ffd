"""A cell as a program: every call of its forward and of its backward in order, with all that each reads and writes.

Pure data with one numbering throughout: states (inputs, then nodes), rows of `plan.norms` (they name the values y and
the statistics), places in `plan.parameters` and `plan.noises`, and mixing weights flat, [E * width] and a last one that
is 0. A node's own rows are its terms, then skip, max pool and average pool of each in-edge that is read from its
source. One that the edge does not have is there with weight 0 and the statistics of `len(plan.norms)`: mean 0, rstd 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from fastdarts.plan._cell import CellPlan
from fastdarts.plan._schedule import (
    Convolution,
    InEdge,
    NodeStage,
    Plain,
    Reduction,
    StencilCall,
    ValuesStage,
    chosen,
    kept_rows,
    schedule,
)

__all__ = ["Node", "NodeBackward", "Program", "program"]


@dataclass(frozen=True)
class Node:
    """The sum of a node.

    Args:
        stage: its state, its place in the output, terms and in-edges.
        norms: for each of its rows the statistics.
        weights: for each of its rows the mixing weight.
        values: the values y of its in-edges, which nothing reads after it.
    """

    stage: NodeStage
    norms: tuple[int, ...]
    weights: tuple[int, ...]
    values: tuple[int, ...]


@dataclass(frozen=True)
class NodeBackward:
    """The calls of a node's backward, in order.

    Args:
        node: the node.
        missing: the values that are computed again.
        second, first: the convolutions whose gradients are asked.
        second_rows: for each convolution of `second` the node's row.
        first_rows: for each convolution of `first` the node's row, or after these the source of `second`.
        inner: for each convolution of `first` the source of `second` that its gradient comes from; None: the node.
        reductions, reduction_rows: the factorised reductions whose gradients are asked, and their rows of the node.
        plain, plain_rows: the same of what torch's own kernels compute.
        inputs, input_rows: the in-edges whose source has its gradient asked, and three rows of the node for each.
    """

    node: Node
    missing: ValuesStage
    second: StencilCall
    first: StencilCall
    second_rows: tuple[int, ...]
    first_rows: tuple[int, ...]
    inner: tuple[int | None, ...]
    reductions: tuple[Reduction, ...]
    reduction_rows: tuple[int, ...]
    plain: tuple[Plain, ...]
    plain_rows: tuple[int, ...]
    inputs: tuple[InEdge, ...]
    input_rows: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """A plan in one memory mode.

    Args:
        plan: the plan.
        width: columns of the mixing weights.
        forward: the stages in order.
        backward: the nodes that get a gradient, the last one first.
        kept: the values y that are kept for backward, in order.
        hidden: the nodes that are not part of the output; they are kept too.
    """

    plan: CellPlan
    width: int
    forward: tuple[ValuesStage | Node, ...]
    backward: tuple[NodeBackward, ...]
    kept: tuple[int, ...]
    hidden: tuple[int, ...]


@lru_cache(maxsize=1024)
def program(text: str, memory: str, width: int, sources: tuple[bool, ...], parameters: bool) -> Program:
    """The program of a plan.

    Args:
        text: the plan, encoded.
        memory: `fast`, `balanced` or `lean`.
        width: columns of the mixing weights.
        sources: for each state that is handed in whether its gradient is asked.
        parameters: whether the parameters' gradients are asked.

    Raises:
        UserError: the text is no plan, or an unknown memory mode.
    """
    plan = CellPlan.decode(text)
    order = schedule(plan, memory)
    asked = [*sources, *[True] * len(plan.computed)]
    nodes = {stage.node: _node(plan, stage, width) for stage in order.forward if isinstance(stage, NodeStage)}
    return Program(
        plan,
        width,
        tuple(nodes[stage.node] if isinstance(stage, NodeStage) else stage for stage in order.forward),
        tuple(_backward(plan, nodes[stage.node], memory, asked, parameters) for stage in order.backward),
        kept_rows(plan, memory),
        tuple(node for node in plan.computed if node not in plan.concat),
    )


def _node(plan: CellPlan, stage: NodeStage, width: int) -> Node:
    nothing, no_weight = len(plan.norms), len(plan.edges) * width
    norms, weights = [], []
    for edge, column, norm in _rows(stage):
        norms.append(nothing if norm < 0 else norm)
        weights.append(no_weight if column < 0 else edge * width + column)
    values = [each.norm for each in (*stage.first.convolutions, *stage.second.convolutions)]
    values += [each.norm for each in stage.reductions] + [each.norm for each in stage.plain]
    return Node(stage, tuple(norms), tuple(weights), tuple(values))


def _backward(plan: CellPlan, node: Node, memory: str, asked: list[bool], parameters: bool) -> NodeBackward:
    def convolved(convolution: Convolution) -> bool:
        return parameters or asked[plan.edges[convolution.edge].source]

    stage = node.stage
    second, first = chosen(stage.second, convolved), chosen(stage.first, convolved)
    rows = {norm: k for k, (_, _, norm) in enumerate(_rows(stage)) if norm >= 0}
    halves = {row: k for k, row in enumerate(second.sources)}
    reductions = tuple(each for each in stage.reductions if parameters or asked[each.source])
    plain = tuple(each for each in stage.plain if (parameters and each.weights) or asked[each.source])
    inputs = tuple(edge for edge in stage.inputs if asked[edge.source])
    start = {each.edge: len(stage.terms) + 3 * e for e, each in enumerate(stage.inputs)}
    return NodeBackward(
        node,
        stage.missing(memory),
        second,
        first,
        tuple(rows[each.norm] for each in second.convolutions),
        tuple(
            len(node.norms) + halves[each.norm] if each.norm in halves else rows[each.norm]
            for each in first.convolutions
        ),
        tuple(halves.get(each.norm) for each in first.convolutions),
        reductions,
        tuple(rows[each.norm] for each in reductions),
        plain,
        tuple(rows[each.norm] for each in plain),
        inputs,
        tuple(row for each in inputs for row in range(start[each.edge], start[each.edge] + 3)),
    )


def _rows(stage: NodeStage) -> Iterable[tuple[int, int, int]]:
    """(edge, column, norm) of a node's rows; norm -1 where there is none, column too for what an edge has not."""
    for term in stage.terms:
        yield term.edge, term.column, term.norm
    for edge in stage.inputs:
        for column, norm in ((edge.skip, -1), (edge.max_pool, edge.max_norm), (edge.avg_pool, edge.avg_norm)):
            yield edge.edge, column, norm if column >= 0 else -1
