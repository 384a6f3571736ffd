"""The launchers of the fused stencil: they check what memory depends on, allocate, and call the native core."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fastdarts._backend import BackendError, native, native_failure
from fastdarts.ops._stencil_call import Call, Gradients, empty_ys
from fastdarts.reference.stencil import Conv

__all__ = ["backward", "empty_ys", "forward"]


def forward(
    sources: Sequence[Tensor],
    convs: Sequence[Conv],
    depthwise: Sequence[Tensor],
    pointwise: Sequence[Tensor],
    *,
    mean: Tensor | None = None,
    rstd: Tensor | None = None,
    moments: bool = True,
) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
    """Launch the forward kernel: :func:`stencil` without dispatch and autograd, on maps; on meta, only allocate.

    Args:
        sources: S maps [N, C, H, W], float32 | bfloat16 | float64, any pixel stride.
        convs: T convolutions.
        depthwise: T weights [C, 1, k, k], floating.
        pointwise: T weights [C, C, 1, 1], floating.
        mean: [S, C], float64; with rstd, or None for sources that are not normalised.
        rstd: [S, C], float64.
        moments: whether means and variances are computed.

    Returns:
        T channels_last maps [N, C, ceil(H / stride), ceil(W / stride)]; their means and biased variances [T, C],
        float64, or None and None where they are not asked.
    """
    return _CpuCall(sources, convs, depthwise, pointwise, mean, rstd).forward(moments)


def backward(
    sources: Sequence[Tensor],
    convs: Sequence[Conv],
    depthwise: Sequence[Tensor],
    pointwise: Sequence[Tensor],
    g: Sequence[Tensor],
    ys: Sequence[Tensor] | None,
    alpha: Tensor,
    beta: Tensor,
    gamma: Tensor,
    *,
    mean: Tensor | None = None,
    rstd: Tensor | None = None,
    dx: Sequence[Tensor] | None = None,
    weights: bool = True,
) -> Gradients:
    """Launch the backward kernel, with the batch norms' backward folded into what it reads; on meta, only allocate.

    `dy_i = alpha_i g_i + beta_i y_i + gamma_i`, then as `fastdarts.reference.stencil.stencil_backward`.

    Args:
        sources: as in :func:`forward`.
        convs: as in :func:`forward`.
        depthwise: as in :func:`forward`.
        pointwise: as in :func:`forward`.
        g: T maps of y's shape and dtype, any pixel stride; one tensor may stand in several places.
        ys: T maps likewise, what :func:`forward` returned; None where beta is 0.
        alpha: [T, C], float64; like beta and gamma.
        beta: [T, C].
        gamma: [T, C].
        mean: as in :func:`forward`.
        rstd: as in :func:`forward`.
        dx: S maps of the sources' shape and dtype to which the gradients are added; None for fresh ones.
        weights: whether the gradients of the weights are computed.

    Returns:
        S maps: dx, or, of normalised sources, the gradient g1 of `(x - mean) * rstd`; T gradients of the depthwise
        and T of the pointwise weights in the arithmetic dtype, None and None unless `weights`; of normalised sources
        `sum g1` and `sum g1 * (x - mean) * rstd`, [S, C] each, float64, else None and None.
    """
    call = _CpuCall(sources, convs, depthwise, pointwise, mean, rstd)
    return call.backward(g, ys, (alpha, beta, gamma), dx, weights)


class _CpuCall(Call):
    def scratch(self, which: str, sizes: dict[str, Any], weights: bool | None) -> int:
        asked = {"weights": weights} if which == "backward" else {}
        count = self.function(_core(), f"stencil_{which}_scratch")
        return int(count(**sizes, **asked, threads=torch.get_num_threads()))

    def call(self, which: str, **arguments: Any) -> None:
        self.function(_core(), f"stencil_{which}")(**arguments, threads=torch.get_num_threads())


def _core() -> ModuleType:
    core = native()
    if core is None:
        raise BackendError(native_failure())
    return core
