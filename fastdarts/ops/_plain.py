"""Candidates whose values torch's own kernels compute best: dense convolutions and wide pools, on every backend.

oneDNN and cuDNN have the products of a dense convolution, and a pool of 5 x 5 pixels is no part of the sum's own pass.
What is around them is as in the other launchers: maps are channels last, statistics are float64 and those of what is
stored, the batch norm's backward is folded into what is read, and only the values before the batch norm are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts.ops import maps
from fastdarts.ops._records import PreprocessLaunchers
from fastdarts.plan._schedule import Plain

__all__ = ["PlainBackward", "PlainForward", "backward", "forward"]

Window: TypeAlias = "tuple[list[int], list[int], list[int]]"


@dataclass(frozen=True, slots=True)
class PlainForward:
    """`y = W * relu(x)`, or a pool of x, with the moments of y.

    Args:
        x: maps [N, C', H, W].
        weight: [C', C', k, k], floating; None for a pool.
        plain: which candidate.
        moments: whether mean and variance are computed.
    """

    x: Tensor
    weight: Tensor | None
    plain: Plain
    moments: bool


@dataclass(frozen=True, slots=True)
class PlainBackward:
    """The gradients of :class:`PlainForward`, of `dy = alpha g + beta y + gamma`.

    Args:
        x: as in forward, like weight and plain.
        g: maps of y's shape, the dtype of x.
        y: what forward returned; None for beta = 0.
        alpha: [C'], float64; so are beta and gamma.
        dx: maps of x's shape and dtype, to which the gradient is added.
        weights: whether the weight's gradient is asked.
    """

    x: Tensor
    weight: Tensor | None
    plain: Plain
    g: Tensor
    y: Tensor | None
    alpha: Tensor
    beta: Tensor
    gamma: Tensor
    dx: Tensor
    weights: bool


def forward(given: PlainForward, launchers: PreprocessLaunchers) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """y [N, C', ceil(H / stride), ceil(W / stride)], channels_last; mean and biased variance [C'], float64, or None."""
    plain, x, weight = given.plain, given.x, given.weight
    if weight is not None:
        read, step = _read(x, plain)
        kernel = weight.detach().to(read.dtype)
        y = _map(lambda: F.conv2d(read, kernel, None, step, plain.kernel // 2), x, plain.stride)
    else:
        y = _pooled(x, plain)
    return (y, *_moments(y, launchers)) if given.moments else (y, None, None)


def backward(given: PlainBackward) -> Tensor | None:
    """Add the gradient of x to dx; the weight's, in the arithmetic dtype, where it is asked."""
    plain, x = given.plain, given.x
    dy, single = _gradient(given), _single(x)
    window = [plain.kernel] * 2, [plain.stride] * 2, [plain.kernel // 2] * 2
    if given.weight is None:
        pool = _max_gradient if plain.kind == "wide_max_pool" else _avg_gradient
        index = (
            maps.empty(dy.numel(), dtype=torch.int64, device=x.device) if x.is_meta and pool is _max_gradient else None
        )
        read = _dense(x)  # a copy where x is some of the channels, on meta too
        dx = _map(lambda: pool(dy, read, window), single, 1, x)
        del index, read
        if not x.is_meta:
            given.dx.add_(dx)
        return None
    read, step = _read(x, plain)
    dweight = maps.empty(*given.weight.shape, dtype=single.dtype, device=x.device) if given.weights else None
    weight, asked = given.weight.detach().to(read.dtype), [True, given.weights, False]
    rest = None, [step] * 2, window[2], [1, 1], False, [0, 0], 1, asked

    def gradients() -> Tensor:
        dx, found, _ = torch.ops.aten.convolution_backward(dy.to(read.dtype), read, weight, *rest)
        if dweight is not None:
            dweight.copy_(found)
        masked: Tensor = torch.ops.aten.threshold_backward(dx, read, 0)
        return masked

    dx = _map(gradients, single, 1, read)
    if not x.is_meta:
        at = given.dx if read.shape == x.shape else given.dx[:, :, :: plain.stride, :: plain.stride]
        at.add_(dx)
    return dweight


def _pooled(x: Tensor, plain: Plain) -> Tensor:
    """A pool of x, of which a copy is made, on meta too, where it is some of the channels."""
    window = plain.kernel, plain.stride, plain.kernel // 2
    if plain.kind == "wide_max_pool":
        read = maps.as_dense_maps(x)
        return _map(lambda: F.max_pool2d(read, *window), x, plain.stride)
    single = _dense(x)
    return _map(lambda: F.avg_pool2d(single, *window, count_include_pad=False), x, plain.stride)


def _max_gradient(dy: Tensor, x: Tensor, window: Window) -> Tensor:
    _, index = torch.ops.aten.max_pool2d_with_indices(x, *window)
    maps.counted(index)
    dx: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(dy, x, *window, [1, 1], False, index)
    return maps.counted(dx)


def _avg_gradient(dy: Tensor, x: Tensor, window: Window) -> Tensor:
    dx: Tensor = torch.ops.aten.avg_pool2d_backward(dy, x, *window, False, False, None)
    return dx


def _map(make: Callable[[], Tensor], like: Tensor, stride: int, size: Tensor | None = None) -> Tensor:
    """A map that torch makes, of the dtype of `like` and the size of `size` over a stride; on meta it is allocated."""
    n, channels, height, width = (like if size is None else size).shape
    if like.is_meta:
        return maps.empty_maps(n, channels, -(-height // stride), -(-width // stride), like=like)
    return maps.counted(maps.as_dense_maps(make().to(like.dtype)))


def _single(x: Tensor) -> Tensor:
    """Of the arithmetic dtype of x, on its device."""
    return x.new_empty(0, dtype=maps.arithmetic(x.dtype))


def _read(x: Tensor, plain: Plain) -> tuple[Tensor, int]:
    """relu(x) as the convolution reads it, and its stride: half-precision units only where a GPU has them."""
    step = plain.stride
    if plain.kernel == 1 and step == 2:
        # A strided 1x1 convolution whose map lies channels last writes past its memory on a CPU (oneDNN issue 6035).
        x, step = x[:, :, ::2, ::2], 1
    out = maps.empty_maps(*x.shape, like=x if x.is_cuda else _single(x))
    return out if x.is_meta else torch.clamp_min(out.copy_(x), 0, out=out), step


def _dense(x: Tensor) -> Tensor:
    """x without gaps, in the arithmetic dtype."""
    return maps.as_dense_maps(x).to(maps.arithmetic(x.dtype))


def _gradient(given: PlainBackward) -> Tensor:
    """dy, dense, in the arithmetic dtype."""
    single, y = _single(given.x), given.y
    alpha, beta, gamma = (each.view(1, -1, 1, 1) for each in (given.alpha, given.beta, given.gamma))
    scaled = _map(lambda: _dense(given.g) * alpha.to(single.dtype), single, 1, given.g)
    if given.g.is_meta:
        return scaled
    if y is None:
        return scaled.add_(gamma.to(single.dtype))
    # beta y + gamma is the centred y: |mean| / std may be large, and its digits must not be lost.
    centre = torch.where(beta == 0, torch.zeros_like(beta), -gamma / beta).to(single.dtype)
    centre = torch.where(centre.isfinite(), centre, torch.zeros_like(centre))
    beta = beta.to(single.dtype)
    rest = gamma + beta.double() * centre.double()
    return scaled.addcmul_(y.to(single.dtype) - centre, beta).add_(rest.to(single.dtype))


def _moments(y: Tensor, launchers: PreprocessLaunchers) -> tuple[Tensor, Tensor]:
    """Mean and biased variance, summed about nearly the mean: one of ten thousand deviations costs no digit."""
    count = y.numel() // y.shape[1]
    centre = y.to(maps.arithmetic(y.dtype)).mean((0, 2, 3))
    centre = torch.where(centre.isfinite(), centre, torch.zeros_like(centre))
    about = _map(lambda: y.to(centre.dtype) - centre[:, None, None], _single(y), 1, y)
    off, square = (each / count for each in launchers.reduce(about, about))
    return centre.double() + off, (square - off.square()).clamp_min_(0)
