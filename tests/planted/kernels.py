"""Faults of the Triton kernels, which are interpreted."""

from __future__ import annotations

from planted.mutant import Mutant, of

MUTANTS: list[Mutant] = [
    *of(
        "mixed_sum",
        "kernels/mixed_sum.py",
        "mixed_sum_triton::test_parity",
        ("the tail of a map", "    m = o < size\n", "    m = o < size // B * B\n"),
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
        "mixed_sum_triton::test_parity",
        (
            "the parity of stride 2",
            "m_windows = (m_odd, i_own % 2 == 0, m_odd & m_right)",
            "m_windows = (m_odd, i_own >= 0, m_odd & m_right)",
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
        "stencil",
        "kernels/_stencil.py",
        "stencil_triton::test_parity",
        (
            "rows beyond the map",
            "m_x = (m_column & (o_row >= 0) & (o_row < H))[:, None]",
            "m_x = (m_column & (o_row >= 0) & (o_row <= H))[:, None]",
        ),
    ),
    *of(
        "stencil weights",
        "kernels/stencil_weights.py",
        "stencil_triton::test_slots_change_roundings_only_and_runs_nothing",
        (
            "a slot of the depthwise gradient missing",
            "m = (i_s + o_s < slots)[:, None] & m_e[None, :]",
            "m = (i_s + o_s < tl.maximum(slots - 1, 1))[:, None] & m_e[None, :]",
        ),
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
