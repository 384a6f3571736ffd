"""The one tolerance rule: `err(op, ref64) <= 2 * err(eager in the same dtype, ref64) + eps(dtype) * scale`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["assert_all_within", "assert_within", "error"]


def error(values: Tensor, ref64: Tensor) -> float:
    """Largest absolute difference, in float64; inf where one is not finite and the other is not the same."""
    values, ref64 = values.detach().double().cpu(), ref64.detach().double().cpu()
    same = (values == ref64) | (values.isnan() & ref64.isnan())
    difference = torch.where(same, 0.0, (values - ref64).abs())
    difference[difference.isnan()] = torch.inf
    return float(difference.max()) if difference.numel() else 0.0


def assert_within(name: str, got: Tensor, eager: Tensor, ref64: Tensor, *, terms: float = 0.0) -> None:
    """Hold `got` to twice the error that plain torch makes in the same dtype, plus one rounding of the largest value.

    Args:
        name: what is compared; the message begins with it.
        got: the result under test, of any floating dtype.
        eager: the same computed by plain torch in that dtype.
        ref64: the same computed in float64.
        terms: magnitude of what is added up, where that cancels: the scale is the larger of it and of `ref64`.

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
    allowed = 2 * plain + torch.finfo(got.dtype).eps * scale
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
