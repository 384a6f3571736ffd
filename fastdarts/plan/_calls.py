"""The calls of a program in order, each with what it reads, writes and computes at given sizes.

The one place that counts: FLOPs, traffic and launches of a cell are sums over this list, and benchmarks make the calls'
arguments from it. Elements are those of maps: each map that a call reads or writes counts once for that call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

from fastdarts.errors import UserError
from fastdarts.plan._cell import CellPlan
from fastdarts.plan._program import Node, NodeBackward, program
from fastdarts.plan._schedule import Plain, PoolMoments, Reduction, StencilCall, ValuesStage
from fastdarts.plan._shapes import Map, PlainShapes, PoolShapes, PreprocessShapes, StencilShapes, SumShapes

__all__ = ["Call", "Work", "calls", "cell_input_calls"]

# Floating-point operations for one element, a multiply-add being two, a comparison one.
_RELU = 1
_NORMALISED_RELU = 3  # subtract the mean, multiply by rstd, compare
_NORMALISED_MASK = _NORMALISED_RELU + 3  # and the two sums that the batch norm's gradient needs
_NORMALISE = 2
_MOMENTS = 4  # subtract the shift, add, multiply-add
_SUMS = 5  # of g, and of g with what is normalised
_POOL = 9  # one for each tap of the window
_MIX = 2  # one multiply-add
_PRODUCT = 4  # g * (y - mean) * rstd, added up
_GRADIENT = 4  # alpha * g + beta * y + gamma
_LARGEST = 3  # of 2 x 2 pixels, as a bypass of stride 2 takes it


@dataclass(frozen=True)
class Work:
    """Floating-point operations, a multiply-add being two.

    Args:
        stencil: of depthwise convolutions.
        pointwise: of 1x1 convolutions, factorised reductions included.
        elementwise: of everything else: ReLU, moments, pools, sums, gradients of batch norms.
    """

    stencil: int = 0
    pointwise: int = 0
    elementwise: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.stencil + self.pointwise + self.elementwise

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


@dataclass(frozen=True)
class Call:
    """One call of a launcher.

    Args:
        op: what is called, such as `stencil.forward`.
        backward: whether it is part of the backward.
        what: which of the op's calls it is.
        read, written: elements of maps.
        work: floating-point operations.
        shapes: of its arguments; None for calls on coefficients alone, a launch and no more.
    """

    op: str
    backward: bool
    what: str = ""
    read: int = 0
    written: int = 0
    work: Work = Work()
    shapes: StencilShapes | SumShapes | PoolShapes | PreprocessShapes | PlainShapes | None = None

    def bytes(self, itemsize: int) -> int:
        """Read and written, with elements of so many bytes."""
        return itemsize * (self.read + self.written)


def calls(plan: CellPlan, n: int, height: int, width: int, memory: str, *, weights: bool = True) -> list[Call]:
    """The calls of a cell in training, without those on its inputs (:func:`cell_input_calls`).

    A convolution of M output pixels is `2 k^2 C' M` (stencil) and `2 C'^2 M` (pointwise). Backward takes one of each
    for the gradient of the input and, for those of the weights, two stencils more (the depthwise output once again, and
    the kernel's gradient) and one pointwise product. What a memory mode does not keep is computed once more.

    Args:
        plan: the cell.
        n: batch size.
        height, width: of the inputs, pixels.
        memory: `fast`, `balanced` or `lean`.
        weights: whether gradients of the parameters are asked; an architecture step asks none.

    Raises:
        UserError: an unknown memory mode, or sizes below 1.
    """
    for name, value in (("n", n), ("height", height), ("width", width)):
        if value < 1:
            raise UserError(f"{name} is {value}", "at least 1")
    order = program(plan.encode(), memory, plan.width, (True,) * plan.given, weights)
    count = _Count(plan, n, height, width, weights)
    found: list[Call] = []
    for stage in order.forward:
        found += count.sum(stage) if isinstance(stage, Node) else count.values(stage, backward=False)
    for node in order.backward:
        if node.node.norms:  # nothing comes into the others, so nothing goes back
            found += [*count.values(node.missing, backward=True), *count.gradients(node)]
    return found


def cell_input_calls(x: Map, channels: int, stride: int, *, weights: bool = True) -> list[Call]:
    """The calls on one of a cell's inputs: ReLU, 1x1 convolution and batch norm, forward and backward.

    Args:
        x: the input.
        channels: that come out, at stride 2 of the two halves of a factorised reduction.
        stride: 1 or 2, pixels.
        weights: whether gradients of the parameters are asked.
    """
    shapes, what = PreprocessShapes(x, _halved(channels, stride), stride, weights=weights), "cell input"
    y = shapes.y.elements
    return [
        _preprocess(shapes, what, backward=False),
        Call("preprocess.normalise_", False, what, y, y, Work(elementwise=_NORMALISE * y), shapes),
        Call("preprocess.reduce", True, what, 2 * y, 0, Work(elementwise=_SUMS * y), shapes),
        _preprocess_backward(shapes, what),
    ]


class _Count:
    """The calls of one cell's stages."""

    def __init__(self, plan: CellPlan, n: int, height: int, width: int, weights: bool) -> None:
        self.plan, self.weights = plan, weights
        before = Map(n, plan.channels, height, width, plan.channels)
        # A node lies in its slice of the cell's output.
        after = before.dense(plan.channels, plan.stride)
        self.states = [before] * plan.inputs + [replace(after, pixel=plan.channels * len(plan.concat))] * plan.nodes
        self.node, self.y = self.states[-1], after.dense(plan.mixed)

    def values(self, stage: ValuesStage, *, backward: bool) -> Iterator[Call]:
        """Of values and of their moments, which backward knows."""
        if stage.first.convolutions:
            yield self._stencil(stage.first, normalised=False, backward=backward)
        for reduction in stage.reductions:
            yield _preprocess(self._reduction(reduction), "skip of stride 2", backward=backward)
        yield from map(self._pools, stage.pools)
        for plain in stage.plain:
            yield self._plain(plain, backward=backward)
        if stage.second.convolutions:
            yield Call("coefficients.rows", backward)
            yield self._stencil(stage.second, normalised=True, backward=backward)

    def sum(self, node: Node) -> Iterator[Call]:
        """Of a node's sum."""
        shapes, y = self._shapes(node), self.y.elements
        pools, skips, by, halved = self._free(shapes)
        yield Call("coefficients.mixing", False)
        yield Call(
            *("mixed_sum.forward", False, _in_edges(shapes)),
            read=shapes.terms * y + sum(each.elements for each in shapes.sources),
            written=self.node.elements,
            work=Work(elementwise=y * (_MIX * (shapes.terms + skips) + (_POOL + _MIX) * pools) + _MIX * by + halved),
            shapes=shapes,
        )

    def gradients(self, calls: NodeBackward) -> Iterator[Call]:
        """Of a node's backward."""
        shapes, y, node = self._shapes(calls.node), self.y.elements, self.node.elements
        pools, skips, by, halved = self._free(shapes)
        sources = sum(each.elements for each in shapes.sources)
        yield Call("coefficients.mixing", True)
        reduced = 1 + _PRODUCT * (shapes.terms + pools) + _POOL * pools + _MIX * skips
        yield Call(
            *("mixed_sum.reduce", True, _in_edges(shapes)),
            read=node + shapes.terms * y + sources,
            # With partial channels the gradient is written in the candidates' order of channels.
            written=node if self.plan.partial > 1 else 0,
            work=Work(elementwise=y * reduced + _MIX * by + halved),
            shapes=shapes,
        )
        yield Call("coefficients.gradient", True)
        if calls.second.convolutions:
            yield Call("coefficients.rows", True)
            yield self._stencil_backward(calls.second, (None,) * len(calls.second.convolutions), normalised=True)
            yield Call("coefficients.gradient", True)
        if calls.first.convolutions:
            yield self._stencil_backward(calls.first, calls.inner, normalised=False)
        for reduction in calls.reductions:
            yield _preprocess_backward(replace(self._reduction(reduction), add=True), "skip of stride 2")
        for plain in calls.plain:
            yield self._plain_backward(plain)
        if shapes.edges:
            spread = (2 * _POOL + _GRADIENT) * pools + _MIX * skips
            yield Call(
                *("mixed_sum.backward", True, _in_edges(shapes)),
                read=node + self._looked_at(shapes) + sources,
                written=sources,
                work=Work(elementwise=y * spread + _MIX * by + halved),
                shapes=shapes,
            )

    def _stencil(self, call: StencilCall, *, normalised: bool, backward: bool) -> Call:
        shapes = StencilShapes(self._sources(call, normalised), call.convolutions, normalised)
        read, written = sum(each.elements for each in shapes.sources), self.y.elements * len(call.convolutions)
        work = Work(
            self._taps(call),
            2 * self.plan.mixed * written,
            (_NORMALISED_RELU if normalised else _RELU) * read + _MOMENTS * (not backward) * written,
        )
        return Call("stencil.forward", backward, _halves(shapes), read, written, work, shapes)

    def _stencil_backward(self, call: StencilCall, inner: tuple[int | None, ...], *, normalised: bool) -> Call:
        sources = self._sources(call, normalised)
        shapes = StencilShapes(sources, call.convolutions, normalised, inner, not normalised, self.weights)
        read, y, count = sum(each.elements for each in sources), self.y.elements, len(call.convolutions)
        work = Work(
            (3 if self.weights else 1) * self._taps(call),
            (2 if self.weights else 1) * 2 * self.plan.mixed * y * count,
            y * _GRADIENT * count + read * (_NORMALISED_MASK if normalised else _RELU),
        )
        # The gradient of each place once, y of each convolution, the sources, and the gradients that are added to.
        moved = y * (len(set(inner)) + count) + read * (2 if shapes.add else 1)
        return Call("stencil.backward", True, _halves(shapes), moved, read, work, shapes)

    def _taps(self, call: StencilCall) -> int:
        return sum(2 * each.kernel**2 for each in call.convolutions) * self.y.elements

    def _sources(self, call: StencilCall, normalised: bool) -> tuple[Map, ...]:
        if normalised:
            return (self.y,) * len(call.sources)
        return tuple(self.states[state].first(self.plan.mixed) for state in call.sources)

    def _reduction(self, reduction: Reduction) -> PreprocessShapes:
        c = self.plan.mixed
        return PreprocessShapes(self.states[reduction.source].first(c), _halved(c, 2), 2, weights=self.weights)

    def _plain(self, plain: Plain, *, backward: bool) -> Call:
        shapes = PlainShapes(self.states[plain.source].first(self.plan.mixed), self.y, plain)
        x, y = shapes.x.elements, self.y.elements
        moments = _MOMENTS * (not backward) * y
        if plain.weights:
            work = Work(0, 2 * plain.kernel**2 * self.plan.mixed * y, _RELU * x + moments)
        else:
            work = Work(elementwise=plain.kernel**2 * y + moments)
        return Call("plain.forward", backward, _windows(plain), x, y, work, shapes)

    def _plain_backward(self, plain: Plain) -> Call:
        shapes = PlainShapes(self.states[plain.source].first(self.plan.mixed), self.y, plain, self.weights)
        x, y = shapes.x.elements, self.y.elements
        if plain.weights:
            product = 2 * plain.kernel**2 * self.plan.mixed * y
            work = Work(0, (2 if self.weights else 1) * product, _RELU * x + _GRADIENT * y)
        else:
            work = Work(elementwise=(2 * plain.kernel**2 + _GRADIENT) * y)
        return Call("plain.backward", True, _windows(plain), 2 * x + 2 * y, x, work, shapes)

    def _pools(self, pools: PoolMoments) -> Call:
        source = self.states[pools.source].first(self.plan.mixed)
        shapes = PoolShapes(source, pools.stride, bool(pools.max_norms), bool(pools.avg_norms))
        work = Work(elementwise=(_POOL + _MOMENTS) * (shapes.max_pool + shapes.avg_pool) * self.y.elements)
        return Call("mixed_sum.pool_moments", False, f"stride {pools.stride}", source.elements, 0, work, shapes)

    def _shapes(self, node: Node) -> SumShapes:
        stage = node.stage
        sources = tuple(self.states[edge.source] for edge in stage.inputs)
        return SumShapes(self.node, len(stage.terms), sources, stage.inputs, self.plan.partial)

    def _free(self, shapes: SumShapes) -> tuple[int, int, int, int]:
        """Pools and skips of a node; elements of its bypasses, and operations that halve them."""
        pools = sum((edge.max_pool >= 0) + (edge.avg_pool >= 0) for edge in shapes.edges)
        by = self.node.elements - self.y.elements  # of one edge
        halved = _LARGEST * by * sum(edge.stride == 2 for edge in shapes.edges)
        return pools, sum(edge.skip >= 0 for edge in shapes.edges), by * len(shapes.edges), halved

    def _looked_at(self, shapes: SumShapes) -> int:
        """Elements of the in-edges' sources whose largest pixels backward must find again."""
        total = 0
        for source, edge in zip(shapes.sources, shapes.edges, strict=True):
            mixed = source.elements // shapes.partial
            total += mixed * (edge.max_pool >= 0 or edge.avg_pool >= 0) + (source.elements - mixed) * (edge.stride == 2)
        return total


def _halved(channels: int, stride: int) -> tuple[int, ...]:
    """Output channels of each weight: at stride 2 those of a factorised reduction's halves."""
    return (channels,) if stride == 1 else tuple(part for part in (channels - channels // 2, channels // 2) if part)


def _preprocess(shapes: PreprocessShapes, what: str, *, backward: bool) -> Call:
    x, y = shapes.x.elements, shapes.y.elements
    work = Work(0, 2 * shapes.x.channels * y, _RELU * x + _MOMENTS * (not backward) * y)
    return Call("preprocess.forward", backward, what, x, y, work, shapes)


def _preprocess_backward(shapes: PreprocessShapes, what: str) -> Call:
    x, y = shapes.x.elements, shapes.y.elements
    work = Work(0, (2 if shapes.weights else 1) * 2 * shapes.x.channels * y, _RELU * x + _GRADIENT * y)
    return Call("preprocess.backward", True, what, x * (2 if shapes.add else 1) + 2 * y, x, work, shapes)


def _windows(plain: Plain) -> str:
    return f"{plain.kind} {plain.kernel}x{plain.kernel}, stride {plain.stride}"


def _halves(shapes: StencilShapes) -> str:
    half = "second halves" if shapes.normalised else "first halves, dilated"
    return f"{half}: {len(shapes.convolutions)} convs of {len(shapes.sources)} sources"


def _in_edges(shapes: SumShapes) -> str:
    return f"{shapes.terms} terms, {len(shapes.edges)} in-edges"
