"""A call of a lent GPU: its checks, one after the other, each with its own limit and its own process.

    python -m bench.gpu.call A                  # the whole first call; bench/gpu/device.sh does this and what it needs
    python -m bench.gpu.call --dry A B          # both calls here, on a GPU of paper
    python -m bench.gpu.call steps memory       # some checks, on a machine with a GPU that is yours

A process that faults or hangs costs its check, and a check whose process lost the GPU goes on in another one with the
rows that are left. What was measured is in the record before the next row begins, and the table after every check.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gpu import kit, record, summary

__all__ = ["CALLS", "CHECKS", "Call", "Check", "main"]

POISONED = 4  # as a stage says it
_LOG_BYTES = 12 << 20  # of one check; what comes back from the machine has a limit
_SPARE = 6.0  # seconds for the table and for going home
_STARTS = 4  # of one check's process
_ROWLESS = ("build", "kit", "doctor")
_FAULT = re.compile(r"illegal|misaligned|device-side assert|unspecified launch failure|CUDA error", re.IGNORECASE)


@dataclass(frozen=True)
class Check:
    """A part of a call.

    Args:
        name: in the table of how they ended.
        limit: seconds it may take; what the others leave is its own too.
        module: a stage of bench.gpu, or `build`, `kit`, `doctor`.
        arguments: of the stage.
        sanitizer: the tool of compute-sanitizer that it runs under.
        fault: whether it is for calls in which something faulted.
    """

    name: str
    limit: int
    module: str = ""
    arguments: tuple[str, ...] = ()
    sanitizer: str = ""
    fault: bool = False


def _only(*expressions: str) -> tuple[str, ...]:
    return ("--only", "|".join(expressions))


CHECKS = {
    each.name: each
    for each in (
        *(Check("build", 300), Check("kit", 30), Check("doctor", 60), Check("ceilings", 60), Check("warm", 300)),
        *(Check("parity", 90), Check("tests", 300), Check("kernels", 180), Check("counters", 90), Check("steps", 240)),
        *(Check("memory", 80), Check("mixed_op", 60), Check("epochs", 180), Check("profiles", 90)),
        Check("compiled", 400),
        Check("memcheck", 200, "sanitize", sanitizer="memcheck"),
        Check("racecheck", 240, "sanitize", sanitizer="racecheck"),
    )
}
# Of the GPU tests those of call B, whose kernels are carried: some of each kind.
TESTS = (
    r"^test_cell_gpu\.py::test_single_.*\[cuda-(normal|reduction|partial reduction)-",
    r"^test_cell_gpu\.py::test_(memory_.*\[cuda|half_.*\[cuda)-(uneven partial|mixed op halved)-",
    r"^test_(mixed_sum_triton|stencil_triton)\.py::test_parity\[",
    r"^test_(coefficients|optim|augment)\.py::",
)
CALLS = {
    # Does it run, is it right, what is the first figure. 150 s.
    "A": (
        Check("kit", 20, "kit", ("A",)),
        Check("parity, cuda", 22, "parity", _only("^(cell|step), .*cuda$")),
        Check("parity, triton", 20, "parity", _only("^(cell|step), DARTS.*triton$")),
        Check("bits", 18, "parity", _only("^bits, .*cuda$", "^bits, DARTS, triton$")),
        Check(
            "tests",
            20,
            "tests",
            _only(r"^test_(stencil_cuda|stencil_cuda_backward)\.py::test_(parity(\[|_of_maps)|tiles)"),
        ),
        Check("ceilings", 12),
        Check("steps", 26, "steps", _only("^DARTS, (fp32, cuda, step, graph, fast|eager, fp32, channels_last)$")),
        Check("memcheck", 60, "parity", _only("^cell, .*DARTS, (cuda|triton)$"), sanitizer="memcheck", fault=True),
    ),
    # What it costs. 540 s.
    "B": (
        Check("kit", 20, "kit", ("B",)),
        Check("ceilings", 12),
        Check("steps", 190),
        Check("kernels", 50, "kernels", _only("DARTS cell 1,", "^(coefficients|optim|augment)")),
        Check("counters", 45),
        Check("epochs", 50, "epochs", _only("^PC-DARTS, cuda, four epochs$")),
        Check("memory", 30, "memory", _only("^(DARTS|PC-DARTS)")),
        Check("profiles", 25, "profiles", _only("cuda$", "eager, channels_last$")),
        Check("tests", 70, "tests", _only(*TESTS)),
        Check("compiled", 40, "compiled", _only("^cell, fp32")),
    ),
}
LIMITS = {"A": 150.0, "B": 540.0}


class Call:
    """Some checks and how they ended.

    Args:
        checks: in their order.
        out: folder of the record, the log and the table.
        seconds: of all together.
        dry: what a dry run tells every stage; empty on a GPU.
        kit: whether what was carried is used.
        together: whether this process runs every stage itself, as only a dry run may.
    """

    def __init__(
        self, checks: list[Check], out: Path, seconds: float, *, dry: list[str], kit: bool, together: bool = False
    ) -> None:
        self.checks, self.out, self.dry, self.kit, self.together = checks, out, dry, kit, together
        self.seconds = 1e6 if dry else seconds
        self.ended: dict[str, str] = {}
        self.faulted = False
        self._begun = time.monotonic()
        out.mkdir(parents=True, exist_ok=True)
        for name in (record.NAME, "log.txt", "table.md"):
            (out / name).unlink(missing_ok=True)

    @property
    def left(self) -> float:
        """Seconds until the call should be over."""
        return self.seconds - _SPARE - (time.monotonic() - self._begun)

    def run(self, jobs: int = 1) -> None:
        """Every check; several at once only where nothing is timed."""
        if jobs > 1:
            with ThreadPoolExecutor(jobs) as pool:
                list(pool.map(self.check, self.checks))
            return
        for check in self.checks:
            self.check(check)
            if check.module == "kit" and not self.ended[check.name].startswith("ok"):
                print("the kit does not fit: nothing else was begun", flush=True)
                return
            self.table()

    def check(self, check: Check) -> None:
        """Run one check, in as many processes as it loses, and say how it ended."""
        after = self.checks[self.checks.index(check) + 1 :] if check in self.checks else []
        promised = sum(each.limit for each in after if not each.fault)
        limit = max(min(check.limit, self.left), self.left - promised)
        if check.fault and not (self.faulted or self.dry):
            return self._end(check, "not needed: nothing faulted", 0.0, limit)
        if limit < 5:
            return self._end(check, f"NOT RUN: {max(self.left, 0):.0f} s were left", 0.0, limit)
        start, offset = time.monotonic(), self._bytes()
        starts = code = 0
        while not starts or (starts < _STARTS and self._poisoned(code) and limit - (time.monotonic() - start) > 10):
            code = self._process(check, limit - (time.monotonic() - start), again=starts > 0)
            starts += 1
        status, faulted = _status(list(record.lines(self.out / record.NAME, offset)), check, code)
        self.faulted |= faulted or self._poisoned(code)
        status += f", in {starts} processes" if starts > 1 else ""
        return self._end(check, status, time.monotonic() - start, limit)

    def _poisoned(self, code: int) -> bool:
        """Whether a process ended without its GPU: by its own account, or by a signal that is not ours."""
        return code == POISONED or (code < 0 and -code not in (signal.SIGKILL, signal.SIGTERM))

    def _process(self, check: Check, seconds: float, *, again: bool) -> int:
        """The exit status of the check's process, -9 where it was over its time."""
        wanted = command(check, self.out, seconds, dry=self.dry, again=again)
        if self.together:
            return _here(wanted, check)
        log = self.out / ("log.txt" if not self.dry else f"log {check.name}.txt".replace(" ", "-").replace(",", ""))
        with log.open("ab") as file:
            file.write(f"== {check.name}, at most {seconds:.0f} s\n".encode())
            file.flush()
            process = subprocess.Popen(
                wanted,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self._environment(check),
                preexec_fn=os.setpgrp,
            )
            try:
                return process.wait(seconds)
            except subprocess.TimeoutExpired:
                for number in (signal.SIGTERM, signal.SIGKILL):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, number)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(2)
                return -signal.SIGKILL

    def _environment(self, check: Check) -> dict[str, str]:
        found = kit.environment() if self.kit else dict(os.environ)
        found |= {"FASTDARTS_CHECK": check.name, "PYTHONUNBUFFERED": "1"}
        found |= {"OMP_NUM_THREADS": found.get("OMP_NUM_THREADS", "8")}
        # Each allocation its own, so that what lies beyond one is nobody's.
        return found | ({"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if check.sanitizer else {})

    def _bytes(self) -> int:
        path = self.out / record.NAME
        return path.stat().st_size if path.exists() else 0

    def _end(self, check: Check, status: str, seconds: float, limit: float) -> None:
        self.ended[check.name] = f"{status}, {seconds:.0f} s"
        line = {"check": check.name, "status": status, "seconds": round(seconds, 1), "limit": round(limit)}
        record.append(self.out, line)
        print(f"{check.name:<16}{self.ended[check.name]}", flush=True)

    def table(self) -> str:
        """Write the table as far as it is known, and give its short form."""
        stages = summary.merged([self.out])
        (self.out / "table.md").write_text(summary.markdown(stages), encoding="utf-8")
        return summary.markdown(stages, short=True)


def _here(wanted: list[str], check: Check) -> int:
    """Run a stage in this process; the exit status that it would have had."""
    _, _, module, *options = wanted
    os.environ["FASTDARTS_CHECK"] = check.name
    stage = importlib.import_module(module).main(options)
    return 3 if stage.lost else 0


def command(check: Check, out: Path, seconds: float, *, dry: list[str], again: bool) -> list[str]:
    """What runs a check."""
    module = check.module or check.name
    if module == "build":
        return [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "-e", "."]
    if module == "kit":
        return [sys.executable, "-m", "bench.gpu.kit", "unpack", *check.arguments]
    if module == "doctor":
        return [sys.executable, "-m", "fastdarts", "doctor"]
    # A row that begins with the last second would not end.
    options = ["--out", str(out), "--seconds", str(round(max(1.0, seconds - 4)))]
    options += [*check.arguments, *dry, *(["--again"] if again else [])]
    tool = ["compute-sanitizer", "--tool", check.sanitizer, "--error-exitcode", "9", "--launch-timeout", "60"]
    return [*(tool if check.sanitizer and not dry else []), sys.executable, "-m", f"bench.gpu.{module}", *options]


def _status(lines: list[dict[str, Any]], check: Check, code: int) -> tuple[str, bool]:
    """How a check ended, of its rows and its exit status; and whether something faulted on the GPU."""
    own = [line for line in lines if line.get("in") == check.name]
    rows = {line["row"]["name"]: line["row"] for line in own if "row" in line}
    begun = [line["begun"] for line in own if "begun" in line]
    lost = [name for name, row in rows.items() if record.lost(row)]
    lost += [name for name in dict.fromkeys(begun) if name not in rows]
    left = sum("skipped" in row for row in rows.values())
    faulted = any(_FAULT.search(row.get("error", "")) for row in rows.values())
    if lost:
        return f"FAILED: {len(lost)} of {len({*rows, *begun})} rows lost", faulted
    if code == -signal.SIGKILL:
        return f"FAILED: over its time after {len(rows)} rows", faulted
    if code:
        return f"FAILED: exit status {code}", faulted
    if not rows and (check.module or check.name) not in _ROWLESS:
        return "FAILED: no rows, nothing it has is called so", faulted
    counted = f", {len(rows) - left} rows" if rows else ""
    return f"ok{counted}{f', {left} not begun for lack of time' if left else ''}", faulted


def compiled(out: Path) -> str:
    """What had to be compiled that no kit had; in a dry run, what the device would have to compile."""
    notes = [line for line in record.lines(out / record.NAME) if "compiled" in line]
    names = [name for line in notes for name in line["compiled"]]
    variants = sum(line.get("variants", 0) for line in notes)
    what = f"would be compiled on the device, of {variants} variants" if variants else "compiled here"
    return f"{what}: {len(names)} {', '.join(sorted(set(names)))}".rstrip()


def _chosen(names: list[str]) -> Iterator[Check]:
    for name in names:
        if name in CALLS:
            yield from CALLS[name]
        elif name in CHECKS:
            yield CHECKS[name]
        else:
            sys.exit(f"no call and no check is called {name}; calls: {' '.join(CALLS)}; checks: {' '.join(CHECKS)}")


def main(arguments: list[str] | None = None) -> int:
    """Run a call; 1 where a check failed."""
    parser = argparse.ArgumentParser(prog="bench/gpu/device.sh")
    parser.add_argument("names", nargs="+", metavar="A | B | CHECK", help="a call, or checks in their order")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "bench/results/local/gpu")))
    parser.add_argument("--dry", action="store_true", help="here, on a GPU of paper")
    parser.add_argument(
        "--toy", action="store_true", help="a dry run at toy sizes, in one process: seconds, for the suite"
    )
    parser.add_argument("--rows", type=int, default=sys.maxsize, help="of each check at most, with --toy")
    parser.add_argument("--jobs", type=int, default=1, help="checks at once, of a dry run")
    parser.add_argument("--seconds", type=float, help="of all checks together")
    parser.add_argument("--no-kit", action="store_true", help="leave out what was carried: a dry run that makes it")
    given = parser.parse_args(arguments)
    checks = [check for check in _chosen(given.names) if not (given.no_kit and (check.module or check.name) == "kit")]
    seconds = given.seconds or sum(LIMITS.get(name, 0) or CHECKS[name].limit for name in given.names)
    carried = any((check.module or check.name) == "kit" for check in checks)
    dry = ["--paper", *(["--toy", "--rows", str(given.rows)] if given.toy else [])] if given.dry else []
    call = Call(_named(checks), given.out, seconds, dry=dry, kit=carried, together=given.dry and given.toy)
    with contextlib.suppress(KeyboardInterrupt):
        call.run(given.jobs if given.dry else 1)
    print(f"\n{call.table()}")
    for name, status in call.ended.items():
        print(f"{name:<16}{status}")
    if call.together:
        from bench.gpu import paper

        paper.close()
    print(compiled(given.out))
    failed = [name for name, status in call.ended.items() if not status.startswith(("ok", "not needed"))]
    return 1 if failed or len(call.ended) < len(call.checks) else 0


def _named(checks: list[Check]) -> list[Check]:
    """Names that are told apart: two calls in one dry run have checks of one name."""
    found: list[Check] = []
    for check in checks:
        taken = [each.name for each in found]
        name = next(name for name in (check.name, *(f"{check.name} {i}" for i in range(2, 99))) if name not in taken)
        found.append(Check(**vars(check) | {"name": name, "module": check.module or check.name}))
    return found


if __name__ == "__main__":
    sys.exit(main())
