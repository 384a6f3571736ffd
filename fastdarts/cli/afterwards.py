"""What follows a search: retrain, comparison with random cells, drawings and report. Continues after a kill."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastdarts import evaluate
from fastdarts.cli.settings import trained_after
from fastdarts.errors import Diverged
from fastdarts.evaluate.compare import comparison_folder
from fastdarts.evaluate.folders import free_folder
from fastdarts.report import draw_png, write_report, write_svg
from fastdarts.report.budgets import added, heaviest
from fastdarts.report.records import read_comparisons
from fastdarts.report.words import as_budget
from fastdarts.runs import RunFolder
from fastdarts.search import Progress, SearchResult
from fastdarts.search.interrupt import stoppable
from fastdarts.spaces import Space

__all__ = ["finish_run", "keep_comparison", "record_comparison"]


def finish_run(result: SearchResult, progress: Progress, *, after: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Do what the search's ``after`` asks for, and draw and report the whole.

    Args:
        result: a finished search's.
        progress: who watches.
        after: what to do; None for what its run folder says.

    Returns:
        What the command prints: genotype, accuracies, comparison, report; ``diverged`` where a training did.
    """
    with stoppable(result.path):
        with RunFolder.open(result.path) as folder:
            summary: dict[str, Any] = {"genotype": result.genotype.text(), "valid_accuracy": result.valid_accuracy}
            try:
                summary |= _evaluate(result, folder, progress, after)
            except Diverged as error:
                # The search is a result all the same, with its drawing and its report.
                progress.note(str(error))
                summary["diverged"] = {error.path.name: error.what}
            if "test_accuracy" in summary:
                # Beside the search's own curves, where its settings are judged by it.
                step = max((record.get("step", 0) for record in folder.metrics()), default=0)
                folder.scalar("test_accuracy", summary["test_accuracy"], step)
        write_svg(result.genotype, result.path / "genotype.svg")
        draw_png(result.genotype, result.path / "genotype.png")
        report = write_report(result.path)
    return summary | {"search_seconds": result.seconds, "run": str(result.path), "report": str(report)}


def _evaluate(
    result: SearchResult, folder: RunFolder, progress: Progress, after: Mapping[str, Any] | None
) -> dict[str, Any]:
    after, config = folder.config.get("after", {}) if after is None else after, folder.config["config"]
    summary: dict[str, Any] = {}
    settings = trained_after(after, config, result.genotype)
    if after.get("random_cells"):
        arguments: dict[str, Any] = {"search_space": Space.from_json(folder.config.get("space")), "settings": settings}
        arguments["random_cells"] = after["random_cells"]
        path = comparison_folder(folder.path / "compare", result.genotype, **arguments)
        comparison = evaluate.compare(result.genotype, path, **arguments, progress=progress)
        keep_comparison(folder, comparison)
        training = RunFolder.open(path / "trainings" / "found-seed0")
        folder.write_json("retrain.json", training.read_json("retrain.json"))
        summary |= {"test_accuracy": comparison["found"]["mean"], "random_mean": comparison["random_mean"]}
        summary |= {"random_std": comparison["random_std"], "random_interval95": comparison["interval95"]}
        summary["beaten_by"] = comparison["beaten_by"]
        summary |= {"diverged": comparison["diverged"]} if "diverged" in comparison else {}
    elif after.get("retrain_epochs"):
        chosen = evaluate.RetrainConfig(genotype=result.genotype.text(), **settings)
        # A search that was extended may have found another genotype than the one that was retrained.
        record = {"kind": "retrain", "config": dataclasses.asdict(chosen)}
        path = free_folder(folder.path / "retrain", record)
        trained = evaluate.retrain_once(chosen, path, progress=progress)
        folder.write_json("retrain.json", trained)
        summary["test_accuracy"] = trained["test_accuracy"]
    return summary


def record_comparison(path: Path, comparison: dict[str, Any], progress: Progress) -> Path:
    """Put a comparison into a search's run folder, beside those of other budgets, and write its report anew."""
    with RunFolder.open(path) as folder:
        heads = keep_comparison(folder, comparison)
    if heads != comparison:
        budget = as_budget(heads.get("budget")) or "a larger budget"
        progress.note(f"the report of {path} still leads with the comparison of {budget}; this one is listed below it")
    return write_report(path)


def keep_comparison(folder: RunFolder, comparison: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add a comparison to those that a search keeps, and return the one that heads its report.

    ``comparison.json`` is the headline's, that of the largest budget; where there are several, ``comparisons.json`` has
    them all.
    """
    kept = heaviest(added(read_comparisons(folder, []), comparison))
    if len(kept) > 1:
        folder.write_json("comparisons.json", {"comparisons": kept})
    folder.write_json("comparison.json", kept[0])
    return kept[0]
