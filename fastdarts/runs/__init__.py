"""Run folders: the configuration, records and checkpoints of one search, safe against kill -9 and a full disk."""

from __future__ import annotations

from typing import Any

from fastdarts._moved import moved
from fastdarts.runs.checkpoints import Checkpoint
from fastdarts.runs.error import CheckpointError
from fastdarts.runs.folder import RunFolder
from fastdarts.runs.generators import generators_state, restore_generators
from fastdarts.runs.lock import is_locked

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "RunFolder",
    "generators_state",
    "is_locked",
    "restore_generators",
]


# Importable from here as before, but no promise: how a checkpoint's values are kept.
_BEFORE = {
    "pack": "packing",
    "unpack": "packing",
}


def __getattr__(name: str) -> Any:
    return moved(__name__, _BEFORE, name)
