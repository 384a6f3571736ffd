"""How long work looks in a terminal, and in a log."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from fastdarts.search import Progress as Watcher

__all__ = ["LineProgress", "TerminalProgress", "console", "make_progress"]

# A redraw costs a device synchronisation, so a person gets ten a second and no more.
_REDRAW_SECONDS = 0.1


def console() -> Console:
    """The console for people: standard error, so that standard output holds results only."""
    return Console(stderr=True, highlight=False)


def make_progress(out: Console, quiet: bool = False) -> Watcher:
    """The progress that fits ``out``: a bar in a terminal, a line an epoch elsewhere, nothing if ``quiet``."""
    if quiet:
        return Watcher()
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
    """One sober line an epoch, for logs and pipes."""

    def __init__(self, out: Console) -> None:
        self.out = out

    def begin(self, title: str, epochs: int, steps: int, done: int = 0) -> None:
        self.title, self.epochs, self.first = title, epochs, done // steps
        self.started = time.perf_counter()
        self.out.print(f"{title}: {epochs} epochs of {steps} steps" + (f", {done} steps done" if done else ""))

    def epoch(self, record: Mapping[str, Any]) -> None:
        done = record["epoch"] + 1
        spent = time.perf_counter() - self.started
        left = spent / max(done - self.first, 1) * (self.epochs - done)
        self.out.print(f"{self.title} {done}/{self.epochs} | {_summary(record)} | {left:.0f} s left", soft_wrap=True)

    def note(self, message: str) -> None:
        self.out.print(f"note: {message}", soft_wrap=True)


class TerminalProgress(Watcher):
    """A live bar with epoch, step, losses, accuracies, step time, peak memory and time left."""

    def __init__(self, out: Console) -> None:
        self.out = out
        self.bar: Progress | None = None
        self.last = 0.0

    def begin(self, title: str, epochs: int, steps: int, done: int = 0) -> None:
        self.title, self.epochs, self.steps = title, epochs, steps
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn())
        self.bar = Progress(
            *columns, TimeRemainingColumn(), TextColumn("{task.fields[summary]}"), console=self.out, transient=True
        )
        self.bar.start()
        self.task: TaskID = self.bar.add_task(title, total=epochs * steps, completed=done, summary="")

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
        self.out.print(f"[yellow]note:[/] {message}", soft_wrap=True)

    def end(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
