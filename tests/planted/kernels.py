"""Faults of the Triton kernels, which are interpreted."""

from __future__ import annotations

from planted.mutant import Mutant, of

MUTANTS: list[Mutant] = [
    *of(
        "mixed_sum",
        "kernels/mixed_sum.py",
        "mixed_sum_triton::test_parity",
        (
            "the border counts in an average",
            "b_sum = b_sum / tl.maximum(rows * columns, 1).to(A)",
            "b_sum = b_sum / 9.0",
        ),
        (
            "a padding of 0 in a maximum",
            'b_max = tl.maximum(b_max, tl.where(m_inside, b_tap, float("-inf")),',
            "b_max = tl.maximum(b_max, tl.where(m_inside, b_tap, 0.0),",
        ),
        ("the tail of a map", "    m = o < size\n", "    m = o < size // B * B\n"),
        ("odd rows", "x_height = RUNS[run][2] * height - RUNS[run][6]", "x_height = RUNS[run][2] * height"),
        (
            "no shuffle",
            "p_shuffled = (p_pixel + o_channel * PARTIAL)[None, :] + i_group",
            "p_shuffled = (p_pixel + o_channel)[None, :] + i_group * mixed",
        ),
    ),
    *of(
        "mixed_sum",
        "kernels/mixed_sum.py",
        "mixed_sum_triton::test_every_dtype",
        (
            "sums in the maps' dtype",
            "b_sums[j] + b_scale * (b_y - b_high - b_low),",
            "(b_sums[j] + b_scale * (b_y - b_high - b_low)).to(p_y.dtype.element_ty).to(A),",
        ),
    ),
    *of(
        "mixed_sum backward",
        "kernels/mixed_sum_backward.py",
        "mixed_sum_triton::test_the_first_maximum_wins_and_zero_has_no_sign",
        (
            "the last of equal maxima",
            "m_won = m_nan | (m_nan == 0) if DOWN == 1 and ACROSS == 1 else m_before | (b_before < b_taps[2])",
            "m_won = m_nan | (m_nan == 0) if DOWN == 1 and ACROSS == 1 else m_before | (b_before <= b_taps[2])",
        ),
    ),
    *of(
        "mixed_sum backward",
        "kernels/mixed_sum_backward.py",
        "mixed_sum_triton::test_a_channel_of_minus_infinity_has_a_first_maximum_too",
        ("-infinity wins nowhere", "        m_before |= m_top & m_first\n", "        m_before |= m_nan\n"),
    ),
    *of(
        "mixed_sum backward",
        "kernels/mixed_sum_backward.py",
        "mixed_sum_triton::test_parity",
        (
            "the parity of stride 2",
            "m_windows = (m_odd, i_own % 2 == 0, m_odd & m_right)",
            "m_windows = (m_odd, i_own >= 0, m_odd & m_right)",
        ),
        (
            "an average over nine at the border",
            "b_own = 1.0 / (1 + (i_own > 0).to(tl.int32) + (i_own + 1 < size).to(tl.int32)).to(A)",
            "b_own = 1.0 / (3 + 0 * (i_own > 0).to(tl.int32)).to(A)",
        ),
        (
            "the batch norm's share of a maximum",
            "b_dx += tl.where(m_won, b_max_alpha * b_g + b_value, 0.0)",
            "b_dx += tl.where(m_won, b_max_alpha * b_g, 0.0)",
        ),
    ),
    *of(
        "mixed_sum reduce",
        "kernels/mixed_sum_reduce.py",
        "mixed_sum_triton::test_several_programs_slots_and_images_do_what_the_cpu_does",
        (
            "the last slot",
            "m = (i_slot < slots)[:, None] & m_channel[None, :]",
            "m = (i_slot < slots - 1)[:, None] & m_channel[None, :]",
        ),
    ),
    *of(
        "mixed_sum reduce",
        "kernels/mixed_sum_reduce.py",
        "mixed_sum_triton::test_parity",
        (
            "the mixing weight's gradient without its rstd",
            "tl.store(p_products + o_out, total * rstd, mask=m_channel)",
            "tl.store(p_products + o_out, total, mask=m_channel)",
        ),
    ),
    *of(
        "pool moments",
        "kernels/mixed_sum_moments.py",
        "mixed_sum_triton::test_moments_of_pools",
        ("parts' means apart forgotten", "tl.sum(b_square + b_count * b_off * b_off, 0)", "tl.sum(b_square, 0)"),
    ),
    *of(
        "stencil",
        "kernels/_stencil.py",
        "stencil_triton::test_parity",
        (
            "the padding normalised",
            "b_x = tl.where(m_x, (b_x - b_mean[None, :]) * b_rstd[None, :], 0.0)",
            "b_x = (b_x - b_mean[None, :]) * b_rstd[None, :]",
        ),
        (
            "rows beyond the map",
            "m_x = (m_column & (o_row >= 0) & (o_row < H))[:, None]",
            "m_x = (m_column & (o_row >= 0) & (o_row <= H))[:, None]",
        ),
    ),
    *of(
        "stencil",
        "kernels/_stencil.py",
        "stencil_triton::test_backward_does_not_cancel_where_means_are_large",
        (
            "beta y and gamma cancel",
            "(b_beta[None, :] * (b_y - b_near[None, :]) + b_rest[None, :])",
            "(b_beta[None, :] * b_y + (b_rest - b_beta * b_near)[None, :])",
        ),
    ),
    *of(
        "stencil forward",
        "kernels/stencil.py",
        "stencil_triton::test_moments_are_those_of_what_is_stored",
        (
            "moments of what is not stored",
            "b_stored = appended(b_stored, b_y.to(b_sum.dtype))",
            "b_stored = appended(b_stored, b_blocks[i])",
        ),
    ),
    *of(
        "stencil backward",
        "kernels/stencil_backward.py",
        "stencil_triton::test_parity",
        (
            "the gradient at the kink",
            "b_g = tl.where(b_a <= 0.0, 0.0, b_du[r])",
            "b_g = tl.where(b_a < 0.0, 0.0, b_du[r])",
        ),
        (
            "the parity of stride 2",
            "m_column = m_column & (o_column % 2 == 0)",
            "m_column = m_column & (o_column >= 0)",
        ),
    ),
    *of(
        "stencil weights",
        "kernels/stencil_weights.py",
        "stencil_triton::test_slots_change_roundings_only_and_runs_nothing",
        (
            "a slot of the pointwise gradient missing",
            "m = (i_s + o_s < mix_slots)[:, None]",
            "m = (i_s + o_s < tl.maximum(mix_slots - 1, 1))[:, None]",
        ),
        (
            "a slot of the depthwise gradient missing",
            "m = (i_s + o_s < slots)[:, None] & m_e[None, :]",
            "m = (i_s + o_s < tl.maximum(slots - 1, 1))[:, None] & m_e[None, :]",
        ),
    ),
    *of(
        "preprocess",
        "kernels/preprocess.py",
        "preprocess_triton",
        ("TF32 cut, not rounded", '    if PRECISION == "tf32":\n', '    if PRECISION == "none":\n'),
        ("a full last block", "count = tl.minimum(pixels - i_block * BP, BP).to(ACC)", "count = tl.full([], BP, ACC)"),
    ),
    *of(
        "preprocess backward",
        "kernels/preprocess_backward.py",
        "preprocess_triton",
        ("the gradient at the kink", "b_dx = tl.where(b_x <= 0, 0.0, b_dx)", "b_dx = tl.where(b_x < 0, 0.0, b_dx)"),
        (
            "a slot missing",
            "m = (o_slot < slots)[:, None] & (o < size)[None, :]",
            "m = (o_slot < tl.maximum(slots - 1, 1))[:, None] & (o < size)[None, :]",
        ),
    ),
    *of(
        "coefficients",
        "kernels/coefficients.py",
        "coefficients",
        (
            "the mixing weight left out",
            "tl.store(p_out_scale + o, b_weight * b_rstd, mask=m)",
            "tl.store(p_out_scale + o, b_rstd, mask=m)",
        ),
        ("eps in float32", "tl.full([], EPS, tl.float64))", "tl.full([], EPS, tl.float32))"),
    ),
    *of(
        "optimisers",
        "kernels/optim.py",
        "optim",
        (
            "decay not clipped but added before",
            "        b_descent *= tl.where(share > 1.0, 1.0, share).to(dtype)\n    b_descent += tl.full([], DECAY, dtype) * b_weights",
            "        b_descent = (b_descent + tl.full([], DECAY, dtype) * b_weights) * tl.where(share > 1.0, 1.0, share).to(dtype)",
        ),
        ("a short gradient stretched to the clip", "tl.where(share > 1.0, 1.0, share)", "share"),
        (
            "eps inside the root",
            "b_root = tl.sqrt(b_second) / root2 + tl.full([], EPS, dtype)",
            "b_root = tl.sqrt(b_second + tl.full([], EPS, dtype)) / root2",
        ),
        (
            "decoupled decay",
            "b_descent += tl.full([], DECAY, dtype) * b_parameters",
            "b_parameters -= rate * tl.full([], DECAY, dtype) * b_parameters",
        ),
    ),
    *of(
        "running statistics",
        "kernels/track.py",
        "track",
        (
            "the batch's weight for the old one's",
            "b_moved = b_from + tl.full([], MOMENTUM, tl.float64) * (b_new - b_from)",
            "b_moved = b_new + tl.full([], MOMENTUM, tl.float64) * (b_from - b_new)",
        ),
        (
            "a biased variance",
            "_towards(p_var, p_batch_var, o, m, tl.full([], UNBIASED, tl.float64), MOMENTUM)",
            "_towards(p_var, p_batch_var, o, m, tl.full([], 1.0, tl.float64), MOMENTUM)",
        ),
    ),
    *of(
        "augmentation",
        "kernels/augment.py",
        "augment",
        (
            "a crop after the flip",
            "tl.where(tl.load(p_flip + i_batch), W - 1 - o_column, o_column) + right",
            "tl.where(tl.load(p_flip + i_batch), W - 1 - (o_column + right), o_column + right)",
        ),
        ("a cutout to the last row", "(o_row < tl.load(p_cut + 1))", "(o_row <= tl.load(p_cut + 1))"),
    ),
]
