"""The collapse alarm: what raises it, what does not, and that it never changes a search."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastdarts.runs import RunFolder
from fastdarts.search import METHODS, configure, search
from fastdarts.search.choices import EpochEnd, Stage
from fastdarts.search.collapse import CollapseAlarm, chance_of_skips, normal_cells, settled
from fastdarts.search.methods import compose
from fastdarts.spaces import Genotype, Space, derive, random_genotype, space
from tests import tiny

DARTS = space("darts")


def weights_for(searched: Space, primitives: dict[str, str], strength: float = 5.0, layers: int = 8) -> Any:
    """Mixing weights that prefer a primitive on all edges of a cell type where there is one, else the last."""
    found = {}
    for key in searched.arch_keys(layers):
        cell = searched.cell(key, layers)
        alphas = torch.full((len(cell.edges), cell.width), -math.inf, dtype=torch.float64)
        for row, edge in zip(alphas, cell.edges, strict=True):
            row[: len(edge.primitives)] = 0.0
            wanted = primitives.get(key, primitives.get("*", ""))
            row[edge.primitives.index(wanted) if wanted in edge.primitives else len(edge.primitives) - 1] = strength
        found[key] = alphas.softmax(1)
    return found


def end_of(epoch: int, searched: Space, weights: dict[str, Tensor], told: list[str], **record: Any) -> EpochEnd:
    stage = Stage(0, 50, searched, 8)
    genotype = derive(searched, weights, layers=8)
    mixing = {"weights": weights, "edge_weights": None}
    record = {"arch_loss": 1.0} | record
    return EpochEnd(epoch, stage, None, genotype, mixing, record, told.append)  # type: ignore[arg-type]


def kinds(end: EpochEnd) -> list[str]:
    return [alarm["kind"] for alarm in end.record.get("alarms", [])]


def test_skips_in_the_normal_cell_raise_it_once_with_the_way_back() -> None:
    alarm, told = CollapseAlarm(), []
    good = weights_for(DARTS, {"normal": "sep_conv_3x3", "reduce": "skip_connect"}, 1.0)
    bad = weights_for(DARTS, {"normal": "skip_connect", "reduce": "sep_conv_3x3"}, 1.0)
    ends = [end_of(epoch, DARTS, bad if epoch in (2, 3, 5) else good, told) for epoch in range(6)]
    for end in ends:
        assert alarm.after_epoch(end) is None
        alarm, before = CollapseAlarm(), alarm
        alarm.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert [kinds(end) for end in ends] == [[], [], ["skips"], ["skips"], [], ["skips"]]
    text = ends[2].record["alarms"][0]["text"]
    assert text.startswith(
        "8 of 8 edges of the normal cell are skip connections; after epoch 2 they were 0: take that genotype "
        "(epochs/0001.json), or search with r-darts-es"
    )
    assert "after epoch 5 they were 0" in ends[5].record["alarms"][0]["text"]
    assert told == [f"alarm after epoch 3: {text}"]


def test_alphas_that_do_not_learn_raise_nothing() -> None:
    bad = weights_for(DARTS, {"*": "skip_connect"})
    end = end_of(3, DARTS, bad, [])
    del end.record["arch_loss"]
    CollapseAlarm().after_epoch(end)
    assert "alarms" not in end.record


@pytest.mark.parametrize(("name", "least"), [("darts", 4), ("s2", 7), ("s1", 7)])
def test_as_many_skips_as_chance_gives_raise_nothing(name: str, least: int) -> None:
    """In S2 every second drawn operator is a skip: only more than that is a sign."""
    searched = space(name)
    raised = {}
    for seed in range(300):
        genotype = random_genotype(searched, seed)
        edges = list(genotype.edges("normal"))
        # Any number of skips, since random genotypes have few of the extremes.
        drawn = random.Random(seed)
        offered = {(edge.source, edge.node): edge.choices for edge in searched.normal.edges}
        share = drawn.random()
        ops = [
            "skip_connect" if "skip_connect" in offered[source, node] and drawn.random() < share else op
            for op, source, node in edges
        ]
        nodes = [tuple((ops[2 * i + j], edges[2 * i + j][1]) for j in range(2)) for i in range(4)]
        cell = type(genotype.cell("normal"))(tuple(nodes), genotype.cell("normal").concat)
        made = Genotype({"normal": cell, "reduce": genotype.cell("reduce")})
        end = end_of(0, searched, weights_for(searched, {}, 0.1), [])
        end.genotype = made
        CollapseAlarm().after_epoch(end)
        raised.setdefault(made.skips("normal"), set()).add("skips" in kinds(end))
    if name == "s1":
        # Which edges were kept decides too: some offer no skip, so that fewer are a sign.
        assert all(not any(values) for count, values in raised.items() if count < 4)
        assert raised[max(raised)] == {True}
    else:
        assert raised == {count: {count >= least} for count in raised}
        assert {least - 1, least} <= set(raised)


@pytest.mark.parametrize("name", ["s1", "s3"])
def test_the_chance_of_skips_by_enumeration(name: str) -> None:
    searched = space(name)
    genotype = random_genotype(searched, 4)
    offered = {(edge.source, edge.node): edge.choices for edge in searched.normal.edges}
    every = list(itertools.product(*(offered[source, node] for _, source, node in genotype.edges("normal"))))
    assert len(every) == 2**8
    counts = [ops.count("skip_connect") for ops in every]
    for least in range(10):
        expected = sum(count >= least for count in counts) / len(every)
        assert chance_of_skips(genotype, normal_cells(searched, 8), least) == pytest.approx(expected)


def test_cells_of_their_own_count_together() -> None:
    searched = space("amended-s2")
    cells = normal_cells(searched, 20)
    assert len(cells) == 18
    assert "cell6" not in cells and "cell13" not in cells
    assert normal_cells(DARTS, 8).keys() == {"normal"}
    assert normal_cells(searched, 1).keys() == {"cell0"}


@pytest.mark.parametrize(
    ("primitive", "strength", "raised"),
    [("none", 8.0, True), ("skip_connect", 8.0, True), ("sep_conv_3x3", 8.0, False), ("skip_connect", 1.0, False)],
)
def test_settled_weights_without_operators_to_train(primitive: str, strength: float, raised: bool) -> None:
    end = end_of(9, DARTS, weights_for(DARTS, {"normal": primitive, "reduce": "sep_conv_3x3"}, strength), [])
    CollapseAlarm().after_epoch(end)
    assert ("entropy" in kinds(end)) is raised
    if raised:
        text = next(alarm["text"] for alarm in end.record["alarms"] if alarm["kind"] == "entropy")
        assert "of the largest) and 100% of them lies on operators without weights" in text


def test_settled_by_hand() -> None:
    cells = {"normal": space("s1").normal}
    uniform = {"normal": [torch.full((2,), 0.25) for _ in range(14)]}
    # S1's normal cell: 10 edges of skip and a convolution, 2 of max pooling and skip, 2 of two convolutions.
    entropy, free = settled(cells, uniform)
    assert entropy == pytest.approx(1.0)
    assert free == pytest.approx((10 * 0.5 + 2 * 1.0) / 14)
    one = torch.tensor([[0.9, 0.1, 7.0]] * 14)
    entropy, _ = settled(cells, {"normal": one})
    assert entropy == pytest.approx(-(0.9 * math.log(0.9) + 0.1 * math.log(0.1)) / math.log(2), rel=1e-6)


def test_the_eigenvalues_rise() -> None:
    alarm, told = CollapseAlarm(), []
    plain = weights_for(DARTS, {}, 0.1)
    ends = []
    for epoch in range(0, 30, 2):
        end = end_of(epoch, DARTS, plain, told, eigenvalue=1.0 if epoch <= 20 else (epoch - 18.0))
        alarm.after_epoch(end)
        ends.append(end)
    assert [kinds(end) for end in ends] == [[]] * 11 + [["eigenvalue"]] * 4
    assert "from 1 after epoch 11 to 4: RobustDARTS would return" in ends[11].record["alarms"][0]["text"]
    assert "(epochs/0010.json)" in ends[11].record["alarms"][0]["text"]
    assert len(told) == 1
    # Back to where the eigenvalue had not risen, there is nothing to tell until it rises again.
    alarm.rolled_back(20)
    again = end_of(22, DARTS, plain, told, eigenvalue=1.0)
    alarm.after_epoch(again)
    assert kinds(again) == []


def test_what_it_advises_exists() -> None:
    assert {"r-darts-es", "r-darts-ada", "sdarts-rs"} <= set(METHODS)
    assert all(isinstance(compose(configure(name)).guards[-1], CollapseAlarm) for name in METHODS)


def test_a_search_records_alarms_and_goes_on_as_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.config(epochs=2, arch_lr=0.5)
    search(config, tmp_path / "plain", train_set=tiny.images(), search_space=tiny.SPACE)
    seen = []

    def alarmed(self: CollapseAlarm, end: EpochEnd) -> str:
        seen.append(end.epoch)
        return "all is skips"

    monkeypatch.setattr(CollapseAlarm, "_skips", alarmed)
    search(config, tmp_path / "alarmed", train_set=tiny.images(), search_space=tiny.SPACE)
    left, right = tiny.state_of(tmp_path / "plain"), tiny.state_of(tmp_path / "alarmed")
    assert all(torch.equal(left[name], right[name]) for name in left)
    records = [each for each in RunFolder.open(tmp_path / "alarmed").metrics() if each["kind"] == "epoch"]
    assert seen == [0, 1]
    assert [each["alarms"][-1]["text"] for each in records] == ["all is skips"] * 2
