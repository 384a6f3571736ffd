"""The one tolerance rule: `err(op, ref64) <= 2 * err(eager in the same dtype, ref64) + floor(dtype) * scale`.

The first term is what plain torch's own rounding allows. It is one draw: where torch happened to round little, or adds
in an order that suits one processor, it says nothing of what another order may do. So the floor comes from what the
operation adds up. A sum of terms whose absolute values add up to `scale`, in whatever order, with whatever instruction
set and on however many threads, has partial sums of at most `scale`: each product and each partial sum errs by at most
half an eps of that, and such errors have either sign and cancel but for a few. On top come the stages that a result
passes, such as centring and scaling. How many roundings are granted depends on who rounds:

- float16, bfloat16: one eps. The arithmetic is float32's, only what is stored is rounded.
- float32: two. The arithmetic under test rounds; the truth, in float64, does not.
- float64: four. The truth is a float64 computation itself and rounds as often; plain torch *is* the truth there, so
  that the first term is zero by construction.

`scale` is the largest absolute value of the reference, or `terms`, the largest sum of absolute values behind any of the
results, where those cancel: a test computes it, as a rule by running the reference on absolute values. A wrong tap, a
missing term or one float32 number in a float64 path is larger by orders of magnitude (`tests/mutants.py` plants them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["a_rounding_off", "assert_all_within", "assert_within", "error", "furthest"]

_ROUNDINGS = {torch.float16: 1, torch.bfloat16: 1, torch.float32: 2, torch.float64: 4}


def error(values: Tensor, ref64: Tensor) -> float:
    """Largest absolute difference, in float64; inf where one is not finite and the other is not the same."""
    values, ref64 = values.detach().double().cpu(), ref64.detach().double().cpu()
    same = (values == ref64) | (values.isnan() & ref64.isnan())
    difference = torch.where(same, 0.0, (values - ref64).abs())
    difference[difference.isnan()] = torch.inf
    return float(difference.max()) if difference.numel() else 0.0


def a_rounding_off(x: Tensor, draw: int) -> Tensor:
    """x with each value an eps larger or smaller.

    What becomes of such inputs in plain torch is what rounding does to a result: where one result of plain torch is too
    lucky a draw to say what is allowed, as after many layers or steps, some of these say it (:func:`furthest`).
    """
    generator = torch.Generator().manual_seed(draw)
    sign = torch.randn(x.shape, generator=generator, dtype=torch.float64).sign()
    return (x.detach() * (1 + torch.finfo(x.dtype).eps * sign)).to(x.dtype)


def furthest(draws: Sequence[Mapping[str, Tensor]], ref64: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For each name that of the draws which is furthest from the reference."""
    return {name: max((draw[name] for draw in draws), key=lambda x: error(x, ref)) for name, ref in ref64.items()}


def assert_within(name: str, got: Tensor, eager: Tensor, ref64: Tensor, *, terms: float = 0.0) -> None:
    """Hold `got` to twice the error that plain torch makes in the same dtype, plus a few roundings of the scale.

    Args:
        name: what is compared; the message begins with it.
        got: the result under test, of any floating dtype.
        eager: the same computed by plain torch in that dtype.
        ref64: the same computed in float64.
        terms: size of what is added up, where that cancels: the scale is the larger of it and of `ref64`.

    Raises:
        AssertionError: naming both errors, or a shape or dtype that differs.
    """
    assert ref64.dtype == torch.float64, f"{name}: the reference is {ref64.dtype}, expected float64"
    assert got.dtype == eager.dtype, f"{name}: got {got.dtype}, eager {eager.dtype}"
    assert got.shape == eager.shape == ref64.shape, (
        f"{name}: shapes {list(got.shape)}, eager {list(eager.shape)}, reference {list(ref64.shape)}"
    )
    finite = ref64.detach()[ref64.detach().isfinite()]
    scale = max(terms, float(finite.abs().max()) if finite.numel() else 0.0)
    own, plain = error(got, ref64), error(eager, ref64)
    allowed = 2 * plain + _ROUNDINGS[got.dtype] * torch.finfo(got.dtype).eps * scale
    # An eager result that is not finite where it should be would allow anything.
    assert own <= allowed < torch.inf, (
        f"{name}: error {own:.3e}, eager's {plain:.3e}, allowed {allowed:.3e} (scale {scale:.3e}, {got.dtype})"
    )


def assert_all_within(
    got: Mapping[str, Tensor], eager: Mapping[str, Tensor], ref64: Mapping[str, Tensor], *, terms: float = 0.0
) -> None:
    """:func:`assert_within` for each name of `ref64`; the three must have the same names."""
    assert got.keys() == eager.keys() == ref64.keys()
    for name in ref64:
        assert_within(name, got[name], eager[name], ref64[name], terms=terms)
