"""The running statistics of batch norms; the arithmetic is that of `fastdarts.reference.track`."""

from __future__ import annotations

import triton
import triton.language as tl

from fastdarts.kernels._variants import Variant

__all__ = ["VARIANTS", "track"]


@triton.jit
def _towards(p_own, p_new, o, m, factor, MOMENTUM: tl.constexpr):
    b_own = tl.load(p_own + o, mask=m, other=0.0)  # [B]
    b_new = tl.load(p_new + o, mask=m, other=0.0) * factor  # [B]
    b_from = b_own.to(tl.float64)
    # torch.lerp's two formulas: each is exact at its own end.
    if MOMENTUM < 0.5:
        b_moved = b_from + tl.full([], MOMENTUM, tl.float64) * (b_new - b_from)
    else:
        b_moved = b_new - tl.full([], 1.0 - MOMENTUM, tl.float64) * (b_new - b_from)
    # The interpreter has no way from float64 to bfloat16 but this one.
    if b_own.dtype == tl.bfloat16:
        b_moved = b_moved.to(tl.float32)
    tl.store(p_own + o, b_moved.to(b_own.dtype), mask=m)


@triton.jit(do_not_specialize=["size", "count"])
def track(
    p_mean,
    p_var,
    p_batches,
    p_batch_mean,
    p_batch_var,
    size,
    count,
    MOMENTUM: tl.constexpr,
    UNBIASED: tl.constexpr,
    B: tl.constexpr,
):
    """Running means and variances [size] towards a batch's, and one batch more for each of `count` norms."""
    o = tl.program_id(0) * B + tl.arange(0, B)
    m = o < size
    _towards(p_mean, p_batch_mean, o, m, tl.full([], 1.0, tl.float64), MOMENTUM)
    _towards(p_var, p_batch_var, o, m, tl.full([], UNBIASED, tl.float64), MOMENTUM)
    # There are at least as many channels as norms.
    b_batches = tl.load(p_batches + o, mask=o < count, other=0)  # [B]
    tl.store(p_batches + o, b_batches + 1, mask=o < count)


VARIANTS: tuple[Variant, ...] = (
    Variant(
        track,
        {
            **dict.fromkeys(("p_mean", "p_var"), "*fp32"),
            "p_batches": "*i64",
            **dict.fromkeys(("p_batch_mean", "p_batch_var"), "*fp64"),
            "size": "i32",
            "count": "i32",
        },
        {"MOMENTUM": 0.1, "UNBIASED": 65536 / 65535, "B": 256},
        main=False,
        name="fp32",
    ),
)
