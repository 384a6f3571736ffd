"""The benchmarks' own parts: who takes turns, what is recorded, what the table says, and the floor counted by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench import bench_cell, bench_mixed_op, bench_search_step, bench_supernet, cases, conftest, floor, machine, table
from fastdarts._backend import native
from fastdarts.nn import MixedOp
from fastdarts.plan import mixed_op_plan

MODULES = (bench_cell, bench_mixed_op, bench_search_step, bench_supernet)


def _options(**chosen: Any) -> SimpleNamespace:
    return SimpleNamespace(getoption=lambda name: {"repeats": 2, "compile": False, **chosen}[name])


def test_contenders_take_turns() -> None:
    made: list[Any] = []
    metafunc = SimpleNamespace(
        fixturenames=["contender"],
        module=bench_cell,
        config=_options(compile=True),
        parametrize=lambda names, turns: made.extend(turns),
    )
    conftest.pytest_generate_tests(metafunc)
    turns = [(turn.values[1], turn.values[2]) for turn in made]
    once = [contender for repeat, contender in turns if repeat == 0]
    assert once[:2] == ["eager", "compile"]
    assert turns == [(repeat, contender) for repeat in range(2) for contender in once]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_names_and_targets_are_usable(module: Any) -> None:
    names = [case.name for case in module.CASES]
    assert len(set(names)) == len(names)
    for case in module.CASES:
        assert set(case.modes) <= set(cases.MODES)
        assert set(case.targets) <= {"time", "kept", "compile"}
        json.dumps(case.targets)


class _Benchmark:
    """Of pytest-benchmark's fixture what `measure` needs; runs each round once."""

    def __init__(self) -> None:
        self.group, self.extra_info, self.ran = "", {}, 0

    def pedantic(self, work: Callable[[], None], rounds: int, warmup_rounds: int) -> None:
        for _ in range(rounds + warmup_rounds):
            work()
            self.ran += 1


def _small() -> cases.Problem:
    names = ("none", "max_pool_3x3", "sep_conv_3x3", "skip_connect")
    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    weights = torch.full((4,), 0.25, requires_grad=True)
    plan = mixed_op_plan(names, 4, 1)
    return cases.Problem(MixedOp(4, 1, names), [x, weights], cost=lambda mode: floor.plan_cost(plan, 2, 6, 6, mode))


def test_every_contender_is_measured_on_the_same_tensors() -> None:
    case = cases.Case("small", _small, rounds=2)
    found = {}
    for contender in case.contenders(compiled=False):
        benchmark = _Benchmark()
        cases.measure(benchmark, case, 0, contender)
        assert benchmark.ran == 3
        found[contender] = benchmark.extra_info
        json.dumps(found[contender])
    assert set(found) == {"eager", *(cases.MODES if native() else ())}
    unit = 4 * 2 * 4 * 36
    # none 1, max 4 (its indices are int64), separable 7, skip 0.
    assert found["eager"]["kept_bytes"] == pytest.approx(12 * unit, rel=0.1)
    assert all(each["peak_bytes"] >= each["kept_bytes"] for each in found.values())
    later = _Benchmark()
    cases.measure(later, case, 1, "eager")
    assert "kept_bytes" not in later.extra_info


def test_the_floor_of_one_convolution_by_hand() -> None:
    plan = mixed_op_plan(["dil_conv_3x3"], 4, 1)
    cost = floor.plan_cost(plan, 2, 5, 5, "fast")
    elements = 2 * 4 * 25
    assert cost.work.stencil == 4 * 2 * 9 * elements
    assert cost.work.pointwise == 3 * 2 * 4 * elements
    # Forward reads x, writes y, reads y, writes the node. Backward reads g and y for the sums, g and y for dy, x and
    # its gradient, which it writes too; nothing comes from x itself, so the node's own pass does not run.
    assert cost.bytes == 4 * elements * (4 + 2 + 2 + 3)
    arithmetic, traffic = cost.seconds({"gflops": 1.0, "cache_gbs": 2.0})
    assert arithmetic == pytest.approx((cost.work.total + cost.work.elementwise) / 1e9)
    assert traffic == pytest.approx(cost.bytes / 2e9)


def test_recomputing_costs_more() -> None:
    plan = mixed_op_plan(["dil_conv_3x3", "sep_conv_5x5", "avg_pool_3x3"], 4, 1)
    costs = [floor.plan_cost(plan, 2, 8, 8, mode) for mode in ("fast", "balanced", "lean")]
    assert costs == sorted(costs, key=lambda cost: cost.work.total)
    assert costs[0].bytes < costs[1].bytes < costs[2].bytes


def test_the_machine_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CACHE_MIB", "MEMORY_MIB"):
        monkeypatch.setattr(machine, name, 1)
    monkeypatch.setattr(machine, "SGEMM", 32)
    assert all(rate > 0 for rate in machine.roofline().values())
    facts = machine.describe()
    assert facts["threads"] == torch.get_num_threads()
    assert {"command", "torch", "affinity", "settings", "isa", "load_average"} <= set(facts)
    json.dumps(facts)


def _entry(contender: str, repeat: int, seconds: list[float], **facts: Any) -> dict[str, Any]:
    targets = {"time": [3, 6], "kept": {"fast": 4, "lean": 20}, "compile": 3}
    extra = {"case": "cell", "contender": contender, "repeat": repeat, "targets": targets, **facts}
    return {"name": f"bench[{contender}-{repeat}]", "extra_info": extra, "stats": {"data": seconds}}


def _run(*entries: dict[str, Any]) -> dict[str, Any]:
    rates = {"gflops": 100.0, "cache_gbs": 50.0, "memory_gbs": 20.0, "threads": 2, "command": "pytest bench"}
    return {
        "datetime": "2026-01-02T03:04:05",
        "commit_info": {"id": "0123456789abcdef", "dirty": False},
        "machine_info": {"cpu": {"brand_raw": "a processor"}, "fastdarts": {"before": rates, "after": rates}},
        "benchmarks": list(entries),
    }


def test_the_table_adds_turns_up_and_keeps_what_loses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = _run(
        _entry("eager", 0, [1.0, 1.2], kept_bytes=4_000_000, peak_bytes=5_000_000),
        _entry("compile", 0, [0.5], compile_seconds=200.0),
        _entry("fast", 0, [0.20, 0.20], kept_bytes=1_000_000, flops=10e9, moved_bytes=1e9),
        _entry("lean", 0, [1.5], kept_bytes=250_000),
        _entry("eager", 1, [1.1]),
        {"name": "bench_augment", "extra_info": {"GB/s": 3.0}, "stats": {"data": [1e-6]}},
    )
    path = tmp_path / "out.json"
    path.write_text(json.dumps(run), encoding="utf-8")
    table.main([str(path)])
    text = capsys.readouterr().out
    assert "a processor" in text and "012345678" in text and "pytest bench" in text
    rows = {line.split(" | ")[1]: line for line in text.splitlines() if line.startswith("| cell")}
    assert "1100 (1040 to 1160)" in rows["eager"]
    assert "5.5 (at least 3)" in rows["fast"] and "4 (at least 4)" in rows["fast"]
    assert "50 (50%)" in rows["fast"] and "5 (10%)" in rows["fast"]
    # Slower than eager, and too little saved: both stay, and both are said.
    assert "0.733" in rows["lean"] and "7.5 (**missed**: 1.5)" in rows["lean"] and "16 (**missed**: 20)" in rows["lean"]
    assert "compiled for 200 s; its time / fast is 2.5 (**missed**: 3)" in text
    assert "| bench_augment | 1 (1 to 1) | GB/s 3 |" in text


def test_no_file_is_refused() -> None:
    with pytest.raises(SystemExit, match="no file"):
        table.main([])


@pytest.mark.parametrize(("share", "value"), [(0.0, 1.0), (0.5, 2.5), (0.8, 3.4), (1.0, 4.0)])
def test_percentiles(share: float, value: float) -> None:
    assert table.percentile([4.0, 1.0, 3.0, 2.0], share) == pytest.approx(value)


@pytest.mark.slow
def test_a_benchmark_runs_as_its_heading_says(tmp_path: Path) -> None:
    """In a process of its own, because pytest-benchmark measures a whole session."""

    root = Path(__file__).resolve().parents[1]
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "pytest", "bench/bench_mixed_op.py", "-q", "-p", "no:cacheprovider", "-k", "eager"]
    command += ["--repeats", "1", "--benchmark-json", str(out)]
    # One thread: two that spin at OpenMP's barriers take minutes beside another process.
    # And a run of its own, whatever this one is part of: beside xdist, pytest-benchmark measures nothing.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["OMP_NUM_THREADS"] = "1"
    subprocess.run(command, cwd=root, check=True, capture_output=True, text=True, env=environment)
    rows = table.rows_of([json.loads(out.read_text(encoding="utf-8"))])
    assert [(row.case, row.contender) for row in rows] == [(case.name, "eager") for case in bench_mixed_op.CASES]
    assert "MixedOp, stride 2" in table.markdown([json.loads(out.read_text(encoding="utf-8"))])
