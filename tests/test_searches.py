"""Several searches in one: the choice by validation, resumption, grids, the page, and the command."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from command import run_command

from fastdarts.cli.searches import _cells
from fastdarts.data import split_levels
from fastdarts.errors import UserError
from fastdarts.evaluate import RetrainConfig, best_search, budget, continue_many, retrain, search_many, selection_budget
from fastdarts.report.searches import plot_searches
from fastdarts.runs import RunFolder
from fastdarts.search import Interrupted, SearchConfig, search
from tests import tiny

SELECTION = {"epochs": 1, "batch_size": 8, "channels": 4, "layers": 3, "device": "cpu"}


def _configs(**more: Any) -> dict[str, SearchConfig]:
    return {f"seed-{seed}": tiny.config(seed=seed, epochs=1, **more) for seed in (4, 5, 6)}


def _many(path: Path, configs: dict[str, SearchConfig] | None = None, **more: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {"search_space": tiny.SPACE, "train_set": tiny.images()}
    arguments["selection"] = budget("custom", **SELECTION)
    return search_many(configs or _configs(), path, **(arguments | more))


def _untimed(found: dict[str, Any]) -> dict[str, Any]:
    return found | {"searches": {name: each | {"seconds": 0} for name, each in found["searches"].items()}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("searches") / "whole"
    _many(path)
    return path


def test_each_search_is_what_it_would_be_alone(whole: Path, tmp_path: Path) -> None:
    search(_configs()["seed-5"], tmp_path / "alone", train_set=tiny.images(), search_space=tiny.SPACE)
    left, right = tiny.state_of(tmp_path / "alone"), tiny.state_of(whole / "searches" / "seed-5")
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def test_the_choice_is_by_networks_trained_on_one_level_and_judged_on_the_other(whole: Path, tmp_path: Path) -> None:
    """The same trainings done by hand, on images parted by the first search's seed."""
    found = RunFolder.open(whole).read_json("searches.json")
    images = tiny.images()
    parts = [
        dataclasses.replace(images, images=images.images[part], labels=images.labels[part])
        for part in split_levels(len(images), 0.5, 4)
    ]
    accuracies = {}
    for name, entry in found["searches"].items():
        config = RetrainConfig(entry["text"], **budget("custom", **SELECTION, seed=4))
        accuracies[name] = retrain(config, tmp_path / name, sets=(parts[0], parts[1]))["test_accuracy"]
        assert entry["valid_accuracy"] == accuracies[name]
        assert entry["varied"] == {"seed": int(name[-1])}
    assert accuracies[found["best"]] == max(accuracies.values())
    assert found["images"] == [24, 24]
    chosen = best_search(whole)
    assert chosen.path == whole / "searches" / found["best"]
    assert chosen.genotype.text() == (whole / "genotype.txt").read_text().strip()


# Three steps a search, and as many a training.
@pytest.mark.parametrize("steps", [2, 5, 11])
def test_a_stopped_one_continues_and_equals_an_uninterrupted_one(steps: int, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted) as stop:
        _many(tmp_path / "cut", progress=tiny.StopAt(steps))
    assert stop.value.path == tmp_path / "cut"
    found = continue_many(tmp_path / "cut", train_set=tiny.images())
    assert _untimed(found) == _untimed(RunFolder.open(whole).read_json("searches.json"))
    # Once more: everything is there.
    again = continue_many(tmp_path / "cut", train_set=tiny.images(), progress=tiny.StopAt(1))
    assert again == found


def test_the_test_set_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digits whose test set is nothing at all."""
    from fastdarts.evaluate import searches
    from fastdarts.search import loop

    train, _ = searches.load_images("digits", None)
    for module in (searches, loop):
        monkeypatch.setattr(module, "load_images", lambda data, root: (train, None))
    small = {"epochs": 1, "batch_size": 256, "channels": 4, "layers": 3, "device": "cpu"}
    configs = {f"seed-{seed}": tiny.config(seed=seed, **small) for seed in (0, 1)}
    configs = {name: dataclasses.replace(each, data="digits") for name, each in configs.items()}
    found = _many(tmp_path / "r", configs, train_set=None, selection=selection_budget("digits", **small))
    assert found["images"] == [len(train) // 2, len(train) - len(train) // 2]


def test_searches_that_agree_are_judged_once(tmp_path: Path) -> None:
    """Alphas that hardly move give one genotype, whatever the weights' learning rate."""
    configs = {str(lr): tiny.config(epochs=1, arch_lr=0.0, lr=lr) for lr in (0.01, 0.02)}
    found = _many(tmp_path / "r", configs)
    assert [each["varied"] for each in found["searches"].values()] == [{"lr": 0.01}, {"lr": 0.02}]
    assert found["best"] == "0.01"
    assert [path.name for path in (tmp_path / "r" / "selection").iterdir()] == ["0.01"]


def test_the_selection_is_the_published_short_training() -> None:
    assert selection_budget("cifar10")["epochs"] == 100
    assert selection_budget("cifar10", epochs=7, channels=16)["channels"] == 16
    assert selection_budget("digits") == budget("digits")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"configs": {"one": tiny.config()}}, "at least 2"),
        ({"configs": {"a/b": tiny.config(), "c": tiny.config()}}, "the name of a folder"),
        ({"configs": {".a": tiny.config(), "c": tiny.config()}}, "the name of a folder"),
        ({"configs": {"a": tiny.config(), "b": tiny.config(device="auto")}}, "search b has device 'auto'"),
        ({"configs": {"a": tiny.config(), "b": tiny.config(batch_size=25)}}, "batch size 25 is larger"),
        ({"selection": budget("custom", **(SELECTION | {"batch_size": 25}))}, "batch size 25 is larger"),
        ({"train_set": None}, "without a train_set"),
        ({"jobs": 0}, "jobs is 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_arguments_write_nothing(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        _many(tmp_path / "r", **change)
    assert list(tmp_path.iterdir()) == []


def test_another_run_is_refused(whole: Path) -> None:
    with pytest.raises(UserError, match="holds a search run"):
        continue_many(whole / "searches" / "seed-4", train_set=tiny.images())


def test_a_grid_has_every_combination() -> None:
    cells = _cells(["weight-decay=3e-4, 9e-4", "drop_path=0,0.2"])
    assert [dict(cell) for cell in cells] == [
        {"weight_decay": decay, "drop_path": drop} for decay in ("3e-4", "9e-4") for drop in ("0", "0.2")
    ]
    assert _cells(["stages=1,2;3,4"]) == [(("stages", "1,2"),), (("stages", "3,4"),)]
    assert _cells(None) == [()]
    for bad in (["lr"], ["lr="], ["=1"], ["lr=1", "lr=2"], [f"lr={','.join(['1'] * 40)}", f"wd={','.join('1' * 40)}"]):
        with pytest.raises(UserError):
            _cells(bad)


def test_the_plot_ranks_the_searches() -> None:
    entries = {f"lr-{k}": {"valid_accuracy": 0.9 - 0.1 * k, "supernet_accuracy": 0.5} for k in range(3)}
    tree = ElementTree.fromstring(plot_searches({"best": "lr-0", "searches": entries}))
    texts = ["".join(node.itertext()).strip() for node in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert [text for text in texts if text.startswith("lr-")] == ["lr-2", "lr-1", "lr-0"]


TINY = ["--epochs", "1", "--channels", "4", "--layers", "3", "--device", "cpu", "--batch-size", "256"]
TINY += ["--select-epochs", "1", "--retrain-epochs", "1", "--retrain-batch-size", "256", "--retrain-channels", "4"]


@pytest.mark.parametrize("title", ["retrain weight", "retrain"])
def test_the_command_ends_as_a_single_search_does_whenever_it_was_stopped(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped in a training that chooses, and in the final one."""
    from fastdarts.cli.console import LineProgress

    def stop(self: LineProgress) -> bool:
        if self.title == title or (title != "retrain" and self.title.startswith(title)):
            os.kill(os.getpid(), signal.SIGINT)
        return False

    monkeypatch.setattr(LineProgress, "wants_step", stop)
    (tmp_path / "tiny.json").write_text(json.dumps(tiny.SPACE.to_json()))
    grid = ["--space", str(tmp_path / "tiny.json"), "--grid", "weight_decay=3e-4,9e-4"]
    assert run_command("search", "--run", tmp_path / "r", *TINY, *grid, monkeypatch=monkeypatch) == 130
    assert f"continue with: fastdarts search --resume {tmp_path / 'r'}\n" in capsys.readouterr().err
    monkeypatch.undo()
    assert run_command("search", "--resume", tmp_path / "r", "--json", monkeypatch=monkeypatch) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["searches"] == 2 and 0.0 <= summary["test_accuracy"] <= 1.0
    best = tmp_path / "r" / "searches" / summary["best"]
    assert json.loads((best / "retrain.json").read_text())["test_accuracy"] == summary["test_accuracy"]
    assert (best / "report.html").stat().st_size > 0
    page = (tmp_path / "r" / "report.html").read_text()
    assert "the searches differ in weight_decay" in page and f'href="searches/{summary["best"]}/report.html"' in page
    assert (tmp_path / "r" / "genotype.svg").stat().st_size > 0
    if title == "retrain":
        # What a search's folder is good for, this one is too.
        assert run_command("show", tmp_path / "r", "--json", monkeypatch=monkeypatch) == 0
        assert json.loads(capsys.readouterr().out)["text"] == summary["genotype"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--searches", "0"], "searches is 0"),
        (["--searches", "2", "--grid", "seed=1,2"], "--grid seed beside --searches 2"),
        (["--grid", "lr=0.1,0.1"], "the grid has lr-0.1 twice"),
        (["--grid", "lr=fast,slow"], "expected a value of type float"),
        (["--grid", "method=a,b"], "use --method"),
        (["--grid", "epochs=1,2", "--epochs", "3"], "epochs is given twice"),
        (["--grid", "lr=0.1"], "at least 2"),
        (["--jobs", "2"], "--jobs was given for a single search"),
        (["--select-epochs", "2"], "--select-epochs was given for a single search"),
        (["--searches", "2", "--select-epochs", "0"], "epochs is 0"),
    ],
    ids=lambda value: "-" if isinstance(value, list) else value[:24],
)
def test_bad_input_is_one_line(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command("search", *arguments, monkeypatch=monkeypatch) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_stack_that_is_measured_is_its_supernets() -> None:
    """What docs/searches.md times computes what several supernets compute, logits and alpha gradients in float64."""
    from bench.stacking import check

    assert check(2) < 1e-12
