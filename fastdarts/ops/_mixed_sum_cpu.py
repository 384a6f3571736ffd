"""The launchers of mixed_sum (`SumLaunchers`) on a CPU: allocate, and call the native core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType

import torch
from torch import Tensor

from fastdarts._backend import native, native_failure
from fastdarts.ops import maps
from fastdarts.ops._checks import dtype_name
from fastdarts.ops._records import Edge, SumBackward, SumForward, SumReduce, SumReduced

__all__ = ["Edge", "backward", "forward", "pool_moments", "reduce"]


def forward(given: SumForward) -> None:
    out, partial = given.out, given.partial
    shape = (out.shape[0], out.shape[1], partial, out.shape[2], out.shape[3])
    mixed = out.shape[1] // partial
    ys = [maps.as_dense_maps(y) for y in given.ys]
    bias = out.new_zeros(mixed, dtype=torch.float64) if given.bias is None else given.bias
    coefficients = (given.scale, given.mean, bias, given.free, given.pool_mean, given.bypass)
    kept = [_coefficients(each) for each in coefficients]
    names = ("scale", "mean", "bias", "free", "pool_mean", "bypass")
    _run(
        "mixed_sum_forward",
        out,
        shape=shape,
        ys=_addresses(ys),
        edges=_edges(given.sources, given.edges),
        out=_address(out),
        out_pixel=maps.pixel_stride(out),
        **dict(zip(names, map(_address, kept), strict=True)),
    )


def reduce(given: SumReduce) -> SumReduced:
    g, partial = given.g, given.partial
    n, channels, height, width = g.shape
    mixed, count = channels // partial, len(given.edges)
    unshuffled = g if partial == 1 else maps.empty_maps(n, channels, height, width, like=g)
    total, products, free = _sums(g, mixed), _sums(g, len(given.ys), mixed), _sums(g, count, 3, mixed)
    bypass = None if partial == 1 else _sums(g, count)
    ys = [maps.as_dense_maps(y) for y in given.ys]
    kept = [_coefficients(each) for each in (given.mean, given.rstd, given.pool_mean, given.pool_rstd)]
    names = ("mean", "rstd", "pool_mean", "pool_rstd")
    _run(
        "mixed_sum_reduce",
        g,
        shape=(n, channels, partial, height, width),
        ys=_addresses(ys),
        edges=_edges(given.sources, given.edges),
        g=_address(g),
        g_pixel=maps.pixel_stride(g),
        unshuffled=_address(unshuffled),
        **dict(zip(names, map(_address, kept), strict=True)),
        total=_address(total),
        products=_address(products),
        free=_address(free),
        bypass=_address(bypass),
    )
    return SumReduced(unshuffled, total, products, free, bypass)


def backward(given: SumBackward) -> None:
    g = given.g
    kept = [_coefficients(each) for each in (given.alpha, given.beta, given.gamma, given.pool_mean, given.bypass)]
    names = ("alpha", "beta", "gamma", "pool_mean", "bypass")
    _run(
        "mixed_sum_backward",
        g,
        shape=(g.shape[0], g.shape[1], given.partial, g.shape[2], g.shape[3]),
        edges=_edges(given.sources, given.edges, given.dx),
        g=_address(g),
        g_pixel=maps.pixel_stride(g),
        **dict(zip(names, map(_address, kept), strict=True)),
    )


def pool_moments(x: Tensor, stride: int, *, max_pool: bool, avg_pool: bool) -> tuple[Tensor, Tensor]:
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
