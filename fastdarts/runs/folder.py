"""The folder of one run: everything a search, a report or a retraining leaves or reads goes through here."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

from fastdarts.errors import UserError
from fastdarts.runs import checkpoints, metrics
from fastdarts.runs.checkpoints import Checkpoint, Records
from fastdarts.runs.durable import TEMPORARY, clean, drop_folder, make_folder, replace_file, sync_folder
from fastdarts.runs.error import CheckpointError, storage_errors
from fastdarts.runs.events import Events
from fastdarts.runs.lock import LOCK, RunLock

__all__ = ["RunFolder"]

CONFIG = "config.json"
METRICS = "metrics.jsonl"


class RunFolder:
    """A run folder, opened with `RunFolder.create` or `RunFolder.open`.

    Reading needs no lock, so a live run can be looked at. The first write takes an exclusive lock on the run, as does
    a `with` block; `close`, the end of the block or of the process gives it back. Whoever takes the lock first removes
    what a killed process left half-written.

    Args:
        path: the folder.
        config: what its `config.json` holds.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path = path
        self.config = config
        self._config_digest = checkpoints.digest(config)
        self._events = Events(path)
        self._lock: RunLock | None = None

    @classmethod
    def create(cls, path: str | os.PathLike[str], config: dict[str, Any]) -> RunFolder:
        """Make a new run folder, locked for this process.

        Args:
            path: a folder that does not exist or is empty; missing parents are made.
            config: what `json` can write; `.config` is what JSON makes of it.

        Raises:
            TypeError: if the configuration is no dict or no JSON.
            UserError: if the folder holds anything, is in use, or cannot be written.
        """
        if type(config) is not dict:
            raise TypeError(f"config is a {type(config).__qualname__}; expected a dict")
        text = json.dumps(config, indent=2) + "\n"
        run = cls(Path(path), json.loads(text))
        _refuse_filled(run.path)
        with storage_errors(run.path):
            make_folder(run.path)
        run._hold()
        try:
            _refuse_filled(run.path)
            with storage_errors(run.path):
                # config.json comes last: a folder that has it is a whole run.
                replace_file(run.path / METRICS, b"")
                replace_file(run.path / CONFIG, text.encode("ascii"))
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """Open an existing run folder.

        Raises:
            UserError: if it is no run folder, with the name of what is missing or damaged.
        """
        folder = Path(path)
        with storage_errors(folder, doing="read"):
            if not folder.is_dir():
                found = "is no folder" if folder.exists() else "does not exist"
                raise UserError(f"{folder} {found}", "the folder of a run")
            missing = [name for name in (CONFIG, METRICS) if not (folder / name).is_file()]
        if missing:
            killed = (folder / LOCK).exists() and not _foreign(folder)
            raise UserError(
                f"{folder} is no run folder: {' and '.join(missing)} missing",
                "a folder that a run was started in",
                "its process was killed while it made the folder: start the run again in it" if killed else "",
            )
        config = _read_json(folder / CONFIG)
        if type(config) is not dict:
            raise UserError(f"{folder / CONFIG} holds a {type(config).__name__}", "a JSON object")
        return cls(folder, config)

    def __enter__(self) -> RunFolder:
        self._hold()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Flush the events and give the lock up."""
        self._events.close()
        if self._lock is not None:
            self._lock.release()

    def log(self, record: dict[str, Any]) -> None:
        """Append one record to `metrics.jsonl`, flushed to the disk unless its "kind" is "step".

        Args:
            record: what `json` can write; nan and infinities are kept as `NaN` and `Infinity`.

        Raises:
            TypeError: if it is no dict or no JSON.
            UserError: if it cannot be written; the file is then as it was.
        """
        self._hold()
        with self._writing(METRICS):
            metrics.append(self.path / METRICS, record)

    def metrics(self) -> list[dict[str, Any]]:
        """All records of `metrics.jsonl` in order; a last line that is not whole yet is left out.

        Raises:
            UserError: if a line before the last is no JSON, or the file cannot be read.
        """
        with storage_errors(self.path / METRICS, doing="read"):
            return metrics.read(self.path / METRICS)

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Add a point to a TensorBoard curve; without tensorboard installed nothing happens.

        Args:
            tag: the curve, such as "loss/train".
            value: a number.
            step: training steps done, the same counter as in `save`.

        Raises:
            UserError: if it cannot be written.
        """
        self._hold()
        with self._writing("TensorBoard events"):
            self._events.scalar(tag, value, step)

    def histogram(self, tag: str, values: Sequence[float], step: int) -> None:
        """Add a histogram to TensorBoard's; the arguments are as for `scalar`, but for many numbers."""
        self._hold()
        with self._writing("TensorBoard events"):
            self._events.histogram(tag, values, step)

    def hparams(self, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Tell TensorBoard the run's settings, and the tags of the curves (`scalar`) that they are judged by."""
        self._hold()
        with self._writing("TensorBoard events"):
            self._events.hparams(settings, metrics)

    def write_json(self, name: str, value: object) -> Path:
        """Write a JSON file atomically and return its path; `name` is relative, such as "epochs/0003.json"."""
        return self.write_text(name, json.dumps(value, indent=2) + "\n")

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file (UTF-8) atomically and return its path."""
        return self.write_bytes(name, text.encode("utf-8"))

    def write_bytes(self, name: str, data: bytes) -> Path:
        """Write a file atomically: a reader, or a run that was killed, finds the old content or the new, never a part.

        Args:
            name: path inside the run folder; not one of the files that the folder itself keeps.
            data: the content.

        Returns:
            The path of the file.

        Raises:
            UserError: if the name leads outside or is taken, or the file cannot be written.
        """
        path = self._inside(name)
        self._hold()
        with self._writing(name):
            replace_file(path, data)
        return path

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the run.

        Raises:
            UserError: if it is missing, unreadable or no JSON.
        """
        return _read_json(self.path / name)

    def steps(self) -> list[int]:
        """The steps of the checkpoints that are there, rising; nothing is verified."""
        return checkpoints.steps(self.path)

    def save(self, step: int, state: object) -> Path:
        """Save a checkpoint and keep the newest two; what was recorded before belongs to it.

        Args:
            step: training steps done; not before the newest checkpoint, whose place it takes if it is the same.
            state: what `pack` takes.

        Returns:
            The folder of the checkpoint.

        Raises:
            TypeError: if the state cannot be packed; nothing is written then.
            UserError: if it cannot be written; the checkpoints are then what they were.
        """
        if type(step) is not int:
            raise TypeError(f"step is a {type(step).__qualname__}; expected an int")
        newest = max(self.steps(), default=0)
        if step < newest:
            remedy = "rewind to the checkpoint that the run continues from first" if step >= 0 else ""
            raise UserError(f"step is {step}", f"at least {newest}, the step of the newest checkpoint", remedy)
        self._hold()
        with self._writing(f"the checkpoint of step {step}"):
            size, sha256 = metrics.flush(self.path / METRICS)
            records = Records(size, sha256, self._epochs(), self._events.sizes())
            path = checkpoints.write(self.path, step, state, config_digest=self._config_digest, records=records)
            checkpoints.prune(self.path)
        return path

    def load(self, previous: bool = False) -> Checkpoint:
        """Read the newest checkpoint, or the one before it, and verify everything about it.

        Raises:
            CheckpointError: if there is none or it is not as it was saved: which file, what was found, and whether the
                other one can be used.
        """
        found = self.steps()
        if not found:
            raise CheckpointError(f"{self.path} holds no checkpoint", remedy="start the run again in a new folder")
        if previous and len(found) == 1:
            raise CheckpointError(
                f"{self.path} holds no checkpoint before the one of step {found[0]}", remedy="resume without --previous"
            )
        step = found[-2] if previous else found[-1]
        try:
            return checkpoints.read(self.path, step, config_digest=self._config_digest)
        except CheckpointError as error:
            raise CheckpointError(error.what, error.expected, self._other(found, previous)) from error

    def _other(self, found: list[int], previous: bool) -> str:
        other = found[-1] if previous else (found[-2] if len(found) > 1 else None)
        if other is not None:
            try:
                checkpoints.read(self.path, other, config_digest=self._config_digest)
            except CheckpointError:
                return "no other checkpoint of this run can be used either: start the run again in a new folder"
            if previous:
                return f"use the newest one, of step {other}: resume without --previous"
            return f"use the one before it, of step {other}: --previous"
        return "there is no other checkpoint: start the run again in a new folder"

    def rewind(self, checkpoint: Checkpoint | None) -> None:
        """Take the records back to what they were when a checkpoint was saved, so that the run can continue from it.

        Later checkpoints, later records and TensorBoard points, and files of `epochs/` that were not there are removed.
        A kill in the middle does no harm: rewinding again finishes the work.

        Args:
            checkpoint: one that `load` of this run returned, or None for the very start of the run.

        Raises:
            UserError: if the checkpoint is of another folder or gone, or the folder cannot be written.
        """
        if checkpoint is None:
            step, records = -1, Records(0, "", (), {})
        elif checkpoint.path == checkpoints.locate(self.path, checkpoint.step) and checkpoint.path.is_dir():
            step, records = checkpoint.step, checkpoint.records
        else:
            raise UserError(
                f"{checkpoint.path} is no checkpoint of {self.path}", remedy="use what load() of this run returned"
            )
        self._hold()
        with self._writing(METRICS):
            # Later checkpoints go first: they could not be verified once the records they were saved with are cut.
            for later in self.steps():
                if later > step:
                    drop_folder(checkpoints.locate(self.path, later))
            # A process killed between writing a checkpoint and dropping the oldest leaves three.
            checkpoints.prune(self.path)
            metrics.truncate(self.path / METRICS, records.metrics_bytes)
            for name in self._epochs():
                if name not in records.epochs:
                    (self.path / "epochs" / name).unlink()
            self._events.rewind(records.events, step)
            sync_folder(self.path)

    def _epochs(self) -> tuple[str, ...]:
        folder = self.path / "epochs"
        names = (entry.name for entry in folder.iterdir()) if folder.is_dir() else ()
        return tuple(sorted(name for name in names if not name.startswith(TEMPORARY)))

    def _hold(self) -> None:
        if self._lock is not None and self._lock.held:
            return
        lock = RunLock(self.path)
        with storage_errors(self.path):
            clean(self.path)
            for entry in self.path.iterdir():
                # A folder inside with a lock is a run of its own, perhaps a live one.
                if entry.is_dir() and not (entry / LOCK).exists():
                    clean(entry)
            if (self.path / METRICS).exists():
                metrics.repair(self.path / METRICS)
        self._lock = lock

    def _writing(self, what: str) -> AbstractContextManager[None]:
        return storage_errors(f"{what} in {self.path}", self._follow)

    def _follow(self) -> str:
        kept = self.steps()
        if not kept:
            return "then start again"
        return f"then continue with --resume {self.path}: the checkpoint of step {kept[-1]} is whole"

    def _inside(self, name: str) -> Path:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts:
            raise UserError(
                f"the file name {name!r} leads outside the run folder", "a relative name such as epochs/0003.json"
            )
        if name in (CONFIG, METRICS, LOCK) or parts[0] == "checkpoints":
            raise UserError(f"the file name {name!r} is kept by the run folder itself", "another name")
        return self.path.joinpath(*parts)


def _refuse_filled(path: Path) -> None:
    if not path.exists() and not path.is_symlink():
        return
    if not path.is_dir():
        raise UserError(f"{path} exists and is no folder", "a new or empty folder")
    if (path / CONFIG).exists() and (path / METRICS).exists():
        raise UserError(
            f"{path} is already a run",
            "a new or empty folder",
            f"continue it with --resume {path}, or choose another folder",
        )
    names = _foreign(path)
    if names:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise UserError(f"{path} is not empty: it holds {shown}", "a new or empty folder", "choose another folder")


def _foreign(path: Path) -> list[str]:
    """The names in a folder that a process killed in `RunFolder.create` cannot have left."""
    return sorted(
        entry.name
        for entry in path.iterdir()
        if entry.name != LOCK
        and not entry.name.startswith(TEMPORARY)
        and not (entry.name == METRICS and entry.stat().st_size == 0)
    )


def _read_json(path: Path) -> Any:
    with storage_errors(path, doing="read"):
        data = path.read_bytes()
    try:
        return json.loads(data)
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}") from error
