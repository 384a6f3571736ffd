"""The paper device (tests/paper_device.py): what a step launches is what Triton compiles and a GPU may be given.

Each test runs in a process of its own, for this one interprets its kernels. Two versions of Triton are asked: the one
that is installed and the GPU machine's, which `make test` puts beside it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
GPU_MACHINE = "3.6.0"
INSTALLED = "installed"
# Of a step of both levels, K 1, 6 cells: what a replayed graph launches.
STEPS = {
    "DARTS, triton": 1871, "DARTS, cuda": 1456,
    "PC-DARTS, triton": 1919, "PC-DARTS, cuda": 1504,
    "S2, 7 operators, triton": 1832, "S2, 7 operators, cuda": 1417,
}  # fmt: skip

pytestmark = pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler")


def environment(version: str) -> dict[str, str]:
    """Of a process that compiles with this Triton."""
    own = {key: value for key, value in os.environ.items() if key not in ("TRITON_INTERPRET", "PYTHONPATH")}
    own |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    if version == INSTALLED:
        pytest.importorskip("triton")
        return own
    folder = Path(sys.prefix, f"triton-{version}")
    if not folder.is_dir():
        how = f"no {folder}: the GPU machine's Triton was not fetched; make {folder} with a network"
        # Where everything is checked before it lands, what is not there is a failure.
        pytest.fail(how) if os.environ.get("CI") == "true" else pytest.skip(how)
    return own | {"PYTHONPATH": str(folder)}


def ran(version: str, script: str, *arguments: str, cache: Path | None = None) -> list[dict[str, Any]]:
    """The rows that a script prints; what it found wrong is the message."""
    own = environment(version) | ({} if cache is None else {"TRITON_CACHE_DIR": str(cache)})
    done = subprocess.run([sys.executable, TESTS / script, *arguments], env=own, capture_output=True, text=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    failed = [f"{row['case']}: {why}" for row in rows for why in row.get("failed", ())]
    assert not failed, "\n".join(failed)
    assert done.returncode == 0, done.stderr
    return rows


def test_every_network_and_plan_compiles_with_the_gpu_machines_triton() -> None:
    """The front end, of every kind of variant one: `make paper` takes all, to the binary."""
    first, *rows, total = ran(GPU_MACHINE, "paper_steps.py", "--plans", "--layers", "6", "--no-launcher")
    assert first["triton"] == GPU_MACHINE
    found = {row["case"].removesuffix(", fp32, step"): row["launches"] for row in rows if "fp32, step" in row["case"]}
    assert found == STEPS
    # A bfloat16 step launches the same kernels as a float32 one.
    for row in rows:
        if "bf16, step" in row["case"]:
            assert row["launches"] == STEPS[row["case"].removesuffix(", bf16, step")]
    assert total["total"]["compiled"] > 300


def test_every_plan_compiles_and_is_launched_with_the_installed_triton() -> None:
    """The front end and the C launcher, whose argument blocks hold tuples and what is absent."""
    rows = ran(INSTALLED, "paper_steps.py", "--plans", "--nets")
    assert {row["launches"] > 0 for row in rows if row.get("case", "").startswith("plan normal")} == {True}


def test_a_reduction_cell_is_compiled_to_the_end_and_launched(tmp_path: Path) -> None:
    """ptxas, what it says of registers and shared memory, and the launcher in C, of all kernels that move bytes."""
    given = ("--stages", "binary", "--backends", "triton", "--dtypes", "fp32", "--nets", "--plans", "moved, K 4")
    _, *rows, total = ran(GPU_MACHINE, "paper_steps.py", *given, cache=tmp_path)
    kernels = {name for row in rows for name in row.get("kernels", ())}
    assert {"forward", "terms", "edges", "unshuffle", "fold", "backward", "pool_moments", "reduce"} <= kernels
    assert total["total"]["compiled"] > 15
    assert max(row["shared"] for row in rows) > 0


@pytest.mark.parametrize("version", [GPU_MACHINE, INSTALLED])
def test_what_a_gpu_refuses_is_an_error_on_paper(version: str, tmp_path: Path) -> None:
    (row,) = ran(version, "paper/faulty.py", cache=tmp_path)
    said = row["said"]
    assert "constexpr cannot be reassigned" in said["two strides"]
    assert "NoneType" in said["no pointer"]
    assert "shared memory, Required: 262144, Hardware limit: 232448" in said["shared memory"]
    assert "threads, Required: 2048" in said["threads"]
    assert said["a column of blocks"] == "Triton Error [CUDA]: plain: a grid of 1 x 70000 x 1 blocks"
    fine = ("one stride", "a pointer", "a row of blocks", "no blocks", "a wide type")
    assert [said[name] for name in fine] == [""] * len(fine)
    assert row["launches"] == {"twice": 1, "nowhere": 1, "plain": 2}  # a grid of no blocks is no launch
    # A pointer, a number of 4 or 8 bytes, and the two pointers that Triton adds.
    assert sorted({parameters for _, parameters in row["facts"]}) == [28, 32]
    assert all(registers > 0 for registers, _ in row["facts"])
