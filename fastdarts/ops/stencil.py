"""ReLU, depthwise and pointwise convolution and the moments of the result, fused for all convolutions of sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fastdarts._backend import backend_for, use_backend
from fastdarts.errors import UserError
from fastdarts.ops import maps
from fastdarts.ops._checks import dtype_name
from fastdarts.ops._engine import computing, launchers
from fastdarts.ops._records import Conv, StencilBackward, StencilForward
from fastdarts.ops._stencil_call import empty_ys
from fastdarts.plan._stencils import DILATIONS, SIDES, is_stencil
from fastdarts.reference.stencil import stencil as _reference
from fastdarts.reference.stencil import stencil_backward as _reference_backward

__all__ = ["Conv", "stencil"]

_NAME, _BACKWARD = "fastdarts::stencil", "fastdarts::stencil_backward"
_CONVS = "int[] source, int[] kernel, int[] dilation, int[] stride, Tensor[] depthwise, Tensor[] pointwise"

torch.library.define(
    _NAME,
    f"(Tensor[] sources, {_CONVS}, Tensor? mean, Tensor? rstd) -> (Tensor[] ys, Tensor mean_y, Tensor var_y)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
torch.library.define(
    _BACKWARD,
    f"(Tensor[] sources, {_CONVS}, Tensor[] gradients, Tensor? mean, Tensor? rstd, bool weights)"
    " -> (Tensor[] g, Tensor[] ddepthwise, Tensor[] dpointwise, Tensor sums, Tensor products)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def stencil(
    sources: Sequence[Tensor],
    convs: Sequence[Conv],
    depthwise: Sequence[Tensor],
    pointwise: Sequence[Tensor],
    *,
    mean: Tensor | None = None,
    rstd: Tensor | None = None,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The convolutions of a list of sources before their batch norms, with the statistics that those need.

    `y_i = pointwise_i * (depthwise_i * u_s)` with `s = convs[i].source` and `u_s = relu(x_s)`, or, where statistics of
    the source are given, `u_s = relu((x_s - mean[s]) * rstd[s])`: the second half of a separable convolution.
    `mean_i` and `var_i` are those of `y_i` as it is stored, over N, H' and W', biased. They carry no gradient: what
    batch norm adds to the gradient of y is the business of whoever normalises (see `mixed_sum`).

    Args:
        sources: S maps [N, C, H, W], float32 | bfloat16 | float64, of one N, C, dtype and device; H and W may differ.
            Maps (`fastdarts.ops.maps`) are read where they lie, anything else is copied to channels_last.
        convs: T convolutions.
        depthwise: T weights [C, 1, k, k], floating.
        pointwise: T weights [C, C, 1, 1], floating.
        mean: [S, C], floating; with rstd, or None.
        rstd: [S, C], floating; 1 / sqrt(var + eps).

    Returns:
        T maps y [N, C, ceil(H / stride), ceil(W / stride)], the sources' dtype, channels_last in the fused op; their
        means and biased variances, [T, C] each, float64.

    Raises:
        UserError: (the op) a shape or a device that does not fit, an empty batch, a convolution that does not exist.
        TypeError: (the op) a dtype or a type that does not fit.

    Source: Liu et al. 2019 (DARTS), section 3.1; Chan, Golub and LeVeque 1979 for how the op adds up moments.
    """
    for name, tensors in (("sources", sources), ("depthwise", depthwise), ("pointwise", pointwise)):
        for tensor in tensors:
            if not isinstance(tensor, Tensor):
                raise TypeError(f"stencil: {name} hold a {type(tensor).__name__}; expected tensors")
    numbers = _numbers(convs)
    compiling = torch.compiler.is_compiling()  # then the choice is made where the library op runs
    if sources and not compiling and backend_for("stencil", sources[0].device.type) == "reference":
        # Past the library op, whose gradient has no gradient of its own.
        _check(sources, *numbers, depthwise, pointwise, mean, rstd)
        return _reference(sources, convs, depthwise, pointwise, mean=mean, rstd=rstd)
    given = list(sources), *numbers, list(depthwise), list(pointwise), mean, rstd
    maps.count_flops()
    ys, mean_y, var_y = torch.ops.fastdarts.stencil(*given)
    return ys, mean_y, var_y


def _numbers(convs: Sequence[Conv]) -> tuple[list[int], list[int], list[int], list[int]]:
    return [c.source for c in convs], [c.kernel for c in convs], [c.dilation for c in convs], [c.stride for c in convs]


def _convs(source: list[int], kernel: list[int], dilation: list[int], stride: list[int]) -> list[Conv]:
    return [Conv(*numbers) for numbers in zip(source, kernel, dilation, stride, strict=True)]


def _check(
    sources: Sequence[Tensor],
    source: list[int],
    kernel: list[int],
    dilation: list[int],
    stride: list[int],
    depthwise: Sequence[Tensor],
    pointwise: Sequence[Tensor],
    mean: Tensor | None,
    rstd: Tensor | None,
) -> list[Conv]:
    # Called by every implementation rather than by the public function: torch.ops is a door too.
    if not sources:
        raise UserError("stencil: sources are an empty list", "at least one map [N, C, H, W]")
    first = sources[0]
    for x in sources:
        if x.dim() != 4 or min(x.shape) < 1:
            raise UserError(f"stencil: a source has shape {list(x.shape)}", "[N, C, H, W], each at least 1")
        if x.shape[:2] != first.shape[:2]:
            what = f"stencil: sources have shapes {list(first.shape)} and {list(x.shape)}"
            raise UserError(what, "one number of images and one of channels")
    lengths = [len(given) for given in (source, kernel, dilation, stride, depthwise, pointwise)]
    if len(set(lengths)) > 1:
        raise UserError(f"stencil: {lengths} sources, kernels, dilations, strides and weights", "as many of each")
    convs = _convs(source, kernel, dilation, stride)
    for conv in convs:
        if not 0 <= conv.source < len(sources) or not is_stencil(conv.kernel, conv.dilation, conv.stride):
            sides = f"{', '.join(map(str, SIDES[:-1]))} or {SIDES[-1]}, dilation {DILATIONS[0]} to {DILATIONS[-1]}"
            wanted = f"one of {len(sources)} sources, kernel {sides}, stride 1 or 2"
            raise UserError(f"stencil: {conv}", wanted)
    channels = first.shape[1]
    shapes: list[tuple[str, Tensor, tuple[int, ...]]] = []
    shapes += [("depthwise", w, (channels, 1, k, k)) for w, k in zip(depthwise, kernel, strict=True)]
    shapes += [("pointwise", w, (channels, channels, 1, 1)) for w in pointwise]
    if (mean is None) != (rstd is None):
        raise UserError("stencil: one of mean and rstd is None", "both or neither")
    if mean is not None and rstd is not None:
        shapes += [("mean", mean, (len(sources), channels)), ("rstd", rstd, (len(sources), channels))]
    for name, tensor, shape in shapes:
        if tuple(tensor.shape) != shape:
            raise UserError(f"stencil: {name} has shape {list(tensor.shape)}", f"{list(shape)} for {channels} channels")
    _check_types([("sources", x) for x in sources] + [(name, tensor) for name, tensor, _ in shapes])
    return convs


def _check_types(named: Sequence[tuple[str, Tensor]]) -> None:
    dtype, device = named[0][1].dtype, named[0][1].device
    for name, tensor in named:
        got = dtype_name(tensor.dtype)
        if name == "sources":
            maps.check_stored("stencil", "a source", tensor)
        if name in ("sources", "gradients") and tensor.dtype != dtype:
            raise TypeError(f"stencil: {name} are {got}, the first source {dtype}; expected one dtype")
        if not tensor.dtype.is_floating_point:
            raise TypeError(f"stencil: {name} is {got}; expected a floating dtype")
        if tensor.device != device:
            what = f"stencil: {name} is on {tensor.device}, the first source on {device}"
            raise UserError(what, "one device", f"move it with .to({str(device)!r})")


def _check_gradients(sources: Sequence[Tensor], convs: list[Conv], gradients: Sequence[Tensor]) -> None:
    if len(gradients) != len(convs):
        raise UserError(f"stencil: {len(gradients)} gradients", f"one for each of {len(convs)} convolutions")
    for conv, dy in zip(convs, gradients, strict=True):
        count, channels, height, width = sources[conv.source].shape
        shape = [count, channels, -(-height // conv.stride), -(-width // conv.stride)]
        if list(dy.shape) != shape:
            raise UserError(f"stencil: a gradient has shape {list(dy.shape)}", f"{shape} for {conv}")
    _check_types([("sources", sources[0])] + [("gradients", dy) for dy in gradients])


@dataclass(frozen=True)
class _Given:
    """The arguments that both library ops begin with, checked; the convolutions as the launchers take them."""

    sources: list[Tensor]
    convs: list[Conv]
    depthwise: list[Tensor]
    pointwise: list[Tensor]
    mean: Tensor | None
    rstd: Tensor | None

    @classmethod
    def of(
        cls,
        sources: list[Tensor],
        source: list[int],
        kernel: list[int],
        dilation: list[int],
        stride: list[int],
        depthwise: list[Tensor],
        pointwise: list[Tensor],
        mean: Tensor | None,
        rstd: Tensor | None,
    ) -> _Given:
        # Here rather than in the public function: torch.ops is a door too.
        convs = _check(sources, source, kernel, dilation, stride, depthwise, pointwise, mean, rstd)
        return cls(sources, convs, depthwise, pointwise, mean, rstd)

    def on_reference(self) -> bool:
        return backend_for("stencil", self.sources[0].device.type) == "reference"

    def launchers(self) -> ModuleType:
        return launchers("stencil", computing("stencil", self.sources[0]))

    def arguments(self) -> tuple[list[Tensor], list[Conv], list[Tensor], list[Tensor]]:
        return self.sources, self.convs, self.depthwise, self.pointwise

    def as_launched(self) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
        """The sources as maps and the statistics in float64."""
        mean, rstd = (None if given is None else given.double() for given in (self.mean, self.rstd))
        return [maps.as_maps(x) for x in self.sources], mean, rstd

    def none(self) -> Tensor:
        return self.sources[0].new_empty((0, self.sources[0].shape[1]), dtype=torch.float64)


@torch.library.register_fake(_NAME)
def _fake(*arguments: Any) -> tuple[list[Tensor], Tensor, Tensor]:
    given = _Given.of(*arguments)
    shape = (len(given.convs), given.sources[0].shape[1])
    mean, var = (given.sources[0].new_empty(shape, dtype=torch.float64) for _ in range(2))
    return empty_ys(given.sources, given.convs), mean, var


@torch.library.impl(_NAME, ("cpu", "cuda"))
@maps.on_its_device
def _forward(*arguments: Any) -> tuple[list[Tensor], Tensor, Tensor]:
    given = _Given.of(*arguments)
    if given.on_reference():
        ys, y_mean, y_var = _reference(*given.arguments(), mean=given.mean, rstd=given.rstd)
        return [maps.as_maps(y) for y in ys], y_mean, y_var
    sources, mean, rstd = given.as_launched()
    ys, *moments = given.launchers().forward(StencilForward(sources, *given.arguments()[1:], mean, rstd))
    assert moments[0] is not None and moments[1] is not None  # they were asked
    return ys, moments[0], moments[1]


@torch.library.register_fake(_BACKWARD)
def _backward_fake(*arguments: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor, Tensor]:
    *first, gradients, mean, rstd, weights = arguments
    given = _Given.of(*(*first, mean, rstd))
    _check_gradients(given.sources, given.convs, gradients)
    x = given.sources[0]
    out = [maps.empty_maps(*source.shape, like=source) for source in given.sources]
    dtype = maps.arithmetic(x.dtype)
    depthwise, pointwise = (
        [weight.new_empty(weight.shape, dtype=dtype) for weight in each] if weights else []
        for each in (given.depthwise, given.pointwise)
    )
    rows = 0 if mean is None else len(given.sources)
    sums, products = (x.new_empty((rows, x.shape[1]), dtype=torch.float64) for _ in range(2))
    return out, depthwise, pointwise, sums, products


@torch.library.impl(_BACKWARD, ("cpu", "cuda"))
@maps.on_its_device
def _backward(*arguments: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor, Tensor]:
    *first, gradients, mean, rstd, weights = arguments
    given = _Given.of(*(*first, mean, rstd))
    _check_gradients(given.sources, given.convs, gradients)
    if given.on_reference():
        found = _reference_backward(*given.arguments(), gradients, mean=mean, rstd=rstd, weights=weights)
        return [maps.as_maps(g) for g in found[0]], *found[1:]
    sources, mean, rstd = given.as_launched()
    shape = (len(given.convs), sources[0].shape[1])
    one, zero = sources[0].new_ones(shape, dtype=torch.float64), sources[0].new_zeros(shape, dtype=torch.float64)
    dys = [maps.as_maps(dy) for dy in gradients]
    record = StencilBackward(
        sources, *given.arguments()[1:], dys, None, one, zero, zero, mean=mean, rstd=rstd, weights=weights
    )
    out, depthwise, pointwise, sums, products = given.launchers().backward(record)
    none = given.none
    return (
        out,
        depthwise or [],
        pointwise or [],
        none() if sums is None else sums,
        none() if products is None else products,
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[list[Tensor], Tensor, Tensor]) -> None:
    sources, *ctx.numbers, depthwise, pointwise, mean, rstd = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.lengths = len(sources), len(depthwise)
    # On a GPU backward runs in a thread of its own, where the choice of a block of this one is not in force.
    ctx.backend = backend_for("stencil", sources[0].device.type)
    ctx.save_for_backward(*sources, *depthwise, *pointwise, mean, rstd)


def _gradients(ctx: Any, dys: list[Tensor], *_: Tensor) -> tuple[Any, ...]:
    (s, t), saved = ctx.lengths, ctx.saved_tensors
    sources, depthwise, pointwise = list(saved[:s]), list(saved[s : s + t]), list(saved[s + t : s + 2 * t])
    mean, rstd = saved[-2:]
    needs = ctx.needs_input_grad
    weights = any(needs[5]) or any(needs[6])
    given = sources, *ctx.numbers, depthwise, pointwise, list(dys), mean, rstd, weights
    with use_backend(ctx.backend):
        g, ddepthwise, dpointwise, sums, products = torch.ops.fastdarts.stencil_backward(*given)
    dmean = drstd = None
    if rstd is not None:
        dmean, drstd = (-sums * rstd).to(mean.dtype), (products / rstd).to(rstd.dtype)
        scale = rstd.to(maps.arithmetic(sources[0].dtype))[:, None, :, None, None]
        g = [(each * by).to(each.dtype) for each, by in zip(g, scale, strict=True)]
    dweights = [
        [dw.to(w.dtype) for dw, w in zip(found, given, strict=True)] if weights else [None] * t
        for found, given in ((ddepthwise, depthwise), (dpointwise, pointwise))
    ]
    return g, None, None, None, None, *dweights, dmean, drstd


def _refuse(ctx: Any, *_: Any) -> None:
    raise RuntimeError(
        "fastdarts::stencil_backward has no derivative of its own; for second derivatives run the forward pass under "
        "fastdarts.use_backend('reference')"
    )


torch.library.register_autograd(_NAME, _gradients, setup_context=_keep)
torch.library.register_autograd(_BACKWARD, _refuse)
