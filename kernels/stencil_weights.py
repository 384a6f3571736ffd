"""The gradients of the stencil's weights, in Triton.

    stencil_mixes    dP = dy z^T with z recomputed, summed over the tiles of a slot
    stencil_taps     dD = dz u, a column of taps a program, likewise
    stencil_gather   the slots' sums to gradients, in float64

The number and order of slots depend on shapes alone: the same bits from run to run.
"""

from __future__ import annotations

from collections.abc import Mapping

import triton
import triton.language as tl

from fastdarts.kernels._stencil import (
    CONV,
    G_STRIDE,
    KIND,
    OUT,
    SIZES,
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
    gradient,
    number,
    pixels,
    pointer,
    relu,
    replaced,
    weights_of,
)
from fastdarts.kernels._variants import Variant
from fastdarts.kernels.preprocess import factor

__all__ = ["VARIANTS", "stencil_gather", "stencil_mixes", "stencil_taps"]


@triton.jit
def _outer(b_dp, b_dy, b_z, C: tl.constexpr, BATCH: tl.constexpr, BQ: tl.constexpr, PRECISION: tl.constexpr):
    """Adds dy^T z [BO, BC] of BQ pixels to a block [PARTS, BO, BC]; its parts are added up at the end."""
    if C <= 8:  # fewer than the matrix unit takes: a part a pixel
        b_dp += b_dy[:, :, None] * b_z[:, None, :]
    else:  # a part a warp, or the result is too small to share among warps
        BO: tl.constexpr = b_dy.shape[1]
        BC: tl.constexpr = b_z.shape[1]
        b_dy = tl.permute(tl.reshape(factor(b_dy, PRECISION), (BATCH, BQ // BATCH, BO)), (0, 2, 1))
        b_z = tl.reshape(factor(b_z, PRECISION), (BATCH, BQ // BATCH, BC))
        b_dp = tl.dot(b_dy, b_z, b_dp, input_precision=PRECISION, out_dtype=b_dp.dtype)
    return b_dp


@triton.jit
def _mixes(
    p_table, p_packed, p_parts, i_job, i_slot, n, slots, T: tl.constexpr, VEC: tl.constexpr,
    KERNEL: tl.constexpr, DILATION: tl.constexpr, STRIDE: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    C: tl.constexpr, KK: tl.constexpr, NORMAL: tl.constexpr, VALUES: tl.constexpr, PRECISION: tl.constexpr,
    STEPS: tl.constexpr, R: tl.constexpr, BQ: tl.constexpr, BC: tl.constexpr, B1: tl.constexpr, B2: tl.constexpr,
    A: tl.constexpr,
):  # fmt: skip
    """dP of a slot's tiles, and of a chunk of channels of z."""
    HY: tl.constexpr = (H + STRIDE - 1) // STRIDE
    WY: tl.constexpr = (W + STRIDE - 1) // STRIDE
    BATCH: tl.constexpr = BQ // 16
    PARTS: tl.constexpr = BQ if C <= 8 else BATCH
    CHUNKS: tl.constexpr = (C + BC - 1) // BC
    D2: tl.constexpr = B2 if B2 > 0 else 1
    i_conv = field(p_table, i_job, CONV)
    p_weights = weights_of(p_packed, i_conv, C, KK)
    p_vectors = p_weights + (KK + C) * C
    p_x = pointer(p_table, i_job, X, T, VEC)
    p_g = pointer(p_table, i_job, G, T, VEC)
    p_y = pointer(p_table, i_job, Y, T, VEC)
    x_stride = field(p_table, i_job, X_STRIDE) * VEC
    g_stride = field(p_table, i_job, G_STRIDE) * VEC
    y_stride = field(p_table, i_job, Y_STRIDE) * VEC
    o_c = tl.program_id(1) % CHUNKS * BC + tl.arange(0, BC)
    o_out1 = tl.program_id(1) // CHUNKS * B1 + tl.arange(0, B1)
    o_out2 = B1 + tl.arange(0, D2)
    b_dp1 = tl.zeros([PARTS, B1, BC], A)
    b_dp2 = tl.zeros([PARTS, D2, BC], A)
    for i_step in range(STEPS):
        o_n, o_group, o_w, m_q = pixels(i_slot * STEPS + i_step, n, (HY + R - 1) // R, WY, BQ)
        o_h = o_group * R
        b_z = depthwise(
            p_x, p_weights, x_stride, o_n, o_h, o_w, m_q, o_c,
            KERNEL, DILATION, STRIDE, H, W, C, KK, NORMAL, R, BQ, BC, A,
        )  # fmt: skip
        for r in tl.static_range(R):
            o_pixel = ((o_n * HY + o_h + r) * WY + o_w).to(tl.int64)
            m_pixel = m_q & (o_h + r < HY)
            b_dy = gradient(p_g, p_y, p_vectors, g_stride, y_stride, o_pixel, m_pixel, o_out1, C, VALUES, A)
            b_dp1 = _outer(b_dp1, b_dy, b_z[r], C, BATCH, BQ, PRECISION)
            if B2 > 0:
                b_dy = gradient(p_g, p_y, p_vectors, g_stride, y_stride, o_pixel, m_pixel, o_out2, C, VALUES, A)
                b_dp2 = _outer(b_dp2, b_dy, b_z[r], C, BATCH, BQ, PRECISION)
    p_slot = p_parts + (i_conv * slots + i_slot) * (C * C) + o_c[None, :]
    m_1 = (o_out1 < C)[:, None] & (o_c < C)[None, :]
    tl.store(p_slot + o_out1[:, None] * C, tl.sum(b_dp1, axis=0), mask=m_1)
    if B2 > 0:
        m_2 = (o_out2 < C)[:, None] & (o_c < C)[None, :]
        tl.store(p_slot + o_out2[:, None] * C, tl.sum(b_dp2, axis=0), mask=m_2)


@triton.jit(do_not_specialize=["n", "jobs", "slots"])
def stencil_mixes(
    p_table, p_packed, p_parts, n, jobs, slots, T: tl.constexpr, KINDS: tl.constexpr, VEC: tl.constexpr,
    C: tl.constexpr, KK: tl.constexpr, NORMAL: tl.constexpr, VALUES: tl.constexpr, PRECISION: tl.constexpr,
    STEPS: tl.constexpr, R: tl.constexpr, BQ: tl.constexpr, BC: tl.constexpr, B1: tl.constexpr, B2: tl.constexpr,
    A: tl.constexpr,
):  # fmt: skip
    """Parts [convolutions, slots, C, C] of the gradients of the pointwise weights, STEPS tiles each."""
    i_job = tl.program_id(0) % jobs
    i_kind = field(p_table, i_job, KIND)
    for k in tl.static_range(len(KINDS) // 5):
        if i_kind == k:
            _mixes(
                p_table, p_packed, p_parts, i_job, tl.program_id(0) // jobs, n, slots, T, VEC,
                KINDS[5 * k], KINDS[5 * k + 1], KINDS[5 * k + 2], KINDS[5 * k + 3], KINDS[5 * k + 4],
                C, KK, NORMAL, VALUES, PRECISION, STEPS, R, BQ, BC, B1, B2, A,
            )  # fmt: skip


@triton.jit
def _taps(
    p_table, p_packed, p_parts, i_job, i_slot, n, slots, T: tl.constexpr, VEC: tl.constexpr,
    KERNEL: tl.constexpr, DILATION: tl.constexpr, STRIDE: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    C: tl.constexpr, KK: tl.constexpr, NORMAL: tl.constexpr, STEPS: tl.constexpr, R: tl.constexpr,
    BQ: tl.constexpr, BC: tl.constexpr, A: tl.constexpr,
):  # fmt: skip
    """dD of a slot's tiles: the taps of column j of a chunk of channels."""
    PAD: tl.constexpr = DILATION * (KERNEL // 2)
    HY: tl.constexpr = (H + STRIDE - 1) // STRIDE
    WY: tl.constexpr = (W + STRIDE - 1) // STRIDE
    j = tl.program_id(2)
    o_c = tl.program_id(1) * BC + tl.arange(0, BC)
    m_c = o_c < C
    i_conv = field(p_table, i_job, CONV)
    p_x = pointer(p_table, i_job, X, T, VEC)
    p_dz = pointer(p_table, i_job, OUT, T, VEC)
    stride = field(p_table, i_job, X_STRIDE) * VEC
    b_mean = o_c.to(A)
    b_rstd = o_c.to(A)
    if NORMAL:
        p_vectors = weights_of(p_packed, i_conv, C, KK) + (KK + C) * C
        b_mean = tl.load(p_vectors + o_c, mask=m_c, other=0.0)  # [BC]
        b_rstd = tl.load(p_vectors + C + o_c, mask=m_c, other=0.0)  # [BC]
    b_taps = ()
    for _ in tl.static_range(KERNEL):
        b_taps = appended(b_taps, tl.zeros([BQ, BC], A))
    for i_step in range(STEPS):
        o_n, o_group, o_w, m_q = pixels(i_slot * STEPS + i_step, n, (HY + R - 1) // R, WY, BQ)
        o_h = o_group * R
        p_first = p_dz + ((o_n * HY + o_h) * WY + o_w).to(tl.int64)[:, None] * C + o_c[None, :]  # [BQ, BC]
        b_dz = ()
        for r in tl.static_range(R):
            m_dz = (m_q & (o_h + r < HY))[:, None] & m_c[None, :]
            b_dz = appended(b_dz, tl.load(p_first + r * (WY * C), mask=m_dz, other=0.0).to(A))  # [BQ, BC]
        o_top = o_h * STRIDE - PAD
        o_column = o_w * STRIDE - PAD + j * DILATION
        m_column = m_q & (o_column >= 0) & (o_column < W)
        p_column = p_x + ((o_n * H + o_top) * W + o_column).to(tl.int64)[:, None] * stride + o_c[None, :]  # [BQ, BC]
        for a in tl.static_range((R - 1) * STRIDE + (KERNEL - 1) * DILATION + 1):
            m_x = (m_column & (o_top + a >= 0) & (o_top + a < H))[:, None] & m_c[None, :]
            b_u = relu(p_column + (a * W) * stride, m_x, b_mean, b_rstd, NORMAL, A)
            for r in tl.static_range(R):
                for i in tl.static_range(KERNEL):
                    if r * STRIDE + i * DILATION == a:
                        b_taps = replaced(b_taps, i, b_taps[i] + b_u * b_dz[r])
    p_slot = p_parts + (i_conv * slots + i_slot) * (KK * C)
    for i in tl.static_range(KERNEL):
        tl.store(p_slot + (i * KERNEL + j) * C + o_c, tl.sum(b_taps[i], axis=0), mask=m_c)


@triton.jit(do_not_specialize=["n", "jobs", "slots"])
def stencil_taps(
    p_table, p_packed, p_parts, n, jobs, slots, T: tl.constexpr, KINDS: tl.constexpr, VEC: tl.constexpr,
    C: tl.constexpr, KK: tl.constexpr, NORMAL: tl.constexpr, STEPS: tl.constexpr, R: tl.constexpr,
    BQ: tl.constexpr, BC: tl.constexpr, A: tl.constexpr,
):  # fmt: skip
    """Parts [convolutions, slots, KK, C] of the gradients of the depthwise weights, STEPS tiles each."""
    i_job = tl.program_id(0) % jobs
    i_kind = field(p_table, i_job, KIND)
    for k in tl.static_range(len(KINDS) // 5):
        if (i_kind == k) & (tl.program_id(2) < KINDS[5 * k]):
            _taps(
                p_table, p_packed, p_parts, i_job, tl.program_id(0) // jobs, n, slots, T, VEC,
                KINDS[5 * k], KINDS[5 * k + 1], KINDS[5 * k + 2], KINDS[5 * k + 3], KINDS[5 * k + 4],
                C, KK, NORMAL, STEPS, R, BQ, BC, A,
            )  # fmt: skip


@triton.jit(do_not_specialize=["slots", "mix_slots"])
def stencil_gather(
    spreads, mixes, numbers, p_spreads, p_mixes, slots, mix_slots,
    COUNT: tl.constexpr, C: tl.constexpr, KK: tl.constexpr, BS: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """The gradients of the weights: the sums of the slots' parts, in float64.

    Args:
        spreads: COUNT gradients [C, 1, k, k]; the last for nothing, as those of mixes.
        mixes: COUNT gradients [C, C, 1, 1].
        numbers: `coded` numbers of each convolution, of which the third is k.
        p_spreads: [convolutions, slots, KK, C].
        p_mixes: [convolutions, mix_slots, C, C].
        slots: how many.
        mix_slots: how many.
    """
    i_conv = tl.program_id(0)
    o_s = tl.arange(0, BS)
    MIXES: tl.constexpr = (C * C + B - 1) // B
    A = p_mixes.dtype.element_ty
    b_total = tl.zeros([BS, B], tl.float64)
    if tl.program_id(1) < MIXES:
        o_e = tl.program_id(1) * B + tl.arange(0, B)
        i_s = 0
        while i_s < mix_slots:
            o_line = i_conv.to(tl.int64) * mix_slots + i_s + o_s
            m = (i_s + o_s < mix_slots)[:, None] & (o_e < C * C)[None, :]
            b_total += tl.load(p_mixes + o_line[:, None] * (C * C) + o_e[None, :], mask=m, other=0.0).to(tl.float64)
            i_s += BS
        tl.store(choose(mixes, i_conv, COUNT) + o_e, tl.sum(b_total, axis=0).to(A), mask=o_e < C * C)
    else:
        side = number(numbers, i_conv, 2, COUNT)
        o_e = (tl.program_id(1) - MIXES) * B + tl.arange(0, B)
        m_e = o_e < side * side * C
        i_s = 0
        while i_s < slots:
            o_line = i_conv.to(tl.int64) * slots + i_s + o_s
            m = (i_s + o_s < slots)[:, None] & m_e[None, :]
            b_total += tl.load(p_spreads + o_line[:, None] * (KK * C) + o_e[None, :], mask=m, other=0.0).to(tl.float64)
            i_s += BS
        o_to = o_e % C * (side * side) + o_e // C
        tl.store(choose(spreads, i_conv, COUNT) + o_to, tl.sum(b_total, axis=0).to(A), mask=m_e)


def variants(sizes: Mapping[int, int]) -> tuple[Variant, ...]:
    """Of cells with these channels and heights."""
    pointers = {"p_table": "*i64", "p_packed": "*fp32", "p_parts": "*fp32"}
    mixes = compiled(stencil_mixes, pointers, sizes, outer=True, VALUES=True, STEPS=8)
    return (*mixes, *compiled(stencil_taps, pointers, sizes, STEPS=8))


VARIANTS: tuple[Variant, ...] = variants(SIZES)
