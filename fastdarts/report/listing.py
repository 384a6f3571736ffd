"""Run folders at a glance: what each is, when it was begun, what came out, and how it stands."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fastdarts.errors import UserError
from fastdarts.report.budgets import results_of
from fastdarts.report.records import number, read_comparisons
from fastdarts.report.words import MISSING, as_percent, plural
from fastdarts.runs import RunFolder, is_locked

__all__ = ["Entry", "list_runs"]

# What a run of each kind ends with.
_ENDS = {
    "search": "result.json",
    "retrain": "retrain.json",
    "compare": "comparison.json",
    "compare-methods": "comparison-methods.json",
    "searches": "searches.json",
}


@dataclass(frozen=True)
class Entry:
    """A run in a line.

    Args:
        path: its folder.
        kind: ``search``, ``searches``, ``retrain``, ``compare`` or ``compare-methods``.
        method: of the search, or what was compared.
        data: name of the data set.
        started: when it was begun, ``2026-11-30 18:40``, UTC.
        result: what came out, in a few words; empty while nothing has.
        state: ``finished``, ``running``, ``stopped after epoch 3 of 15``, or what is wrong with the folder.
    """

    path: Path
    kind: str
    method: str
    data: str
    started: str
    result: str
    state: str

    def to_json(self) -> dict[str, str]:
        """The fields as JSON values."""
        return {**vars(self), "path": str(self.path)}


def list_runs(root: str | os.PathLike[str]) -> list[Entry]:
    """The runs in a folder, the newest first; reading needs no lock and writes nothing.

    Args:
        root: a folder of run folders, or one run folder.

    Returns:
        One entry a run. A folder that cannot be read is an entry too, whose state says why.

    Raises:
        UserError: if there is no such folder.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder", "a folder of runs", "fastdarts search makes runs/")
    try:
        candidates = [folder, *sorted(folder.iterdir())]
    except OSError as error:
        raise UserError(f"{folder} cannot be listed: {error.strerror}", "a folder that may be read") from error
    found = [_entry(path) for path in candidates if (path / "config.json").is_file()]
    return sorted(found, key=lambda entry: entry.started, reverse=True)


def _entry(path: Path) -> Entry:
    try:
        folder = RunFolder.open(path)
        kind = str(folder.config.get("kind", "search"))
        settings = _settings(folder, kind)
        method = str(settings.get("method", ""))
        data = str(settings.get("data", MISSING))
        return Entry(path, kind, method, data, _started(folder), _result(folder, kind), _state(folder, kind, settings))
    except UserError as error:
        return Entry(path, "?", "", "", "", "", f"cannot be read: {error.what}")


def _settings(folder: RunFolder, kind: str) -> Mapping[str, Any]:
    settings = folder.config.get("config")
    if isinstance(settings, Mapping):
        return settings
    if kind == "compare":
        trainings = folder.config.get("trainings")
        first: object = next(iter(trainings.values()), {}) if isinstance(trainings, Mapping) else {}
        return first if isinstance(first, Mapping) else {}
    return folder.config


def _started(folder: RunFolder) -> str:
    origin = folder.config.get("origin")
    if isinstance(origin, Mapping) and "started" in origin:
        return str(origin["started"])[:16].replace("T", " ")
    # Runs of before it was recorded: their configuration was written once, at the beginning.
    written = (folder.path / "config.json").stat().st_mtime
    return datetime.fromtimestamp(written, timezone.utc).isoformat(sep=" ")[:16]


def _state(folder: RunFolder, kind: str, settings: Mapping[str, Any]) -> str:
    if is_locked(folder.path):
        return "running"
    ended = (folder.path / _ENDS.get(kind, "result.json")).exists()
    if ended and kind == "search" and _asked(folder) and not (folder.path / "retrain.json").exists():
        return "searched, not yet retrained"
    if ended:
        return "finished"
    if kind not in ("search", "retrain"):
        return "stopped"
    done = sum(record.get("kind") == "epoch" for record in folder.metrics())
    return (
        f"stopped after epoch {done} of {settings.get('epochs', '?')}"
        if done
        else "stopped before the first epoch's end"
    )


def _asked(folder: RunFolder) -> bool:
    after = folder.config.get("after")
    return isinstance(after, Mapping) and bool(after.get("retrain_epochs"))


def _result(folder: RunFolder, kind: str) -> str:
    def read(name: str) -> Mapping[str, Any]:
        value = folder.read_json(name) if (folder.path / name).exists() else {}
        return value if isinstance(value, Mapping) else {}

    if kind in ("search", "compare"):
        return _accuracies(folder, read("retrain.json"), read("result.json"))
    if kind == "retrain" and (found := read("retrain.json")):
        return f"test {as_percent(found.get('test_accuracy'))}"
    if kind == "searches" and (found := read("searches.json")):
        best = (found.get("searches") or {}).get(found.get("best")) or {}
        return f"best {found.get('best')}, validation {as_percent(best.get('valid_accuracy'))}"
    if kind == "compare-methods" and (found := read("comparison-methods.json")):
        means = {name: number(entry.get("mean")) for name, entry in (found.get("methods") or {}).items()}
        best_name = max(means, key=lambda name: means[name], default="")
        return f"{best_name} {as_percent(means.get(best_name))}" if best_name else ""
    return ""


def _accuracies(folder: RunFolder, retrain: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    comparisons = read_comparisons(folder, [])
    results = results_of(comparisons, retrain or None)
    if not results:
        valid = number(result.get("valid_accuracy"))
        return "" if math.isnan(valid) else f"supernet {as_percent(valid)}"
    text = f"test {as_percent(results[0].accuracy)}"
    if comparisons and comparisons[0]["random"]:
        count = plural(len(comparisons[0]["random"]), "random cell")
        text += f"; {count} {as_percent(comparisons[0].get('random_mean'))}"
    return text
