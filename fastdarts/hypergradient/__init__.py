"""Gradients of a bilevel problem's architecture level, for any model: the kinds of DARTS and of Amended-DARTS."""

from __future__ import annotations

from typing import Any

from fastdarts._moved import moved
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
    return moved(__name__, _BEFORE, name)
