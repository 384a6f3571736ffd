"""What every stage shares: its options, its rows, and the record that is complete after every row."""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bench.gpu import record
from bench.gpu.record import Row
from fastdarts._backend import BackendError

__all__ = ["Options", "Stage", "commit", "options", "run"]

# Exit statuses of a stage: some rows were lost; the GPU's context is lost, so that this process can measure no more.
LOST, POISONED = 3, 4


@dataclass(frozen=True)
class Options:
    """How a stage runs.

    Args:
        out: folder of the record; what other stages measured is read from there.
        toy: tiny sizes, on the CPU's engine.
        paper: on a GPU of paper: fastdarts' kernels are compiled and launched at their real sizes, and compute nothing;
            what computes has a tiny size; no figure is kept.
        seconds: after which no further row is begun.
        only: a regular expression that the names of rows must match somewhere; "" for all.
        rows: how many there are at most.
        again: leave out what the record says was begun: the process that did so is gone.
        device: where tensors live.
    """

    out: Path
    toy: bool = False
    paper: bool = False
    seconds: float = 600.0
    only: str = ""
    rows: int = sys.maxsize
    again: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def cuda(self) -> bool:
        """Whether there is a GPU, if only of paper."""
        return self.device.type == "cuda" or self.paper

    @property
    def small(self) -> bool:
        """Whether what computes has a tiny size: everything but fastdarts' own kernels on paper."""
        return self.toy or self.paper


def parser() -> argparse.ArgumentParser:
    """The options that every stage has."""
    found = argparse.ArgumentParser()
    found.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "bench/results/local")))
    found.add_argument("--toy", action="store_true", help="tiny sizes, on any machine")
    found.add_argument("--paper", action="store_true", help="on a GPU of paper, on any machine: a dry run")
    found.add_argument("--seconds", type=float, default=600.0, help="after which no further row is begun")
    found.add_argument("--only", default="", help="rows whose name this regular expression is found in")
    found.add_argument("--rows", type=int, default=sys.maxsize, help="how many at most")
    found.add_argument("--again", action="store_true", help="only what the record in --out does not have yet")
    return found


def options(arguments: list[str] | None = None) -> Options:
    """The command line of a stage.

    Raises:
        SystemExit: an unknown option, or no GPU and neither `--toy` nor `--paper`.
    """
    return chosen(parser().parse_args(arguments))


def chosen(given: argparse.Namespace) -> Options:
    """The options that were given; the process has its GPU afterwards, be it of paper."""
    given.out.mkdir(parents=True, exist_ok=True)
    if given.toy or given.paper:
        torch.set_num_threads(1)
    if given.paper:
        from bench.gpu import paper

        paper.install(given.out)
    elif not given.toy and not torch.cuda.is_available():
        sys.exit("no CUDA device; --toy runs this stage at toy sizes on the CPU, --paper on a GPU of paper")
    else:
        from bench.gpu import kit

        kit.adopt(given.out)
    device = torch.device("cpu" if given.toy or given.paper else "cuda")
    return Options(given.out, given.toy, given.paper, given.seconds, given.only, given.rows, given.again, device)


class Stage:
    """The rows of a stage; an error costs its row, not the stage.

    Args:
        name: of the stage.
        given: its options.
    """

    def __init__(self, name: str, given: Options) -> None:
        self.name, self.options = name, given
        self.rows: list[Row] = []
        self._start = time.perf_counter()
        self._check = os.environ.get("FASTDARTS_CHECK", name)  # what bench.gpu.call calls this process
        earlier = record.lines(given.out / record.NAME) if given.again else ()
        self._begun = {line["begun"] for line in earlier if line.get("in") == self._check and "begun" in line}
        self._write(machine=machine(given), toy=given.toy, paper=given.paper)

    @property
    def left(self) -> float:
        """Seconds until no further row is begun."""
        return self.options.seconds - (time.perf_counter() - self._start)

    @property
    def lost(self) -> list[Row]:
        """Rows that have no figure because something went wrong."""
        return [row for row in self.rows if record.lost(row)]

    def wants(self, name: str) -> bool:
        """Whether a row is among those asked for."""
        full = len(self.rows) >= self.options.rows
        return not full and name not in self._begun and re.search(self.options.only, name) is not None

    def row(self, name: str, work: Callable[[], Row], **facts: Any) -> Row:
        """Measure one row, or record why not; see :meth:`end`.

        Args:
            name: tells the row from the stage's others.
            work: measures.
            facts: known beforehand.

        Returns:
            The row: `facts` and what `work` returned, or `error`, `not_live` where a backend is missing, or `skipped`.
        """
        row: Row = {"name": name, **facts}
        if not self.wants(name):
            return row
        if self.left <= 0:
            row["skipped"] = f"the stage's {self.options.seconds:.0f} s were over"
            return self.end(row)
        start = time.perf_counter()
        self.begin(name)
        try:
            row |= self._measured(work)
        except Exception as error:  # the other rows are worth having; the log has the trace
            traceback.print_exc(limit=-6)
            missing = isinstance(error, (ImportError, BackendError))
            row["not_live" if missing else "error"] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        # Another row must not start with what this one left; a trace of an error holds tensors until then.
        gc.collect()
        row["took_seconds"] = round(time.perf_counter() - start, 2)
        return self.end(row)

    def begin(self, name: str) -> None:
        """Put into the record that a row has begun."""
        self._write(begun=name)

    def end(self, row: Row) -> Row:
        """Put a row that has ended into the record; end the process where it has lost its GPU."""
        self.rows.append(row)
        self._write(row=row)
        print(json.dumps(row), flush=True)
        if self.options.cuda and not _freed():
            os._exit(POISONED)  # whatever ends in the ordinary way would ask the GPU again
        return row

    def so_far(self, name: str, found: Row) -> None:
        """Put into the record what a row that is not done has found, should it never be."""
        self._write(begun=name, so_far=found)

    def _measured(self, work: Callable[[], Row]) -> Row:
        if not self.options.paper:
            return work()
        from bench.gpu import paper

        with paper.counted() as found:
            work()
        return {"not_measured": "on paper", **found}

    def _write(self, **content: Any) -> None:
        record.append(self.options.out, {"stage": self.name, "in": self._check, **content})

    def rate(self, name: str, otherwise: float) -> tuple[float, bool]:
        """A ceiling that stage `ceilings` has measured, in its unit; or an assumed one, and False."""
        every = (line["row"] for line in record.lines(self.options.out / record.NAME) if "row" in line)
        found = [row["value"] for row in every if row["name"] == name and "value" in row]
        return (found[-1], True) if found else (otherwise, False)


def _freed() -> bool:
    """Give the GPU's cached memory back; False where the GPU does not answer any more."""
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError as error:
        print(f"the GPU is lost to this process: {str(error).splitlines()[0]}", file=sys.stderr, flush=True)
        return False
    return True


def run(main: Callable[[], Stage]) -> None:
    """Run a stage as a process: its exit status is LOST where rows were lost.

    Raises:
        SystemExit: always.
    """
    stage = main()
    lost = [row["name"] for row in stage.lost]
    if lost:
        print(f"{len(lost)} of {len(stage.rows)} rows lost: {'; '.join(lost[:5])}", file=sys.stderr)
    sys.stdout.flush()
    sys.exit(LOST if lost else 0)


def machine(given: Options) -> dict[str, Any]:
    """Machine, versions and command: what must be known to repeat a run."""
    facts: dict[str, Any] = {
        "command": " ".join([Path(sys.argv[0]).stem, *sys.argv[1:]]),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "device": "a GPU of paper" if given.paper else platform.processor() or platform.machine(),
    }
    if given.device.type == "cuda":
        properties = torch.cuda.get_device_properties(given.device)
        facts |= {
            "device": properties.name,
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return facts


def commit() -> str:
    """The commit, with `+changes` where the tree has some; `unknown` where the tree came without its history."""
    known = os.environ.get("FASTDARTS_COMMIT")
    if known:
        return known
    command = ["git", "describe", "--always", "--dirty=+changes", "--abbrev=9"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
