"""What follows a search: retrain, comparison with random cells, drawings and report. Continues after a kill."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastdarts import evaluate
from fastdarts.report import draw_png, write_report, write_svg
from fastdarts.runs import RunFolder
from fastdarts.search import Progress, SearchResult
from fastdarts.search.interrupt import stoppable
from fastdarts.spaces import Space

__all__ = ["finish_run", "record_comparison"]


def finish_run(result: SearchResult, progress: Progress, *, after: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Do what the search's ``after`` asks for, and draw and report the whole.

    Args:
        result: a finished search's.
        progress: who watches.
        after: what to do; None for what its run folder says.

    Returns:
        What the command prints: genotype, accuracies, comparison, report.
    """
    with stoppable(result.path):
        with RunFolder.open(result.path) as folder:
            summary = _evaluate(result, folder, progress, after)
        write_svg(result.genotype, result.path / "genotype.svg")
        draw_png(result.genotype, result.path / "genotype.png")
        report = write_report(result.path)
    return summary | {"search_seconds": result.seconds, "run": str(result.path), "report": str(report)}


def _evaluate(
    result: SearchResult, folder: RunFolder, progress: Progress, after: Mapping[str, Any] | None
) -> dict[str, Any]:
    after, config = folder.config.get("after", {}) if after is None else after, folder.config["config"]
    summary: dict[str, Any] = {"genotype": result.genotype.text(), "valid_accuracy": result.valid_accuracy}
    named = {name: config[name] for name in ("data", "data_root", "device", "backend")}
    if after.get("retrain_epochs"):
        named["epochs"] = after["retrain_epochs"]
    settings = evaluate.budget(found=result.genotype, **named)
    if after.get("random_cells"):
        arguments: dict[str, Any] = {"search_space": Space.from_json(folder.config.get("space")), "settings": settings}
        arguments["random_cells"] = after["random_cells"]
        path = evaluate.comparison_folder(folder.path / "compare", result.genotype, **arguments)
        comparison = evaluate.compare(result.genotype, path, **arguments, progress=progress)
        folder.write_json("comparison.json", comparison)
        trained = RunFolder.open(path / "trainings" / "found-seed0")
        folder.write_json("retrain.json", trained.read_json("retrain.json"))
        summary |= {"test_accuracy": comparison["found"]["mean"], "random_mean": comparison["random_mean"]}
        summary |= {"random_std": comparison["random_std"], "random_interval95": comparison["interval95"]}
        summary["beaten_by"] = comparison["beaten_by"]
    elif after.get("retrain_epochs"):
        chosen = evaluate.RetrainConfig(genotype=result.genotype.text(), **settings)
        # A search that was extended may have found another genotype than the one that was retrained.
        record = {"kind": "retrain", "config": dataclasses.asdict(chosen)}
        path = evaluate.free_folder(folder.path / "retrain", record)
        trained = evaluate.retrain_once(chosen, path, progress=progress)
        folder.write_json("retrain.json", trained)
        summary["test_accuracy"] = trained["test_accuracy"]
    return summary


def record_comparison(path: Path, comparison: dict[str, Any]) -> Path:
    """Put a comparison into a search's run folder and write its report anew."""
    with RunFolder.open(path) as folder:
        folder.write_json("comparison.json", comparison)
    return write_report(path)
