"""What a run folder holds, read without its lock; files that are missing or damaged are told, not fatal."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fastdarts.errors import UserError
from fastdarts.runs import RunFolder
from fastdarts.spaces import Genotype, GenotypeError

__all__ = ["RunRecords", "cost", "heaviest", "number", "read_comparisons", "read_run"]

_Comparison = TypeVar("_Comparison", bound=Mapping[str, Any])

# More points than this make no line clearer, but the page heavier.
_MOST_EPOCH_FILES = 120


@dataclass(frozen=True)
class RunRecords:
    """A run as recorded.

    Args:
        path: the folder, absolute.
        config: contents of ``config.json``.
        epochs: records of finished epochs, one each, in order.
        steps: records of single steps, if the run keeps them.
        checks: hypergradient checks.
        moves: where it went on in another environment or with more epochs, one each, in order.
        epoch_files: contents of ``epochs/NNNN.json``, at most 120 evenly spaced, the last included.
        genotype: the found one, or the newest epoch's while the search is unfinished; None if there is none.
        genotype_epoch: the epoch it is from if the search is unfinished; None for the final one.
        result: contents of ``result.json``.
        retrain: contents of ``retrain.json``.
        comparison: the comparison with random cells that heads the report, that of the largest budget.
        others: the comparisons of smaller budgets, the larger ones first.
        notes: one line for each file that could not be used.
    """

    path: Path
    config: Mapping[str, Any]
    epochs: Sequence[Mapping[str, Any]]
    steps: Sequence[Mapping[str, Any]]
    checks: Sequence[Mapping[str, Any]]
    moves: Sequence[Mapping[str, Any]]
    epoch_files: Sequence[Mapping[str, Any]]
    genotype: Genotype | None
    genotype_epoch: int | None
    result: Mapping[str, Any] | None
    retrain: Mapping[str, Any] | None
    comparison: Mapping[str, Any] | None
    others: Sequence[Mapping[str, Any]]
    notes: Sequence[str]

    @property
    def settings(self) -> Mapping[str, Any]:
        """The hyper-parameters, from the configuration."""
        settings = self.config.get("config")
        settings = settings if isinstance(settings, Mapping) else {}
        # An extension is a move too: config.json stays what the run was begun with.
        extended = [move["environment"]["epochs"] for move in self.moves if "epochs" in move["changed"]]
        return {**settings, "epochs": extended[-1]} if extended else settings

    @property
    def kind(self) -> str:
        """``search``, ``retrain`` or ``compare``."""
        return str(self.config.get("kind", "search"))


def number(value: object) -> float:
    """A recorded value as a float that can be plotted; nan for what is missing, infinite or no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return math.nan
    return float(value)


def read_run(path: str | os.PathLike[str]) -> RunRecords:
    """Read a run folder, which may still be written to.

    Args:
        path: the run folder.

    Returns:
        What it holds.

    Raises:
        UserError: if it is no run folder, or its records are damaged.
    """
    folder = RunFolder.open(path)
    notes: list[str] = []
    records = [record for record in folder.metrics() if isinstance(record, dict)]
    # A resumed run takes its records back to the checkpoint first; if one is there twice all the same, the last counts.
    epochs = {record["epoch"]: record for record in records if record.get("kind") == "epoch" and "epoch" in record}
    files = _epoch_files(folder, notes)
    genotype, genotype_epoch = _genotype(folder, files, notes)
    comparisons = read_comparisons(folder, notes)
    comparison = comparisons[0] if comparisons else None
    return RunRecords(
        folder.path.resolve(),
        folder.config,
        [epochs[epoch] for epoch in sorted(epochs)],
        [record for record in records if record.get("kind") == "step"],
        [record for record in records if record.get("kind") == "hypergradient"],
        [_move(record) for record in records if record.get("kind") in ("environment", "extension")],
        files,
        genotype,
        genotype_epoch,
        _json(folder, "result.json", (), notes),
        _json(folder, "retrain.json", ("test_accuracy",), notes),
        comparison,
        comparisons[1:],
        notes,
    )


def _move(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where a run went on in another environment, or beyond the epochs it was planned for."""
    if record["kind"] == "environment":
        return record
    return {**record, "environment": {"epochs": record["epochs"]}, "changed": ["epochs"]}


def _json(folder: RunFolder, name: str, fields: Sequence[str], notes: list[str]) -> dict[str, Any] | None:
    """A JSON object of the run; None where there is none, with a note where there is but it cannot be used."""
    if not (folder.path / name).exists():
        return None
    try:
        value = folder.read_json(name)
    except UserError as error:
        notes.append(f"{name} was left out: {error}")
        return None
    lacking = [field for field in fields if not isinstance(value, dict) or field not in value]
    if lacking or not isinstance(value, dict):
        notes.append(f"{name} was left out: it has no {', '.join(lacking) or 'fields'}")
        return None
    return value


def cost(budget: object) -> float:
    """What a training of this budget costs, in units of their own: epochs, times cells, times channels squared."""
    known = budget if isinstance(budget, Mapping) else {}
    epochs, layers, channels = (number(known.get(name)) for name in ("epochs", "layers", "channels"))
    total = epochs * layers * channels * channels
    return 0.0 if math.isnan(total) else total


def heaviest(comparisons: Sequence[_Comparison]) -> list[_Comparison]:
    """Comparisons by what each training cost, then by the number of trainings, the largest first; of equals the newest.

    The first one heads the report, so that a quick comparison never takes the place of a thorough one.
    """

    def key(k: int) -> tuple[float, int, int]:
        each = comparisons[k]
        return cost(each.get("budget")), len(each["random"]) * len(each.get("seeds") or [0]), k

    return [comparisons[k] for k in sorted(range(len(comparisons)), key=key, reverse=True)]


def read_comparisons(folder: RunFolder, notes: list[str]) -> list[dict[str, Any]]:
    """The comparisons that a run keeps, as :func:`heaviest` orders them.

    Args:
        folder: the run's.
        notes: gets a line for each file that could not be used.
    """
    found = _comparison(folder, notes)
    several = _json(folder, "comparisons.json", ("comparisons",), notes)
    kept = several["comparisons"] if several is not None else []
    usable = [each for each in kept if _is_comparison(each)] if isinstance(kept, list) else []
    if several is not None and (not isinstance(kept, list) or len(usable) < len(kept)):
        notes.append("of comparisons.json was left out what is no comparison")
    if found is not None and found not in usable:
        usable.append(found)
    return heaviest(usable)


def _comparison(folder: RunFolder, notes: list[str]) -> dict[str, Any] | None:
    value = _json(folder, "comparison.json", ("found", "random"), notes)
    if value is None or _is_comparison(value):
        return value
    notes.append("comparison.json was left out: found is not an object, or random not a list of objects")
    return None


def _is_comparison(value: object) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("random"), list):
        return False
    return all(isinstance(cell, dict) for cell in (value.get("found"), *value["random"]))


def _epoch_files(folder: RunFolder, notes: list[str]) -> list[dict[str, Any]]:
    names = sorted((file.name for file in (folder.path / "epochs").glob("*.json")), key=lambda name: (len(name), name))
    if len(names) > _MOST_EPOCH_FILES:
        pick = {round(k * (len(names) - 1) / (_MOST_EPOCH_FILES - 1)) for k in range(_MOST_EPOCH_FILES)}
        names = [names[k] for k in sorted(pick)]
    read = (_json(folder, f"epochs/{name}", ("epoch", "weights", "edges"), notes) for name in names)
    return [each for each in read if each is not None]


def _genotype(
    folder: RunFolder, files: Sequence[Mapping[str, Any]], notes: list[str]
) -> tuple[Genotype | None, int | None]:
    final = _json(folder, "genotype.json", (), notes)
    candidates: list[tuple[Any, str, int | None]] = [(final, "genotype.json", None)] if final is not None else []
    candidates += [(each.get("genotype"), f"epochs/{each['epoch']:04d}.json", each["epoch"]) for each in files[-1:]]
    for value, name, epoch in candidates:
        try:
            return Genotype.from_json(value), epoch
        except GenotypeError as error:
            notes.append(f"the genotype of {name} was left out: {error}")
    return None, None
