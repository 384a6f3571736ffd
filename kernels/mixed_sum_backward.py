"""From the gradient of a node to those of its sources, through skips, pools and the bypass; nothing is written twice.

A program gathers: an element of a source is the maximum of those windows in which no other pixel beats it, so one pass
over its 24 neighbours finds them, and what their values contribute is its own value. Averages sum the same neighbours.

Bytes, with `U = N H W C` elements of a bytes of a source: `4 U a` an edge (x, g, and dx read and written). The last
node of a DARTS cell (C 16, 32x32, N 64, E 5): 20 x 4.2 MB = 84 MB in float32, 20 us at 4.3 TB/s, less where edges share
g in L2. It is not what limits: some 500 instructions an element (SASS for sm_90 holds 1435 for two, its prologue
included) are 90 us at the H200's 0.9 T warp instructions/s, in bfloat16 as well.
"""

from __future__ import annotations

from collections.abc import Iterator

import triton
import triton.language as tl
from fastdarts.kernels._variants import Variant
from fastdarts.kernels.mixed_sum import NORMAL, REDUCTION, SPACES, inside, pick, place, row_of, split

__all__ = ["VARIANTS", "backward"]


@triton.jit
def _shares(i_own, size, STRIDE: tl.constexpr, A: tl.constexpr):
    """Along one side, 1 over the pixels inside of the windows -1, 0 and 1 around me; 0 where there is none."""
    i_before = i_own - 1
    i_after = i_own + 1
    # Only the window before me can begin outside, only the one behind me end there, unless there is but one pixel.
    m_before = (i_before >= 0) & (i_before % STRIDE == 0)
    m_after = (i_after < size) & (i_after % STRIDE == 0)
    m_own = (i_own < size) & (i_own % STRIDE == 0)
    b_before = tl.where(m_before, 1.0 / tl.where(i_before == 0, 2, 3).to(A), 0.0)
    b_own = 1.0 / (1 + (i_own > 0).to(tl.int32) + (i_after < size).to(tl.int32)).to(A)
    b_after = tl.where(m_after, 1.0 / tl.where(i_after == size - 1, 2, 3).to(A), 0.0)
    return b_before, tl.where(m_own, b_own, 0.0), b_after


@triton.jit
def _overlaps(b_before, b_own, b_after):
    """Sums of the squares of the shares, over the windows that hold my neighbours -2 to 2 too."""
    b_before *= b_before
    b_own *= b_own
    b_after *= b_after
    return b_before, b_before + b_own, b_before + b_own + b_after, b_own + b_after, b_after


@triton.jit(do_not_specialize=["batch", "images", "x_height", "x_width", "mixed_units", "g_units"])
def backward(
    p_g,
    xs,
    dxs,
    p_alpha,
    p_beta,
    p_gamma,
    p_pool_mean,
    p_bypass,
    numbers,
    batch,
    images,
    x_height,
    x_width,
    mixed_units,
    g_units,
    x_units,
    dx_units,
    EDGE: tl.constexpr,
    PARTIAL: tl.constexpr,
    GROUPS: tl.constexpr,
    UNIT: tl.constexpr,
    B: tl.constexpr,
):
    """B elements of some images of the gradients of sources of edges that are alike: (blocks, blocks of images, edges).

    EDGE as in `forward`; `numbers` says which of the node's edges each is.
    """
    A: tl.constexpr = tl.float64 if p_g.dtype.element_ty == tl.float64 else tl.float32
    STRIDE: tl.constexpr = EDGE[0]
    SKIP: tl.constexpr = EDGE[1]
    MAX: tl.constexpr = EDGE[2]
    AVG: tl.constexpr = EDGE[3]
    mixed = mixed_units * UNIT
    g_pixel = g_units * UNIT
    width = (x_width + STRIDE - 1) // STRIDE
    height = (x_height + STRIDE - 1) // STRIDE
    i_edge = tl.program_id(2)
    p_x = pick(xs, i_edge, 0, 1, len(xs))
    p_dx = pick(dxs, i_edge, 0, 1, len(xs))
    number = pick(numbers, i_edge, 0, 1, len(xs))
    pixel = pick(x_units, i_edge, 0, 1, len(xs)) // 2 * UNIT
    dx_pixel = pick(dx_units, i_edge, 0, 1, len(xs)) // 2 * UNIT
    o = tl.program_id(0) * B + tl.arange(0, B)  # [B], as all below
    m = o < x_height * x_width * mixed
    i_pixel, o_channel = place(o, mixed_units, UNIT)
    i_row = i_pixel // x_width
    i_column = i_pixel % x_width
    if SKIP:
        b_skip_alpha = row_of(p_alpha, 3 * number * mixed + o_channel, m, A)
    if MAX:
        o_max = (3 * number + 1) * mixed + o_channel
        b_max_alpha = row_of(p_alpha, o_max, m, A)
        b_max_beta = row_of(p_beta, o_max, m, A)
        b_max_mean, b_low = split(p_pool_mean, 2 * number * mixed + o_channel, m, A)
        b_max_gamma = row_of(p_gamma, o_max, m, A) - b_max_beta * b_low
    if AVG:
        o_avg = (3 * number + 2) * mixed + o_channel
        b_avg_alpha = row_of(p_alpha, o_avg, m, A)
        b_avg_beta = row_of(p_beta, o_avg, m, A)
        b_avg_mean, b_low = split(p_pool_mean, (2 * number + 1) * mixed + o_channel, m, A)
        b_rows = _shares(i_row, x_height, STRIDE, A)
        b_columns = _shares(i_column, x_width, STRIDE, A)
        b_down = _overlaps(b_rows[0], b_rows[1], b_rows[2])
        b_across = _overlaps(b_columns[0], b_columns[1], b_columns[2])
        b_shares = (b_rows[0] + b_rows[1] + b_rows[2]) * (b_columns[0] + b_columns[1] + b_columns[2])
        b_avg_gamma = (row_of(p_gamma, o_avg, m, A) - b_avg_beta * b_low) * b_shares

    i_first = tl.program_id(1).to(tl.int64) * images
    for i_image in range(i_first, tl.minimum(i_first + images, batch)):
        p_image_g = p_g + i_image * height * width * g_pixel
        p_own_x = p_x + i_image * x_height * x_width * pixel + (i_pixel * pixel + o_channel)
        p_own_dx = p_dx + i_image * x_height * x_width * dx_pixel + (i_pixel * dx_pixel + o_channel)
        if SKIP or MAX or AVG:
            b_dx = tl.load(p_own_dx, mask=m, other=0.0).to(A)
        if SKIP:
            b_dx += b_skip_alpha * tl.load(p_image_g + i_pixel * g_pixel + o_channel, mask=m, other=0.0).to(A)
        if MAX or AVG:
            b_own = tl.load(p_own_x, mask=m, other=0.0)
            b_x = b_own.to(A)
            # A bit for each window around me in which another pixel, before or behind me, is the maximum.
            b_before = tl.zeros([B], tl.int32)
            b_behind = tl.zeros([B], tl.int32)
            b_values = tl.zeros([B], A)  # of the averages around me, about my own
            for i_tap in tl.static_range(25):
                if i_tap != 12:
                    i_down = i_tap // 5 - 2
                    i_across = i_tap % 5 - 2
                    m_tap = m & inside(i_row + i_down, i_column + i_across, x_height, x_width)
                    # A pixel that shares no window with me must not be read: if infinite, it would spread.
                    if STRIDE == 2 and (i_tap // 5 == 0 or i_tap // 5 == 4):
                        m_tap &= i_row % 2 == 1
                    if STRIDE == 2 and (i_tap % 5 == 0 or i_tap % 5 == 4):
                        m_tap &= i_column % 2 == 1
                    p_tap = p_own_x + (i_down * x_width + i_across) * pixel
                    b_tap = tl.load(p_tap, mask=m_tap, other=b_own).to(A)
                    if AVG:
                        b_values += b_down[i_tap // 5] * b_across[i_tap % 5] * (b_tap - b_x)
                    if MAX:
                        # The windows -1, 0 and 1 that hold the neighbour, down and across, three bits each.
                        down = (28 >> (4 - i_tap // 5)) & 7
                        across = (28 >> (4 - i_tap % 5)) & 7
                        windows = across * ((down & 1) + (down & 2) * 4 + (down & 4) * 16)
                        # The last of what is no number wins, else the first of the largest.
                        if i_tap < 12:
                            b_before |= tl.where(m_tap & ~(b_tap < b_x), windows, 0)
                        else:
                            b_behind |= tl.where(m_tap & ((b_tap > b_x) | (b_tap != b_tap)), windows, 0)

            if MAX:
                b_lost = b_behind | tl.where(b_x == b_x, b_before, 0)
                b_value = tl.where(b_max_beta == 0, 0.0, b_max_beta * (b_x - b_max_mean)) + b_max_gamma
            b_avg_g = tl.zeros([B], A)
            for i_window in tl.static_range(9):
                i_to_row = i_row + (i_window // 3 - 1)
                i_to_column = i_column + (i_window % 3 - 1)
                m_window = m & inside(i_to_row, i_to_column, x_height, x_width)
                if STRIDE == 2:
                    m_window &= (i_to_row % 2 == 0) & (i_to_column % 2 == 0)
                # Rows and columns are not negative where the mask holds.
                o_window = (i_to_row // STRIDE * width + i_to_column // STRIDE) * g_pixel + o_channel
                b_g = tl.load(p_image_g + o_window, mask=m_window, other=0.0).to(A)
                if MAX:
                    m_won = m_window & ((b_lost & (1 << i_window)) == 0)
                    b_dx += tl.where(m_won, b_max_alpha * b_g + b_value, 0.0)
                if AVG:
                    b_avg_g += b_rows[i_window // 3] * b_columns[i_window % 3] * b_g
            if AVG:
                b_values += b_shares * (b_x - b_avg_mean)
                b_dx += tl.where(b_avg_beta == 0, 0.0, b_avg_beta * b_values)
                b_dx += b_avg_alpha * b_avg_g + b_avg_gamma
        if SKIP or MAX or AVG:
            tl.store(p_own_dx, b_dx.to(p_g.dtype.element_ty), mask=m)

    if PARTIAL > 1:  # one image a program
        i_image = i_first
        i_group = tl.arange(0, GROUPS)[:, None]  # [GROUPS, 1]
        m_rest = m[None, :] & (i_group > 0) & (i_group < PARTIAL)  # [GROUPS, B]
        o_rest = o_channel[None, :] + i_group * mixed
        o_window = (i_row // STRIDE * width + i_column // STRIDE) * g_pixel
        b_g = tl.load(p_g + i_image * height * width * g_pixel + (o_window[None, :] + o_rest), mask=m_rest, other=0.0)
        b_g = b_g.to(A)  # [GROUPS, B]
        if p_bypass is not None:
            b_g *= tl.load(p_bypass + number).to(A)
        if STRIDE == 2:
            p_rest = p_x + i_image * x_height * x_width * pixel + ((i_pixel * pixel)[None, :] + o_rest)
            b_own = tl.load(p_rest, mask=m_rest, other=0.0).to(A)  # [GROUPS, B]
            for i_tap in tl.static_range(1, 4):
                # To the other row, the other column, or both, of my window.
                i_down = (1 - 2 * (i_row % 2)) * (i_tap // 2)
                i_across = (1 - 2 * (i_column % 2)) * (i_tap % 2)
                m_tap = m_rest & inside(i_row + i_down, i_column + i_across, x_height, x_width)[None, :]
                o_tap = (i_down * x_width + i_across) * pixel
                b_tap = tl.load(p_rest + o_tap[None, :], mask=m_tap, other=0.0).to(A)  # [GROUPS, B]
                m_before = (b_tap >= b_own) | ((b_tap != b_tap) & (b_own == b_own))
                m_behind = (b_tap > b_own) | (b_tap != b_tap)
                m_first = (i_down < 0) | ((i_down == 0) & (i_across < 0))
                m_lost = (m_first[None, :] & m_before) | ((~m_first)[None, :] & m_behind)
                b_g = tl.where(m_lost & m_tap, 0.0, b_g)
        p_rest = p_dx + i_image * x_height * x_width * dx_pixel + ((i_pixel * dx_pixel)[None, :] + o_rest)
        b_dx = tl.load(p_rest, mask=m_rest, other=0.0).to(A)  # [GROUPS, B]
        tl.store(p_rest, (b_dx + b_g).to(p_g.dtype.element_ty), mask=m_rest)


def _variants() -> Iterator[Variant]:
    sizes = dict.fromkeys(("batch", "images", "x_height", "x_width", "mixed_units", "g_units"), "i32")
    for space, dtype, unit, partial in SPACES:
        for edge, count in ((NORMAL, 5), (REDUCTION, 2)):
            pointers, numbers = (f"*{dtype}",) * count, ("i32",) * count
            signature = {"p_g": f"*{dtype}", "xs": pointers, "dxs": pointers, "numbers": numbers, **sizes}
            signature |= dict.fromkeys(("p_alpha", "p_beta", "p_gamma", "p_pool_mean"), "*fp64")
            signature |= {"x_units": numbers, "dx_units": numbers}
            signature |= {"p_bypass": "*fp64"} if partial > 1 else {}
            constants = {"EDGE": edge, "PARTIAL": partial, "GROUPS": partial, "UNIT": unit}
            constants |= {"B": 256}
            constants |= {} if partial > 1 else {"p_bypass": None}
            yield Variant(backward, signature, constants, name=f"{space}, {dtype}, {count} of stride {edge[0]}")


VARIANTS: tuple[Variant, ...] = tuple(_variants())
