"""The GPU's benchmarks without a GPU: every stage runs at toy size, and what they count is what the plan counts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from bench.calls import supernet_calls
from bench.gpu import (
    ceilings,
    compiled,
    counters,
    epochs,
    kernels,
    memory,
    mixed_op,
    parity,
    predict,
    profiles,
    record,
    sanitize,
    stage,
    steps,
    summary,
    timing,
    warm,
)
from bench.gpu.arguments import prepared
from bench.gpu.models import TOY_SPACE, Eager, Fused, net
from bench.plain import PlainSupernet
from fastdarts import use_backend
from fastdarts._backend import BackendError, native
from fastdarts.nn import Supernet
from fastdarts.nn.checks import halved
from fastdarts.ops._engine import launchers
from fastdarts.plan import Work, cell_plan, flops
from fastdarts.spaces import space

needs_core = pytest.mark.skipif(native() is None, reason="fastdarts._C is not built")


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages let cuDNN tune itself, for their process."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)


@needs_core
def test_a_network_of_one_cell_has_its_passes() -> None:
    """It has no cell of the other kind, and alphas of both."""
    one = replace(compiled.CELL, batch=2, side=8)
    Fused(one, torch.device("cpu")).passes()
    Eager(one, torch.device("cpu")).passes()


@pytest.mark.parametrize("partial", [1, 2])
@pytest.mark.parametrize("mode", ["fast", "balanced", "lean"])
@pytest.mark.parametrize("weights", [True, False])
def test_the_calls_add_up_to_the_plan(partial: int, mode: str, weights: bool) -> None:
    with torch.device("meta"):
        model = Supernet(space("darts"), channels=6, layers=3, partial=partial)
    size = 7, 5
    for _, cell, calls in supernet_calls(model, 2, *size, mode, weights=weights):
        plan = cell_plan(cell.space, cell.channels, partial=partial, reduction=cell.reduction)
        whole = flops(plan, 2, *size, mode, weights=weights)
        expected = whole.forward + whole.backward
        found = sum((call.work for call in calls if call.what != "cell input"), Work())
        assert found == expected
        size = tuple(halved(side, 2) for side in size) if cell.reduction else size


@needs_core
@pytest.mark.parametrize("name", ["DARTS", "PC-DARTS"])
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_call_runs_on_tensors_of_its_shapes(name: str, number: int, dtype: torch.dtype) -> None:
    for _, call in kernels.calls(net(name, True), number):
        module = launchers(call.op.split(".")[0], "cpu")
        found = prepared(call, module, dtype, torch.device("cpu"))()
        assert timing.finite(found), call.what
        again = prepared(call, module, dtype, torch.device("cpu"))()
        assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


@pytest.mark.parametrize(("name", "partial"), [("darts", 1), ("darts", 2), ("amended-s2-full", 1)])
def test_the_baseline_is_the_network(name: str, partial: int) -> None:
    shape = {"channels": 4, "layers": 3, "partial": partial}
    model, plain = Supernet(space(name), **shape), PlainSupernet(space(name), **shape)
    plain.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 8, 8)
    with use_backend("reference"):
        assert torch.equal(model(x), plain(x))
    assert sum(each.numel() for each in plain.weight_parameters()) == sum(w.numel() for w in model.weight_parameters())


def lines(folder: Path) -> list[dict[str, Any]]:
    return list(record.lines(folder / record.NAME))


def rows(folder: Path) -> list[dict[str, Any]]:
    return [line["row"] for line in lines(folder) if "row" in line]


def test_an_error_costs_its_row_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(error: Exception) -> dict[str, Any]:
        raise error

    own = stage.Stage("own", stage.Options(tmp_path))
    own.row("first", lambda: broken(ValueError("of two\nlines")))
    own.row("second", lambda: broken(BackendError("no such backend")), dtype="fp32")
    assert own.row("third", lambda: {"ms": 1.0})["ms"] == 1.0
    found = rows(tmp_path)
    assert [row.get("error") for row in found] == ["ValueError: of two", None, None]
    assert "no such backend" in found[1]["not_live"] and found[1]["dtype"] == "fp32"
    assert {"commit", "torch", "device", "command"} <= set(lines(tmp_path)[0]["machine"])
    # As a process it says that it lost rows.
    with pytest.raises(SystemExit) as ended:
        stage.run(lambda: own)
    assert ended.value.code == stage.LOST and "2 of 3 rows lost: first; second" in capsys.readouterr().err
    late = stage.Stage("late", stage.Options(tmp_path, seconds=0.0))
    assert "were over" in late.row("first", lambda: broken(AssertionError()))["skipped"] and not late.lost
    with pytest.raises(SystemExit) as ended:
        stage.run(lambda: late)
    assert ended.value.code == 0
    chosen = stage.Stage("chosen", stage.Options(tmp_path, only="^b|c$"))
    for name in ("a", "ab", "d"):
        chosen.row(name, lambda: broken(AssertionError()))
    assert not chosen.rows


def test_another_process_takes_the_rows_that_are_left(tmp_path: Path) -> None:
    stage.Stage("own", stage.Options(tmp_path)).row("first", lambda: {"ms": 1.0})
    stage.Stage("own", stage.Options(tmp_path)).begin("second")
    again = stage.Stage("own", stage.Options(tmp_path, again=True))
    for name in ("first", "second", "third"):
        again.row(name, lambda: {"ms": 2.0})
    assert [row["name"] for row in again.rows] == ["third"]


def test_a_process_without_its_gpu_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def lost() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    def end(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    monkeypatch.setattr(stage.os, "_exit", end)
    own = stage.Stage("own", stage.Options(tmp_path, device=torch.device("cpu"), paper=False))
    monkeypatch.setattr(stage.Options, "cuda", property(lambda self: True))
    with pytest.raises(SystemExit) as ended:
        own.row("first", lambda: {"ms": 1.0})
    assert ended.value.code == stage.POISONED and rows(tmp_path)[0]["ms"] == 1.0


def test_no_gpu_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"--toy.*--paper"):
        stage.options(["--out", str(tmp_path)])


class _Cuda:
    """As much of torch.cuda as timing takes, on the host's clock; remembers what happened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, breaks: bool = False) -> None:
        self.happened: list[str] = []
        fake = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                fake.happened.append("event")

            def elapsed_time(self, end: object) -> float:
                return 2.0

        class Stream:
            def wait_stream(self, other: object) -> None:
                fake.happened.append("wait")

        class Graph:
            def replay(self) -> None:
                fake.happened.append("replay")

        @contextlib.contextmanager
        def graph(own: object) -> Iterator[None]:
            fake.happened.append("capture")
            yield
            if breaks:
                raise RuntimeError("operation not permitted\nwhen stream is capturing")

        names = {
            "Event": Event, "Stream": Stream, "CUDAGraph": Graph, "graph": graph,
            "stream": lambda own: contextlib.nullcontext(), "current_stream": Stream, "synchronize": lambda: None,
            "set_stream": lambda own: None,
        }  # fmt: skip
        for name, value in names.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(timing, "_cache", lambda device: torch.ones(1))


def test_a_call_is_timed_by_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, runs = _Cuda(monkeypatch), []
    found = timing.replayed(lambda: runs.append(1), torch.device("cuda"), rounds=4, calls=5)
    assert found["us"] == pytest.approx(2000.0) and found["warm_us"] == pytest.approx(400.0)
    assert found["rounds"] == 4 and "uncaptured" not in found
    assert cuda.happened.count("capture") == 2 and cuda.happened.count("replay") == 2 * (3 + 4)
    # To compile, to time the host, and in each capture three before it.
    assert len(runs) == 3 + 10 + 3 + 1 + 3 + 5


def test_what_no_graph_holds_is_timed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    _Cuda(monkeypatch, breaks=True)
    found = timing.replayed(lambda: None, torch.device("cuda"), rounds=2)
    assert found["uncaptured"] == "operation not permitted" and found["us"] == pytest.approx(2000.0)
    assert "warm_us" not in found


def test_predictions_never_beat_the_floor() -> None:
    calls = [call for _, call in predict.network(net("PC-DARTS", True))]
    for call in calls:
        for itemsize in (4, 2):
            floor, *models = (predict.seconds(call, itemsize, model) for model in predict.MODELS.values())
            assert all(floor <= each for each in models), call
    found = predict.total(calls)
    assert found.calls < found.launches and found.stencil > found.written


STAGES: dict[ModuleType, str] = {
    steps: "^DARTS, (fp32, cpu, step, graph|eager, fp32, NCHW$)",
    counters: "",
    memory: "fp32",
    parity: "cell, PC-DARTS, ",
    mixed_op: "bf16",
    profiles: "bf16",
    compiled: "^cell, fp32, (eager|cpu)",
    epochs: "PC-DARTS",
    sanitize: "fp32",
    warm: "fp32",
    kernels: "preprocess.normalise_",
}


@needs_core
@pytest.mark.parametrize("module", STAGES, ids=lambda module: module.__name__.split(".")[-1])
@pytest.mark.usefixtures("tuned")
def test_every_stage_runs_at_toy_size(module: ModuleType, tmp_path: Path) -> None:
    module.main(["--toy", "--out", str(tmp_path), "--only", STAGES[module]])
    name = module.__name__.split(".")[-1]
    found = rows(tmp_path)
    assert found and all(line["stage"] == name for line in lines(tmp_path))
    for row in found:
        assert not record.lost(row) and "skipped" not in row, row
    summary.main([str(tmp_path)])
    assert "TOY SIZES" in (tmp_path / "table.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("tuned")
def test_the_ceilings_run_at_toy_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings.kit, "PROBE", tmp_path / "none")
    monkeypatch.setattr(ceilings.shutil, "which", lambda name: str(tmp_path / "none"))
    ceilings.main(["--toy", "--out", str(tmp_path)])
    found = {row["name"]: row for row in rows(tmp_path)}
    assert all(found[name]["value"] > 0 for name in ("copy", "copy in L2", "bf16", "tf32", "sgemm"))
    # Without a compiler the probes are not live, and the rates are assumed.
    assert all("not_live" in found[name] for name in ("probe.cu", "fma", "barrier over the grid"))
    own = stage.Stage("own", stage.Options(tmp_path))
    assert own.rate("fma", 5.0) == (5.0, False) and own.rate("copy", 5.0) == (found["copy"]["value"], True)


def _stages(folder: Path, **stages: list[dict[str, Any]]) -> summary.Stages:
    """A record of these stages' rows, in the place of one that was there."""
    at = dict.fromkeys(("date", "commit", "device", "torch", "triton", "python", "command"), "known")
    (folder / record.NAME).unlink(missing_ok=True)
    for name, own in stages.items():
        record.append(folder, {"stage": name, "toy": False, "paper": False, "machine": at})
        for row in own:
            record.append(folder, {"stage": name, "row": row})
    return summary.merged([folder])


def test_the_table_has_the_targets_and_what_was_missed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = {"net": "DARTS", "dtype": "fp32"}
    call = {"op": "stencil.forward", "what": "16 convs", "dtype": "fp32", "shape": "DARTS cell 1, normal, C' 16"}
    figures = {"us": 9.0, "warm_us": 8.0, "bytes": 1e6, "gbs": 100.0, "fma_share": 0.4, "bound": "fma"}
    _stages(
        tmp_path,
        steps=[
            {"name": "NCHW", "what": "eager", "ms": 200.0, "lean_ms": 150.0, **net},
            {"name": "NHWC", "what": "eager", "ms": 180.0, "lean_ms": 160.0, **net},
            {"name": "graph", "what": "eager", "graph": True, "ms": 30.0, "lean_ms": 25.0, **net},
            {"name": "strict", "what": "eager, no TF32", "ms": 200.0, "lean_ms": 170.0, **net},
            {"name": "ours", "what": "step, graph", "memory": "fast", "ms": 10.0, **net},
            {"name": "tf32", "what": "step, graph, TF32", "memory": "fast", "ms": 7.5, **net},
            {"name": "lean", "what": "step, graph", "memory": "lean", "error": "ValueError: no", **net},
        ],
        memory=[
            {"name": "eager", "what": "eager", "peak_bytes": 8e9, **net},
            {"name": "fast", "memory": "fast", "peak_bytes": 4e9, **net},
            {"name": "lean", "memory": "lean", "peak_bytes": 0.3e9, **net},
        ],
        compiled=[{"name": "whole", "what": "compile", "not_measured": "had not finished after 300 s", **net}],
        epochs=[{"name": "four", "net": "PC-DARTS", "fifty_seconds": 150.0}],
        kernels=[
            {"name": "a", "share": 0.45, "backend": "cuda", **call, **figures},
            {"name": "b", "share": 0.75, "backend": "triton", **call, **figures},
        ],
    )
    summary.main(["--short", str(tmp_path)])
    rows = {line.split(" | ")[0].lstrip("| "): line for line in capsys.readouterr().out.splitlines()}
    assert (
        "| 15x | 12x | 25x | at least | eager 150 ms, as the papers step 180"
        in rows["DARTS step, fp32: eager / fastdarts"]
    )
    assert "| 20x | 12x | 25x | at least | like for like" in rows["DARTS step, fp32, TF32: eager / fastdarts"]
    assert "| 17x |  |  |  | neither" in rows["DARTS step, fp32, eager without TF32 / fastdarts"]
    assert "| 2.5x |" in rows["DARTS step, fp32: eager in a CUDA graph / fastdarts"]
    assert "| 10 ms |  | under 7.5 ms | not the aim |" in rows["DARTS step, fp32"]
    assert "had not finished" in rows["DARTS step, fp32: torch.compile / fastdarts"]
    assert "| 2x | 4x |  | **missed** |" in rows["DARTS peak, fast: eager / fastdarts"]
    assert "| 26.7x | 12x | 20x | aim |" in rows["DARTS peak, lean: eager / fastdarts"]
    assert "| 2.5 min | under 3 min | under 1 min | at least | from 4 epochs" in rows["PC-DARTS, 50 epochs"]
    # The better backend of the call counts.
    assert "| 75 % | 40 % | 70 % | aim | stencil.forward" in rows["DARTS cell 1, fp32: least share of the roofline"]
    assert "not measured" in rows["DARTS step, bf16: eager / fastdarts"]
    assert "- steps, lean: ValueError: no" in rows


def test_later_files_replace_what_they_measured(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    _stages(folders[0], steps=[{"name": "a", "ms": 1.0}, {"name": "b", "skipped": "late"}, {"name": "c", "ms": 3.0}])
    _stages(folders[1], steps=[{"name": "a", "error": "no"}, {"name": "b", "error": "no"}, {"name": "c", "ms": 4.0}])
    first, *others = summary.merged(folders)["steps"]["rows"]
    assert first == {"name": "a", "ms": 1.0}
    assert others == [{"name": "b", "error": "no"}, {"name": "c", "ms": 4.0}]
    with pytest.raises(SystemExit, match="no record"):
        summary.main([])


def test_what_the_counters_tool_says_is_read() -> None:
    said = """==PROF== Connected
"ID","Process ID","Kernel Name","Metric Name","Metric Unit","Metric Value"
"0","7","void stencil(int)","Duration","ns","12,500"
"0","7","void stencil(int)","DRAM Throughput","%","61.5"
"0","7","void stencil(int)","Something Else","","9"
"1","7","fold","Duration","us","3.5"
"""
    assert counters.parsed(said) == [
        {"kernel": "void stencil", "metrics": {"us": 12.5, "DRAM %": 61.5}},
        {"kernel": "fold", "metrics": {"us": 3.5}},
    ]
    assert counters.parsed("==ERROR== no permission") == []


def test_the_toy_space_has_a_candidate_of_each_kind() -> None:
    plan = cell_plan(TOY_SPACE.cell("reduce", 3), 4, reduction=True)
    kinds = {candidate.kind for edge in plan.edges for candidate in edge.candidates}
    assert kinds == {"none", "max_pool", "skip", "reduce", "sep", "dil"}
