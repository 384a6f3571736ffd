"""The optimisers' steps on Triton: arguments as in `fastdarts.reference.optim`."""

from __future__ import annotations

import math

import torch
import triton
from torch import Tensor

from fastdarts.kernels import optim as kernels
from fastdarts.ops import maps

__all__ = ["adam_", "sgd_"]

# Elements of a block: 16 bytes a thread and load, two to four of them in flight.
_SQUARES, _SGD, _ADAM = 4096, 2048, 1024
# Partial sums of squares: each block of the second launch reads them all, 4 KB beside its own 40.
_PARTIALS = 512


def sgd_(
    weights: Tensor,
    gradient: Tensor,
    momentum: Tensor,
    lr: Tensor,
    *,
    momentum_factor: float,
    weight_decay: float,
    grad_clip: float,
) -> Tensor:
    """See :func:`fastdarts.reference.optim.sgd_`; two launches."""
    count = weights.numel()
    share = triton.cdiv(count, _SQUARES * _PARTIALS)
    partials = triton.cdiv(count, _SQUARES * share)
    sums = maps.empty(partials, dtype=torch.float64, device=weights.device)
    norm = maps.empty(dtype=torch.float64, device=weights.device)
    if weights.is_meta:
        return norm
    kernels.squares[(partials,)](gradient, sums, count, SHARE=share, BLOCK=_SQUARES, num_warps=8, enable_fp_fusion=True)
    kernels.sgd[(triton.cdiv(count, _SGD),)](
        weights,
        gradient,
        momentum,
        lr,
        sums,
        norm,
        count,
        partials,
        MOMENTUM=momentum_factor,
        DECAY=weight_decay,
        CLIP=grad_clip,
        FOLD=triton.next_power_of_2(partials),
        BLOCK=_SGD,
        num_warps=8,
        enable_fp_fusion=True,
    )
    torch.autograd.graph.increment_version((weights, momentum))
    return norm


def adam_(
    parameters: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor,
    lr: Tensor,
    *,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """See :func:`fastdarts.reference.optim.adam_`; one launch of one program."""
    if parameters.is_meta:
        return
    kernels.adam[(1,)](
        parameters,
        gradient,
        exp_avg,
        exp_avg_sq,
        step,
        lr,
        parameters.numel(),
        BETA1=beta1,
        BETA2=beta2,
        LOG1=_log2(beta1),
        LOG2=_log2(beta2),
        EPS=eps,
        DECAY=weight_decay,
        BLOCKS=triton.cdiv(parameters.numel(), _ADAM),
        BLOCK=_ADAM,
        num_warps=8,
        enable_fp_fusion=True,
    )
    torch.autograd.graph.increment_version((parameters, exp_avg, exp_avg_sq, step))


def _log2(beta: float) -> float:
    return math.log2(beta) if beta else -math.inf
