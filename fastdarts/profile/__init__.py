"""The memory harness: what a pass keeps and needs, measured, and predicted without allocating it."""

from __future__ import annotations

from typing import Any

from fastdarts._moved import moved
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
    return moved(__name__, _BEFORE, name)
