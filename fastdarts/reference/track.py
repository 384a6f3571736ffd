"""Running statistics of batch norms, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["track_"]


@torch.no_grad()
def track_(
    mean: Tensor,
    var: Tensor,
    batches: Tensor,
    batch_mean: Tensor,
    batch_var: Tensor,
    *,
    momentum: float,
    unbiased: float,
) -> None:
    """Move running statistics towards a batch's, as `nn.BatchNorm2d` does in training, in place.

    `mean = (1 - m) * mean + m * batch_mean`, the variance likewise and unbiased; in float64, and rounded once.

    Args:
        mean: [B, C] or [C], floating; written.
        var: the same; written.
        batches: [B] or [], int64, `num_batches_tracked`; written, one more.
        batch_mean: of mean's shape, float64.
        batch_var: the same, biased.
        momentum: m.
        unbiased: M / (M - 1) for batches of M values a channel.

    Raises:
        UserError: shapes that differ, or tensors on several devices.
        TypeError: another dtype.

    Source: Ioffe and Szegedy 2015 (batch normalisation), Algorithm 2.
    """
    batches += 1
    for own, new, factor in ((mean, batch_mean, 1.0), (var, batch_var, unbiased)):
        own.copy_(torch.lerp(own.double(), new * factor, momentum))
