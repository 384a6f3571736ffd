"""The numeric tests as other machines run them: a row an instruction set, library, number of threads, load or order.

    python tests/machines.py                 every row that this machine can be (make test-machines)
    python tests/machines.py base avx2       some of them
    python tests/machines.py avx2 -- -k stencil -x

torch, MKL and oneDNN are told by the environment which instructions to use, the core by `choose_isa`, both in every
test process (tests/conftest.py). A row that the processor cannot be is named and left out. AVX-512 is not emulated:
Debian's qemu-user ends at AVX2. Exits with the number of rows that failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Whatever compares numbers that two ways of computing gave.
FILES = (
    "augment",
    "cell_op",
    "cell_op_cost",
    "coefficients",
    "compat_golden",
    "curvature",
    "hypergradient",
    "hypergradient_passes",
    "hypergradient_supernet",
    "mixed_sum",
    "mixed_sum_kernels",
    "nn_cell",
    "nn_derived",
    "nn_fused",
    "nn_operations",
    "nn_search_regularisation",
    "nn_stack",
    "nn_supernet",
    "nn_tolerance",
    "optim",
    "perturbation",
    "preprocess",
    "prune",
    "reference",
    "relaxation",
    "sampling_steps",
    "search_step",
    "search_unattended",
    "stencil",
    "track",
)

_SSE = {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "SSE41"}
_AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}


@dataclass(frozen=True)
class Row:
    """A machine: what is asked of tests/conftest.py and of the libraries, and how many other processes are busy."""

    name: str
    asked: str
    environment: dict[str, str] = field(default_factory=dict)
    busy: int = 0


ROWS = (
    Row("base", "isa=base", _SSE),
    Row("avx2", "isa=avx2", _AVX2),
    Row("avx512", "isa=avx512"),
    Row("compatible", "isa=base,onednn=off,order=1", {**_SSE, "MKL_CBWR": "COMPATIBLE"}),
    Row("onednn-off", "onednn=off,threads=2,order=2"),
    Row("denormals", "denormals=flush,order=3", _AVX2),
    Row("busy", "threads=2,order=4", busy=2),
)


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Beside so many processes that never wait."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run(row: Row, arguments: list[str]) -> bool:
    """Whether the row's tests passed."""
    files = [f"tests/test_{name}.py" for name in FILES]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "auto", "--dist", "loadfile", "-p", "no:benchmark"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **row.environment, "FASTDARTS_TEST_MACHINE": row.asked}
    start = time.monotonic()
    with busy(row.busy):
        done = subprocess.run([*command, *arguments, *files], cwd=ROOT, env=environment, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines()
    for line in [line for line in lines if line.startswith(("FAILED", "ERROR"))]:
        print(f"    {line}")
    print(
        f"{row.name:12} {lines[-1].strip('= ') if lines else 'no output'}  [{time.monotonic() - start:.0f} s]",
        flush=True,
    )
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(row.name for row in ROWS))
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    chosen = parser.parse_args(given[:cut]).rows
    unknown = set(chosen) - {row.name for row in ROWS}
    if unknown:
        parser.error(f"no row is called {', '.join(sorted(unknown))}")
    has = subprocess.run(
        [sys.executable, "-c", "from fastdarts import _C; print(*_C.isas())"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    failed = 0
    for row in ROWS:
        if chosen and row.name not in chosen:
            continue
        isa = row.asked.removeprefix("isa=").partition(",")[0] if row.asked.startswith("isa=") else "base"
        if isa not in has:
            print(f"{row.name:12} not run: this processor has {', '.join(has)}", flush=True)
        else:
            failed += not run(row, given[cut + 1 :])
    return failed


if __name__ == "__main__":
    sys.exit(main())
