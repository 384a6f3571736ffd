"""The evaluation phase: retraining a derived network, and comparing it with random choice."""

from __future__ import annotations

from fastdarts.evaluate.compare import compare, comparison_folder, statistics
from fastdarts.evaluate.retrain import RetrainConfig, budget, continue_retrain, retrain, retrain_once

__all__ = [
    "RetrainConfig",
    "budget",
    "compare",
    "comparison_folder",
    "continue_retrain",
    "retrain",
    "retrain_once",
    "statistics",
]
