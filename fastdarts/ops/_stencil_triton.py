"""The launchers of the fused stencil (`StencilLaunchers`) in Triton: check what memory depends on, allocate, launch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastdarts.kernels import _stencil as shared
from fastdarts.kernels import stencil, stencil_backward, stencil_weights
from fastdarts.ops import maps
from fastdarts.ops._engine import tf32_allowed
from fastdarts.ops._records import StencilBackward, StencilForward, StencilGradients
from fastdarts.ops._stencil_call import Arguments, empty_ys

__all__ = ["SLOTS", "backward", "empty_ys", "forward"]

SLOTS = 64  # programs at most that share the pixels of a weight's gradient

_PACK = 1024  # elements a program of `stencil_pack`
_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float64: tl.float64}
_FOLDS = {"num_warps": 4, "enable_fp_fusion": True}
_GATHER = 64  # elements a program of `stencil_gather`
_FOLD = 64  # tiles that `stencil_fold` adds up at a time


def forward(given: StencilForward) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
    convs, moments = given.convs, given.moments
    call = _Call(given)
    ys = empty_ys(given.sources, convs)
    found = call.moments(moments)
    tiles = call.tiles(call.outer, call.blocks.columns)
    scratch = (len(convs), tiles) if moments else (0, 0)
    parts = maps.empty(*scratch, 2, call.channels, dtype=torch.float64, device=call.device)
    counts = maps.empty(*scratch, dtype=torch.float64, device=call.device)
    call.pack(ys)
    if call.device.type != "meta" and convs:
        names = ("T", "VEC", "C", "KK", "NORMAL", "PRECISION", "R", "BQ", "BC", "B1", "B2", "A")
        stencil.stencil_forward[(len(convs) * tiles, call.pieces)](
            call.table, call.packed, parts, counts, call.count, len(convs), tiles,
            KINDS=call.kinds, MOMENTS=moments, **call.constants(*names), **call.options,
        )  # fmt: skip
        if moments:
            stencil.stencil_fold[(len(convs), triton.cdiv(call.channels, 16))](
                parts, counts, *found, tiles, C=call.channels, BT=_FOLD, BC=16, **_FOLDS
            )
    return (ys, found[0], found[1]) if moments else (ys, None, None)


def backward(given: StencilBackward) -> StencilGradients:
    g, ys, dx, weights, convs = given.g, given.ys, given.dx, given.weights, given.convs
    call = _Call(given)
    out = call.gradients(dx)
    call.check_maps("g", g, call.outer)
    if ys is not None:
        call.check_maps("y", ys, call.outer)
    if dx is not None:
        call.check_maps("dx", dx, call.inner)
    affine = call.affine(given)
    gradients = call.weight_gradients() if weights else []
    dzs = empty_ys(given.sources, convs)
    call.pack(dzs, g, ys, out, affine)
    if convs and call.device.type != "meta":
        tiles = max(triton.cdiv(call.count * h * w, call.blocks.pixels) for h, w in call.outer)
        names = ("T", "VEC", "C", "KK", "PRECISION", "BP", "BC", "B1", "B2", "A")
        stencil_backward.stencil_spread[(len(convs) * tiles, call.pieces)](
            call.table, call.packed, call.count, len(convs), KINDS=call.kinds, VALUES=ys is not None,
            **call.constants(*names), **call.options,
        )  # fmt: skip
    totals = _sources(call, out, add=dx is not None)
    if weights and convs:
        _weights(call, gradients, values=ys is not None)
    ddepthwise, dpointwise = gradients if weights else (None, None)
    return out, ddepthwise, dpointwise, *totals


def _sources(call: _Call, out: Sequence[Tensor], *, add: bool) -> tuple[Tensor | None, Tensor | None]:
    """Launch what writes or adds to the sources' gradients; their sums and products where they are normalised."""
    b, normalised = call.blocks, call.statistics[0] is not None
    tiles = call.tiles(call.inner, b.columns)
    scratch = (len(out), tiles) if normalised else (0, 0)
    parts = maps.empty(*scratch, 2, call.channels, dtype=torch.float64, device=call.device)
    found = call.totals()
    if call.device.type != "meta":
        for unread in set(range(len(out))).difference(conv.source for conv in call.convs):
            if not add:
                out[unread].zero_()
            if normalised:
                parts[unread].zero_()
        constants = call.constants("T", "VEC", "C", "KK", "NORMAL", "R", "BQ", "BC", "A")
        for kinds, members, first in call.groups:
            stencil_backward.stencil_sources[(len(members) * tiles, triton.cdiv(call.channels, b.chunk))](
                call.table, call.packed, parts, first, call.count, len(members), tiles, KINDS=kinds, ADD=add,
                **constants, **call.options,
            )  # fmt: skip
        if normalised:
            stencil_backward.stencil_totals[(len(out), triton.cdiv(call.channels, 16))](
                parts, *found, tiles, C=call.channels, BT=_FOLD, BC=16, **_FOLDS
            )
    return (found[0], found[1]) if normalised else (None, None)


def _weights(call: _Call, gradients: Sequence[Sequence[Tensor]], *, values: bool) -> None:
    """Launch what computes the weights' gradients: parts of them a slot, then their sums."""
    count, channels, b = len(call.convs), call.channels, call.blocks
    parts, shares = [], []
    for rows, columns in ((call.taps, b.columns), (channels, b.outer)):
        tiles = call.tiles(call.outer, columns)
        steps = triton.next_power_of_2(triton.cdiv(tiles, SLOTS))
        slots = triton.cdiv(tiles, steps)
        parts.append(maps.empty(count, slots, rows, channels, dtype=call.arithmetic, device=call.device))
        shares.append((slots, {"KINDS": call.kinds, "STEPS": steps, "BQ": columns}))
    if call.device.type == "meta":
        return
    chunks, side = triton.cdiv(channels, b.chunk), max(conv.kernel for conv in call.convs)
    (slots, own), (mix_slots, mix_own) = shares
    stencil_weights.stencil_taps[(count * slots, chunks, side)](
        call.table, call.packed, parts[0], call.count, count, slots, **own,
        **call.constants("T", "VEC", "C", "KK", "NORMAL", "R", "BC", "A"), **call.options,
    )  # fmt: skip
    names = ("T", "VEC", "C", "KK", "NORMAL", "PRECISION", "R", "BC", "B1", "B2", "A")
    stencil_weights.stencil_mixes[(count * mix_slots, chunks * call.pieces)](
        call.table, call.packed, parts[1], call.count, count, mix_slots, **mix_own, VALUES=values,
        **call.constants(*names), **(call.options | {"num_warps": b.outer_warps}),
    )  # fmt: skip
    blocks = triton.cdiv(channels**2, _GATHER) + triton.cdiv(channels * call.taps, _GATHER)
    stencil_weights.stencil_gather[(count, blocks)](
        *(_padded(each) for each in gradients), _coded(call.numbers), *parts, slots, mix_slots,
        COUNT=_bucket(count), C=channels, KK=call.taps, BS=16, B=_GATHER, **_FOLDS,
    )  # fmt: skip


class _Call(Arguments):
    """The arguments that both launchers share, and what the kernels are compiled for."""

    def __init__(self, given: StencilForward | StencilBackward) -> None:
        super().__init__(given)
        self.blocks = shared.blocks(self.channels)
        self.check_maps("a source", given.sources, self.inner)
        self.order()

    def check_maps(self, name: str, given: Sequence[Tensor], like: Sequence[tuple[int, int]]) -> None:
        """Refuse what are not maps of these heights and widths."""
        for x, size in zip(given, like, strict=True):
            self.pixel_stride(name, x, size)

    def order(self) -> None:
        """Number the kinds of convolutions, and put those of a source into rows beside each other, like sources first.

        `groups` are the sources whose convolutions are of the same kinds: those, how many sources, their first row.
        """
        keys = [(c.kernel, c.dilation, c.stride, *self.inner[c.source]) for c in self.convs]
        every = sorted(set(keys))
        self.kinds = tuple(number for key in every for number in key)
        self.kind = [every.index(key) for key in keys]
        own: dict[int, list[int]] = {}
        for i, conv in enumerate(self.convs):
            own.setdefault(conv.source, []).append(i)
        alike: dict[tuple[int, ...], list[int]] = {}
        for source, found in own.items():
            found.sort(key=lambda i: self.kind[i])
            alike.setdefault(tuple(self.kind[i] for i in found), []).append(source)
        self.rows = [i for sources in alike.values() for source in sources for i in own[source]]
        self.groups = []
        first = 0
        for kinds, sources in alike.items():
            self.groups.append((tuple(n for kind in kinds for n in every[kind]), sources, first))
            first += len(kinds) * len(sources)

    def tiles(self, sizes: Sequence[tuple[int, int]], columns: int) -> int:
        """Programs for the columns of the largest of maps with these heights and widths."""
        rows = self.blocks.rows
        return max((triton.cdiv(self.count * -(-h // rows) * w, columns) for h, w in sizes), default=0)

    @property
    def pieces(self) -> int:
        """Programs that share the outputs of the pointwise convolution."""
        return int(triton.cdiv(self.channels, self.channels if self.blocks.rest else self.blocks.wide))

    @property
    def taps(self) -> int:
        """Of the largest kernel of the call."""
        return max((conv.kernel**2 for conv in self.convs), default=0)

    def constants(self, *names: str) -> dict[str, Any]:
        """Some of what the kernels that compute are compiled for."""
        precision = "tf32" if self.dtype in (torch.bfloat16, torch.float16) or tf32_allowed() else "tf32x3"
        b = self.blocks
        every = {
            "T": _DTYPES[self.dtype], "VEC": self.vector, "C": self.channels, "KK": self.taps, "R": b.rows,
            "NORMAL": self.statistics[0] is not None, "A": _DTYPES[self.arithmetic], "BQ": b.columns, "BC": b.chunk,
            "PRECISION": "ieee" if self.dtype == torch.float64 else precision, "B1": b.wide, "B2": b.rest,
            "BP": b.pixels,
        }  # fmt: skip
        return {name: every[name] for name in names}

    @property
    def options(self) -> dict[str, Any]:
        return {"num_warps": self.blocks.warps, "enable_fp_fusion": True}

    def pack(
        self,
        outs: Sequence[Tensor],
        gs: Sequence[Tensor] | None = None,
        ys: Sequence[Tensor] | None = None,
        dxs: Sequence[Tensor] | None = None,
        affine: Sequence[Tensor] = (),
    ) -> None:
        """Make `table` and `packed`, the weights and coefficients of each convolution: what the other kernels read."""
        size = self.taps + self.channels + shared.EXTRA.value
        self.packed = maps.empty(len(self.convs), size, self.channels, dtype=self.arithmetic, device=self.device)
        self.table = maps.empty(len(self.convs), shared.FIELDS.value, dtype=torch.int64, device=self.device)
        if self.device.type == "meta" or not self.convs:
            return
        xs = [self.sources[conv.source] for conv in self.convs]
        dxs = xs if dxs is None else [dxs[conv.source] for conv in self.convs]
        every = [xs, xs if gs is None else gs, xs if ys is None else ys, dxs]
        strides = [[maps.pixel_stride(x) for x in each] for each in every]
        self.vector = math.gcd(self.channels, 16 // self.dtype.itemsize, *(s for each in strides for s in each))
        addresses = [x.data_ptr() // x.element_size() for each in every for x in each]
        self.vector = math.gcd(self.vector, *addresses)
        self.numbers = [
            (self.rows.index(i), self.kind[i], conv.kernel, conv.source, *(each[i] // self.vector for each in strides))
            for i, conv in enumerate(self.convs)
        ]
        statistics = [self.packed if given is None else given for given in self.statistics]  # read where it is given
        tuples = [_padded(each) for each in (*self.weights, xs, outs, *every[1:])]
        stencil.stencil_pack[(len(self.convs), triton.cdiv(size * self.channels, _PACK))](
            *tuples, _coded(self.numbers), *statistics, *(affine or [self.packed] * 3), self.table, self.packed,
            COUNT=_bucket(len(self.convs)), C=self.channels, KK=self.taps, NORMAL=self.statistics[0] is not None,
            GRADIENT=bool(affine), B=_PACK, **_FOLDS,
        )  # fmt: skip


def _bucket(count: int) -> int:
    """Tuples have one of a few lengths: a kernel is compiled for each."""
    return max(4, int(triton.next_power_of_2(count)))


def _padded(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (*tensors, *[tensors[-1]] * (_bucket(len(tensors)) - len(tensors)))


def _coded(fields: Sequence[Sequence[int]]) -> tuple[int, ...]:
    every = [*fields, *[fields[-1]] * (_bucket(len(fields)) - len(fields))]
    return tuple(shared.coded(value) for each in every for value in each)
