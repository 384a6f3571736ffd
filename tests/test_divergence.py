"""Divergence is a failure: said, left out of comparisons, no exit code 0, and no bare NaN on standard output."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from command import run_command

from fastdarts.cli.printing import print_json
from fastdarts.errors import Diverged
from fastdarts.evaluate import RetrainConfig, budget, compare, compare_methods, retrain, search_many
from fastdarts.evaluate import compare as comparing
from fastdarts.report.methods import methods_words
from fastdarts.runs import RunFolder
from fastdarts.search import Progress, resume, search
from fastdarts.search.divergence import WORST, check_losses
from fastdarts.spaces import random_genotype
from tests import tiny

WILD = {"lr": 1e6, "grad_clip": 0.0}
SMALL: dict[str, Any] = {"epochs": 1, "batch_size": 8, "channels": 4, "layers": 3, "device": "cpu"}
FOUND = random_genotype(tiny.SPACE, 99, layers=3)


def _sets() -> tuple[Any, Any]:
    return tiny.images(32), tiny.images(24, seed=1)


def test_what_diverges_by_its_loss() -> None:
    for loss in (0.0, 2.3, 6.9, WORST):
        check_losses({"train_loss": loss, "step_ms": 1e9, "epoch": 0}, Path("r"), worst=WORST)
    check_losses({"train_loss": 1e5}, Path("r"))
    for loss, told in ((math.nan, "is nan in epoch 3"), (math.inf, "is inf in epoch 3")):
        with pytest.raises(Diverged, match=f"r diverged: valid loss {told}; it has no result"):
            check_losses({"train_loss": 1.0, "valid_loss": loss, "epoch": 2}, Path("r"))
    with pytest.raises(Diverged, match=r"train loss is 1e\+05, more than 30"):
        check_losses({"train_loss": 1e5}, Path("r"), worst=WORST)


# All methods were run once; these draw by their alphas, begin anew, or select after the last epoch.
@pytest.mark.parametrize("method", ["darts-first", "gdas", "snas", "proxyless", "p-darts", "random-ws"])
def test_a_search_that_diverges_has_no_result(method: str, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="loss is"):
        search(tiny.config(method, **WILD), tmp_path / "r", train_set=tiny.images(), search_space=tiny.SPACE)
    assert not (tmp_path / "r" / "result.json").exists() and not (tmp_path / "r" / "genotype.json").exists()
    assert all(math.isfinite(each["train_loss"]) for each in RunFolder.open(tmp_path / "r").metrics())


def test_a_loss_that_is_huge_at_the_end_is_divergence_too_and_a_resumption_says_so_again(tmp_path: Path) -> None:
    config = tiny.config(lr=1e4, grad_clip=1e4)
    with pytest.raises(Diverged) as first:
        search(config, tmp_path / "r", train_set=tiny.images(), search_space=tiny.SPACE)
    with pytest.raises(Diverged) as again:
        resume(tmp_path / "r", train_set=tiny.images())
    assert first.value.what == again.value.what


@pytest.mark.parametrize("wild", [WILD, {"lr": 1000.0}], ids=["nan", "huge"])
def test_a_retraining_that_diverges_has_no_result(wild: dict[str, float], tmp_path: Path) -> None:
    config = RetrainConfig(FOUND.text(), **budget("custom", **(SMALL | wild)))
    with pytest.raises(Diverged, match="loss is"):
        retrain(config, tmp_path / "r", sets=_sets())
    assert not (tmp_path / "r" / "retrain.json").exists()


class _Notes(Progress):
    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, message: str) -> None:
        self.told.append(message)


def _diverging(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Trainings of these folders' names diverge."""
    module = sys.modules[comparing.__module__]
    honest = module.retrain_once

    def retrain_once(config: RetrainConfig, path: Path, **more: Any) -> dict[str, Any]:
        if path.name in names:
            raise Diverged(path, "train loss is nan in epoch 1")
        return honest(config, path, **more)

    monkeypatch.setattr(module, "retrain_once", retrain_once)


def test_a_comparison_leaves_out_the_random_cell_that_diverged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _diverging(monkeypatch, "random-001-seed0")
    settings, notes = budget("custom", **SMALL), _Notes()
    arguments: dict[str, Any] = {"search_space": tiny.SPACE, "settings": settings, "sets": _sets(), "progress": notes}
    result = compare(FOUND, tmp_path / "c", **arguments, random_cells=3)
    assert [each["index"] for each in result["random"]] == [0, 2]
    assert result["diverged"] == {"random-001-seed0": "train loss is nan in epoch 1"}
    assert any("the comparison leaves that cell out" in note for note in notes.told)
    with pytest.raises(Diverged, match="1 of 2 random cells, and 2 are needed"):
        compare(FOUND, tmp_path / "d", **arguments, random_cells=2)
    _diverging(monkeypatch, "found-seed0")
    with pytest.raises(Diverged, match="found-seed0"):
        compare(FOUND, tmp_path / "e", **arguments, random_cells=3)
    assert not (tmp_path / "e" / "comparison.json").exists()


def test_a_method_that_diverged_has_no_figures(tmp_path: Path) -> None:
    search_settings = SMALL | {"crop": 1, "darts-one-level": WILD}
    arguments: dict[str, Any] = {"seeds": (0, 1), "data": "custom", "search_space": tiny.SPACE, "sets": _sets()}
    methods = ("darts-first", "darts-one-level")
    result = compare_methods(methods, tmp_path / "c", search=search_settings, training=SMALL, **arguments)
    assert list(result["methods"]) == ["darts-first", "random"]
    assert sorted(result["diverged"]) == ["darts-one-level-seed0", "darts-one-level-seed1"]
    left_out = [line for line in methods_words(result) if line.startswith("Left out: ")]
    assert [line.split()[2] for line in left_out] == ["darts-one-level-seed0", "darts-one-level-seed1"]
    with pytest.raises(Diverged, match="leaves nothing to compare"):
        compare_methods(("darts-first",), tmp_path / "d", search=SMALL, training=SMALL | WILD, **arguments)


def test_several_searches_choose_among_those_that_did_not_diverge(tmp_path: Path) -> None:
    configs = {"wild": tiny.config(epochs=1, **WILD), "tame": tiny.config(epochs=1)}
    arguments: dict[str, Any] = {"search_space": tiny.SPACE, "train_set": tiny.images()}
    found = search_many(configs, tmp_path / "r", selection=budget("custom", **SMALL), **arguments)
    assert (found["best"], list(found["searches"]), list(found["diverged"])) == ("tame", ["tame"], ["wild"])


@pytest.mark.slow
def test_processes_tell_of_divergence(tmp_path: Path) -> None:
    configs = {"wild": tiny.config(epochs=1, **WILD), "tame": tiny.config(epochs=1)}
    arguments: dict[str, Any] = {"search_space": tiny.SPACE, "train_set": tiny.images(), "jobs": 2}
    found = search_many(configs, tmp_path / "r", selection=budget("custom", **SMALL), **arguments)
    assert list(found["diverged"]) == ["wild"]


def test_the_command_fails_and_prints_no_nan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--epochs", "1", "--channels", "4", "--layers", "3", "--batch-size", "256", "--json"]
    wild = ["--set", "lr=1e6", "--set", "grad_clip=0"]
    assert run_command("retrain", "DARTS_V2", "--run", tmp_path / "a", *small, *wild, monkeypatch=monkeypatch) == 1
    out = capsys.readouterr()
    assert out.out == "" and f"fastdarts: {tmp_path / 'a'} diverged: train loss is nan in epoch 1" in out.err
    # A search whose retraining diverges is a search all the same: what there is is printed, and it is no success.
    _diverging_retraining(monkeypatch)
    arguments = ["search", "--run", tmp_path / "b", *small, "--space", "s2", "--retrain-epochs", "1"]
    assert run_command(*arguments, monkeypatch=monkeypatch) == 1
    out = capsys.readouterr()
    summary = json.loads(out.out)
    assert summary["diverged"] == {"retrain": "train loss is nan in epoch 1"} and "test_accuracy" not in summary
    assert (tmp_path / "b" / "report.html").exists()


def _diverging_retraining(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastdarts import evaluate

    def diverges(config: RetrainConfig, path: Path, **more: Any) -> dict[str, Any]:
        raise Diverged(path, "train loss is nan in epoch 1")

    monkeypatch.setattr(evaluate, "retrain_once", diverges)


def test_json_has_null_where_there_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": math.nan, "b": [math.inf, (1.5, -math.inf)], "c": {"d": math.nan}})

    def bare(name: str) -> None:
        raise AssertionError(name)

    found = json.loads(capsys.readouterr().out, parse_constant=bare)
    assert found == {"a": None, "b": [None, [1.5, None]], "c": {"d": None}}
