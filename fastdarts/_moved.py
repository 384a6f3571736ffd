"""Names that are importable from a package as before, but no promise: each is found where it is defined."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

__all__ = ["moved"]


def moved(package: str, names: Mapping[str, str], name: str) -> Any:
    """What the `__getattr__` of a package answers.

    Args:
        package: its `__name__`.
        names: for each name the module of the package that defines it, `module:other` where it has another name there.
        name: that is asked for.

    Raises:
        AttributeError: it is none of them.
    """
    if name not in names:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    module, _, renamed = names[name].partition(":")
    return getattr(importlib.import_module(f"{package}.{module}"), renamed or name)
