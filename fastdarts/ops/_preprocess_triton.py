"""The launchers of preprocess (`PreprocessLaunchers`) in Triton; on the CPU where Triton interprets.

Weights, statistics and coefficients are converted as they are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastdarts.kernels import preprocess as kernels
from fastdarts.kernels import preprocess_backward as backward_kernels
from fastdarts.kernels.preprocess import power_of_two
from fastdarts.ops import maps
from fastdarts.ops._engine import tf32_allowed
from fastdarts.ops._preprocess_cpu import empty_as, maps_out, outputs_of, statistics
from fastdarts.ops._records import PreprocessBackward, PreprocessForward

__all__ = ["backward", "forward", "normalise_", "reduce"]

# Programs that fill a large GPU twice over: more parts of a sum would cost more than they hide.
_PROGRAMS = 264
_FOLD = {"num_warps": 8, "enable_fp_fusion": True}


class _Walk(NamedTuple):
    """How a kernel walks over pixels: strides in elements, and what `pixels_of` takes as WALK and ALIGN."""

    image: int
    channel: int
    row: int
    column: int
    walk: int
    align: int


def forward(given: PreprocessForward) -> tuple[Tensor, Tensor | None, Tensor | None]:
    x, weights, stride, moments = given.x, given.weights, given.stride, given.moments
    outputs = outputs_of(weights)
    channels = sum(outputs)
    y = maps_out(x, channels, stride)
    mean, var = statistics(channels, x) if moments else (None, None)
    pixels = y.numel() // channels
    tiles = kernels.tiles_of(pixels, x.shape[1], max(outputs))
    blocks = _cdiv(pixels, tiles.pixels)
    parts = maps.empty(2, blocks if moments else 0, channels, dtype=torch.float64, device=x.device)
    if x.is_meta:
        return y, mean, var
    walk = _walk(x, stride)
    kernels.forward[(blocks, 2 if outputs[1] else 1)](
        y,
        *parts.unbind(),
        x,
        *_both(weights),
        *walk[:4],
        pixels,
        *x.shape[2:],
        x.shape[1],
        *outputs,
        stride,
        walk.walk,
        walk.align,
        moments,
        _precision(x),
        *tiles[:4],
        num_warps=tiles.warps,
        enable_fp_fusion=True,
    )
    if mean is not None and var is not None:
        args = (mean, var, *parts.unbind(), pixels, blocks, channels, tiles.pixels)
        kernels.fold_moments[(_cdiv(channels, 16),)](*args, 256, 16, **_FOLD)
    return y, mean, var


def normalise_(y: Tensor, mean: Tensor, rstd: Tensor) -> None:
    if not y.is_meta:
        size, block = y.numel(), kernels.NORMALISE
        args = (y, mean.contiguous(), rstd.contiguous(), size, y.shape[1], block)
        kernels.normalise[(_cdiv(size, block),)](*args, num_warps=4, enable_fp_fusion=True)


def reduce(g: Tensor, xhat: Tensor) -> tuple[Tensor, Tensor]:
    channels, pixels = g.shape[1], g.numel() // g.shape[1]
    total, products = statistics(channels, g)
    block = min(power_of_two(channels), 64)
    rows = 4096 // block
    slots = min(_cdiv(pixels, rows), 2 * _PROGRAMS)
    parts = maps.empty(slots, 2, channels, dtype=maps.arithmetic(g.dtype), device=g.device)
    if not g.is_meta:
        strides = maps.pixel_stride(g), maps.pixel_stride(xhat)
        backward_kernels.reduce[(slots, _cdiv(channels, block))](
            parts,
            g,
            xhat,
            *strides,
            pixels,
            slots,
            channels,
            kernels.alignment(*strides),
            rows,
            block,
            num_warps=4,
            enable_fp_fusion=True,
        )
        _fold(total, products, parts)
    return total, products


def backward(given: PreprocessBackward) -> tuple[Tensor | None, list[Tensor] | None]:
    x, weights, g, y, stride, dx = given.x, given.weights, given.g, given.y, given.stride, given.dx
    need_dx, need_weights = given.need_dx, given.need_weights
    outputs, inputs, add = outputs_of(weights), x.shape[1], dx is not None
    if need_dx and dx is None:
        dx = empty_as(x)
        if stride == 2:  # the halves write only the pixels that they read
            dx.zero_()
            add = True
    dtype = maps.arithmetic(x.dtype)
    dweights = [maps.empty(*weight.shape, dtype=dtype, device=x.device) for weight in weights] if need_weights else []
    pixels = g.numel() // g.shape[1]
    tiles = backward_kernels.tiles_of(inputs, max(outputs))
    halves, chunks = 2 if outputs[1] else 1, _cdiv(inputs, tiles.inputs)
    slots = min(_cdiv(pixels, tiles.pixels), max(1, _PROGRAMS // (halves * chunks)))
    size = (slots, sum(outputs), inputs) if need_weights else (0,)
    parts = maps.empty(*size, dtype=dtype, device=x.device)
    if not x.is_meta and (need_dx or need_weights):
        target = dx if need_dx and dx is not None else x
        walk, dx_walk = _walk(x, stride), _walk(target, stride)
        # Whatever is not read is any pointer: y without a beta, and all strides of an absent dx.
        values = g if y is None else y
        pixel_strides = maps.pixel_stride(g), maps.pixel_stride(values)
        apart = need_dx and need_weights and backward_kernels.in_two(max(outputs))
        for wanted in ((True, False), (False, True)) if apart else ((need_dx, need_weights),):
            backward_kernels.backward[(slots, chunks, halves)](
                target,
                parts,
                x,
                *_both(weights),
                g,
                values,
                *(each.contiguous() for each in (given.alpha, given.beta, given.gamma)),
                *walk[:4],
                *dx_walk[:4],
                *pixel_strides,
                pixels,
                *x.shape[2:],
                slots,
                inputs,
                *outputs,
                stride,
                walk.walk,
                dx_walk.walk,
                kernels.alignment(walk.align, dx_walk.align, *pixel_strides),
                y is not None,
                add,
                *wanted,
                _precision(x),
                *tiles[:4],
                num_warps=tiles.warps,
                enable_fp_fusion=True,
            )
        if need_weights:
            _fold(dweights[0], dweights[-1], parts)
    return (dx if need_dx else None), (dweights if need_weights else None)


def _fold(first: Tensor, second: Tensor, parts: Tensor) -> None:
    """The sums over the slots of parts [slots, ...]: the first ones, then, where they are another, the second ones."""
    size, slots = parts[0].numel(), parts.shape[0]
    block = 32
    args = (first, second, parts, slots, first.numel(), size, min(256, power_of_two(slots)), block)
    backward_kernels.fold_sums[(_cdiv(size, block),)](*args, **_FOLD)


def _walk(x: Tensor, stride: int) -> _Walk:
    pixel = maps.pixel_stride(x)
    if pixel:
        walk = 0 if stride == 1 else 2
        return _Walk(x.shape[2] * x.shape[3] * pixel, 1, x.shape[3] * pixel, pixel, walk, kernels.alignment(pixel))
    image, channel, row, column = x.stride()
    joined = stride == 1 and x.shape[3] > 1 and row == x.shape[3] * column
    return _Walk(image, channel, row, column, 1 if joined else 2, 1)


def _both(weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    first, second = (weights[i].detach().contiguous() for i in (0, -1))
    return first, second


def _precision(x: Tensor) -> str:
    """How factors enter the matrix units; those of bfloat16 and float16 lose nothing in TF32."""
    if x.dtype == torch.float64:
        return "ieee"
    return "tf32x3" if x.dtype == torch.float32 and not tf32_allowed() else "tf32"


def _cdiv(number: int, by: int) -> int:
    return -(-number // by)
