"""The optimisers' steps on flat buffers: no launch reads another's parameters, no sum's order depends on the clock."""

from __future__ import annotations

import triton
import triton.language as tl

from fastdarts.kernels._variants import Variant

__all__ = ["VARIANTS", "adam", "sgd", "squares"]


@triton.jit
def squares(p_gradient, p_partials, P, SHARE: tl.constexpr, BLOCK: tl.constexpr):
    """Adds up the squares of a program's share of the gradient, SHARE blocks one after the other, in float64."""
    i_program = tl.program_id(0)
    o_share = i_program.to(tl.int64) * SHARE * BLOCK
    b_sum = tl.zeros([BLOCK], tl.float64)
    for i_block in range(SHARE):
        o_element = o_share + i_block * BLOCK + tl.arange(0, BLOCK)
        b_gradient = tl.load(p_gradient + o_element, mask=o_element < P, other=0.0).to(tl.float64)  # [BLOCK]
        b_sum += b_gradient * b_gradient
    tl.store(p_partials + i_program, tl.sum(b_sum, 0))


@triton.jit
def sgd(
    p_weights,
    p_gradient,
    p_momentum,
    p_lr,
    p_partials,
    p_norm,
    P,
    partials,
    MOMENTUM: tl.constexpr,
    DECAY: tl.constexpr,
    CLIP: tl.constexpr,
    FOLD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Folds the partial sums of squares, in the same order in every program, and moves a block of the weights."""
    i_block = tl.program_id(0)
    dtype = p_weights.dtype.element_ty
    o_partial = tl.arange(0, FOLD)
    b_partials = tl.load(p_partials + o_partial, mask=o_partial < partials, other=0.0)  # [FOLD]
    norm = tl.sqrt(tl.sum(b_partials, 0))
    if i_block == 0:
        tl.store(p_norm, norm)
    o_element = i_block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m_element = o_element < P
    b_descent = tl.load(p_gradient + o_element, mask=m_element, other=0.0)  # [BLOCK]
    b_weights = tl.load(p_weights + o_element, mask=m_element, other=0.0)  # [BLOCK]
    b_momentum = tl.load(p_momentum + o_element, mask=m_element, other=0.0)  # [BLOCK]
    if CLIP != 0.0:
        share = tl.full([], CLIP, tl.float64) / (norm + tl.full([], 1e-6, tl.float64))
        # As torch's clamp does: a norm that is not a number must not pass for a short one.
        b_descent *= tl.where(share > 1.0, 1.0, share).to(dtype)
    b_descent += tl.full([], DECAY, dtype) * b_weights
    b_momentum = tl.full([], MOMENTUM, dtype) * b_momentum + b_descent
    tl.store(p_momentum + o_element, b_momentum, mask=m_element)
    tl.store(p_weights + o_element, b_weights - tl.load(p_lr).to(dtype) * b_momentum, mask=m_element)


@triton.jit
def adam(
    p_parameters,
    p_gradient,
    p_exp_avg,
    p_exp_avg_sq,
    p_step,
    p_lr,
    P,
    BETA1: tl.constexpr,
    BETA2: tl.constexpr,
    LOG1: tl.constexpr,
    LOG2: tl.constexpr,
    EPS: tl.constexpr,
    DECAY: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Moves all parameters in one program: the step is counted once, after everyone has read it.

    Alphas are a few hundred numbers. A million would pass at the speed of one multiprocessor.
    """
    dtype = p_parameters.dtype.element_ty
    step = tl.load(p_step) + 1.0
    # LOG1 and LOG2, the betas' binary logarithms, make the powers one exp2 each.
    correction1 = 1.0 - tl.exp2(step * tl.full([], LOG1, tl.float64))
    correction2 = 1.0 - tl.exp2(step * tl.full([], LOG2, tl.float64))
    rate = (tl.load(p_lr) / correction1).to(dtype)
    root2 = tl.sqrt(correction2).to(dtype)
    for i_block in range(BLOCKS):
        o_element = tl.arange(0, BLOCK).to(tl.int64) + i_block * BLOCK
        m_element = o_element < P
        b_parameters = tl.load(p_parameters + o_element, mask=m_element, other=0.0)  # [BLOCK]
        b_descent = tl.load(p_gradient + o_element, mask=m_element, other=0.0)  # [BLOCK]
        b_first = tl.load(p_exp_avg + o_element, mask=m_element, other=0.0)  # [BLOCK]
        b_second = tl.load(p_exp_avg_sq + o_element, mask=m_element, other=0.0)  # [BLOCK]
        b_descent += tl.full([], DECAY, dtype) * b_parameters
        # torch's lerp: from the nearer end, so that without memory the average is the descent, to the bit.
        if BETA1 > 0.5:
            b_first += tl.full([], 1.0 - BETA1, dtype) * (b_descent - b_first)
        else:
            b_first = b_descent - tl.full([], BETA1, dtype) * (b_descent - b_first)
        b_second = tl.full([], BETA2, dtype) * b_second + tl.full([], 1.0 - BETA2, dtype) * b_descent * b_descent
        b_root = tl.sqrt(b_second) / root2 + tl.full([], EPS, dtype)
        tl.store(p_parameters + o_element, b_parameters - rate * (b_first / b_root), mask=m_element)
        tl.store(p_exp_avg + o_element, b_first, mask=m_element)
        tl.store(p_exp_avg_sq + o_element, b_second, mask=m_element)
    tl.debug_barrier()  # the warp that writes must not be ahead of one that has yet to read
    tl.store(p_step, step)


_SGD = {"MOMENTUM": 0.9, "DECAY": 3e-4, "CLIP": 5.0, "FOLD": 512, "BLOCK": 2048}
_ADAM = {
    "BETA1": 0.5,
    "BETA2": 0.999,
    "LOG1": -1.0,
    "LOG2": -1.44e-3,
    "EPS": 1e-8,
    "DECAY": 1e-3,
    "BLOCKS": 1,
    "BLOCK": 1024,
}
VARIANTS: tuple[Variant, ...] = (
    Variant(
        squares,
        {"p_gradient": "*fp32", "p_partials": "*fp64", "P": "i32:16"},
        {"SHARE": 1, "BLOCK": 4096},
        warps=8,
        name="fp32",
    ),
    Variant(
        sgd,
        {
            "p_weights": "*fp32",
            "p_gradient": "*fp32",
            "p_momentum": "*fp32",
            "p_lr": "*fp64",
            "p_partials": "*fp64",
            "p_norm": "*fp64",
            "P": "i32:16",
            "partials": "i32",
        },
        _SGD,
        warps=8,
        name="fp32",
    ),
    Variant(
        adam,
        {
            "p_parameters": "*fp32",
            "p_gradient": "*fp32",
            "p_exp_avg": "*fp32",
            "p_exp_avg_sq": "*fp32",
            "p_step": "*fp64",
            "p_lr": "*fp64",
            "P": "i32:16",
        },
        _ADAM,
        warps=8,
        name="fp32",
    ),
)
