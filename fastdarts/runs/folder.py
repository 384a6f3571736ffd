"""The folder of one run: everything a search, a report or a retraining leaves or reads goes through here."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

from fastdarts.errors import UserError
from fastdarts.reading import conform, read_json
from fastdarts.runs import checkpoints, metrics
from fastdarts.runs.checkpoints import Checkpoint, Records
from fastdarts.runs.durable import TEMPORARY, clean, drop_folder, make_folder, replace_file, sync_folder
from fastdarts.runs.error import CheckpointError, storage_errors
from fastdarts.runs.events import Events, Shown
from fastdarts.runs.inside import CONFIG, METRICS, check_inside, foreign, innermost, path_inside, refuse_filled
from fastdarts.runs.lock import LOCK, RunLock
from fastdarts.runs.schemas import check_config, check_file, check_record
from fastdarts.runs.seal import digest, sealed, unsealed

__all__ = ["RunFolder"]

# What a run ends with, by its kind; it keeps what its records were.
_RESULTS = {"search": "result.json", "retrain": "retrain.json"}
_RECORDS = "records"
_READINGS = 10


class RunFolder(Shown):
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
        self._config_digest = digest(config)
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
        run = cls(Path(path), json.loads(json.dumps(config)))
        text = json.dumps(sealed(run.config, "", CONFIG), indent=2) + "\n"
        refuse_filled(run.path)
        with storage_errors(run.path):
            make_folder(run.path)
        run._hold()
        try:
            refuse_filled(run.path)
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
            check_inside(folder)
            missing = [name for name in (CONFIG, METRICS) if not (folder / name).is_file()]
        if missing:
            killed = (folder / LOCK).exists() and not foreign(folder)
            raise UserError(
                f"{folder} is no run folder: {' and '.join(missing)} missing",
                "a folder that a run was started in",
                "its process was killed while it made the folder: start the run again in it" if killed else "",
            )
        config = read_json(folder / CONFIG, follow=False)
        if type(config) is not dict:
            raise UserError(f"{folder / CONFIG} holds a {type(config).__name__}", "a JSON object")
        config = unsealed(config, "", CONFIG, str(folder / CONFIG), str(folder))
        check_config(config, str(folder / CONFIG))
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

    def metrics(self, size: int | None = None) -> list[dict[str, Any]]:
        """All records of `metrics.jsonl`, or those of its first `size` bytes; those up to the newest checkpoint are
        verified by its digest. A last line that is not whole yet is left out.

        Raises:
            UserError: if the file cannot be read, was changed since the newest checkpoint (or, where the checkpoints
                were removed, since the run's result), or a line before the last is no record.
        """
        path = self.path / METRICS
        for _ in range(_READINGS):
            vouched = self._vouched()
            with storage_errors(path, doing="read"):
                data = metrics.whole(path)
            found = metrics.records(data[:size], path)
            if metrics.starts_with(data, *vouched[1:]):
                break
            # A live run that is taken back to a checkpoint has other records from one moment to the next.
            if vouched == self._vouched():
                raise UserError(
                    f"{path} was damaged or edited: its first {vouched[1]} bytes are not those that {vouched[0]} was "
                    "saved with",
                    remedy="restore it from a copy of the run",
                )
        for number, record in enumerate(found, 1):
            check_record(self.config.get("kind"), record, f"{path} line {number}")
        return found

    def write_json(self, name: str, value: object) -> Path:
        """Write a JSON file atomically and return its path; `name` is relative, such as "epochs/0003.json".

        An object carries its digest with it, as a member `seal`, which :meth:`read_json` verifies and takes off.
        """
        text = json.dumps(sealed(value, self._config_digest, name), indent=2)
        return self.write_text(name, text + "\n")

    def write_result(self, value: Mapping[str, Any]) -> Path:
        """Write `result.json` or `retrain.json`, what a search or a training ends with, and what its records were."""
        with self._writing(METRICS):
            size, sha256 = metrics.flush(self.path / METRICS)
        kept = {**value, _RECORDS: {"bytes": size, "sha256": sha256}}
        return self.write_json(_RESULTS[self.config["kind"]], kept)

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
        path = self.inside(name)
        if name in (CONFIG, METRICS, LOCK) or PurePosixPath(name).parts[0] == "checkpoints":
            raise UserError(f"the file name {name!r} is kept by the run folder itself", "another name")
        self._hold()
        with self._writing(name):
            replace_file(path, data)
        return path

    def read_json(self, name: str, needs: Sequence[str] = ()) -> Any:
        """Read a JSON file of the run, or of a run inside it, verified by its digest.

        Args:
            name: inside the run, such as "epochs/0003.json".
            needs: members that must be there.

        Raises:
            UserError: if it is missing, unreadable, no JSON, not what was written, or has values of other types than
                such a file of a run of this kind has.
        """
        value = self._read(name)
        if name in _RESULTS.values() and type(value) is dict:
            value.pop(_RECORDS, None)
        where = str(self.path / name)
        return conform(value, dict.fromkeys((f"{each}!" for each in needs), object), where) if needs else value

    def _read(self, name: str) -> Any:
        path = self.inside(name)
        if (owner := innermost(self.path, path)) != self.path:
            return RunFolder.open(owner)._read(str(path.relative_to(owner)))
        value = unsealed(read_json(path, follow=False), self._config_digest, name, str(path), str(self.path))
        check_file(self.config.get("kind"), name, value, str(path))
        return value

    def inside(self, name: str) -> Path:
        """The path of a file or folder of the run by its relative name; a UserError for one that leads outside."""
        return path_inside(self.path, name)

    def steps(self) -> list[int]:
        """The steps of the checkpoints that are there, rising; nothing is verified."""
        with storage_errors(self.path / "checkpoints", doing="read"):
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
        # Again, and before anything is opened for writing: what follows writes in place, cleans up and removes.
        check_inside(self.path, writing=True)
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

    def _vouched(self) -> tuple[str, int, str]:
        """What says how the records begin, and that: a checkpoint, or where all were removed the run's result."""
        for step in reversed(self.steps()):
            try:
                records = checkpoints.recorded(self.path, step, config_digest=self._config_digest)
            except CheckpointError:
                continue  # told by who wants to continue from it
            return f"the checkpoint of step {step}", records.metrics_bytes, records.metrics_sha256
        name = _RESULTS.get(str(self.config.get("kind")), "")
        if name and not self.steps() and (self.path / name).is_file():
            with suppress(UserError):  # told by who wants the result
                records = self._read(name).get(_RECORDS)
                if records is not None:
                    return name, records["bytes"], records["sha256"]
        return "", 0, ""

    def _writing(self, what: str) -> AbstractContextManager[None]:
        return storage_errors(f"{what} in {self.path}", self._follow)

    def _follow(self) -> str:
        try:
            kept = self.steps()
        except UserError:
            kept = []
        if not kept:
            return "then start again"
        return f"then continue with --resume {self.path}: the checkpoint of step {kept[-1]} is whole"
