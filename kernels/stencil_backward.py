"""The gradients of the stencil's sources, in Triton.

    stencil_spread    dz = P^T dy of every convolution, to memory; dy = alpha g + beta y + gamma is formed on the way
    stencil_sources   du of the sources from the dz of all their convolutions, the ReLU's mask, one write of dx
    stencil_totals    the tiles' sums of normalised sources to the sources', in float64

The number and order of tiles depend on shapes alone: the same bits from run to run.
"""

from __future__ import annotations

from collections.abc import Mapping

import triton
import triton.language as tl

from fastdarts.kernels._stencil import (
    CONV,
    DX,
    DX_STRIDE,
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
    compiled,
    field,
    gradient,
    pixels,
    pointer,
    pointwise,
    replaced,
    weights_of,
)
from fastdarts.kernels._variants import Variant

__all__ = ["VARIANTS", "stencil_sources", "stencil_spread", "stencil_totals"]


@triton.jit(do_not_specialize=["n", "jobs"])
def stencil_spread(
    p_table, p_packed, n, jobs, T: tl.constexpr, KINDS: tl.constexpr, VEC: tl.constexpr, C: tl.constexpr,
    KK: tl.constexpr, VALUES: tl.constexpr, PRECISION: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
    B1: tl.constexpr, B2: tl.constexpr, A: tl.constexpr,
):  # fmt: skip
    """dz of BP pixels of a convolution."""
    i_job = tl.program_id(0) % jobs
    i_tile = tl.program_id(0) // jobs
    i_kind = field(p_table, i_job, KIND)
    total = n
    for k in tl.static_range(len(KINDS) // 5):
        if i_kind == k:
            total = n * (-(-KINDS[5 * k + 3] // KINDS[5 * k + 2]) * -(-KINDS[5 * k + 4] // KINDS[5 * k + 2]))
    if i_tile * BP < total:
        p_weights = weights_of(p_packed, field(p_table, i_job, CONV), C, KK)
        p_g = pointer(p_table, i_job, G, T, VEC)
        p_y = pointer(p_table, i_job, Y, T, VEC)
        p_dz = pointer(p_table, i_job, OUT, T, VEC)
        g_stride = field(p_table, i_job, G_STRIDE) * VEC
        y_stride = field(p_table, i_job, Y_STRIDE) * VEC
        o_pixel = (i_tile * BP + tl.arange(0, BP)).to(tl.int64)
        m_pixel = o_pixel < total
        o_in1 = tl.program_id(1) * B1 + tl.arange(0, B1)
        o_in2 = B1 + tl.arange(0, B2 if B2 > 0 else 1)
        b_dz1 = tl.zeros([BP, B1], A)
        b_dz2 = tl.zeros([BP, B2 if B2 > 0 else 1], A)
        for i_c in range(0, C, BC):
            o_c = i_c + tl.arange(0, BC)
            b_dy = gradient(p_g, p_y, p_weights + (KK + C) * C, g_stride, y_stride, o_pixel, m_pixel, o_c, C, VALUES, A)
            b_dz1 = pointwise(b_dz1, b_dy, p_weights + KK * C, o_in1, o_c, True, C, PRECISION)
            if B2 > 0:
                b_dz2 = pointwise(b_dz2, b_dy, p_weights + KK * C, o_in2, o_c, True, C, PRECISION)
        p_line = p_dz + o_pixel[:, None] * C
        tl.store(p_line + o_in1[None, :], b_dz1.to(T), mask=m_pixel[:, None] & (o_in1 < C)[None, :])
        if B2 > 0:
            tl.store(p_line + o_in2[None, :], b_dz2.to(T), mask=m_pixel[:, None] & (o_in2 < C)[None, :])


@triton.jit
def _turned(
    b_du, p_dz, p_weights, o_n, o_group, o_w, m_q, o_c,
    KERNEL: tl.constexpr, DILATION: tl.constexpr, STRIDE: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    C: tl.constexpr, R: tl.constexpr, A: tl.constexpr,
):  # fmt: skip
    """Adds the transposed depthwise convolution of dz to R rows of du, a tuple of [BQ, BC]."""
    PAD: tl.constexpr = DILATION * (KERNEL // 2)
    HZ: tl.constexpr = (H + STRIDE - 1) // STRIDE
    WZ: tl.constexpr = (W + STRIDE - 1) // STRIDE
    m_c = o_c < C
    o_top = o_group * (R // STRIDE)
    o_first = (o_n * HZ + o_top) * WZ
    for j in range(KERNEL):
        b_w = ()
        for i in tl.static_range(KERNEL):
            b_w = appended(b_w, tl.load(p_weights + (i * KERNEL + j) * C + o_c, mask=m_c, other=0.0))  # [BC]
        o_column = o_w + (PAD - j * DILATION)
        m_column = m_q & (o_column >= 0)
        if STRIDE == 2:
            m_column = m_column & (o_column % 2 == 0)
            o_column = o_column // 2
        m_column = m_column & (o_column < WZ)
        p_column = p_dz + (o_first + o_column).to(tl.int64)[:, None] * C + o_c[None, :]  # [BQ, BC]
        # A row of dz is where a row of du and a tap meet: r + PAD - i * DILATION.
        for f in tl.static_range(R + 2 * PAD):
            if (f - PAD) % STRIDE == 0:
                row = (f - PAD) // STRIDE
                m_dz = (m_column & (o_top + row >= 0) & (o_top + row < HZ))[:, None] & m_c[None, :]
                b_dz = tl.load(p_column + row * WZ * C, mask=m_dz, other=0.0).to(A)  # [BQ, BC]
                for r in tl.static_range(R):
                    for i in tl.static_range(KERNEL):
                        if r + PAD - i * DILATION == f - PAD:
                            b_du = replaced(b_du, r, b_du[r] + b_dz * b_w[i][None, :])
    return b_du


@triton.jit(do_not_specialize=["first", "n", "sources", "tiles"])
def stencil_sources(
    p_table, p_packed, p_totals, first, n, sources, tiles, T: tl.constexpr, KINDS: tl.constexpr, VEC: tl.constexpr,
    C: tl.constexpr, KK: tl.constexpr, NORMAL: tl.constexpr, ADD: tl.constexpr, R: tl.constexpr, BQ: tl.constexpr,
    BC: tl.constexpr, A: tl.constexpr,
):  # fmt: skip
    """R rows of BQ columns of a chunk of a source's gradient.

    Args:
        p_table: `stencil_pack`'s; the sources' convolutions are in rows from `first`, KINDS of each.
        p_packed: `stencil_pack`'s.
        p_totals: [sources, tiles, 2, C], float64, where NORMAL: sums of dx and of dx times what the ReLU read.
        first: row.
        n: images.
        sources: how many.
        tiles: of the largest source of the call.
        KINDS: kernel, dilation, stride, height and width, of each convolution of a source; these all lie alike.
        ADD: whether dx is added to.
    """
    COUNT: tl.constexpr = len(KINDS) // 5
    H: tl.constexpr = KINDS[3]
    W: tl.constexpr = KINDS[4]
    GROUPS: tl.constexpr = (H + R - 1) // R
    i_row = first + tl.program_id(0) % sources * COUNT
    i_tile = tl.program_id(0) // sources
    o_c = tl.program_id(1) * BC + tl.arange(0, BC)
    m_c = o_c < C
    o_n, o_group, o_w, m_q = pixels(i_tile, n, GROUPS, W, BQ)
    b_du = ()
    for _ in tl.static_range(R):
        b_du = appended(b_du, tl.zeros([BQ, BC], A))
    for k in tl.static_range(COUNT):
        p_dz = pointer(p_table, i_row + k, OUT, T, VEC)
        p_weights = weights_of(p_packed, field(p_table, i_row + k, CONV), C, KK)
        b_du = _turned(
            b_du, p_dz, p_weights, o_n, o_group, o_w, m_q, o_c,
            KINDS[5 * k], KINDS[5 * k + 1], KINDS[5 * k + 2], H, W, C, R, A,
        )  # fmt: skip
    p_x = pointer(p_table, i_row, X, T, VEC)
    p_dx = pointer(p_table, i_row, DX, T, VEC)
    x_stride = field(p_table, i_row, X_STRIDE) * VEC
    dx_stride = field(p_table, i_row, DX_STRIDE) * VEC
    b_mean = o_c.to(A)
    b_rstd = o_c.to(A)
    if NORMAL:
        p_vectors = weights_of(p_packed, field(p_table, i_row, CONV), C, KK) + (KK + C) * C
        b_mean = tl.load(p_vectors + o_c, mask=m_c, other=0.0)  # [BC]
        b_rstd = tl.load(p_vectors + C + o_c, mask=m_c, other=0.0)  # [BC]
    b_sum = tl.zeros([BQ, BC], A)
    b_product = tl.zeros([BQ, BC], A)
    for r in tl.static_range(R):
        o_h = o_group * R + r
        m = (m_q & (o_h < H))[:, None] & m_c[None, :]
        o_pixel = ((o_n * H + o_h) * W + o_w).to(tl.int64)[:, None]
        b_a = tl.load(p_x + o_pixel * x_stride + o_c[None, :], mask=m, other=0.0).to(A)  # [BQ, BC]
        if NORMAL:
            b_a = (b_a - b_mean[None, :]) * b_rstd[None, :]
        b_g = tl.where(b_a <= 0.0, 0.0, b_du[r])
        p_out = p_dx + o_pixel * dx_stride + o_c[None, :]
        if ADD:
            b_g += tl.load(p_out, mask=m, other=0.0).to(A)
        b_stored = b_g.to(T)
        tl.store(p_out, b_stored, mask=m)
        if NORMAL:
            b_g = tl.where(m, b_stored.to(A), 0.0)
            b_sum += b_g
            b_product += tl.where(m, b_g * b_a, 0.0)
    if NORMAL:
        p_totals += (field(p_table, i_row, SOURCE) * tiles + i_tile) * (2 * C)
        tl.store(p_totals + o_c, tl.sum(b_sum, axis=0).to(tl.float64), mask=m_c)
        tl.store(p_totals + C + o_c, tl.sum(b_product, axis=0).to(tl.float64), mask=m_c)


@triton.jit(do_not_specialize=["tiles"])
def stencil_totals(p_totals, p_sums, p_products, tiles, C: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr):
    """Sums and products [sources, C] from those of the tiles [sources, tiles, 2, C], all float64."""
    i_source = tl.program_id(0).to(tl.int64)
    o_c = tl.program_id(1) * BC + tl.arange(0, BC)
    b_sum = tl.zeros([BT, BC], tl.float64)
    b_product = tl.zeros([BT, BC], tl.float64)
    i_t = 0
    while i_t < tiles:
        o_t = i_t + tl.arange(0, BT)
        m = (o_t < tiles)[:, None] & (o_c < C)[None, :]
        p_t = p_totals + (i_source * tiles + o_t)[:, None] * (2 * C) + o_c[None, :]
        b_sum += tl.load(p_t, mask=m, other=0.0)  # [BT, BC]
        b_product += tl.load(p_t + C, mask=m, other=0.0)  # [BT, BC]
        i_t += BT
    tl.store(p_sums + i_source * C + o_c, tl.sum(b_sum, axis=0), mask=o_c < C)
    tl.store(p_products + i_source * C + o_c, tl.sum(b_product, axis=0), mask=o_c < C)


def variants(sizes: Mapping[int, int]) -> tuple[Variant, ...]:
    """Of cells with these channels and heights."""
    pointers = {"p_table": "*i64", "p_packed": "*fp32"}
    spread = compiled(stencil_spread, pointers, sizes, VALUES=True)
    return (*spread, *compiled(stencil_sources, pointers | {"p_totals": "*fp64"}, sizes, ADD=False))


VARIANTS: tuple[Variant, ...] = variants(SIZES)
