"""What the cell's op refuses, told before anything is allocated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from fastdarts.errors import UserError
from fastdarts.ops import maps
from fastdarts.ops._checks import dtype_name, require_tensors
from fastdarts.plan import MEMORY, CellPlan

__all__ = ["check", "check_tensors"]


def check_tensors(
    sources: Sequence[Tensor],
    weights: Tensor,
    bypass: Tensor | None,
    parameters: Sequence[Tensor],
    noise: Sequence[Tensor],
    mean: Tensor | None,
    var: Tensor | None,
) -> None:
    """Refuse what is no tensor, and a call without sources."""
    if not sources:
        raise UserError("cell: there are no sources", "one for each input of the plan")
    require_tensors("cell", _named(sources, weights, bypass, parameters, noise, mean, var))


def check(
    sources: Sequence[Tensor],
    weights: Tensor,
    bypass: Tensor | None,
    parameters: Sequence[Tensor],
    noise: Sequence[Tensor],
    mean: Tensor | None,
    var: Tensor | None,
    plan: CellPlan,
    memory: str,
) -> None:
    """Refuse what does not fit the plan.

    Called by every implementation rather than by the public function: torch.ops is a door too.

    Raises:
        UserError: a wrong number, shape or device, an empty batch, one value a channel in training.
        TypeError: a wrong dtype.
    """
    if memory not in MEMORY:
        raise UserError(f"cell: memory is {memory!r}", f"one of {', '.join(MEMORY)}")
    for name, several, count in (
        ("sources", sources, plan.given),
        ("parameters", parameters, len(plan.parameters)),
        ("noise maps", noise, len(plan.noises)),
    ):
        if len(several) != count:
            raise UserError(f"cell: {len(several)} {name}", f"{count}, as the plan has")
    x = sources[0]
    if x.dim() != 4 or x.shape[1] != plan.channels or 0 in x.shape:
        what = f"cell: sources[0] has shape {list(x.shape)}"
        raise UserError(what, f"[N, {plan.channels}, H, W], N, H and W at least 1")
    _check_types(sources, weights, bypass, parameters, noise, mean, var)
    n, _, height, width = x.shape
    height, width = -(-height // plan.stride), -(-width // plan.stride)
    edges, statistics = len(plan.edges), len(plan.norms) * plan.mixed
    shapes = [x.shape] * plan.inputs + [(n, plan.channels, height, width)] * plan.ready
    shapes += [each.shape for each in plan.parameters]
    shapes += [(n, plan.mixed, height, width)] * len(noise)
    if [tensor.shape for tensor in (*sources, *parameters, *noise)] != shapes:
        for (name, tensor), shape in zip(_listed(sources, parameters, noise), shapes, strict=True):
            if tensor.shape != shape:
                raise UserError(f"cell: {name} has shape {list(tensor.shape)}", f"{list(shape)}")
    if weights.dim() != 2 or weights.shape[0] != edges or weights.shape[1] < plan.width:
        raise UserError(f"cell: weights have shape {list(weights.shape)}", f"[{edges}, {plan.width} or more]")
    if bypass is not None and plan.partial == 1:
        raise UserError("cell: bypass is given where all channels are mixed", "None", "multiply it into the weights")
    if (mean is None) != (var is None):
        raise UserError("cell: one of mean and var is missing", "both, or neither for those of the batch")
    for name, one, size in (("bypass", bypass, edges), ("mean", mean, statistics), ("var", var, statistics)):
        if one is not None and one.shape != (size,):
            raise UserError(f"cell: {name} has shape {list(one.shape)}", f"[{size}]")
    for name, one in (("mean", mean), ("var", var)):
        if one is not None and one.requires_grad:
            raise UserError(f"cell: {name} requires gradients", "none", f"pass {name}.detach()")
    if mean is None and plan.norms and n * height * width == 1:
        what = f"cell: maps of shape {list(x.shape)} leave one value a channel"
        raise UserError(what, "at least two in training", "use a larger batch or image, or pass running statistics")


def _check_types(
    sources: Sequence[Tensor],
    weights: Tensor,
    bypass: Tensor | None,
    parameters: Sequence[Tensor],
    noise: Sequence[Tensor],
    mean: Tensor | None,
    var: Tensor | None,
) -> None:
    dtype, device = sources[0].dtype, sources[0].device
    maps.check_stored("cell", "sources[0]", sources[0])
    mapped, others = (
        (*sources, *noise),
        [each for each in (weights, bypass, *parameters, mean, var) if each is not None],
    )
    dtypes = {each.dtype for each in others}
    if (
        {each.dtype for each in mapped} == {dtype}
        and all(each.is_floating_point for each in dtypes)
        and {each.device for each in (*mapped, *others)} == {device}
    ):
        return
    for name, tensor in _named(sources, weights, bypass, parameters, noise, mean, var):
        if name.startswith(("sources", "noise")) and tensor.dtype != dtype:
            raise TypeError(f"cell: {name} is {dtype_name(tensor.dtype)}; expected {dtype_name(dtype)}, as sources[0]")
        if not tensor.is_floating_point():
            raise TypeError(f"cell: {name} is {dtype_name(tensor.dtype)}; expected a floating dtype")
        if tensor.device != device:
            what = f"cell: {name} is on {tensor.device}, sources[0] on {device}"
            raise UserError(what, "one device", f"move {name} with .to({str(device)!r})")


def _named(
    sources: Sequence[Tensor],
    weights: Tensor,
    bypass: Tensor | None,
    parameters: Sequence[Tensor],
    noise: Sequence[Tensor],
    mean: Tensor | None,
    var: Tensor | None,
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor with its name."""
    yield from _listed(sources, parameters, noise)
    yield "weights", weights
    for name, one in (("bypass", bypass), ("mean", mean), ("var", var)):
        if one is not None:
            yield name, one


def _listed(
    sources: Sequence[Tensor], parameters: Sequence[Tensor], noise: Sequence[Tensor]
) -> Iterator[tuple[str, Tensor]]:
    for name, several in (("sources", sources), ("parameters", parameters), ("noise", noise)):
        for i, tensor in enumerate(several):
            yield f"{name}[{i}]", tensor
