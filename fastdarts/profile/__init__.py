"""The memory harness: what a pass keeps and needs, measured, and predicted without allocating it."""

from __future__ import annotations

import importlib
from typing import Any

from fastdarts.profile.memory import measure_kept_bytes
from fastdarts.profile.prediction import Predictor, Usage, largest_batch, measure
from fastdarts.profile.tracker import Tracker
from fastdarts.profile.work import supernet_flops

__all__ = [
    "Predictor",
    "Tracker",
    "Usage",
    "largest_batch",
    "measure",
    "measure_kept_bytes",
    "supernet_flops",
]


# Importable from here as before, but no promise. A renamed one has its new name.
_BEFORE = {
    "kept_bytes": "memory:measure_kept_bytes",
}


def __getattr__(name: str) -> Any:
    if name not in _BEFORE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, renamed = _BEFORE[name].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), renamed or name)
