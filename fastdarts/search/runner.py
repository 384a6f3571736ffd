"""The epochs of any long job: steps, records, checkpoints, interrupts and exact resumption.

The search and the evaluation's training are both a :class:`Job`; what makes work survive a kill is written
here once. A checkpoint holds everything that decides the future: the job's own state, every random generator,
the position inside the epoch and the epoch's running sums, so a resumed run writes the same records.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from fastdarts.errors import Interrupted
from fastdarts.runs import Checkpoint, RunFolder, generators_state, restore_generators
from fastdarts.search.divergence import check_losses
from fastdarts.search.environment import note_environment
from fastdarts.search.extension import set_aside
from fastdarts.search.interrupt import Stop, stop_on_signal
from fastdarts.search.progress import Progress

__all__ = ["Job", "peak_bytes", "run_job"]

# Keys whose values depend on the clock or the machine's state, not on the computation.
TIMING_KEYS = ("step_ms", "elapsed_s", "peak_bytes", "seconds")


class Job(Protocol):
    """What :func:`run_job` drives. Every method is called from one thread."""

    title: str
    steps: int
    device: torch.device

    @property
    def epochs(self) -> int:
        """How many there are; it may change at the end of an epoch."""

    def begin_epoch(self, epoch: int) -> None:
        """Prepare an epoch; called again after a resumption inside it, so it must depend on ``epoch`` only."""

    def step(self, epoch: int, position: int) -> dict[str, Tensor]:
        """One step; returns scalars (on any device) whose means over the epoch are its record.

        It may return before the device has finished, and nothing here waits for that until the numbers are shown.
        """

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


class _Position:
    """Where the work stands, and the sums of the epoch under way."""

    def __init__(self) -> None:
        self.epoch = 0
        self.position = 0
        # Steps of the epochs before: not all have as many where batches grow.
        self.done = 0
        self.sums: dict[str, Tensor] = {}
        self.elapsed = 0.0
        self.step_seconds = 0.0

    def add(self, values: Mapping[str, Tensor]) -> None:
        values = {name: value.detach().double() for name, value in values.items()}
        known = [name for name in values if name in self.sums]
        # A resumed epoch's sums come from the disk. One launch for all: on a GPU the step itself is one or two.
        before = [self.sums[name].to(values[name].device) for name in known]
        after = torch._foreach_add(before, [values[name] for name in known]) if known else []
        # Copies of the first ones, and a dict of its own: what a step or a checkpoint gave stays as it is.
        self.sums = self.sums | dict(zip(known, after, strict=True))
        self.sums |= {name: value.clone() for name, value in values.items() if name not in known}
        self.position += 1

    def spend(self, seconds: float) -> None:
        self.step_seconds += seconds
        self.elapsed += seconds

    def means(self) -> dict[str, float]:
        return {name: float(total) / max(self.position, 1) for name, total in self.sums.items()}

    def step_ms(self) -> float:
        return round(1000.0 * self.step_seconds / max(self.position, 1), 3)

    def next_epoch(self) -> None:
        self.done += self.position
        self.epoch, self.position, self.sums, self.step_seconds = self.epoch + 1, 0, {}, 0.0

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any], steps: int) -> None:
        # A checkpoint of before batches could grow has no such count: every epoch had as many steps.
        state = {"done": state["epoch"] * steps} | state
        for name in vars(self):
            setattr(self, name, state[name])


class _Clock:
    """Times stretches of work. A GPU is waited for at their ends only, never after a single step."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._since = device, 0.0
        self.lap()

    def lap(self) -> float:
        """Seconds since the last lap, all work that was handed to the device included."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        before, self._since = self._since, time.perf_counter()
        return self._since - before


class _Saving:
    """When an epoch ends with a checkpoint: every so many, on a GPU not more often than time allows.

    There an epoch may take a second, and a checkpoint half of one: it may take a fortieth of the time, not a third.
    """

    def __init__(self, save_every: int, device: torch.device, clock: Callable[[], float] = time.monotonic) -> None:
        self._every, self._sparing, self._clock = save_every, device.type == "cuda", clock
        self._next = 0.0

    def due(self, epoch: int) -> bool:
        """Whether the end of an epoch, the ``epoch``-th from 1, is one to save."""
        return epoch % self._every == 0 and not (self._sparing and self._clock() < self._next)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Around a save."""
        started = self._clock()
        yield
        ended = self._clock()
        self._next = ended + 40 * (ended - started)


def run_job(
    job: Job,
    folder: RunFolder,
    *,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
    extension: Mapping[str, Any] | None = None,
    save_every: int = 1,
) -> None:
    """Run ``job`` to its end, saving every ``save_every`` epochs, at the end, and when asked to stop.

    Args:
        job: the work.
        folder: an open run folder; records go to its ``metrics.jsonl``.
        progress: who watches.
        checkpoint: where to continue, None for the start; ``folder`` is rewound to it first, so that a resumed
            run leaves the same records as an uninterrupted one (times apart, and where it went on elsewhere).
        extension: the record of an extension of the finished run that begins at ``checkpoint``.
        save_every: epochs between checkpoints; on a GPU more, where saving would take over a fortieth of the time.

    Raises:
        Diverged: after an epoch with a loss that is not finite, of which nothing is recorded.
        Interrupted: on SIGINT or SIGTERM, after the step under way was finished and saved.
    """
    progress = progress or Progress()
    at = _Position()
    if checkpoint is not None:
        state = checkpoint.state
        job.load_state_dict(state["job"])
        at.load_state_dict(state["position"], job.steps)
        restore_generators({}, state["generators"])
    if extension is not None:
        place, end = set_aside(folder, extension["before"]), job.epochs
        progress.note(
            f"{folder.path.name} goes on to {end} epochs with what it had learnt after {extension['before']} and with "
            f"schedules of {end}, the learning rate's too: it is no run of {end} epochs from the start; what it ended "
            f"with is kept in {place}/"
        )
    # Last: a state that is refused, such as that of other data, must not cost the records and checkpoints after it.
    folder.rewind(checkpoint)
    note_environment(folder, job.device, progress)

    saving = _Saving(save_every, job.device)

    def save() -> Path:
        step = at.done + at.position
        with saving.timed():
            nested = {"job": job.state_dict(), "position": at.state_dict(), "generators": generators_state({})}
            return folder.save(step, nested)

    if extension is not None:
        # Saved with its record: killed from here on, the run knows how far it is to go.
        folder.log(dict(extension))
        save()
    progress.begin(job.title, job.epochs, job.steps, at.done + at.position)
    try:
        with stop_on_signal() as stop:
            while at.epoch < job.epochs:
                planned = job.epochs
                _one_epoch(job, folder, at, progress, stop, save)
                if job.epochs != planned:
                    progress.plan(job.epochs)
                if saving.due(at.epoch) or at.epoch == job.epochs or stop.requested:
                    save()
                # After the last epoch too: what follows, such as the next training of a comparison, was not wanted.
                stop.check(folder.path)
    finally:
        progress.end()


def _one_epoch(job: Job, folder: RunFolder, at: _Position, progress: Progress, stop: Stop, save: Any) -> None:
    job.begin_epoch(at.epoch)
    clock = _Clock(job.device)
    while at.position < job.steps:
        at.add(job.step(at.epoch, at.position))
        if progress.wants_step():
            at.spend(clock.lap())
            shown = at.means() | {"step_ms": at.step_ms(), "peak_bytes": peak_bytes(job.device)}
            progress.step(at.epoch, at.position, shown)
            clock.lap()
        if stop.requested and at.position < job.steps:
            at.spend(clock.lap())
            save()
            raise Interrupted(folder.path)
    at.spend(clock.lap())
    step = at.done + at.position
    record = {"kind": "epoch", "epoch": at.epoch, "step": step}
    # Before the epoch's end, which would derive a genotype from what diverged.
    check_losses(record | at.means(), folder.path)
    record |= job.end_epoch(at.epoch, step, at.means(), folder)
    check_losses(record, folder.path)
    at.elapsed += clock.lap()
    record |= {"step_ms": at.step_ms(), "peak_bytes": peak_bytes(job.device), "elapsed_s": round(at.elapsed, 3)}
    folder.log(record)
    for name, value in _curves(record):
        folder.scalar(name, value, step)
    progress.epoch(record)
    at.next_epoch()


def _curves(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """What TensorBoard draws of an epoch's record: its figures, and those of each cell as ``entropy/normal``."""
    for name, value in record.items():
        if name in TIMING_KEYS:
            continue
        if isinstance(value, float) or name == "parameters":
            yield name, value
        elif isinstance(value, Mapping):
            yield from ((f"{name}/{key}", each) for key, each in value.items() if type(each) in (int, float))
