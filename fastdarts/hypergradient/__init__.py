"""Gradients of a bilevel problem's architecture level, for any model: the kinds of DARTS and of Amended-DARTS."""

from __future__ import annotations

import importlib
from typing import Any

from fastdarts.hypergradient._estimate import KINDS, HypergradientError, hypergradient, hypergradient_error
from fastdarts.hypergradient._kinds import EXACT

__all__ = [
    "EXACT",
    "KINDS",
    "HypergradientError",
    "hypergradient",
    "hypergradient_error",
]


# Importable from here as before, but no promise: what the kinds are made of.
_BEFORE = {
    "GeneratorStates": "_passes",
    "ModuleStates": "_passes",
    "NoGenerators": "_passes",
    "Passes": "_passes",
    "second_derivative": "_kinds",
    "slope_of": "_kinds",
}


def __getattr__(name: str) -> Any:
    if name not in _BEFORE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, renamed = _BEFORE[name].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), renamed or name)
