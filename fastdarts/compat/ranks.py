"""Alphas that are the same on every rank, which `DistributedDataParallel` sees to for parameters alone."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["average_gradients", "rank_count", "share"]


def rank_count() -> int:
    """How many ranks the default process group has; 1 where there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@torch.no_grad()
def share(alphas: Iterable[Tensor]) -> None:
    """Give every rank the alphas of rank 0."""
    for alpha in alphas:
        dist.broadcast(alpha.data, src=0)


@torch.no_grad()
def average_gradients(alphas: Iterable[Tensor]) -> None:
    """Replace the alphas' gradients by their means over the ranks; none counts as zero."""
    ranks = rank_count()
    for alpha in alphas:
        mean = torch.zeros_like(alpha) if alpha.grad is None else alpha.grad.contiguous()
        # A sum: gloo knows no mean.
        dist.all_reduce(mean)
        alpha.grad = mean.div_(ranks)
