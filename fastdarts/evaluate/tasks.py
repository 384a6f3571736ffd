"""Searches and trainings as tasks: done once, continued after a kill, one after the other or in several processes."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any, TypeVar

import torch

from fastdarts.data import ImageSet
from fastdarts.errors import Diverged, Interrupted, UserError
from fastdarts.evaluate.retrain import RetrainConfig, begun, retrain_once
from fastdarts.nn import import_primitives
from fastdarts.runs import RunFolder
from fastdarts.search.config import SearchConfig
from fastdarts.search.interrupt import stop_on_signal
from fastdarts.search.loop import resume, search
from fastdarts.search.progress import Progress
from fastdarts.spaces import Space

__all__ = ["Task", "run_named", "run_tasks", "search_once"]

Key = TypeVar("Key")

# How often the parent of working processes looks whether it was asked to stop.
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Task:
    """A search or a training in a folder of its own.

    Args:
        path: the run folder, there or not.
        config: what to do.
        search_space: of a search.
        images: for custom data: the ImageSet of a search, the (training, test) ImageSets of a training; else None.
        command: how it was started, for the record of a search.
    """

    path: Path
    config: SearchConfig | RetrainConfig
    search_space: Space | None = None
    images: Any = None
    command: str = ""

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do but to read the result."""
        name = "result.json" if isinstance(self.config, SearchConfig) else "retrain.json"
        return begun(self.path) and (self.path / name).exists()

    def run(self, progress: Progress) -> dict[str, Any]:
        """Do what is left of it and return its result.

        Raises:
            UserError: for a folder begun with other settings, and what the work itself refuses.
            Diverged: where its losses say that there is no result.
            Interrupted: on SIGINT or SIGTERM, with the state saved.
        """
        if isinstance(self.config, SearchConfig):
            arguments: dict[str, Any] = {"search_space": self.search_space, "train_set": self.images}
            return search_once(self.config, self.path, **arguments, progress=progress, command=self.command)
        _check_same(self.path, dataclasses.asdict(self.config))
        return retrain_once(self.config, self.path, sets=self.images, progress=progress)


def search_once(
    config: SearchConfig,
    path: Path,
    *,
    search_space: Space | None = None,
    train_set: ImageSet | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> dict[str, Any]:
    """The result of a search in ``path``: read if it is finished, else continued or started.

    Args:
        config, search_space, train_set, progress, command: as for :func:`fastdarts.search.search`.
        path: the run folder, there or not.

    Returns:
        What its ``result.json`` holds.

    Raises:
        UserError: for a folder begun with another configuration, and as a search does.
        Diverged: as a search does.
        Interrupted: on SIGINT or SIGTERM.
    """
    _check_same(path, config.to_json())
    if not begun(path):
        arguments: dict[str, Any] = {"train_set": train_set, "search_space": search_space}
        search(config, path, **arguments, progress=progress, command=command)
    elif not (path / "result.json").exists():
        resume(path, train_set=train_set, progress=progress)
    result: dict[str, Any] = RunFolder.open(path).read_json("result.json")
    return result


def run_tasks(tasks: Sequence[Task], *, jobs: int = 1, progress: Progress | None = None) -> list[dict[str, Any]]:
    """The results of all tasks, in their order; the finished ones are read, the others done.

    One that diverged ends nothing but itself: it is told, and in place of a result stands ``{"diverged": what}``.

    With several processes each has its share of the CPU threads, unless its configuration says how many, so that the
    last bits of a run may differ from those of one process. A signal to stop is passed on to them: they save, and the
    next call continues them. So they do when this process is killed.

    Args:
        tasks: what to do; no two in one folder.
        jobs: processes at a time; 1 works in this process.
        progress: who watches; of several processes it hears the notes, and which task has ended.

    Raises:
        UserError: for jobs below 1, and what a task refuses; the others under way are stopped then, and saved.
        Interrupted: on SIGINT or SIGTERM.
        RuntimeError: if a process failed otherwise; it has told on standard error how.
    """
    progress = progress or Progress()
    if jobs < 1:
        raise UserError(f"jobs is {jobs}", "at least 1")
    left = [task for task in tasks if not task.finished]
    diverged: dict[Path, str] = {}
    if jobs == 1 or len(left) < 2:
        with stop_on_signal() as stop:
            for count, task in enumerate(left, 1):
                if len(left) > 1:
                    progress.note(f"{task.path.name}: {count} of {len(left)} to do")
                try:
                    task.run(progress)
                except Diverged as error:
                    diverged[task.path] = error.what
                    progress.note(str(error))
                stop.check(task.path)
    else:
        diverged = _Processes(left, jobs, progress).run()
    return [{"diverged": diverged[task.path]} if task.path in diverged else task.run(progress) for task in tasks]


def run_named(
    tasks: Mapping[Key, Task], *, jobs: int, progress: Progress
) -> tuple[dict[Key, dict[str, Any]], dict[Key, str]]:
    """:func:`run_tasks` by name: the results, and what happened to those that diverged.

    The trainings of what searches find are known only when these have ended, and so is which of them are one and the
    same: a caller with both makes two calls, one after the other.
    """
    ended = dict(zip(tasks, run_tasks(list(tasks.values()), jobs=jobs, progress=progress), strict=True))
    diverged = {key: each["diverged"] for key, each in ended.items() if "diverged" in each}
    return {key: each for key, each in ended.items() if key not in diverged}, diverged


def _check_same(path: Path, config: dict[str, Any]) -> None:
    if begun(path) and RunFolder.open(path).config.get("config") != json.loads(json.dumps(config)):
        raise UserError(
            f"{path} was begun with another configuration",
            "the arguments and the version of fastdarts that began it",
            "repeat them, or name another folder (--run)",
        )


class _Processes:
    """The parent's side: so many children, each with one task at a time, and a pipe to each."""

    def __init__(self, tasks: Sequence[Task], jobs: int, progress: Progress) -> None:
        self.waiting, self.count, self.progress = list(reversed(tasks)), len(tasks), progress
        self.jobs = min(jobs, len(tasks))
        self.children: dict[connection.Connection, tuple[Any, Task]] = {}
        self.failure: Exception | None = None
        self.diverged: dict[Path, str] = {}
        self.done = 0

    def run(self) -> dict[Path, str]:
        """Start the children, keep them busy, and raise what went wrong; which tasks diverged, and how."""
        told = False
        with stop_on_signal() as stop:
            for _ in range(self.jobs):
                self._start()
            while self.children:
                heard: list[Any] = connection.wait(list(self.children), timeout=_LOOK_SECONDS)
                for pipe in heard:
                    self._hear(pipe, stopping=told)
                if (stop.requested or self.failure is not None) and not told:
                    told = True
                    for process, _ in self.children.values():
                        process.terminate()
        if self.failure is not None:
            raise self.failure
        stop.check(self.last.path)
        return self.diverged

    def _start(self) -> None:
        # A forked child would share this process' threads' locks and, on a GPU, its context: neither survives a fork.
        context = multiprocessing.get_context("spawn")
        mine, its = context.Pipe()
        process = context.Process(target=_work, args=(its, self.jobs))
        process.start()
        its.close()
        self._give(mine, process)

    def _give(self, pipe: connection.Connection, process: Any) -> None:
        self.last = self.waiting.pop()
        self.children[pipe] = process, self.last
        # A child that died while it started is noticed when it is heard next.
        with suppress(BrokenPipeError):
            pipe.send((dataclasses.replace(self.last, images=None), _taken_apart(self.last.images)))

    def _hear(self, pipe: connection.Connection, *, stopping: bool) -> None:
        process, task = self.children[pipe]
        try:
            kind, said = pipe.recv()
        except (EOFError, ConnectionResetError):
            kind, said = "gone", None
        if kind == "note":
            self.progress.note(f"{task.path.name}: {said}")
            return
        if kind == "diverged":
            self.diverged[task.path] = said
            self.progress.note(str(Diverged(task.path, said)))
        if kind in ("done", "diverged"):
            self.done += 1
            self.progress.note(f"{task.path.name} has ended, {self.done} of {self.count}")
            if self.waiting and not stopping:
                self._give(pipe, process)
                return
        # Without a pipe the child ends.
        del self.children[pipe]
        pipe.close()
        process.join()
        if kind == "refused":
            self.failure = self.failure or UserError(*said)
        elif kind == "gone" and not stopping:
            self.failure = self.failure or RuntimeError(f"the process of {task.path} ended with {process.exitcode}")


class _Relay(Progress):
    """A child's progress: its notes go to the parent."""

    def __init__(self, pipe: connection.Connection) -> None:
        self.pipe = pipe

    def note(self, message: str) -> None:
        _tell(self.pipe, "note", message)


def _taken_apart(images: Any) -> Any:
    """Sets of images as another process can receive them: their weak references to copies cannot be sent."""
    if isinstance(images, ImageSet):
        return {field.name: getattr(images, field.name) for field in dataclasses.fields(images) if field.init}
    return None if images is None else tuple(map(_taken_apart, images))


def _put_together(sent: Any) -> Any:
    if isinstance(sent, dict):
        return ImageSet(**sent)
    return None if sent is None else tuple(map(_put_together, sent))


def _work(pipe: connection.Connection, jobs: int) -> None:
    """A child's life."""
    # Ctrl-C in a terminal goes to the whole group; here it must come once, from the parent, or the child would take it
    # for a second one and end without saving.
    os.setpgid(0, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))
    import_primitives()
    while True:
        try:
            task, images = pipe.recv()
        except EOFError:
            return
        try:
            dataclasses.replace(task, images=_put_together(images)).run(_Relay(pipe))
        except UserError as error:
            _tell(pipe, "refused", (error.what, error.expected, error.remedy))
        except Diverged as error:
            _tell(pipe, "diverged", error.what)
        except Interrupted:
            _tell(pipe, "interrupted", None)
        else:
            _tell(pipe, "done", None)


def _tell(pipe: connection.Connection, kind: str, said: Any) -> None:
    # Where the parent was killed there is nobody to tell, and the state is saved all the same.
    with suppress(BrokenPipeError):
        pipe.send((kind, said))


def _end_with_parent() -> None:
    """Where the parent is killed, nobody would know of this process, and its run would stay locked: save and end."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
