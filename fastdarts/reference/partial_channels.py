"""Partial channel connections: a part of the channels is mixed, the rest goes by."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["bypass", "channel_shuffle", "partial_channels"]


def partial_channels(x: Tensor, mix: Callable[[Tensor], Tensor], *, partial: int, stride: int = 1) -> Tensor:
    """Mix the first C/K channels, let the others by, shuffle.

    `y = shuffle_K(concat(mix(x[:C/K]), bypass(x[C/K:])))`; with K = 1 it is `mix(x)`.

    Args:
        x: [N, C, H, W], floating; C a multiple of K.
        mix: from [N, C/K, H, W] to [N, C/K, ceil(H / stride), ceil(W / stride)], the mixed operation.
        partial: K, the share of the channels that is mixed is 1/K.
        stride: 1 or 2, pixels.

    Returns:
        [N, C, ceil(H / stride), ceil(W / stride)], the dtype of x.

    Source: Xu et al. 2020 (PC-DARTS), Eq. 3; docs/facts.md, 3.
    """
    if partial == 1:
        return mix(x)
    sampled = x.shape[1] // partial
    joined = torch.cat([mix(x[:, :sampled]), bypass(x[:, sampled:], stride=stride)], dim=1)
    return channel_shuffle(joined, partial)


def bypass(x: Tensor, *, stride: int = 1) -> Tensor:
    """The channels that are not mixed: as they are, or the maxima of 2x2 windows at stride 2.

    Args:
        x: [N, C, H, W], floating; at an odd H or W the last window has one row or column only.
        stride: 1 or 2, pixels.

    Returns:
        [N, C, ceil(H / stride), ceil(W / stride)], the dtype of x.

    Source: Xu et al. 2020 (PC-DARTS), section 3.2; docs/facts.md, 3. The peer fails on odd sizes.
    """
    return x if stride == 1 else F.max_pool2d(x, 2, 2, ceil_mode=True)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Deal the channels out over the groups, so that the next mix sees others.

    `y[c * groups + g] = x[g * C / groups + c]`

    Args:
        x: [N, C, H, W], any dtype; C a multiple of groups.
        groups: number of groups, K in PC-DARTS.

    Returns:
        [N, C, H, W], the dtype of x.

    Source: Zhang et al. 2018 (ShuffleNet), section 3.1; docs/facts.md, 3.
    """
    n, channels, height, width = x.shape
    grouped = x.reshape(n, groups, channels // groups, height, width)
    return grouped.transpose(1, 2).reshape(n, channels, height, width)
