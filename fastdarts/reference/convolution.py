"""The parametric primitives: ReLU, convolutions, batch norm."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fastdarts.reference.batch_norm import NormFunction, batch_norm

__all__ = ["conv_7x1_1x7", "dil_conv", "relu_conv_bn", "sep_conv"]


def relu_conv_bn(
    x: Tensor, weight: Tensor, *, stride: int = 1, padding: int | None = None, norm: NormFunction = batch_norm
) -> Tensor:
    """ReLU, one dense convolution, batch norm: a cell's preprocessing.

    `y = norm(weight * relu(x))`

    Args:
        x: [N, C_in, H, W], floating.
        weight: [C_out, C_in, k, k], the dtype of x.
        stride: 1 or 2, pixels.
        padding: pixels of zeros on each side; None for k // 2, which keeps ceil(H / stride).
        norm: what normalises the result.

    Returns:
        [N, C_out, ceil(H / stride), ceil(W / stride)], the dtype of x.

    Source: Liu et al. 2019 (DARTS), appendix A.1.1; docs/facts.md, 1.
    """
    padding = weight.shape[-1] // 2 if padding is None else padding
    return norm(F.conv2d(F.relu(x), weight, None, stride, padding))


def dil_conv(
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    *,
    stride: int = 1,
    dilation: int = 2,
    padding: int | None = None,
    norm: NormFunction = batch_norm,
) -> Tensor:
    """ReLU, a (dilated) depthwise convolution, a pointwise convolution, batch norm.

    `y = norm(pointwise * (depthwise * relu(x)))`

    Args:
        x: [N, C_in, H, W], floating.
        depthwise: [C_in, 1, k, k], the dtype of x; k odd.
        pointwise: [C_out, C_in, 1, 1], the dtype of x.
        stride: of the depthwise convolution, 1 or 2, pixels.
        dilation: of the depthwise convolution, pixels between its taps.
        padding: pixels of zeros on each side; None for dilation * (k // 2), which keeps ceil(H / stride).
        norm: what normalises the result.

    Returns:
        [N, C_out, ceil(H / stride), ceil(W / stride)], the dtype of x.

    Source: Liu et al. 2019 (DARTS), section 3.1; docs/facts.md, 1.
    """
    padding = dilation * (depthwise.shape[-1] // 2) if padding is None else padding
    spread = F.conv2d(F.relu(x), depthwise, None, stride, padding, dilation, groups=x.shape[1])
    return norm(F.conv2d(spread, pointwise))


def sep_conv(
    x: Tensor,
    depthwise_1: Tensor,
    pointwise_1: Tensor,
    depthwise_2: Tensor,
    pointwise_2: Tensor,
    *,
    stride: int = 1,
    padding: int | None = None,
    norm_1: NormFunction = batch_norm,
    norm_2: NormFunction = batch_norm,
) -> Tensor:
    """A depthwise separable convolution applied twice, the stride in the first half.

    `u = norm_1(pointwise_1 * (depthwise_1 * relu(x)))`, `y = norm_2(pointwise_2 * (depthwise_2 * relu(u)))`

    Args:
        x: [N, C_in, H, W], floating.
        depthwise_1: [C_in, 1, k, k], the dtype of x; k odd.
        pointwise_1: [C_in, C_in, 1, 1], the dtype of x.
        depthwise_2: [C_in, 1, k, k], the dtype of x.
        pointwise_2: [C_out, C_in, 1, 1], the dtype of x.
        stride: 1 or 2, pixels.
        padding: pixels of zeros on each side; None for k // 2, which keeps ceil(H / stride).
        norm_1: what normalises the first half.
        norm_2: what normalises the second half.

    Returns:
        [N, C_out, ceil(H / stride), ceil(W / stride)], the dtype of x.

    Source: Liu et al. 2019 (DARTS), section 3.1; docs/facts.md, 1.
    """
    u = dil_conv(x, depthwise_1, pointwise_1, stride=stride, dilation=1, padding=padding, norm=norm_1)
    return dil_conv(u, depthwise_2, pointwise_2, stride=1, dilation=1, padding=padding, norm=norm_2)


def conv_7x1_1x7(x: Tensor, row: Tensor, column: Tensor, *, stride: int = 1, norm: NormFunction = batch_norm) -> Tensor:
    """ReLU, a convolution along rows, one along columns, batch norm.

    `y = norm(column * (row * relu(x)))`

    Args:
        x: [N, C, H, W], floating.
        row: [C, C, 1, k], the dtype of x; k odd, 7 in the literature.
        column: [C, C, k, 1], the dtype of x.
        stride: 1 or 2, pixels; along W in the first convolution, along H in the second.
        norm: what normalises the result.

    Returns:
        [N, C, ceil(H / stride), ceil(W / stride)], the dtype of x.

    Source: Real et al. 2019 (AmoebaNet), Figure 5; docs/facts.md, 1.
    """
    along_rows = F.conv2d(F.relu(x), row, None, (1, stride), (0, row.shape[-1] // 2))
    return norm(F.conv2d(along_rows, column, None, (stride, 1), (column.shape[-2] // 2, 0)))
