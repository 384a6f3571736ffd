"""The coefficients of nodes and of batch norms' gradients, in float64: one launch where torch takes five to ten.

They are vectors of a few hundred channels, so a launch is all they cost; the arithmetic is that of
`fastdarts.reference.coefficients`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastdarts.kernels._variants import Variant

__all__ = ["VARIANTS", "gradient", "mixing", "rows"]


@triton.jit
def _statistics(p_mean, p_var, p_index, o, m, C: tl.constexpr, EPS: tl.constexpr):
    i_row = tl.load(p_index + o // C, mask=m, other=0)  # [B], int64
    o_from = i_row * C + o % C
    b_mean = tl.load(p_mean + o_from, mask=m, other=0.0)  # [B]
    b_var = tl.load(p_var + o_from, mask=m, other=1.0)  # [B]
    # A float argument would arrive as float32.
    b_rstd = 1.0 / tl.sqrt(b_var + tl.full([], EPS, tl.float64))
    return b_mean, b_rstd


@triton.jit(do_not_specialize=["size"])
def rows(p_out_mean, p_out_rstd, p_mean, p_var, p_index, size, C: tl.constexpr, EPS: tl.constexpr, B: tl.constexpr):
    """mean and rstd [K, C] of the rows `index` of the statistics; size = K * C."""
    o = tl.program_id(0) * B + tl.arange(0, B)
    m = o < size
    b_mean, b_rstd = _statistics(p_mean, p_var, p_index, o, m, C, EPS)
    tl.store(p_out_mean + o, b_mean, mask=m)
    tl.store(p_out_rstd + o, b_rstd, mask=m)


@triton.jit(do_not_specialize=["size"])
def mixing(
    p_out_scale,
    p_out_mean,
    p_out_rstd,
    p_mean,
    p_var,
    p_norms,
    p_weights,
    p_columns,
    size,
    C: tl.constexpr,
    EPS: tl.constexpr,
    B: tl.constexpr,
):
    """As `rows`, and the scale: the mixing weight times rstd."""
    o = tl.program_id(0) * B + tl.arange(0, B)
    m = o < size
    b_mean, b_rstd = _statistics(p_mean, p_var, p_norms, o, m, C, EPS)
    i_column = tl.load(p_columns + o // C, mask=m, other=0)  # [B], int64
    b_weight = tl.load(p_weights + i_column, mask=m, other=0.0)  # [B]
    tl.store(p_out_scale + o, b_weight * b_rstd, mask=m)
    tl.store(p_out_mean + o, b_mean, mask=m)
    tl.store(p_out_rstd + o, b_rstd, mask=m)


@triton.jit(do_not_specialize=["size", "pixels", "stored"])
def gradient(
    p_out,
    p_scale,
    p_rstd,
    p_mean,
    p_total,
    p_products,
    size,
    pixels,
    stored,
    C: tl.constexpr,
    ONE_TOTAL: tl.constexpr,
    B: tl.constexpr,
):
    """alpha, beta and gamma [3, K, C]; the first `stored` rows are of values that are not centred."""
    o = tl.program_id(0) * B + tl.arange(0, B)
    m = o < size
    b_scale = tl.load(p_scale + o, mask=m, other=0.0)  # [B], as all below
    b_rstd = tl.load(p_rstd + o, mask=m, other=0.0)
    b_total = tl.load(p_total + (o % C if ONE_TOTAL else o), mask=m, other=0.0)
    b_products = tl.load(p_products + o, mask=m, other=0.0)
    m_stored = o < stored * C
    b_mean = tl.load(p_mean + o, mask=m & m_stored, other=0.0)
    share = -1.0 / pixels.to(tl.float64)
    b_beta = b_scale * b_rstd * b_products * share
    b_gamma = b_scale * b_total * share
    # Not a product with 0: that of an infinite beta is no number.
    b_gamma = tl.where(m_stored, b_gamma - b_beta * b_mean, b_gamma)
    tl.store(p_out + o, b_scale, mask=m)
    tl.store(p_out + size + o, b_beta, mask=m)
    tl.store(p_out + 2 * size + o, b_gamma, mask=m)


def _variants() -> tuple[Variant, ...]:
    f64, i64 = "*fp64", "*i64"
    found = []
    for channels in (4, 16, 36):
        constants = {"C": channels, "EPS": 1e-5, "B": 256}
        statistics = {"p_out_mean": f64, "p_out_rstd": f64, "p_mean": f64, "p_var": f64}
        signature = {**statistics, "p_index": i64, "size": "i32"}
        found.append(Variant(rows, signature, constants, main=False, name=f"C {channels}"))
        signature = {"p_out_scale": f64, **statistics, "p_norms": i64, "p_weights": f64, "p_columns": i64}
        signature = {**signature, "size": "i32"}
        found.append(Variant(mixing, signature, constants, main=False, name=f"C {channels}"))
        names = ("p_out", "p_scale", "p_rstd", "p_mean", "p_total", "p_products")
        signature = {**dict.fromkeys(names, f64), "size": "i32", "pixels": "i32", "stored": "i32"}
        for one in (True, False):
            constants = {"C": channels, "ONE_TOTAL": one, "B": 256}
            name = f"C {channels}, {'one total' if one else 'a total a row'}"
            found.append(Variant(gradient, signature, constants, main=False, name=name))
    return tuple(found)


VARIANTS: tuple[Variant, ...] = _variants()
