"""What a run's page says of the result: how far it came, whether it beat random choice, and the figures of that."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from fastdarts.report.budgets import Result, results_of
from fastdarts.report.decision import decision_of
from fastdarts.report.history import answer_epoch
from fastdarts.report.parts import Notice, draw_genotype, draw_plot
from fastdarts.report.plots import plot_comparison
from fastdarts.report.records import RunRecords, number
from fastdarts.report.verdict import interval_of, judge, sampling_words
from fastdarts.report.words import MISSING, as_budget, as_count, as_duration, as_epoch, as_percent, as_points, plural

__all__ = ["result_facts"]


def result_facts(run: RunRecords) -> dict[str, Any]:
    """What ``run.html`` names of the result.

    Args:
        run: the run's records.
    """
    comparisons = [] if run.comparison is None else [run.comparison, *run.others]
    results = results_of(comparisons, run.retrain)
    return {
        "settings": run.settings,
        "supernet": {key: run.settings.get(key) for key in ("layers", "channels")},
        "progress": _progress(run),
        "notices": [each for each in (_verdict(run), _undecided(run)) if each is not None],
        "tiles": _tiles(run, results),
        "found": None if run.genotype is None else draw_genotype(run.genotype),
        "origin": _origin(run),
        "comparisons": [_compared(each, k) for k, each in enumerate(comparisons)],
        "results": results,
    }


def _summary(comparison: Mapping[str, Any]) -> str:
    """A comparison in a line: its budget first."""
    verdict, budget = judge(comparison), as_budget(comparison.get("budget")) or f"a budget that was {MISSING}"
    found, mean = as_percent(comparison["found"].get("mean")), as_percent(comparison.get("random_mean"))
    told = f": {verdict.headline.lower()}" if verdict is not None else ""
    return f"After {budget}: found {found}, {plural(len(comparison['random']), 'random cell')} {mean}{told}"


def _compared(comparison: Mapping[str, Any], place: int) -> dict[str, Any]:
    """A comparison's plot, its cells and its interval; the one at place 0 heads the page."""
    name = f"comparison-{place}" if place else "comparison"
    shown = judge(comparison) is not None
    return {
        "of": comparison,
        "summary": _summary(comparison),
        "plot": draw_plot(name, plot_comparison, comparison) if shown else None,
        "cells": _cells(comparison),
        "interval": interval_of(comparison),
    }


def _origin(run: RunRecords) -> str:
    """Which epoch the genotype is from, where that is not the last one."""
    if run.kind != "search" or run.result is None or run.genotype is None:
        return ""
    epoch = answer_epoch(run)
    if epoch is None:
        return ""
    derived = next((each.get("text") for each in run.epoch_files if each["epoch"] == epoch), None)
    if derived is not None and derived != run.genotype.text():
        return f"It was selected after the search; the one derived after epoch {as_epoch(epoch)} is another."
    last = run.epochs[-1]["epoch"]
    if epoch == last:
        return ""
    return f"It is that of epoch {as_epoch(epoch)}, not of the last one, {as_epoch(last)}; see what happened below."


def _progress(run: RunRecords) -> str:
    """How far the run came, where that is not the end."""
    planned, done = run.settings.get("epochs"), len(run.epochs)
    if run.kind == "compare" or run.result is not None or (run.kind == "retrain" and run.retrain is not None):
        return ""
    # Epochs that a rollback took back are run again, so there may be more than were planned.
    of = f" of {planned}" if isinstance(planned, int) and done <= planned else ""
    if not done:
        steps = f" {plural(len(run.steps), 'step')} of the first epoch are on record." if run.steps else ""
        return f"No epoch{of} has been finished: the run is still going or was interrupted.{steps}"
    return f"This run is not finished: {done}{of} epochs are on record; it is still going or was interrupted."


def _verdict(run: RunRecords) -> Notice | None:
    """Whether the search beat random choice, or that this is not known."""
    verdict = judge(run.comparison) if run.comparison is not None else None
    if verdict is not None:
        return Notice(verdict.headline, verdict.sentences, verdict.tone)
    if run.kind != "search":
        return None
    text = "The found cell has not been compared with random cells, so nothing here says whether the search helped."
    if run.comparison is not None:
        text = "The comparison with random cells holds no accuracies."
    retrain = run.retrain or {}
    tested = number(retrain.get("test_accuracy"))
    images = [] if math.isnan(tested) else [sampling_words(retrain.get("test_images"), tested)]
    return Notice("Better than random choice? Not known", [text, *images])


def _undecided(run: RunRecords) -> Notice | None:
    """The warning that what was compared is no choice of the search's."""
    decision = decision_of(run)
    if decision is None or not decision.undecided:
        return None
    return Notice(decision.headline, [decision.text], "unsure")


def _tiles(run: RunRecords, results: Sequence[Result]) -> list[tuple[str, str, str]]:
    """The figures that a reader looks for first: name, value, and what it is of."""
    last: Mapping[str, Any] = run.epochs[-1] if run.epochs else {}
    comparison = run.comparison
    accuracy, of = results[0].accuracy if results else None, "the derived network was not retrained"
    tiles = [("Test accuracy of the derived network", as_percent(accuracy), results[0].words if results else of)]
    if comparison is not None and comparison["random"]:
        budget, count = as_budget(comparison.get("budget")), plural(len(comparison["random"]), "random cell")
        if results and results[0].budget != (comparison.get("budget") or {}):
            mean, note = as_percent(comparison["found"].get("mean")), f"after {budget}, as the random cells"
            tiles.append(("The same in the comparison", mean, note))
        note = f"{count}, {budget}" if budget else count
        tiles.append(("Mean of random cells", as_percent(comparison.get("random_mean")), note))
    if results:
        tiles.append(("Parameters", as_count(results[0].parameters), _random_size(comparison)))
    elif last:
        tiles.append(("Parameters", as_count(last.get("parameters")), "of the derived network"))
    if last and run.kind == "search":
        loss = f"after epoch {as_epoch(last.get('epoch'))}, on the architecture level's images"
        tiles.append(("Accuracy of the supernet", as_percent(last.get("valid_accuracy")), loss))
    if last:
        spent = as_duration(last.get("elapsed_s"))
        tiles.append((f"{run.kind.capitalize()} time", spent, plural(len(run.epochs), "epoch")))
    return tiles


def _random_size(comparison: Mapping[str, Any] | None) -> str:
    """The random cells' parameters, to stand beside the found one's."""
    sizes = [number(cell.get("parameters")) for cell in (comparison or {}).get("random") or []]
    sizes = [size for size in sizes if not math.isnan(size)]
    if not sizes:
        return "of the retrained network"
    return f"of the retrained network; random cells: {as_count(fmean(sizes))} on average"


def _cells(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The cells by falling mean accuracy."""
    found = comparison["found"]
    cells = [("found", found)]
    cells += [(f"random {cell.get('index', k)}", cell) for k, cell in enumerate(comparison["random"])]
    shown = []
    for name, cell in sorted(cells, key=lambda cell: -_known(cell[1].get("mean"))):
        gap = number(cell.get("mean")) - number(found.get("mean"))
        accuracies = [as_percent(value) for value in cell.get("accuracies") or []]
        shown.append(
            {
                "name": name,
                "accuracy": as_percent(cell.get("mean")) + (f" ({', '.join(accuracies)})" if accuracies[1:] else ""),
                "gap": "" if cell is found or math.isnan(gap) else f"{as_points(gap)} points",
                "parameters": cell.get("parameters"),
                "text": cell.get("text", MISSING),
            }
        )
    return shown


def _known(value: object) -> float:
    amount = number(value)
    return -math.inf if math.isnan(amount) else amount
