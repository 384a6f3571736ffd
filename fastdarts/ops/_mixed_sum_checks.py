"""What :func:`fastdarts.ops.mixed_sum` refuses before anything is allocated."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastdarts.errors import UserError
from fastdarts.ops import maps
from fastdarts.ops._checks import dtype_name

__all__ = ["check", "named", "node_shape"]


def named(
    ys: Sequence[Tensor],
    weights: Tensor,
    mean: Tensor,
    var: Tensor,
    sources: Sequence[Tensor],
    edge_weights: Tensor,
    pool_mean: Tensor,
    pool_var: Tensor,
    bypass: Tensor | None,
) -> dict[str, Tensor]:
    """Every tensor that is given, by the name that a message calls it by."""
    lists = {f"{name}[{i}]": x for name, group in (("ys", ys), ("sources", sources)) for i, x in enumerate(group)}
    single = {"weights": weights, "mean": mean, "var": var, "edge_weights": edge_weights}
    single |= {"pool_mean": pool_mean, "pool_var": pool_var} | ({} if bypass is None else {"bypass": bypass})
    return lists | single


def check(
    ys: Sequence[Tensor],
    weights: Tensor,
    mean: Tensor,
    var: Tensor,
    sources: Sequence[Tensor],
    edges: Sequence[int],
    edge_weights: Tensor,
    pool_mean: Tensor,
    pool_var: Tensor,
    bypass: Tensor | None,
    partial: int,
    training: bool,
) -> None:
    """Refuse what does not fit, as :func:`fastdarts.ops.mixed_sum` says it."""
    tensors = named(ys, weights, mean, var, sources, edge_weights, pool_mean, pool_var, bypass)
    if not ys and not sources:
        raise UserError("mixed_sum: neither ys nor sources", "at least one of either")
    if len(edges) != 4 * len(sources):
        raise UserError(f"mixed_sum: {len(edges) // 4} edges for {len(sources)} sources", "one edge a source")
    _check_maps(ys, sources, edges, partial, training)
    mixed = ys[0].shape[1] if ys else sources[0].shape[1] // partial
    count, terms = len(sources), len(ys)
    shapes: dict[str, tuple[int, ...]] = {"weights": (terms,), "mean": (terms, mixed), "var": (terms, mixed)}
    shapes |= {"edge_weights": (count, 3), "pool_mean": (count, 2, mixed), "pool_var": (count, 2, mixed)}
    for name, shape in (shapes | {"bypass": (count,)}).items():
        if name not in tensors:
            continue
        if not tensors[name].is_floating_point():
            raise TypeError(f"mixed_sum: {name} is {dtype_name(tensors[name].dtype)}; expected a floating dtype")
        if tuple(tensors[name].shape) != shape:
            what = f"mixed_sum: {name} has shape {list(tensors[name].shape)}"
            raise UserError(what, f"{list(shape)} for {terms} ys, {count} sources and {mixed} mixed channels")
    for name in ("mean", "var", "pool_mean", "pool_var"):
        if tensors[name].requires_grad:
            what, expected = (
                f"mixed_sum: {name} requires gradients",
                "statistics, whose gradients are part of those of ys",
            )
            raise UserError(what, expected, f"pass {name}.detach()")
    for name, tensor in tensors.items():
        if tensor.device != weights.device:
            what = f"mixed_sum: {name} is on {tensor.device}, weights on {weights.device}"
            raise UserError(what, "one device", f"move {name} with .to({str(weights.device)!r})")


def _check_maps(
    ys: Sequence[Tensor], sources: Sequence[Tensor], edges: Sequence[int], partial: int, training: bool
) -> None:
    n, channels, height, width = node_shape(ys, sources, edges, partial)
    if partial < 1 or channels % partial:
        raise UserError(f"mixed_sum: partial is {partial}", f"a divisor of the {channels} channels")
    if min(n, channels, height, width) < 1:
        raise UserError(f"mixed_sum: the node has shape {[n, channels, height, width]}", "each at least 1")
    first = ys[0] if ys else sources[0]
    groups = (("ys", ys, [1] * len(ys), channels // partial), ("sources", sources, edges[::4], channels))
    for group, tensors, strides, wide in groups:
        for i, (x, stride) in enumerate(zip(tensors, strides, strict=True)):
            maps.check_stored("mixed_sum", f"{group}[{i}]", x)
            if x.dtype != first.dtype:
                raise TypeError(f"mixed_sum: {group}[{i}] is {dtype_name(x.dtype)}; expected {dtype_name(first.dtype)}")
            if stride not in (1, 2):
                raise UserError(f"mixed_sum: edges[{i}] has stride {stride}", "1 or 2")
            fits = x.dim() == 4 and tuple(x.shape[:2]) == (n, wide)
            if not fits or (-(-x.shape[2] // stride), -(-x.shape[3] // stride)) != (height, width):
                what = f"mixed_sum: {group}[{i}] has shape {list(x.shape)}"
                raise UserError(what, f"{[n, wide]} and {[height, width]} pixels at stride {stride}")
    for i, (stride, skip) in enumerate(zip(edges[::4], edges[1::4], strict=True)):
        if stride == 2 and skip:
            raise UserError(f"mixed_sum: edges[{i}] skips at stride 2", "a skip at stride 1")
    if training and n * height * width == 1:
        what = f"mixed_sum: one pixel a channel in shape {[n, channels, height, width]}"
        raise UserError(what, "at least two, for a variance", "use a larger batch, or evaluate with training=False")


def node_shape(
    ys: Sequence[Tensor], sources: Sequence[Tensor], edges: Sequence[int], partial: int
) -> tuple[int, int, int, int]:
    """[N, C, H', W'] of the node."""
    first, stride, times = (ys[0], 1, partial) if ys else (sources[0], edges[0], 1)
    if first.dim() != 4:
        what = f"mixed_sum: {'ys' if ys else 'sources'}[0] has shape {list(first.shape)}"
        raise UserError(what, "[N, C, H, W], each at least 1")
    n, channels, height, width = first.shape
    return n, channels * times, -(-height // stride), -(-width // stride)
