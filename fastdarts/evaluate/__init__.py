"""The evaluation phase: retraining a derived network, and comparing it with random choice."""

from __future__ import annotations

from typing import Any

from fastdarts._moved import moved
from fastdarts.evaluate.compare import compare, statistics
from fastdarts.evaluate.estimate import Estimate, estimate_searches, estimate_trainings
from fastdarts.evaluate.methods import compare_methods
from fastdarts.evaluate.paired import compare_paired
from fastdarts.evaluate.regret import Network, Table, trajectory
from fastdarts.evaluate.retrain import RetrainConfig, budget, continue_retrain, retrain, retrain_once
from fastdarts.evaluate.searches import best_search, continue_many, search_many, selection_budget
from fastdarts.evaluate.tabulate import genotypes, tabulate
from fastdarts.report.intervals import mean_and_spread

__all__ = [
    "Estimate",
    "Network",
    "RetrainConfig",
    "Table",
    "best_search",
    "budget",
    "compare",
    "compare_methods",
    "compare_paired",
    "continue_many",
    "continue_retrain",
    "estimate_searches",
    "estimate_trainings",
    "genotypes",
    "mean_and_spread",
    "retrain",
    "retrain_once",
    "search_many",
    "selection_budget",
    "statistics",
    "tabulate",
    "trajectory",
]


# Importable from here as before, but no promise: what the command line asks before long work.
_BEFORE = {
    "comparison_folder": "compare",
    "free_folder": "folders",
    "left_to_do": "methods",
    "left_to_train": "compare",
    "methods_folder": "methods",
}


def __getattr__(name: str) -> Any:
    return moved(__name__, _BEFORE, name)
