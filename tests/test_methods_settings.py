"""Settings that make methods their authors': what images a level has, rates by the step, ends of SGAS, earlier runs."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from fastdarts.data import split_levels
from fastdarts.errors import UserError
from fastdarts.runs import RunFolder
from fastdarts.search import METHODS, Interrupted, SearchConfig, configure, resume, search
from fastdarts.search.choices import Finished, Stage
from fastdarts.search.job import SearchJob
from fastdarts.search.methods import compose
from fastdarts.search.schedule import learning_rate, rates
from fastdarts.search.selection import SharedWeights
from fastdarts.spaces import Genotype, random_genotype, space
from tests import tiny


def _job(name: str, **settings: Any) -> SearchJob:
    return SearchJob(tiny.config(name, **settings), tiny.images(), tiny.SPACE)


def test_one_level_searches_validate_on_images_that_they_do_not_learn_from() -> None:
    for name in ("darts-one-level", "snas"):
        job = _job(name, held_out=configure(name, data="custom").held_out)
        train, valid = set(job.train.indices.tolist()), set(job.valid.indices.tolist())
        assert not train & valid
        assert len(train | valid) == 48
        assert len(valid) == 5
        assert not any("measured on images that the weights learn from" in line for line in job._foreseen)
    whole = _job("darts-one-level", held_out=0.0)
    assert len(whole.train.indices) == 48
    assert any("measured on images that the weights learn from" in line for line in whole._foreseen)
    with pytest.raises(UserError, match=r"held_out is 0\.1 in a search of two levels"):
        tiny.config("darts-first", held_out=0.1)


def test_levels_of_every_class() -> None:
    labels = torch.tensor([0] * 10 + [1] * 30 + [2] * 5)
    first, second = split_levels(45, 0.8, 3, labels)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(45))
    assert torch.bincount(labels[first]).tolist() == [8, 24, 4]
    assert configure("pc-darts-imagenet", data="custom").split_by_class
    assert not configure("pc-darts", data="custom").split_by_class
    with pytest.raises(UserError, match="of each class leaves a level without images"):
        split_levels(3, 0.5, 0, torch.tensor([0, 1, 2]))


def test_a_smaller_last_batch_is_learnt_from_where_it_is_asked_for(tmp_path: Path) -> None:
    # 24 images a level in batches of 9.
    assert len(_job("darts-first", batch_size=9).train) == 2
    config = tiny.config("darts-first", batch_size=9, drop_last=False)
    whole = search(config, tmp_path / "whole", train_set=tiny.images(), search_space=tiny.SPACE)
    assert [each["step"] for each in tiny.metrics(tmp_path / "whole") if each["kind"] == "epoch"] == [3, 6]
    with pytest.raises(Interrupted):
        search(config, tmp_path / "cut", train_set=tiny.images(), search_space=tiny.SPACE, progress=tiny.StopAt(4))
    assert resume(tmp_path / "cut", train_set=tiny.images()).genotype == whole.genotype
    tiny.assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_proxyless_rates_restart_after_the_waiting_epochs() -> None:
    config = configure("proxyless", data="cifar10", data_root="nowhere")
    for epoch, behind, expected in (
        (0, 0.0, 0.05),
        (20, 0.0, 0.025),
        (39, 0.5, 0.025 * (1 + math.cos(math.pi * 39.5 / 40))),
        (40, 0.0, 0.025),
        (100, 0.0, 0.0125),
        (100, 0.5, 0.0125 * (1 + math.cos(math.pi * 60.5 / 120))),
    ):
        assert learning_rate(config, epoch, 160, behind) == pytest.approx(expected, rel=1e-12)
    small = configure("proxyless")
    assert (small.epochs, small.waiting_epochs, small.arch_start_epoch) == (40, 10, 10)


def test_warm_up_only_with_large_batches_and_drop_path_without_a_ramp() -> None:
    large = configure("pc-darts-imagenet", data="custom")
    assert learning_rate(large, 0, 50) == pytest.approx(0.1)
    few = configure("pc-darts-imagenet", data="custom", batch_size=256)
    assert learning_rate(few, 0, 50) == pytest.approx(0.5)
    stage = Stage(0, 150, tiny.SPACE, 3)
    snas = configure("snas", data="custom")
    assert {rates(snas, None, stage, epoch).drop_path for epoch in (0, 74, 149)} == {0.3}


def test_alphas_learn_every_so_many_steps_from_images_as_they_are() -> None:
    job = _job("proxyless", arch_start_epoch=0, arch_every=3, waiting_epochs=0)
    assert (job.valid.augmentation.crop, job.train.augmentation.crop) == (0, 1)
    job.rehearse()
    job.begin_epoch(0)
    seen = ["arch_loss" in job.step(0, position) for position in range(3)]
    assert seen == [False, False, True]


def test_alphas_start_around_their_mean() -> None:
    alphas = torch.cat([each.detach().flatten() for each in _job("snas").model.arch.alphas.values()])
    assert abs(alphas.mean().item() - 1.0) < 0.01
    assert 0.005 < alphas.std().item() < 0.02


def test_batch_statistics_validate_as_training_does_and_leave_no_trace() -> None:
    job = _job("proxyless", drop_path=0.3)
    job.rehearse()
    before = {name: value.clone() for name, value in job.model.state_dict().items()}
    loss, _ = job.evaluation()
    assert job.model.training
    assert all(torch.equal(before[name], value) for name, value in job.model.state_dict().items())
    model = job.model
    model.drop_path_prob = 0.0
    total = 0.0
    with torch.no_grad():
        for images, labels in job.valid.once():
            logits = model(images, **job.choices.relaxation.evaluated(model))
            total += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
    assert loss == pytest.approx(total / 24, rel=1e-5)


def test_sgas_epochs_follow_its_decisions() -> None:
    assert configure("sgas", data="custom").epochs == 50
    assert configure("sgas", data="custom", decide_every=7).epochs == 64
    assert configure("sgas", decide_every=2).epochs == 3 + 14 + 6
    with pytest.raises(UserError, match="24 epochs with decide_from 9 and decide_every 5: the 4 decisions of a cell"):
        _job("sgas", epochs=24, decide_from=9, decide_every=5)
    assert _job("sgas", epochs=25, decide_from=9, decide_every=5).epochs == 25
    assert _job("sgas", epochs=24, decide_from=9, decide_every=5, decide_all=False).epochs == 24


def test_sgas_batches_grow_its_last_decision_counts_and_it_resumes(tmp_path: Path) -> None:
    config = tiny.config("sgas", batch_increase=2)
    found = search(config, tmp_path / "whole", train_set=tiny.images(), search_space=tiny.SPACE)
    records = [each for each in tiny.metrics(tmp_path / "whole") if each["kind"] == "epoch"]
    # 24 images in batches of 8, 10, 12 and 14.
    assert [each["step"] for each in records] == [3, 5, 7, 8]
    state = RunFolder.open(tmp_path / "whole").load().state["job"]
    chosen = state["guards"][0]["chosen"]
    assert all(-1 not in columns for columns in chosen.values()), "the last epoch has the last decision"
    for key, columns in chosen.items():
        edges = tiny.SPACE.cell(key, 3).edges
        decided = {
            (edge.primitives[k], edge.source, edge.node) for edge, k in zip(edges, columns, strict=True) if k >= 0
        }
        assert set(found.genotype.edges(key)) == decided
    last = json.loads((tmp_path / "whole" / "epochs" / "0003.json").read_text(encoding="utf-8"))
    assert last["text"] == found.genotype.text()
    for step in (4, 6, 8):
        path = tmp_path / f"cut-{step}"
        with pytest.raises(Interrupted):
            search(config, path, train_set=tiny.images(), search_space=tiny.SPACE, progress=tiny.StopAt(step))
        resume(path, train_set=tiny.images())
        tiny.assert_same_run(tmp_path / "whole", path)


EARLIER = (
    *("held_out", "split_by_class", "drop_last", "warmup_above", "waiting_epochs", "waiting_lr", "lr_by_step"),
    *("alpha_mean", "arch_every", "arch_augmented", "label_smoothing", "drop_path_constant", "batch_statistics"),
)


@pytest.mark.parametrize("name", [name for name, each in METHODS.items() if each.earlier])
def test_a_run_of_before_these_settings_keeps_its_meaning(name: str) -> None:
    """Its configuration lacks them, and so do the options of its method."""
    written = tiny.config(name).to_json()
    for field in EARLIER:
        del written[field]
    for option in METHODS[name].earlier:
        del written["options"][option]
    found = SearchConfig.from_json(written)
    assert (found.held_out, found.drop_last, found.arch_every, found.alpha_mean) == (0.0, True, 1, 0.0)
    choices = compose(found)
    if name in ("snas", "gdas"):
        assert choices.derivation.rule == "darts"  # type: ignore[attr-defined]
    if name == "proxyless":
        assert (choices.relaxation.moves_drawn, choices.relaxation.by_edge) == (False, False)
    with pytest.raises(UserError, match="unknown or missing fields: lr"):
        SearchConfig.from_json({key: value for key, value in written.items() if key != "lr"})


def test_p_darts_stages_grow_wider_and_other_limits_are_told(tmp_path: Path) -> None:
    config = tiny.config("p-darts", wider=(0, 4, 8), skip_limit=0)
    search(config, tmp_path / "run", train_set=tiny.images(), search_space=tiny.SPACE)
    state = RunFolder.open(tmp_path / "run").load().state["job"]
    assert state["stage"]["wider"] == 8
    assert state["model"]["classifier.weight"].shape[1] == (4 + 8) * 4 * 2
    others = (
        json.loads((tmp_path / "run" / "others.json").read_text(encoding="utf-8"))
        if (tmp_path / "run" / "others.json").is_file()
        else {}
    )
    for text, value in others.items():
        if text.startswith("at most"):
            assert Genotype.from_json(value).skips("normal") <= int(text.split()[2])
    with pytest.raises(UserError, match="2 numbers for wider"):
        compose(tiny.config("p-darts", wider=(0, 4)))


def test_random_ws_draws_none_on_request() -> None:
    drawn = [random_genotype(space("darts"), seed, with_none=True) for seed in range(2000)]
    operators = Counter(op for each in drawn for key in ("normal", "reduce") for op, _, _ in each.edges(key))
    assert all(abs(count / 32000 - 1 / 8) < 0.01 for count in operators.values())
    assert len(operators) == 8
    holding = sum("none" in each.counts("normal") or "none" in each.counts("reduce") for each in drawn)
    assert 0.85 < holding / 2000 < 0.91
    inputs = Counter(tuple(source for _, source in each.normal.nodes[1]) for each in drawn)
    assert set(inputs) == {(0, 1), (0, 2), (1, 2)}
    assert all(abs(count / 2000 - 1 / 3) < 0.05 for count in inputs.values())


def test_random_ws_has_finalists_of_every_round() -> None:
    job = _job("random-ws")
    told: list[str] = []
    finished = Finished(job.model, job.choices.relaxation, job.valid.once, 1, told.append)
    SharedWeights(12, 1, 1, per_round=4).final(finished)
    assert any("best of 3 finalists" in line for line in told)
    SharedWeights(12, 1, 1, per_round=2**40).final(finished)
    assert any("best of 1 finalists" in line for line in told)
