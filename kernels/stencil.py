"""Depthwise and pointwise convolutions of many maps with the moments of the results, in Triton.

stencil_pack      weights, coefficients and the jobs' table, as the other kernels read them
stencil_forward   all convolutions of a call
stencil_fold      the tiles' moments to the convolutions', in float64
"""

from __future__ import annotations

from collections.abc import Mapping

import triton
import triton.language as tl

from fastdarts.kernels._stencil import (
    CONV,
    DX,
    DX_STRIDE,
    EXTRA,
    FIELDS,
    G_STRIDE,
    KIND,
    OUT,
    SIZES,
    SOURCE,
    X_STRIDE,
    Y_STRIDE,
    G,
    X,
    Y,
    appended,
    choose,
    compiled,
    depthwise,
    field,
    number,
    pixels,
    pointer,
    pointwise,
    replaced,
    stacked,
    stacked_pixels,
    weights_of,
)
from fastdarts.kernels._variants import Variant

__all__ = ["VARIANTS", "stencil_fold", "stencil_forward", "stencil_pack"]


@triton.jit
def _finish(
    b_blocks, p_y, p_moments, o_pixels, m_pixels, o_out, count, C: tl.constexpr, MOMENTS: tl.constexpr
):  # fmt: skip
    """Stores blocks of y, a tuple of [B, BO], and the moments of what was stored, taken about their own mean."""
    m_out = o_out < C
    b_stored = ()
    b_sum = tl.zeros_like(b_blocks[0])
    for i in tl.static_range(len(b_blocks)):
        m_y = m_pixels[i][:, None] & m_out[None, :]
        b_y = b_blocks[i].to(p_y.dtype.element_ty)
        tl.store(p_y + o_pixels[i][:, None] * C + o_out[None, :], b_y, mask=m_y)
        b_stored = appended(b_stored, b_y.to(b_sum.dtype))
        b_sum += tl.where(m_y, b_stored[i], 0.0)
    if MOMENTS:
        b_centre = tl.sum(b_sum, axis=0) / count  # [BO]
        b_centre = tl.where(b_centre - b_centre == 0.0, b_centre, 0.0)  # finite
        b_first = tl.zeros_like(b_sum)
        b_second = tl.zeros_like(b_sum)
        for i in tl.static_range(len(b_blocks)):
            m_y = m_pixels[i][:, None] & m_out[None, :]
            b_away = tl.where(m_y, b_stored[i] - b_centre[None, :], 0.0)
            b_first += b_away
            b_second += b_away * b_away
        b_shift = (tl.sum(b_first, axis=0) / count).to(tl.float64)
        b_square = tl.sum(b_second, axis=0).to(tl.float64) - count.to(tl.float64) * b_shift * b_shift
        tl.store(p_moments + o_out, b_centre.to(tl.float64) + b_shift, mask=m_out)
        tl.store(p_moments + C + o_out, b_square, mask=m_out)


@triton.jit
def _forward(
    p_table, p_packed, p_moments, p_counts, i_job, i_tile, n, tiles, T: tl.constexpr, VEC: tl.constexpr,
    KERNEL: tl.constexpr, DILATION: tl.constexpr, STRIDE: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    C: tl.constexpr, KK: tl.constexpr, NORMAL: tl.constexpr, MOMENTS: tl.constexpr, PRECISION: tl.constexpr,
    R: tl.constexpr, BQ: tl.constexpr, BC: tl.constexpr, B1: tl.constexpr, B2: tl.constexpr, A: tl.constexpr,
):  # fmt: skip
    """R rows of BQ columns of one convolution."""
    HY: tl.constexpr = (H + STRIDE - 1) // STRIDE
    WY: tl.constexpr = (W + STRIDE - 1) // STRIDE
    GROUPS: tl.constexpr = (HY + R - 1) // R
    # The matrix unit takes 64 lines or more at once; a product a row holds fewer registers.
    STACK: tl.constexpr = BQ < 64
    COUNT: tl.constexpr = 1 if STACK else R
    LINES: tl.constexpr = R * BQ if STACK else BQ
    i_conv = field(p_table, i_job, CONV).to(tl.int32)
    i_slot = i_conv * tiles + i_tile
    if i_tile * BQ < n * (GROUPS * WY):
        p_x = pointer(p_table, i_job, X, T, VEC)
        p_y = pointer(p_table, i_job, OUT, T, VEC)
        stride = field(p_table, i_job, X_STRIDE) * VEC
        o_n, o_group, o_w, m_q = pixels(i_tile, n, GROUPS, WY, BQ)
        p_weights = weights_of(p_packed, i_conv, C, KK)
        o_out1 = tl.program_id(1) * B1 + tl.arange(0, B1)
        o_out2 = B1 + tl.arange(0, B2 if B2 > 0 else 1)
        b_y1 = ()
        b_y2 = ()
        for _ in tl.static_range(COUNT):
            b_y1 = appended(b_y1, tl.zeros([LINES, B1], A))
            b_y2 = appended(b_y2, tl.zeros([LINES, B2 if B2 > 0 else 1], A))
        for i_c in range(0, C, BC):
            o_c = i_c + tl.arange(0, BC)
            b_rows = depthwise(
                p_x, p_weights, stride, o_n, o_group * R, o_w, m_q, o_c,
                KERNEL, DILATION, STRIDE, H, W, C, KK, NORMAL, R, BQ, BC, A,
            )  # fmt: skip
            b_z = b_rows
            if STACK:
                b_z = appended((), stacked(b_rows, R, BQ, BC))
            for i in tl.static_range(COUNT):
                b_new = pointwise(b_y1[i], b_z[i], p_weights + KK * C, o_out1, o_c, False, C, PRECISION)
                b_y1 = replaced(b_y1, i, b_new)
                if B2 > 0:
                    b_new = pointwise(b_y2[i], b_z[i], p_weights + KK * C, o_out2, o_c, False, C, PRECISION)
                    b_y2 = replaced(b_y2, i, b_new)
        o_pixels = ()
        m_pixels = ()
        b_count = tl.zeros([LINES], A)
        for r in tl.static_range(COUNT):
            if STACK:
                o_pixel, m_pixel = stacked_pixels(i_tile, n, HY, WY, R, BQ)
            else:
                o_pixel = ((o_n * HY + o_group * R) * WY + o_w).to(tl.int64) + r * WY
                m_pixel = m_q & (o_group * R + r < HY)
            o_pixels = appended(o_pixels, o_pixel)
            m_pixels = appended(m_pixels, m_pixel)
            b_count += m_pixel.to(A)
        count = tl.sum(b_count, axis=0)
        if MOMENTS:
            tl.store(p_counts + i_slot, count.to(tl.float64), mask=tl.program_id(1) == 0)
        p_tile = p_moments + i_slot.to(tl.int64) * (2 * C)
        _finish(b_y1, p_y, p_tile, o_pixels, m_pixels, o_out1, count, C, MOMENTS)
        if B2 > 0:
            _finish(b_y2, p_y, p_tile, o_pixels, m_pixels, o_out2, count, C, MOMENTS)
    elif MOMENTS:
        tl.store(p_counts + i_slot, 0.0)


@triton.jit(do_not_specialize=["n", "jobs", "tiles"])
def stencil_forward(
    p_table, p_packed, p_moments, p_counts, n, jobs, tiles, T: tl.constexpr, KINDS: tl.constexpr, VEC: tl.constexpr,
    C: tl.constexpr, KK: tl.constexpr, NORMAL: tl.constexpr, MOMENTS: tl.constexpr, PRECISION: tl.constexpr,
    R: tl.constexpr, BQ: tl.constexpr, BC: tl.constexpr, B1: tl.constexpr, B2: tl.constexpr, A: tl.constexpr,
):  # fmt: skip
    """All convolutions of a call.

    Args:
        p_table: what `stencil_pack` wrote, as p_packed.
        p_moments: [convolutions, tiles, 2, C], float64: means and sums of squares about them.
        p_counts: [convolutions, tiles], float64: pixels.
        n: images.
        jobs: convolutions.
        tiles: programs of the largest job.
        T: the maps' dtype.
        KINDS: kernel, dilation, stride, height and width of the source, of each kind.
        VEC: elements that all addresses are multiples of.
    """
    i_job = tl.program_id(0) % jobs
    i_tile = tl.program_id(0) // jobs
    i_kind = field(p_table, i_job, KIND)
    for k in tl.static_range(len(KINDS) // 5):
        if i_kind == k:
            _forward(
                p_table, p_packed, p_moments, p_counts, i_job, i_tile, n, tiles, T, VEC,
                KINDS[5 * k], KINDS[5 * k + 1], KINDS[5 * k + 2], KINDS[5 * k + 3], KINDS[5 * k + 4],
                C, KK, NORMAL, MOMENTS, PRECISION, R, BQ, BC, B1, B2, A,
            )  # fmt: skip


@triton.jit(do_not_specialize=["tiles"])
def stencil_fold(p_moments, p_counts, p_mean, p_var, tiles, C: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr):
    """Mean and biased variance [convolutions, C] of the tiles' moments, about the first tile's mean, in float64."""
    i_conv = tl.program_id(0).to(tl.int64)
    o_c = tl.program_id(1) * BC + tl.arange(0, BC)
    m_c = o_c < C
    p_moments += i_conv * tiles * (2 * C)
    b_centre = tl.load(p_moments + o_c, mask=m_c, other=0.0)  # [BC]
    b_centre = tl.where(b_centre - b_centre == 0.0, b_centre, 0.0)  # finite
    b_count = tl.zeros([BT], tl.float64)
    b_first = tl.zeros([BT, BC], tl.float64)
    b_second = tl.zeros([BT, BC], tl.float64)
    i_t = 0
    while i_t < tiles:
        o_t = i_t + tl.arange(0, BT)
        b_n = tl.load(p_counts + i_conv * tiles + o_t, mask=o_t < tiles, other=0.0)  # [BT]
        m_t = (b_n > 0.0)[:, None] & m_c[None, :]
        p_t = p_moments + o_t.to(tl.int64)[:, None] * (2 * C) + o_c[None, :]
        b_away = tl.load(p_t, mask=m_t, other=0.0) - tl.where(m_t, b_centre[None, :], 0.0)  # [BT, BC]
        b_count += b_n
        b_first += b_n[:, None] * b_away
        b_second += tl.load(p_t + C, mask=m_t, other=0.0) + b_n[:, None] * b_away * b_away
        i_t += BT
    count = tl.sum(b_count, axis=0)
    b_shift = tl.sum(b_first, axis=0) / count
    b_var = tl.sum(b_second, axis=0) / count - b_shift * b_shift
    tl.store(p_mean + i_conv * C + o_c, b_centre + b_shift, mask=m_c)
    # A rounding below 0 is 0; NaN stays.
    tl.store(p_var + i_conv * C + o_c, tl.where(b_var < 0.0, 0.0, b_var), mask=m_c)


@triton.jit
def _line(p_from, row, o_c, m_line):
    """A vector of coefficients where it is asked, else 0."""
    return tl.load(p_from + row.to(tl.int64) + o_c, mask=m_line, other=0.0)


@triton.jit
def stencil_pack(
    spreads, mixes, xs, outs, gs, ys, dxs, numbers, p_mean, p_rstd, p_alpha, p_beta, p_gamma, p_table, p_packed,
    COUNT: tl.constexpr, C: tl.constexpr, KK: tl.constexpr, NORMAL: tl.constexpr, GRADIENT: tl.constexpr,
    B: tl.constexpr,
):  # fmt: skip
    """The jobs' table, and all weights and coefficients of each convolution in one place as vectors of channels.

    `dy = alpha g + beta y + gamma` is `alpha g + (beta (y - near) + rest)` with `beta near = -gamma` as nearly as the
    arithmetic type can: with |mean| / std of y large, beta y and gamma cancel, their roundings do not.

    Args:
        spreads: COUNT depthwise weights [C, 1, k, k]; like all tuples of a convolution each, the last for nothing.
        mixes: COUNT pointwise weights [C, C, 1, 1].
        xs: the sources.
        outs: what is written: y, or for GRADIENT dz.
        gs: of GRADIENT, as ys and dxs.
        numbers: `coded`: row of the table, kind, k, source, strides of x, g, y and dx in units of VEC.
        p_mean: [sources, C], float64, where NORMAL; likewise p_rstd.
        p_alpha: [convolutions, C], float64, where GRADIENT; likewise p_beta and p_gamma.
        p_table: [convolutions, FIELDS], int64.
        p_packed: [convolutions, KK + C + 6, C]: depthwise, pointwise, mean, rstd, alpha, beta, near, rest.
    """
    SIZE: tl.constexpr = (KK + C + EXTRA) * C
    A = p_packed.dtype.element_ty
    i_conv = tl.program_id(0)
    if tl.program_id(1) == 0:
        p_row = p_table + number(numbers, i_conv, 0, COUNT) * FIELDS
        tl.store(p_row + CONV, i_conv.to(tl.int64))
        tl.store(p_row + KIND, number(numbers, i_conv, 1, COUNT).to(tl.int64))
        tl.store(p_row + SOURCE, number(numbers, i_conv, 3, COUNT).to(tl.int64))
        tl.store(p_row + X, choose(xs, i_conv, COUNT).to(tl.int64))
        tl.store(p_row + OUT, choose(outs, i_conv, COUNT).to(tl.int64))
        tl.store(p_row + X_STRIDE, number(numbers, i_conv, 4, COUNT).to(tl.int64))
        if GRADIENT:
            tl.store(p_row + G, choose(gs, i_conv, COUNT).to(tl.int64))
            tl.store(p_row + Y, choose(ys, i_conv, COUNT).to(tl.int64))
            tl.store(p_row + DX, choose(dxs, i_conv, COUNT).to(tl.int64))
            tl.store(p_row + G_STRIDE, number(numbers, i_conv, 5, COUNT).to(tl.int64))
            tl.store(p_row + Y_STRIDE, number(numbers, i_conv, 6, COUNT).to(tl.int64))
            tl.store(p_row + DX_STRIDE, number(numbers, i_conv, 7, COUNT).to(tl.int64))
    o_e = tl.program_id(1) * B + tl.arange(0, B)
    o_row = o_e // C
    o_c = o_e - o_row * C
    side = number(numbers, i_conv, 2, COUNT)
    taps = side * side
    b_value = tl.load(choose(spreads, i_conv, COUNT) + o_c * taps + o_row, mask=o_row < taps, other=0.0)  # [B]
    m_mix = (o_row >= KK) & (o_row < KK + C)
    b_value += tl.load(choose(mixes, i_conv, COUNT) + (o_e - KK * C), mask=m_mix, other=0.0)
    o_line = o_row - (KK + C)
    if NORMAL:
        o_from = number(numbers, i_conv, 3, COUNT).to(tl.int64) * C + o_c
        b_value += tl.load(p_mean + o_from, mask=o_line == 0, other=0.0).to(A)
        b_value += tl.load(p_rstd + o_from, mask=o_line == 1, other=0.0).to(A)
    if GRADIENT:
        o_from = i_conv.to(tl.int64) * C + o_c
        m_affine = (o_line >= 3) & (o_line < EXTRA)
        b_beta = tl.load(p_beta + o_from, mask=m_affine, other=0.0)
        b_gamma = tl.load(p_gamma + o_from, mask=m_affine, other=0.0)
        b_near = (-b_gamma / tl.where(b_beta == 0.0, 1.0, b_beta)).to(A)
        b_near = tl.where((b_beta != 0.0) & (b_near - b_near == 0.0), b_near, 0.0)
        b_rest = b_gamma + b_beta.to(A).to(tl.float64) * b_near.to(tl.float64)
        b_value += tl.load(p_alpha + o_from, mask=o_line == 2, other=0.0).to(A)
        b_value += tl.where(o_line == 3, b_beta.to(A), 0.0)
        b_value += tl.where(o_line == 4, b_near, 0.0)
        b_value += tl.where(o_line == 5, b_rest.to(A), 0.0)
    tl.store(p_packed + i_conv.to(tl.int64) * SIZE + o_e, b_value, mask=o_e < SIZE)


def variants(sizes: Mapping[int, int]) -> tuple[Variant, ...]:
    """Of cells with these channels and heights."""
    pointers = {"p_table": "*i64", "p_packed": "*fp32", "p_moments": "*fp64", "p_counts": "*fp64"}
    return tuple(compiled(stencil_forward, pointers, sizes, MOMENTS=True))


VARIANTS: tuple[Variant, ...] = variants(SIZES)
