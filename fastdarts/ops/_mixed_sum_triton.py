"""The launchers of mixed_sum (`SumLaunchers`) in Triton; on the CPU where Triton interprets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import triton
from torch import Tensor

from fastdarts.kernels import mixed_sum as kernels
from fastdarts.kernels import mixed_sum_backward as backward_kernels
from fastdarts.kernels import mixed_sum_moments as moment_kernels
from fastdarts.kernels import mixed_sum_reduce as reduce_kernels
from fastdarts.ops import maps
from fastdarts.ops._records import Edge, SumBackward, SumForward, SumReduce, SumReduced

__all__ = ["backward", "forward", "pool_moments", "reduce"]

_Given = TypeVar("_Given", Tensor, Tensor | None)

_WARPS = 4
_VECTOR = 16  # bytes that a thread loads at once
_ELEMENTS = 2048  # of one program of forward, over several images, where enough programs are left
_PROGRAMS = 512  # that is, about four for each of 132 multiprocessors
_GATHERED, _ROWS = 128, 8  # elements of a row and rows, at most, of a program of backward
_FEW_WARPS = 2  # of it
_TILE = 512  # elements that a program of the sums adds at once
_SLOTS = 256  # of partial sums at most
_LOADED = 4  # terms at a time in forward
_TERMS = 8  # that a program of reduce adds up at once
_FOLD = 2048  # elements that a program of a fold reads at once


def forward(given: SumForward) -> None:
    out, sources, edges, partial = given.out, given.sources, given.edges, given.partial
    n, channels, height, width = out.shape
    mixed = channels // partial
    ys = [maps.as_dense_maps(y) for y in given.ys]
    scale, free = map(_coefficients, (given.scale, given.free))
    mean, bias, pool_mean, bypass = map(_coefficients, (given.mean, given.bias, given.pool_mean, given.bypass))
    if out.is_meta:
        return
    pixels = [maps.pixel_stride(x) for x in sources]
    unit, (mixed_units, out_units, *x_units) = _units(out.dtype, mixed, maps.pixel_stride(out), *pixels)
    block = 32 * _WARPS * max(4, unit)
    images, grid = _images(n, height * width * mixed, partial, block)
    _launch(
        kernels.forward,
        grid,
        out,
        (out, tuple(ys), scale, mean, bias, tuple(sources), free, pool_mean, bypass),
        (n, height, width, mixed_units, out_units, _coded(x_units)),
        RUNS=_runs([_geometry(x, edge, height, width) for x, edge in zip(sources, edges, strict=True)]),
        PARTIAL=partial,
        GROUPS=_power(partial),
        UNIT=unit,
        G=_LOADED,
        J=images,
        B=block,
    )


def reduce(given: SumReduce) -> SumReduced:
    g, sources, edges, partial = given.g, given.sources, given.edges, given.partial
    n, channels, height, width = g.shape
    mixed, count = channels // partial, len(edges)
    unshuffled = g if partial == 1 else maps.empty_maps(n, channels, height, width, like=g)
    total, products, free = _sums(g, mixed), _sums(g, len(given.ys), mixed), _sums(g, count, 3, mixed)
    bypass = None if partial == 1 else _sums(g, count)
    ys = [maps.as_dense_maps(y) for y in given.ys]
    mean, rstd, pool_mean, pool_rstd = map(_coefficients, (given.mean, given.rstd, given.pool_mean, given.pool_rstd))
    pixels = n * height * width
    rows, columns, tiles, slots = _tiles(pixels, mixed)
    _, grid = _images(n, height * width * mixed, partial, _TILE)
    bypasses = 0 if partial == 1 else grid[0] * grid[1]
    scratch = _sums(g, (1 + len(ys) + 3 * count) * slots * mixed + count * bypasses)
    if g.is_meta:
        return SumReduced(unshuffled, total, products, free, bypass)

    geometry = [_geometry(x, edge, height, width) for x, edge in zip(sources, edges, strict=True)]
    if partial > 1:
        _unshuffle(scratch[scratch.numel() - count * bypasses :], unshuffled, g, sources, geometry, partial, grid)
    x_pixels = [maps.pixel_stride(x) for x in sources]
    unit, (mixed_units, g_units, *x_units) = _units(g.dtype, mixed, maps.pixel_stride(unshuffled), *x_pixels)
    blocks = triton.cdiv(mixed, columns)
    tile: dict[str, Any] = {"UNIT": unit, "BP": rows, "BC": columns}
    _launch(
        reduce_kernels.terms,
        (slots, max(1, triton.cdiv(len(ys), _TERMS)), blocks),
        g,
        (scratch, unshuffled, tuple(ys), mean),
        (pixels, tiles, mixed_units, g_units),
        G=_TERMS,
        **tile,
    )
    for edge, alike in _alike(geometry):
        _launch(
            reduce_kernels.edges,
            (slots, len(alike), blocks),
            g,
            (scratch[(1 + len(ys)) * slots * mixed :], unshuffled, tuple(sources[i] for i in alike), pool_mean),
            (tuple(alike), pixels, height, width, tiles, mixed_units, g_units, _coded([x_units[i] for i in alike])),
            EDGE=edge,
            **tile,
        )
    fold_columns = min(_power(mixed), _FOLD)
    _launch(
        reduce_kernels.fold,
        (1 + len(ys) + (3 if bypass is None else 4) * count, triton.cdiv(mixed, fold_columns)),
        g,
        (total, products, free, bypass, scratch, rstd, pool_rstd),
        (slots, mixed, len(ys), count, bypasses),
        BS=_FOLD // fold_columns,
        BC=fold_columns,
    )
    return SumReduced(unshuffled, total, products, free, bypass)


def _unshuffle(
    slots: Tensor,
    out: Tensor,
    g: Tensor,
    sources: Sequence[Tensor],
    geometry: Sequence[tuple[int, ...]],
    partial: int,
    grid: tuple[int, int],
) -> None:
    """The gradient with its channels in the candidates' order, and the slots of what goes by."""
    height, width = g.shape[2:]
    strides = maps.pixel_stride(g), *(maps.pixel_stride(x) for x in sources)
    unit, (mixed_units, g_units, *x_units) = _units(g.dtype, g.shape[1] // partial, *strides)
    _launch(
        reduce_kernels.unshuffle,
        grid,
        g,
        (slots, out, g, tuple(sources)),
        (height, width, mixed_units, g_units, _coded(x_units)),
        EDGES=tuple(geometry),
        PARTIAL=partial,
        GROUPS=_power(partial),
        UNIT=unit,
        B=_TILE,
    )


def backward(given: SumBackward) -> None:
    g, sources, edges, dx, partial = given.g, given.sources, given.edges, given.dx, given.partial
    n, channels, height, width = g.shape
    mixed = channels // partial
    alpha, beta, gamma = map(_coefficients, (given.alpha, given.beta, given.gamma))
    pool_mean, bypass = map(_coefficients, (given.pool_mean, given.bypass))
    if g.is_meta:
        return
    geometry = [_geometry(x, edge, height, width) for x, edge in zip(sources, edges, strict=True)]
    x_pixels, dx_pixels = ([maps.pixel_stride(x) for x in group] for group in (sources, dx))
    unit, (mixed_units, g_units, *units) = _units(g.dtype, mixed, maps.pixel_stride(g), *x_pixels, *dx_pixels)
    x_units, dx_units = units[: len(sources)], units[len(sources) :]
    for edge, alike in _alike(geometry, [each.data_ptr() for each in dx]):
        if partial == 1 and not any(edge[1:4]):
            continue
        x_height, x_width = sources[alike[0]].shape[2:]
        strips = triton.cdiv(x_height, _ROWS)
        blocks = triton.cdiv(x_width * mixed, _GATHERED) * strips
        _launch(
            backward_kernels.backward,
            (blocks, n, len(alike)),
            g,
            (g, tuple(sources[i] for i in alike), tuple(dx[i] for i in alike)),
            (alpha, beta, gamma, pool_mean, bypass, tuple(alike), x_height, x_width, mixed_units, g_units),
            (_coded([x_units[i] for i in alike]), _coded([dx_units[i] for i in alike])),
            EDGE=edge,
            PARTIAL=partial,
            GROUPS=_power(partial),
            UNIT=unit,
            ROWS=2 * triton.cdiv(x_height, 2 * strips),
            B=_GATHERED,
            num_warps=_FEW_WARPS,
        )


def pool_moments(x: Tensor, stride: int, *, max_pool: bool, avg_pool: bool) -> tuple[Tensor, Tensor]:
    n, channels, height, width = x.shape
    mean, var = (_sums(x, 2, channels) for _ in range(2))
    out_height, out_width = -(-height // stride), -(-width // stride)
    pixels = n * out_height * out_width
    rows, columns, tiles, slots = _tiles(pixels, channels)
    parts = _sums(x, 2, slots, channels, 2)
    if x.is_meta:
        return mean, var
    unit, (channel_units, x_units) = _units(x.dtype, channels, maps.pixel_stride(x))
    _launch(
        moment_kernels.pool_moments,
        (slots, triton.cdiv(channels, columns)),
        x,
        (parts, x),
        (pixels, out_height, out_width, tiles, channel_units, x_units),
        STRIDE=stride,
        MAX=max_pool,
        AVG=avg_pool,
        ODD_ROWS=stride * out_height - height,
        ODD_COLUMNS=stride * out_width - width,
        UNIT=unit,
        BP=rows,
        BC=columns,
    )
    fold_columns = min(_power(channels), _FOLD)
    _launch(
        moment_kernels.fold_moments,
        (2, triton.cdiv(channels, fold_columns)),
        x,
        (mean, var, parts),
        (pixels, tiles * rows, slots, channels),
        BS=_FOLD // fold_columns,
        BC=fold_columns,
    )
    return mean, var


def _launch(kernel: Any, grid: tuple[int, ...], like: Tensor, *arguments: tuple[Any, ...], **constants: Any) -> None:
    """On the current stream of the maps' device; a grid of nothing is no launch."""
    if 0 in grid:
        return
    flat = [each for group in arguments for each in group]
    with torch.cuda.device_of(like):
        kernel[grid](*flat, **{"num_warps": _WARPS} | constants, enable_fp_fusion=True)


def _power(size: int) -> int:
    """The next power of two."""
    return 1 << max(0, size - 1).bit_length()


def _units(dtype: torch.dtype, *strides: int) -> tuple[int, list[int]]:
    """A unit that divides all strides, no longer than a vector, and the strides in it."""
    unit = _VECTOR // dtype.itemsize
    while any(stride % unit for stride in strides):
        unit //= 2
    return unit, [stride // unit for stride in strides]


def _coded(units: Sequence[int]) -> tuple[int, ...]:
    """As kernels take units in a tuple: neither 1 nor a multiple of 16, for which Triton would compile again."""
    return tuple(2 * each + 1 for each in units)


def _images(n: int, size: int, partial: int, block: int) -> tuple[int, tuple[int, int]]:
    """Images of a program of `block` elements each, and the grid, for maps of `size` mixed elements an image."""
    blocks = triton.cdiv(size, block)
    images = _ELEMENTS // block if partial == 1 and blocks * n * block >= _PROGRAMS * _ELEMENTS else 1
    return images, (blocks, triton.cdiv(n, images))


def _tiles(pixels: int, channels: int) -> tuple[int, int, int, int]:
    """Pixels and channels of a tile, tiles of a slot, and slots."""
    columns = min(_power(channels), _TILE)
    rows = _TILE // columns
    tiles = triton.cdiv(triton.cdiv(pixels, rows), _SLOTS)
    return rows, columns, tiles, triton.cdiv(triton.cdiv(pixels, rows), tiles)


def _geometry(x: Tensor, edge: Edge, height: int, width: int) -> tuple[int, ...]:
    """An edge as the kernels take it; the last two: rows and columns that the source lacks to stride times the node."""
    missing = edge.stride * height - x.shape[2], edge.stride * width - x.shape[3]
    return (edge.stride, int(edge.skip), int(edge.max_pool), int(edge.avg_pool), *missing)


def _runs(geometry: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """Edges that are alike, one after the other: the first, that behind the last, and their geometry."""
    runs: list[tuple[int, ...]] = []
    for i, edge in enumerate(geometry):
        if runs and runs[-1][2:] == edge:
            runs[-1] = (runs[-1][0], i + 1, *edge)
        else:
            runs.append((i, i + 1, *edge))
    return tuple(runs)


def _alike(
    geometry: Sequence[tuple[int, ...]], written: Sequence[int] | None = None
) -> list[tuple[tuple[int, ...], list[int]]]:
    """Edges that one launch can take: those of one geometry, of which no two write the same tensor."""
    groups: list[tuple[tuple[int, ...], list[int]]] = []
    for i, edge in enumerate(geometry):
        for other, members in groups:
            if other == edge and (written is None or written[i] not in [written[k] for k in members]):
                members.append(i)
                break
        else:
            groups.append((edge, [i]))
    return groups


def _sums(like: Tensor, *shape: int) -> Tensor:
    return maps.empty(*shape, dtype=torch.float64, device=like.device)


def _coefficients(tensor: _Given) -> _Given:
    return None if tensor is None else tensor.detach().to(torch.float64).contiguous()
