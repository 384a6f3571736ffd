"""The names of :mod:`fastdarts.hypergradient`, where they were before it stood by itself."""

from __future__ import annotations

from fastdarts.hypergradient import KINDS, HypergradientError, hypergradient, hypergradient_error

__all__ = ["KINDS", "HypergradientError", "hypergradient", "hypergradient_error"]
