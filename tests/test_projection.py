"""DARTS-PT: every decision against the authors' functions, the supernet's merit by hand, selection after a search."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts.errors import UserError
from fastdarts.search import Interrupted, Progress, configure, resume, search, select
from fastdarts.search.job import SearchJob
from fastdarts.search.projection import Projection, project
from fastdarts.search.selection import SharedWeights
from fastdarts.spaces import derive, space
from tests import tiny
from tests.test_methods_golden import golden

SPACE = space("darts-without-none")
KEYS = ("normal", "reduce")


@pytest.mark.parametrize("case", golden("darts-pt")["cases"], ids=lambda case: f"seed {case['seed']}")
def test_decisions_are_the_authors(case: dict[str, Any]) -> None:
    """Under a made-up accuracy that is no sum and has ties; edges and nodes in the order that the fixture drew."""
    draw = Random(case["seed"])

    def drawn(number: Any) -> dict[str, Tensor]:
        return {
            key: torch.tensor([[number() for _ in range(7)] for _ in range(14)], dtype=torch.float64) for key in KEYS
        }

    rows = {key: each.softmax(-1) for key, each in drawn(lambda: draw.gauss(0, 1)).items()}
    worth = drawn(lambda: draw.randint(0, 9) / 4)
    edges, nodes = {}, {}
    for key in KEYS:
        edges[key] = draw.sample(range(14), 14)
    for key in KEYS:
        nodes[key] = draw.sample(range(3), 3)

    def merit(weights: Mapping[str, Tensor]) -> float:
        return round(sum(float(torch.tanh((weights[key] * worth[key]).sum(-1)).sum()) for key in KEYS), 6)

    found = Projection(SPACE, 8)
    operators: list[list[int]] = [[], []]
    kept: list[list[list[int]]] = [[], []]
    for number in range(14):
        for place, key in enumerate(KEYS):
            operators[place].append(found.choose_operator(key, edges[key][number], rows, merit))
    for number in range(3):
        for place, key in enumerate(KEYS):
            kept[place].append(found.choose_edges(key, 3 + nodes[key][number], rows, merit))
    assert operators == case["operators"]
    assert kept == case["kept"]
    SPACE.check(found.genotype(), counted=True)


def _job(**settings: Any) -> SearchJob:
    job = SearchJob(tiny.config("darts-pt", **settings), tiny.images(), tiny.SPACE)
    job.rehearse()
    return job


def test_the_first_operator_is_the_one_without_which_the_supernet_is_worst() -> None:
    job = _job()
    model = job.model.double()
    rows = {key: each.detach() for key, each in model.mixing_weights().items()}
    accuracies = {}
    for column in (1, 2, 3):
        without = {key: each.clone() for key, each in rows.items()}
        without["normal"][2, column] = 0.0
        model.train()
        correct = 0
        for images, labels in job.valid.once():
            with torch.no_grad():
                correct += int((model(images.double(), without).argmax(1) == labels).sum())
        accuracies[column] = correct
    told: list[str] = []
    found = Projection(tiny.SPACE, 3)

    def merit(weights: Mapping[str, Tensor]) -> float:
        told.append("")
        total = 0.0
        model.train()
        with torch.no_grad():
            for images, labels in job.valid.once():
                total += float((model(images.double(), weights).argmax(1) == labels).sum())
        return total

    assert found.choose_operator("normal", 2, rows, merit) == min(accuracies, key=accuracies.__getitem__)
    assert len(told) == 3, "none is no operator to be chosen"


def test_what_was_decided_runs_alone_and_tuning_moves_the_rest() -> None:
    job = _job(select_tune_epochs=1)
    before = {key: each.detach().clone() for key, each in job.model.arch.alphas.items()}
    told: list[str] = []
    found = project(job, 1, 5, told.append)
    tiny.SPACE.check(found, counted=True)
    # Five edges of each cell type, and one node of three edges.
    assert len(told) == 2 * (5 + 1)
    assert all((job.model.arch.alphas[key].detach() != each).any() for key, each in before.items())
    # Every decision is announced once.
    assert sum("is none" in line for line in told) == 0
    assert job.train.state_dict()["position"] == 0 or job.train.state_dict()["position"] <= 3
    lazy = _job()
    still = {name: value.clone() for name, value in lazy.model.state_dict().items()}
    project(lazy, 0, 5, told.append)
    assert all(torch.equal(still[name], value) for name, value in lazy.model.state_dict().items())


def test_select_reads_a_finished_run_again_and_leaves_it_as_it_is(tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = search(tiny.config("darts-first"), run, train_set=tiny.images(), search_space=tiny.SPACE)
    before = (run / "result.json").read_bytes(), tiny.state_of(run)
    images = tiny.images()
    assert select(run, "weights", train_set=images) == result.genotype
    found = [select(run, "perturbation", tune_epochs=1, train_set=images) for _ in range(2)]
    assert found[0] == found[1]
    sampled = select(run, "sampled", samples=20, train_set=images)
    for genotype, by in ((found[0], "perturbation"), (sampled, "sampled")):
        tiny.SPACE.check(genotype, counted=True)
        told = json.loads((run / f"selected-{by}.json").read_text(encoding="utf-8"))
        assert told["text"] == genotype.text()
    assert (run / "result.json").read_bytes() == before[0]
    assert all(torch.equal(value, before[1][name]) for name, value in tiny.state_of(run).items())
    with pytest.raises(UserError, match="select by 'luck'; expected one of weights, perturbation, sampled"):
        select(run, "luck", train_set=images)


def test_a_search_may_select_so_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"select": "perturbation", "select_tune_epochs": 1}
    itself = search(tiny.config(**settings), tmp_path / "a", train_set=tiny.images(), search_space=tiny.SPACE)
    search(tiny.config(), tmp_path / "b", train_set=tiny.images(), search_space=tiny.SPACE)
    later = select(tmp_path / "b", "perturbation", tune_epochs=1, train_set=tiny.images())
    assert itself.genotype == later
    monkeypatch.setattr("fastdarts.search.job.SharedWeights", lambda *counts: SharedWeights(9, 2, 1))
    sampled = tiny.config(select="sampled")
    found = search(sampled, tmp_path / "c", train_set=tiny.images(24), search_space=tiny.SPACE)
    tiny.SPACE.check(found.genotype, counted=True)
    gates = tiny.config("gdas", **settings)
    with pytest.raises(UserError, match="with tuning after gdas"):
        search(gates, tmp_path / "d", train_set=tiny.images(), search_space=tiny.SPACE)
    assert not (tmp_path / "d").exists()


def test_a_selection_stops_between_two_decisions_and_is_done_again(tmp_path: Path) -> None:
    """The search itself is over by then: a signal that came in the selection must not wait for its end."""

    class Stops(Progress):
        left = 3

        def note(self, message: str) -> None:
            self.left -= "edge" in message
            if self.left == 0:
                self.left = -1
                os.kill(os.getpid(), signal.SIGTERM)

    config = tiny.config("darts-pt")
    whole = search(config, tmp_path / "whole", train_set=tiny.images(), search_space=tiny.SPACE)
    with pytest.raises(Interrupted):
        search(config, tmp_path / "cut", train_set=tiny.images(), search_space=tiny.SPACE, progress=Stops())
    assert not (tmp_path / "cut" / "result.json").exists()
    assert resume(tmp_path / "cut", train_set=tiny.images()).genotype == whole.genotype


def test_published_settings() -> None:
    found = configure("darts-pt", data="custom")
    assert (found.select, found.select_tune_epochs, found.space) == ("perturbation", 10, "darts-without-none")
    assert (found.epochs, found.batch_size, found.hypergradient) == (50, 64, "first")


def test_equal_rows_derive_by_the_rule_of_the_space() -> None:
    """What nothing tells apart goes to the first operator and keeps the first edges."""
    found = Projection(tiny.SPACE, 3)
    rows = {key: torch.full((5, 4), 0.25) for key in KEYS}
    for key in KEYS:
        for edge in range(5):
            assert found.choose_operator(key, edge, rows, lambda weights: 1.0) == 1
        assert found.choose_edges(key, 3, rows, lambda weights: 1.0) == [2, 3]
    assert found.genotype() == derive(tiny.SPACE, rows, layers=3)
    assert F.one_hot(torch.tensor([1]), 4).tolist() == found.weights(rows)["normal"][:1].long().tolist()
