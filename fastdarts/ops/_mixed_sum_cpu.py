"""Launchers of the mixed_sum kernels: what the fused cell calls without going through torch's dispatcher.

All take maps (fastdarts/ops/maps.py) on the CPU, or on meta, where they allocate the same tensors and compute nothing.
C' is the number of mixed channels, C / partial. Coefficients and statistics are float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from fastdarts._backend import native, native_failure
from fastdarts.ops import maps
from fastdarts.ops._checks import dtype_name
from fastdarts.reference.mixed_sum import Edge

__all__ = ["Edge", "Reduced", "backward", "forward", "pool_moments", "reduce"]


@dataclass(frozen=True)
class Reduced:
    """What :func:`reduce` found.

    Args:
        g: maps [N, C, H', W'], the gradient with its channels in the order of the candidates.
        total: [C'], float64, `sum g`.
        products: [T, C'], float64, `sum g * xhat_t`.
        free: [E, 3, C'], float64, `sum g * x`, `sum g * xhat` of the maximum and of the average; 0 where not present.
        bypass: [E], float64, `sum g * x` over the channels that are not mixed; None where all are.
    """

    g: Tensor
    total: Tensor
    products: Tensor
    free: Tensor
    bypass: Tensor | None


def forward(
    out: Tensor,
    ys: Sequence[Tensor],
    scale: Tensor,
    bias: Tensor | None,
    sources: Sequence[Tensor],
    edges: Sequence[Edge],
    free: Tensor,
    bypass: Tensor | None,
    partial: int,
    *,
    mean: Tensor | None = None,
    pool_mean: Tensor | None = None,
) -> None:
    """Write a node.

    `mixed = bias + sum_t scale_t (y_t - mean_t) + sum_e (free[e, 0] x + free[e, 1] (max - pool_mean[e, 0])
    + free[e, 2] (avg - pool_mean[e, 1]))`. Means given as such keep their digits where they are large against the
    deviation; a bias of `- sum scale * mean` does not.

    Args:
        out: maps [N, C, H', W'], float32 | bfloat16 | float64; written.
        ys: T times [N, C', H', W'], channels_last, the dtype of out.
        scale: [T, C'].
        bias: [C'] or None for 0.
        sources: E times maps [N, C, H, W], the dtype of out.
        edges: E times what is mixed of each source beside its y's.
        free: [E, 3, C'].
        bypass: [E] or None for 1 each; read where partial > 1.
        partial: K, the share of the channels that is mixed is 1/K.
        mean: [T, C'] or None for 0.
        pool_mean: [E, 2, C'] or None for 0.
    """
    shape = (out.shape[0], out.shape[1], partial, out.shape[2], out.shape[3])
    mixed = out.shape[1] // partial
    ys = [maps.as_dense_maps(y) for y in ys]
    bias = out.new_zeros(mixed, dtype=torch.float64) if bias is None else bias
    kept = [_coefficients(each) for each in (scale, mean, bias, free, pool_mean, bypass)]
    names = ("scale", "mean", "bias", "free", "pool_mean", "bypass")
    _run(
        "mixed_sum_forward",
        out,
        shape=shape,
        ys=_addresses(ys),
        edges=_edges(sources, edges),
        out=_address(out),
        out_pixel=maps.pixel_stride(out),
        **dict(zip(names, map(_address, kept), strict=True)),
    )


def reduce(
    g: Tensor,
    ys: Sequence[Tensor],
    mean: Tensor,
    rstd: Tensor,
    sources: Sequence[Tensor],
    edges: Sequence[Edge],
    pool_mean: Tensor,
    pool_rstd: Tensor,
    partial: int,
) -> Reduced:
    """Sums of a node's gradient with each of its candidates, over N, H' and W'.

    Args:
        g: maps [N, C, H', W'], float32 | bfloat16 | float64, the gradient of the node.
        ys: as in :func:`forward`.
        mean: [T, C']; so is rstd, and `xhat = (y - mean) * rstd`.
        rstd: the reciprocal deviations.
        sources: as in :func:`forward`.
        edges: as in :func:`forward`.
        pool_mean: [E, 2, C'], of maximum and average; so is pool_rstd.
        pool_rstd: the reciprocal deviations.
        partial: as in :func:`forward`.

    Returns:
        The sums, and the gradient with its channels in the order of the candidates: g itself where partial is 1.
    """
    n, channels, height, width = g.shape
    mixed, count = channels // partial, len(edges)
    unshuffled = g if partial == 1 else maps.empty_maps(n, channels, height, width, like=g)
    total, products, free = _sums(g, mixed), _sums(g, len(ys), mixed), _sums(g, count, 3, mixed)
    bypass = None if partial == 1 else _sums(g, count)
    ys = [maps.as_dense_maps(y) for y in ys]
    kept = [_coefficients(each) for each in (mean, rstd, pool_mean, pool_rstd)]
    names = ("mean", "rstd", "pool_mean", "pool_rstd")
    _run(
        "mixed_sum_reduce",
        g,
        shape=(n, channels, partial, height, width),
        ys=_addresses(ys),
        edges=_edges(sources, edges),
        g=_address(g),
        g_pixel=maps.pixel_stride(g),
        unshuffled=_address(unshuffled),
        **dict(zip(names, map(_address, kept), strict=True)),
        total=_address(total),
        products=_address(products),
        free=_address(free),
        bypass=_address(bypass),
    )
    return Reduced(unshuffled, total, products, free, bypass)


def backward(
    g: Tensor,
    sources: Sequence[Tensor],
    edges: Sequence[Edge],
    alpha: Tensor,
    beta: Tensor,
    gamma: Tensor,
    bypass: Tensor | None,
    dx: Sequence[Tensor],
    partial: int,
    *,
    pool_mean: Tensor | None = None,
) -> None:
    """Add a node's gradient to those of its sources, through skips, pools and the bypass.

    `dx_e += alpha[e, 0] g`, and through each pool v the gradient `alpha g + beta (v - pool_mean) + gamma`; the values v
    are computed again. A maximum gives its gradient to the first of the largest pixels.

    Args:
        g: maps [N, C, H', W'], float32 | bfloat16 | float64, as :func:`reduce` returned it.
        sources: E times maps [N, C, H, W], the dtype of g.
        edges: as in :func:`forward`.
        alpha: [E, 3, C'], of x, maximum and average; so are beta and gamma, whose first rows are unread.
        beta: what multiplies the values.
        gamma: the constant part.
        bypass: [E] or None for 1 each; read where partial > 1.
        dx: E times maps of the sources' shapes, the dtype of g; added to in place. Entries may be the same tensor.
        partial: as in :func:`forward`.
        pool_mean: [E, 2, C'] or None for 0.
    """
    kept = [_coefficients(each) for each in (alpha, beta, gamma, pool_mean, bypass)]
    names = ("alpha", "beta", "gamma", "pool_mean", "bypass")
    _run(
        "mixed_sum_backward",
        g,
        shape=(g.shape[0], g.shape[1], partial, g.shape[2], g.shape[3]),
        edges=_edges(sources, edges, dx),
        g=_address(g),
        g_pixel=maps.pixel_stride(g),
        **dict(zip(names, map(_address, kept), strict=True)),
    )


def pool_moments(x: Tensor, stride: int, *, max_pool: bool, avg_pool: bool) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of the 3x3 pools of a source, without the pooled maps.

    Args:
        x: maps [N, C, H, W], float32 | bfloat16 | float64.
        stride: 1 or 2, pixels.
        max_pool: whether the first row is wanted.
        avg_pool: whether the second row is wanted.

    Returns:
        (mean [2, C], var [2, C]), float64; rows: maximum, average of the pixels inside; 0 where not wanted.
    """
    n, channels, height, width = x.shape
    mean, var = (_sums(x, 2, channels) for _ in range(2))
    edge = Edge(stride, skip=False, max_pool=max_pool, avg_pool=avg_pool)
    shape = (n, channels, 1, -(-height // stride), -(-width // stride))
    _run("pool_moments", x, shape=shape, edge=_edges([x], [edge])[0], mean=_address(mean), var=_address(var))
    return mean, var


def _run(name: str, like: Tensor, **arguments: object) -> None:
    """Ask for the size of the scratch, allocate it, and run; on meta, do not run."""
    core = native()
    if core is None:
        raise RuntimeError(f"mixed_sum: no native core: {native_failure()}; or use_backend('reference')")
    kernel = _kernel(core, name, like.dtype)
    threads = torch.get_num_threads()
    size = kernel(**arguments, scratch=0, threads=threads)
    scratch = maps.empty(size, dtype=torch.uint8, device=like.device)
    if not like.is_meta:
        kernel(**arguments, scratch=scratch.data_ptr(), threads=threads)


def _kernel(core: ModuleType, name: str, dtype: torch.dtype) -> Callable[..., int]:
    kernel: Callable[..., int] = getattr(core, f"{name}_{dtype_name(dtype)}")
    return kernel


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None or tensor.is_meta else tensor.data_ptr()


def _addresses(tensors: Sequence[Tensor]) -> list[int]:
    return [_address(tensor) for tensor in tensors]


def _sums(like: Tensor, *shape: int) -> Tensor:
    return maps.empty(*shape, dtype=torch.float64, device=like.device)


def _coefficients(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().to(torch.float64).contiguous()


def _edges(
    sources: Sequence[Tensor], edges: Sequence[Edge], gradients: Sequence[Tensor] | None = None
) -> list[tuple[int, int, int, int, int, bool, bool, bool, int, int]]:
    """As csrc/bindings/mixed_sum.cpp takes them; the sources' gradients in backward only."""
    found = []
    for i, (x, edge) in enumerate(zip(sources, edges, strict=True)):
        dx = None if gradients is None else gradients[i]
        given = (_address(x), x.shape[2], x.shape[3], maps.pixel_stride(x))
        flags = (edge.stride, edge.skip, edge.max_pool, edge.avg_pool)
        found.append((*given, *flags, _address(dx), 0 if dx is None else maps.pixel_stride(dx)))
    return found
