"""What torch.compile takes as a constant: the answers of functions that it cannot or need not trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

__all__ = ["constant_when_compiled"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def constant_when_compiled(function: _Function) -> _Function:
    """The function, which torch.compile calls once and whose answer it keeps; torch's own decorator loses its type."""
    marked: _Function = torch.compiler.assume_constant_result(function)
    return marked
