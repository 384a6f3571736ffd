"""Results of different budgets stand apart: which of several comparisons heads the report, and each with its budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastdarts.report.records import cost, heaviest, number
from fastdarts.report.words import as_budget, plural

__all__ = ["Result", "added", "heaviest", "results_of"]

Comparison = Mapping[str, Any]


class Result:
    """A test accuracy of the found cell.

    Args:
        accuracy: as a fraction.
        budget: of its training, ``epochs``, ``layers``, ``channels`` and ``batch_size`` as far as they are known.
        trainings: how many it is the mean of.
        parameters: of the network.
        beside: the random cells it was compared with, in words; empty where it was trained alone.
    """

    def __init__(self, of: Mapping[str, Any], budget: Mapping[str, Any], accuracy: object, beside: str = "") -> None:
        self.accuracy = number(accuracy)
        self.budget = dict(budget)
        self.trainings = max(1, len(of.get("accuracies") or []))
        self.parameters = of.get("parameters")
        self.beside = beside

    @property
    def words(self) -> str:
        """What it is of."""
        how = f"mean of {self.trainings} trainings" if self.trainings > 1 else "one training"
        budget = as_budget(self.budget)
        return f"{how} of {budget}" if budget else how


def results_of(comparisons: Sequence[Comparison], retrain: Mapping[str, Any] | None) -> list[Result]:
    """Every test accuracy of the found cell, one per budget and comparison, the largest budget first.

    The training that a comparison shares with the retraining is told once.

    Args:
        comparisons: what the run keeps, the headline's first.
        retrain: what ``retrain.json`` holds.
    """
    found = []
    for each in comparisons:
        if not math.isnan(number(each["found"].get("mean"))):
            beside = f"{plural(len(each['random']), 'random cell')}, {plural(len(each.get('seeds') or [0]), 'seed')}"
            found.append(Result(each["found"], each.get("budget") or {}, each["found"]["mean"], beside))
    if retrain is not None and not math.isnan(number(retrain.get("test_accuracy"))):
        own = {key: retrain[key] for key in ("epochs", "layers", "channels", "batch_size") if key in retrain}
        shared = any(all(each.budget.get(key) == value for key, value in own.items()) for each in found)
        if not shared:
            found.append(Result(retrain, own, retrain["test_accuracy"]))
    # Stable: of equal costs the headline's stays before the others.
    return sorted(found, key=lambda each: -cost(each.budget))


def added(comparisons: Sequence[Comparison], new: Comparison) -> list[Comparison]:
    """The comparisons with a new one, in place of an earlier one of the same budget, seeds, cells and data.

    Args:
        comparisons: those that the run keeps.
        new: what :func:`fastdarts.evaluate.compare` returned.
    """
    kept = [each for each in comparisons if _key(each) != _key(new)]
    return [*kept, new]


def _key(comparison: Comparison) -> tuple[Any, ...]:
    names = ("budget", "seeds", "dataset", "space")
    return *(comparison.get(name) for name in names), len(comparison["random"]), comparison["found"].get("text")
