"""From the gradient of a node to those of its sources, through skips, pools and the bypass; nothing is written twice.

A program goes down some rows. An element of a source is the maximum of those windows in which no pixel before it is as
large and none behind it larger: maxima of three along each row, made once, and of these down the column. What the
windows' values contribute is then its own value. Averages are summed along the rows, then down the column.

Bytes, with `U = N H W C` elements of a bytes of a source: `4 U a` an edge (x, g, and dx read and written). The last
node of a DARTS cell (C 16, 32x32, N 64, E 5): 20 x 4.2 MB = 84 MB in float32, 20 us at 4.3 TB/s, less where edges share
g in L2. It is not what limits: some 200 instructions an element (SASS for sm_90 holds 3247 for sixteen, its prologue
included) are 37 us at the H200's 0.9 T warp instructions/s, in bfloat16 as well.
"""

# Triton knows no starred expressions.
# ruff: noqa: RUF005

from __future__ import annotations

from collections.abc import Iterator

import triton
import triton.language as tl

from fastdarts.kernels._variants import Variant
from fastdarts.kernels.mixed_sum import NORMAL, REDUCTION, SPACES, inside, pick, place, row_of, split

__all__ = ["VARIANTS", "backward"]


@triton.jit
def _columns(i_own, size, STRIDE: tl.constexpr):
    """Columns -2 to 2 about me, and which of the windows -1, 0 and 1 are there.

    A column beyond the image, or with no window of mine, is the next one that has one: it changes no maximum.
    """
    m_left = i_own > 0
    m_right = i_own + 1 < size
    i_left = tl.where(m_left, i_own - 1, i_own)
    i_right = tl.where(m_right, i_own + 1, i_own)
    m_windows = (m_left, i_own >= 0, m_right)
    m_far_left = i_left > 0
    m_far_right = i_right + 1 < size
    if STRIDE == 2:
        m_odd = i_own % 2 == 1
        m_windows = (m_odd, i_own % 2 == 0, m_odd & m_right)
        m_far_left &= m_odd
        m_far_right &= m_odd
    i_far_left = tl.where(m_far_left, i_left - 1, i_left)
    i_far_right = tl.where(m_far_right, i_right + 1, i_right)
    return (i_far_left, i_left, i_own, i_right, i_far_right), m_windows


@triton.jit
def _shares(i_own, size, m_windows, A: tl.constexpr):
    """Along a row, 1 over the pixels inside of the windows -1, 0 and 1 about me; 0 where there is none."""
    b_before = 1.0 / tl.where(i_own <= 1, 2, 3).to(A)
    b_own = 1.0 / (1 + (i_own > 0).to(tl.int32) + (i_own + 1 < size).to(tl.int32)).to(A)
    b_behind = 1.0 / tl.where(i_own + 2 >= size, 2, 3).to(A)
    m_before, m_own, m_behind = m_windows
    return tl.where(m_before, b_before, 0.0), tl.where(m_own, b_own, 0.0), tl.where(m_behind, b_behind, 0.0)


@triton.jit
def _larger(b_x, b_other):
    return tl.maximum(b_x, b_other, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _three(b_taps, i_row, height, K: tl.constexpr):
    """Of a row's pixels -2 to 2, the maxima of three about -1, 0 and 1.

    Beyond the image what changes no maximum, and two rows below it what no pixel wins against: a window is not there.
    """
    b_left = _larger(b_taps[1], b_taps[2])
    b_right = _larger(b_taps[2], b_taps[3])
    b_first, b_own, b_last = _larger(b_taps[0], b_left), _larger(b_left, b_taps[3]), _larger(b_right, b_taps[4])
    if K != 0:
        m_image = (i_row >= 0) & (i_row < height)
        b_outside = tl.where(i_row > height, float("nan"), float("-inf")).to(b_own.dtype)
        b_first = tl.where(m_image, b_first, b_outside)
        b_own = tl.where(m_image, b_own, b_outside)
        b_last = tl.where(m_image, b_last, b_outside)
    return b_first, b_own, b_last


@triton.jit
def _won(b_taps, b_threes, b_limits, m_nan, m_borders, DOWN: tl.constexpr, ACROSS: tl.constexpr):
    """Where a pixel is the maximum of its window DOWN and ACROSS: none before it is as large, none behind it larger.

    Of what is no number the last wins. b_threes are of the rows -2 to 2 about it; m_nan where it is no number, b_limits
    what pixels behind it may not exceed; m_borders: whether its column is the first, the last, its row the first.
    """
    m_first, m_last, m_top = m_borders
    C: tl.constexpr = ACROSS + 1
    m_before = m_nan
    if DOWN == -1:
        b_before = _larger(b_threes[0][C], b_threes[1][C])
    elif DOWN == 0:
        b_before = b_threes[1][C]
    # Left of it, if the window reaches there.
    if ACROSS == -1:
        b_left = _larger(b_taps[0], b_taps[1])
    elif ACROSS == 0:
        b_left = tl.where(m_first, float("-inf"), b_taps[1])
    if ACROSS <= 0:
        b_before = _larger(b_before, b_left) if DOWN <= 0 else b_left
    # Where nothing is before it, -infinity wins as well.
    if DOWN == 0 and ACROSS == 0:
        m_before |= m_top & m_first
    elif DOWN == 0 and ACROSS == 1:
        m_before |= m_top
    elif DOWN == 1 and ACROSS == 0:
        m_before |= m_first
    m_won = m_nan | (m_nan == 0) if DOWN == 1 and ACROSS == 1 else m_before | (b_before < b_taps[2])
    if DOWN == 1:
        b_behind = _larger(b_threes[3][C], b_threes[4][C])
    elif DOWN == 0:
        b_behind = b_threes[3][C]
    if ACROSS == 0:
        b_right = tl.where(m_last, float("-inf"), b_taps[3])
    elif ACROSS == 1:
        b_right = _larger(b_taps[3], b_taps[4])
    if ACROSS >= 0:
        b_behind = _larger(b_behind, b_right) if DOWN >= 0 else b_right
    if DOWN == -1 and ACROSS == -1:
        m_won &= b_limits[0] == b_limits[0]
    else:
        m_won &= b_behind <= b_limits[C]
    if DOWN == -1:
        m_won &= m_top == 0
    return m_won


@triton.jit
def _pass_by(
    p_g,
    p_x,
    p_dx,
    p_bypass,
    number,
    m,
    i_own,
    i_column,
    o_channel,
    x_height,
    x_width,
    mixed,
    pixel,
    dx_pixel,
    g_pixel,
    STRIDE: tl.constexpr,
    PARTIAL: tl.constexpr,
    GROUPS: tl.constexpr,
    A: tl.constexpr,
):
    """The channels of row i_own that are not mixed."""
    width = (x_width + STRIDE - 1) // STRIDE
    i_row = tl.zeros(m.shape, tl.int32) + i_own  # [B]
    i_group = tl.arange(0, GROUPS)[:, None]  # [GROUPS, 1]
    m_rest = m[None, :] & (i_group > 0) & (i_group < PARTIAL)  # [GROUPS, B]
    o_rest = o_channel[None, :] + i_group * mixed
    o_window = (i_row // STRIDE * width + i_column // STRIDE) * g_pixel
    b_g = tl.load(p_g + (o_window[None, :] + o_rest), mask=m_rest, other=0.0)
    b_g = b_g.to(A)  # [GROUPS, B]
    if p_bypass is not None:
        b_g *= tl.load(p_bypass + number).to(A)
    if STRIDE == 2:
        p_rest = p_x + (((i_row * x_width + i_column) * pixel)[None, :] + o_rest)
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
    p_rest = p_dx + (((i_row * x_width + i_column) * dx_pixel)[None, :] + o_rest)
    b_dx = tl.load(p_rest, mask=m_rest, other=0.0).to(A)  # [GROUPS, B]
    tl.store(p_rest, (b_dx + b_g).to(p_g.dtype.element_ty), mask=m_rest)


@triton.jit(do_not_specialize=["x_height", "x_width", "mixed_units", "g_units"])
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
    ROWS: tl.constexpr,
    B: tl.constexpr,
):
    """B elements of ROWS rows of the gradients of sources of edges that are alike: (blocks, images, edges).

    EDGE as in `forward`; `numbers` says which of the node's edges each is. ROWS is even.
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
    i_image = tl.program_id(1).to(tl.int64)
    p_g += i_image * height * width * g_pixel
    p_x += i_image * x_height * x_width * pixel
    p_dx += i_image * x_height * x_width * dx_pixel
    blocks = tl.cdiv(x_width * mixed, B)
    i_first = tl.program_id(0) // blocks * ROWS
    o = tl.program_id(0) % blocks * B + tl.arange(0, B)  # [B], as all below
    m = o < x_width * mixed
    i_column, o_channel = place(o, mixed_units, UNIT)
    i_column = tl.where(m, i_column, 0)
    if SKIP:
        b_skip_alpha = row_of(p_alpha, 3 * number * mixed + o_channel, m, A)
    if MAX or AVG:
        i_columns, m_windows = _columns(i_column, x_width, STRIDE)
        m_windows = (m & m_windows[0], m & m_windows[1], m & m_windows[2])
        o_taps = ()
        for i_tap in tl.static_range(5):
            o_taps = o_taps + (i_columns[i_tap] * pixel + o_channel,)
        o_windows = ()
        for i_tap in tl.static_range(3):
            o_windows = o_windows + ((i_column + (i_tap - 1)) // STRIDE * g_pixel + o_channel,)
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
        b_left, b_own, b_right = _shares(i_column, x_width, m_windows, A)
        b_avg_gamma = (row_of(p_gamma, o_avg, m, A) - b_avg_beta * b_low) * (b_left + b_own + b_right)
        b_shares = (b_avg_alpha * b_left, b_avg_alpha * b_own, b_avg_alpha * b_right)
        b_left *= b_avg_beta * b_left
        b_own *= b_avg_beta * b_own
        b_right *= b_avg_beta * b_right
        # Of the sums of the averages with my neighbours, those in the image.
        b_overlaps = (
            tl.where(i_columns[0] < i_columns[1], b_left, 0.0),
            tl.where(i_columns[1] < i_column, b_left + b_own, 0.0),
            b_left + b_own + b_right,
            tl.where(i_column < i_columns[3], b_own + b_right, 0.0),
            tl.where(i_columns[3] < i_columns[4], b_right, 0.0),
        )

    # Of the rows so far: pixels, maxima of three, sums of the averages' values; gradients, gradients of averages.
    b_taps = ()
    b_threes = ()
    b_values = ()
    b_gs = ()
    b_averages = ()
    # Down to row K of the source, then one row less of the windows, then one less of the result.
    for k in tl.static_range(-2, ROWS + 2):
        if MAX or AVG:
            i_row = tl.zeros([B], tl.int32) + (i_first + k)
            p_row = p_x + tl.minimum(tl.maximum(i_first + k, 0), x_height - 1) * (x_width * pixel)
            b_row = ()
            for i_tap in tl.static_range(5):
                b_row = b_row + (tl.load(p_row + o_taps[i_tap]).to(A),)
            b_taps = b_taps + (b_row,)
            if MAX:
                b_threes = b_threes + (_three(b_row, i_row, x_height, k),)
            if AVG:
                b_value = b_overlaps[0] * (b_row[0] - b_avg_mean)
                for i_tap in tl.static_range(1, 5):
                    b_value += b_overlaps[i_tap] * (b_row[i_tap] - b_avg_mean)
                m_value = (b_avg_beta != 0) & (i_row >= 0) & (i_row < x_height)
                b_values = b_values + (tl.where(m_value, b_value, 0.0),)
            if k >= 0:  # the windows about row k - 1
                b_g = ()
                if (k - 1) % STRIDE == 0:
                    i_window = tl.zeros([B], tl.int32) + (i_first + (k - 1))
                    m_window = (i_window >= 0) & (i_window < x_height)
                    p_row = p_g + (i_first + (k - 1)) // STRIDE * (width * g_pixel)
                    for i_tap in tl.static_range(3):
                        p_tap = p_row + o_windows[i_tap]
                        b_g = b_g + (tl.load(p_tap, mask=m_windows[i_tap] & m_window, other=0.0).to(A),)
                    if AVG:
                        rows = 1 + (i_window > 0).to(tl.int32) + (i_window + 1 < x_height).to(tl.int32)
                        b_share = tl.where(m_window, 1.0 / rows.to(A), 0.0)
                        b_average = b_share * (b_values[k] + b_values[k + 1] + b_values[k + 2]) + b_avg_gamma
                        for i_tap in tl.static_range(3):
                            b_average += b_shares[i_tap] * b_g[i_tap]
                        b_averages = b_averages + (b_share * b_average,)
                elif AVG:
                    b_averages = b_averages + ((),)
                b_gs = b_gs + (b_g,)
        if k >= 2:  # row k - 2 of the result
            i_row = tl.zeros([B], tl.int32) + (i_first + (k - 2))
            m_row = m & (i_row < x_height)
            p_row = p_dx + (i_first + (k - 2)) * (x_width * dx_pixel) + (i_column * dx_pixel + o_channel)
            if SKIP or MAX or AVG:
                b_dx = tl.load(p_row, mask=m_row, other=0.0).to(A)
            if SKIP:
                if MAX or AVG:
                    b_dx += b_skip_alpha * b_gs[k - 1][1]
                else:
                    p_own = p_g + (i_first + (k - 2)) * (width * g_pixel) + (i_column * g_pixel + o_channel)
                    b_dx += b_skip_alpha * tl.load(p_own, mask=m_row, other=0.0).to(A)
            if MAX:
                b_x = b_taps[k][2]
                m_nan = b_x != b_x
                b_value = tl.where(b_max_beta == 0, 0.0, b_max_beta * (b_x - b_max_mean)) + b_max_gamma
                b_most = tl.where(m_nan, float("inf"), b_x)
                b_limits = (
                    tl.where(m_windows[0], b_most, float("nan")),
                    tl.where(m_windows[1], b_most, float("nan")) if STRIDE == 2 else b_most,
                    tl.where(m_windows[2], b_most, float("nan")),
                )
                m_borders = (i_column == 0, i_column + 1 == x_width, i_row < (1 if k == 2 else 0))
                b_near = (b_threes[k - 2], b_threes[k - 1], b_threes[k], b_threes[k + 1], b_threes[k + 2])
            for i_window in tl.static_range(9):
                if (k + i_window // 3 - 1) % STRIDE == 0:
                    if MAX:
                        m_won = _won(b_taps[k], b_near, b_limits, m_nan, m_borders, i_window // 3 - 1, i_window % 3 - 1)
                        b_g = b_gs[k - 2 + i_window // 3][i_window % 3]
                        b_dx += tl.where(m_won, b_max_alpha * b_g + b_value, 0.0)
                    if AVG and i_window % 3 == 0:
                        b_dx += b_averages[k - 2 + i_window // 3]
            if SKIP or MAX or AVG:
                tl.store(p_row, b_dx.to(p_g.dtype.element_ty), mask=m_row)

    if PARTIAL > 1:
        for i_own in range(i_first, tl.minimum(i_first + ROWS, x_height)):
            _pass_by(
                p_g,
                p_x,
                p_dx,
                p_bypass,
                number,
                m,
                i_own,
                i_column,
                o_channel,
                x_height,
                x_width,
                mixed,
                pixel,
                dx_pixel,
                g_pixel,
                STRIDE,
                PARTIAL,
                GROUPS,
                A,
            )


def _variants() -> Iterator[Variant]:
    sizes = dict.fromkeys(("x_height", "x_width", "mixed_units", "g_units"), "i32")
    for space, dtype, unit, partial in SPACES:
        for edge, count in ((NORMAL, 5), (REDUCTION, 2)):
            pointers, numbers = (f"*{dtype}",) * count, ("i32",) * count
            signature = {"p_g": f"*{dtype}", "xs": pointers, "dxs": pointers, "numbers": numbers, **sizes}
            signature |= dict.fromkeys(("p_alpha", "p_beta", "p_gamma", "p_pool_mean"), "*fp64")
            signature |= {"x_units": numbers, "dx_units": numbers}
            signature |= {"p_bypass": "*fp64"} if partial > 1 else {}
            constants = {"EDGE": edge, "PARTIAL": partial, "GROUPS": partial, "UNIT": unit}
            constants |= {"ROWS": 8, "B": 128}
            constants |= {} if partial > 1 else {"p_bypass": None}
            yield Variant(
                backward, signature, constants, warps=2, name=f"{space}, {dtype}, {count} of stride {edge[0]}"
            )


VARIANTS: tuple[Variant, ...] = tuple(_variants())
