"""A cell's schedule with its index tensors: where each call finds its statistics, mixing weights and coefficients.

Statistics are rows [1 + norms, C'] in the order in which forward measures them; the first one stands for what has no
batch norm, mean 0 and rstd 1. Mixing weights are [E * width + 1], the last one 0. A node's rows are its terms, then
skip, max pool and average pool of each in-edge that has one of these; what an edge has not is there with a weight of 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from fastdarts.ops.mixed_sum import Edge
from fastdarts.ops.stencil import Conv
from fastdarts.plan import (
    CellPlan,
    Convolution,
    InEdge,
    NodeStage,
    PoolMoments,
    Reduction,
    StencilCall,
    ValuesStage,
    kept_rows,
    schedule,
)

__all__ = ["Call", "Gradients", "Inputs", "Layout", "Node", "Pools", "Values", "layout"]


@dataclass(frozen=True)
class Call:
    """One call of the stencil kernels.

    Args:
        sources: states, or for second halves the norms' rows of the values that they read.
        convs: as the launcher takes them.
        depthwise, pointwise: places in the plan's parameters, one a convolution.
        rows: the norms' rows of the values, one a convolution.
        normalised: [S], for second halves the statistics of their sources.
    """

    sources: tuple[int, ...]
    convs: list[Conv]
    depthwise: tuple[int, ...]
    pointwise: tuple[int, ...]
    rows: tuple[int, ...]
    normalised: Tensor


class Pools(NamedTuple):
    """Moments of one state's pools at one stride, as the launcher takes them.

    Args:
        rows: for each batch norm that has them 0 for the max pool, 1 for the average pool.
    """

    source: int
    stride: int
    max_pool: bool
    avg_pool: bool
    rows: Tensor


@dataclass(frozen=True)
class Values:
    """Values y and their moments, from states that are final, in this order."""

    first: Call | None
    reductions: tuple[Reduction, ...]
    pools: tuple[Pools, ...]
    second: Call | None


@dataclass(frozen=True)
class Inputs:
    """The in-edges of a node with something from the source itself.

    Args:
        sources: their states.
        edges: as the launchers take them.
        rows: [E * 3], the node's rows that are skip, max pool and average pool.
        numbers: [E], the edges' numbers.
    """

    sources: tuple[int, ...]
    edges: list[Edge]
    rows: Tensor
    numbers: Tensor


@dataclass(frozen=True)
class Gradients:
    """What the backward of a node calls.

    Args:
        missing: the values that are computed again.
        second, first: the calls whose gradients are asked.
        second_rows: [S], rows of the node that are the second halves.
        first_rows: [F], rows of the node, then the second halves' sources, that are the coefficients of `first`.
        inner: for each convolution of `first` the second half that its gradient comes from, -1 for the node.
        reductions, reduction_rows: the factorised reductions whose gradients are asked, and their rows of the node.
        inputs: the in-edges whose source has its gradient asked.
    """

    missing: Values
    second: Call | None
    first: Call | None
    second_rows: Tensor
    first_rows: Tensor
    inner: tuple[int, ...]
    reductions: tuple[Reduction, ...]
    reduction_rows: tuple[int, ...]
    inputs: Inputs


@dataclass(frozen=True)
class Node:
    """One node.

    Args:
        node: its state.
        slot: its place in the output, -1 where it is not part of it.
        terms: for each stored value (norm's row, -1) or (-1, place among the noise maps).
        norms: [rows], the statistics of the node's rows.
        weights: [rows], the mixing weights of the node's rows.
        inputs: its in-edges with something from the source itself.
        values: the norms' rows of all values of the in-edges.
        gradients: its backward.
    """

    node: int
    slot: int
    terms: tuple[tuple[int, int], ...]
    norms: Tensor
    weights: Tensor
    inputs: Inputs
    values: tuple[int, ...]
    gradients: Gradients


@dataclass(frozen=True)
class Layout:
    """A plan in one memory mode.

    Args:
        plan: the plan.
        forward: the stages in order.
        backward: the nodes that get a gradient, the last one first.
        norms: [1 + norms], the norm of each row of statistics in the plan's order, `len(plan.norms)` for none.
        measured: [norms], the row of statistics of each norm in the plan's order.
        kept: the norms' rows of the values that are kept for backward, in order.
        hidden: the nodes that are not part of the output; they are kept too.
    """

    plan: CellPlan
    forward: tuple[Values | Node, ...]
    backward: tuple[Node, ...]
    norms: Tensor
    measured: Tensor
    kept: dict[int, None]
    hidden: tuple[int, ...]


@lru_cache(maxsize=1024)
def layout(text: str, memory: str, width: int, device: str, sources: tuple[bool, ...], parameters: bool) -> Layout:
    """The layout of a plan.

    Args:
        text: the plan, encoded.
        memory: `fast`, `balanced` or `lean`.
        width: columns of the mixing weights.
        device: where the index tensors lie.
        sources: for each state that is handed in whether its gradient is asked.
        parameters: whether the parameters' gradients are asked.
    """
    # A tensor made in inference mode could not be used in a later training step.
    with torch.inference_mode(False):
        return _Builder(CellPlan.decode(text), memory, width, device, sources, parameters).layout()


class _Builder:
    def __init__(
        self, plan: CellPlan, memory: str, width: int, device: str, sources: tuple[bool, ...], parameters: bool
    ) -> None:
        self.plan, self.memory, self.width, self.device = plan, memory, width, device
        self.parameters = parameters
        self.asked = [*sources, *[True] * len(plan.computed)]
        self.order = schedule(plan, memory)
        # The norms in the order in which forward measures them; -1 for what has none.
        self.norms = [-1]
        for stage in self.order.forward:
            if isinstance(stage, ValuesStage):
                self.norms += [each.norm for each in stage.first.convolutions]
                self.norms += [each.norm for each in stage.reductions]
                self.norms += [norm for pools in stage.pools for norm in pools.max_norms + pools.avg_norms]
                self.norms += [each.norm for each in stage.second.convolutions]
        self.statistics = {norm: row for row, norm in enumerate(self.norms)}

    def layout(self) -> Layout:
        order, nothing = self.order, len(self.plan.norms)
        stages = {stage.node: self._node(stage) for stage in order.forward if isinstance(stage, NodeStage)}
        forward = tuple(
            self._values(stage) if isinstance(stage, ValuesStage) else stages[stage.node] for stage in order.forward
        )
        hidden = tuple(node for node in self.plan.computed if node not in self.plan.concat)
        backward = tuple(stages[stage.node] for stage in order.backward)
        norms = self._index(nothing if norm < 0 else norm for norm in self.norms)
        measured = self._index(self.statistics[norm] for norm in range(nothing))
        kept = dict.fromkeys(kept_rows(self.plan, self.memory))
        return Layout(self.plan, forward, backward, norms, measured, kept, hidden)

    def _index(self, numbers: Iterable[int]) -> Tensor:
        return torch.tensor(list(numbers), dtype=torch.int64, device=self.device)

    def _call(self, call: StencilCall, *, normalised: bool = False) -> Call | None:
        if not call.convolutions:
            return None
        convs = [Conv(each.source, each.kernel, each.dilation, each.stride) for each in call.convolutions]
        rows = tuple(each.norm for each in call.convolutions)
        return Call(
            call.sources,
            convs,
            tuple(each.depthwise for each in call.convolutions),
            tuple(each.pointwise for each in call.convolutions),
            rows,
            self._index(self.statistics[row] for row in call.sources if normalised),
        )

    def _values(self, stage: ValuesStage) -> Values:
        pools = tuple(map(self._pools, stage.pools))
        return Values(self._call(stage.first), stage.reductions, pools, self._call(stage.second, normalised=True))

    def _pools(self, pools: PoolMoments) -> Pools:
        rows = [0] * len(pools.max_norms) + [1] * len(pools.avg_norms)
        return Pools(pools.source, pools.stride, bool(pools.max_norms), bool(pools.avg_norms), self._index(rows))

    def _node(self, stage: NodeStage) -> Node:
        rows = _rows(stage)
        norms = [self.statistics[norm] for _, _, norm in rows]
        nothing = len(self.plan.edges) * self.width
        weights = [edge * self.width + column if column >= 0 else nothing for edge, column, _ in rows]
        values = [each.norm for each in (*stage.first.convolutions, *stage.second.convolutions)]
        values += [each.norm for each in stage.reductions]
        return Node(
            stage.node,
            stage.slot,
            tuple((term.norm, term.noise) for term in stage.terms),
            self._index(norms),
            self._index(weights),
            self._inputs(stage, stage.inputs),
            tuple(values),
            self._gradients(stage),
        )

    def _inputs(self, stage: NodeStage, edges: tuple[InEdge, ...]) -> Inputs:
        start = {each.edge: len(stage.terms) + 3 * e for e, each in enumerate(stage.inputs)}
        return Inputs(
            tuple(each.source for each in edges),
            [Edge(each.stride, each.skip >= 0, each.max_pool >= 0, each.avg_pool >= 0) for each in edges],
            self._index(row for each in edges for row in range(start[each.edge], start[each.edge] + 3)),
            self._index(each.edge for each in edges),
        )

    def _gradients(self, stage: NodeStage) -> Gradients:
        second = _only(stage.second, self._convolution_asked)
        first = _only(stage.first, self._convolution_asked)
        rows = {norm: k for k, (_, _, norm) in enumerate(_rows(stage)) if norm >= 0}
        after = len(_rows(stage))
        halves = {row: k for k, row in enumerate(second.sources)}
        reductions = tuple(each for each in stage.reductions if self.parameters or self.asked[each.source])
        return Gradients(
            self._values(stage.missing(self.memory)),
            self._call(second, normalised=True),
            self._call(first),
            self._index(rows[each.norm] for each in second.convolutions),
            self._index(
                after + halves[each.norm] if each.norm in halves else rows[each.norm] for each in first.convolutions
            ),
            tuple(halves.get(each.norm, -1) for each in first.convolutions),
            reductions,
            tuple(rows[each.norm] for each in reductions),
            self._inputs(stage, tuple(edge for edge in stage.inputs if self.asked[edge.source])),
        )

    def _convolution_asked(self, convolution: Convolution) -> bool:
        return self.parameters or self.asked[self.plan.edges[convolution.edge].source]


def _rows(stage: NodeStage) -> list[tuple[int, int, int]]:
    """(edge, column, norm) of a node's rows; norm -1 where there is none, column too for what an edge has not."""
    free = [
        (edge.edge, column, norm if column >= 0 else -1)
        for edge in stage.inputs
        for column, norm in ((edge.skip, -1), (edge.max_pool, edge.max_norm), (edge.avg_pool, edge.avg_norm))
    ]
    return [(term.edge, term.column, term.norm) for term in stage.terms] + free


def _only(call: StencilCall, asked: Callable[[Convolution], bool]) -> StencilCall:
    """The call with the convolutions that are asked, and the sources that these read."""
    chosen = [each for each in call.convolutions if asked(each)]
    used = sorted({each.source for each in chosen})
    return StencilCall(
        tuple(call.sources[source] for source in used),
        tuple(replace(each, source=used.index(each.source)) for each in chosen),
    )
