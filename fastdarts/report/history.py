"""What a search did beside training: its stages, what its guards did, and its alarms; read from the epochs' records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastdarts.report.records import RunRecords, number
from fastdarts.report.words import as_epoch

__all__ = ["Alarm", "Event", "Segment", "alarms", "answer_epoch", "as_listed", "events", "segments", "with_stages"]

Record = Mapping[str, Any]

_DONE = {
    "stop": "stopped",
    "rollback": "rolled back",
    "begin": "began a new stage",
    "rewire": "changed what runs",
}


@dataclass(frozen=True)
class Event:
    """Something that curves are marked with.

    Args:
        epoch: epoch of the run after which it happened.
        guard: who did it; empty for a stage that was planned.
        done: what was done, such as ``rolled back to epoch 10``.
        why: in the guard's words.
    """

    epoch: int
    guard: str
    done: str
    why: str


@dataclass(frozen=True)
class Alarm:
    """A sign of collapse.

    Args:
        kind: what it was seen by.
        epochs: of the run, those whose records carry it.
        text: its newest words, with what to do.
    """

    kind: str
    epochs: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Segment:
    """Epochs that ran one after the other on one model, without a rollback between them.

    Args:
        stage: 0 for the first.
        records: of its epochs.
    """

    stage: int
    records: tuple[Record, ...]

    @property
    def epochs(self) -> tuple[int, int]:
        """First and last epoch of the run."""
        return self.records[0]["epoch"], self.records[-1]["epoch"]

    @property
    def stage_epochs(self) -> tuple[int, int]:
        """First and last epoch of the stage; those of the run where a run recorded no stages."""
        first, last = (_whole(self.records[k].get("stage_epoch"), self.records[k]["epoch"]) for k in (0, -1))
        return first, last


def segments(epochs: Sequence[Record]) -> list[Segment]:
    """The epochs in uninterrupted stretches: a new one where the stage changes or its epochs were taken back.

    Args:
        epochs: records of kind ``epoch`` or contents of :func:`with_stages`, in order. A run that recorded no stages is
            one stretch.
    """
    found: list[list[Record]] = []
    for record in epochs:
        before = found[-1][-1] if found else None
        if before is None or not _follows(before, record):
            found.append([])
        found[-1].append(record)
    return [Segment(_whole(each[0].get("stage"), 0), tuple(each)) for each in found]


def with_stages(files: Sequence[Record], epochs: Sequence[Record]) -> list[dict[str, Any]]:
    """The contents of ``epochs/NNNN.json`` with ``stage`` and ``stage_epoch`` of the records of the same epochs.

    Args:
        files: contents, in order.
        epochs: records of kind ``epoch``.
    """
    names = ("stage", "stage_epoch")
    known = {record["epoch"]: {name: record[name] for name in names if name in record} for record in epochs}
    return [dict(file) | known.get(file["epoch"], {}) for file in files]


def events(epochs: Sequence[Record]) -> list[Event]:
    """What guards did, and the stages that began without one, in order.

    Args:
        epochs: records of kind ``epoch``, in order.
    """
    found = [_event(record["epoch"], action) for record in epochs for action in as_listed(record.get("guard"))]
    begun = {event.epoch for event in found if event.done.startswith((_DONE["begin"], _DONE["rollback"]))}
    for segment in segments(epochs)[1:]:
        after = segment.epochs[0] - 1
        if after not in begun:
            found.append(Event(after, "", f"stage {segment.stage + 1} began", ""))
    return sorted(found, key=lambda event: event.epoch)


def answer_epoch(run: RunRecords) -> int | None:
    """The epoch of the run whose genotype the search ended with; None where that cannot be told.

    Results of before they named it are told by their validation figures; of several epochs that have these to the last
    bit, the newest counts.

    Args:
        run: a search's records.
    """
    named = (run.result or {}).get("epoch")
    if isinstance(named, int):
        return named
    figures = tuple((run.result or {}).get(name) for name in ("valid_loss", "valid_accuracy"))
    if None in figures:
        return None
    found = [(record["epoch"], (record.get("valid_loss"), record.get("valid_accuracy"))) for record in run.epochs]
    same = [epoch for epoch, its in found if its == figures]
    return same[-1] if same else None


def alarms(epochs: Sequence[Record]) -> list[Alarm]:
    """The alarms by kind, in the order in which they were first raised.

    Args:
        epochs: records of kind ``epoch``, in order.
    """
    raised: dict[str, list[tuple[int, str]]] = {}
    for record in epochs:
        for alarm in as_listed(record.get("alarms")):
            raised.setdefault(str(alarm.get("kind", "alarm")), []).append((record["epoch"], str(alarm.get("text", ""))))
    return [Alarm(kind, tuple(epoch for epoch, _ in each), each[-1][1]) for kind, each in raised.items()]


def as_listed(value: object) -> list[Mapping[str, Any]]:
    """A record's entry that is an object, a list of objects, or missing, as a list; what is neither is left out."""
    entries = value if isinstance(value, list) else [value]
    return [entry for entry in entries if isinstance(entry, Mapping)]


def _event(epoch: int, action: Mapping[str, Any]) -> Event:
    kind = str(action.get("action", "")).lower()
    done = _DONE.get(kind, kind or "acted")
    if kind == "rollback" and "epoch" in action:
        done += f" to the end of epoch {as_epoch(action['epoch'])}"
    settings = action.get("settings")
    if isinstance(settings, Mapping) and settings:
        done += ", " + ", ".join(f"{name} {_short(value)}" for name, value in settings.items())
    return Event(epoch, str(action.get("guard", "")), done, str(action.get("why", "")))


def _follows(before: Record, record: Record) -> bool:
    if before.get("stage") != record.get("stage"):
        return False
    first, second = before.get("stage_epoch"), record.get("stage_epoch")
    # Not "is the next": of a long search only some of the epochs' files are read.
    return first is None or second is None or second - first == record["epoch"] - before["epoch"]


def _whole(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise


def _short(value: object) -> str:
    return str(value) if number(value) != number(value) else f"{value:g}"
