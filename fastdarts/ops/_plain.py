"""Candidates whose values torch's own kernels compute best: dense convolutions and wide pools, on every backend.

oneDNN and cuDNN have the products of a dense convolution, and a pool of 5 x 5 pixels is no part of the sum's own pass.
What is around them is as in the other launchers: maps are channels last, statistics are float64 and those of what is
stored, the batch norm's backward is folded into what is read, and only the values before the batch norm are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts.ops import maps
from fastdarts.ops._records import PreprocessLaunchers
from fastdarts.plan import Plain

__all__ = ["PlainBackward", "PlainForward", "backward", "forward"]


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
    plain, x = given.plain, given.x
    if given.weight is not None:
        read, step = _read(x, plain)
        y = F.conv2d(read, given.weight.detach().to(read.dtype), None, step, plain.kernel // 2)
    elif plain.kind == "wide_max_pool":
        y = F.max_pool2d(maps.as_dense_maps(x), plain.kernel, plain.stride, plain.kernel // 2)
    else:
        y = F.avg_pool2d(_dense(x), plain.kernel, plain.stride, plain.kernel // 2, count_include_pad=False)
    y = maps.as_dense_maps(y.to(x.dtype))
    return (y, *_moments(y, launchers)) if given.moments else (y, None, None)


def backward(given: PlainBackward) -> Tensor | None:
    """Add the gradient of x to dx; the weight's, in the arithmetic dtype, where it is asked."""
    plain, x = given.plain, given.x
    dy = _gradient(given)
    window = [plain.kernel] * 2, [plain.stride] * 2, [plain.kernel // 2] * 2
    if given.weight is None:
        if plain.kind == "wide_max_pool":
            read = _dense(x)
            _, index = torch.ops.aten.max_pool2d_with_indices(read, *window)
            dx = torch.ops.aten.max_pool2d_with_indices_backward(dy, read, *window, [1, 1], False, index)
        else:
            dx = torch.ops.aten.avg_pool2d_backward(dy, _dense(x), *window, False, False, None)
        given.dx.add_(dx)
        return None
    read, step = _read(x, plain)
    weight = given.weight.detach().to(read.dtype)
    rest = None, [step] * 2, window[2], [1, 1], False, [0, 0], 1, [True, given.weights, False]
    dx, dweight, _ = torch.ops.aten.convolution_backward(dy.to(read.dtype), read, weight, *rest)
    at = given.dx if read.shape == x.shape else given.dx[:, :, :: plain.stride, :: plain.stride]
    at.add_(torch.ops.aten.threshold_backward(dx, read, 0))
    return dweight.to(maps.arithmetic(x.dtype)) if given.weights else None


def _read(x: Tensor, plain: Plain) -> tuple[Tensor, int]:
    """relu(x) as the convolution reads it, and its stride: half-precision units only where a GPU has them."""
    step = plain.stride
    if plain.kernel == 1 and step == 2:
        # A strided 1x1 convolution whose map lies channels last writes past its memory on a CPU (oneDNN issue 6035).
        x, step = x[:, :, ::2, ::2], 1
    dtype = x.dtype if x.is_cuda else maps.arithmetic(x.dtype)
    read = torch.empty(0, dtype=dtype, device=x.device)
    out = maps.empty_maps(*x.shape, like=read)
    return torch.clamp_min(out.copy_(x), 0, out=out), step


def _dense(x: Tensor) -> Tensor:
    """x without gaps, in the arithmetic dtype."""
    return maps.as_dense_maps(x).to(maps.arithmetic(x.dtype))


def _gradient(given: PlainBackward) -> Tensor:
    """dy, dense, in the arithmetic dtype."""
    dtype = maps.arithmetic(given.x.dtype)
    alpha, beta, gamma = (each.view(1, -1, 1, 1) for each in (given.alpha, given.beta, given.gamma))
    dy = _dense(given.g) * alpha.to(dtype)
    if given.y is None:
        return dy.add_(gamma.to(dtype))
    # beta y + gamma is the centred y: |mean| / std may be large, and its digits must not be lost.
    centre = torch.where(beta == 0, torch.zeros_like(beta), -gamma / beta).to(dtype)
    centre = torch.where(centre.isfinite(), centre, torch.zeros_like(centre))
    rest = gamma + beta.to(dtype).double() * centre.double()
    return dy.addcmul_(given.y.to(dtype) - centre, beta.to(dtype)).add_(rest.to(dtype))


def _moments(y: Tensor, launchers: PreprocessLaunchers) -> tuple[Tensor, Tensor]:
    """Mean and biased variance, summed about nearly the mean: one of ten thousand deviations costs no digit."""
    count = y.numel() // y.shape[1]
    about = y.to(maps.arithmetic(y.dtype))
    centre = about.mean((0, 2, 3))
    centre = torch.where(centre.isfinite(), centre, torch.zeros_like(centre))
    off, square = (each / count for each in _sums(about - centre[:, None, None], launchers))
    return centre.double() + off, (square - off.square()).clamp_min_(0)


def _sums(x: Tensor, launchers: PreprocessLaunchers) -> tuple[Tensor, Tensor]:
    """The sums of x and of its squares a channel, float64."""
    x = maps.as_dense_maps(x)
    return launchers.reduce(x, x)
