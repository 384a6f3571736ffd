"""Gradients of a bilevel problem's architecture level, for any model: the kinds of DARTS and of Amended-DARTS."""

from __future__ import annotations

from fastdarts.hypergradient._estimate import KINDS, HypergradientError, hypergradient, hypergradient_error
from fastdarts.hypergradient._kinds import EXACT, second_derivative, slope_of
from fastdarts.hypergradient._passes import GeneratorStates, ModuleStates, NoGenerators, Passes

__all__ = [
    "EXACT",
    "KINDS",
    "GeneratorStates",
    "HypergradientError",
    "ModuleStates",
    "NoGenerators",
    "Passes",
    "hypergradient",
    "hypergradient_error",
    "second_derivative",
    "slope_of",
]
