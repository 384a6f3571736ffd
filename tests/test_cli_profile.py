"""`fastdarts profile`: real steps in processes of their own, sweeps, budgets, what it refuses, and that it ends."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fastdarts.cli.profiling import children
from fastdarts.cli.profiling.asked import Asked
from fastdarts.cli.profiling.growth import grown
from fastdarts.cli.profiling.request import Request
from fastdarts.cli.profiling.steps import measure_request, thinned
from fastdarts.cli.profiling.sweep import Axis, points, read_axes, reshaped
from fastdarts.cli.profiling.times import rows
from fastdarts.errors import UserError
from fastdarts.report.profiled import render_profile
from fastdarts.report.treemap import squarified
from fastdarts.spaces import define_space, space
from tests.command import run_command

SPACE = define_space("small", ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3"), nodes=2, layers=3)
NAMED = {"batch_size": 4, "channels": 4, "layers": 3, "image_size": None, "classes": None, "dtype": "float32"}


@pytest.fixture
def small(tmp_path: Path) -> str:
    path = tmp_path / "small.json"
    path.write_text(json.dumps(SPACE.to_json()))
    return str(path)


def asked(small: str, *sweeps: str, method: str = "darts-first", **changed: Any) -> Asked:
    return Asked(
        method=method,
        data="digits",
        space=small,
        named=NAMED | {"memory": "lean"} | changed,
        settings=["threads=1"],
        placed={"device": "cpu", "backend": "auto"},
        sweeps=sweeps,
        contenders=("fastdarts",),
        steps=(1, 0),
        budget=None,
    )


def request(small: str, contender: str = "fastdarts", **changed: Any) -> Request:
    return dataclasses.replace(asked(small, **changed).requests[0][1], contender=contender)


@pytest.mark.parametrize("contender", ["fastdarts", "eager"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_real_step_takes_what_was_predicted(small: str, contender: str, dtype: str) -> None:
    found = measure_request(request(small, contender, dtype=dtype))
    assert found["equal"]
    assert found["predicted"] == found["measured"]
    for name in ("kept_bytes", "peak_bytes"):
        assert sum(share[name] for share in found["shares"]["measured"]) == found["measured"][name]
    parts = {share["part"] for share in found["shares"]["measured"]}
    assert {"stem", "cell 0", "cell 1", "cell 2", "head"} == parts
    step, timing = found["step"], found["time"]
    assert set(step["levels"]) == {"architecture", "weights"}
    assert 0 < sum(step["levels"].values()) <= step["slowest"]
    assert step["images_per_second"] == pytest.approx(8 / step["seconds"])
    assert sum(timing["levels"].values()) == pytest.approx(timing["seconds"])
    assert all(seconds > 0 for seconds in timing["levels"].values()) or contender == "eager"
    # Beside the pass a step holds the mixing weights, the figures and Adam's counters.
    assert found["step"]["bytes"] <= found["predicted"]["total_bytes"] + 1000
    assert max(live for _, live, _ in found["timeline"]) == found["step"]["bytes"]


def test_a_second_order_step_holds_copies_of_the_weights(small: str) -> None:
    found = measure_request(request(small, method="darts-second"))
    assert found["equal"]
    assert found["step"]["bytes"] > found["predicted"]["total_bytes"]


def test_engine_and_plain_torch_take_the_same_step(small: str) -> None:
    """What is set beside the engine has the same weights, by name and shape, and draws the same ones."""
    from fastdarts.cli.profiling.request import build

    torch.manual_seed(0)
    ours = build(request(small))
    torch.manual_seed(0)
    plain = build(request(small, "eager"))
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}


def test_running_out_of_memory_is_an_outcome(small: str) -> None:
    """In a process of its own, which leaves no other one behind."""
    narrow = request(small)
    config = dataclasses.replace(narrow.config, batch_size=20_000)
    outcome = children.measured(dataclasses.replace(narrow, config=config, most_bytes=50_000_000))
    assert outcome.out_of_memory
    assert outcome.error
    assert not outcome.values
    assert multiprocessing.active_children() == []


def test_a_sweep_its_growth_and_its_page(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With measurements in this process: three fewer imports of torch."""
    asked_for: list[Request] = []

    def here(request: Request) -> children.Outcome:
        asked_for.append(request)
        if request.config.batch_size == 8:
            return children.Outcome(out_of_memory=True, error="can't allocate memory")
        return children.Outcome(measure_request(request))

    monkeypatch.setattr("fastdarts.cli.profiling.asked.measured", here)
    page = tmp_path / "page.html"
    arguments = ["--space", small, "--channels", "4", "--layers", "3", "--memory", "lean", "--steps", "1"]
    arguments += ["--warm-up", "0", "--sweep", "batch=4:8:+2", "--set", "threads=1", "--budget", "400kB"]
    assert run_command("profile", *arguments, "--html", page, "--json", monkeypatch=monkeypatch) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["settings"] for row in found["rows"]] == [{"batch_size": str(n), "memory": "lean"} for n in (4, 6, 8)]
    assert [row["out_of_memory"] for row in found["rows"]] == [False, False, True]
    assert found["rows"][2]["predicted"]["total_bytes"] > found["rows"][1]["step_bytes"]
    kept = next(each for each in found["growth"] if each["figure"] == "kept_bytes")
    assert len(kept["points"]) == 2
    assert kept["slope"] > 0
    (largest,) = found["largest"]
    assert largest["fits"]
    assert largest["step_bytes"] <= 400_000
    assert asked_for[-1].config.batch_size == largest["batch_size"]
    text = page.read_text(encoding="utf-8")
    assert "out of memory" in text
    assert "Growth" in text
    assert not re.search(r"(src|href)=\"(?!#)", text), "a page loads nothing"


def test_the_table_and_the_page_of_all_detail(
    small: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[dict[str, Any]] = []

    def here(request: Request) -> children.Outcome:
        seen.append(measure_request(request))
        return children.Outcome(seen[-1])

    monkeypatch.setattr("fastdarts.cli.profiling.asked.measured", here)
    arguments = ["--space", small, "--channels", "4", "--layers", "3", "--batch-size", "4", "--memory", "lean"]
    arguments += ["--steps", "1", "--warm-up", "0", "--set", "threads=1", "--eager"]
    assert run_command("profile", *arguments, monkeypatch=monkeypatch) == 0
    out, err = capsys.readouterr()
    assert "equal to the byte" in out
    for words in ("cell 1", "fastdarts.cell", "stencil.forward", "kernels", "eager"):
        assert words in out, words
    assert [line for line in err.splitlines() if "measuring" not in line] == []
    html = render_profile({
        "facts": {"space": "<b>", "method": "m", "channels": 4, "layers": 2, "batch_size": 4, "in_channels": 1,
                  "image_size": [8, 8], "dtype": "float32", "sweep": {}, "environment": {}, "notes": [],
                  "budget_bytes": None},
        "rows": [{"settings": {"memory": "lean"}, "contender": "fastdarts", "equal": True, "out_of_memory": False,
                  "error": "", "kept_bytes": 1, "peak_bytes": 1, "step_bytes": 1, "seconds": 1.0,
                  "images_per_second": 1.0, "predicted": seen[0]["predicted"], "values": seen[0]}],
        "growth": [],
        "largest": [],
    })  # fmt: skip
    assert "<b>" not in html
    for words in ("Timeline", "Whose the bytes are", "cell_backward", "Where the time goes"):
        assert words in html, words


def test_axes_and_their_points() -> None:
    axes = read_axes(["batch=16:100:x2", "layers=8,14", "memory=all"])
    assert axes[0] == Axis("batch_size", ("16", "32", "64"))
    assert axes[2].values == ("fast", "balanced", "lean")
    assert [axis.numeric for axis in axes] == [True, True, False]
    assert len(list(points(axes))) == 18
    assert read_axes(["lr=0.1,0.2"])[0].numeric
    assert read_axes(["size=8:16:4"]) == [Axis("image_size", ("8", "12", "16"))]


@pytest.mark.parametrize(
    "text",
    ["batch", "=3", "batch=", "batch=4:2:x2", "batch=4:8:x1", "batch=1:9:0", "batch=0:9:x2", "batch=1:", "a=1,,2"],
)
def test_what_is_no_sweep_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--sweep"):
        read_axes([text])


def test_too_large_a_sweep_and_one_given_twice() -> None:
    with pytest.raises(UserError, match="at most 200"):
        read_axes(["batch=1:100:1", "layers=1,2,3"])
    with pytest.raises(UserError, match="twice"):
        read_axes(["batch=1,2", "batch_size=3"])


def test_spaces_with_fewer_operators_and_other_nodes() -> None:
    found = reshaped(space("darts"), {"operators": "3", "nodes": "2"})
    assert found.normal.counts == (3,) * 5
    assert found.normal.edges[0].primitives == space("darts").normal.edges[0].primitives[:3]
    for changed in ({"operators": "9"}, {"operators": "0"}, {"nodes": "x"}):
        with pytest.raises(UserError):
            reshaped(space("darts"), changed)


def test_growth_is_a_line_with_its_residual() -> None:
    axes = [Axis("layers", ("2", "4", "6")), Axis("memory", ("fast",))]
    given = [
        {
            "settings": {"layers": n, "memory": "fast"},
            "contender": "fastdarts",
            "seconds": s,
            "kept_bytes": 5 * int(n) + 1,
        }
        for n, s in (("2", 1.0), ("4", 2.0), ("6", 3.3))
    ]
    by_time, by_bytes = grown(axes, given)
    assert (by_bytes.slope, by_bytes.intercept) == pytest.approx((5, 1))
    assert by_bytes.residual == pytest.approx(0)
    assert by_time.slope == pytest.approx(0.575)
    assert by_time.residual == pytest.approx(0.05, abs=0.01)
    assert by_time.fixed == {"memory": "fast", "contender": "fastdarts"}


def test_times_on_a_gpu_are_the_devices() -> None:
    """What the profiler gives there, made by hand: no GPU is needed to add up."""
    kind = torch.autograd.DeviceType

    def event(key: str, device: Any, host: float, on_device: float) -> SimpleNamespace:
        times = {"self_cpu_time_total": host, "self_device_time_total": on_device}
        return SimpleNamespace(key=key, count=2, device_type=device, **times)

    events = [event("stencil_kernel", kind.CUDA, 0, 5e6), event("aten::mul", kind.CPU, 2e6, 3e6)]
    events += [event("fastdarts::cell", kind.CPU, 4e6, 0), event("Optimizer.step", kind.CPU, 9e6, 0)]
    found = {(row["level"], row["op"]): row["seconds"] for row in rows(events, [("stencil", "forward", 1, True, 1.5)])}
    assert found == {
        ("kernels", "stencil_kernel"): 5.0,
        ("kernels", "stencil.forward"): 1.5,
        ("torch", "aten::mul"): 2.0,
        ("torch", "fastdarts::cell (launching)"): 2.5,
    }


def test_a_thinned_timeline_keeps_the_peak() -> None:
    line = [(float(n), 7 if n != 377 else 99, "stem") for n in range(1000)]
    found = thinned(line, 20)
    assert len(found) == 20
    assert max(live for _, live, _ in found) == 99
    assert thinned([]) == []


def test_a_treemap_fills_its_box() -> None:
    sizes = [5.0, 3.0, 3.0, 1.0, 0.5]
    boxes = squarified(sizes, (2.0, 1.0, 40.0, 20.0))
    for size, (left, top, width, height) in zip(sizes, boxes, strict=True):
        assert width * height == pytest.approx(800 * size / sum(sizes))
        assert left >= 2 - 1e-9
        assert top >= 1 - 1e-9
        assert left + width <= 42 + 1e-9
        assert top + height <= 21 + 1e-9
    assert squarified([], (0.0, 0.0, 1.0, 1.0)) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "11"], "budget '11'"),
        (["--memory", "huge"], "memory is 'huge'"),
        (["--dtype", "float8"], "dtype is 'float8'"),
        (["--steps", "0"], "steps is 0"),
        (["--warm-up", "-1"], "warm_up is -1"),
        (["--sweep", "batch=0,2"], "batch_size is 0"),
        (["--sweep", "batch=x"], "batch_size is 'x'"),
        (["--sweep", "nothing=1"], "--set nothing=1"),
        (["--sweep", "memory=small"], "memory is 'small'"),
        (["--sweep", "layers=3,2"], "has no normal cell"),
        (["--html", "page.txt"], "a file named .html"),
        (["--html", "no/such/page.html"], "is no folder"),
        (["--method", "pc-darts", "--sweep", "channels=8,6"], "channels 6 with partial 4"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is measured."""
    monkeypatch.setattr("fastdarts.cli.profiling.asked.measured", None)
    assert run_command("profile", *arguments, monkeypatch=monkeypatch) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_ctrl_c_ends_in_one_line_and_leaves_nothing(small: str) -> None:
    command = [sys.executable, "-m", "fastdarts", "profile", "--space", small, "--batch-size", "4", "--steps", "100000"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as started:
        assert started.stderr is not None
        assert "measuring" in started.stderr.readline()
        time.sleep(1.0)
        children_of = Path(f"/proc/{started.pid}/task/{started.pid}/children")
        below = [int(each) for each in children_of.read_text().split()] if children_of.exists() else []
        os.killpg(started.pid, signal.SIGINT)
        out, err = started.communicate(timeout=60)
    assert started.returncode == 130
    assert (out, err) == ("", "fastdarts: stopped; a profile leaves nothing behind\n")
    for each in below:
        assert not Path(f"/proc/{each}").exists() or "fastdarts" not in Path(f"/proc/{each}/cmdline").read_text()
