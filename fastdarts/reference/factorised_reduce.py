"""Factorised reduction: the skip connection where the stride is 2."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts.reference.batch_norm import NormFunction, batch_norm

__all__ = ["factorised_reduce"]


def factorised_reduce(
    x: Tensor, weight_1: Tensor, weight_2: Tensor | None, *, norm: NormFunction = batch_norm
) -> Tensor:
    """Halve the map by two pointwise convolutions of stride 2, the second on the map shifted by one pixel.

    `y = norm(concat(weight_1 * relu(x)[::2, ::2], weight_2 * relu(x)[1::2, 1::2]))`, the shifted map filled with zeros
    at the bottom where H is odd and at the right where W is odd, so that both halves have one size.

    Args:
        x: [N, C_in, H, W], floating; any H and W, 1 included.
        weight_1: [C_1, C_in, 1, 1], the dtype of x.
        weight_2: [C_2, C_in, 1, 1], the dtype of x, or None where there is only one output channel.
        norm: what normalises the result.

    Returns:
        [N, C_1 + C_2, ceil(H / 2), ceil(W / 2)], the dtype of x.

    Source: quark0/darts `FactorizedReduce`, which fails on odd sizes; the zero fill is ours.
    """
    x = F.relu(x)
    halves = [F.conv2d(x, weight_1, stride=2)]
    if weight_2 is not None:
        shifted = x[:, :, 1:, 1:]
        bottom, right = x.shape[2] % 2, x.shape[3] % 2
        if bottom or right:
            shifted = F.pad(shifted, (0, right, 0, bottom))
        halves.append(F.conv2d(shifted, weight_2, stride=2))
    return norm(torch.cat(halves, dim=1))
