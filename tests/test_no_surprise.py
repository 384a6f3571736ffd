"""What a user is told before long work, and what no command may do behind a user's back."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from command import run_command

from fastdarts.cli import agree
from fastdarts.cli.plan import _bytes
from fastdarts.cli.settings import plan_after, read_seeds
from fastdarts.cli.targets import read_target
from fastdarts.data import DataError, from_dataset
from fastdarts.errors import UserError
from fastdarts.evaluate import Estimate, RetrainConfig, budget, estimate_searches, estimate_trainings, retrain
from fastdarts.runs import RunFolder
from fastdarts.search import Progress, search
from fastdarts.search.foresight import few_steps, missing_classes
from fastdarts.spaces import Genotype, random_genotype
from tests import tiny

SMALL: dict[str, Any] = {"epochs": 2, "batch_size": 8, "channels": 4, "layers": 3, "device": "cpu"}
FOUND = random_genotype(tiny.SPACE, 7, layers=3)
CIFAR = [
    Estimate("search", 1, 50, 195, 1.0, 10**9, 10**7),
    Estimate("network", 21, 600, 521, 0.45, 2 * 10**9, 10**9),
]


class _Notes(Progress):
    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, message: str) -> None:
        self.told.append(message)


def test_what_is_to_come_in_words() -> None:
    assert agree.in_words(CIFAR) == (
        "1 search for 50 epochs, about 2.7 hours; 21 networks to train for 600 epochs each, about 39.1 hours each; "
        "in all about 823.3 hours (34.3 days), measured on two steps of each; 2 GB of memory, 1 GB on the disk"
    )
    short = Estimate("network", 1, 1, 10, 0.5, 5 * 10**8, 10**5)
    assert agree.in_words([short]) == (
        "1 network to train for 1 epoch, about 5 s; in all about 5 s, measured on two steps of each; "
        "0.5 GB of memory, under 0.01 GB on the disk"
    )
    assert "in all about 411.6 hours" in agree.in_words(CIFAR, 2) and "each of 2 processes" in agree.in_words(CIFAR, 2)


@pytest.mark.parametrize(
    ("terminal", "parts", "yes", "answer", "asked", "begun"),
    [
        (True, CIFAR, False, False, True, False),
        (True, CIFAR, False, True, True, True),
        (True, CIFAR, True, False, False, True),
        (False, CIFAR, False, False, False, True),
        (True, [Estimate("network", 1, 1, 10, 0.5, 1, 1)], False, False, False, True),
    ],
    ids=["no", "yes", "--yes", "no terminal", "short"],
)
def test_a_terminal_is_asked_before_long_work_and_nobody_else(
    terminal: bool,
    parts: list[Estimate],
    yes: bool,
    answer: bool,
    asked: bool,
    begun: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    questions: list[str] = []
    for stream in (sys.stdin, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(typer, "confirm", lambda text, err: questions.append(text) or answer)
    notes = _Notes()
    if begun:
        agree.agree(parts, yes, notes.note)
    else:
        with pytest.raises(typer.Exit):
            agree.agree(parts, yes, notes.note)
    assert bool(questions) == asked and "epoch" in notes.told[0]


def test_estimates_are_of_what_is_done_and_change_nothing(tmp_path: Path) -> None:
    config, images = tiny.config(), tiny.images()
    search(config, tmp_path / "alone", train_set=images, search_space=tiny.SPACE)
    (found,) = estimate_searches([config, tiny.config(seed=5, lr=0.1)], search_space=tiny.SPACE, train_set=images)
    assert (found.what, found.count, found.epochs, found.steps) == ("search", 2, 2, 3)
    search(config, tmp_path / "after", train_set=images, search_space=tiny.SPACE)
    tiny.assert_same_run(tmp_path / "alone", tmp_path / "after")
    sets = images, tiny.images(24, seed=1)
    training = RetrainConfig(FOUND.text(), **budget("custom", **SMALL))
    (found,) = estimate_trainings(
        [training, RetrainConfig(FOUND.text(), **budget("custom", **SMALL, seed=1))], sets=sets
    )
    assert (found.what, found.count, found.epochs, found.steps) == ("network", 2, 2, 6)
    assert found.seconds == pytest.approx(2 * 2 * 6 * found.step_seconds) and found.step_seconds > 0
    retrain(training, tmp_path / "r", sets=sets)
    kept = sum(path.stat().st_size for path in tmp_path.glob("r/checkpoints/*/tensors.safetensors"))
    assert 2 * kept == pytest.approx(found.disk_bytes, rel=0.35)
    assert found.memory_bytes > 10**8


def test_a_search_says_what_follows_and_gives_the_trainings_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--epochs", "1", "--channels", "4", "--layers", "3", "--batch-size", "256", "--space", "s2", "--json"]
    options += ["--retrain-epochs", "1", "--retrain-channels", "5", "--retrain-layers", "4"]
    options += ["--retrain-batch-size", "300", "--random-cells", "2"]
    assert run_command("search", "--run", tmp_path / "r", *options, monkeypatch=monkeypatch) == 0
    out = capsys.readouterr()
    assert "1 search for 1 epoch, about" in out.err and "3 networks to train for 1 epoch each, about" in out.err
    assert out.err.index("3 networks") < out.err.index("search (darts-first)"), "before anything begins"
    assert "ms/step" in out.err and next(iter(json.loads(out.out))) == "genotype", "--json leaves progress where it was"
    trained = [RunFolder.open(path).config["config"] for path in (tmp_path / "r/compare/trainings").iterdir()]
    sizes = {(each["epochs"], each["channels"], each["layers"], each["batch_size"]) for each in trained}
    assert (len(trained), sizes) == (3, {(1, 5, 4, 300)})
    # The file that the collapse alarm names is a genotype for the commands that it is meant for.
    epoch = tmp_path / "r" / "epochs" / "0000.json"
    target = read_target(str(epoch))
    assert target.genotype == Genotype.from_json(json.loads(epoch.read_text())["genotype"])
    assert (target.search, target.name) == (None, "r-epoch-0000")
    assert target.comparisons() == tmp_path / "r" / "compare-epoch-0000"
    monkeypatch.chdir(epoch.parent)
    assert run_command("show", "0000.json", "--json", monkeypatch=monkeypatch) == 0
    assert json.loads(capsys.readouterr().out)["text"] == target.genotype.text()
    small = ["--epochs", "1", "--channels", "4", "--batch-size", "256", "--run", tmp_path / "e", "--json"]
    assert run_command("retrain", "0000.json", *small, monkeypatch=monkeypatch) == 0
    out = capsys.readouterr()
    assert "1 network to train for 1 epoch, about" in out.err
    assert run_command("show", epoch, "--report", monkeypatch=monkeypatch) == 2
    assert "is no search" in capsys.readouterr().err


def test_what_follows_a_search_is_refused_where_it_cannot_be() -> None:
    none = {"channels": None, "layers": None, "batch_size": None}
    assert plan_after("digits", None, 0, none) == {"retrain_epochs": 15, "random_cells": 0}
    assert plan_after("cifar10", None, 0, none) == {"retrain_epochs": 0, "random_cells": 0}
    assert plan_after("cifar10", None, 20, none) == {"retrain_epochs": 600, "random_cells": 20}
    sized = plan_after("cifar10", 5, 0, none | {"batch_size": 32})
    assert sized == {"retrain_epochs": 5, "random_cells": 0, "retrain_batch_size": 32}
    with pytest.raises(UserError, match="--retrain-layers without trainings"):
        plan_after("cifar10", None, 0, none | {"layers": 8})


@pytest.mark.parametrize("layers", [1, 2])
def test_a_network_without_normal_cells_is_not_searched_or_trained(layers: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"a network of {layers} cells has no normal cell"):
        search(tiny.config(layers=layers), tmp_path / "r", train_set=tiny.images(), search_space=tiny.SPACE)
    found = RetrainConfig(random_genotype(tiny.SPACE, 0).text(), "custom", layers=layers)
    with pytest.raises(UserError, match=f"a network of {layers} cells has no normal cell"):
        retrain(found, tmp_path / "r", sets=(tiny.images(), tiny.images()))
    assert list(tmp_path.iterdir()) == []


def test_seeds_mean_the_same_everywhere() -> None:
    assert read_seeds("3") == read_seeds("0,1,2") == (0, 1, 2)
    assert read_seeds("1") == (0,) == read_seeds("0,")
    assert read_seeds("3,") == (3,)
    for bad, told in (("0", "--seeds 0,"), ("-1", "a list such as"), ("1001", "--seeds 1001,"), ("", "a list such as")):
        with pytest.raises(UserError, match=told):
            read_seeds(bad)


def test_a_budget_has_a_unit() -> None:
    assert [_bytes(text) for text in ("11GB", "8GiB", "512 MB", "100B", "2k")] == [
        *(11 * 10**9, 8 * 2**30, 512 * 10**6, 100, 2000)
    ]
    with pytest.raises(UserError, match=r"with its unit, as 11GB .*; write 11GB, or 11B for bytes"):
        _bytes("11")


@pytest.mark.parametrize(
    ("option", "name"), [("--svg", "a.pdf"), ("--svg", "a.png"), ("--png", "a"), ("--png", "a.jpg")]
)
def test_a_drawing_is_what_its_name_says(
    option: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("show", "DARTS_V2", option, tmp_path / name, monkeypatch=monkeypatch) == 2
    assert f"{option} {tmp_path / name}; expected a file named .{option[2:]}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_channels_at_the_wrong_end_are_refused_not_read() -> None:
    wrong = torch.zeros(8, 8, 3, dtype=torch.uint8)
    with pytest.raises(DataError, match=r"a tensor of shape \[8, 8, 3\], channels first or last\?; .*movedim\(-1, 0\)"):
        from_dataset([(wrong, 0)], name="a", classes=2)
    assert from_dataset([(wrong.movedim(-1, 0), 0)], name="a", classes=2).images.shape == (1, 3, 8, 8)
    assert from_dataset([(wrong.numpy(), 0)], name="a", classes=2).images.shape == (1, 3, 8, 8)


def test_a_grey_image_among_coloured_ones_needs_no_resizing() -> None:
    coloured, grey = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    with pytest.raises(DataError, match=r"at 1; .*convert\('RGB'\)") as error:
        from_dataset([(coloured, 0), (grey, 1)], name="a", classes=2)
    assert "resize" not in str(error.value)
    with pytest.raises(DataError, match="resize or crop"):
        from_dataset([(grey, 0), (np.zeros((9, 8), np.uint8), 1)], name="a", classes=2)


def test_too_few_steps_to_decide_are_told_before_the_first() -> None:
    """One's own 400 images under the published rate: 300 steps of 3e-4."""
    told = few_steps(3e-4, 300, 8)
    most = 1 / (1 + 7 * math.exp(-2 * 300 * 3e-4))
    assert "can decide nothing" in told and f"at most {most:.3f}, and all begin with 0.125" in told
    assert most == pytest.approx(0.146, abs=1e-3) and "arch_lr=0.005" in told
    # DARTS on CIFAR-10, the digits, and what has nothing to decide.
    assert (
        few_steps(3e-4, 19_500, 8) == few_steps(0.009, 165, 8) == few_steps(3e-4, 0, 8) == few_steps(3e-4, 9, 1) == ""
    )


def test_a_class_that_a_level_lacks_is_told() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    levels = {"weight": torch.tensor([0, 2, 4, 5]), "architecture": torch.tensor([1, 3])}
    assert missing_classes(labels, levels).startswith("the architecture level has no image of class 2 (2 in all): ")
    assert missing_classes(labels, {"weight": torch.arange(6), "architecture": torch.tensor([0, 2, 4])}) == ""


def test_a_search_tells_both_once(tmp_path: Path) -> None:
    notes = _Notes()
    images = tiny.images(24)
    # All images of class 2 but one become class 1's.
    images.labels[3:][images.labels[3:] == 2] = 1
    search(
        tiny.config(epochs=1, arch_lr=1e-4), tmp_path / "r", train_set=images, search_space=tiny.SPACE, progress=notes
    )
    assert sum("can decide nothing" in note for note in notes.told) == 1
    assert sum("has no image of class 2 (1 in all)" in note for note in notes.told) == 1
