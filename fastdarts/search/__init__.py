"""The search: methods as compositions of choices, hypergradients, and the loop that knows none of their names."""

from __future__ import annotations

from fastdarts.errors import Interrupted
from fastdarts.hypergradient import KINDS, HypergradientError, hypergradient, hypergradient_error
from fastdarts.search.config import SearchConfig
from fastdarts.search.curvature import Curvature, dominant_eigenvalue, hessian
from fastdarts.search.loop import resume, search
from fastdarts.search.methods import METHODS, Method, configure, method
from fastdarts.search.progress import Progress
from fastdarts.search.result import SearchResult
from fastdarts.search.select import select

__all__ = [
    "KINDS",
    "METHODS",
    "Curvature",
    "HypergradientError",
    "Interrupted",
    "Method",
    "Progress",
    "SearchConfig",
    "SearchResult",
    "configure",
    "dominant_eigenvalue",
    "hessian",
    "hypergradient",
    "hypergradient_error",
    "method",
    "resume",
    "search",
    "select",
]
