"""Everything that networks and test plans launch, compiled to the binary for sm_90 and launched on paper: `make paper`.

    python tests/paper_all.py [--jobs 2] [--versions installed 3.6.0] [--cache FOLDER]

A process a network and dtype, or a plan; Triton's caches are kept, so that a second time only what changed is compiled.
Prints what each compiled, launched and took of shared memory, and every failure; ends with 1 where there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
NETS, DTYPES = ("S2, 7 operators", "DARTS", "PC-DARTS"), ("fp32", "bf16")
PLAN_DTYPES = (*DTYPES, "fp16", "fp64")


def parts(versions: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Version of Triton and arguments of paper_steps.py, the long ones first."""
    for version in versions:
        for net in NETS:
            for dtype in DTYPES:
                yield version, ["--nets", net, "--dtypes", dtype]
        for dtype in PLAN_DTYPES:
            yield version, ["--nets", "--dtypes", dtype, "--plans"]


def run(version: str, arguments: list[str], cache: Path) -> tuple[list[dict[str, Any]], str]:
    """The rows that were printed, and what else went wrong."""
    own = {key: value for key, value in os.environ.items() if key not in ("TRITON_INTERPRET", "PYTHONPATH")}
    own |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "TRITON_CACHE_DIR": str(cache / version)}
    if version != "installed":
        folder = Path(sys.prefix, f"triton-{version}")
        if not folder.is_dir():
            return [], f"there is no {folder}: make {folder}"
        own["PYTHONPATH"] = str(folder)
    command = [sys.executable, TESTS / "paper_steps.py", "--stages", "binary", *arguments]
    done = subprocess.run(command, env=own, capture_output=True, text=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    failed = any(row.get("failed") for row in rows)
    return rows, "" if failed or done.returncode == 0 else done.stderr


def main(arguments: list[str] | None = None) -> int:
    """Run all parts, as many at once as asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--versions", nargs="*", default=["3.6.0", "installed"])
    parser.add_argument("--cache", type=Path, default=Path(sys.prefix, "paper"))
    given = parser.parse_args(arguments)
    wrong = 0
    with ThreadPoolExecutor(given.jobs) as pool:
        work = list(parts(given.versions))
        for (version, what), (rows, error) in zip(
            work, pool.map(lambda part: run(*part, given.cache), work), strict=True
        ):
            cases = [row for row in rows if "case" in row]
            compiled, launches = (sum(row[key] for row in cases) for key in ("compiled", "launches"))
            shared = max((row["shared"] for row in cases), default=0)
            print(
                f"triton {version}, {' '.join(what[1:])}: {len(cases)} cases, {launches} launches, "
                f"{compiled} kernels compiled, {sum(row['cached'] for row in cases)} from the cache, "
                f"at most {shared / 1024:.0f} KB of shared memory",
                flush=True,
            )
            failures = [f"{row['case']}: {why}" for row in cases for why in row["failed"]]
            for why in [*failures, *([error] if error else [])]:
                wrong += 1
                print(f"FAILED {why}", flush=True)
    print(f"{wrong} failed" if wrong else "everything compiles, and every launch is one that a GPU takes")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
