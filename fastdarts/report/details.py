"""What a run's page says of its course: curves, mixing weights, checks, and what is needed to repeat it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastdarts.report.history import Event, answer_epoch, events, segments, with_stages
from fastdarts.report.marks import explain_events
from fastdarts.report.mixing import plot_edge_weights, plot_mixing, plot_mixing_by_cell
from fastdarts.report.parts import Plot, draw_plot
from fastdarts.report.plots import plot_curves, plot_hypergradient
from fastdarts.report.records import RunRecords, number
from fastdarts.report.words import MISSING, as_bytes, as_count, as_epoch, as_number, as_percent
from fastdarts.spaces import CellGenotype, Genotype

__all__ = ["course_facts"]

_SHARED = 2
_EVENTS = "events.out.tfevents."


def course_facts(run: RunRecords) -> dict[str, Any]:
    """What ``run.html`` names of the run's course and surroundings.

    Args:
        run: the run's records.
    """
    origin, environment, space = (_mapping(run.config.get(name)) for name in ("origin", "environment", "space"))
    changes = [(_mapping(move.get("environment")), move.get("changed", ())) for move in run.moves]
    return {
        "curves": _curves(run),
        "retrained": _retrained(run),
        "mixing": _mixing(run),
        "checks": draw_plot("hypergradient", plot_hypergradient, run.checks) if run.checks else None,
        "source": space.get("source"),
        "config_file": repr(f"{run.path.name}/config.json"),
        "surroundings": {**origin, **environment},
        "changes": [{name: now.get(name) for name in changed} for now, changed in changes],
        "files": list(_files(run.path)),
    }


def _curves(run: RunRecords) -> dict[str, Any] | None:
    """Losses and accuracies by epoch, as curves and as numbers."""
    if not run.epochs:
        return None
    start, happened = run.settings.get("arch_start_epoch", 0), events(run.epochs)
    labels = ("weight level (train)", "architecture level") if run.kind == "search" else ("train", "validation")
    start = start if isinstance(start, int) else 0
    plot = draw_plot("curves", plot_curves, run.epochs, arch_start_epoch=start, labels=labels, events=happened)
    header, *rows = _epoch_rows(run)
    return {"plot": plot, "events": explain_events(happened), "header": header, "rows": rows}


def _retrained(run: RunRecords) -> Plot | None:
    """The curves of a search's retraining."""
    history = (run.retrain or {}).get("history")
    if not history or run.kind != "search":
        return None
    return draw_plot("retrain", plot_curves, history, labels=("training images", "validation images"))


def _mixing(run: RunRecords) -> dict[str, Any] | None:
    """How the mixing weights of every edge went; of many cells together."""
    files, happened = with_stages(run.epoch_files, run.epochs), events(run.epochs)
    if not files:
        return None
    keys, answer = list(files[-1]["weights"]), answer_epoch(run)
    if len(keys) > _SHARED:
        return {"together": draw_plot("mixing", plot_mixing_by_cell, files)}
    deciding = next((each for each in files if each["epoch"] == answer), files[-1])
    cells = [_mixing_of(key, files, run.genotype, deciding, happened) for key in keys]
    return {"together": None, "cells": cells}


def _mixing_of(
    key: str,
    files: Sequence[Mapping[str, Any]],
    genotype: Genotype | None,
    deciding: Mapping[str, Any],
    happened: Sequence[Event],
) -> dict[str, Any]:
    """One cell's mixing weights, and the weights of its edges where it has any."""
    kept = genotype.cells.get(key) if genotype is not None else None
    weighted = (files[-1].get("edge_weights") or {}).get(key)
    return {
        "key": key,
        "plot": draw_plot(f"mixing-{key}", plot_mixing, files, key, kept=kept, events=happened),
        "decided": "" if kept is None else _decided(deciding, key, kept),
        "edges": draw_plot(f"edges-{key}", plot_edge_weights, files, key, events=happened) if weighted else None,
    }


def _files(path: Path) -> Iterator[tuple[str, str]]:
    """Name and size of what is in the run's folder."""
    for entry in sorted(path.iterdir(), key=lambda entry: (entry.is_dir(), entry.name)):
        if entry.name.startswith("."):
            continue
        try:
            size = f"{len(list(entry.iterdir()))} entries" if entry.is_dir() else as_bytes(entry.stat().st_size)
        except FileNotFoundError:
            # The run is still going and has just replaced or pruned it.
            continue
        # TensorBoard puts the machine's name into its files' names.
        name = f"{_EVENTS}\u2026" if entry.name.startswith(_EVENTS) else entry.name
        yield name + "/" * entry.is_dir(), size


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _decided(file: Mapping[str, Any], key: str, kept: CellGenotype) -> str:
    """How clearly the search preferred the operators it kept."""
    chosen = {(source, node): op for op, source, node in kept.edges()}
    weights, equal = [], []
    for row, edge in zip(file["weights"][key], file["edges"][key], strict=True):
        op = chosen.get((edge["source"], edge["node"]))
        if op in edge["primitives"]:
            weights.append(number(row[edge["primitives"].index(op)]))
            equal.append(1 / len(edge["primitives"]))
    if not weights or any(map(math.isnan, weights)):
        return ""
    low, high = as_number(min(weights)), as_number(max(weights))
    even = as_number(min(equal)) + (f" to {as_number(max(equal))}" if max(equal) > min(equal) else "")
    text = f"After epoch {as_epoch(file['epoch'])} the operators kept have mixing weights of {low} to {high}"
    return f"{text}; equal weights would be {even}."


def _epoch_rows(run: RunRecords) -> list[list[str]]:
    """The epochs as numbers: a header, then a row for each."""
    searched = run.kind == "search"
    header = ["Epoch", "Train loss", "Train accuracy"]
    header += ["Valid. loss", "Valid. accuracy", "Skips", "Parameters"] if searched else []
    staged = len(segments(run.epochs)) > 1
    measured = any("eigenvalue" in record for record in run.epochs)
    rows = []
    for record in run.epochs:
        row = [as_epoch(record["epoch"]), as_number(record.get("train_loss")), as_percent(record.get("train_accuracy"))]
        if searched:
            skips = record.get("skips") or {}
            many = len(skips) > _SHARED
            counts = [str(sum(skips.values()))] if many else [f"{key} {count}" for key, count in skips.items()]
            row += [as_number(record.get("valid_loss")), as_percent(record.get("valid_accuracy"))]
            row += [", ".join(counts) or MISSING, as_count(record.get("parameters"))]
        if measured:
            row.append(as_number(record["eigenvalue"]) if "eigenvalue" in record else "")
        row += [f"{record.get('stage', 0) + 1}: {as_epoch(record.get('stage_epoch'))}"] if staged else []
        row += [as_number(record.get("lr")), f"{as_number(record.get('step_ms'))} ms"]
        row.append(as_bytes(record.get("peak_bytes")))
        rows.append(row)
    header += ["Eigenvalue"] * measured + ["Stage: its epoch"] * staged
    return [[*header, "Learning rate", "Step", "Peak memory"], *rows]
