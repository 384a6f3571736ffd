"""A node in one pass over its candidates.

`forward` is elementwise: a program takes B elements (pixel, mixed channel) of J images, which share their positions and
their coefficients. Nothing is padded to a power of two, C = 36 wastes no lane. Offsets within an image are 32 bit, that
of an image is 64 bit.

Bytes of `forward`, with `U = N H' W' C'` elements of a bytes: `(T + E + 1) U a`, sources of stride 2 four times U; a
pool reads its nine neighbours from L1. With partial channels the sources and the node count K times. The last node of a
DARTS cell (C 16, 32x32, N 64, T 20, E 5): 26 x 4.2 MB = 109 MB in float32, 25 us at 4.3 TB/s; 13 us in bfloat16.
"""

# Triton knows no starred expressions.
# ruff: noqa: RUF005

from __future__ import annotations

from collections.abc import Iterator

import triton
import triton.language as tl

from fastdarts.kernels._variants import Variant

__all__ = [
    "VARIANTS",
    "below",
    "bypassed",
    "copies",
    "forward",
    "inside",
    "pick",
    "place",
    "pools",
    "row_of",
    "split",
]


@triton.jit
def split(p_mean, o, m, A: tl.constexpr):
    """A float64 mean as two numbers of A, of which the second is what rounding the first left behind; 0 without one."""
    if p_mean is None:
        b_none = tl.zeros(o.shape, A)
        return b_none, b_none
    else:
        b_mean = tl.load(p_mean + o, mask=m, other=0.0)  # the shape of o, float64
        b_high = b_mean.to(A)
        return b_high, (b_mean - b_high.to(tl.float64)).to(A)


@triton.jit
def row_of(p_row, o, m, A: tl.constexpr):
    """Coefficients, float64 in memory, as A; 0 where there are none."""
    return tl.load(p_row + o, mask=m, other=0.0).to(A)  # [B]


@triton.jit
def place(o, units, UNIT: tl.constexpr):
    """Pixels and channels of elements [B]. Unsigned, the compiler sees that those of a vector share their pixel."""
    i_vector = o.to(tl.uint32) // UNIT
    units = units.to(tl.uint32)
    return (i_vector // units).to(tl.int32), (i_vector % units).to(tl.int32) * UNIT + o % UNIT


@triton.jit
def below(m, i, end):
    """m where the scalar i is less than end, which the interpreter cannot join to a mask as it is."""
    return m & (tl.zeros(m.shape, tl.int64) + i < end)


@triton.jit
def inside(i_row, i_column, height, width):
    return (i_row >= 0) & (i_row < height) & (i_column >= 0) & (i_column < width)


@triton.jit
def pools(p_centre, m, i_row, i_column, height, width, pixel, MAX: tl.constexpr, AVG: tl.constexpr, A: tl.constexpr):
    """The centre, maximum and average of the 3x3 windows around p_centre.

    m has the shape of p_centre; the centre's i_row and i_column broadcast to it. What is not asked is not to be read.
    """
    b_x = tl.load(p_centre, mask=m, other=0.0).to(A)
    b_max = b_x
    b_sum = b_x
    for i_tap in tl.static_range(9):
        if i_tap != 4:
            i_down = i_tap // 3 - 1
            i_right = i_tap % 3 - 1
            m_inside = inside(i_row + i_down, i_column + i_right, height, width)
            p_tap = p_centre + (i_down * width + i_right) * pixel
            b_tap = tl.load(p_tap, mask=m & m_inside, other=0.0).to(A)
            if MAX:
                b_max = tl.maximum(b_max, tl.where(m_inside, b_tap, float("-inf")), propagate_nan=tl.PropagateNan.ALL)
            if AVG:
                b_sum += b_tap
    if AVG:
        rows = tl.minimum(i_row + 2, height) - tl.maximum(i_row - 1, 0)
        columns = tl.minimum(i_column + 2, width) - tl.maximum(i_column - 1, 0)
        b_sum = b_sum / tl.maximum(rows * columns, 1).to(A)  # beyond the image there are none
    return b_x, b_max, b_sum


@triton.jit
def bypassed(p_first, m, i_row, i_column, height, width, pixel, STRIDE: tl.constexpr, A: tl.constexpr):
    """A source as it goes by: itself, or the maximum of the 2x2 window that begins at p_first."""
    b_x = tl.load(p_first, mask=m, other=0.0).to(A)
    if STRIDE == 2:
        for i_tap in tl.static_range(1, 4):
            m_inside = inside(i_row + i_tap // 2, i_column + i_tap % 2, height, width)
            p_tap = p_first + (i_tap // 2 * width + i_tap % 2) * pixel
            b_tap = tl.load(p_tap, mask=m & m_inside, other=0.0).to(A)
            b_x = tl.maximum(b_x, tl.where(m_inside, b_tap, float("-inf")), propagate_nan=tl.PropagateNan.ALL)
    return b_x


@triton.jit
def pick(ps, i, FIRST: tl.constexpr, STEP: tl.constexpr, END: tl.constexpr):
    """ps[i] for i of FIRST, FIRST + STEP, ... before END: one code for all of them."""
    p = ps[FIRST]
    for k in tl.static_range(FIRST + STEP, END, STEP):
        p = tl.where(i == k, ps[k], p)
    return p


@triton.jit
def copies(b_value, COUNT: tl.constexpr):
    """A tuple: blocks of one shape, of which the compiler gives all, and float64 coefficients too, one layout."""
    found = ()
    for _ in tl.static_range(COUNT):
        found = found + (b_value,)
    return found


@triton.jit
def _add_term(b_sums, p_y, size, i_image, batch, o, m, b_scale, b_high, b_low, A: tl.constexpr):
    found = ()
    for j in tl.static_range(len(b_sums)):
        m_image = below(m, i_image + j, batch)
        b_y = tl.load(p_y + (i_image + j) * size + o, mask=m_image, other=0.0).to(A)  # [B]
        found = found + (b_sums[j] + b_scale * (b_y - b_high - b_low),)
    return found


@triton.jit
def _add_edge(
    b_sums,
    p_x,
    p_free,
    p_pool_mean,
    e,
    i_image,
    batch,
    i_row,
    i_column,
    o_channel,
    m,
    height,
    width,
    mixed,
    pixel,
    SKIP: tl.constexpr,
    MAX: tl.constexpr,
    AVG: tl.constexpr,
    A: tl.constexpr,
):
    if SKIP:
        b_skip = row_of(p_free, 3 * e * mixed + o_channel, m, A)
    if MAX:
        b_max_scale = row_of(p_free, (3 * e + 1) * mixed + o_channel, m, A)
        b_max_high, b_max_low = split(p_pool_mean, 2 * e * mixed + o_channel, m, A)
    if AVG:
        b_avg_scale = row_of(p_free, (3 * e + 2) * mixed + o_channel, m, A)
        b_avg_high, b_avg_low = split(p_pool_mean, (2 * e + 1) * mixed + o_channel, m, A)
    found = ()
    for j in tl.static_range(len(b_sums)):
        m_image = below(m, i_image + j, batch)
        p_image = p_x + (i_image + j) * height * width * pixel
        p_centre = p_image + (i_row * width + i_column) * pixel + o_channel  # [B]
        b_sum = b_sums[j]
        if MAX or AVG:
            b_x, b_max, b_avg = pools(p_centre, m_image, i_row, i_column, height, width, pixel, MAX, AVG, A)
            if MAX:
                b_sum += b_max_scale * (b_max - b_max_high - b_max_low)
            if AVG:
                b_sum += b_avg_scale * (b_avg - b_avg_high - b_avg_low)
        else:
            b_x = tl.load(p_centre, mask=m_image, other=0.0).to(A)
        if SKIP:
            b_sum += b_skip * b_x
        found = found + (b_sum,)
    return found


@triton.jit(do_not_specialize=["batch", "height", "width", "mixed_units", "out_units"])
def forward(
    p_out,
    ys,
    p_scale,
    p_mean,
    p_bias,
    xs,
    p_free,
    p_pool_mean,
    p_bypass,
    batch,
    height,
    width,
    mixed_units,
    out_units,
    x_units,
    RUNS: tl.constexpr,
    PARTIAL: tl.constexpr,
    GROUPS: tl.constexpr,
    UNIT: tl.constexpr,
    G: tl.constexpr,
    J: tl.constexpr,
    B: tl.constexpr,
):
    """B elements of J images of a node: programs (blocks of an image, blocks of images).

    RUNS: edges that are alike, one after the other: (first, behind the last, stride, skip, max, avg, rows too few,
    columns too few), the last two against stride times the node. G terms are loaded at a time. Channel counts and pixel
    strides come in units of UNIT elements, which shows the compiler how far it may vectorise; those in a tuple as
    2 u + 1, or it would compile again for u = 1 and for multiples of 16. GROUPS: PARTIAL, or the next power of two.
    """
    A: tl.constexpr = tl.float64 if p_out.dtype.element_ty == tl.float64 else tl.float32
    T: tl.constexpr = len(ys)
    mixed = mixed_units * UNIT
    size = height * width * mixed
    i_image = tl.program_id(1).to(tl.int64) * J
    o = tl.program_id(0) * B + tl.arange(0, B)  # [B], as all below
    m = o < size
    i_pixel, o_channel = place(o, mixed_units, UNIT)
    i_row = i_pixel // width
    i_column = i_pixel % width

    b_sum = tl.zeros([B], A)
    if p_bias is not None:
        b_sum += row_of(p_bias, o_channel, m, A)
    b_sums = copies(b_sum, J)
    for i_first in range(0, T, G):
        for k in tl.static_range(G):
            if k < T:
                t = i_first + k
                m_term = below(m, t, T)
                b_high, b_low = split(p_mean, t * mixed + o_channel, m_term, A)
                b_scale = row_of(p_scale, t * mixed + o_channel, m_term, A)
                p_y = pick(ys, t, k, G, T)
                b_sums = _add_term(b_sums, p_y, size, i_image, batch, o, m_term, b_scale, b_high, b_low, A)

    if PARTIAL > 1:
        i_group = tl.arange(0, GROUPS)[:, None]  # [GROUPS, 1], candidates' channel = group * mixed + o_channel
        m_rest = m[None, :] & (i_group > 0) & (i_group < PARTIAL)  # [GROUPS, B]: one image a program
        b_rest = tl.zeros([GROUPS, B], A)
    for run in tl.static_range(len(RUNS)):
        # No name for the stride: a constexpr cannot be assigned again in the next run.
        x_height = RUNS[run][2] * height - RUNS[run][6]
        x_width = RUNS[run][2] * width - RUNS[run][7]
        i_x_row = i_row * RUNS[run][2]
        i_x_column = i_column * RUNS[run][2]
        for e in range(RUNS[run][0], RUNS[run][1]):
            p_x = pick(xs, e, RUNS[run][0], 1, RUNS[run][1])
            pixel = pick(x_units, e, RUNS[run][0], 1, RUNS[run][1]) // 2 * UNIT
            if RUNS[run][3] or RUNS[run][4] or RUNS[run][5]:
                b_sums = _add_edge(
                    b_sums,
                    p_x,
                    p_free,
                    p_pool_mean,
                    e,
                    i_image,
                    batch,
                    i_x_row,
                    i_x_column,
                    o_channel,
                    m,
                    x_height,
                    x_width,
                    mixed,
                    pixel,
                    RUNS[run][3],
                    RUNS[run][4],
                    RUNS[run][5],
                    A,
                )
            if PARTIAL > 1:
                p_image = p_x + i_image * x_height * x_width * pixel
                p_rest = p_image + ((i_x_row * x_width + i_x_column) * pixel + o_channel)[None, :] + i_group * mixed
                b_x = bypassed(
                    p_rest, m_rest, i_x_row[None, :], i_x_column[None, :], x_height, x_width, pixel, RUNS[run][2], A
                )
                b_rest += b_x if p_bypass is None else tl.load(p_bypass + e).to(A) * b_x

    out_pixel = out_units * UNIT
    for j in tl.static_range(J):
        p_pixel = p_out + (i_image + j) * height * width * out_pixel + i_pixel * out_pixel
        if PARTIAL == 1:
            tl.store(p_pixel + o_channel, b_sums[j].to(p_out.dtype.element_ty), mask=below(m, i_image + j, batch))
        else:
            b_node = tl.where(i_group == 0, b_sums[j][None, :], b_rest)
            p_shuffled = (p_pixel + o_channel * PARTIAL)[None, :] + i_group
            tl.store(p_shuffled, b_node.to(p_out.dtype.element_ty), mask=m[None, :] & (i_group < PARTIAL))


NORMAL, REDUCTION = (1, 1, 1, 1, 0, 0), (2, 0, 1, 1, 0, 0)  # edges
DARTS, PC_DARTS, S2 = "C 16 to 64", "C' 4 to 16", "C 36 to 144"
# Name, dtype, UNIT, PARTIAL.
SPACES = (
    (DARTS, "fp32", 4, 1),
    (DARTS, "bf16", 8, 1),
    (PC_DARTS, "fp32", 4, 4),
    (PC_DARTS, "bf16", 4, 4),
    (S2, "fp32", 4, 1),
    (S2, "bf16", 4, 1),
)


def _variants() -> Iterator[Variant]:
    f64 = "*fp64"
    sizes = dict.fromkeys(("batch", "height", "width", "mixed_units", "out_units"), "i32")
    for space, dtype, unit, partial in SPACES:
        for edges in ((NORMAL,) * 5, (REDUCTION,) * 2):
            pointer, count = f"*{dtype}", len(edges)
            signature = {"p_out": pointer, "ys": (pointer,) * (count if space == S2 else 4 * count), "p_scale": f64}
            signature |= {"p_mean": f64, "xs": (pointer,) * count, "p_free": f64, "p_pool_mean": f64}
            signature |= {**sizes, "x_units": ("i32",) * count}
            signature |= {"p_bypass": f64} if partial > 1 else {}
            constants = {
                "p_bias": None,
                "RUNS": ((0, count, *edges[0]),),
                "G": 4,
                "PARTIAL": partial,
                "GROUPS": partial,
                "UNIT": unit,
            }
            constants |= {"J": 16 // unit if partial == 1 else 1, "B": 128 * unit}
            constants |= {} if partial > 1 else {"p_bypass": None}
            name = f"{space}, {dtype}, {count} edges of stride {edges[0][0]}"
            yield Variant(forward, signature, constants, name=name)


VARIANTS: tuple[Variant, ...] = tuple(_variants())
