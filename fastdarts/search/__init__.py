"""The search: methods as compositions of choices, hypergradients, and the loop that knows none of their names."""

from __future__ import annotations

from fastdarts.errors import Interrupted
from fastdarts.hypergradient import KINDS, HypergradientError, hypergradient, hypergradient_error
from fastdarts.search.choices import (
    Action,
    Begin,
    Choices,
    Derivation,
    EpochEnd,
    Finished,
    Guard,
    Mixing,
    Perturbation,
    Relaxation,
    Rewire,
    Rollback,
    Softmax,
    Stage,
    Stop,
    StrongestEdges,
)
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
    "Action",
    "Begin",
    "Choices",
    "Curvature",
    "Derivation",
    "EpochEnd",
    "Finished",
    "Guard",
    "HypergradientError",
    "Interrupted",
    "Method",
    "Mixing",
    "Perturbation",
    "Progress",
    "Relaxation",
    "Rewire",
    "Rollback",
    "SearchConfig",
    "SearchResult",
    "Softmax",
    "Stage",
    "Stop",
    "StrongestEdges",
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
