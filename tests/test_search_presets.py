"""Amended-DARTS and PC-DARTS as presets: published values, equal alphas, and regularised searches that go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import SPACE, StopAt, assert_same_run, config, images, state_of

from fastdarts.errors import UserError
from fastdarts.nn import Supernet
from fastdarts.search import Interrupted, configure, resume, search
from fastdarts.spaces import space

AMENDED = {
    "hypergradient": "amended",
    "eta": 0.1,
    "epochs": 100,
    "batch_size": 96,
    "channels": 36,
    "cutout": 16,
    "auxiliary": 0.4,
    "alpha_scale": 0.0,
    "arch_lr": 3e-4,
    "arch_weight_decay": 1e-3,
    "arch_beta1": 0.5,
    "arch_beta2": 0.999,
    "lr": 0.025,
    "drop_path": 0.0,
}
IMAGENET = {
    "hypergradient": "first",
    "partial": 2,
    "edge_normalisation": True,
    "epochs": 50,
    "arch_start_epoch": 35,
    "warmup_epochs": 5,
    "batch_size": 1024,
    "lr": 0.5,
    "lr_min": 0.0,
    "arch_lr": 6e-3,
    "arch_weight_decay": 1e-3,
    "arch_grad_clip": 5.0,
    "train_portion": 0.8,
    "stem": "imagenet",
    "channel_sampling": False,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "amended": AMENDED | {"space": "amended-s1", "layers": 8},
    "amended-s2": AMENDED | {"space": "amended-s2", "layers": 20},
    "amended-s2-full": AMENDED | {"space": "amended-s2-full", "layers": 20},
    "pc-darts-imagenet": IMAGENET,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_values(name: str) -> None:
    found = configure(name, data="cifar10")
    assert {field: getattr(found, field) for field in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_shorter_searches_and_smaller_images_keep_the_proportions(name: str) -> None:
    small = configure(name)
    assert (small.epochs, small.channels, small.layers, small.stem) == (15, 8, 3, "cifar")
    assert small.cutout == (4 if name.startswith("amended") else 0), "half of the side, as 16 of 32"
    waiting = configure("pc-darts-imagenet", data="cifar10", epochs=20)
    assert (waiting.arch_start_epoch, waiting.warmup_epochs) == (14, 2)


def test_the_spaces_of_the_paper() -> None:
    shared, own, full = (space(name) for name in ("amended-s1", "amended-s2", "amended-s2-full"))
    assert [len(each.cell(each.keys(20)[0], 20).edges) for each in (shared, own, full)] == [8, 8, 8]
    assert len(shared.arch_keys(8)) == 2 and len(own.arch_keys(20)) == len(full.arch_keys(20)) == 20
    assert own.normal.edges[0].primitives == ("skip_connect", "sep_conv_3x3")
    assert full.normal.edges[0].primitives == shared.normal.edges[0].primitives
    assert len(full.normal.edges[0].primitives) == 7 and "none" not in full.normal.edges[0].primitives


def test_alphas_start_equal_on_every_edge() -> None:
    found = configure("amended")
    net = Supernet(space(found.space), channels=2, layers=3, alpha_scale=found.alpha_scale)
    assert all((weights == 1 / 7).all() for weights in net.mixing_weights().values())


REGULARISED: dict[str, tuple[str, dict[str, Any]]] = {
    "amended": ("amended", {"cutout": 2, "channels": 4}),
    "sampled channels under all of it": (
        "pc-darts",
        {"channel_sampling": True, "cutout": 2, "drop_path": 0.3, "ramp": True, "auxiliary": 0.4, "dropout": 0.1},
    ),
    "drop-path under finite differences": ("darts-second", {"drop_path": 0.3}),
}


@pytest.mark.parametrize("case", REGULARISED)
def test_a_regularised_search_resumes_bit_for_bit(case: str, tmp_path: Path) -> None:
    name, settings = REGULARISED[case]
    # Three epochs: stopped in the middle of the second, where ramps have begun to rise.
    given = config(name, **({"epochs": 3, "space": "tiny"} | settings))
    whole = search(given, tmp_path / "whole", train_set=images(), search_space=SPACE)
    with pytest.raises(Interrupted):
        search(given, tmp_path / "stopped", train_set=images(), search_space=SPACE, progress=StopAt(5))
    again = resume(tmp_path / "stopped", train_set=images())
    assert again.genotype == whole.genotype
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    assert any("auxiliary_head" in key for key in state_of(tmp_path / "whole")) == (given.auxiliary > 0)


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("pc-darts", {"channel_sampling": True, "partial": 1}, "channel_sampling with partial 1"),
        ("amended", {"dropout": 1.0}, "dropout is 1.0; expected from 0 to below 1"),
        ("amended", {"cutout": 16}, "cutout 16 would blank whole images of 6x6 pixels"),
        ("amended", {"auxiliary": -0.4}, "auxiliary is -0.4; expected 0 or more"),
    ],
    ids=["sampling", "dropout", "cutout", "auxiliary"],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    name: str, settings: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=told):
        search(config(name, **settings), tmp_path / "run", train_set=images(), search_space=SPACE)
    assert not (tmp_path / "run").exists()
