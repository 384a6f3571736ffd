"""The evaluation phase: retraining a derived network, and comparing it with random choice."""

from __future__ import annotations

from fastdarts.evaluate.compare import compare, comparison_folder, left_to_train, statistics
from fastdarts.evaluate.estimate import Estimate, estimate_searches, estimate_trainings
from fastdarts.evaluate.folders import free_folder
from fastdarts.evaluate.methods import compare_methods, left_to_do, methods_folder
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
    "comparison_folder",
    "continue_many",
    "continue_retrain",
    "estimate_searches",
    "estimate_trainings",
    "free_folder",
    "genotypes",
    "left_to_do",
    "left_to_train",
    "mean_and_spread",
    "methods_folder",
    "retrain",
    "retrain_once",
    "search_many",
    "selection_budget",
    "statistics",
    "tabulate",
    "trajectory",
]
