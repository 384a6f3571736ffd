"""The launchers' calls of a cell, in order, with what each reads, writes and computes: counted from the shapes alone.

The order is that of `fastdarts.plan.schedule`; the stencil and pointwise work of all calls adds up to
`fastdarts.plan.flops`. Elements are those of maps: each map that a call reads or writes counts once for that call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from fastdarts.nn import Cell, FactorizedReduce, Supernet
from fastdarts.nn.checks import halved
from fastdarts.ops.mixed_sum import Edge
from fastdarts.ops.stencil import Conv
from fastdarts.plan import (
    CellPlan,
    NodeStage,
    PoolMoments,
    Reduction,
    StencilCall,
    ValuesStage,
    Work,
    cell_plan,
    schedule,
)

__all__ = ["Call", "Map", "PoolSpec", "PreprocessSpec", "StencilSpec", "SumSpec", "cell_calls", "supernet_calls"]

# Floating-point operations an element, as fastdarts.plan counts them: a pool's window, a multiply-add, a product, dy.
_POOL, _MIX, _PRODUCT, _GRADIENT, _MOMENTS = 9, 2, 4, 4, 4


@dataclass(frozen=True)
class Map:
    """A map [N, C, H, W] whose pixels lie `pixel` elements apart."""

    n: int
    channels: int
    height: int
    width: int
    pixel: int

    @property
    def elements(self) -> int:
        """N C H W."""
        return self.n * self.channels * self.height * self.width

    def first(self, channels: int) -> Map:
        """The first channels of each pixel."""
        return replace(self, channels=channels)

    def dense(self, channels: int, stride: int = 1) -> Map:
        """A map of its own, of this one's size over the stride."""
        return Map(self.n, channels, halved(self.height, stride), halved(self.width, stride), channels)


@dataclass(frozen=True)
class StencilSpec:
    """Arguments of the stencil's launchers.

    Args:
        sources: what the convolutions read.
        convs: as the launchers take them.
        normalised: whether the sources are, as a separable convolution's second half reads them.
        inner: backward: for each convolution the second half its gradient comes from, -1 for the node's.
        add: backward: whether the sources' gradients are added to maps that exist.
        weights: backward: whether the weights' gradients are asked.
    """

    sources: tuple[Map, ...]
    convs: tuple[Conv, ...]
    normalised: bool
    inner: tuple[int, ...] = ()
    add: bool = False
    weights: bool = True


@dataclass(frozen=True)
class SumSpec:
    """Arguments of mixed_sum's launchers: the node, the number of its stored terms, and its in-edges."""

    node: Map
    terms: int
    sources: tuple[Map, ...]
    edges: tuple[Edge, ...]
    partial: int


@dataclass(frozen=True)
class PoolSpec:
    """Arguments of pool_moments."""

    source: Map
    stride: int
    max_pool: bool
    avg_pool: bool


@dataclass(frozen=True)
class PreprocessSpec:
    """Arguments of preprocess' launchers: what is read, output channels of each weight, stride, and what is asked."""

    x: Map
    outputs: tuple[int, ...]
    stride: int
    add: bool = False
    weights: bool = True


@dataclass(frozen=True)
class Call:
    """One call of a launcher.

    Args:
        op: module and function, such as `stencil.forward`.
        what: which of the op's calls it is.
        read, written: elements of maps.
        work: floating-point operations.
        spec: the arguments' shapes; None for calls on coefficients alone.
    """

    op: str
    what: str
    read: int
    written: int
    work: Work
    spec: StencilSpec | SumSpec | PoolSpec | PreprocessSpec | None = None

    def bytes(self, itemsize: int) -> int:
        """Read and written."""
        return itemsize * (self.read + self.written)


def supernet_calls(
    model: Supernet, n: int, height: int, width: int, memory: str = "fast", *, weights: bool = True
) -> Iterator[tuple[int, Cell, list[Call]]]:
    """The calls of every cell of a supernet in training; stem, classifier and optimisers are left out.

    Args:
        model: the supernet, on any device.
        n: batch size.
        height, width: of the images, pixels.
        memory: `fast`, `balanced` or `lean`.
        weights: whether gradients of the weights are asked; an architecture step asks none.

    Yields:
        Number of the cell, the cell, and its calls of forward and backward.
    """
    older = newer = (height, width)
    for number, cell in enumerate(model.cells):
        assert isinstance(cell, Cell)
        yield number, cell, cell_calls(cell, n, older, newer, memory, weights=weights)
        older, newer = newer, tuple(halved(size, 2) for size in newer) if cell.reduction else newer


def cell_calls(
    cell: Cell, n: int, older: tuple[int, int], newer: tuple[int, int], memory: str = "fast", *, weights: bool = True
) -> list[Call]:
    """The calls of a cell; sizes of its two inputs, pixels."""
    plan = cell_plan(cell.space, cell.channels, partial=cell.partial, reduction=cell.reduction)
    if plan is None:
        raise TypeError("no calls of a cell with candidates that have no fused kernel")
    stride = 2 if isinstance(cell.preprocess0, FactorizedReduce) else 1
    inputs = [
        PreprocessSpec(Map(n, c, *size, c), _outputs(cell.channels, s), s, weights=weights)
        for c, size, s in ((cell.c_prev_prev, older, stride), (cell.c_prev, newer, 1))
    ]
    walk = _Walk(plan, n, *newer, weights)
    calls = []
    for spec in inputs:
        calls += [*_preprocess_forward(spec, normalised=True), _small("track.track_")]
    stages = schedule(plan, memory)
    for stage in stages.forward:
        calls += walk.values(stage) if isinstance(stage, ValuesStage) else walk.node(stage)
    calls.append(_small("track.track_"))
    for node in stages.backward:
        calls += walk.values(node.missing(memory), moments=False)
        calls += walk.gradients(node)
    for spec in inputs:
        y = spec.x.dense(cell.channels, spec.stride)
        calls.append(Call("preprocess.reduce", "cell input", 2 * y.elements, 0, _elementwise(5 * y.elements), spec))
        calls.append(_preprocess_backward(spec, "cell input"))
    return calls


class _Walk:
    """The calls of one cell's stages."""

    def __init__(self, plan: CellPlan, n: int, height: int, width: int, weights: bool) -> None:
        self.plan, self.weights = plan, weights
        before = Map(n, plan.channels, height, width, plan.channels)
        # A node lies in its slice of the cell's output.
        after = before.dense(plan.channels, plan.stride)
        self.states = [before] * plan.inputs + [replace(after, pixel=plan.channels * len(plan.concat))] * plan.nodes
        self.node_map, self.y = self.states[-1], after.dense(plan.mixed)

    def values(self, stage: ValuesStage, *, moments: bool = True) -> list[Call]:
        """Of values and, unless they are known, their moments."""
        calls = []
        if stage.first.convolutions:
            calls.append(self._stencil_forward(stage.first, normalised=False, moments=moments))
        for reduction in stage.reductions:
            calls += _preprocess_forward(self._reduction(reduction), normalised=False)
        calls += [self._pools(pools) for pools in stage.pools if moments]
        if stage.second.convolutions:
            calls.append(_small("coefficients.rows"))
            calls.append(self._stencil_forward(stage.second, normalised=True, moments=moments))
        return calls

    def node(self, stage: NodeStage) -> list[Call]:
        """Of a node's sum."""
        spec = self._sum(stage)
        pools, skips = _free(spec.edges)
        values = _MIX * (spec.terms + skips) + (_POOL + _MIX) * pools
        read = spec.terms * self.y.elements + self._sources(spec)
        work = _elementwise(self.y.elements * values)
        return [
            _small("coefficients.mixing"),
            Call("mixed_sum.forward", _in_edges(spec), read, self.node_map.elements, work, spec),
        ]

    def gradients(self, stage: NodeStage) -> list[Call]:
        """Of a node's backward."""
        spec, y, node = self._sum(stage), self.y.elements, self.node_map.elements
        pools, skips = _free(spec.edges)
        calls = [_small("coefficients.mixing")]
        read = node + spec.terms * y + self._sources(spec)
        work = _elementwise(y * (1 + _PRODUCT * (spec.terms + pools) + _POOL * pools + _MIX * skips))
        written = node if self.plan.partial > 1 else 0
        calls.append(Call("mixed_sum.reduce", _in_edges(spec), read, written, work, spec))
        calls.append(_small("coefficients.gradient"))
        if stage.second.convolutions:
            calls += [
                _small("coefficients.rows"),
                self._stencil_backward(stage, normalised=True),
                _small("coefficients.gradient"),
            ]
        if stage.first.convolutions:
            calls.append(self._stencil_backward(stage, normalised=False))
        calls += [
            _preprocess_backward(replace(self._reduction(each), add=True), "skip of stride 2")
            for each in stage.reductions
        ]
        if spec.edges:
            targets = self._sources(spec)
            values = self._sources(spec, pooled=True)
            work = _elementwise(y * ((2 * _POOL + _GRADIENT) * pools + _MIX * skips))
            calls.append(Call("mixed_sum.backward", _in_edges(spec), node + values + targets, targets, work, spec))
        return calls

    def _stencil_forward(self, call: StencilCall, *, normalised: bool, moments: bool) -> Call:
        spec = StencilSpec(self._read(call, normalised), _convs(call), normalised)
        read = sum(source.elements for source in spec.sources)
        outputs, c = self.y.elements, self.plan.mixed
        work = Work(
            sum(2 * conv.kernel**2 for conv in spec.convs) * outputs,
            2 * c * outputs * len(spec.convs),
            (3 if normalised else 1) * read + _MOMENTS * moments * outputs * len(spec.convs),
        )
        return Call("stencil.forward", _halves(spec), read, outputs * len(spec.convs), work, spec)

    def _stencil_backward(self, stage: NodeStage, *, normalised: bool) -> Call:
        call = stage.second if normalised else stage.first
        rows = {norm: place for place, norm in enumerate(stage.second.sources)}
        inner = tuple(-1 if normalised else rows.get(each.norm, -1) for each in call.convolutions)
        spec = StencilSpec(
            self._read(call, normalised), _convs(call), normalised, inner, not normalised, weights=self.weights
        )
        sources, outputs = sum(source.elements for source in spec.sources), self.y.elements
        count, c, all_gradients = len(spec.convs), self.plan.mixed, self.weights
        work = Work(
            (3 if all_gradients else 1) * sum(2 * conv.kernel**2 for conv in spec.convs) * outputs,
            (2 if all_gradients else 1) * 2 * c * outputs * count,
            outputs * _GRADIENT * count + sources * (6 if normalised else 1),
        )
        # g of each place once, y of each convolution, the sources, and the gradients that are added to.
        read = outputs * (len(set(inner)) + count) + sources * (2 if spec.add else 1)
        return Call("stencil.backward", _halves(spec), read, sources, work, spec)

    def _read(self, call: StencilCall, normalised: bool) -> tuple[Map, ...]:
        if normalised:
            return (self.y,) * len(call.sources)
        return tuple(self.states[state].first(self.plan.mixed) for state in call.sources)

    def _reduction(self, reduction: Reduction) -> PreprocessSpec:
        outputs = _outputs(self.plan.mixed, 2)
        return PreprocessSpec(self.states[reduction.source].first(self.plan.mixed), outputs, 2, weights=self.weights)

    def _pools(self, pools: PoolMoments) -> Call:
        source = self.states[pools.source].first(self.plan.mixed)
        spec = PoolSpec(source, pools.stride, bool(pools.max_norms), bool(pools.avg_norms))
        work = _elementwise((_POOL + _MOMENTS) * (spec.max_pool + spec.avg_pool) * self.y.elements)
        return Call("mixed_sum.pool_moments", f"stride {spec.stride}", source.elements, 0, work, spec)

    def _sum(self, stage: NodeStage) -> SumSpec:
        edges = tuple(
            Edge(edge.stride, edge.skip >= 0, edge.max_pool >= 0, edge.avg_pool >= 0) for edge in stage.inputs
        )
        sources = tuple(self.states[edge.source] for edge in stage.inputs)
        return SumSpec(self.node_map, len(stage.terms), sources, edges, self.plan.partial)

    def _sources(self, spec: SumSpec, *, pooled: bool = False) -> int:
        """Elements of the in-edges' sources; `pooled`: of those alone whose largest pixels must be found again."""
        total = 0
        for source, edge in zip(spec.sources, spec.edges, strict=True):
            mixed = source.elements // spec.partial if not pooled or edge.max_pool or edge.avg_pool else 0
            by = source.elements - source.elements // spec.partial if not pooled or edge.stride == 2 else 0
            total += mixed + by
        return total


def _preprocess_forward(spec: PreprocessSpec, *, normalised: bool) -> list[Call]:
    y = spec.x.dense(sum(spec.outputs), spec.stride)
    product = 2 * spec.x.channels * y.elements
    what = "cell input" if normalised else "skip of stride 2"
    work = Work(0, product, spec.x.elements + _MOMENTS * y.elements)
    calls = [Call("preprocess.forward", what, spec.x.elements, y.elements, work, spec)]
    if normalised:
        calls.append(Call("preprocess.normalise_", what, y.elements, y.elements, _elementwise(2 * y.elements), spec))
    return calls


def _preprocess_backward(spec: PreprocessSpec, what: str) -> Call:
    y = spec.x.dense(sum(spec.outputs), spec.stride)
    product = 2 * spec.x.channels * y.elements
    work = Work(0, (2 if spec.weights else 1) * product, spec.x.elements + _GRADIENT * y.elements)
    read = spec.x.elements * (2 if spec.add else 1) + 2 * y.elements
    return Call("preprocess.backward", what, read, spec.x.elements, work, spec)


def _small(op: str) -> Call:
    """On coefficients or statistics alone: a launch and no more."""
    return Call(op, "", 0, 0, Work())


def _convs(call: StencilCall) -> tuple[Conv, ...]:
    return tuple(Conv(each.source, each.kernel, each.dilation, each.stride) for each in call.convolutions)


def _outputs(channels: int, stride: int) -> tuple[int, ...]:
    if stride == 1:
        return (channels,)
    return tuple(part for part in (channels - channels // 2, channels // 2) if part)


def _free(edges: Iterable[Edge]) -> tuple[int, int]:
    edges = list(edges)
    return sum(edge.max_pool + edge.avg_pool for edge in edges), sum(edge.skip for edge in edges)


def _halves(spec: StencilSpec) -> str:
    half = "second halves" if spec.normalised else "first halves, dilated"
    return f"{half}: {len(spec.convs)} convs of {len(spec.sources)} sources"


def _in_edges(spec: SumSpec) -> str:
    return f"{spec.terms} terms, {len(spec.edges)} in-edges"


def _elementwise(count: int) -> Work:
    return Work(elementwise=count)
