"""Running statistics of batch norms: one launch where plain torch takes nine, once a cell and a preprocessing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fastdarts._backend import backend_for
from fastdarts.errors import UserError
from fastdarts.ops import maps
from fastdarts.ops._checks import dtype_name, require_tensors
from fastdarts.reference.track import track_ as _reference

__all__ = ["track_"]

_NAME = "fastdarts::track_"

torch.library.define(
    _NAME,
    "(Tensor(a!) mean, Tensor(b!) var, Tensor(c!) batches, Tensor batch_mean, Tensor batch_var, *, float momentum,"
    " float unbiased) -> ()",
    tags=(torch.Tag.pt2_compliant_tag,),
)


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
    """Move running statistics towards a batch's, as `nn.BatchNorm2d` does in training, in place.

    `mean = (1 - m) * mean + m * batch_mean`, the variance likewise and unbiased; in float64, and rounded once.

    Args:
        mean: [B, C] or [C], floating; written.
        var: the same; written.
        batches: [B] or [], int64, `num_batches_tracked`; written, one more.
        batch_mean: of mean's shape, float64.
        batch_var: the same, biased.
        momentum: m.
        unbiased: M / (M - 1) for batches of M values a channel.

    Raises:
        UserError: shapes that differ, or tensors on several devices.
        TypeError: another dtype.

    Source: Ioffe and Szegedy 2015 (batch normalisation), Algorithm 2.
    """
    given = {"mean": mean, "var": var, "batches": batches, "batch_mean": batch_mean, "batch_var": batch_var}
    require_tensors("track_", given.items())
    torch.ops.fastdarts.track_(*given.values(), momentum=momentum, unbiased=unbiased)


def _check(given: Mapping[str, Tensor]) -> None:
    mean, batches = given["mean"], given["batches"]
    if not mean.dim() or batches.shape != mean.shape[:-1] or not mean.numel():
        what = f"track_: mean has shape {list(mean.shape)}, batches {list(batches.shape)}"
        raise UserError(what, "[B, C] and [B], or [C] and []")
    for name, tensor in given.items():
        dtype = {"batches": torch.int64, "batch_mean": torch.float64, "batch_var": torch.float64}.get(name, mean.dtype)
        if tensor.dtype != dtype or not (dtype.is_floating_point or name == "batches"):
            raise TypeError(f"track_: {name} is {dtype_name(tensor.dtype)}; expected {dtype_name(dtype)}")
        if name != "batches" and tensor.shape != mean.shape:
            raise UserError(f"track_: {name} has shape {list(tensor.shape)}", f"{list(mean.shape)}, as mean")
        if tensor.device != mean.device:
            what = f"track_: {name} is on {tensor.device}, mean on {mean.device}"
            raise UserError(what, "one device", f"move it with .to({str(mean.device)!r})")


@torch.library.impl(_NAME, ("cpu", "cuda"))
@maps.on_its_device
def _track(
    mean: Tensor,
    var: Tensor,
    batches: Tensor,
    batch_mean: Tensor,
    batch_var: Tensor,
    *,
    momentum: float,
    unbiased: float,
) -> None:
    given = {"mean": mean, "var": var, "batches": batches, "batch_mean": batch_mean, "batch_var": batch_var}
    _check(given)
    move = _reference
    # A row of a stack is contiguous too; what is not has no kernel, and is nobody's who counts launches.
    if backend_for("track", mean.device.type) in ("triton", "cuda") and all(t.is_contiguous() for t in given.values()):
        from fastdarts.ops._track_triton import track_ as move
    move(*given.values(), momentum=momentum, unbiased=unbiased)


@torch.library.register_fake(_NAME)
def _fake(
    mean: Tensor,
    var: Tensor,
    batches: Tensor,
    batch_mean: Tensor,
    batch_var: Tensor,
    *,
    momentum: float,
    unbiased: float,
) -> None:
    _check({"mean": mean, "var": var, "batches": batches, "batch_mean": batch_mean, "batch_var": batch_var})
