"""The configuration: published values, ranges, and exact round trips."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fastdarts.errors import UserError
from fastdarts.search import METHODS, SearchConfig, configure
from fastdarts.search.choices import Stage
from fastdarts.search.schedule import cosine, learning_rate, rates
from fastdarts.spaces import space


def test_darts_has_the_published_values() -> None:
    config = configure("darts-first", data="cifar10")
    published = {"epochs": 50, "batch_size": 64, "channels": 16, "layers": 8, "train_portion": 0.5, "seed": 2}
    published |= {"lr": 0.025, "lr_min": 0.001, "momentum": 0.9, "weight_decay": 3e-4, "grad_clip": 5.0}
    published |= {"arch_lr": 3e-4, "arch_beta1": 0.5, "arch_beta2": 0.999, "arch_weight_decay": 1e-3}
    published |= {"crop": 4, "flip": True, "cutout": 0, "arch_start_epoch": 0, "partial": 1, "epsilon": 0.01}
    assert {name: getattr(config, name) for name in published} == published
    assert config.hypergradient == "first"
    assert configure("darts-second", data="cifar10").hypergradient == "second"


def test_pc_darts_has_the_published_values() -> None:
    config = configure("pc-darts", data="cifar10")
    published = {"batch_size": 256, "lr": 0.1, "lr_min": 0.0, "arch_lr": 6e-4, "arch_start_epoch": 15}
    published |= {"partial": 4, "edge_normalisation": True, "epochs": 50, "channels": 16, "layers": 8}
    assert {name: getattr(config, name) for name in published} == published


def test_digits_keep_the_share_of_epochs_that_the_alphas_wait() -> None:
    assert configure("pc-darts", epochs=10).arch_start_epoch == 3
    assert configure("pc-darts", epochs=10, arch_start_epoch=0).arch_start_epoch == 0


def test_other_data_keep_that_share_too() -> None:
    assert configure("pc-darts", data="cifar10").arch_start_epoch == 15
    assert configure("pc-darts", data="cifar10", epochs=10).arch_start_epoch == 3


def test_a_preset_space_brings_its_layers() -> None:
    assert configure("darts-first", data="cifar10", space="amended-s2").layers == 20
    assert configure("darts-first", data="cifar10", space="amended-s2", layers=5).layers == 5
    assert configure("darts-first", space="amended-s2").layers == 3


@pytest.mark.parametrize("name", METHODS)
def test_round_trip(name: str) -> None:
    config = configure(name, hypergradient="second", check_hypergradient=(0, 3), seed=7)
    assert SearchConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_every_method_names_its_source() -> None:
    for name, method in METHODS.items():
        assert method.name == name
        assert re.search(r"20(17|18|19|20|21|22|23)|arXiv 1\d{3}\.\d{5}", method.source), method.source
        assert set(method.defaults) <= set(SearchConfig.__dataclass_fields__)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"epochs": 0}, "epochs is 0; expected at least 1"),
        ({"lr": -1.0}, "lr is -1.0; expected 0 or more"),
        ({"lr": float("nan")}, "lr is nan; expected a finite number"),
        ({"momentum": 1.0}, "momentum is 1.0; expected from 0 to below 1"),
        ({"train_portion": 1.0}, "train_portion is 1.0"),
        ({"epochs": 2.5}, "epochs is 2.5; expected a value of type int"),
        ({"epochs": True}, "epochs is True; expected a value of type int"),
        ({"flip": 1}, "flip is 1; expected a value of type bool"),
        ({"channels": 6, "partial": 4}, "use --channels 8"),
        ({"hypergradient": "third"}, "unknown hypergradient 'third'; expected one of one-level"),
        ({"hypergradient": "second", "lr": 0.0}, "lr is 0 with hypergradient 'second'"),
        ({"seed": 2**62}, "seed is 4611686018427387904; expected below 2**62"),
        ({"data_root": Path("x")}, "a value of type str | None"),
        ({"check_hypergradient": 3}, "check_hypergradient is 3"),
        ({"hypergradient": "second", "check_hypergradient": ("a",)}, "check_hypergradient names epoch 'a'"),
        ({"epochs": 3, "arch_start_epoch": 3}, "the alphas would never learn; expected from 0 to 2"),
        ({"threads": -1}, "threads is -1; expected 0 or more"),
        ({"memory": "small"}, "memory is 'small'; expected one of fast, balanced, lean"),
        ({"epsilon": 0.0}, "epsilon is 0.0; expected a positive number"),
        ({"check_hypergradient": (0,)}, "takes no finite differences; expected second or amended"),
        (
            {"epochs": 3, "hypergradient": "second", "check_hypergradient": (3,)},
            "check_hypergradient names epoch 3; expected epochs from 0 to 2",
        ),
    ],
)
def test_bad_values_are_told_in_one_line(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(UserError) as caught:
        configure("darts-first", **wrong)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_names_are_told() -> None:
    with pytest.raises(UserError, match="did you mean pc-darts"):
        configure("pcdarts")
    with pytest.raises(UserError, match="unknown setting 'learning_rate'"):
        configure("darts-first", learning_rate=0.1)
    values = configure("darts-first").to_json()
    with pytest.raises(UserError, match="unknown or missing fields: surprise"):
        SearchConfig.from_json(values | {"surprise": 1})
    del values["lr"]
    with pytest.raises(UserError, match="unknown or missing fields: lr"):
        SearchConfig.from_json(values)


def test_cosine_is_torchs() -> None:
    import torch

    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], 0.025)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10, eta_min=0.001)
    for epoch in range(10):
        assert cosine(epoch, 10, 0.025, 0.001) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        scheduler.step()


def test_the_learning_rate_warms_up_and_then_follows_its_cosine() -> None:
    config = configure("pc-darts-imagenet", data="custom", epochs=10, warmup_epochs=4, lr=0.8, lr_min=0.0)
    found = [learning_rate(config, epoch, 10) for epoch in range(10)]
    assert found[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert found[4:] == pytest.approx([cosine(epoch, 10, 0.8, 0.0) for epoch in range(4, 10)])


@pytest.mark.parametrize(
    ("ramp", "drop_path", "cutout"),
    [(True, [0.0, 0.1, 0.2], [0.0, 0.5, 1.0]), (False, [0.0, 0.2 / 3, 0.4 / 3], [1.0] * 3)],
)
def test_a_ramp_arrives_in_the_last_epoch(ramp: bool, drop_path: list[float], cutout: list[float]) -> None:
    config = configure(epochs=3, drop_path=0.2, ramp=ramp)
    stage = Stage(0, 3, space("darts"), 3)
    found = [rates(config, lambda _, epoch: epoch / 8, stage, epoch) for epoch in range(3)]
    assert [each.drop_path for each in found] == pytest.approx(drop_path)
    assert [each.cutout for each in found] == pytest.approx(cutout)
    assert [each.skip_dropout for each in found] == [0.0, 0.125, 0.25]
