"""The launchers of coefficients for a GPU: one launch each.

What they compute and their arguments: `fastdarts.reference.coefficients`; tensors on cuda, on meta (allocated, not
computed), or on the CPU where Triton interprets.
"""

from __future__ import annotations

from torch import Tensor

from fastdarts.kernels import coefficients as kernels
from fastdarts.ops import maps
from fastdarts.ops._coefficients_cpu import empty

__all__ = ["gradient", "mixing", "rows"]

_BLOCK = 256
_OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


def rows(mean: Tensor, var: Tensor, index: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    found, rstd = (empty(len(index), like=mean) for _ in range(2))
    size = found.numel()
    if not mean.is_meta and size:
        kernels.rows[_grid(size)](found, rstd, mean, var, index, size, mean.shape[1], eps, _BLOCK, **_OPTIONS)
    return found, rstd


def mixing(
    mean: Tensor, var: Tensor, norms: Tensor, weights: Tensor, columns: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    scale, found, rstd = (empty(len(norms), like=mean) for _ in range(3))
    size = scale.numel()
    if not mean.is_meta and size:
        read = (mean, var, norms, weights, columns)
        kernels.mixing[_grid(size)](scale, found, rstd, *read, size, mean.shape[1], eps, _BLOCK, **_OPTIONS)
    return scale, found, rstd


def gradient(
    scale: Tensor, rstd: Tensor, mean: Tensor, total: Tensor, products: Tensor, *, pixels: int, stored: int
) -> Tensor:
    out = maps.empty(3, *scale.shape, dtype=scale.dtype, device=scale.device)
    size, channels = scale.numel(), scale.shape[1]
    if not scale.is_meta and size:
        read = (scale, rstd, mean, total, products)
        one = total.dim() == 1
        kernels.gradient[_grid(size)](out, *read, size, pixels, stored, channels, one, _BLOCK, **_OPTIONS)
    return out


def _grid(size: int) -> tuple[int]:
    return (-(-size // _BLOCK),)
