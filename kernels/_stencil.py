"""What the stencil's Triton kernels share: block sizes, the jobs' table, and their parts.

A program takes `BQ` columns of `R` output rows each: a loaded pixel meets every tap of those rows that reads it, so
that loads, masks and ReLUs are shared by up to `R` multiply-adds a tap. Columns are counted over images, groups of rows
and widths together: small maps waste nothing.

Jobs differ in addresses and strides, which `stencil_pack` puts into a table: every kernel but that one is compiled for
the kinds of its jobs (kernel, dilation, stride, height and width of the source) alone, whatever their number.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

from fastdarts.kernels._variants import Variant
from fastdarts.kernels.preprocess import factor

__all__ = [
    "CONV",
    "DX",
    "DX_STRIDE",
    "EXTRA",
    "FIELDS",
    "G_STRIDE",
    "KIND",
    "NUMBERS",
    "OUT",
    "SIZES",
    "SOURCE",
    "X_STRIDE",
    "Y_STRIDE",
    "Blocks",
    "G",
    "X",
    "Y",
    "appended",
    "blocks",
    "choose",
    "coded",
    "compiled",
    "depthwise",
    "field",
    "gradient",
    "number",
    "pixels",
    "pointer",
    "pointwise",
    "relu",
    "replaced",
    "stacked",
    "stacked_pixels",
    "supernets",
    "weights_of",
]

# A row of the table, a job's: addresses, pixel strides in units of VEC, numbers of convolution, kind and source.
X, OUT, G, Y, DX, X_STRIDE, G_STRIDE, Y_STRIDE, DX_STRIDE, CONV, KIND, SOURCE = (tl.constexpr(i) for i in range(12))
FIELDS = tl.constexpr(12)
NUMBERS = tl.constexpr(8)  # of a convolution, given to `stencil_pack`
EXTRA = tl.constexpr(6)  # vectors of a convolution after its weights: mean, rstd, alpha, beta, near, rest


@dataclass(frozen=True)
class Blocks:
    """How many of what a program takes.

    Args:
        rows: of a map, even.
        columns: of such rows.
        chunk: channels that the depthwise part holds at a time.
        wide: channels that the pointwise part writes; 16 or more where it runs on the matrix unit.
        rest: further ones, or 0: 36 channels are 32 and 16.
        warps: of a program.
    """

    rows: int
    columns: int
    chunk: int
    wide: int
    rest: int
    warps: int

    @property
    def pixels(self) -> int:
        """Of programs that only take a product of what they read."""
        return self.rows * self.columns if self.wide <= 16 else 64

    @property
    def outer(self) -> int:
        """Columns of programs that hold a gradient of the pointwise weights."""
        return self.columns

    @property
    def outer_warps(self) -> int:
        """Of such a program: with 4, ptxas would spill a few registers for a block more on a multiprocessor."""
        return 8 if self.wide > 8 else 4


def blocks(channels: int) -> Blocks:
    """The static table of block sizes."""
    if channels <= 8:
        width = triton.next_power_of_2(channels)
        return Blocks(4, 512 // width, width, width, 0, 4)
    if channels <= 16:
        return Blocks(4, 64, 16, 16, 0, 4)
    wide = min(triton.next_power_of_2(channels + 1) // 2, 128)
    left = channels - wide
    rest = max(16, triton.next_power_of_2(left)) if left else 0
    if rest == wide and channels < 128:
        wide, rest = 2 * wide, 0
    if channels > 144:  # more are other programs'
        rest = 0
    chunk = 32 if channels % 32 == 0 else 16
    return Blocks(4 if channels <= 64 else 2, 32, chunk, wide, rest, 4)


def coded(value: int) -> int:
    """A number as the kernels take those that must not be specialised on."""
    return 2 * value + 3


@triton.jit
def appended(blocks, b_block):
    """A tuple with one block more."""
    return blocks + (b_block,)  # noqa: RUF005 - kernels cannot unpack


@triton.jit
def replaced(blocks, i: tl.constexpr, b_block):
    """A tuple with another i-th block."""
    return blocks[:i] + (b_block,) + blocks[i + 1 :]  # noqa: RUF005


@triton.jit
def number(values, i, FIELD: tl.constexpr, COUNT: tl.constexpr):
    """A number of convolution i, of those that came `coded`."""
    found = values[FIELD]
    for k in tl.static_range(1, COUNT):
        if i == k:
            found = values[k * NUMBERS + FIELD]
    return (found - 3) >> 1


@triton.jit
def choose(pointers, i, COUNT: tl.constexpr):
    """The i-th pointer."""
    found = pointers[0]
    for k in tl.static_range(1, COUNT):
        if i == k:
            found = pointers[k]
    return found


@triton.jit
def field(p_table, i_row, FIELD: tl.constexpr):
    """A number, int64, of a row of the table that `stencil_pack` wrote."""
    return tl.load(p_table + i_row * FIELDS + FIELD)


@triton.jit
def pointer(p_table, i_row, FIELD: tl.constexpr, T: tl.constexpr, VEC: tl.constexpr):
    """A map of T, whose address is a multiple of VEC elements."""
    p_map = tl.load(p_table + i_row * FIELDS + FIELD).to(tl.pointer_type(T))
    return tl.multiple_of(p_map, VEC * (T.primitive_bitwidth // 8))


@triton.jit
def weights_of(p_packed, i_conv, C: tl.constexpr, KK: tl.constexpr):
    """Where the weights and coefficients of a convolution begin, as `stencil_pack` writes them."""
    return p_packed + i_conv.to(tl.int64) * ((KK + C + EXTRA) * C)


@triton.jit
def pixels(i_tile, n, GROUPS: tl.constexpr, W: tl.constexpr, BQ: tl.constexpr):
    """Image, group of rows and column of each of a tile's columns, and which of them exist: [BQ] each."""
    o_q = i_tile * BQ + tl.arange(0, BQ)
    o_line = o_q // W
    o_n = o_line // GROUPS
    return o_n, o_line - o_n * GROUPS, o_q - o_line * W, o_n < n


@triton.jit
def relu(p_x, m_x, b_mean, b_rstd, NORMAL: tl.constexpr, A: tl.constexpr):
    """What a tap reads: 0 outside the map."""
    b_x = tl.load(p_x, mask=m_x, other=0.0).to(A)  # [BQ, BC]
    if NORMAL:
        b_x = tl.where(m_x, (b_x - b_mean[None, :]) * b_rstd[None, :], 0.0)
    return tl.maximum(b_x, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def depthwise(
    p_x, p_weights, stride, o_n, o_h, o_w, m_q, o_c,
    KERNEL: tl.constexpr, DILATION: tl.constexpr, STRIDE: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    C: tl.constexpr, KK: tl.constexpr, NORMAL: tl.constexpr, R: tl.constexpr, BQ: tl.constexpr, BC: tl.constexpr,
    A: tl.constexpr,
):  # fmt: skip
    """R rows of a chunk of the depthwise convolution, a tuple of [BQ, BC]; o_h is their first output row."""
    PAD: tl.constexpr = DILATION * (KERNEL // 2)
    # Rows between those that some tap reads.
    STEP: tl.constexpr = 2 if STRIDE == 2 and (DILATION == 2 or KERNEL == 1) else 1
    m_c = o_c < C
    b_mean = o_c.to(A)
    b_rstd = o_c.to(A)
    if NORMAL:
        b_mean = tl.load(p_weights + (KK + C) * C + o_c, mask=m_c, other=0.0)  # [BC]
        b_rstd = tl.load(p_weights + (KK + C + 1) * C + o_c, mask=m_c, other=0.0)  # [BC]
    o_top = o_h * STRIDE - PAD
    o_left = o_w * STRIDE - PAD
    p_first = p_x + ((o_n * H + o_top) * W + o_left).to(tl.int64)[:, None] * stride + o_c[None, :]  # [BQ, BC]
    b_z = ()
    for _ in tl.static_range(R):
        b_z = appended(b_z, tl.zeros([BQ, BC], A))
    for j in range(KERNEL):
        b_w = ()
        for i in tl.static_range(KERNEL):
            b_w = appended(b_w, tl.load(p_weights + (i * KERNEL + j) * C + o_c, mask=m_c, other=0.0))  # [BC]
        o_column = o_left + j * DILATION
        m_column = m_q & (o_column >= 0) & (o_column < W)
        for a in tl.static_range(0, (R - 1) * STRIDE + (KERNEL - 1) * DILATION + 1, STEP):
            o_row = o_top + a
            m_x = (m_column & (o_row >= 0) & (o_row < H))[:, None] & m_c[None, :]
            b_u = relu(p_first + (a * W + j * DILATION) * stride, m_x, b_mean, b_rstd, NORMAL, A)
            for r in tl.static_range(R):
                if a >= r * STRIDE and (a - r * STRIDE) % DILATION == 0 and (a - r * STRIDE) // DILATION < KERNEL:
                    b_new = b_z[r] + b_u * b_w[(a - r * STRIDE) // DILATION][None, :]
                    b_z = replaced(b_z, r, b_new)
    return b_z


@triton.jit
def stacked(b_rows, R: tl.constexpr, BQ: tl.constexpr, BC: tl.constexpr):
    """R rows [BQ, BC] as one block [R * BQ, BC], so that a product is taken of all of them."""
    tl.static_assert(R == 2 or R == 4)
    if R == 2:
        b_all = tl.permute(tl.join(b_rows[0], b_rows[1]), (2, 0, 1))
    else:
        b_four = tl.join(tl.join(b_rows[0], b_rows[1]), tl.join(b_rows[2], b_rows[3]))
        b_all = tl.permute(b_four, (3, 2, 0, 1))
    return tl.reshape(b_all, (R * BQ, BC))


@triton.jit
def stacked_pixels(i_tile, n, H: tl.constexpr, W: tl.constexpr, R: tl.constexpr, BQ: tl.constexpr):
    """The pixel of each line of `stacked` rows in a map [n, H, W], and which of them exist: [R * BQ] each."""
    o_line = tl.arange(0, R * BQ)
    o_r = o_line // BQ
    o_q = i_tile * BQ + o_line - o_r * BQ
    o_row = o_q // W
    GROUPS: tl.constexpr = (H + R - 1) // R
    o_n = o_row // GROUPS
    o_h = (o_row - o_n * GROUPS) * R + o_r
    return ((o_n * H + o_h) * W + o_q - o_row * W).to(tl.int64), (o_n < n) & (o_h < H)


@triton.jit
def pointwise(b_y, b_z, p_mix, o_out, o_c, TURNED: tl.constexpr, C: tl.constexpr, PRECISION: tl.constexpr):
    """Adds a chunk's part of the pointwise convolution, or TURNED of its transpose: [B, BC] times [BC, BO]."""
    OUT: tl.constexpr = 1 if TURNED else C
    IN: tl.constexpr = C if TURNED else 1
    if C <= 8:  # fewer than the matrix unit takes
        m_p = (o_out < C)[:, None] & (o_c < C)[None, :]
        b_p = tl.load(p_mix + o_out[:, None] * OUT + o_c[None, :] * IN, mask=m_p, other=0.0)  # [BO, BC]
        b_y += tl.sum(b_z[:, None, :] * b_p[None, :, :], axis=2)
    else:
        m_p = (o_c < C)[:, None] & (o_out < C)[None, :]
        b_p = tl.load(p_mix + o_out[None, :] * OUT + o_c[:, None] * IN, mask=m_p, other=0.0)  # [BC, BO]
        b_z, b_p = factor(b_z, PRECISION), factor(b_p, PRECISION)
        b_y = tl.dot(b_z, b_p, b_y, input_precision=PRECISION, out_dtype=b_y.dtype)
    return b_y


@triton.jit
def gradient(
    p_g, p_y, p_vectors, g_stride, y_stride, o_pixel, m_pixel, o_c,
    C: tl.constexpr, VALUES: tl.constexpr, A: tl.constexpr,
):  # fmt: skip
    """dy of some pixels and channels [B, BC], 0 outside; the coefficients are as `stencil_pack` wrote them."""
    m_c = o_c < C
    m = m_pixel[:, None] & m_c[None, :]
    b_alpha = tl.load(p_vectors + 2 * C + o_c, mask=m_c, other=0.0)  # [BC]
    b_rest = tl.load(p_vectors + 5 * C + o_c, mask=m_c, other=0.0)  # [BC]
    b_g = tl.load(p_g + o_pixel[:, None] * g_stride + o_c[None, :], mask=m, other=0.0).to(A)  # [B, BC]
    if VALUES:
        b_beta = tl.load(p_vectors + 3 * C + o_c, mask=m_c, other=0.0)  # [BC]
        b_near = tl.load(p_vectors + 4 * C + o_c, mask=m_c, other=0.0)  # [BC]
        b_y = tl.load(p_y + o_pixel[:, None] * y_stride + o_c[None, :], mask=m, other=0.0).to(A)  # [B, BC]
        b_dy = b_alpha[None, :] * b_g + (b_beta[None, :] * (b_y - b_near[None, :]) + b_rest[None, :])
    else:
        b_dy = b_alpha[None, :] * b_g + b_rest[None, :]
    return tl.where(m, b_dy, 0.0)


_DTYPES = {"fp32": tl.float32, "bf16": tl.bfloat16}
_FIRST, _SECOND = ((3, 1), (3, 2), (5, 1), (5, 2)), ((3, 1), (5, 1))  # kernels and dilations: sep and dil, or sep


def supernets(sizes: Mapping[int, int]) -> Iterator[tuple[str, Blocks, dict[str, Any]]]:
    """What the first and second halves of cells with these channels and heights are compiled for."""
    for (channels, side), (name, dtype) in itertools.product(sizes.items(), _DTYPES.items()):
        b = blocks(channels)
        for halves, kernels in (("first", _FIRST), ("second", _SECOND)):
            kinds = tuple(number for k, d in kernels for number in (k, d, 1, side, side))
            constants = {
                "T": dtype, "KINDS": kinds, "VEC": math.gcd(channels, 128 // dtype.primitive_bitwidth), "C": channels,
                "KK": 25, "NORMAL": halves == "second", "R": b.rows, "BQ": b.columns, "BP": b.pixels, "BC": b.chunk,
                "B1": b.wide, "B2": b.rest, "A": tl.float32, "PRECISION": "tf32x3" if name == "fp32" else "tf32",
            }  # fmt: skip
            yield f"C {channels}, {name}, {halves} halves", b, constants


def compiled(
    kernel: Any, pointers: Mapping[str, str], sizes: Mapping[int, int], *, outer: bool = False, **more: Any
) -> Iterator[Variant]:
    """The variants of a kernel: its arguments' names say which of the constants it takes; the rest are numbers."""
    for name, b, constants in supernets(sizes):
        constants |= more | ({"BQ": b.outer} if outer else {})
        constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
        rest = [key for key in kernel.arg_names if key not in constants and key not in pointers]
        yield Variant(
            kernel,
            dict(pointers) | dict.fromkeys(rest, "i32"),
            constants,
            b.outer_warps if outer else b.warps,
            name=name,
        )


SIZES = {16: 32, 4: 32, 36: 32}  # channels and heights of DARTS, PC-DARTS and S2
