"""Returning to a run: where it stands, whether it is finished, and going on beyond its planned epochs, knowingly."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, TypeVar

from fastdarts.errors import UserError
from fastdarts.runs import Checkpoint, RunFolder
from fastdarts.search.progress import Progress

__all__ = ["Return", "planned_epochs", "returned", "set_aside"]

_Config = TypeVar("_Config")

# What a run ends with; of an extended run it would be taken for the new end's.
_TEXTS = ("result.json", "retrain.json", "comparison.json", "genotype.json", "others.json")
_OTHERS = ("genotype.txt", "genotype.svg", "genotype.png", "report.html")


@dataclasses.dataclass(frozen=True)
class Return:
    """A run that is opened again.

    Args:
        folder: it, locked.
        config: its configuration; the epochs are those to which it was, or is now, extended.
        checkpoint: where it goes on; None for its start.
        result: of a finished run whose checkpoints were removed: what it ended with. Nothing is left to do then.
        extension: the record of an extension that begins now.
    """

    folder: RunFolder
    config: Any
    checkpoint: Checkpoint | None
    result: Mapping[str, Any] | None = None
    extension: Mapping[str, Any] | None = None


def planned_epochs(folder: RunFolder, epochs: int, checkpoint: Checkpoint | None = None) -> int:
    """The epochs that a run is to have: the configured ones, or those of its newest extension.

    Args:
        folder: the run.
        epochs: as configured.
        checkpoint: count extensions only that it was saved with.
    """
    for record in folder.metrics(None if checkpoint is None else checkpoint.records.metrics_bytes):
        if record["kind"] == "extension":
            epochs = record["epochs"]
    return epochs


def returned(
    folder: RunFolder, config: Any, result: str, *, previous: bool, epochs: int | None, progress: Progress
) -> Return:
    """Find out how an earlier run goes on.

    Args:
        folder: it, locked.
        config: as it was configured, with ``epochs`` and ``save_every``.
        result: name of the file that it ends with.
        previous: go on from the checkpoint before the newest.
        epochs: extend the finished run to so many; None or as many as planned: do not.
        progress: is told what is not done, or done differently than one might think.

    Raises:
        UserError: where the checkpoints of an unfinished run were removed, so that its records would be lost; for an
            extension of a run that is not finished, that is part of another, or to fewer epochs.
        CheckpointError: for a checkpoint that cannot be used.
    """
    finished = (folder.path / result).is_file()
    if not folder.steps() and not previous:
        done = sum(record.get("kind") == "epoch" for record in folder.metrics())
        if finished:
            found = folder.read_json(result)
            if epochs is not None and epochs != planned_epochs(folder, config.epochs):
                raise UserError(
                    f"{folder.path} is finished and its checkpoints were removed",
                    "checkpoints/, from which to go on",
                    "start a new run with more epochs",
                )
            progress.note(f"{folder.path} is finished: its result is read, nothing is run again")
            return Return(folder, config, None, found)
        if done > config.save_every:
            raise UserError(
                f"the checkpoints of {folder.path} were removed: starting again would replace the records of its "
                f"{done} epochs",
                "checkpoints/, from which to go on",
                "start a new run, or delete this one's folder first",
            )
        if done:
            progress.note(f"{folder.path} has no checkpoint yet: its first epochs are run again")
        return Return(folder, config, None)
    checkpoint = folder.load(previous=previous)
    planned = planned_epochs(folder, config.epochs, checkpoint)
    config = dataclasses.replace(config, epochs=planned)
    if epochs is None or epochs == planned:
        return Return(folder, config, checkpoint)
    _check(folder, planned, epochs, finished and not previous)
    at = checkpoint.state["position"]["epoch"]
    extension = {"kind": "extension", "epochs": epochs, "before": planned, "epoch": at, "step": checkpoint.step}
    return Return(folder, dataclasses.replace(config, epochs=epochs), checkpoint, extension=extension)


def _check(folder: RunFolder, planned: int, epochs: int, finished: bool) -> None:
    if epochs < planned:
        raise UserError(f"epochs is {epochs} for a run of {planned}", f"more than {planned}", "a run is not shortened")
    if not finished:
        raise UserError(
            f"{folder.path} is not finished: it is planned for {planned} epochs",
            "a finished run to extend",
            "resume it without --epochs first",
        )
    outer = folder.path.absolute().parent.parent
    if (outer / "config.json").exists():
        raise UserError(
            f"{folder.path} is part of {outer}, which holds runs of one budget",
            "a run of its own",
            "copy it out of there and extend the copy",
        )


def set_aside(folder: RunFolder, epochs: int) -> str:
    """Move what a run ended with into a folder inside it, so that nothing of it is lost or taken for the new end's.

    A kill in the middle does no harm: what is not moved yet is moved when it is done again.

    Returns:
        The folder's name.
    """
    place = f"after-{epochs}-epochs"
    for name in (*_TEXTS, *_OTHERS):
        path = folder.path / name
        if not path.is_file():
            continue
        if name in _TEXTS:
            folder.write_json(f"{place}/{name}", folder.read_json(name))
        else:
            folder.write_bytes(f"{place}/{name}", path.read_bytes())
        os.unlink(path)
    return place
