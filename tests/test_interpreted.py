"""The interpreter as the tests have it checks what Triton's own does, and leaves Triton's language as it was."""

from __future__ import annotations

import os

import pytest
import torch

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="kernels are compiled here")


@triton.jit
def total(x):
    return tl.sum(x + 1, 0)


@triton.jit
def changed(p_x, p_y, value, OPERATION: tl.constexpr):
    """One operation of int32 or int64, and functions of this file and of Triton's library below the kernel."""
    x = tl.load(p_x + tl.arange(0, 4))
    if OPERATION == "add":
        y = x + value
    elif OPERATION == "sub":
        y = x - value
    else:
        y = x * value
    tl.store(p_y + tl.arange(0, 4), y)
    tl.store(p_y + 4, total(y - y))


@pytest.mark.parametrize(
    ("operation", "value", "limit"),
    [("add", 1, 2**31 - 1), ("sub", 1, -(2**31)), ("mul", 2, 2**30), ("mul", -3, 2**30)],
)
def test_an_integer_that_overflows_is_an_error(operation: str, value: int, limit: int) -> None:
    x = torch.tensor([0, 1, 2, limit])
    y = torch.zeros(5, dtype=torch.int64)
    changed[(1,)](x, y, value, operation)
    expected = {"add": x + value, "sub": x - value, "mul": x * value}[operation]
    assert y.tolist() == [*expected.tolist(), 4]
    with pytest.raises(Exception, match=f"int32 overflow detected for operation {operation}"):
        changed[(1,)](x.int(), y.int(), value, operation)
    narrow = torch.zeros(5, dtype=torch.int32)
    changed[(1,)](x.int() // 4, narrow, value, operation)
    assert narrow.tolist()[4] == 4


def test_the_language_is_as_it_was_after_a_launch_and_after_an_error() -> None:
    modules = {"tl": tl, "core": tl.core, "tensor": tl.tensor, "math": tl.math, "dtype": tl.dtype}
    before = {f"{at}.{name}": value for at, module in modules.items() for name, value in vars(module).items()}
    x = torch.tensor([0, 1, 2, 2**31 - 1], dtype=torch.int32)
    changed[(1,)](x, torch.zeros(5, dtype=torch.int32), 0, "add")
    with pytest.raises(Exception, match="overflow"):
        changed[(1,)](x, torch.zeros(5, dtype=torch.int32), 1, "add")
    after = {f"{at}.{name}": value for at, module in modules.items() for name, value in vars(module).items()}
    assert before.keys() == after.keys()
    assert [name for name, value in before.items() if after[name] is not value] == []
