"""How long work looks in a terminal, and in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from fastdarts.search.progress import Progress as Watcher

__all__ = ["LineProgress", "TerminalProgress", "console", "make_progress"]

# A redraw costs a device synchronisation, so a person gets ten a second and no more.
_REDRAW_SECONDS = 0.1
# A log gets a line an epoch, and where an epoch is long, a line a minute.
_LINE_SECONDS = 60.0


def console() -> Console:
    """The console for people: standard error, so that standard output holds results only."""
    # Without markup, since a path may hold brackets.
    return Console(stderr=True, highlight=False, markup=False)


def make_progress(out: Console) -> Watcher:
    """The progress that fits ``out``: a bar in a terminal, a line an epoch elsewhere."""
    return TerminalProgress(out) if out.is_terminal else LineProgress(out)


def _summary(record: Mapping[str, Any]) -> str:
    parts = []
    for label, level in (("train", "train"), ("arch", "arch"), ("valid", "valid")):
        if f"{level}_loss" in record:
            parts.append(f"{label} {record[f'{level}_loss']:.3f} {record[f'{level}_accuracy']:6.1%}")
    parts.append(f"{record['step_ms']:.0f} ms/step")
    parts.append(f"peak {record['peak_bytes'] / 2**20:.0f} MiB")
    return " | ".join(parts)


class LineProgress(Watcher):
    """One sober line an epoch, or a minute where an epoch takes longer, for logs and pipes."""

    def __init__(self, out: Console) -> None:
        self.out = out

    def begin(self, title: str, epochs: int, steps: int, done: int = 0) -> None:
        self.title, self.epochs, self.steps, self.first = title, epochs, steps, done
        self.started = self.last = time.monotonic()
        behind = f", {done} steps done" if done else ""
        self.out.print(f"{title}: {epochs} epochs of {steps} steps{behind}", soft_wrap=True)

    def plan(self, epochs: int) -> None:
        self.epochs = epochs

    def wants_step(self) -> bool:
        return time.monotonic() - self.last >= _LINE_SECONDS

    def step(self, epoch: int, step: int, record: Mapping[str, Any]) -> None:
        self._line(f"{epoch + 1}/{self.epochs} | step {step}/{self.steps}", epoch * self.steps + step, record)

    def epoch(self, record: Mapping[str, Any]) -> None:
        self._line(f"{record['epoch'] + 1}/{self.epochs}", record["step"], record)

    def _line(self, where: str, done: int, record: Mapping[str, Any]) -> None:
        self.last = time.monotonic()
        left = (self.last - self.started) / max(done - self.first, 1) * (self.epochs * self.steps - done)
        spelt = f"{left:.0f} s" if left < 120 else str(timedelta(seconds=round(left)))
        self.out.print(f"{self.title} {where} | {_summary(record)} | {spelt} left", soft_wrap=True)

    def note(self, message: str) -> None:
        self.out.print(f"note: {message}", soft_wrap=True)


class _TwoLines(Progress):
    """The figures under the bar: beside it they would push step and time left out of a terminal of 80 columns."""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            yield Text(f"  {task.fields['summary']}", no_wrap=True, overflow="ellipsis")


class TerminalProgress(Watcher):
    """A live bar with epoch, step, losses, accuracies, step time, peak memory and time left."""

    def __init__(self, out: Console) -> None:
        self.out = out
        self.bar: Progress | None = None
        self.last = 0.0

    def begin(self, title: str, epochs: int, steps: int, done: int = 0) -> None:
        self.title, self.epochs, self.steps = title, epochs, steps
        name = TextColumn("{task.description}", markup=False)
        columns = (name, BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = _TwoLines(*columns, console=self.out, transient=True)
        self.bar.start()
        self.task: TaskID = self.bar.add_task(title, total=epochs * steps, completed=done, summary="")

    def plan(self, epochs: int) -> None:
        self.epochs = epochs
        if self.bar is not None:
            self.bar.update(self.task, total=epochs * self.steps)

    def wants_step(self) -> bool:
        return time.monotonic() - self.last >= _REDRAW_SECONDS

    def step(self, epoch: int, step: int, record: Mapping[str, Any]) -> None:
        self.last = time.monotonic()
        if self.bar is not None:
            description = f"{self.title} epoch {epoch + 1}/{self.epochs}"
            completed = epoch * self.steps + step
            self.bar.update(self.task, description=description, completed=completed, summary=_summary(record))

    def epoch(self, record: Mapping[str, Any]) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=record["step"], summary=_summary(record))
            self.bar.console.print(
                f"{self.title} {record['epoch'] + 1}/{self.epochs} | {_summary(record)}", soft_wrap=True
            )

    def note(self, message: str) -> None:
        self.out.print(Text.assemble(("note: ", "yellow"), message), soft_wrap=True)

    def end(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
