"""A measurement in a process of its own: what it takes is its own, and running out of memory ends nothing else."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import threading
import traceback
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fastdarts.cli.profiling.request import Request
from fastdarts.cli.threads import openmps_own_turns
from fastdarts.errors import UserError

__all__ = ["Outcome", "measured"]

# What a process that ran out of memory may end with: the kernel's killer, or an allocation that nobody caught.
_KILLED = (-signal.SIGKILL, -signal.SIGABRT)
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "cannot allocate memory")


@dataclass(frozen=True)
class Outcome:
    """What came of a measurement.

    Args:
        values: of :func:`fastdarts.cli.profiling.steps.measure_request`; empty where there are none.
        out_of_memory: whether the memory did not suffice.
        error: why there are no values, in one line; empty otherwise.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    out_of_memory: bool = False
    error: str = ""


def measured(request: Request) -> Outcome:
    """Measure in a new process, and wait for it; it does not outlive this call, nor this process.

    Raises:
        UserError: as the search itself would.
        RuntimeError: with the traceback, where the measurement failed in another way.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, request), daemon=True)
    # Ctrl-C reaches the whole group: the child hears nothing of it, and ends when this process says so.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        # A search runs as the command line sets threads up, plain torch as its users run it.
        with nullcontext() if request.contender == "fastdarts" else openmps_own_turns():
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    try:
        with suppress(EOFError, ConnectionResetError):
            return _outcome(*ours.recv())
    finally:
        process.kill()
        process.join()
        ours.close()
    if process.exitcode in _KILLED:
        return Outcome(out_of_memory=True, error="the process was killed: the memory did not suffice")
    raise RuntimeError(f"the measurement ended with exit code {process.exitcode}")


def _outcome(kind: str, value: Any) -> Outcome:
    if kind == "refused":
        raise UserError(*value)
    if kind == "failed":
        raise RuntimeError(value)
    return Outcome(out_of_memory=True, error=value) if kind == "memory" else Outcome(value)


def _serve(pipe: Connection, request: Request) -> None:
    """In the child: measure, and send what came of it."""
    threading.Thread(target=_end_with_parent, args=(pipe,), daemon=True).start()
    from fastdarts.cli.profiling.steps import measure_request

    try:
        _limit(request)
        pipe.send(("done", measure_request(request)))
    except UserError as error:
        pipe.send(("refused", (error.what, error.expected, error.remedy)))
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if isinstance(error, MemoryError) or any(words in text.lower() for words in _NO_MEMORY):
            pipe.send(("memory", text.strip().partition("\n")[0] or "no memory left"))
        else:
            pipe.send(("failed", traceback.format_exc()))


def _end_with_parent(pipe: Connection) -> None:
    """The parent sends nothing: what comes is its end."""
    with suppress(EOFError, OSError):
        pipe.recv()
    os._exit(1)


def _limit(request: Request) -> None:
    """Let an allocation fail that the machine has no memory for, before the machine looks for somebody to kill."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    most = _free_bytes() if request.most_bytes is None else request.most_bytes
    if most is not None:
        now = _status("/proc/self/status", "VmData:") or 0
        resource.setrlimit(resource.RLIMIT_DATA, (now + most, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def _free_bytes() -> int | None:
    return _status("/proc/meminfo", "MemAvailable:")


def _status(path: str, name: str) -> int | None:
    with suppress(OSError):
        for line in Path(path).read_text(encoding="ascii").splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return None
