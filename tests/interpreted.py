"""Where Triton's interpreter is not what a GPU computes, put right: before the first kernel of a process runs."""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton.language as tl
from triton.runtime import interpreter

__all__ = ["interpret_as_compiled"]


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
