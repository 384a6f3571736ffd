"""The launchers of coefficients in plain torch: vectors of a few hundred channels are no work for a kernel on a CPU.

All tensors are on the CPU, or on meta: then the very same tensors are allocated and nothing is computed. What they
compute and their arguments: `fastdarts.reference.coefficients`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastdarts.ops import maps

__all__ = ["empty", "gradient", "mixing", "rows"]


def rows(mean: Tensor, var: Tensor, index: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    found, rstd = (empty(len(index), like=mean) for _ in range(2))
    if not mean.is_meta:
        torch.index_select(mean, 0, index, out=found)
        torch.index_select(var, 0, index, out=rstd).add_(eps).rsqrt_()
    return found, rstd


def mixing(
    mean: Tensor, var: Tensor, norms: Tensor, weights: Tensor, columns: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    scale = empty(len(norms), like=mean)
    found, rstd = rows(mean, var, norms, eps)
    if not mean.is_meta:
        torch.mul(weights.index_select(0, columns).unsqueeze(1), rstd, out=scale)
    return scale, found, rstd


def gradient(
    scale: Tensor, rstd: Tensor, mean: Tensor, total: Tensor, products: Tensor, *, pixels: int, stored: int
) -> Tensor:
    out = maps.empty(3, *scale.shape, dtype=scale.dtype, device=scale.device)
    if not scale.is_meta:
        alpha, beta, gamma = out.unbind()
        alpha.copy_(scale)
        torch.mul(scale, rstd, out=beta).mul_(products).mul_(-1.0 / pixels)
        torch.mul(scale, total, out=gamma).mul_(-1.0 / pixels)
        gamma[:stored].addcmul_(beta[:stored], mean[:stored], value=-1.0)
    return out


def empty(count: int, *, like: Tensor) -> Tensor:
    """Uninitialised rows [count, C'] beside `like` [R, C']."""
    return maps.empty(count, like.shape[1], dtype=like.dtype, device=like.device)
