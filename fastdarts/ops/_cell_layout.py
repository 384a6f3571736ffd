"""A cell's program with its indices as tensors, for kernels that are called one by one.

The one difference from the program's own numbering: statistics are rows [1 + norms, C'] in the order in which forward
measures them, so that what a kernel measured is appended; the first one stands for what has no batch norm, mean 0 and
rstd 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from fastdarts.ops._records import Conv, Edge, conv_of, edge_of
from fastdarts.plan import CellPlan, Program, program
from fastdarts.plan._program import Node as NodeCalls
from fastdarts.plan._program import NodeBackward
from fastdarts.plan._schedule import InEdge, Plain, PoolMoments, Reduction, StencilCall, ValuesStage

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
    plain: tuple[Plain, ...]


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
        inner: for each convolution of `first` the second half that its gradient comes from; None: the node.
        reductions, reduction_rows: the factorised reductions whose gradients are asked, and their rows of the node.
        plain, plain_rows: the same of what torch's own kernels compute.
        inputs: the in-edges whose source has its gradient asked.
    """

    missing: Values
    second: Call | None
    first: Call | None
    second_rows: Tensor
    first_rows: Tensor
    inner: tuple[int | None, ...]
    reductions: tuple[Reduction, ...]
    reduction_rows: tuple[int, ...]
    plain: tuple[Plain, ...]
    plain_rows: tuple[int, ...]
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
        gradients: its backward; None where nothing depends on it.
    """

    node: int
    slot: int
    terms: tuple[tuple[int, int], ...]
    norms: Tensor
    weights: Tensor
    inputs: Inputs
    values: tuple[int, ...]
    gradients: Gradients | None


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
        return _Builder(program(text, memory, width, sources, parameters), device).layout()


class _Builder:
    def __init__(self, program: Program, device: str) -> None:
        self.program, self.device = program, device
        self.nothing = len(program.plan.norms)
        # The norms in the order in which forward measures them, after what has none.
        self.norms = [self.nothing]
        for stage in program.forward:
            if isinstance(stage, ValuesStage):
                self.norms += [each.norm for each in stage.first.convolutions]
                self.norms += [each.norm for each in stage.reductions]
                self.norms += [norm for pools in stage.pools for norm in pools.max_norms + pools.avg_norms]
                self.norms += [each.norm for each in stage.plain]
                self.norms += [each.norm for each in stage.second.convolutions]
        self.statistics = {norm: row for row, norm in enumerate(self.norms)}

    def layout(self) -> Layout:
        backward = {each.node.stage.node: each for each in self.program.backward}
        stages = {
            stage.stage.node: self._node(stage, backward.get(stage.stage.node))
            for stage in self.program.forward
            if isinstance(stage, NodeCalls)
        }
        return Layout(
            self.program.plan,
            tuple(
                stages[stage.stage.node] if isinstance(stage, NodeCalls) else self._values(stage)
                for stage in self.program.forward
            ),
            tuple(map(stages.__getitem__, backward)),
            self._index(self.norms),
            self._index(self.statistics[norm] for norm in range(self.nothing)),
            dict.fromkeys(self.program.kept),
            self.program.hidden,
        )

    def _index(self, numbers: Iterable[int]) -> Tensor:
        return torch.tensor(list(numbers), dtype=torch.int64, device=self.device)

    def _call(self, call: StencilCall, *, normalised: bool = False) -> Call | None:
        if not call.convolutions:
            return None
        return Call(
            call.sources,
            list(map(conv_of, call.convolutions)),
            tuple(each.depthwise for each in call.convolutions),
            tuple(each.pointwise for each in call.convolutions),
            tuple(each.norm for each in call.convolutions),
            self._index(self.statistics[row] for row in call.sources if normalised),
        )

    def _values(self, stage: ValuesStage) -> Values:
        pools = tuple(map(self._pools, stage.pools))
        second = self._call(stage.second, normalised=True)
        return Values(self._call(stage.first), stage.reductions, pools, second, stage.plain)

    def _pools(self, pools: PoolMoments) -> Pools:
        rows = [0] * len(pools.max_norms) + [1] * len(pools.avg_norms)
        return Pools(pools.source, pools.stride, bool(pools.max_norms), bool(pools.avg_norms), self._index(rows))

    def _node(self, node: NodeCalls, backward: NodeBackward | None) -> Node:
        stage = node.stage
        return Node(
            stage.node,
            stage.slot,
            tuple((term.norm, term.noise) for term in stage.terms),
            self._index(self.statistics[norm] for norm in node.norms),
            self._index(node.weights),
            self._inputs(stage.inputs, range(len(stage.terms), len(node.norms))),
            node.values,
            None if backward is None else self._gradients(backward),
        )

    def _inputs(self, edges: tuple[InEdge, ...], rows: Iterable[int]) -> Inputs:
        return Inputs(
            tuple(each.source for each in edges),
            list(map(edge_of, edges)),
            self._index(rows),
            self._index(each.edge for each in edges),
        )

    def _gradients(self, calls: NodeBackward) -> Gradients:
        return Gradients(
            self._values(calls.missing),
            self._call(calls.second, normalised=True),
            self._call(calls.first),
            self._index(calls.second_rows),
            self._index(calls.first_rows),
            calls.inner,
            calls.reductions,
            calls.reduction_rows,
            calls.plain,
            calls.plain_rows,
            self._inputs(calls.inputs, calls.input_rows),
        )
