"""Returning to a finished run: nothing starts again in silence, and more epochs are added knowingly."""

from __future__ import annotations

import functools
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from fastdarts.data import ImageSet
from fastdarts.errors import UserError
from fastdarts.evaluate import RetrainConfig, continue_retrain, retrain, retrain_once
from fastdarts.report import write_report
from fastdarts.runs import RunFolder
from fastdarts.search import Interrupted, Progress, resume, search
from fastdarts.search.schedule import learning_rate
from fastdarts.spaces import random_genotype
from tests import tiny


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


class Notes(Progress):
    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, message: str) -> None:
        self.told.append(message)


@functools.cache
def images() -> ImageSet:
    return tiny.images()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("finished") / "run"
    search(tiny.config(), path, train_set=images(), search_space=tiny.SPACE)
    (path / "comparison.json").write_text('{"found": {}, "random": []}')
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def contents(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_finished_search_without_checkpoints_is_read_and_not_searched_again(run: Path) -> None:
    before = resume(run, train_set=images())
    shutil.rmtree(run / "checkpoints")
    files, notes = contents(run), Notes()
    assert resume(run, train_set=images(), progress=notes) == before
    assert contents(run) == files
    assert notes.told == [f"{run} is finished: its result is read, nothing is run again"]
    with pytest.raises(UserError, match=r"its checkpoints were removed; expected checkpoints/, .*new run with more"):
        resume(run, train_set=images(), epochs=4)
    assert contents(run) == files


def test_records_of_an_unfinished_search_are_not_replaced_because_its_checkpoints_are_gone(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    (run / "result.json").unlink()
    files = contents(run)
    with pytest.raises(UserError, match="starting again would replace the records of its 2 epochs"):
        resume(run, train_set=images())
    assert contents(run) == files


def test_an_extended_search_goes_on_where_it_ended_and_keeps_that_end(run: Path) -> None:
    first, notes = resume(run, train_set=images()), Notes()
    before = contents(run)
    extended = resume(run, train_set=images(), epochs=4, progress=notes)
    assert (first.epochs, extended.epochs, extended.epoch) == (2, 4, 3)
    told = [note for note in notes.told if "goes on to 4 epochs" in note]
    assert len(told) == 1 and "no run of 4 epochs from the start" in told[0] and "after-2-epochs/" in told[0]
    folder = RunFolder.open(run)
    epochs = [record for record in folder.metrics() if record["kind"] == "epoch"]
    assert [record["epoch"] for record in epochs] == [0, 1, 2, 3]
    planned = [learning_rate(tiny.config(epochs=count), epoch, count) for epoch, count in enumerate((2, 2, 4, 4))]
    assert [record["lr"] for record in epochs] == planned
    assert (run / "metrics.jsonl").read_bytes().startswith(before["metrics.jsonl"])
    (kept,) = [record for record in folder.metrics() if record["kind"] == "extension"]
    assert kept == {"kind": "extension", "epochs": 4, "before": 2, "epoch": 2, "step": 6}
    old = folder.read_json("after-2-epochs/result.json")
    assert (old["epochs"], old["text"]) == (2, first.genotype.text())
    # The comparison was one of the cell of before.
    assert not (run / "comparison.json").exists() and (run / "after-2-epochs/comparison.json").exists()
    assert folder.config["config"]["epochs"] == 2, "config.json is what the run was begun with"
    page = write_report(run).read_text()
    assert "epochs 4" in page and "not finished" not in page
    assert resume(run, train_set=images()) == extended, "once more, nothing is left to do"
    assert resume(run, train_set=images(), epochs=4) == extended
    for fewer in (3, 2):
        with pytest.raises(UserError, match=rf"epochs is {fewer} for a run of 4; expected more than 4"):
            resume(run, train_set=images(), epochs=fewer)


@pytest.mark.parametrize("step", [1, 2, 4])
def test_an_extension_that_is_stopped_continues_bit_for_bit(finished: Path, run: Path, step: int) -> None:
    whole = Path(shutil.copytree(finished, run.parent / "whole"))
    resume(whole, train_set=images(), epochs=4)
    with pytest.raises(Interrupted):
        resume(run, train_set=images(), epochs=4, progress=tiny.StopAt(step))
    with pytest.raises(UserError, match=r"is not finished: it is planned for 4 epochs; expected a finished run"):
        resume(run, train_set=images(), epochs=6)
    resume(run, train_set=images())
    assert tiny.metrics(run) == tiny.metrics(whole)
    left, right = tiny.state_of(run), tiny.state_of(whole)
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_going_back_before_an_extension_takes_it_back(run: Path) -> None:
    expected = resume(run, train_set=images()).to_json()
    with pytest.raises(Interrupted):
        resume(run, train_set=images(), epochs=4, progress=tiny.StopAt(1))
    # The checkpoint before the newest is that of the extension's beginning; the one before that is gone.
    shutil.rmtree(sorted((run / "checkpoints").iterdir())[-1])
    with RunFolder.open(run) as folder:
        folder.rewind(folder.load())
    assert resume(run, train_set=images()).epochs == 4
    assert RunFolder.open(run).read_json("after-2-epochs/result.json")["text"] == expected["text"]


def test_what_more_epochs_would_make_something_else_of_is_refused(tmp_path: Path) -> None:
    search(tiny.config("p-darts"), tmp_path / "p", train_set=images(), search_space=tiny.SPACE)
    files = contents(tmp_path / "p")
    with pytest.raises(UserError, match="p-darts searches in stages"):
        resume(tmp_path / "p", train_set=images(), epochs=8)
    assert contents(tmp_path / "p") == files


def test_a_training_is_extended_too_and_no_comparison_takes_it_for_the_shorter_one(tmp_path: Path) -> None:
    genotype = random_genotype(tiny.SPACE, 0, layers=3).text()
    small = {"batch_size": 16, "channels": 4, "layers": 3, "auxiliary": 0.0, "crop": 0, "cutout": 0, "threads": 1}
    config = RetrainConfig(genotype=genotype, data="custom", epochs=1, device="cpu", **small)
    sets = images(), images()
    (tmp_path / "c" / "trainings").mkdir(parents=True)
    path = tmp_path / "c" / "trainings" / "found-seed0"
    first = retrain(config, path, sets=sets)
    extended = continue_retrain(path, sets=sets, epochs=2)
    assert (first["epochs"], extended["epochs"], len(extended["history"])) == (1, 2, 2)
    assert RunFolder.open(path).read_json("after-1-epochs/retrain.json")["test_accuracy"] == first["test_accuracy"]
    with pytest.raises(UserError, match=r"was extended to 2 epochs; expected a training of 1, as the others"):
        retrain_once(config, path, sets=sets)
    (tmp_path / "c" / "config.json").write_text(json.dumps({"kind": "compare"}))
    with pytest.raises(UserError, match=r"is part of .*/c, which holds runs of one budget"):
        continue_retrain(path, sets=sets, epochs=3)
