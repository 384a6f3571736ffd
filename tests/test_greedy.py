"""SGAS: scores and decisions against Algorithm 1 written out in plain Python, and what a pass of it runs."""

from __future__ import annotations

import copy
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastdarts.errors import UserError
from fastdarts.nn import Supernet
from fastdarts.search import configure
from fastdarts.search.choices import EpochEnd, Rewire, Stage
from fastdarts.search.greedy import (
    PRUNED,
    UNDECIDED,
    Decisions,
    GreedyDecisions,
    GreedyDerivation,
    GreedyRelaxation,
    scores,
)
from fastdarts.search.methods import compose
from fastdarts.spaces import CellSpace, Genotype, Space, define_space, space
from tests import tiny
from tests.recorded import assert_recorded_is_the_same

WITHOUT_NONE = define_space("three", ("skip_connect", "sep_conv_3x3", "max_pool_3x3"), nodes=3, layers=3)
UNEQUAL = define_space(
    "unequal",
    {
        (0, 2): ("skip_connect", "sep_conv_3x3", "none"),
        (1, 2): ("skip_connect", "max_pool_3x3"),
        (0, 3): ("none", "sep_conv_3x3"),
        (1, 3): ("none", "max_pool_3x3", "dil_conv_3x3", "skip_connect"),
        (2, 3): ("avg_pool_3x3", "none"),
    },
    layers=3,
    keep=2,
)
ALL_KEPT = define_space("kept", ("none", "skip_connect", "sep_conv_3x3"), nodes=2, layers=3, keep=None)
SPACES = [tiny.SPACE, WITHOUT_NONE, UNEQUAL, ALL_KEPT, space("darts")]


class Alphas:
    """In place of a supernet: alphas that a test sets."""

    def __init__(self, space: Space, layers: int) -> None:
        self.space, self.layers, self.rows = space, layers, {}

    def mixing_weights(self) -> dict[str, Tensor]:
        return self.rows

    def edge_weights(self) -> None:
        return None


def _rows(cell: CellSpace, generator: torch.Generator) -> Tensor:
    """Mixing weights of random alphas, 0 beyond an edge's candidates."""
    alphas = torch.randn(len(cell.edges), cell.width, generator=generator, dtype=torch.float64)
    absent = torch.arange(cell.width) >= torch.tensor(cell.counts)[:, None]
    return alphas.masked_fill(absent, -torch.inf).softmax(1)


def _slow_scores(cell: CellSpace, rows: list[list[float]], past: list[list[list[float]]] | None) -> list[float]:
    def operators(table: list[list[float]]) -> list[list[float]]:
        found = []
        for edge, row in zip(cell.edges, table, strict=True):
            kept = [value for name, value in zip(edge.primitives, row, strict=False) if name != "none"]
            found.append([value / sum(kept) for value in kept])
        return found

    def scaled(values: list[float]) -> list[float]:
        low, high = min(values), max(values)
        return [(value - low) / (high - low) for value in values] if high - low > 1e-9 else [1.0] * len(values)

    importance = []
    for edge, row in zip(cell.edges, rows, strict=True):
        importance.append(sum(v for name, v in zip(edge.primitives, row, strict=False) if name != "none"))
    chances, certainty = operators(rows), []
    for row in chances:
        entropy = -sum(p * math.log(p) for p in row)
        certainty.append(1 - entropy / math.log(len(row)) if len(row) > 1 else 1.0)
    score = [a * b for a, b in zip(scaled(importance), scaled(certainty), strict=True)]
    if past:
        overlaps = [
            sum(sum(map(min, row, operators(each)[e])) for each in past) / len(past) for e, row in enumerate(chances)
        ]
        score = [a * b for a, b in zip(score, scaled(overlaps), strict=True)]
    return score


@pytest.mark.parametrize("cell_space", SPACES, ids=lambda each: each.name)
def test_scores_are_the_definition(cell_space: Space) -> None:
    cell, generator = cell_space.normal, torch.Generator().manual_seed(1)
    for length in (None, 0, 1, 4):
        rows = _rows(cell, generator)
        past = None if length is None else [_rows(cell, generator) for _ in range(length)]
        expected = _slow_scores(cell, rows.tolist(), past and [each.tolist() for each in past])
        torch.testing.assert_close(
            scores(cell, rows, past), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12
        )


def test_what_all_edges_share_decides_nothing() -> None:
    """Without `none` every edge matters as much, and rounding of the sums must not say otherwise."""
    generator = torch.Generator().manual_seed(2)
    rows = _rows(WITHOUT_NONE.normal, generator).float().double()
    certainty = 1 - torch.special.entr(rows / rows.sum(1, keepdim=True)).sum(1) / math.log(3)
    expected = (certainty - certainty.min()) / (certainty.max() - certainty.min())
    torch.testing.assert_close(scores(WITHOUT_NONE.normal, rows), expected)
    torch.testing.assert_close(scores(WITHOUT_NONE.normal, rows, [rows, rows]), expected)


class SlowSearch:
    """Algorithm 1 with sets and dictionaries, edges by (source, node)."""

    def __init__(self, cell: CellSpace, keep: int | None, settings: dict[str, int]) -> None:
        self.cell, self.settings = cell, settings
        self.limit = {node: len(cell.into(node)) if keep is None else keep for node in cell.states}
        self.open = {(edge.source, edge.node) for edge in cell.edges}
        self.decided: dict[tuple[int, int], str] = {}
        self.last: dict[tuple[int, int], list[float]] = {}
        self.past: list[list[list[float]]] = []

    def epoch(self, epoch: int, rows: list[list[float]]) -> None:
        names = [(edge.source, edge.node) for edge in self.cell.edges]
        for name, row in zip(names, rows, strict=True):
            if name in self.open:
                self.last[name] = row
        table = [self.last[name] for name in names]
        since = epoch - self.settings["decide_from"]
        if since >= 0 and since % self.settings["decide_every"] == 0 and self.open:
            past = self.past[-self.settings["history"] :] if self.settings["criterion"] == 2 else None
            score = dict(zip(names, _slow_scores(self.cell, table, past), strict=True))
            best = max((name for name in names if name in self.open), key=score.__getitem__)
            edge = self.cell.edges[names.index(best)]
            operators = {op: v for op, v in zip(edge.primitives, self.last[best], strict=False) if op != "none"}
            self.decided[best] = max(operators, key=operators.__getitem__)
            self.open.discard(best)
            if sum(node == edge.node for _, node in self.decided) == self.limit[edge.node]:
                self.open = {name for name in self.open if name[1] != edge.node}
        self.past.append(table)


def _end(model: Any, stage: Stage, epoch: int, notes: list[str]) -> EpochEnd:
    return EpochEnd(epoch, stage, model, None, {}, {}, notes.append)


def _columns(cell: CellSpace, slow: SlowSearch) -> list[int]:
    found = []
    for edge in cell.edges:
        name = edge.source, edge.node
        op = slow.decided.get(name)
        found.append(UNDECIDED if name in slow.open else PRUNED if op is None else edge.primitives.index(op))
    return found


@pytest.mark.parametrize("criterion", [1, 2])
@pytest.mark.parametrize("cell_space", SPACES, ids=lambda each: each.name)
def test_decisions_are_those_of_the_algorithm(cell_space: Space, criterion: int) -> None:
    settings = {"decide_from": 2, "decide_every": 3, "criterion": criterion, "history": 4}
    layers, epochs = 3, 2 + 3 * 8 + 2
    stage, decisions, notes = Stage(5, epochs, cell_space, layers), Decisions(), []
    guard, model = GreedyDecisions(decisions, **settings), Alphas(cell_space, layers)
    cells = {key: cell_space.cell(key, layers) for key in cell_space.arch_keys(layers)}
    slow = {key: SlowSearch(cell, cell_space.keep, settings) for key, cell in cells.items()}
    generator = torch.Generator().manual_seed(criterion)
    for epoch in range(epochs):
        model.rows = {key: _rows(cell, generator) for key, cell in cells.items()}
        before = copy.deepcopy(decisions.chosen)
        action = guard.after_epoch(_end(model, stage, 5 + epoch, notes))
        for key, cell in cells.items():
            slow[key].epoch(epoch, model.rows[key].tolist())
            assert decisions.of(key, len(cell.edges)) == _columns(cell, slow[key])
        assert isinstance(action, Rewire) == (before != decisions.chosen)
    genotype = GreedyDerivation(decisions)(cell_space, GreedyRelaxation(decisions).still(model), layers)
    cell_space.check(genotype, layers)
    for key in cells:
        assert {(source, node): op for op, source, node in genotype.edges(key)} == slow[key].decided
    assert notes == []


def test_the_published_schedule_decides_eight_edges_in_fifty_epochs() -> None:
    config = configure("sgas", data="cifar10", data_root="nowhere")
    assert (config.epochs, config.batch_size, config.lr, config.arch_lr) == (50, 64, 0.025, 3e-4)
    options = dict(config.options)
    assert options.pop("decide_all")
    assert options == {"decide_from": 9, "decide_every": 5, "criterion": 1, "history": 4, "batch_increase": 8}
    darts, decisions = space("darts"), Decisions()
    guard, model = GreedyDecisions(decisions, **options), Alphas(darts, 8)
    generator, when = torch.Generator().manual_seed(0), []
    for epoch in range(50):
        model.rows = {key: _rows(darts.normal, generator) for key in ("normal", "reduce")}
        if guard.after_epoch(_end(model, Stage(0, 50, darts, 8), epoch, [])):
            when.append(epoch)
    assert when == [9, 14, 19, 24, 29, 34, 39, 44]
    assert all(sum(column >= 0 for column in chosen) == 8 for chosen in decisions.chosen.values())
    assert all(UNDECIDED not in chosen for chosen in decisions.chosen.values())
    # The shipped data set's epochs suffice as well.
    small = configure("sgas")
    assert small.options["decide_from"] + 7 * small.options["decide_every"] < small.epochs


def _supernet() -> tuple[Supernet, Decisions]:
    """Normal: the first node is done, an edge of the second decided. Reduction: nothing decided."""
    torch.manual_seed(0)
    model = Supernet(tiny.SPACE, channels=4, layers=3, classes=3, in_channels=1, alpha_scale=1.0).train()
    decisions = Decisions()
    for edge, column in ((0, 3), (1, 2), (3, 1)):
        decisions.decide("normal", tiny.SPACE.normal, edge, column, 2)
    return model, decisions


def test_a_full_node_prunes_its_other_edges() -> None:
    _, decisions = _supernet()
    assert decisions.chosen == {"normal": [3, 2, UNDECIDED, 1, UNDECIDED]}
    decisions.decide("normal", tiny.SPACE.normal, 4, 3, 2)
    assert decisions.chosen == {"normal": [3, 2, PRUNED, 1, 3]}


def test_decided_edges_have_weight_one_and_no_gradient() -> None:
    model, decisions = _supernet()
    model.double()
    decisions.decide("normal", tiny.SPACE.normal, 4, 3, 2)
    decisions.chosen["normal"][0] = UNDECIDED
    mixing = GreedyRelaxation(decisions)(model, 0.5)
    rows, alphas = mixing["weights"]["normal"], model.arch.alphas["normal"]
    expected = torch.zeros(5, 4, dtype=torch.float64)
    expected[1, 2] = expected[3, 1] = expected[4, 3] = 1.0
    exponentials = [math.exp(value) for value in alphas[0].tolist()]
    expected[0] = torch.tensor([value / sum(exponentials) for value in exponentials], dtype=torch.float64)
    torch.testing.assert_close(rows.detach(), expected)
    assert mixing["active"]["normal"] == ((0, 1, 2, 3), (2,), (), (1,), (3,))
    assert mixing["active"]["reduce"] == ((0, 1, 2, 3),) * 5
    torch.testing.assert_close(mixing["weights"]["reduce"], model.mixing_weights()["reduce"])
    outer = torch.arange(20, dtype=torch.float64).reshape(5, 4)
    (gradient,) = torch.autograd.grad((rows * outer).sum(), alphas)
    # Of softmax: w (g - w . g).
    by_hand = torch.zeros_like(gradient)
    by_hand[0] = expected[0] * (outer[0] - (expected[0] * outer[0]).sum())
    torch.testing.assert_close(gradient, by_hand)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fused", "reference"])
def test_what_lost_does_not_run_and_changes_nothing_else(dtype: torch.dtype) -> None:
    model, decisions = _supernet()
    model.to(dtype)
    decisions.decide("normal", tiny.SPACE.normal, 4, 3, 2)
    x = torch.randn(4, 1, 6, 6, dtype=dtype, generator=torch.Generator().manual_seed(1))
    relaxation = GreedyRelaxation(decisions)
    mixing, still = relaxation(model, 0.0), relaxation.still(model)
    assert "active" not in still
    assert relaxation.evaluated(model).keys() == mixing.keys()
    plain = copy.deepcopy(model)
    got = model(x, **mixing)
    torch.testing.assert_close(got, plain(x, **still), rtol=1e-5, atol=1e-6)
    # Batch norms of what lost have seen no batch; those of the reduction cells, where all runs, have.
    counts = {name: int(value) for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")}
    normal, other = [layer for layer, kind in enumerate(tiny.SPACE.kinds(3)) if kind == "normal"], []
    for name, count in counts.items():
        parts = name.split(".")
        if parts[0] == "cells" and int(parts[1]) in normal and parts[2] == "_ops":
            edge, column = int(parts[3]), int(parts[5])
            assert count == (decisions.chosen["normal"][edge] == column)
        else:
            other.append(count)
    assert other
    assert all(count == 1 for count in other)


def test_all_decided_is_the_derived_path() -> None:
    model, decisions = _supernet()
    generator = random.Random(4)
    for key in ("normal", "reduce"):
        for edge in range(5):
            if decisions.of(key, 5)[edge] == UNDECIDED:
                decisions.decide(key, tiny.SPACE.normal, edge, generator.randrange(1, 4), 2)
    relaxation = GreedyRelaxation(decisions)
    genotype = GreedyDerivation(decisions)(tiny.SPACE, relaxation.still(model), 3)
    assert relaxation(model, 0.0)["active"] == model.one_path(genotype)


def test_nothing_decided_is_plain_darts() -> None:
    model, _ = _supernet()
    relaxation = GreedyRelaxation(Decisions())
    mixing = relaxation(model, 0.0)
    assert "active" not in mixing
    assert all(torch.equal(mixing["weights"][key], rows) for key, rows in model.mixing_weights().items())


def test_undecided_edges_are_taken_by_importance() -> None:
    """Importance, and not the strongest operator, says which edges a node gets; the one decided stays."""
    decisions, model = Decisions(), Alphas(tiny.SPACE, 3)
    decisions.decide("normal", tiny.SPACE.normal, 3, 1, 2)
    flat = [0.1, 0.3, 0.3, 0.3]
    peaked = [0.3, 0.05, 0.6, 0.05]
    model.rows = {key: torch.tensor([flat, flat, peaked, peaked, flat]) for key in ("normal", "reduce")}
    genotype = GreedyDerivation(decisions)(tiny.SPACE, GreedyRelaxation(decisions).still(model), 3)
    assert genotype.normal.nodes[1] == (("max_pool_3x3", 1), ("max_pool_3x3", 2))
    assert genotype.reduce.nodes[1] == (("skip_connect", 0), ("max_pool_3x3", 2))


def test_the_end_says_how_many_edges_importance_decided() -> None:
    decisions, notes, model = Decisions(), [], Alphas(tiny.SPACE, 3)
    guard, generator = GreedyDecisions(decisions, decide_from=0, decide_every=2), torch.Generator().manual_seed(0)
    for epoch in range(3):
        model.rows = {key: _rows(tiny.SPACE.normal, generator) for key in ("normal", "reduce")}
        guard.after_epoch(_end(model, Stage(0, 3, tiny.SPACE, 3), epoch, notes))
    left = sum(chosen.count(UNDECIDED) for chosen in decisions.chosen.values())
    assert notes == [f"SGAS: {left} edges are undecided after the last epoch; their importance decides"]


def test_the_state_decides_the_future() -> None:
    """A guard that is made anew in the middle decides what the first one does."""
    stage, generator = Stage(0, 20, WITHOUT_NONE, 3), torch.Generator().manual_seed(3)
    settings = {"decide_from": 1, "decide_every": 2, "criterion": 2, "history": 3}
    ours = GreedyDecisions(Decisions(), **settings)
    model = Alphas(WITHOUT_NONE, 3)
    for epoch in range(20):
        model.rows = {key: _rows(WITHOUT_NONE.normal, generator) for key in ("normal", "reduce")}
        state = copy.deepcopy(ours.state_dict())
        # Another at every epoch: one that has seen the earlier ones knows what the state might lack.
        other = GreedyDecisions(Decisions(), **settings)
        other.load_state_dict(state)
        first, second = (guard.after_epoch(_end(model, stage, epoch, [])) for guard in (ours, other))
        assert first == second
        assert ours.decisions.chosen == other.decisions.chosen
    kept = copy.deepcopy(state)
    ours.after_epoch(_end(model, stage, 20, []))
    assert state["chosen"] == kept["chosen"]
    assert all(torch.equal(state["frozen"][key], rows) for key, rows in kept["frozen"].items())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"decide_from": -1}, "decide_from is -1"),
        ({"decide_from": 4}, "no edge would be decided"),
        ({"decide_every": 0}, "decide_every is 0"),
        ({"criterion": 3}, "criterion is 3"),
        ({"history": 0}, "history is 0"),
        ({"edge_normalisation": True}, "a decided edge has weight 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose(tiny.config("sgas", **setting))


def test_a_genotype_of_every_epoch_is_one_of_the_space() -> None:
    config = tiny.config("sgas")
    choices = compose(config)
    model, _ = _supernet()
    mixing = choices.relaxation.still(model)
    genotype = choices.derivation(tiny.SPACE, mixing, 3)
    assert isinstance(genotype, Genotype)
    tiny.SPACE.check(genotype, 3)


def test_a_recorded_search_is_recorded_anew_after_a_decision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.config("sgas", epochs=3, decide_every=2, decide_all=False)
    recorder = assert_recorded_is_the_same(config, tmp_path, monkeypatch)
    # Steps and evaluations before the first epoch's decision and after it; the last one's has nothing after it.
    assert recorder.recorded == 4
