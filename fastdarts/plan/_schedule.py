"""The order of the kernel calls of a cell, forward and backward, with every index that they need."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from fastdarts.errors import UserError
from fastdarts.plan._cell import PLAIN, Candidate, CellPlan

__all__ = [
    "MEMORY",
    "Convolution",
    "InEdge",
    "NodeStage",
    "Plain",
    "PoolMoments",
    "Reduction",
    "Schedule",
    "StencilCall",
    "Term",
    "ValuesStage",
    "chosen",
    "kept_rows",
    "schedule",
]

MEMORY = ("fast", "balanced", "lean")
"""The memory modes: which values y before a batch norm are kept for backward; the others are computed again."""


@dataclass(frozen=True)
class Convolution:
    """One ReLU, depthwise and pointwise convolution: a dilated one, or a half of a separable one.

    Args:
        source: position of what it reads among the sources of its call.
        edge: number of the edge.
        kernel, dilation, stride: of the depthwise part, pixels.
        depthwise, pointwise: places in the plan's parameters.
        norm: row in the plan's norms; it names the value y too.
    """

    source: int
    edge: int
    kernel: int
    dilation: int
    stride: int
    depthwise: int
    pointwise: int
    norm: int


@dataclass(frozen=True)
class StencilCall:
    """Convolutions that run in one call.

    Args:
        sources: what they read: states (first halves and dilated ones), or the norms' rows of the values y (second
            halves, which read them normalised).
        convolutions: in the order of the norms.
    """

    sources: tuple[int, ...]
    convolutions: tuple[Convolution, ...]


@dataclass(frozen=True)
class Reduction:
    """One factorised reduction.

    Args:
        source: the state that it halves.
        edge: number of the edge.
        weights: places in the plan's parameters, one or two.
        norm: row in the plan's norms; it names the value y too.
    """

    source: int
    edge: int
    weights: tuple[int, ...]
    norm: int


@dataclass(frozen=True)
class Plain:
    """One candidate of the kinds :data:`fastdarts.plan.PLAIN`.

    Args:
        kind: which.
        source: the state that it reads.
        edge: number of the edge.
        kernel, stride: pixels.
        weights: place in the plan's parameters of a dense convolution, none of a pool.
        norm: row in the plan's norms; it names the value y too.
    """

    kind: str
    source: int
    edge: int
    kernel: int
    stride: int
    weights: tuple[int, ...]
    norm: int


@dataclass(frozen=True)
class PoolMoments:
    """The statistics of one state's pools at one stride, the same for all its edges of that stride.

    Args:
        source: the state.
        stride: 1 or 2, pixels.
        max_norms, avg_norms: rows in the plan's norms that they are; () where no edge has that pool.
    """

    source: int
    stride: int
    max_norms: tuple[int, ...]
    avg_norms: tuple[int, ...]


@dataclass(frozen=True)
class ValuesStage:
    """A stage of forward: values and moments, from states that are final.

    Args:
        first: of dilated candidates and first halves; reads states.
        reductions: of the edges' skip connections at stride 2.
        pools: moments of pools.
        second: of second halves; reads the values of `first`, normalised.
        plain: what torch's own kernels compute.
    """

    first: StencilCall
    reductions: tuple[Reduction, ...]
    pools: tuple[PoolMoments, ...]
    second: StencilCall
    plain: tuple[Plain, ...] = ()


@dataclass(frozen=True)
class Term:
    """One stored value in a node's sum.

    Args:
        edge, column: of its mixing weight.
        norm: row of its value and statistics; -1 for a map that is handed in and has no batch norm (mean 0, rstd 1).
        noise: place among the plan's noises; -1 for the others.
    """

    edge: int
    column: int
    norm: int
    noise: int = -1


@dataclass(frozen=True)
class InEdge:
    """What an edge brings to a node from its source itself: parameter-free candidates, and the bypass.

    Args:
        edge: number of the edge.
        source: its state.
        stride: 1 or 2, pixels.
        skip, max_pool, avg_pool: columns of their mixing weights; -1 where there is none.
        max_norm, avg_norm: rows of the pools' statistics; -1 where there is none.
    """

    edge: int
    source: int
    stride: int
    skip: int
    max_pool: int
    avg_pool: int
    max_norm: int
    avg_norm: int


@dataclass(frozen=True)
class NodeStage:
    """A node's sum, and all of its in-edges' calls for the backward.

    Args:
        node: the state that the stage makes.
        slot: its place in the output, -1 where it is not part of it.
        needed: whether the output depends on it.
        terms: stored values, by edge and candidate.
        inputs: the edges with parameter-free candidates; with partial channels all edges that exist, for the bypass.
        first, reductions, second, plain: as in :class:`ValuesStage`, of all in-edges.
    """

    node: int
    slot: int
    needed: bool
    terms: tuple[Term, ...]
    inputs: tuple[InEdge, ...]
    first: StencilCall
    reductions: tuple[Reduction, ...]
    second: StencilCall
    plain: tuple[Plain, ...] = ()

    def missing(self, memory: str) -> ValuesStage:
        """What backward computes again before this node, without moments, in a memory mode."""
        _check(memory)
        keeps_first = memory in ("fast", "balanced")
        inner = set(self.second.sources)
        return ValuesStage(
            chosen(self.first, lambda c: memory != "fast" and not (keeps_first and c.norm in inner)),
            () if memory == "fast" else self.reductions,
            (),
            chosen(self.second, lambda c: memory != "fast"),
            () if memory == "fast" else self.plain,
        )


@dataclass(frozen=True)
class Schedule:
    """The stages of a cell.

    Args:
        forward: in order.
    """

    forward: tuple[ValuesStage | NodeStage, ...]

    @cached_property
    def backward(self) -> tuple[NodeStage, ...]:
        """The nodes that get a gradient, the last one first."""
        stages = (stage for stage in self.forward if isinstance(stage, NodeStage) and stage.needed)
        return tuple(reversed(tuple(stages)))


def kept_rows(plan: CellPlan, memory: str) -> tuple[int, ...]:
    """The norms' rows whose values y are kept for backward.

    `fast` keeps all, `balanced` those of separable convolutions' first halves, `lean` none. Pools have no stored value.
    """
    _check(memory)
    first, reductions, second, plain = _calls(plan, range(len(plan.edges)))
    if memory == "lean":
        return ()
    if memory == "balanced":
        return tuple(sorted(second.sources))
    rows = [each.norm for each in first.convolutions + second.convolutions]
    return tuple(sorted(rows + [each.norm for each in reductions] + [each.norm for each in plain]))


@lru_cache(maxsize=1024)
def schedule(plan: CellPlan, memory: str = "fast") -> Schedule:
    """The order of the kernel calls.

    `fast` goes by source: as soon as a state is final, one stage reads it for all its out-edges. The modes that do not
    keep these values go by node, so that only one node's values exist at a time: each state is then read once for every
    node that it feeds, the same values and statistics come out.

    Args:
        plan: the cell.
        memory: one of :data:`MEMORY`.

    Raises:
        UserError: an unknown memory mode.
    """
    _check(memory)
    stages: list[ValuesStage | NodeStage] = []
    needed = _needed(plan)

    def values(edges: Iterable[int], pools: tuple[PoolMoments, ...]) -> None:
        first, reductions, second, plain = _calls(plan, edges)
        stage = ValuesStage(first, reductions, pools, second, plain)
        if stage.first.convolutions or stage.reductions or stage.pools or stage.plain:
            stages.append(stage)

    def final(state: int) -> None:
        out = [e for e, edge in enumerate(plan.edges) if edge.source == state]
        values(out if memory == "fast" else [], _pools(plan, state, out))

    for state in range(plan.given):
        final(state)
    for node in plan.computed:
        if memory != "fast":
            values(plan.into(node), ())
        stages.append(_node(plan, node, node in needed))
        final(node)
    return Schedule(tuple(stages))


def _check(memory: str) -> None:
    if memory not in MEMORY:
        raise UserError(f"memory is {memory!r}", f"one of {', '.join(MEMORY)}")


def _needed(plan: CellPlan) -> set[int]:
    needed = set(plan.concat)
    for edge in reversed(plan.edges):
        # An edge of nothing but `none` passes no gradient, but neither does it cost any.
        if edge.node in needed and edge.candidates:
            needed.add(edge.source)
    return needed


def _node(plan: CellPlan, node: int, needed: bool) -> NodeStage:
    terms, inputs = [], []
    for e in plan.into(node):
        edge = plan.edges[e]
        for position, candidate in enumerate(edge.candidates):
            if candidate.kind in ("noise", "module"):
                terms.append(Term(e, candidate.column, -1, plan.noises.index((e, position))))
            elif candidate.kind in ("sep", "dil", "reduce", *PLAIN):
                terms.append(Term(e, candidate.column, _rows(plan, e, position)[-1]))
        if plan.partial > 1 or any(edge.has(kind) for kind in ("skip", "max_pool", "avg_pool")):
            inputs.append(_in_edge(plan, e))
    slot = plan.concat.index(node) if node in plan.concat else -1
    return NodeStage(node, slot, needed, tuple(terms), tuple(inputs), *_calls(plan, plan.into(node)))


def _in_edge(plan: CellPlan, e: int) -> InEdge:
    edge = plan.edges[e]
    rows = {
        candidate.kind: _rows(plan, e, position)[0]
        for position, candidate in enumerate(edge.candidates)
        if candidate.kind in ("max_pool", "avg_pool")
    }
    return InEdge(
        e,
        edge.source,
        edge.stride,
        skip=edge.column("skip"),
        max_pool=edge.column("max_pool"),
        avg_pool=edge.column("avg_pool"),
        max_norm=rows.get("max_pool", -1),
        avg_norm=rows.get("avg_pool", -1),
    )


def _rows(plan: CellPlan, edge: int, position: int) -> list[int]:
    return [row for row, norm in enumerate(plan.norms) if norm[:2] == (edge, position)]


def _places(plan: CellPlan, edge: int, position: int) -> list[int]:
    return [place for place, each in enumerate(plan.parameters) if each[:2] == (edge, position)]


def _calls(
    plan: CellPlan, edges: Iterable[int]
) -> tuple[StencilCall, tuple[Reduction, ...], StencilCall, tuple[Plain, ...]]:
    edges = tuple(edges)
    states = tuple(sorted({plan.edges[e].source for e in edges if _convolves(plan.edges[e].candidates)}))
    first: list[Convolution] = []
    second: list[Convolution] = []
    inner: list[int] = []
    reductions: list[Reduction] = []
    plain: list[Plain] = []
    for e in edges:
        edge = plan.edges[e]
        for position, each in enumerate(edge.candidates):
            if each.kind not in ("sep", "dil", "reduce", *PLAIN):
                continue
            places, rows = _places(plan, e, position), _rows(plan, e, position)
            if each.kind in PLAIN:
                plain.append(Plain(each.kind, edge.source, e, each.kernel, edge.stride, tuple(places), rows[0]))
                continue
            if each.kind == "reduce":
                reductions.append(Reduction(edge.source, e, tuple(places), rows[0]))
                continue
            shape = (e, each.kernel, each.dilation)
            first.append(Convolution(states.index(edge.source), *shape, edge.stride, places[0], places[1], rows[0]))
            if each.kind == "sep":
                second.append(Convolution(len(inner), *shape, 1, places[2], places[3], rows[1]))
                inner.append(rows[0])
    return StencilCall(states, tuple(first)), tuple(reductions), StencilCall(tuple(inner), tuple(second)), tuple(plain)


def _convolves(candidates: Iterable[Candidate]) -> bool:
    return any(candidate.kind in ("sep", "dil") for candidate in candidates)


def _pools(plan: CellPlan, state: int, out: list[int]) -> tuple[PoolMoments, ...]:
    found = []
    for stride in sorted({plan.edges[e].stride for e in out}):
        edges = [_in_edge(plan, e) for e in out if plan.edges[e].stride == stride]
        rows = (
            tuple(edge.max_norm for edge in edges if edge.max_norm >= 0),
            tuple(edge.avg_norm for edge in edges if edge.avg_norm >= 0),
        )
        if any(rows):
            found.append(PoolMoments(state, stride, *rows))
    return tuple(found)


def chosen(call: StencilCall, asked: Callable[[Convolution], bool]) -> StencilCall:
    """The call with the convolutions that are asked alone, and the sources that they read."""
    kept = [each for each in call.convolutions if asked(each)]
    used = sorted({each.source for each in kept})
    return StencilCall(
        tuple(call.sources[source] for source in used),
        tuple(replace(each, source=used.index(each.source)) for each in kept),
    )
