"""ReLU, 1x1 convolution and moments in one pass: preprocessing and factorised reduction, and their batch norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastdarts._backend import backend_for
from fastdarts.errors import UserError
from fastdarts.ops import maps
from fastdarts.ops._checks import dtype_name, require_tensors
from fastdarts.ops._engine import computing, launchers
from fastdarts.ops._preprocess_cpu import empty_as, maps_out, outputs_of, statistics
from fastdarts.ops._records import PreprocessBackward, PreprocessForward
from fastdarts.ops.constant import constant_when_compiled
from fastdarts.reference.preprocess import preprocess as _reference

__all__ = ["preprocess"]

_NAME = "fastdarts::preprocess"
_BACKWARD = "fastdarts::preprocess_backward"

torch.library.define(
    _NAME,
    "(Tensor x, Tensor[] weights, Tensor? mean, Tensor? var, int stride, float eps) -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
torch.library.define(
    _BACKWARD,
    "(Tensor grad, Tensor x, Tensor[] weights, Tensor xhat, Tensor rstd, int stride, bool training, bool need_dx,"
    " bool need_weights) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def preprocess(
    x: Tensor,
    weights: Sequence[Tensor],
    *,
    stride: int = 1,
    mean: Tensor | None = None,
    var: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    """Project a map by ReLU and a 1x1 convolution and normalise it; at stride 2 by two shifted halves.

    `y = W relu(x)` at stride 1, `y = concat(W_1 relu(x)[::2, ::2], W_2 relu(x)[1::2, 1::2])` at stride 2, zeros
    outside; `xhat = (y - mean) r`, `r = 1 / sqrt(var + eps)`, with the mean and the biased variance of y over N, H and
    W, or with the given ones.

    Backward, with `g` the gradient of xhat and M the pixels of y, per channel `G = sum g`, `Q = sum g xhat`:
    `dy = r (g - G / M - xhat Q / M)`, or `dy = r g` with given statistics; `dx = W^T dy` where `x > 0`, else 0;
    `dW = sum over pixels of dy relu(x)^T`.

    Args:
        x: [N, C_in, H, W], float32 | bfloat16 | float64; contiguous, channels_last, or a range of the channels of one.
        weights: one [C_out, C_in, 1, 1] at stride 1; at stride 2 the two halves', or only the first one's where there
            is one output channel; the dtype of x.
        stride: 1 or 2, pixels.
        mean: [C_out], floating: running statistics, as in evaluation; None for those of the batch.
        var: [C_out], floating, with mean.
        eps: added to the variance.

    Returns:
        (xhat [N, C_out, ceil(H / stride), ceil(W / stride)], the dtype of x, channels_last; mean [C_out], float64; var
        [C_out], float64, biased). The statistics carry no gradient.

    Raises:
        ValueError: a shape that does not fit, an empty batch, or one pixel in all, whose variance is not defined.
        TypeError: another dtype.
        RuntimeError: a second derivative of the fused op; `use_backend("reference")` has one.

    Source: Liu et al. 2019 (DARTS), appendix A.1.1; quark0/darts `ReLUConvBN` and `FactorizedReduce`.
    """
    given = {"x": x, **{f"weights[{i}]": weight for i, weight in enumerate(weights)}}
    given |= {name: tensor for name, tensor in (("mean", mean), ("var", var)) if tensor is not None}
    require_tensors("preprocess", given.items())
    if _backend(x.device.type) == "reference":
        _check(x, weights, mean, var, stride)
        return _reference(x, weights, stride=stride, mean=mean, var=var, eps=eps)
    maps.count_flops()
    out: tuple[Tensor, Tensor, Tensor] = torch.ops.fastdarts.preprocess(x, list(weights), mean, var, stride, eps)
    return out


@constant_when_compiled  # dynamo cannot trace a ContextVar; a compiled function keeps its backend
def _backend(device: str) -> str:
    return backend_for("preprocess", device)


def _check(x: Tensor, weights: Sequence[Tensor], mean: Tensor | None, var: Tensor | None, stride: int) -> None:
    maps.check_stored("preprocess", "x", x)
    if x.dim() != 4 or min(x.shape) < 1:
        raise UserError(f"preprocess: x has shape {list(x.shape)}", "[N, C, H, W], each at least 1")
    if stride not in (1, 2):
        raise UserError(f"preprocess: stride is {stride}", "1 or 2")
    if not 1 <= len(weights) <= stride:
        raise UserError(
            f"preprocess: {len(weights)} weights at stride {stride}", "one a half: 1, or 1 or 2 at stride 2"
        )
    for i, weight in enumerate(weights):
        if weight.dtype != x.dtype:
            got, expected = dtype_name(weight.dtype), dtype_name(x.dtype)
            raise TypeError(f"preprocess: weights[{i}] is {got}; expected {expected}, as x")
        if weight.dim() != 4 or weight.shape[0] < 1 or tuple(weight.shape[1:]) != (x.shape[1], 1, 1):
            what = f"preprocess: weights[{i}] has shape {list(weight.shape)}"
            raise UserError(what, f"[C_out, {x.shape[1]}, 1, 1] for {x.shape[1]} channels")
    channels = sum(outputs_of(weights))
    if (mean is None) != (var is None):
        raise UserError("preprocess: one of mean and var is missing", "both, or neither for those of the batch")
    for name, tensor in (("mean", mean), ("var", var)):
        if tensor is None:
            continue
        if not tensor.is_floating_point():
            raise TypeError(f"preprocess: {name} is {dtype_name(tensor.dtype)}; expected a floating dtype")
        if tuple(tensor.shape) != (channels,):
            raise UserError(f"preprocess: {name} has shape {list(tensor.shape)}", f"[{channels}], one a channel")
        if tensor.requires_grad:
            raise UserError(f"preprocess: {name} requires gradients", "statistics", f"pass {name}.detach()")
    for name, tensor in (*((f"weights[{i}]", w) for i, w in enumerate(weights)), ("mean", mean), ("var", var)):
        if tensor is not None and tensor.device != x.device:
            what = f"preprocess: {name} is on {tensor.device}, x on {x.device}"
            raise UserError(what, "one device", f"move {name} with .to({str(x.device)!r})")
    if mean is None and x.shape[0] * -(-x.shape[2] // stride) * -(-x.shape[3] // stride) == 1:
        what = f"preprocess: one pixel a channel comes out of shape {list(x.shape)}"
        raise UserError(what, "at least two, for a variance", "use a larger batch, or evaluate with mean and var")


def _preprocess(
    x: Tensor, weights: list[Tensor], mean: Tensor | None, var: Tensor | None, stride: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    _check(x, weights, mean, var, stride)
    kernels = launchers("preprocess", computing("preprocess", x))
    xhat, own_mean, own_var = kernels.forward(PreprocessForward(x, weights, stride, moments=mean is None))
    # Of the op's own: an output of an op must not be one of its inputs.
    used_mean = own_mean if mean is None else mean.to(torch.float64, copy=True)
    used_var = own_var if var is None else var.to(torch.float64, copy=True)
    assert used_mean is not None and used_var is not None
    kernels.normalise_(xhat, used_mean, (used_var + eps).rsqrt())
    return xhat, used_mean, used_var


def _preprocess_backward(
    grad: Tensor,
    x: Tensor,
    weights: list[Tensor],
    xhat: Tensor,
    rstd: Tensor,
    stride: int,
    training: bool,
    need_dx: bool,
    need_weights: bool,
) -> list[Tensor]:
    kernels = launchers("preprocess", computing("preprocess", x))
    grad, pixels = maps.as_maps(grad), xhat.numel() // xhat.shape[1]
    beta, gamma = torch.zeros_like(rstd), torch.zeros_like(rstd)
    if training:
        total, products = kernels.reduce(grad, xhat)
        beta, gamma = -rstd * products / pixels, -rstd * total / pixels
    values = xhat if training else None
    dx, dweights = kernels.backward(
        PreprocessBackward(
            *(x, weights, grad, values, rstd, beta, gamma, stride), need_dx=need_dx, need_weights=need_weights
        )
    )
    return ([] if dx is None else [dx]) + [dweight.to(x.dtype) for dweight in dweights or ()]


for _name, _function in ((_NAME, _preprocess), (_BACKWARD, _preprocess_backward)):
    torch.library.impl(_name, ("cpu", "cuda"))(maps.on_its_device(_function))


@torch.library.register_fake(_NAME)
def _fake(
    x: Tensor, weights: list[Tensor], mean: Tensor | None, var: Tensor | None, stride: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    if x.device.type == "meta":  # a prediction of memory wants every allocation, the scratch too
        return _preprocess(x, weights, mean, var, stride, eps)
    _check(x, weights, mean, var, stride)
    channels = sum(outputs_of(weights))
    own_mean, own_var = statistics(channels, x)
    return maps_out(x, channels, stride), own_mean, own_var


@torch.library.register_fake(_BACKWARD)
def _fake_backward(
    grad: Tensor,
    x: Tensor,
    weights: list[Tensor],
    xhat: Tensor,
    rstd: Tensor,
    stride: int,
    training: bool,
    need_dx: bool,
    need_weights: bool,
) -> list[Tensor]:
    if x.device.type == "meta":
        return _preprocess_backward(grad, x, weights, xhat, rstd, stride, training, need_dx, need_weights)
    return ([empty_as(x)] if need_dx else []) + [torch.empty_like(weight) for weight in weights if need_weights]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weights, mean, _, ctx.stride, eps = inputs
    xhat, own_mean, own_var = output
    ctx.mark_non_differentiable(own_mean, own_var)
    ctx.training = mean is None
    ctx.save_for_backward(x, xhat, (own_var + eps).rsqrt(), *weights)


def _autograd(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Any, ...]:
    x, xhat, rstd, *weights = ctx.saved_tensors
    need_dx, need_weights = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1])
    out = torch.ops.fastdarts.preprocess_backward(
        grad, x, weights, xhat, rstd, ctx.stride, ctx.training, need_dx, need_weights
    )
    dx = out[0] if need_dx else None
    dweights = out[int(need_dx) :] if need_weights else [None] * len(weights)
    return dx, dweights, None, None, None, None


def _no_second_derivative(ctx: Any, *_: Any) -> None:
    raise RuntimeError("preprocess has no second derivative; use_backend('reference') has one")


torch.library.register_autograd(_NAME, _autograd, setup_context=_setup)
torch.library.register_autograd(_BACKWARD, _no_second_derivative)
