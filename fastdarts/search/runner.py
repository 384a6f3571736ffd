"""The epochs of any long job: steps, records, checkpoints, interrupts and exact resumption.

The search and the evaluation's training are both a :class:`Job`; what makes work survive a kill is written
here once. A checkpoint holds everything that decides the future: the job's own state, every random generator,
the position inside the epoch and the epoch's running sums, so a resumed run writes the same records.
"""

from __future__ import annotations

import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from fastdarts.runs import Checkpoint, RunFolder, generators_state, restore_generators
from fastdarts.search.progress import Progress

__all__ = ["Interrupted", "Job", "peak_bytes", "run_job"]

# Keys whose values depend on the clock or the machine's state, not on the computation.
TIMING_KEYS = ("step_ms", "elapsed_s", "peak_bytes", "seconds")


class Interrupted(Exception):
    """The user asked to stop; the state was saved first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(f"stopped; the state is saved in {path}")


class Job(Protocol):
    """What :func:`run_job` drives. Every method is called from one thread."""

    title: str
    epochs: int
    steps: int
    device: torch.device

    def begin_epoch(self, epoch: int) -> None:
        """Prepare an epoch; called again after a resumption inside it, so it must depend on ``epoch`` only."""

    def step(self, epoch: int, position: int) -> dict[str, Tensor]:
        """One step; returns scalars (on any device) whose means over the epoch are its record."""

    def end_epoch(self, epoch: int, step: int, means: Mapping[str, float], folder: RunFolder) -> dict[str, Any]:
        """Measure, write the epoch's own files, and return the epoch's record."""

    def state_dict(self) -> dict[str, Any]:
        """Nested state of tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave, or raise a UserError where it was another job's."""


def peak_bytes(device: torch.device) -> int:
    """Peak memory so far in bytes: the allocator's on a GPU, the process's resident set on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class _Stop:
    requested = False


@contextmanager
def _stop_on_signal() -> Iterator[_Stop]:
    """Turn the first SIGINT or SIGTERM into a request to stop after the step; a second one acts at once."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def request(number: int, frame: Any) -> None:
        stop.requested = True
        for each, handler in previous.items():
            signal.signal(each, handler)

    for number in previous:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Position:
    """Where the work stands, and the sums of the epoch under way."""

    def __init__(self) -> None:
        self.epoch = 0
        self.position = 0
        self.sums: dict[str, Tensor] = {}
        self.elapsed = 0.0
        self.step_seconds = 0.0

    def add(self, values: Mapping[str, Tensor], seconds: float) -> None:
        for name, value in values.items():
            value = value.detach().double()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.position += 1
        self.step_seconds += seconds
        self.elapsed += seconds

    def means(self) -> dict[str, float]:
        return {name: float(total) / max(self.position, 1) for name, total in self.sums.items()}

    def step_ms(self) -> float:
        return round(1000.0 * self.step_seconds / max(self.position, 1), 3)

    def next_epoch(self) -> None:
        self.epoch, self.position, self.sums, self.step_seconds = self.epoch + 1, 0, {}, 0.0

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in vars(self):
            setattr(self, name, state[name])


def run_job(
    job: Job,
    folder: RunFolder,
    *,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
    save_every: int = 1,
) -> None:
    """Run ``job`` to its end, saving every ``save_every`` epochs and when asked to stop.

    Args:
        job: the work.
        folder: an open run folder; records go to its ``metrics.jsonl``.
        progress: who watches.
        checkpoint: where to continue, None for the start; ``folder`` is rewound to it first, so that a resumed
            run leaves the same records as an uninterrupted one (times apart).
        save_every: epochs between checkpoints.

    Raises:
        Interrupted: on SIGINT or SIGTERM, after the step under way was finished and saved.
    """
    progress = progress or Progress()
    at = _Position()
    if checkpoint is not None:
        state = checkpoint.state
        job.load_state_dict(state["job"])
        at.load_state_dict(state["position"])
        restore_generators({}, state["generators"])
    # Last: a state that is refused, such as that of other data, must not cost the records and checkpoints after it.
    folder.rewind(checkpoint)

    def save() -> Path:
        step = at.epoch * job.steps + at.position
        nested = {"job": job.state_dict(), "position": at.state_dict(), "generators": generators_state({})}
        return folder.save(step, nested)

    progress.begin(job.title, job.epochs, job.steps, at.epoch * job.steps + at.position)
    try:
        with _stop_on_signal() as stop:
            while at.epoch < job.epochs:
                _one_epoch(job, folder, at, progress, stop, save)
                if at.epoch % save_every == 0 or at.epoch == job.epochs or stop.requested:
                    save()
                # After the last epoch too: what follows, such as the next training of a comparison, was not wanted.
                if stop.requested:
                    raise Interrupted(folder.path)
    finally:
        progress.end()


def _one_epoch(job: Job, folder: RunFolder, at: _Position, progress: Progress, stop: _Stop, save: Any) -> None:
    job.begin_epoch(at.epoch)
    while at.position < job.steps:
        started = time.perf_counter()
        values = job.step(at.epoch, at.position)
        at.add(values, time.perf_counter() - started)
        if progress.wants_step():
            record = at.means() | {"step_ms": at.step_ms(), "peak_bytes": peak_bytes(job.device)}
            progress.step(at.epoch, at.position, record)
        if stop.requested and at.position < job.steps:
            save()
            raise Interrupted(folder.path)
    started = time.perf_counter()
    step = (at.epoch + 1) * job.steps
    record = {"kind": "epoch", "epoch": at.epoch, "step": step}
    record |= job.end_epoch(at.epoch, step, at.means(), folder)
    at.elapsed += time.perf_counter() - started
    record |= {"step_ms": at.step_ms(), "peak_bytes": peak_bytes(job.device), "elapsed_s": round(at.elapsed, 3)}
    folder.log(record)
    for name, value in record.items():
        if isinstance(value, float) and name not in TIMING_KEYS:
            folder.scalar(name, value, step)
    progress.epoch(record)
    at.next_epoch()
