"""Retraining and the comparison with random choice: resumption, honesty of the test set, and the statistics."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fastdarts.data import Batches
from fastdarts.errors import UserError
from fastdarts.evaluate import RetrainConfig, budget, compare, comparison_folder, continue_retrain, retrain, statistics
from fastdarts.evaluate.retrain import RetrainJob
from fastdarts.runs import RunFolder
from fastdarts.search import Interrupted
from fastdarts.spaces import published, random_genotype, space
from tests import tiny

SMALL = {"epochs": 2, "batch_size": 8, "channels": 4, "layers": 3, "crop": 1, "flip": False, "cutout": 0}


def _config(**overrides: Any) -> RetrainConfig:
    values = budget("custom", **(SMALL | {"device": "cpu"} | overrides))
    return RetrainConfig(genotype=published("DARTS_V2").text(), **values)


def _sets() -> tuple[Any, Any]:
    return tiny.images(32), tiny.images(24, seed=1)


def test_the_budgets_are_the_published_ones() -> None:
    config = RetrainConfig(genotype=published("DARTS_V2").text(), **budget("cifar10"))
    published_values = {"epochs": 600, "batch_size": 96, "channels": 36, "layers": 20, "auxiliary": 0.4}
    published_values |= {"drop_path": 0.2, "cutout": 16, "crop": 4, "flip": True, "lr": 0.025, "lr_min": 0.0}
    published_values |= {"weight_decay": 3e-4, "momentum": 0.9, "grad_clip": 5.0, "seed": 0}
    assert {name: getattr(config, name) for name in published_values} == published_values


def test_retrain_resumes_bit_for_bit_with_drop_path_and_auxiliary_head(tmp_path: Path) -> None:
    config = _config(auxiliary=0.4, drop_path=0.3, epochs=3, cutout=2)
    whole = retrain(config, tmp_path / "whole", sets=_sets())
    with pytest.raises(Interrupted):
        retrain(config, tmp_path / "cut", sets=_sets(), progress=tiny.StopAt(7))
    resumed = continue_retrain(tmp_path / "cut", sets=_sets())
    left, right = tiny.state_of(tmp_path / "whole"), tiny.state_of(tmp_path / "cut")
    assert [name for name in left if not torch.equal(left[name], right[name])] == []
    assert tiny.untimed([whole]) == tiny.untimed([resumed])
    assert len(whole["history"]) == 3
    assert whole["parameters"] > 0
    assert 0.0 <= whole["test_accuracy"] <= 1.0


def test_the_test_set_is_read_only_at_the_end(tmp_path: Path) -> None:
    """A run whose test images are wrong trains to the same weights: nothing before the end depends on them."""
    train, test = _sets()
    retrain(_config(), tmp_path / "right", sets=(train, test))
    blank = dataclasses.replace(test, images=torch.zeros_like(test.images))
    retrain(_config(), tmp_path / "blank", sets=(train, blank))
    left, right = tiny.state_of(tmp_path / "right"), tiny.state_of(tmp_path / "blank")
    assert all(torch.equal(left[name], right[name]) for name in left)
    logs = [tiny.untimed(RunFolder.open(tmp_path / each).metrics()) for each in ("right", "blank")]
    assert logs[0] == logs[1]
    assert not any("test" in key for record in logs[0] for key in record)


def test_a_step_descends_along_the_auxiliary_loss_too_and_records_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    job = RetrainJob(_config(auxiliary=0.4, label_smoothing=0.1), _sets())
    job.begin_epoch(0)
    images, labels = job.train.next()
    monkeypatch.setattr(job.train, "next", lambda: (images, labels))
    descended: list[torch.Tensor] = []
    monkeypatch.setattr(sys.modules[RetrainJob.__module__], "descend", lambda loss, *_: descended.append(loss))
    recorded = job.step(0, 0)["train_loss"]
    own, head = (F.cross_entropy(each, labels, label_smoothing=0.1) for each in job.model(images))
    assert torch.equal(recorded, own)
    assert torch.equal(descended[0], own + 0.4 * head)


def test_the_result_is_that_of_the_trained_network_on_all_test_images(tmp_path: Path) -> None:
    sets, config = (tiny.images(32), tiny.images(21, seed=1)), _config(auxiliary=0.4, drop_path=0.3)
    result = retrain(config, tmp_path / "run", sets=sets)
    state = RunFolder.open(tmp_path / "run").load().state["job"]
    # The second of two epochs: half of the cosine, half of the ramp.
    assert state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(config.lr / 2)
    job = RetrainJob(config, sets)
    job.begin_epoch(1)
    assert job.model.drop_path_prob == pytest.approx(0.15)
    job.load_state_dict(state)
    job.model.eval()
    images, labels = next(Batches(sets[1], batch_size=21, seed=0, shuffle=False).once())
    with torch.no_grad():
        logits, _ = job.model(images)
    assert result["test_accuracy"] == pytest.approx(float((logits.argmax(1) == labels).double().mean()))
    assert result["test_loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    headless = RetrainJob(dataclasses.replace(config, auxiliary=0.0), sets)
    assert result["parameters"] == sum(weight.numel() for weight in headless.weights)


def test_a_test_set_that_does_not_fit_is_refused_before_the_training(tmp_path: Path) -> None:
    train, test = _sets()
    for change in ({"images": test.images[..., :5, :5].contiguous()}, {"classes": 4}, {"mean": (0.5,)}):
        with pytest.raises(UserError, match="the test set has"):
            retrain(_config(), tmp_path / "run", sets=(train, dataclasses.replace(test, **change)))
    assert list(tmp_path.iterdir()) == []


def test_a_genotype_of_one_cell_a_layer_has_its_own_depth(tmp_path: Path) -> None:
    unshared = space("amended-s2")
    found = random_genotype(unshared, 7, layers=4)
    small = {name: value for name, value in SMALL.items() if name != "layers"} | {"device": "cpu", "epochs": 1}
    settings = budget("custom", found=found, **small)
    assert settings["layers"] == 4
    assert retrain(RetrainConfig(found.text(), **settings), tmp_path / "one", sets=_sets())["layers"] == 4
    with pytest.raises(UserError, match="layers is 3 for a genotype of 4 cells"):
        RetrainConfig(found.text(), **(settings | {"layers": 3}))
    arguments: dict[str, Any] = {"search_space": unshared, "settings": settings, "random_cells": 2, "sets": _sets()}
    result = compare(found, tmp_path / "compare", **arguments)
    assert result["random"][0]["text"] == random_genotype(unshared, 0, layers=4).text()
    assert result["budget"]["layers"] == 4


def test_custom_images_are_not_augmented_unasked() -> None:
    assert {name: budget("custom")[name] for name in ("crop", "flip", "cutout")} == {
        "crop": 0,
        "flip": False,
        "cutout": 0,
    }


def test_every_comparison_has_its_own_folder(tmp_path: Path) -> None:
    found = random_genotype(space("darts"), 99, layers=3)
    settings = budget("custom", **(SMALL | {"epochs": 1}), device="cpu")
    arguments: dict[str, Any] = {"search_space": space("darts"), "settings": settings, "random_cells": 2}
    base = tmp_path / "compare"
    assert comparison_folder(base, found, **arguments) == base
    compare(found, base, **arguments, sets=_sets(), command="first")
    assert comparison_folder(base, found, **arguments) == base
    assert comparison_folder(base, found, **(arguments | {"random_cells": 3})) == tmp_path / "compare-2"
    assert comparison_folder(base, found, **arguments, seeds=(4,)) == tmp_path / "compare-2"


def test_retraining_learns(tmp_path: Path) -> None:
    result = retrain(_config(epochs=8, lr=0.1), tmp_path / "run", sets=(tiny.images(96), tiny.images(48, seed=1)))
    assert result["test_accuracy"] > 0.9


def test_compare_continues_and_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"search_space": space("darts"), "settings": budget("custom", **SMALL, device="cpu")}
    arguments |= {"random_cells": 2, "seeds": (0, 1), "sets": _sets()}
    found = random_genotype(space("darts"), 99, layers=3)
    whole = compare(found, tmp_path / "whole", **arguments)
    with pytest.raises(Interrupted):
        compare(found, tmp_path / "cut", **arguments, progress=tiny.StopAt(21))
    assert compare(found, tmp_path / "cut", **arguments) == whole
    assert len(whole["random"]) == 2
    assert all(len(each["accuracies"]) == 2 for each in [whole["found"], *whole["random"]])
    assert whole["random"][1]["text"] == random_genotype(space("darts"), 1, layers=3).text()
    assert whole["budget"] == {"epochs": 2, "channels": 4, "layers": 3, "batch_size": 8}
    assert RunFolder.open(tmp_path / "whole").read_json("comparison.json") == whole
    with pytest.raises(UserError, match="begun with another genotype"):
        compare(found, tmp_path / "cut", **(arguments | {"seeds": (0,)}))


def _result(accuracy: float) -> dict[str, Any]:
    return {"text": "g", "test_accuracy": accuracy, "parameters": 7}


def test_statistics_by_hand() -> None:
    """Mean .92, standard deviation .02, t(0.975, 2) = 4.302653; on the logit scale, whose slope is 1 / (.92 * .08)."""
    out = statistics([_result(0.93), _result(0.95)], [[_result(0.90)], [_result(0.92)], [_result(0.94)]])
    assert out["found"]["mean"] == pytest.approx(0.94)
    assert out["random_mean"] == pytest.approx(0.92)
    assert out["random_std"] == pytest.approx(0.02)
    half = 4.302652729911275 * 0.02 / 3**0.5 / (0.92 * 0.08)
    ends = [1 / (1 + math.exp(-(math.log(0.92 / 0.08) + side * half))) for side in (-1, 1)]
    assert out["interval95"] == pytest.approx(ends)
    assert ends == pytest.approx([0.8541228, 0.9576042], abs=1e-7)
    assert out["random_parameters"] == 7
    assert out["beaten_by"] == 0.0
    # Nobody of three: Clopper and Pearson's upper end is 1 - 0.025 ** (1 / 3).
    assert out["beaten_by95"] == pytest.approx([0.0, 1.0 - 0.025 ** (1.0 / 3.0)])
    worse = statistics([_result(0.91)], [[_result(0.90)], [_result(0.92)], [_result(0.94)]])
    assert worse["beaten_by"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda path: retrain(_config(), path), "without sets"),
        (lambda path: retrain(_config(drop_path=1.0), path, sets=_sets()), "drop_path is 1.0"),
        (lambda path: budget("digits", epoch=3), "unknown setting 'epoch'"),
        (lambda path: budget("digits", genotype="x"), "unknown setting 'genotype'"),
        (lambda path: retrain(_config(batch_size=1), path, sets=_sets()), "a batch of 1 in training"),
        (lambda path: retrain(_config(batch_size=99), path, sets=_sets()), "batch size 99 is larger"),
        (
            lambda path: compare(
                published("DARTS_V2"),
                path,
                search_space=space("darts"),
                settings=budget("custom", **(SMALL | {"batch_size": 99}), device="cpu"),
                sets=_sets(),
            ),
            "batch size 99 is larger",
        ),
        (
            lambda path: compare(published("AmoebaNet"), path, search_space=space("darts"), settings=budget()),
            "the genotype is not of space darts",
        ),
        (
            lambda path: compare(published("DARTS_V2"), path, search_space=space("s2"), settings=budget()),
            "the genotype is not of space s2",
        ),
        (lambda path: RetrainConfig(genotype="Genotype("), "line 1"),
        (
            lambda path: compare(published("DARTS_V2"), path, search_space=space("darts"), settings={}, random_cells=1),
            "random_cells is 1",
        ),
        (
            lambda path: compare(published("DARTS_V2"), path, search_space=space("darts"), settings={}, seeds=(1, 1)),
            "seeds are",
        ),
    ],
)
def test_bad_input_writes_nothing(call: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        call(tmp_path / "run")
    assert not (tmp_path / "run").exists()
