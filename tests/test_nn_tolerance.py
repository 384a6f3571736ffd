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


def test_twice_the_eager_error_and_one_rounding_pass() -> None:
    assert_within("y", off(2e-3), off(1e-3), REF)
    assert_within("y", off(3.9 * EPS), off(0.0), REF)


def test_more_than_that_fails_and_tells_both_errors() -> None:
    with pytest.raises(AssertionError, match=r"y: error 2\.1\d+e-03, eager's 1\.0\d+e-03"):
        assert_within("y", off(2.1e-3), off(1e-3), REF)
    with pytest.raises(AssertionError, match=r"eager's 0\.000e"):
        assert_within("y", off(4.3 * EPS), off(0.0), REF)


def test_the_dtype_decides() -> None:
    wrong = REF + torch.tensor([0.0, 0.0, 1e-9], dtype=torch.float64)
    with pytest.raises(AssertionError, match="float64"):
        assert_within("y", wrong, REF, REF)
    assert_within("y", off(1e-3).bfloat16(), REF.bfloat16(), REF)


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
