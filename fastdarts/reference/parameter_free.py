"""The primitives without weights: pools, zero and noise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts.reference.batch_norm import NormFunction

__all__ = ["avg_pool", "max_pool", "noise", "zero"]


def max_pool(x: Tensor, *, kernel: int = 3, stride: int = 1, norm: NormFunction | None = None) -> Tensor:
    """The largest value of each window inside the image, then batch norm in the search.

    Args:
        x: [N, C, H, W], floating.
        kernel: side of the window, odd, pixels.
        stride: 1 or 2, pixels.
        norm: what normalises the result; None in the derived network.

    Returns:
        [N, C, ceil(H / stride), ceil(W / stride)], the dtype of x.

    Source: Liu et al. 2019 (DARTS), section 3.1; docs/facts.md, 1 for the batch norm.
    """
    pooled = F.max_pool2d(x, kernel, stride, kernel // 2)
    return pooled if norm is None else norm(pooled)


def avg_pool(x: Tensor, *, kernel: int = 3, stride: int = 1, norm: NormFunction | None = None) -> Tensor:
    """The mean of each window's pixels inside the image, then batch norm in the search.

    Args:
        x: [N, C, H, W], floating.
        kernel: side of the window, odd, pixels; pixels outside the image are not counted.
        stride: 1 or 2, pixels.
        norm: what normalises the result; None in the derived network.

    Returns:
        [N, C, ceil(H / stride), ceil(W / stride)], the dtype of x.

    Source: Liu et al. 2019 (DARTS), section 3.1; docs/facts.md, 1 for the batch norm.
    """
    pooled = F.avg_pool2d(x, kernel, stride, kernel // 2, count_include_pad=False)
    return pooled if norm is None else norm(pooled)


def zero(x: Tensor, *, stride: int = 1) -> Tensor:
    """No connection: `y = 0 * x[::stride, ::stride]`, kept in the graph so that x has a gradient, zero.

    Args:
        x: [N, C, H, W], floating.
        stride: 1 or 2, pixels.

    Returns:
        [N, C, ceil(H / stride), ceil(W / stride)], the dtype of x.

    Source: Liu et al. 2019 (DARTS), section 2.1.
    """
    return x[:, :, ::stride, ::stride].mul(0.0)


def noise(x: Tensor, *, stride: int = 1, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal values of the strided input's shape, independent of the input.

    Args:
        x: [N, C, H, W], floating; only its shape, dtype and device are used.
        stride: 1 or 2, pixels.
        generator: where the values come from; None for torch's default generator of the device.

    Returns:
        [N, C, ceil(H / stride), ceil(W / stride)], the dtype of x; it carries no gradient.

    Source: Zela et al. 2020 (RobustDARTS), section 3, space S4; docs/facts.md, 6.
    """
    return torch.empty_like(x[:, :, ::stride, ::stride]).normal_(generator=generator)
