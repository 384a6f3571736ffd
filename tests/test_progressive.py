"""P-DARTS: the published plan, stages by what the weights say, the limit on skips, and resumption inside stage two."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastdarts.errors import UserError
from fastdarts.nn import Supernet
from fastdarts.runs import RunFolder
from fastdarts.search import configure, search
from fastdarts.search.choices import Begin, EpochEnd, Finished, Softmax, Stage
from fastdarts.search.methods import compose
from fastdarts.search.progressive import LimitedSkips, Progressive, SkipDropout, Step, limit_skips
from fastdarts.spaces import Space, define_space, parse_genotype, space
from tests import tiny

KEYS = ("normal", "reduce")
PLAN = (Step(3, 5), Step(2, 11, 5, 0.4), Step(4, 17, 3, 0.7))


def _weights(of: Space, seed: int, skips: float = 1.0) -> dict[str, torch.Tensor]:
    """Mixing weights, the skip connections' multiplied by a factor."""
    rng = np.random.default_rng(seed)
    drawn = {}
    for key in KEYS:
        rows = rng.random((len(of.cell(key).edges), of.cell(key).width))
        for row, edge in zip(rows, of.cell(key).edges, strict=True):
            if "skip_connect" in edge.primitives:
                row[edge.primitives.index("skip_connect")] *= skips
        drawn[key] = torch.from_numpy(rows / rows.sum(1, keepdims=True))
    return drawn


def test_the_published_values() -> None:
    config = configure("p-darts", data="cifar10")
    assert (config.epochs, config.batch_size, config.arch_start_epoch, config.channels) == (75, 96, 10, 16)
    assert (config.lr, config.lr_min, config.momentum, config.weight_decay) == (0.025, 0.0, 0.9, 3e-4)
    assert (config.arch_lr, config.arch_beta1, config.arch_weight_decay) == (6e-4, 0.5, 1e-3)
    assert (config.grad_clip, config.arch_grad_clip, config.hypergradient) == (5.0, 5.0, "first")
    choices = compose(config)
    assert choices.guards[0].steps == (Step(25, 5, None, 0.0), Step(25, 11, 5, 0.4), Step(25, 17, 3, 0.7))
    assert choices.skip_dropout == SkipDropout(10, 0.2)
    assert choices.derivation.limit == 2


def test_small_on_digits() -> None:
    config = configure("p-darts")
    assert config.arch_start_epoch == 2
    assert [(step.epochs, step.layers) for step in compose(config).guards[0].steps] == [(5, 3), (5, 3), (5, 4)]


def test_a_remainder_of_epochs_is_spread() -> None:
    config = configure("p-darts", data="cifar10", epochs=11, arch_start_epoch=1)
    lengths = [step.epochs for step in compose(config).guards[0].steps]
    assert lengths == [3, 4, 4]


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, 0.4 * 24 / 25), (9, 0.4 * 15 / 25), (10, 0.4), (15, 0.4 / math.e), (24, 0.4 * math.exp(-2.8))],
)
def test_dropout_falls_while_weights_learn_and_again_with_the_alphas(epoch: int, expected: float) -> None:
    stage = Stage(25, 25, space("darts"), 11, index=1, after=25, skip_dropout=0.4)
    assert SkipDropout(10, 0.2)(stage, epoch) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"deeper": (0, 6)}, "2 numbers for deeper, 2 for candidates, 3 for skip_dropout"),
        ({"deeper": (), "candidates": (), "skip_dropout": ()}, "0 numbers for deeper"),
        ({"deeper": (0, 6, 1.5)}, "deeper names 1.5"),
        ({"deeper": (0, -1, 2)}, "deeper names -1"),
        ({"candidates": (3, 5)}, "candidates is (3, 5)"),
        ({"candidates": (3, 0)}, "candidates names 0"),
        ({"skip_dropout": (0, 0.4, 1.0)}, "skip_dropout names 1.0"),
        ({"skip_decay": -0.1}, "skip_decay is -0.1"),
        ({"skip_limit": -1}, "skip_limit is -1"),
        ({"epochs": 2, "arch_start_epoch": 0}, "2 epochs in 3 stages"),
        ({"epochs": 32, "arch_start_epoch": 10}, "arch_start_epoch is 10 in stages of 10 epochs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_settings(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=re.escape(told)):
        compose(configure("p-darts", data="cifar10", **settings))


def test_a_space_without_shared_cells_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    unshared = define_space("own cells", ("skip_connect", "sep_conv_3x3"), nodes=1, layers=3, shared=False)
    config = tiny.config("p-darts", space="own cells")
    with pytest.raises(UserError, match="P-DARTS on space own cells, where every cell has an architecture of its own"):
        search(config, tmp_path / "run", train_set=tiny.images(), search_space=unshared)
    assert not (tmp_path / "run").exists()


def test_stages_follow_one_another_and_the_weights_decide() -> None:
    guard = Progressive(PLAN)
    stage = guard.first(Stage(0, 9, space("darts"), 5))
    assert stage == Stage(0, 3, space("darts"), 5, index=0, after=6)
    begun = []
    for epoch in range(9):
        mixing = {"weights": _weights(stage.space, epoch), "edge_weights": None}
        end = EpochEnd(epoch, stage, None, None, mixing, {}, print)  # type: ignore[arg-type]
        action = guard.after_epoch(end)
        if not isinstance(action, Begin):
            assert action is None
            continue
        for key in KEYS:
            rows = mixing["weights"][key]
            for before, after, row in zip(
                stage.space.cell(key).edges, action.stage.space.cell(key).edges, rows, strict=True
            ):
                heaviest = row.argsort(descending=True)[: len(after.primitives)]
                assert set(after.primitives) == {before.primitives[column] for column in heaviest}
        begun.append((epoch, action.why))
        stage = action.stage
        width = stage.space.normal.width
        assert (stage.start, width) == {1: (3, 5), 2: (5, 3)}[stage.index]
    assert begun == [
        (2, "stage 2 of 3: 11 cells, 140 of 224 candidates stay"),
        (4, "stage 3 of 3: 17 cells, 84 of 140 candidates stay"),
    ]
    assert (stage.epochs, stage.layers, stage.after, stage.skip_dropout) == (4, 17, 0, 0.7)


def _at_once(of: Space, weights: dict[str, np.ndarray], limit: int) -> list[list[tuple[str, int]]]:
    """The paper's rule for the normal cell: all skips but the strongest `limit` are set to 0, and it is built again."""
    weights = weights["normal"].copy()
    cell = of.normal
    while True:
        nodes, skips = [], []
        for node in cell.states:
            found = []
            for edge in cell.into(node):
                names = cell.edges[edge].primitives
                value, name = max((weights[edge, k], name) for k, name in enumerate(names) if name != "none")
                found.append((value, -edge, name))
            kept = sorted(found, reverse=True)[:2]
            nodes.append([(name, cell.edges[-edge].source) for _, edge, name in kept])
            skips += [(value, -edge) for value, edge, name in kept if name == "skip_connect"]
        if len(skips) <= limit:
            return nodes
        for _, edge in sorted(skips, reverse=True)[limit:]:
            weights[edge, cell.edges[edge].primitives.index("skip_connect")] = 0.0


@pytest.mark.parametrize("name", ["darts", "s2", "s3"])
@pytest.mark.parametrize("limit", [0, 1, 2, 5, 8])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "edge weights"])
def test_the_limit_against_the_papers_rule(name: str, limit: int, weighted: bool) -> None:
    of, replaced = space(name), 0
    for seed in range(8):
        weights = _weights(of, seed, skips=3.0)
        rng = np.random.default_rng(seed)
        betas = {key: torch.from_numpy(rng.random(len(rows))) for key, rows in weights.items()} if weighted else None
        mixing = {"weights": weights, "edge_weights": betas}
        found = limit_skips(of, mixing, limit, layers=8)
        plain = LimitedSkips(limit)(of, mixing, 8)
        own = {key: (rows * betas[key][:, None] if betas else rows).numpy() for key, rows in weights.items()}
        assert [list(node) for node in found.normal.nodes] == _at_once(of, own, limit)
        assert found.skips("normal") <= limit
        assert found.reduce == plain.reduce
        assert (found == plain) is (plain.skips("normal") <= limit)
        replaced += found != plain
        of.check(found)
    assert replaced or limit > 2


def test_a_weak_skip_gives_way_to_its_edges_next_operator_or_to_another_edge() -> None:
    of = define_space("two nodes", ("none", "skip_connect", "sep_conv_3x3"), nodes=2, keep=1)
    rows = [[0.8, 0.15, 0.05], [0.7, 0.2, 0.1], [0.0, 0.6, 0.4], [0.0, 0.9, 0.1], [0.4, 0.3, 0.3]]
    mixing = {"weights": dict.fromkeys(KEYS, torch.tensor(rows)), "edge_weights": None}
    found = {limit: limit_skips(of, mixing, limit, layers=8) for limit in range(3)}
    assert found[2].normal.nodes == ((("skip_connect", 1),), (("skip_connect", 1),))
    # The weaker skip weighs 0.2; its edge's convolution, 0.1, loses against the skip of the other edge, 0.15, which has
    # to go as well, and then wins against that edge's convolution, 0.05.
    assert found[1].normal.nodes == ((("sep_conv_3x3", 1),), (("skip_connect", 1),))
    assert found[0].normal.nodes == ((("sep_conv_3x3", 1),), (("sep_conv_3x3", 0),))
    assert all(genotype.reduce == found[2].reduce for genotype in found.values())
    assert torch.equal(mixing["weights"]["normal"], torch.tensor(rows))


def test_an_edge_that_has_nothing_else_keeps_its_skip() -> None:
    of = define_space("skips", {(0, 2): ("none", "skip_connect"), (1, 2): ("skip_connect",)}, keep=None)
    mixing = {"weights": dict.fromkeys(KEYS, torch.full((2, 2), 0.5)), "edge_weights": None}
    assert limit_skips(of, mixing, 1, layers=8).skips("normal") == 2


@pytest.mark.parametrize("limit", [1, 4])
def test_only_the_end_is_limited_and_it_says_so(limit: int) -> None:
    torch.manual_seed(0)
    model = Supernet(tiny.SPACE, channels=2)
    with torch.no_grad():
        for alphas in model.arch.alphas.values():
            alphas[:, tiny.SPACE.normal.edges[0].primitives.index("skip_connect")] += 2.0
    told: list[str] = []
    derivation = LimitedSkips(limit)
    every = derivation(tiny.SPACE, Softmax().still(model), 3)
    final = derivation.final(Finished(model, Softmax(), lambda: iter(()), 0, told.append))
    assert every == model.genotype()
    assert (every.skips("normal"), every.skips("reduce"), final.skips("reduce")) == (4, 4, 4)
    assert final.skips("normal") == limit
    expected = "4 skip connections in the normal cell, at most 1 wanted: the weakest were replaced, 1 are left"
    assert told == ([expected] if limit == 1 else [])


def test_a_search_shrinks_and_deepens_on_fresh_models(tmp_path: Path) -> None:
    """That it resumes bit for bit inside and between the stages: tests/test_search_methods.py."""
    config = tiny.config("p-darts", lr=0.05, arch_lr=0.02, skip_limit=0)
    result = search(config, tmp_path / "run", train_set=tiny.images(), search_space=tiny.SPACE)
    records = [record for record in tiny.metrics(tmp_path / "run") if record["kind"] == "epoch"]
    assert [(record["stage"], record["stage_epoch"]) for record in records] == [(i // 2, i % 2) for i in range(6)]
    assert [record["lr"] for record in records] == pytest.approx([0.05, 0.025] * 3)
    assert ["arch_loss" in record for record in records] == [False, True] * 3
    folder = RunFolder.open(tmp_path / "run")
    before = [set(edge.primitives) for edge in tiny.SPACE.normal.edges]
    for epoch in range(6):
        edges = folder.read_json(f"epochs/{epoch:04d}.json")["edges"]["normal"]
        names = [set(edge["primitives"]) for edge in edges]
        assert {len(each) for each in names} == {(4, 3, 2)[epoch // 2]}
        assert all(now <= then for now, then in zip(names, before, strict=True))
        before = names
    # Fresh alphas: a stage's first epoch, in which they wait, ends with what was drawn at its start.
    for epoch in (0, 2, 4):
        alphas = torch.tensor(folder.read_json(f"epochs/{epoch:04d}.json")["alphas"]["normal"])
        assert 0 < float(alphas.abs().max()) < 0.01
    assert result.genotype.skips("normal") == 0
    assert parse_genotype((tmp_path / "run" / "genotype.txt").read_text()) == result.genotype
    tiny.SPACE.check(result.genotype)
