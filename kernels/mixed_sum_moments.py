"""Mean and variance of a source's pools, without the pooled maps.

Bytes: the source once, its neighbours from L1; a C 16, 32x32 map of 64 images 4.2 MB in float32, 1 us at 4.3 TB/s,
which is less than the two launches take.
"""

from __future__ import annotations

from collections.abc import Iterator

import triton
import triton.language as tl

from fastdarts.kernels._variants import Variant
from fastdarts.kernels.mixed_sum import pools

__all__ = ["VARIANTS", "fold_moments", "pool_moments"]


@triton.jit
def _add(b_value, m, b_first, b_sum, b_square):
    """One more value: its sum and square about the lane's first value."""
    b_value = tl.where(m, b_value - b_first, 0.0)
    return b_sum + b_value, b_square + b_value * b_value


@triton.jit
def _merge(b_count, b_mean, b_square):
    """Count, mean and squares about the mean [P, BC] of parts as those [BC] of the whole, float64, by Chan's rule."""
    count = tl.sum(b_count, 0)
    # Parts of nothing have mean 0; without any part the mean is 0 as well.
    mean = tl.sum(b_count * b_mean, 0) / tl.maximum(count, 1.0)
    b_off = tl.where(b_count > 0, b_mean - mean[None, :], 0.0)
    return count, mean, tl.sum(b_square + b_count * b_off * b_off, 0)


@triton.jit
def _finish_lanes(p_part, o_channel, m_channel, b_count, b_first, b_sum, b_square):
    """A program's share of the moments, from those of its lanes: mean and squares beside each other."""
    b_sum, b_square = b_sum.to(tl.float64), b_square.to(tl.float64)
    b_share = b_sum / tl.maximum(b_count, 1.0)
    # Of what is not finite the mean is inf or no number, and this too.
    b_square = b_square - b_sum * b_share
    b_square = tl.where(b_square < 0, 0.0, b_square)
    _, mean, square = _merge(b_count, b_first.to(tl.float64) + b_share, b_square)
    tl.store(p_part + 2 * o_channel, mean, mask=m_channel)
    tl.store(p_part + 2 * o_channel + 1, square, mask=m_channel)


@triton.jit(do_not_specialize=["pixels", "height", "width", "tiles", "channel_units", "x_units"])
def pool_moments(
    p_parts,
    p_x,
    pixels,
    height,
    width,
    tiles,
    channel_units,
    x_units,
    STRIDE: tl.constexpr,
    MAX: tl.constexpr,
    AVG: tl.constexpr,
    ODD_ROWS: tl.constexpr,
    ODD_COLUMNS: tl.constexpr,
    UNIT: tl.constexpr,
    BP: tl.constexpr,
    BC: tl.constexpr,
):
    """Mean and squares of the pools over `tiles` tiles of BP of a node's pixels: [2, slots, C, 2] parts.

    Each lane sums about its own first value: one in thousands may lie far off, and costs its own few sums some bits.
    """
    A: tl.constexpr = tl.float64 if p_x.dtype.element_ty == tl.float64 else tl.float32
    channels = channel_units * UNIT
    x_height = STRIDE * height - ODD_ROWS
    x_width = STRIDE * width - ODD_COLUMNS
    o_channel = tl.program_id(1) * BC + tl.arange(0, BC)  # [BC]
    m_channel = o_channel < channels
    b_count = tl.zeros([BP, BC], tl.float64)
    b_first_max = tl.zeros([BP, BC], A)
    b_first_avg = tl.zeros([BP, BC], A)
    b_max_sum = tl.zeros([BP, BC], A)
    b_max_square = tl.zeros([BP, BC], A)
    b_avg_sum = tl.zeros([BP, BC], A)
    b_avg_square = tl.zeros([BP, BC], A)
    for i_tile in range(tiles):
        i_pixel = (tl.program_id(0) * tiles + i_tile) * BP + tl.arange(0, BP)  # [BP]
        m_pixel = i_pixel < pixels
        m = m_pixel[:, None] & m_channel[None, :]  # [BP, BC]
        i_image = (i_pixel // (height * width)).to(tl.int64)
        i_row = i_pixel // width % height * STRIDE
        i_column = i_pixel % width * STRIDE
        o_pixel = ((i_image * x_height + i_row) * x_width + i_column) * (x_units * UNIT)
        p_centre = p_x + o_pixel[:, None] + o_channel[None, :]  # [BP, BC]
        _, b_max, b_avg = pools(
            p_centre, m, i_row[:, None], i_column[:, None], x_height, x_width, x_units * UNIT, MAX, AVG, A
        )
        # Differences to what is not finite would hide everything else.
        if MAX:
            if i_tile == 0:
                b_first_max = tl.where(m & (tl.abs(b_max) < float("inf")), b_max, 0.0)
            b_max_sum, b_max_square = _add(b_max, m, b_first_max, b_max_sum, b_max_square)
        if AVG:
            if i_tile == 0:
                b_first_avg = tl.where(m & (tl.abs(b_avg) < float("inf")), b_avg, 0.0)
            b_avg_sum, b_avg_square = _add(b_avg, m, b_first_avg, b_avg_sum, b_avg_square)
        b_count += tl.where(m, 1.0, 0.0)
    p_part = p_parts + tl.program_id(0) * 2 * channels
    _finish_lanes(p_part, o_channel, m_channel, b_count, b_first_max, b_max_sum, b_max_square)
    p_part += tl.num_programs(0) * 2 * channels
    _finish_lanes(p_part, o_channel, m_channel, b_count, b_first_avg, b_avg_sum, b_avg_square)


@triton.jit(do_not_specialize=["pixels", "share", "slots", "channels"])
def fold_moments(p_mean, p_var, p_parts, pixels, share, slots, channels, BS: tl.constexpr, BC: tl.constexpr):
    """mean and var [2, C] from [2, slots, C, 2] parts of `share` pixels each, the last of fewer, in their order."""
    i_pool = tl.program_id(0)
    o_channel = tl.program_id(1) * BC + tl.arange(0, BC)  # [BC]
    m_channel = o_channel < channels
    p_parts += i_pool * slots * channels * 2
    count = tl.zeros([BC], tl.float64)
    mean = tl.zeros([BC], tl.float64)
    square = tl.zeros([BC], tl.float64)
    for i_first in range(0, slots, BS):
        i_slot = i_first + tl.arange(0, BS)  # [BS]
        m = (i_slot < slots)[:, None] & m_channel[None, :]
        o_part = (i_slot[:, None] * channels + o_channel[None, :]) * 2
        b_mean = tl.load(p_parts + o_part, mask=m, other=0.0)  # [BS, BC]
        b_square = tl.load(p_parts + o_part + 1, mask=m, other=0.0)  # [BS, BC]
        b_count = tl.minimum(tl.maximum(pixels - i_slot * share, 0), share).to(tl.float64)[:, None]
        b_count = tl.where(m, b_count, 0.0)
        block_count, block_mean, block_square = _merge(b_count, b_mean, b_square)
        off = block_mean - mean
        total = tl.maximum(count + block_count, 1.0)
        square += block_square + off * off * (count * block_count / total)
        mean += off * (block_count / total)
        count += block_count
    o_out = i_pool * channels + o_channel
    tl.store(p_mean + o_out, mean, mask=m_channel)
    tl.store(p_var + o_out, square / tl.maximum(count, 1.0), mask=m_channel)


def _variants() -> Iterator[Variant]:
    f64 = "*fp64"
    sizes = dict.fromkeys(("pixels", "height", "width", "tiles", "channel_units", "x_units"), "i32")
    for dtype, unit, channels in (("fp32", 4, 16), ("bf16", 8, 16), ("fp32", 4, 64)):
        constants = {"STRIDE": 1, "MAX": 1, "AVG": 1, "ODD_ROWS": 0, "ODD_COLUMNS": 0, "UNIT": unit}
        constants |= {"BP": 512 // channels, "BC": channels}
        yield Variant(
            pool_moments, {"p_parts": f64, "p_x": f"*{dtype}", **sizes}, constants, name=f"C {channels}, {dtype}"
        )
    sizes = dict.fromkeys(("pixels", "share", "slots", "channels"), "i32")
    pointers = dict.fromkeys(("p_mean", "p_var", "p_parts"), f64)
    yield Variant(fold_moments, pointers | sizes, {"BS": 128, "BC": 16}, main=False, name="C 16")


VARIANTS: tuple[Variant, ...] = tuple(_variants())
