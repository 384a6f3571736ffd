"""How a search or a comparison ends in the terminal: the drawn cell, the verdict in words, then the figures."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import typer

from fastdarts.cli.printing import print_result
from fastdarts.report import draw_terminal
from fastdarts.report.decision import decision_of
from fastdarts.report.records import RunRecords, number, read_run
from fastdarts.report.verdict import Verdict, judge, sampling_words
from fastdarts.report.words import as_budget, as_count, as_duration, as_percent, plural
from fastdarts.spaces import Genotype, parse_genotype

__all__ = ["print_comparison", "print_search"]

_WIDTH = 100


def print_search(summary: Mapping[str, Any], as_json: bool) -> None:
    """Print what a search ended with.

    Args:
        summary: what :func:`fastdarts.cli.afterwards.finish_run` returned.
        as_json: the same as JSON, with the verdict's words.
    """
    # Of several searches the best one has a page of its own.
    run = read_run(Path(summary.get("best_report") or summary["report"]).parent)
    decision = decision_of(run)
    verdict = judge(run.comparison) if run.comparison is not None else None
    if as_json:
        told = {"verdict": verdict.headline if verdict else None, "undecided": decision and decision.undecided}
        print_result({**summary, **told}, True)
        return
    _draw(parse_genotype(summary["genotype"]))
    if verdict is not None:
        _say(verdict)
    if decision is not None and decision.undecided:
        _paragraph(decision.headline, [decision.text])
    several = {key: summary[key] for key in ("searches", "best", "diverged") if key in summary}
    lines: dict[str, Any] = {**several, "genotype": summary["genotype"], **_accuracies(run, summary)}
    lines["search took"] = as_duration(summary["search_seconds"])
    lines |= {key: summary[key] for key in ("run", "report", "best_report") if key in summary}
    print_result(lines, False)


def print_comparison(result: Mapping[str, Any], path: Path, report: Path | None, as_json: bool) -> None:
    """Print a comparison with random cells.

    Args:
        result: what :func:`fastdarts.evaluate.compare` returned.
        path: its folder.
        report: the page that shows it, if a search's does.
        as_json: its figures as JSON, with the verdict's words.
    """
    verdict, ends = judge(result), {"path": str(path)} | ({"report": str(report)} if report is not None else {})
    if as_json:
        summary = {key: value for key, value in result.items() if key not in ("random", "found")}
        summary |= {"found_accuracy": result["found"]["mean"], "verdict": verdict.headline if verdict else None}
        print_result(summary | ends, True)
        return
    _draw(parse_genotype(result["found"]["text"]))
    if verdict is not None:
        _say(verdict)
    diverged = {"diverged": result["diverged"]} if "diverged" in result else {}
    print_result({**_compared(result), **diverged, **ends}, False)


def _draw(genotype: Genotype) -> None:
    from rich.console import Console

    # Results go to standard output; without a terminal they are plain text.
    Console(highlight=False, markup=False).print(draw_terminal(genotype))
    typer.echo()


def _say(verdict: Verdict) -> None:
    _paragraph(verdict.headline, verdict.sentences)


def _paragraph(headline: str, sentences: list[str]) -> None:
    typer.echo(headline)
    for sentence in sentences:
        typer.echo(textwrap.fill(sentence, _WIDTH, initial_indent="  ", subsequent_indent="  "))
    typer.echo()


def _accuracies(run: RunRecords, summary: Mapping[str, Any]) -> dict[str, str]:
    if run.comparison is not None and "random_mean" in summary:
        return _compared(run.comparison)
    if run.retrain is None or "test_accuracy" not in summary:
        return {"supernet": f"{as_percent(summary['valid_accuracy'])} on the architecture level's images"}
    accuracy, budget = number(run.retrain.get("test_accuracy")), as_budget(run.retrain)
    told = f"{as_percent(accuracy)} after {budget}" if budget else as_percent(accuracy)
    found = {"test accuracy": told, "that is": sampling_words(run.retrain.get("test_images"), accuracy)}
    return found | {"parameters": as_count(run.retrain.get("parameters"))}


def _compared(comparison: Mapping[str, Any]) -> dict[str, str]:
    found, count = comparison["found"], plural(len(comparison["random"]), "random cell")
    sizes = [number(cell.get("parameters")) for cell in comparison["random"]]
    return {
        "test accuracy": f"{as_percent(found['mean'])} after {as_budget(comparison.get('budget'))}",
        "random cells": f"{as_percent(comparison['random_mean'])}, the mean of {count} of the same budget",
        "parameters": f"{as_count(found['parameters'])}, random cells {as_count(fmean(sizes))} on average",
    }
