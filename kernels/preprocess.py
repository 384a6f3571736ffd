"""ReLU, 1x1 convolution and centred moments in one pass over the input; the normalisation is a second one.

    forward       a block of output pixels a program: y = W relu(x), rounded, with its mean and M2 a channel
    fold_moments  the blocks' moments to the batch's, by Chan's rule in float64
    normalise     y = (y - mean) rstd in place

Memory decides the time: x is read once, y written once, W [C_out, C_in] comes from the second-level cache. The matrix
products take C_in in chunks of BK and C_out in one or two tiles, B1 and B2, so that 36 channels cost 48 and not 64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import triton
import triton.language as tl

from fastdarts.kernels._variants import Variant

__all__ = [
    "NORMALISE",
    "SHAPES",
    "VARIANTS",
    "Tiles",
    "alignment",
    "arithmetic",
    "factor",
    "fold_moments",
    "forward",
    "normalise",
    "outputs_in_tiles",
    "pixels_of",
    "power_of_two",
    "products_of",
    "tiles_of",
    "weight_of",
]

# Elements a program of `normalise`.
NORMALISE = 2048


class Tiles(NamedTuple):
    """The block sizes of a program.

    Args:
        pixels: BP, of the output.
        inputs: BK, channels of the input at a time.
        first, second: B1 and B2, channels of the output; the second may be 0.
        warps: of a program.
    """

    pixels: int
    inputs: int
    first: int
    second: int
    warps: int


def outputs_in_tiles(outputs: int) -> tuple[int, int]:
    """B1 and B2 for that many channels of the output, or of one half of it."""
    first = max(16, power_of_two(outputs + 1) // 2)
    rest = outputs - first
    second = max(16, power_of_two(rest)) if rest > 0 else 0
    return (2 * first, 0) if second >= first else (first, second)


def tiles_of(pixels: int, inputs: int, outputs: int) -> Tiles:
    """What a program of `forward` takes of that many pixels and channels of the output, or of one half of it."""
    first, second = outputs_in_tiles(outputs)
    # Small maps need all the programs that they can give, wide ones the registers.
    rows = 64 if pixels >= 16384 and first <= 64 else 32 if pixels >= 64 else 16
    most = 64 if first <= 32 else 32 if first == 64 else 16
    # What a chunk of the input's channels has too much is multiplied in vain.
    fitting = (chunk for chunk in (64, 32) if chunk <= most and -inputs % chunk <= inputs // 8)
    chunk = next(fitting, 16)
    return Tiles(rows, chunk, first, second, 4 if first <= 32 else 8)


def alignment(*strides: int) -> int:
    """ALIGN: the largest power of two, at most 16, that divides all strides; the compiler itself sees 16 or nothing."""
    return math.gcd(16, *strides)


def power_of_two(number: int) -> int:
    """The smallest one that is not below the number."""
    return 1 << (number - 1).bit_length()


@triton.jit
def arithmetic(b_value):
    """A block in the dtype of accumulators: float64 for float64, else float32."""
    return b_value.to(tl.float64 if b_value.dtype == tl.float64 else tl.float32)


@triton.jit
def factor(b_value, PRECISION: tl.constexpr):
    """A factor of a product on the matrix units, which cut float32 to TF32: rounded, a product has no bias."""
    if PRECISION == "tf32":
        b_rounded = ((b_value.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
        # The carry would run through all the ones of a NaN.
        b_value = tl.where(b_value == b_value, b_rounded, b_value)
    return b_value


@triton.jit
def pixels_of(
    o_pixel,
    m_pixel,
    i_half,
    image,
    row,
    column,
    height,
    width,
    STRIDE: tl.constexpr,
    WALK: tl.constexpr,
    ALIGN: tl.constexpr,
):
    """Where the input pixels of output pixels lie (int64 offsets), and which of them are inside.

    WALK says what the strides allow: 0 all pixels are equally far apart, 1 those of an image are, 2 anything. At
    stride 2 the second half reads one pixel further down and right. All offsets are multiples of ALIGN.
    """
    if WALK == 0:
        o_source = o_pixel.to(tl.int64) * column
        m_source = m_pixel
    elif WALK == 1:
        i_image = o_pixel // (height * width)
        o_source = i_image.to(tl.int64) * image + (o_pixel % (height * width)).to(tl.int64) * column
        m_source = m_pixel
    else:
        across, down = (width + STRIDE - 1) // STRIDE, (height + STRIDE - 1) // STRIDE
        i_row = (o_pixel // across) % down * STRIDE + i_half
        i_column = o_pixel % across * STRIDE + i_half
        o_source = (o_pixel // (across * down)).to(tl.int64) * image
        o_source += i_row.to(tl.int64) * row + i_column.to(tl.int64) * column
        m_source = m_pixel & (i_row < height) & (i_column < width)
    return tl.multiple_of(o_source, ALIGN), m_source


@triton.jit
def weight_of(p_weight, o_out, m_out, o_in, m_in, C_IN: tl.constexpr):
    """A tile of the weight [C_out, C_in]; the offsets are [B, 1] and [1, B] either way round."""
    return arithmetic(tl.load(p_weight + o_out * C_IN + o_in, mask=m_out & m_in, other=0.0))


@triton.jit
def _finish(
    b_acc, p_y, p_mean, p_m2, o_pixel, m_pixel, o_out, m_out, count, C_OUT: tl.constexpr, MOMENTS: tl.constexpr
):
    """Rounds and stores a tile; the moments are of the rounded values, which is what will be normalised."""
    b_y = b_acc.to(p_y.dtype.element_ty)
    m = m_pixel[:, None] & m_out[None, :]
    tl.store(p_y + o_pixel.to(tl.int64)[:, None] * C_OUT + o_out[None, :], b_y, mask=m)
    if MOMENTS:
        b_y = tl.where(m, b_y.to(b_acc.dtype), 0.0)  # [BP, B]
        b_centre = tl.sum(b_y, 0) / count
        # Infinity is no centre: the mean of what it is in is infinite, as torch has it, and not NaN.
        b_centre = tl.where(tl.abs(b_centre) < float("inf"), b_centre, 0.0)
        b_y = tl.where(m, b_y - b_centre[None, :], 0.0)
        b_sum = tl.sum(b_y, 0)
        b_m2 = tl.sum(b_y * b_y, 0) - b_sum * (b_sum / count)
        tl.store(p_mean + o_out, b_centre.to(tl.float64) + (b_sum / count).to(tl.float64), mask=m_out)
        tl.store(p_m2 + o_out, b_m2.to(tl.float64), mask=m_out)


@triton.jit(do_not_specialize=["pixels"])
def forward(
    p_y,
    p_mean,
    p_m2,
    p_x,
    p_first,
    p_second,
    image,
    channel,
    row,
    column,
    pixels,
    height,
    width,
    C_IN: tl.constexpr,
    O1: tl.constexpr,
    O2: tl.constexpr,
    STRIDE: tl.constexpr,
    WALK: tl.constexpr,
    ALIGN: tl.constexpr,
    MOMENTS: tl.constexpr,
    PRECISION: tl.constexpr,
    BP: tl.constexpr,
    BK: tl.constexpr,
    B1: tl.constexpr,
    B2: tl.constexpr,
):
    """Program (block of pixels, half): y [pixels, O1 + O2], and with MOMENTS mean and M2 [blocks, O1 + O2]."""
    ACC: tl.constexpr = tl.float64 if p_x.dtype.element_ty == tl.float64 else tl.float32
    i_block, i_half = tl.program_id(0), tl.program_id(1)
    p_weight = p_first
    if i_half == 1:
        p_weight = p_second
    outputs = tl.where(i_half == 0, O1, O2)
    o_pixel = i_block * BP + tl.arange(0, BP)
    m_pixel = o_pixel < pixels
    o_x, m_x = pixels_of(o_pixel, m_pixel, i_half, image, row, column, height, width, STRIDE, WALK, ALIGN)
    o_one = tl.arange(0, B1)
    b_one = tl.zeros([BP, B1], ACC)
    if B2 > 0:
        o_two = B1 + tl.arange(0, B2)
        b_two = tl.zeros([BP, B2], ACC)
    for i_in in range(0, C_IN, BK):
        o_in = i_in + tl.arange(0, BK)
        m_in = o_in < C_IN
        p_tile = p_x + o_x[:, None] + o_in.to(tl.int64)[None, :] * channel
        b_x = arithmetic(tl.load(p_tile, mask=m_x[:, None] & m_in[None, :], other=0.0))  # [BP, BK]
        b_x = factor(tl.where(b_x <= 0, 0.0, b_x), PRECISION)
        b_w = weight_of(p_weight, o_one[None, :], (o_one < outputs)[None, :], o_in[:, None], m_in[:, None], C_IN)
        b_one = tl.dot(b_x, factor(b_w, PRECISION), b_one, input_precision=PRECISION, out_dtype=ACC)
        if B2 > 0:
            b_w = weight_of(p_weight, o_two[None, :], (o_two < outputs)[None, :], o_in[:, None], m_in[:, None], C_IN)
            b_two = tl.dot(b_x, factor(b_w, PRECISION), b_two, input_precision=PRECISION, out_dtype=ACC)
    count = tl.minimum(pixels - i_block * BP, BP).to(ACC)
    i_partial = i_block.to(tl.int64) * (O1 + O2) + i_half * O1
    p_y, p_mean, p_m2 = p_y + i_half * O1, p_mean + i_partial, p_m2 + i_partial
    _finish(b_one, p_y, p_mean, p_m2, o_pixel, m_pixel, o_one, o_one < outputs, count, O1 + O2, MOMENTS)
    if B2 > 0:
        _finish(b_two, p_y, p_mean, p_m2, o_pixel, m_pixel, o_two, o_two < outputs, count, O1 + O2, MOMENTS)


@triton.jit(do_not_specialize=["pixels", "blocks"])
def fold_moments(
    p_mean,
    p_var,
    p_block_mean,
    p_block_m2,
    pixels,
    blocks,
    C: tl.constexpr,
    BP: tl.constexpr,
    BS: tl.constexpr,
    BC: tl.constexpr,
):
    """mean and biased variance [C] of blocks of BP pixels: `M2 = sum_i (M2_i + n_i (mean_i - mean)^2)`."""
    o_channel = tl.program_id(0) * BC + tl.arange(0, BC)
    m_channel = o_channel < C
    total = pixels.to(tl.float64)
    b_sum = tl.zeros([BS, BC], tl.float64)
    for i_block in range(0, blocks, BS):
        o_block = i_block + tl.arange(0, BS)
        o = o_block.to(tl.int64)[:, None] * C + o_channel[None, :]
        b_count = tl.minimum(pixels - o_block * BP, BP).to(tl.float64)[:, None]
        m = (o_block < blocks)[:, None] & m_channel[None, :]
        b_sum += tl.load(p_block_mean + o, mask=m, other=0.0) * b_count  # [BS, BC]
    b_mean = tl.sum(b_sum, 0) / total
    b_m2 = tl.zeros([BS, BC], tl.float64)
    for i_block in range(0, blocks, BS):
        o_block = i_block + tl.arange(0, BS)
        o = o_block.to(tl.int64)[:, None] * C + o_channel[None, :]
        b_count = tl.minimum(pixels - o_block * BP, BP).to(tl.float64)[:, None]
        m = (o_block < blocks)[:, None] & m_channel[None, :]
        b_apart = tl.load(p_block_mean + o, mask=m, other=0.0) - b_mean[None, :]  # [BS, BC]
        b_m2 += tl.where(m, tl.load(p_block_m2 + o, mask=m, other=0.0) + b_count * b_apart * b_apart, 0.0)
    tl.store(p_mean + o_channel, b_mean, mask=m_channel)
    tl.store(p_var + o_channel, tl.sum(b_m2, 0) / total, mask=m_channel)


@triton.jit
def normalise(p_y, p_mean, p_rstd, size, C: tl.constexpr, B: tl.constexpr):
    """y = (y - mean) rstd in place, over dense maps of C channels."""
    o = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    m = o < size
    b_y = arithmetic(tl.load(p_y + o, mask=m, other=0.0))  # [B]
    b_mean = tl.load(p_mean + o % C).to(b_y.dtype)
    b_rstd = tl.load(p_rstd + o % C).to(b_y.dtype)
    tl.store(p_y + o, ((b_y - b_mean) * b_rstd).to(p_y.dtype.element_ty), mask=m)


# (C_in, C_out, pixels of the output at the batch size of the paper, stride), each of the halves' at stride 2.
SHAPES = {
    "DARTS cell 0": (48, 16, 65536, 1),
    "DARTS cell 2": (64, 16, 65536, 1),
    "DARTS cell 3, halves": (64, 32, 16384, 2),
    "DARTS cell 7": (256, 64, 4096, 1),
    "PC-DARTS reduction": (4, 4, 65536, 2),
    "S2 cell 2": (144, 36, 65536, 1),
    "S2 cell 5": (288, 72, 16384, 1),
    "S2 cell 7": (576, 144, 4096, 1),
}


def products_of(shape: tuple[int, int, int, int], dtype: str) -> dict[str, Any]:
    """The constants that forward and backward have in common, on maps."""
    inputs, outputs, _, stride = shape
    first = outputs - outputs // 2 if stride == 2 else outputs
    halves = {"C_IN": inputs, "O1": first, "O2": outputs - first, "STRIDE": stride, "WALK": 2 if stride == 2 else 0}
    kind = {"ALIGN": alignment(inputs), "PRECISION": "tf32x3" if dtype == "fp32" else "tf32"}
    return {"channel": 1, **halves, **kind}


def _variants() -> Iterator[Variant]:
    numbers = dict.fromkeys(("image", "row", "column", "pixels", "height", "width"), "i32")
    moments = {"p_mean": "*fp64", "p_m2": "*fp64"}
    for dtype in ("fp32", "bf16"):
        for name, shape in SHAPES.items():
            constants = products_of(shape, dtype)
            tiles = tiles_of(shape[2], shape[0], constants["O1"])
            constants |= {"MOMENTS": True, **dict(zip(("BP", "BK", "B1", "B2"), tiles, strict=False))}
            signature = {"p_y": f"*{dtype}", **moments, "p_x": f"*{dtype}", "p_first": "*fp32", "p_second": "*fp32"}
            yield Variant(forward, signature | numbers, constants, tiles.warps, name=f"{name}, {dtype}")
        for channels in (16, 36):
            signature = {"p_y": f"*{dtype}", "p_mean": "*fp64", "p_rstd": "*fp64", "size": "i32"}
            constants = {"C": channels, "B": NORMALISE}
            yield Variant(normalise, signature, constants, 4, name=f"C {channels}, {dtype}")
    pointers = dict.fromkeys(("p_mean", "p_var", "p_block_mean", "p_block_m2"), "*fp64")
    constants = {"C": 16, "BP": 64, "BS": 256, "BC": 16}
    yield Variant(fold_moments, {**pointers, "pixels": "i32", "blocks": "i32"}, constants, 8, main=False, name="C 16")


VARIANTS: tuple[Variant, ...] = tuple(_variants())
