"""What is compiled ahead of time: the shapes of each kernel that a supernet runs, for the table of their resources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Variant"]


@dataclass(frozen=True)
class Variant:
    """One way in which a kernel is compiled.

    Args:
        kernel: what `triton.jit` returned.
        signature: the type of each argument, such as `*fp32`, `i32` or a tuple of these; left out for constants.
        constants: the value of each `tl.constexpr` argument.
        warps: of a program.
        main: whether much of a step is spent in it, so that it must not spill registers.
        name: what tells it from the kernel's others, in a word or two, for example `C 16, fp32`.
    """

    kernel: Any
    signature: Mapping[str, Any]
    constants: Mapping[str, Any] = field(default_factory=dict)
    warps: int = 4
    main: bool = True
    name: str = ""
