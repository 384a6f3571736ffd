"""Run folders: the configuration, records and checkpoints of one search, safe against kill -9 and a full disk."""

from __future__ import annotations

from fastdarts.runs.checkpoints import Checkpoint
from fastdarts.runs.error import CheckpointError
from fastdarts.runs.folder import RunFolder
from fastdarts.runs.generators import generators_state, restore_generators
from fastdarts.runs.lock import is_locked
from fastdarts.runs.packing import pack, unpack

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "RunFolder",
    "generators_state",
    "is_locked",
    "pack",
    "restore_generators",
    "unpack",
]
