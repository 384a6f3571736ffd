"""`fastdarts plan`: what it prints, that it agrees with the harness, and what it refuses."""

from __future__ import annotations

import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fastdarts import cli
from fastdarts.cli import plan as command
from fastdarts.data import default_augmentation, load_images, names
from fastdarts.data.cifar import CIFAR10, CIFAR100
from fastdarts.data.idx import FASHION_MNIST, MNIST
from fastdarts.data.svhn import SVHN
from fastdarts.nn import Supernet
from fastdarts.profile import Predictor, Usage, measure
from fastdarts.spaces import define_space

SPACE = define_space("small", ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3"), nodes=2, layers=3)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fastdarts", "plan", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return run


@pytest.fixture
def small(tmp_path: Path) -> tuple[str, ...]:
    path = tmp_path / "small.json"
    path.write_text(json.dumps(SPACE.to_json()))
    return ("--space", str(path), "--data", "cifar10", "--channels", "4", "--layers", "3", "--batch-size", "8")


def plan_json(run: Any, *arguments: str) -> dict[str, Any]:
    code, out, err = run(*arguments, "--json")
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def test_it_is_what_a_real_pass_takes(run: Any, small: tuple[str, ...]) -> None:
    """The same supernet built and run, on the CPU; and nothing of it is allocated for the plan."""
    found = plan_json(run, *small, "--method", "pc-darts", "--memory", "balanced", "--image-size", "9x7")
    model = Supernet(SPACE, channels=4, layers=3, partial=4, edge_normalisation=True, memory="balanced")
    usage = measure(model, torch.randn(8, 3, 9, 7), torch.zeros(8, dtype=torch.int64))
    assert list(found["modes"]) == ["balanced"]
    for name, value in found["modes"]["balanced"].items():
        if name != "flops":
            assert value == getattr(usage, name), name
    assert found["modes"]["balanced"]["flops"]["backward"]["stencil"] == usage.flops.backward.stencil
    assert found["image_size"] == [9, 7]
    assert found["partial"] == 4


def test_modes_side_by_side_and_the_verdict(run: Any, small: tuple[str, ...]) -> None:
    free = plan_json(run, *small)
    totals = {mode: each["total_bytes"] for mode, each in free["modes"].items()}
    assert totals["fast"] > totals["balanced"] > totals["lean"]
    assert free["verdict"] == ""
    assert "fits" not in free["modes"]["fast"]
    budget = (totals["balanced"] + totals["fast"]) // 2
    found = plan_json(run, *small, "--budget", f"{budget}B")
    modes = found["modes"]
    assert {mode: each["fits"] for mode, each in modes.items()} == {"fast": False, "balanced": True, "lean": True}
    most = {mode: each["largest_batch"] for mode, each in modes.items()}
    assert most["fast"] < 8 <= most["balanced"] < most["lean"]
    want = f"fits with balanced at batch 8; largest batch {most['balanced']} ({most['lean']} with lean)"
    assert found["verdict"] == want
    for mode, largest in most.items():
        one = Predictor(
            lambda mode=mode: Supernet(SPACE, channels=4, layers=3, memory=mode), (32, 32), dtype=torch.float32
        )
        assert one(largest).total_bytes <= budget < one(largest + 1).total_bytes


def test_verdicts_of_budgets_too_small(run: Any, small: tuple[str, ...]) -> None:
    lean = ("--memory", "lean")
    total = plan_json(run, *small, *lean)["modes"]["lean"]["total_bytes"]
    some = plan_json(run, *small, *lean, "--budget", f"{total * 0.6:.0f}B")
    assert re.fullmatch(
        r"does not fit at batch 8: lean takes [\d.]+ MB of [\d.]+ MB; largest batch [3-7] with lean", some["verdict"]
    )
    none = plan_json(run, *small, *lean, "--budget", "1kB")
    assert none["verdict"].endswith("; no batch fits")
    assert none["modes"]["lean"]["largest_batch"] == 0
    exact = plan_json(run, *small, *lean, "--budget", f"{total}B")
    assert exact["verdict"] == "fits with lean at batch 8; largest batch 8"


def test_the_table_is_a_result_and_goes_to_stdout(run: Any, small: tuple[str, ...]) -> None:
    code, out, err = run(*small, "--budget", "1GB", "--dtype", "bfloat16")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].rstrip() == "small, darts-first: C 4, 3 cells, batch 8 of 3x32x32, bfloat16"
    assert [line.split()[0] for line in lines[2:5]] == ["fast", "balanced", "lean"]
    assert lines[-1].startswith("fits with fast at batch 8; largest batch ")
    assert max(map(len, lines)) <= 120
    assert "\x1b" not in out


def test_bfloat16_keeps_half(run: Any, small: tuple[str, ...]) -> None:
    half, whole = (
        plan_json(run, *small, "--memory", "fast", "--dtype", dtype)["modes"]["fast"]["kept_bytes"]
        for dtype in ("bfloat16", "float32")
    )
    assert half == pytest.approx(whole / 2, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        ([], {"space": "darts", "channels": 8, "layers": 3, "batch_size": 64, "image_size": [8, 8], "in_channels": 1}),
        (["--data", "cifar100"], {"channels": 16, "layers": 8, "classes": 100, "image_size": [32, 32], "partial": 1}),
        (["--data", "svhn", "--space", "amended-s2"], {"layers": 20, "batch_size": 64, "in_channels": 3}),
        (["--data", "cifar10", "--method", "pc-darts"], {"partial": 4, "batch_size": 256, "layers": 8}),
        (["--method", "pc-darts", "--set", "partial=2"], {"partial": 2, "batch_size": 64}),
        (["--image-size", "224x192", "--classes", "7"], {"image_size": [224, 192], "classes": 7}),
    ],
)
def test_defaults_are_those_of_a_search(
    run: Any, monkeypatch: pytest.MonkeyPatch, arguments: list[str], facts: dict[str, Any]
) -> None:
    """What is not named is what `fastdarts search` with the same options would take."""

    def no_prediction(*_: Any) -> Any:
        return lambda batch, memory: Usage(batch, 1, 1, 1, 1, 1, 1, None)

    monkeypatch.setattr(command, "_predictor", no_prediction)
    found = plan_json(run, *arguments)
    assert {name: found[name] for name in facts} == facts


def test_options_of_a_search_mean_the_same() -> None:
    """Those that both have are one object; but a plan takes all memory modes together too."""
    plan, search = (inspect.signature(each).parameters for each in (command.plan, cli.search))
    shared = set(plan) & set(search) - {"memory"}
    assert shared >= {"method", "space", "data", "channels", "layers", "batch_size", "settings", "as_json"}
    assert all(plan[name].annotation == search[name].annotation for name in shared)


def test_image_facts_are_true() -> None:
    images, _ = load_images("digits")
    facts = {"digits": (images.classes, images.images.shape[1], tuple(images.images.shape[2:]))}
    sources = {"cifar10": CIFAR10.source, "cifar100": CIFAR100.source, "svhn": SVHN}
    sources |= {"mnist": MNIST.source, "fashion-mnist": FASHION_MNIST.source}
    assert tuple(command._IMAGES) == names()
    for name, (classes, channels, size) in command._IMAGES.items():
        if name in facts:
            assert facts[name] == (classes, channels, size)
        else:
            assert classes == sources[name].classes
            assert channels == len(sources[name].mean or "1" * (1 if "mnist" in name else 3))
        assert default_augmentation(name).crop < size[0]


@pytest.mark.parametrize(("skip", "kept"), [([], 1), (["skip_connect"], 2)], ids=["none", "one"])
def test_a_space_of_ones_own_without_kernels(run: Any, tmp_path: Path, skip: list[str], kept: int) -> None:
    """What has a kernel beside it is fused all the same: a skip connection at stride 2 is kept in one mode alone."""
    own = define_space("own", [*skip, "conv_3x1_1x3", "conv_7x1_1x7"], nodes=1, layers=1)
    path = tmp_path / "own.json"
    path.write_text(json.dumps(own.to_json()))
    found = plan_json(run, "--space", str(path), "--channels", "2", "--layers", "1", "--batch-size", "4")
    assert {each["flops"] for each in found["modes"].values()} == {None}
    assert len({each["kept_bytes"] for each in found["modes"].values()}) == kept


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "11 gigs"], "budget '11 gigs'"),
        (["--budget", "11"], "write 11GB"),
        (["--budget", "0GB"], "budget '0GB'"),
        (["--budget", "-1GB"], "budget '-1GB'"),
        (["--budget", "1e400GB"], "budget '1e400GB'"),
        (["--image-size", "32x"], "image size '32x'"),
        (["--image-size", "0"], "image size '0'"),
        (["--image-size", "1x2x3"], "image size '1x2x3'"),
        (["--dtype", "float16"], "dtype is 'float16'"),
        (["--memory", "small"], "memory is 'small'; expected one of fast, balanced, lean, all"),
        (["--space", "dart"], "unknown search space 'dart'"),
        (["--method", "darts"], "unknown method 'darts'"),
        (["--data", "imagenet"], "data is 'imagenet'"),
        (["--channels", "0"], "channels is 0"),
        (["--batch-size", "0"], "batch_size is 0"),
        (["--classes", "0"], "classes is 0"),
        (["--method", "pc-darts", "--channels", "6"], "channels 6 with partial 4"),
        (["--batch-size", "1", "--image-size", "4"], "one image with a map of 1x1"),
        (["--set", "nothing=1"], "--set nothing=1"),
        (["--space", "missing.json"], "missing.json cannot be read"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run: Any, arguments: list[str], message: str) -> None:
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
