"""Floating-point operations of a whole supernet: its cells by their plans, the rest by its shapes."""

from __future__ import annotations

from typing import cast

from torch import nn

from fastdarts.nn import Cell, FactorizedReduce, Supernet
from fastdarts.nn.checks import halved
from fastdarts.plan import Flops, Work, cell_plan, flops

__all__ = ["supernet_flops"]

Size = tuple[int, int]


def supernet_flops(
    model: Supernet, n: int, height: int, width: int, *, memory: str | None = None, weights: bool = True
) -> Flops | None:
    """The work of one pass in training.

    A dense convolution of M output pixels is `2 k^2 C_in C_out M` (counted as pointwise), once forward and once each
    for the gradients of its input and of its weight; :func:`fastdarts.plan.flops` has the cells.

    Args:
        model: the supernet.
        n: batch size.
        height, width: of the images, pixels.
        memory: mode of the cells; None for their own.
        weights: whether gradients of the weights are asked.

    Returns:
        Forward and backward; None where a candidate has no fused kernel.
    """
    found, older, newer = _stem(model, n, (height, width), weights)
    for cell in cast(list[Cell], list(model.cells)):
        plan = cell_plan(cell.space, cell.channels, partial=model.partial, reduction=cell.reduction)
        if plan is None:
            return None
        # A factorised reduction is one product of all its output channels at each pixel, as a 1x1 convolution is.
        inside = _halve(older) if isinstance(cell.preprocess0, FactorizedReduce) else older
        found += _dense(cell.c_prev_prev, cell.channels, n, older, inside, weights)
        found += _dense(cell.c_prev, cell.channels, n, newer, newer, weights)
        found += flops(plan, n, *newer, memory or cell.memory, weights=weights)
        older, newer = newer, _halve(newer) if cell.reduction else newer
    head = model.classifier
    product = 2 * n * head.in_features * head.out_features
    mean = n * newer[0] * newer[1] * head.in_features
    return found + Flops(Work(0, product, mean), Work(0, product * (1 + weights), mean))


def _stem(model: Supernet, n: int, size: Size, weights: bool) -> tuple[Flops, Size, Size]:
    """The stem's work, and the sizes of the first cell's two inputs."""
    stages = [model.stem] if hasattr(model, "stem") else [model.stem0, model.stem1]
    found, sizes, first = Flops(Work(), Work()), [size], stages[0][0]
    for stage in stages:
        for conv in (layer for layer in stage if isinstance(layer, nn.Conv2d)):
            after = _halve(size) if conv.stride == (2, 2) else size
            image = conv is first
            found += _dense(conv.in_channels, conv.out_channels, n, size, after, weights, taps=9, image=image)
            size = after
        sizes.append(size)
    return found, sizes[1], sizes[-1]


def _dense(
    c_in: int, c_out: int, n: int, before: Size, after: Size, weights: bool, *, taps: int = 1, image: bool = False
) -> Flops:
    """ReLU, a dense convolution and batch norm; of an image no gradient is asked, nor has it a ReLU."""
    given, made = n * before[0] * before[1] * c_in * (not image), n * after[0] * after[1] * c_out
    product = 2 * taps * c_in * made
    # Moments 4, normalise 2; backward the two sums 5 and the gradient 4.
    return Flops(Work(0, product, given + 6 * made), Work(0, product * ((not image) + weights), given + 9 * made))


def _halve(size: Size) -> Size:
    return halved(size[0], 2), halved(size[1], 2)
