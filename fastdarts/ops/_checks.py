"""What every op checks alike: that its arguments are tensors, and how a dtype is called in its messages."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["dtype_name", "require_tensors"]


def require_tensors(op: str, given: Iterable[tuple[str, object]]) -> None:
    """Refuse what is no tensor before the dispatcher does, whose message would not name the argument.

    Args:
        op: the op's name.
        given: arguments by name.

    Raises:
        TypeError: naming the first one that is no tensor.
    """
    for name, tensor in given:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{op}: {name} is a {type(tensor).__name__}; expected a torch.Tensor")


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype as messages and the native core's functions have it: ``float32``."""
    return str(dtype).removeprefix("torch.")
