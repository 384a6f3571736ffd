"""What every stage shares: its options, its rows, and the JSON that is complete after every row."""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
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

from fastdarts._backend import BackendError

__all__ = ["Options", "Stage", "commit", "options"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """How a stage runs.

    Args:
        out: folder of the JSON files; other stages' are read from there.
        toy: tiny sizes, for a machine without a GPU.
        seconds: after which no further row is begun.
        only: rows whose name holds this; "" for all.
        device: where tensors live.
    """

    out: Path
    toy: bool = False
    seconds: float = 600.0
    only: str = ""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def cuda(self) -> bool:
        """Whether there is a GPU to measure."""
        return self.device.type == "cuda"


def options(arguments: list[str] | None = None) -> Options:
    """The command line of a stage.

    Raises:
        SystemExit: an unknown option, or no GPU and not `--toy`.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "bench/results/local")))
    parser.add_argument("--toy", action="store_true", help="tiny sizes, on any machine")
    parser.add_argument("--seconds", type=float, default=600.0, help="after which no further row is begun")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    given = parser.parse_args(arguments)
    if given.toy:
        torch.set_num_threads(1)
    elif not torch.cuda.is_available():
        sys.exit("no CUDA device; --toy runs this stage at toy sizes on the CPU")
    given.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cpu" if given.toy else "cuda")
    return Options(given.out, given.toy, given.seconds, given.only, device)


class Stage:
    """The rows of a stage; an error costs its row, not the stage.

    Args:
        name: of the stage and its JSON.
        given: its options.
    """

    def __init__(self, name: str, given: Options) -> None:
        self.name, self.options = name, given
        self.rows: list[Row] = []
        self._start, self._machine = time.perf_counter(), machine(given.device)
        self.write()

    @property
    def left(self) -> float:
        """Seconds until no further row is begun."""
        return self.options.seconds - (time.perf_counter() - self._start)

    def row(self, name: str, work: Callable[[], Row], **facts: Any) -> Row:
        """Measure one row, or record why not.

        Args:
            name: tells the row from the stage's others.
            work: measures.
            facts: known beforehand.

        Returns:
            The row: `facts` and what `work` returned, or `error`, `not_live` where a backend is missing, or `skipped`.
        """
        row: Row = {"name": name, **facts}
        if self.options.only not in name:
            return row
        start = time.perf_counter()
        if self.left <= 0:
            row["skipped"] = f"the stage's {self.options.seconds:.0f} s were over"
        else:
            try:
                row |= work()
            except Exception as error:  # the other rows are worth having; the log has the trace
                traceback.print_exc(limit=-6)
                missing = isinstance(error, (ImportError, BackendError))
                row["not_live" if missing else "error"] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        # Another row must not start with what this one left; a trace of an error holds tensors until then.
        gc.collect()
        if self.options.cuda:
            torch.cuda.empty_cache()
        row["took_seconds"] = round(time.perf_counter() - start, 2)
        self.rows.append(row)
        self.write()
        print(json.dumps(row), flush=True)
        return row

    def write(self) -> None:
        """The JSON of all rows so far; whole at any moment."""
        content = {"stage": self.name, "toy": self.options.toy, "machine": self._machine, "rows": self.rows}
        path = self.options.out / f"{self.name}.json"
        part = path.with_suffix(".part")
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        part.replace(path)

    def rate(self, name: str, otherwise: float) -> tuple[float, bool]:
        """A ceiling that stage `ceilings` has measured, in its unit; or an assumed one, and False."""
        path = self.options.out / "ceilings.json"
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
        found = [row["value"] for row in rows if row["name"] == name and "value" in row]
        return (found[-1], True) if found else (otherwise, False)


def machine(device: torch.device) -> dict[str, Any]:
    """Machine, versions and command: what must be known to repeat a run."""
    facts: dict[str, Any] = {
        "command": " ".join([Path(sys.argv[0]).stem, *sys.argv[1:]]),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "device": platform.processor() or platform.machine(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
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
