"""Triton's interpreter as the tests need it: what a GPU computes, in less time. Before a process' first kernel runs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

__all__ = ["interpret_as_compiled", "interpret_in_less_time"]


@functools.cache
def interpret_as_compiled() -> None:
    """From here on, in this process, interpreted kernels compute what compiled ones do.

    float32 is rounded to the nearest bfloat16, instead of cut; and a loop may end at a computed number, which triton
    3.6 hands to numpy as an array of one element, an error since numpy 2.4.
    """
    cut, builder = interpreter.InterpreterBuilder.cast_impl, interpreter.InterpreterBuilder
    patch = interpreter._patch_lang_tensor

    def cast_impl(self: Any, src: Any, dst_type: Any) -> Any:
        if src.dtype.scalar == tl.float32 and dst_type.scalar == tl.bfloat16:
            # A copy: what a load gives may be read-only.
            rounded = torch.from_numpy(src.data.copy()).bfloat16().view(torch.uint16).numpy()
            return interpreter.TensorHandle(rounded, tl.bfloat16)
        return cut(self, src, dst_type)

    def patch_lang_tensor(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    builder.cast_impl = cast_impl
    interpreter._patch_lang_tensor = patch_lang_tensor


class Patched:
    """Puts the interpreter's functions into Triton's language once a launch.

    Triton does so at each call of a function by a kernel, which takes longer than most of these functions do.
    """

    def __init__(self, patch: Callable[[Any], Any]) -> None:
        self.patch = patch
        self.done: set[str] = set()
        self.scopes: list[Any] = []

    def __call__(self, function: Any) -> Patched:
        asked = languages(function)
        if not asked or not asked <= self.done:  # nothing asked is an error of Triton's
            self.scopes.append(self.patch(function))
            self.done |= asked
        return self

    def restore(self) -> None:
        """The launch has ended."""
        while self.scopes:
            self.scopes.pop().restore()
        self.done.clear()


@functools.cache
def languages(function: Any) -> frozenset[str]:
    """Those of Triton's two language modules that a function sees: what is patched for it."""
    seen = function.__globals__.values()
    return frozenset(module.__name__ for module in (tl, tl.core) if any(value is module for value in seen))


EXACT = {"add": np.add, "sub": np.subtract, "mul": np.multiply}


def assert_no_overflow(left: Any, right: Any, operation: Any) -> None:
    """Triton's check of integers narrower than int64, in three calls of numpy instead of its own seven operations."""
    kind = left.type.scalar
    if kind.int_bitwidth < 64:
        exact = EXACT[operation.__name__](left.handle.data, right.handle.data, dtype=np.int64)
        fits = exact.min() >= kind.get_int_min_value() and exact.max() <= kind.get_int_max_value()
        assert fits, f"int{kind.int_bitwidth} overflow detected for operation {operation.__name__}"


class Checked(interpreter.TritonSemantic):
    """Arithmetic of interpreted kernels, with the check above."""

    def binary_op_sanitize_overflow_impl(self, lhs: Any, rhs: Any, binary_op: Any) -> None:
        assert_no_overflow(lhs, rhs, binary_op)


@functools.cache
def interpret_in_less_time() -> None:
    """From here on, in this process, interpreted kernels compute and check the same in about half the time."""
    table = functools.cache(interpreter._get_np_dtype)
    address = np.dtype(np.uint64)

    def numpy_dtype(kind: Any) -> np.dtype:
        """Looked up, where Triton makes a dictionary of them all at each call."""
        scalar = kind.element_ty if isinstance(kind, tl.block_type) else kind
        return address if isinstance(scalar, tl.pointer_type) else table(scalar)

    blocks: dict[tuple[str, tuple[int, ...]], Any] = {}

    def block_type(kind: Any, shape: Any) -> Any:
        """One object for all blocks of a type, whose name takes a while to put together."""
        key = f"{type(kind).__name__} {kind.name}", tuple(shape)
        if key not in blocks:
            blocks[key] = tl.block_type(kind, shape)
        return blocks[key]

    interpreter._get_np_dtype = numpy_dtype
    interpreter.InterpreterBuilder.get_block_ty = lambda self, kind, shape: block_type(kind, shape)
    tl.block_type.with_element_ty = lambda self, kind: block_type(kind, self.shape)
    interpreter._patch_lang = Patched(interpreter._patch_lang)
    interpreter.interpreter_semantic.binary_op_sanitize_overflow_impl = assert_no_overflow
    # Triton 3.6 makes itself another one at each launch, and leaves the check out.
    interpreter.TritonSemantic = Checked
