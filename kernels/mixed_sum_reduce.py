"""Sums of a node's gradient with each of its candidates: partial sums in slots, then one fold in float64.

The number of slots and what each adds up depend on shapes only, so results are bit-equal from run to run. A slot's
lanes add up in the arithmetic of the maps; lanes with each other too, slots in float64.

Bytes, with `U = N H' W' C'` elements of a bytes: `terms` `(T + ceil(T / G)) U a`, `edges` `2 E U a` (at stride 2
`5 E U a`), `unshuffle` `(2 + E) K U a`. The last node of a DARTS cell (C 16, 32x32, N 64, T 20, E 5, G 8): 23 + 10
times 4.2 MB = 138 MB in float32, 32 us at 4.3 TB/s when nothing is found in L2; the gradient is, which leaves 109 MB,
25 us; 13 us in bfloat16. The slots: 36 sums x 16 x 256 x 8 bytes = 1.2 MB, written and read once, in L2.
"""

# Triton knows no starred expressions.
# ruff: noqa: RUF005

from __future__ import annotations

from collections.abc import Iterator

import triton
import triton.language as tl

from fastdarts.kernels._variants import Variant
from fastdarts.kernels.mixed_sum import (
    DARTS,
    NORMAL,
    PC_DARTS,
    REDUCTION,
    S2,
    SPACES,
    below,
    bypassed,
    copies,
    pick,
    place,
    pools,
    split,
)

__all__ = ["VARIANTS", "edges", "fold", "terms", "unshuffle"]


@triton.jit(do_not_specialize=["pixels", "tiles", "mixed_units", "g_units"])
def terms(
    p_slots,
    p_g,
    ys,
    p_mean,
    pixels,
    tiles,
    mixed_units,
    g_units,
    UNIT: tl.constexpr,
    G: tl.constexpr,
    BP: tl.constexpr,
    BC: tl.constexpr,
):
    """`sum g`, and `sum g (y_t - mean_t)` of G terms: programs (slots, blocks of terms, blocks of channels).

    A slot is `tiles` tiles of BP pixels. Slots [1 + T, slots, C'], the first row `sum g`.
    """
    T: tl.constexpr = len(ys)
    A: tl.constexpr = tl.float64 if p_g.dtype.element_ty == tl.float64 else tl.float32
    mixed = mixed_units * UNIT
    o_channel = tl.program_id(2) * BC + tl.arange(0, BC)  # [BC]
    m_channel = o_channel < mixed
    b_total = tl.zeros([BP, BC], A)
    # Of G terms, from the first on that is this program's: pointers, means, sums.
    i_first = tl.program_id(1) * G
    p_ys = ()
    b_means = ()
    for k in tl.static_range(G):
        if k < T:
            m_term = below(m_channel, i_first + k, T)
            p_ys = p_ys + (pick(ys, i_first + k, k, G, T),)
            b_means = b_means + (split(p_mean, (i_first + k) * mixed + o_channel, m_term, A),)
    b_sums = copies(b_total, len(p_ys))
    for i_tile in range(tiles):
        i_pixel = ((tl.program_id(0) * tiles + i_tile) * BP + tl.arange(0, BP)).to(tl.int64)  # [BP]
        m = (i_pixel < pixels)[:, None] & m_channel[None, :]  # [BP, BC]
        p_tile = p_g + (i_pixel * (g_units * UNIT))[:, None] + o_channel[None, :]
        b_g = tl.load(p_tile, mask=m, other=0.0).to(A)  # [BP, BC]
        b_total += b_g
        o_y = (i_pixel * mixed)[:, None] + o_channel[None, :]
        found = ()
        for k in tl.static_range(len(p_ys)):
            b_y = tl.load(p_ys[k] + o_y, mask=below(m, i_first + k, T), other=0.0).to(A)  # [BP, BC]
            found = found + (b_sums[k] + b_g * (b_y - b_means[k][0][None, :] - b_means[k][1][None, :]),)
        b_sums = found
    row = tl.num_programs(0) * mixed
    p_slot = p_slots + tl.program_id(0) * mixed + o_channel
    if i_first == 0:
        tl.store(p_slot, tl.sum(b_total, 0).to(tl.float64), mask=m_channel)
    for k in tl.static_range(len(p_ys)):
        b_sum = tl.sum(b_sums[k], 0).to(tl.float64)
        tl.store(p_slot + (1 + i_first + k) * row, b_sum, mask=below(m_channel, i_first + k, T))


@triton.jit(do_not_specialize=["pixels", "height", "width", "tiles", "mixed_units", "g_units"])
def edges(
    p_slots,
    p_g,
    xs,
    p_pool_mean,
    numbers,
    pixels,
    height,
    width,
    tiles,
    mixed_units,
    g_units,
    x_units,
    EDGE: tl.constexpr,
    UNIT: tl.constexpr,
    BP: tl.constexpr,
    BC: tl.constexpr,
):
    """Sums of g with x and with its centred pools, for edges that are alike: programs (slots, edges, channel blocks).

    EDGE as in `forward`; `numbers` says which of the node's edges each is. Slots [E, 3, slots, C'], rows of what is not
    present 0.
    """
    A: tl.constexpr = tl.float64 if p_g.dtype.element_ty == tl.float64 else tl.float32
    SKIP: tl.constexpr = EDGE[1]
    MAX: tl.constexpr = EDGE[2]
    AVG: tl.constexpr = EDGE[3]
    mixed = mixed_units * UNIT
    i_edge = tl.program_id(1)
    p_x = pick(xs, i_edge, 0, 1, len(xs))
    number = pick(numbers, i_edge, 0, 1, len(xs))
    pixel = pick(x_units, i_edge, 0, 1, len(xs)) // 2 * UNIT
    x_height = EDGE[0] * height - EDGE[4]
    x_width = EDGE[0] * width - EDGE[5]
    o_channel = tl.program_id(2) * BC + tl.arange(0, BC)  # [BC]
    m_channel = o_channel < mixed
    b_skip = tl.zeros([BP, BC], A)
    b_max_sum = tl.zeros([BP, BC], A)
    b_avg_sum = tl.zeros([BP, BC], A)
    if MAX:
        b_max_high, b_max_low = split(p_pool_mean, 2 * number * mixed + o_channel, m_channel, A)
    if AVG:
        b_avg_high, b_avg_low = split(p_pool_mean, (2 * number + 1) * mixed + o_channel, m_channel, A)
    if SKIP or MAX or AVG:
        for i_tile in range(tiles):
            i_pixel = (tl.program_id(0) * tiles + i_tile) * BP + tl.arange(0, BP)  # [BP]
            m = (i_pixel < pixels)[:, None] & m_channel[None, :]  # [BP, BC]
            p_tile = p_g + (i_pixel.to(tl.int64) * (g_units * UNIT))[:, None] + o_channel[None, :]
            b_g = tl.load(p_tile, mask=m, other=0.0).to(A)  # [BP, BC]
            i_image = (i_pixel // (height * width)).to(tl.int64)
            i_row = i_pixel // width % height * EDGE[0]
            i_column = i_pixel % width * EDGE[0]
            o_pixel = ((i_image * x_height + i_row) * x_width + i_column) * pixel
            p_centre = p_x + o_pixel[:, None] + o_channel[None, :]  # [BP, BC]
            if MAX or AVG:
                b_x, b_max, b_avg = pools(
                    p_centre, m, i_row[:, None], i_column[:, None], x_height, x_width, pixel, MAX, AVG, A
                )
                if MAX:
                    b_max_sum += b_g * (b_max - b_max_high[None, :] - b_max_low[None, :])
                if AVG:
                    b_avg_sum += b_g * (b_avg - b_avg_high[None, :] - b_avg_low[None, :])
            else:
                b_x = tl.load(p_centre, mask=m, other=0.0).to(A)
            if SKIP:
                b_skip += b_g * b_x
    row = tl.num_programs(0) * mixed
    p_slot = p_slots + number * 3 * row + tl.program_id(0) * mixed + o_channel
    tl.store(p_slot, tl.sum(b_skip, 0).to(tl.float64), mask=m_channel)
    tl.store(p_slot + row, tl.sum(b_max_sum, 0).to(tl.float64), mask=m_channel)
    tl.store(p_slot + 2 * row, tl.sum(b_avg_sum, 0).to(tl.float64), mask=m_channel)


@triton.jit(do_not_specialize=["height", "width", "mixed_units", "g_units"])
def unshuffle(
    p_slots,
    p_out,
    p_g,
    xs,
    height,
    width,
    mixed_units,
    g_units,
    x_units,
    EDGES: tl.constexpr,
    PARTIAL: tl.constexpr,
    GROUPS: tl.constexpr,
    UNIT: tl.constexpr,
    B: tl.constexpr,
):
    """The gradient with its channels in the candidates' order, and its sums with what goes by: [E, slots].

    Programs (blocks of an image, images), as in `forward`; each is a slot.
    """
    A: tl.constexpr = tl.float64 if p_g.dtype.element_ty == tl.float64 else tl.float32
    mixed = mixed_units * UNIT
    i_image = tl.program_id(1).to(tl.int64)
    o = tl.program_id(0) * B + tl.arange(0, B)  # [B]
    i_group = tl.arange(0, GROUPS)[:, None]  # [GROUPS, 1]
    m = (o < height * width * mixed)[None, :] & (i_group < PARTIAL)  # [GROUPS, B]
    i_pixel, o_channel = place(o, mixed_units, UNIT)
    i_row = i_pixel // width
    i_column = i_pixel % width
    p_pixel = p_g + i_image * height * width * (g_units * UNIT) + (i_pixel * (g_units * UNIT))[None, :]
    b_g = tl.load(p_pixel + o_channel[None, :] * PARTIAL + i_group, mask=m, other=0.0)  # [GROUPS, B]
    p_pixel = p_out + i_image * height * width * (mixed * PARTIAL) + (i_pixel * (mixed * PARTIAL))[None, :]
    tl.store(p_pixel + o_channel[None, :] + i_group * mixed, b_g, mask=m)

    m_rest = m & (i_group > 0)
    slots = tl.num_programs(0) * tl.num_programs(1)
    i_slot = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    for e in tl.static_range(len(xs)):
        pixel = x_units[e] // 2 * UNIT
        x_height = EDGES[e][0] * height - EDGES[e][4]
        x_width = EDGES[e][0] * width - EDGES[e][5]
        i_x_row = (i_row * EDGES[e][0])[None, :]
        i_x_column = (i_column * EDGES[e][0])[None, :]
        p_x = xs[e] + i_image * x_height * x_width * pixel
        p_x = p_x + (i_x_row * x_width + i_x_column) * pixel + o_channel[None, :] + i_group * mixed  # [GROUPS, B]
        b_x = bypassed(p_x, m_rest, i_x_row, i_x_column, x_height, x_width, pixel, EDGES[e][0], A)
        b_sum = tl.where(m_rest, b_g.to(A) * b_x, 0.0)
        # One number of a whole map: in float64 from here.
        tl.store(p_slots + e * slots + i_slot, tl.sum(tl.sum(b_sum.to(tl.float64), 0), 0))


@triton.jit(do_not_specialize=["slots", "mixed", "terms", "edges", "bypass_slots"])
def fold(
    p_total,
    p_products,
    p_free,
    p_bypass,
    p_slots,
    p_rstd,
    p_pool_rstd,
    slots,
    mixed,
    terms,
    edges,
    bypass_slots,
    BS: tl.constexpr,
    BC: tl.constexpr,
):
    """Slots in their order, times rstd: programs (1 + T + 3 E sums, then E bypasses; blocks of channels)."""
    i_sum = tl.program_id(0)
    sums = 1 + terms + 3 * edges
    o_channel = tl.program_id(1) * BC + tl.arange(0, BC)  # [BC]
    if i_sum < sums:
        m_channel = o_channel < mixed
        b_sum = tl.zeros([BS, BC], tl.float64)
        for i_first in range(0, slots, BS):
            i_slot = i_first + tl.arange(0, BS)  # [BS]
            m = (i_slot < slots)[:, None] & m_channel[None, :]
            o_slot = (i_sum * slots + i_slot)[:, None] * mixed + o_channel[None, :]
            b_sum += tl.load(p_slots + o_slot, mask=m, other=0.0)  # [BS, BC]
        total = tl.sum(b_sum, 0)
        if i_sum == 0:
            tl.store(p_total + o_channel, total, mask=m_channel)
        elif i_sum <= terms:
            o_out = (i_sum - 1) * mixed + o_channel
            rstd = tl.load(p_rstd + o_out, mask=m_channel, other=0.0)  # [BC]
            tl.store(p_products + o_out, total * rstd, mask=m_channel)
        else:
            i_free = i_sum - 1 - terms
            if i_free % 3 > 0:
                o_pool = (i_free // 3 * 2 + i_free % 3 - 1) * mixed + o_channel
                total *= tl.load(p_pool_rstd + o_pool, mask=m_channel, other=0.0)  # [BC]
            tl.store(p_free + i_free * mixed + o_channel, total, mask=m_channel)
    elif p_bypass is not None:  # without one there is no such program, but its code would be compiled
        if tl.program_id(1) == 0:
            p_first = p_slots + sums * slots * mixed + (i_sum - sums) * bypass_slots
            b_sum = tl.zeros([BS], tl.float64)
            for i_first in range(0, bypass_slots, BS):
                i_slot = i_first + tl.arange(0, BS)
                b_sum += tl.load(p_first + i_slot, mask=i_slot < bypass_slots, other=0.0)  # [BS]
            tl.store(p_bypass + i_sum - sums, tl.sum(b_sum, 0))


_COLUMNS = {DARTS: 16, PC_DARTS: 4, S2: 64}


def _variants() -> Iterator[Variant]:
    f64 = "*fp64"
    for space, dtype, unit, partial in SPACES:
        pointer, columns = f"*{dtype}", _COLUMNS[space]
        tile = {"UNIT": unit, "BP": 512 // columns, "BC": columns}
        sizes = dict.fromkeys(("pixels", "tiles", "mixed_units", "g_units"), "i32")
        signature = {"p_slots": f64, "p_g": pointer, "ys": (pointer,) * (5 if space == S2 else 20), "p_mean": f64}
        yield Variant(terms, signature | sizes, {"G": 8, **tile}, name=f"{space}, {dtype}")
        sizes |= {"height": "i32", "width": "i32"}
        for edge, count in ((NORMAL, 5), (REDUCTION, 2)):
            signature = {"p_slots": f64, "p_g": pointer, "xs": (pointer,) * count, "p_pool_mean": f64}
            signature |= {**sizes, "numbers": ("i32",) * count, "x_units": ("i32",) * count}
            name = f"{space}, {dtype}, {count} of stride {edge[0]}"
            yield Variant(edges, signature, {"EDGE": edge, **tile}, name=name)
            if partial > 1:
                signature = {"p_slots": f64, "p_out": pointer, "p_g": pointer, "xs": (pointer,) * count}
                signature |= dict.fromkeys(("height", "width", "mixed_units", "g_units"), "i32")
                constants = {"EDGES": (edge,) * count, "PARTIAL": partial, "GROUPS": partial, "UNIT": unit}
                constants |= {"B": 512}
                yield Variant(unshuffle, signature | {"x_units": ("i32",) * count}, constants, name=name)
    pointers = ("p_total", "p_products", "p_free", "p_bypass", "p_slots", "p_rstd", "p_pool_rstd")
    sizes = dict.fromkeys(("slots", "mixed", "terms", "edges", "bypass_slots"), "i32")
    yield Variant(fold, dict.fromkeys(pointers, f64) | sizes, {"BS": 128, "BC": 16}, main=False, name="C 16")


VARIANTS: tuple[Variant, ...] = tuple(_variants())
