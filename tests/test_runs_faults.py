"""Every moment at which a run can be killed, interrupted or out of space, one after the other.

The file is also the program whose processes are killed: `python test_runs_faults.py FOLDER`.
"""

from __future__ import annotations

import errno
import itertools
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import safetensors.torch
import torch

from fastdarts.errors import UserError
from fastdarts.runs import RunFolder

# All calls by which a run folder changes anything on the disk; shutil and pathlib come down to them too.
CALLS = ("open", "write", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir", "ftruncate")
STEPS = 3


def do_step(run: RunFolder, step: int, weight: torch.Tensor) -> None:
    weight += step
    run.log({"kind": "epoch", "step": step})
    run.write_json(f"epochs/{step:04d}.json", {"step": step})
    run.save(step, {"weight": weight})


def train(path: Path, steps: int = STEPS) -> None:
    """Start a run, or continue it from wherever it was stopped."""
    run = RunFolder.open(path) if (path / "config.json").exists() else RunFolder.create(path, {"seed": 0})
    with run:
        checkpoint = run.load() if run.steps() else None
        run.rewind(checkpoint)
        done, weight = (checkpoint.step, checkpoint.state["weight"]) if checkpoint else (0, torch.zeros(2000))
        for step in range(done + 1, steps + 1):
            do_step(run, step, weight)


def content(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != ".lock"
    }


@contextmanager
def fault_at(call: int, fault: Callable[[str], None], names: tuple[str, ...] = CALLS) -> Iterator[list[str]]:
    """Run `fault(name)` in place of the `call`-th change of the disk; a write has done half of its work by then."""
    seen: list[str] = []

    def wrapped(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*args: Any, **keywords: Any) -> Any:
            seen.append(name)
            if len(seen) == call + 1:
                if name == "write":
                    real(args[0], args[1][: len(args[1]) // 2])
                fault(name)
            return real(*args, **keywords)

        return changed

    # Python 3.10's pathlib keeps the functions that it found when it was imported.
    callers = [os, *([pathlib._normal_accessor] if hasattr(pathlib, "_normal_accessor") else [])]
    real = {name: getattr(os, name) for name in names}
    patches = [
        mock.patch.object(caller, name, wrapped(name, real[name]))
        for caller in callers
        for name in names
        if getattr(caller, name, None) is real[name]
    ]
    for patch in patches:
        patch.start()
    try:
        yield seen
    finally:
        for patch in patches:
            patch.stop()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test cuts the power, and a busy disk takes its time to flush: it is enough to see that it is asked to."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


# Killed


def in_child(work: Callable[[], None]) -> int:
    """Fork, work, and return the child's process id."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return child


def kill_everywhere(folder: Path) -> int:
    """Kill a run at each of its changes of the disk in turn, continue it, and compare; returns the number of kills."""
    train(folder / "whole")
    expected = content(folder / "whole")
    for call in itertools.count():
        path = folder / f"killed-{call}"

        def work(path: Path = path, call: int = call) -> None:
            with fault_at(call, lambda _: os.kill(os.getpid(), signal.SIGKILL)):
                train(path)

        _, status = os.waitpid(in_child(work), 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            return call
        assert os.WTERMSIG(status) == signal.SIGKILL
        if (path / "config.json").exists():
            reading = RunFolder.open(path)
            assert all(record["kind"] == "epoch" for record in reading.metrics())
            if reading.steps():
                checkpoint = reading.load()
                step = checkpoint.step
                assert torch.equal(checkpoint.state["weight"], torch.full((2000,), step * (step + 1) / 2)), call
        train(path)
        assert content(path) == expected, call
        shutil.rmtree(path)
    raise AssertionError


def kill_rewinds(folder: Path) -> int:
    """Kill a rewind to the checkpoint before the newest at each of its changes of the disk."""
    expected = content(folder / "whole")
    for call in itertools.count():
        path = folder / f"rewound-{call}"
        shutil.copytree(folder / "whole", path)

        def work(path: Path = path, call: int = call) -> None:
            with fault_at(call, lambda _: os.kill(os.getpid(), signal.SIGKILL)), RunFolder.open(path) as run:
                run.rewind(run.load(previous=True))

        _, status = os.waitpid(in_child(work), 0)
        reading = RunFolder.open(path)
        assert reading.load().step in (STEPS - 1, STEPS)
        train(path)
        assert content(path) == expected, call
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            return call
    raise AssertionError


def kill_at_random(folder: Path, times: int) -> None:
    """Kill a run that goes on and on at moments of the clock; it continues each time, further each time."""
    path = folder / "random"
    moments = random.Random(0)
    best = 0
    for _ in range(times):
        child = in_child(lambda: train(path, 10**6))
        while not (path / "config.json").exists() or RunFolder.open(path).steps()[-1:] <= [best]:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with RunFolder.open(path) as run:
            checkpoint = run.load()
            run.rewind(checkpoint)
            assert checkpoint.step > best
            assert [record["step"] for record in run.metrics()] == list(range(1, checkpoint.step + 1))
            assert len(os.listdir(path / "epochs")) == checkpoint.step
            best = checkpoint.step


def forked_workers_do_not_keep_the_lock(folder: Path) -> None:
    """A worker outlives its killed parent for a while; the run can be continued meanwhile."""
    with RunFolder.create(folder / "forked", {}) as run:

        def work() -> None:
            try:
                run.log({})
            except UserError:
                time.sleep(600)

        child = in_child(work)
        time.sleep(0.05)
        run.log({"by": "parent"})
    with RunFolder.open(folder / "forked") as again:
        assert again.metrics() == [{"by": "parent"}]
    assert os.waitpid(child, os.WNOHANG) == (0, 0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_killed_at_any_moment_a_run_continues_to_the_same_end(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


# Flushed


def test_all_is_flushed_before_it_is_renamed_into_sight(tmp_path: Path) -> None:
    train(tmp_path / "run", 1)
    names = ("write", "fsync", "mkdir", "rename", "replace")
    with RunFolder.open(tmp_path / "run") as run:
        with fault_at(-1, full, names) as seen:
            run.save(2, {"weight": torch.ones(1)})
        records, tensors, state = ["fsync"], ["write", "fsync"], ["write", "fsync"]
        assert seen == [*records, "mkdir", *tensors, *state, "fsync", "rename", "fsync"]
        with fault_at(-1, full, names) as seen:
            run.write_text("new/report.html", "")
        assert seen == ["mkdir", "fsync", "fsync", "replace", "fsync"]
        with fault_at(-1, full, names) as seen:
            run.log({"kind": "step"})
            run.log({"kind": "epoch"})
        assert seen == ["write", "write", "fsync"]


# Out of space, out of order, interrupted


def whole_checkpoints(run: RunFolder) -> list[int]:
    """The steps of the checkpoints in sight, each of which must verify."""
    reading = RunFolder.open(run.path)
    steps = reading.steps()
    for step, previous in zip(reversed(steps), (False, True), strict=False):
        checkpoint = reading.load(previous=previous)
        assert checkpoint.step == step
        assert torch.equal(checkpoint.state["weight"], torch.full((2000,), step * (step + 1) / 2))
    return steps


def full(name: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def broken(name: str) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def interrupted(name: str) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        (full, UserError, r"cannot write .*No space left on device; free some disk space, then continue with --resume"),
        (
            broken,
            UserError,
            r"cannot write .*Input/output error; check the disk and the path, then continue with --resume",
        ),
        (interrupted, KeyboardInterrupt, "^$"),
    ],
)
def test_a_fault_at_any_moment_leaves_the_checkpoints_before_it(
    tmp_path: Path, fault: Callable[[str], None], error: type[BaseException], said: str
) -> None:
    train(tmp_path / "whole", 4)
    expected = content(tmp_path / "whole")
    making = tuple(name for name in CALLS if name not in ("unlink", "rmdir", "ftruncate"))
    for call in itertools.count():
        path = tmp_path / f"{fault.__name__}-{call}"
        train(path, 2)
        weight = torch.full((2000,), 3.0)
        with RunFolder.open(path) as run:
            try:
                with fault_at(call, fault, making):
                    do_step(run, 3, weight)
            except error as caught:
                assert pytest.raises(error, match=said).matches(caught)
            else:
                assert call > 20
                return
            # The fault struck before the rename, or after it: the checkpoint of step 3 is whole or out of sight.
            assert whole_checkpoints(run) in ([1, 2], [2, 3], [1, 2, 3])
            assert len(run.metrics()) in (2, 3)
            assert not [file for file in path.rglob(".*") if file.is_file() and file.name != ".lock"]
        train(path, 4)
        assert content(path) == expected
        shutil.rmtree(path)


def test_a_fault_while_a_step_is_saved_again_keeps_its_checkpoint(tmp_path: Path) -> None:
    for call in itertools.count():
        path = tmp_path / f"again-{call}"
        train(path, 2)
        with RunFolder.open(path) as run:
            try:
                with fault_at(call, full, ("write", "fsync", "mkdir", "rename")):
                    run.save(2, {"weight": torch.full((2000,), 3.0)})
            except UserError:
                assert whole_checkpoints(run) == [1, 2]
            else:
                assert call > 8
                return


def test_a_disk_that_stays_full_is_told_with_every_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path / "run", 2)
    before = content(tmp_path / "run")
    with RunFolder.open(tmp_path / "run") as run:
        for name in ("write", "fsync"):
            with monkeypatch.context() as patch:
                patch.setattr(os, name, lambda *_: full(""))
                for write in (
                    lambda: run.log({"kind": "epoch"}),
                    lambda: run.write_text("report.html", "x"),
                    lambda: run.write_json("epochs/0001.json", {"step": "other"}),
                    lambda: run.save(3, {}),
                ):
                    with pytest.raises(UserError, match=f"--resume {run.path}: the checkpoint of step 2 is whole"):
                        write()
            assert content(tmp_path / "run") == before


def test_safetensors_own_failure_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path / "run", 2)
    before = content(tmp_path / "run")
    monkeypatch.setattr(safetensors.torch, "save", lambda _: full(""))
    with (
        RunFolder.open(tmp_path / "run") as run,
        pytest.raises(UserError, match=r"cannot write the checkpoint of step 3"),
    ):
        run.save(3, {"weight": torch.ones(1)})
    assert content(tmp_path / "run") == before


def test_events_that_cannot_be_written_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with RunFolder.create(tmp_path / "run", {}) as run:
        run.scalar("loss", 1.0, 1)
        monkeypatch.setattr(SummaryWriter, "flush", lambda _: full(""))
        with pytest.raises(UserError, match=r"No space left on device; free some disk space, then start again"):
            run.save(1, {})
        monkeypatch.undo()
        run.save(1, {})


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.fsync = lambda _: None
    target = Path(sys.argv[1])
    kills = kill_everywhere(target) + kill_rewinds(target)
    kill_at_random(target, 6)
    forked_workers_do_not_keep_the_lock(target)
    print(kills)
