"""The optimisers' steps on flat buffers: SGD for the weights in two launches, Adam for the alphas in one."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType

import torch
from torch import Tensor

from fastdarts._backend import backend_for
from fastdarts.errors import UserError
from fastdarts.ops import maps
from fastdarts.ops._checks import dtype_name, require_tensors
from fastdarts.reference import optim as _reference

__all__ = ["adam_", "sgd_"]

_SGD = "fastdarts::sgd_"
_ADAM = "fastdarts::adam_"
_DTYPES = (torch.float32, torch.float64)

torch.library.define(
    _SGD,
    "(Tensor(a!) weights, Tensor gradient, Tensor(b!) momentum, Tensor lr, *, float momentum_factor,"
    " float weight_decay, float grad_clip) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
torch.library.define(
    _ADAM,
    "(Tensor(a!) parameters, Tensor gradient, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor(d!) step, Tensor lr, *,"
    " float beta1, float beta2, float eps, float weight_decay) -> ()",
    tags=(torch.Tag.pt2_compliant_tag,),
)


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
    """One step of SGD with momentum, weight decay and a clipped gradient norm, in place and without the host.

    `norm = |gradient|`, `d = gradient min(1, grad_clip / (norm + 1e-6)) + weight_decay weights`,
    `momentum = momentum_factor momentum + d`, `weights -= lr momentum`: `clip_grad_norm_` and `torch.optim.SGD` without
    dampening or Nesterov, whose first step is that of a momentum of zeros. The gradient stays as it is.

    Args:
        weights: [P], float32 | float64, contiguous; all parameters in one buffer, written.
        gradient: [P], the dtype of weights, contiguous.
        momentum: [P], the dtype of weights, contiguous; zeros before the first step, written.
        lr: [], float64, on the device of weights.
        momentum_factor: share of the momentum that a step keeps.
        weight_decay: L2 penalty, added to the clipped gradient.
        grad_clip: largest norm of the gradient; 0 clips nothing.

    Returns:
        norm [], float64: that of the gradient before it is clipped.

    Raises:
        UserError: (the op) a shape, a device or a layout that does not fit, or a tensor that requires gradients.
        TypeError: (the op) a dtype that does not fit.

    Source: torch.nn.utils.clip_grad_norm_ and torch.optim.SGD; quark0/darts `train_search.train`.
    """
    require_tensors("sgd_", {"weights": weights, "gradient": gradient, "momentum": momentum, "lr": lr}.items())
    norm: Tensor = torch.ops.fastdarts.sgd_(
        weights,
        gradient,
        momentum,
        lr,
        momentum_factor=momentum_factor,
        weight_decay=weight_decay,
        grad_clip=grad_clip,
    )
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
    """One step of Adam, in place and without the host.

    `t = step + 1`, `d = gradient + weight_decay parameters`, `exp_avg += (1 - beta1) (d - exp_avg)`,
    `exp_avg_sq = beta2 exp_avg_sq + (1 - beta2) d^2`,
    `parameters -= lr / (1 - beta1^t) exp_avg / (sqrt(exp_avg_sq) / sqrt(1 - beta2^t) + eps)`, `step = t`:
    `torch.optim.Adam(capturable=True)`, with the corrections of the bias in float64.

    Args:
        parameters: [P], float32 | float64, contiguous; all parameters in one buffer, written.
        gradient: [P], the dtype of parameters, contiguous.
        exp_avg: [P], the dtype of parameters, contiguous; zeros before the first step, written.
        exp_avg_sq: [P], the same.
        step: [], float64, on the device of parameters; how many steps were made, written.
        lr: [], float64, on the device of parameters.
        beta1: share of `exp_avg` that a step keeps.
        beta2: share of `exp_avg_sq` that a step keeps.
        eps: added to the root of the second moment.
        weight_decay: L2 penalty, added to the gradient.

    Raises:
        UserError: (the op) a shape, a device or a layout that does not fit, or a tensor that requires gradients.
        TypeError: (the op) a dtype that does not fit.

    Source: torch.optim.Adam; Kingma and Ba 2015, algorithm 1.
    """
    given = {"parameters": parameters, "gradient": gradient, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    require_tensors("adam_", [*given.items(), ("step", step), ("lr", lr)])
    torch.ops.fastdarts.adam_(*given.values(), step, lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)


def _check(op: str, buffers: Mapping[str, Tensor], scalars: Mapping[str, Tensor]) -> None:
    first, written = next(iter(buffers.items()))
    if written.dtype not in _DTYPES:
        raise TypeError(f"{op}: {first} is {dtype_name(written.dtype)}; expected float32 or float64")
    if written.dim() != 1 or not written.numel():
        raise UserError(f"{op}: {first} has shape {list(written.shape)}", "[P], P at least 1: every parameter")
    for each, dtype, shape in ((buffers, written.dtype, written.shape), (scalars, torch.float64, torch.Size())):
        for name, tensor in each.items():
            if tensor.dtype != dtype:
                raise TypeError(f"{op}: {name} is {dtype_name(tensor.dtype)}; expected {dtype_name(dtype)}")
            if tensor.shape != shape:
                raise UserError(f"{op}: {name} has shape {list(tensor.shape)}", f"{list(shape)}")
            if tensor.device != written.device:
                what, remedy = f"{op}: {name} is on {tensor.device}, {first} on {written.device}", "fill it there"
                raise UserError(what, "one device", remedy)
            if not tensor.is_contiguous():
                raise UserError(f"{op}: {name} is not contiguous", "a contiguous buffer")
            if tensor.requires_grad:
                what = f"{op}: {name} requires gradients"
                raise UserError(what, "buffers without gradients", f"pass {name}.detach(), which shares its memory")


def _steps(device: str) -> ModuleType:
    """Where `sgd_` and `adam_` come from; triton is imported only now, because it is optional."""
    on_kernels = backend_for("optim", device) in ("triton", "cuda")
    return importlib.import_module("fastdarts.ops._optim_triton") if on_kernels else _reference


def _sgd(
    weights: Tensor,
    gradient: Tensor,
    momentum: Tensor,
    lr: Tensor,
    *,
    momentum_factor: float,
    weight_decay: float,
    grad_clip: float,
) -> Tensor:
    _check("sgd_", {"weights": weights, "gradient": gradient, "momentum": momentum}, {"lr": lr})
    norm: Tensor = _steps(weights.device.type).sgd_(
        weights,
        gradient,
        momentum,
        lr,
        momentum_factor=momentum_factor,
        weight_decay=weight_decay,
        grad_clip=grad_clip,
    )
    return norm


def _adam(
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
    buffers = {"parameters": parameters, "gradient": gradient, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    _check("adam_", buffers, {"step": step, "lr": lr})
    _steps(parameters.device.type).adam_(
        *buffers.values(), step, lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay
    )


for _name, _function in ((_SGD, _sgd), (_ADAM, _adam)):
    torch.library.impl(_name, ("cpu", "cuda"))(maps.on_its_device(_function))


@torch.library.register_fake(_SGD)
def _fake_sgd(weights: Tensor, gradient: Tensor, momentum: Tensor, lr: Tensor, **_: float) -> Tensor:
    _check("sgd_", {"weights": weights, "gradient": gradient, "momentum": momentum}, {"lr": lr})
    return torch.empty_like(lr)


@torch.library.register_fake(_ADAM)
def _fake_adam(
    parameters: Tensor, gradient: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, step: Tensor, lr: Tensor, **_: float
) -> None:
    buffers = {"parameters": parameters, "gradient": gradient, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    _check("adam_", buffers, {"step": step, "lr": lr})
