"""The running statistics of batch norms on Triton: arguments as in `fastdarts.reference.track`."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from fastdarts.kernels import track as kernels

__all__ = ["track_"]

_BLOCK = 256


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
    """See :func:`fastdarts.reference.track.track_`; one launch."""
    size, count = mean.numel(), batches.numel()
    kernels.track[(triton.cdiv(size, _BLOCK),)](
        mean, var, batches, batch_mean, batch_var, size, count, momentum, unbiased, _BLOCK,
        num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
    torch.autograd.graph.increment_version((mean, var, batches))
