"""ReLU, 1x1 convolution, batch norm: what a cell does to its inputs, at stride 2 by factorised reduction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts.reference.convolution import relu_conv_bn
from fastdarts.reference.factorised_reduce import factorised_reduce

__all__ = ["preprocess"]


def preprocess(
    x: Tensor,
    weights: Sequence[Tensor],
    *,
    stride: int = 1,
    mean: Tensor | None = None,
    var: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    """Project a map by ReLU and a 1x1 convolution and normalise it; at stride 2 by two shifted halves.

    `y = W relu(x)` at stride 1, `y = concat(W_1 relu(x)[::2, ::2], W_2 relu(x)[1::2, 1::2])` at stride 2, zeros
    outside; `xhat = (y - mean) r`, `r = 1 / sqrt(var + eps)`, with the mean and the biased variance of y over N, H and
    W, or with the given ones.

    Backward, with `g` the gradient of xhat and M the pixels of y, per channel `G = sum g`, `Q = sum g xhat`:
    `dy = r (g - G / M - xhat Q / M)`, or `dy = r g` with given statistics; `dx = W^T dy` where `x > 0`, else 0;
    `dW = sum over pixels of dy relu(x)^T`.

    Args:
        x: [N, C_in, H, W], float32 | bfloat16 | float64; contiguous, channels_last, or a range of the channels of one.
        weights: one [C_out, C_in, 1, 1] at stride 1; at stride 2 the two halves', or only the first one's where there
            is one output channel; the dtype of x.
        stride: 1 or 2, pixels.
        mean: [C_out], floating: running statistics, as in evaluation; None for those of the batch.
        var: [C_out], floating, with mean.
        eps: added to the variance.

    Returns:
        (xhat [N, C_out, ceil(H / stride), ceil(W / stride)], the dtype of x, channels_last; mean [C_out], float64; var
        [C_out], float64, biased). The statistics carry no gradient.

    Raises:
        ValueError: a shape that does not fit, an empty batch, or one pixel in all, whose variance is not defined.
        TypeError: another dtype.
        RuntimeError: a second derivative of the fused op; `use_backend("reference")` has one.

    Source: Liu et al. 2019 (DARTS), appendix A.1.1; quark0/darts `ReLUConvBN` and `FactorizedReduce`.
    """
    seen: list[Tensor] = []

    def norm(y: Tensor) -> Tensor:
        if mean is not None and var is not None:
            seen.extend((mean.double(), var.double()))
            return F.batch_norm(y, mean.to(y.dtype), var.to(y.dtype), training=False, eps=eps)
        exact = y.detach().double()
        seen.extend((exact.mean((0, 2, 3)), exact.var((0, 2, 3), correction=0)))
        return F.batch_norm(y, None, None, training=True, eps=eps)

    if stride == 1:
        xhat = relu_conv_bn(x, weights[0], norm=norm)
    else:
        xhat = factorised_reduce(x, weights[0], weights[1] if len(weights) > 1 else None, norm=norm)
    return xhat.contiguous(memory_format=torch.channels_last), seen[0], seen[1]
