"""The tolerance rule itself."""

from __future__ import annotations

import math

import pytest
import torch
from tolerance import assert_all_within, assert_within, error

EPS = torch.finfo(torch.float32).eps
REF = torch.tensor([1.0, -4.0, 0.5], dtype=torch.float64)


def off(by: float) -> torch.Tensor:
    return (REF + torch.tensor([0.0, 0.0, by], dtype=torch.float64)).float()


def test_twice_the_eager_error_and_two_roundings_of_the_largest_value_pass() -> None:
    assert_within("y", off(2e-3), off(1e-3), REF)
    assert_within("y", off(7.9 * EPS), off(0.0), REF)


def test_more_than_that_fails_and_tells_both_errors() -> None:
    with pytest.raises(AssertionError, match=r"y: error 2\.1\d+e-03, eager's 1\.0\d+e-03"):
        assert_within("y", off(2.1e-3), off(1e-3), REF)
    with pytest.raises(AssertionError, match=r"eager's 0\.000e"):
        assert_within("y", off(8.3 * EPS), off(0.0), REF)


@pytest.mark.parametrize(
    ("dtype", "roundings"), [(torch.float16, 1), (torch.bfloat16, 1), (torch.float32, 2), (torch.float64, 4)], ids=str
)
def test_the_dtype_decides_what_is_granted(dtype: torch.dtype, roundings: int) -> None:
    eager, unit = torch.tensor([1.0, 0.0], dtype=dtype), torch.finfo(dtype).eps
    for count in (roundings, roundings + 1):
        got = torch.tensor([1.0, count * unit], dtype=dtype)
        if count == roundings:
            assert_within("y", got, eager, eager.double())
        else:
            with pytest.raises(AssertionError, match=str(dtype)):
                assert_within("y", got, eager, eager.double())
        assert_within("y", got, eager, eager.double(), terms=2.0)


def test_float32_is_seen_in_float64() -> None:
    with pytest.raises(AssertionError, match="float64"):
        assert_within("y", REF.mul(1 / 3).float().double(), REF / 3, REF / 3, terms=1e4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_not_finite_is_never_within(bad: float) -> None:
    broken = REF.float().clone()
    broken[0] = bad
    with pytest.raises(AssertionError):
        assert_within("y", broken, REF.float(), REF)
    with pytest.raises(AssertionError):
        assert_within("y", broken, broken, REF)
    assert_within("y", broken, broken, broken.double())


def test_shapes_dtypes_and_names_must_agree() -> None:
    with pytest.raises(AssertionError, match="shapes"):
        assert_within("y", REF[:1].float(), REF.float(), REF)
    with pytest.raises(AssertionError, match=r"got torch\.float64"):
        assert_within("y", REF, REF.float(), REF)
    with pytest.raises(AssertionError, match="expected float64"):
        assert_within("y", REF.float(), REF.float(), REF.float())
    with pytest.raises(AssertionError):
        assert_all_within({"y": REF}, {"y": REF}, {"z": REF})


def test_error_is_the_largest_difference() -> None:
    assert error(torch.tensor([1.0, 2.5]), torch.tensor([1.0, 2.0], dtype=torch.float64)) == 0.5
    assert error(torch.tensor([math.inf]), torch.tensor([math.inf], dtype=torch.float64)) == 0.0
    assert error(torch.empty(0), torch.empty(0, dtype=torch.float64)) == 0.0
