"""The memory harness: what a pass keeps and needs, measured, and predicted without allocating it."""

from __future__ import annotations

from fastdarts.profile.ledger import Ledger, Share, watched
from fastdarts.profile.memory import kept_bytes
from fastdarts.profile.prediction import Predictor, Usage, largest_batch, measure
from fastdarts.profile.tracker import Tracker
from fastdarts.profile.work import supernet_flops

__all__ = [
    "Ledger",
    "Predictor",
    "Share",
    "Tracker",
    "Usage",
    "kept_bytes",
    "largest_batch",
    "measure",
    "supernet_flops",
    "watched",
]
