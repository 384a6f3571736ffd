"""Bytes and FLOPs of a cell in closed form; docs/plan.md has the table behind the numbers."""

from __future__ import annotations

from dataclasses import dataclass, fields

from fastdarts.errors import UserError
from fastdarts.plan._cell import CellPlan
from fastdarts.plan._schedule import NodeStage, ValuesStage, kept_rows, schedule

__all__ = ["Flops", "Work", "flops", "kept_bytes"]

# Floating-point operations for one element, a multiply-add being two, a comparison one.
_RELU = 1
_NORMALISED_RELU = 3  # subtract the mean, multiply by rstd, compare
_MOMENTS = 4  # subtract the shift, add, multiply-add
_POOL = 9  # one for each tap of the window
_MIX = 2  # one multiply-add
_PRODUCT = 4  # g * (y - mean) * rstd, added up
_GRADIENT = 4  # alpha * g + beta * y + gamma


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
class Flops:
    """The work of a pass.

    Args:
        forward: with batch statistics.
        backward: of all gradients that were asked, with what it computes again.
    """

    forward: Work
    backward: Work

    @property
    def total(self) -> int:
        """Both."""
        return self.forward.total + self.backward.total

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.forward + other.forward, self.backward + other.backward)


def kept_bytes(plan: CellPlan, n: int, height: int, width: int, itemsize: int, memory: str) -> int:
    """Bytes that a cell in training keeps for its backward.

    `itemsize * N * (inputs * C * H * W + nodes * C * H' * W' + (rows + noises) * C' * H' * W') + 16 * norms * C'`: its
    inputs and nodes (the output is the nodes), the values y of :func:`kept_rows`, the noise, and the statistics, two
    float64 numbers a channel. Parameters and mixing weights exist anyway and do not count.

    Args:
        plan: the cell.
        n: batch size.
        height, width: of the inputs, pixels.
        itemsize: bytes of an element of a map.
        memory: `fast`, `balanced` or `lean`.

    Returns:
        Bytes.

    Raises:
        UserError: an unknown memory mode, or sizes below 1.
    """
    before, after = _pixels(plan, n, height, width)
    states = plan.channels * (plan.inputs * before + plan.nodes * after)
    values = plan.mixed * after * (len(kept_rows(plan, memory)) + len(plan.noises))
    return itemsize * (states + values) + 16 * plan.mixed * len(plan.norms)


def flops(plan: CellPlan, n: int, height: int, width: int, memory: str, *, weights: bool = True) -> Flops:
    """Floating-point operations of a cell in training.

    A convolution of M output pixels is `2 k^2 C' M` (stencil) and `2 C'^2 M` (pointwise). Backward takes one of each
    for the gradient of the input and, for those of the weights, two stencils more (the depthwise output once again, and
    the kernel's gradient) and one pointwise product. What a memory mode does not keep is computed once more.

    Args:
        plan: the cell.
        n: batch size.
        height, width: of the inputs, pixels.
        memory: `fast`, `balanced` or `lean`.
        weights: whether gradients of the parameters are asked; an architecture step asks none.

    Returns:
        The work of forward and of backward.

    Raises:
        UserError: an unknown memory mode, or sizes below 1.
    """
    pixels = _pixels(plan, n, height, width)
    stages = schedule(plan, memory)
    forward, backward = Work(), Work()
    for stage in stages.forward:
        forward += _values(plan, stage, pixels) if isinstance(stage, ValuesStage) else _sum(plan, stage, pixels)
    for node in stages.backward:
        backward += _values(plan, node.missing(memory), pixels, moments=False)
        backward += _convolutions(plan, node, pixels, weights) + _sum_backward(plan, node, pixels)
    return Flops(forward, backward)


def _pixels(plan: CellPlan, n: int, height: int, width: int) -> tuple[int, int]:
    for name, value in (("n", n), ("height", height), ("width", width)):
        if value < 1:
            raise UserError(f"{name} is {value}", "at least 1")
    return n * height * width, n * -(-height // plan.stride) * -(-width // plan.stride)


def _values(plan: CellPlan, stage: ValuesStage, pixels: tuple[int, int], *, moments: bool = True) -> Work:
    c, after = plan.mixed, pixels[1]
    convolutions = (*stage.first.convolutions, *stage.second.convolutions)
    made = len(convolutions) + len(stage.reductions)
    reads = [(pixels[state >= plan.inputs], _RELU) for state in stage.first.sources]
    reads += [(after, _NORMALISED_RELU)] * len(stage.second.sources)
    reads += [(pixels[reduction.source >= plan.inputs], _RELU) for reduction in stage.reductions]
    # Pools stand only in stages of one state, so their moments are part of no second computation.
    pools = sum(bool(pool.max_norms) + bool(pool.avg_norms) for pool in stage.pools)
    return Work(
        sum(2 * each.kernel**2 * c * after for each in convolutions),
        2 * c * c * after * made,
        sum(c * size * each for size, each in reads)
        + c * after * (_MOMENTS * moments * made + (_POOL + _MOMENTS) * pools),
    )


def _sum(plan: CellPlan, stage: NodeStage, pixels: tuple[int, int]) -> Work:
    pools, skips = _free(stage)
    values = _MIX * (len(stage.terms) + skips) + (_POOL + _MIX) * pools
    return Work(elementwise=pixels[1] * (plan.mixed * values + _bypass(plan, stage, _MIX)))


def _convolutions(plan: CellPlan, node: NodeStage, pixels: tuple[int, int], weights: bool) -> Work:
    c, after = plan.mixed, pixels[1]
    convolutions = (*node.first.convolutions, *node.second.convolutions)
    products = len(convolutions) + len(node.reductions)
    # The mask of a ReLU, and of the normalised ones the two sums that their batch norm's gradient needs.
    masks = sum(pixels[state >= plan.inputs] for state in node.first.sources) * _RELU
    masks += sum(pixels[reduction.source >= plan.inputs] for reduction in node.reductions) * _RELU
    masks += after * len(node.second.sources) * (_NORMALISED_RELU + 1 + _MIX)
    return Work(
        sum((3 if weights else 1) * 2 * each.kernel**2 * c * after for each in convolutions),
        (2 if weights else 1) * 2 * c * c * after * products,
        c * (masks + _GRADIENT * after * products),
    )


def _sum_backward(plan: CellPlan, node: NodeStage, pixels: tuple[int, int]) -> Work:
    pools, skips = _free(node)
    reduced = 1 + _PRODUCT * (len(node.terms) + pools) + _POOL * pools + _MIX * skips
    spread = (_POOL + _GRADIENT + _POOL) * pools + _MIX * skips
    return Work(elementwise=pixels[1] * (plan.mixed * (reduced + spread) + _bypass(plan, node, 2 * _MIX)))


def _free(node: NodeStage) -> tuple[int, int]:
    """Pools and skips of a node."""
    pools = sum((edge.max_pool >= 0) + (edge.avg_pool >= 0) for edge in node.inputs)
    return pools, sum(edge.skip >= 0 for edge in node.inputs)


def _bypass(plan: CellPlan, node: NodeStage, each: int) -> int:
    # At stride 2 the largest of 2x2 pixels is found first.
    return (plan.channels - plan.mixed) * sum(each + 3 * (edge.stride == 2) for edge in node.inputs)
