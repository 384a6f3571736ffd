"""Batch normalisation, the last step of every primitive that has one."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

__all__ = ["NormFunction", "batch_norm"]

NormFunction = Callable[[Tensor], Tensor]
"""What follows a convolution or a pool: `batch_norm` here, a batch-norm module with its running statistics in nn."""

Norm = NormFunction  # the name of before


def batch_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float = 1e-5) -> Tensor:
    """Normalise each channel by the statistics of the batch, as the search does.

    `y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias`, mean and biased variance over N, H and W.

    Args:
        x: [N, C, H, W], floating; N * H * W at least 2.
        weight: [C], the dtype of x, or None for 1 (the search has no affine part).
        bias: [C], the dtype of x, or None for 0.
        eps: added to the variance.

    Returns:
        [N, C, H, W], the dtype of x.

    Raises:
        ValueError: N * H * W is 1, for which the variance is not defined.

    Source: Ioffe and Szegedy 2015, Algorithm 1; docs/facts.md, 1 for where it has no affine part.
    """
    return F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)
