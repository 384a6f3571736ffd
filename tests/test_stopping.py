"""DARTS+ and restarts: guards on made-up histories against slow ones, and whole searches that restart and resume."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from fastdarts.errors import UserError
from fastdarts.runs import RunFolder
from fastdarts.search import Interrupted, configure, resume, search
from fastdarts.search.choices import Begin, EpochEnd, Stage, Stop
from fastdarts.search.methods import compose
from fastdarts.search.stopping import Restart, SkipLimit, StableRanking
from fastdarts.spaces import CellGenotype, Genotype, define_space
from tests import tiny

SPACE = define_space("skips", ("skip_connect", "sep_conv_3x3"), nodes=2, layers=3)
OWN_CELLS = define_space("own", ("skip_connect", "sep_conv_3x3"), nodes=2, layers=4, shared=False)
LEARNABLE = define_space(
    "learnable", ("none", "sep_conv_3x3", "max_pool_3x3", "dil_conv_3x3", "skip_connect"), nodes=2, layers=3
)


def _cell(ops: str) -> CellGenotype:
    """Four letters: s for a skip connection, else a convolution."""
    names = ["skip_connect" if letter == "s" else "sep_conv_3x3" for letter in ops]
    return CellGenotype((((names[0], 0), (names[1], 1)), ((names[2], 0), (names[3], 1))), (2, 3))


def _genotype(normal: str, reduce: str = "cccc") -> Genotype:
    return Genotype({"normal": _cell(normal), "reduce": _cell(reduce)})


def _end(epoch: int, stage: Stage, genotype: Genotype | None = None, **more: Any) -> EpochEnd:
    record = {"valid_accuracy": more.get("accuracy", 0.5)}
    return EpochEnd(epoch, stage, None, genotype, {"weights": more.get("weights")}, record, print)


def test_two_skips_in_a_normal_cell_end_the_search() -> None:
    stage, guard = Stage(0, 10, SPACE, 3), SkipLimit()
    assert guard.after_epoch(_end(0, stage, _genotype("sccc", "ssss"))) is None
    action = guard.after_epoch(_end(1, stage, _genotype("scsc")))
    assert isinstance(action, Stop)
    assert action.why == "DARTS+: 2 skip connections in the normal cell, 2 end the search"
    assert isinstance(guard.after_epoch(_end(2, stage, _genotype("ssss"))), Stop)
    assert SkipLimit(3).after_epoch(_end(1, stage, _genotype("scsc"))) is None
    assert guard.answer() is None


def test_any_normal_cell_counts_where_each_has_its_own() -> None:
    # Of four layers the second and the third reduce.
    stage = Stage(0, 10, OWN_CELLS, 4)
    for ops, stops in ((("cccc", "ssss", "ssss", "sccc"), False), (("cccc", "cccc", "cccc", "ccss"), True)):
        genotype = Genotype({f"cell{layer}": _cell(each) for layer, each in enumerate(ops)})
        assert isinstance(SkipLimit().after_epoch(_end(0, stage, genotype)), Stop) == stops


def test_the_first_epochs_of_a_stage_do_not_count() -> None:
    stage, guard = Stage(7, 10, SPACE, 3), SkipLimit(2, start_epoch=2)
    found = [guard.after_epoch(_end(epoch, stage, _genotype("ssss"))) is not None for epoch in range(7, 11)]
    assert found == [False, False, True, True]


def _ranks(weights: dict[str, list[list[float]]]) -> list[tuple[str, ...]]:
    """The learnable operators of the normal cell by falling weight, edge by edge."""
    found = []
    for edge, row in zip(LEARNABLE.normal.edges, weights["normal"], strict=True):
        named = dict(zip(edge.primitives, row, strict=True))
        found.append(tuple(sorted(("sep_conv_3x3", "dil_conv_3x3"), key=lambda op, named=named: -named[op])))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_a_ranking_is_stable_when_it_was_the_same_for_so_many_epochs(seed: int) -> None:
    draw, history, stage = random.Random(seed), [], Stage(3, 60, LEARNABLE, 3)
    guard = StableRanking(4, start_epoch=2)
    rows = {key: [[draw.random() for _ in range(5)] for _ in range(5)] for key in ("normal", "reduce")}
    for epoch in range(60):
        if draw.random() < 0.35:
            key, edge = draw.choice(["normal", "reduce"]), draw.randrange(5)
            rows[key][edge] = [draw.random() for _ in range(5)]
        if epoch >= 2:
            history.append(_ranks(rows))
        weights = {key: torch.tensor(value, dtype=torch.float64) for key, value in rows.items()}
        action = guard.after_epoch(_end(3 + epoch, stage, weights=weights))
        expected = len(history) >= 4 and all(each == history[-1] for each in history[-4:])
        assert isinstance(action, Stop) == expected
        state = json.loads(json.dumps(guard.state_dict()))
        guard = StableRanking(4, start_epoch=2)
        guard.load_state_dict(state)


def _history(seed: int, length: int) -> list[tuple[str, float]]:
    draw, found, ops = random.Random(seed), [], "cccc"
    for _ in range(length):
        if draw.random() < 0.4:
            ops = "".join(draw.choice("sc") for _ in range(4))
        found.append((ops, round(draw.random(), 1)))
    return found


def _slow_restarts(history: list[tuple[str, float]], after: int, waiting: int) -> tuple[list[int], int]:
    """The epochs at which stages end, and the answer, from the whole history at once."""
    total, start, ends = len(history), 0, []
    for epoch in range(total):
        window = history[max(start + waiting, epoch - after + 1) : epoch + 1]
        stuck = len(window) == after and len({ops for ops, _ in window}) == 1
        if epoch == total - 1 or (stuck and total - epoch - 1 >= waiting + after):
            ends.append(epoch)
            start = epoch + 1
    best = max(history[epoch][1] for epoch in ends)
    return ends, next(epoch for epoch in ends if history[epoch][1] == best)


@pytest.mark.parametrize("seed", range(20))
def test_restarts_are_those_of_the_slow_rule_and_the_best_attempt_answers(seed: int) -> None:
    after, waiting, total = 2 + seed % 3, seed % 2, 30
    history = _history(seed, total)
    expected, answer = _slow_restarts(history, after, waiting)
    stage, ends, guard = Stage(0, total, SPACE, 3), [], Restart(after, waiting)
    for epoch, (ops, accuracy) in enumerate(history):
        action = guard.after_epoch(_end(epoch, stage, _genotype(ops), accuracy=accuracy))
        state = json.loads(json.dumps(guard.state_dict()))
        guard = Restart(after, waiting)
        guard.load_state_dict(state)
        if isinstance(action, Begin):
            assert action.stage == Stage(epoch + 1, total - epoch - 1, SPACE, 3, stage.index + 1)
            ends.append(epoch)
            stage = action.stage
    ends.append(total - 1)
    assert ends == expected
    assert guard.answer() == (answer if len(ends) > 1 else None)


@pytest.mark.parametrize(("total", "begins"), [(9, False), (10, True)])
def test_a_restart_needs_time_to_wait_and_to_be_stuck_again(total: int, begins: bool) -> None:
    guard, stage = Restart(2, arch_start_epoch=3), Stage(0, total, SPACE, 3)
    found = [guard.after_epoch(_end(epoch, stage, _genotype("cccc"), accuracy=0.5)) for epoch in range(5)]
    assert found[:4] == [None] * 4
    assert isinstance(found[4], Begin) == begins


def test_the_order_of_a_nodes_inputs_is_no_change() -> None:
    stage, guard = Stage(0, 20, SPACE, 3), Restart(2)
    ours = _genotype("sccc")
    turned = Genotype(
        {key: CellGenotype(tuple(node[::-1] for node in cell.nodes), cell.concat) for key, cell in ours.cells.items()}
    )
    assert turned != ours
    assert guard.after_epoch(_end(0, stage, ours)) is None
    assert isinstance(guard.after_epoch(_end(1, stage, turned)), Begin)


def test_a_rollback_starts_the_count_anew() -> None:
    stage, restart, ranking = Stage(0, 20, LEARNABLE, 3), Restart(2), StableRanking(2)
    weights = {"normal": torch.rand(5, 5, generator=torch.Generator().manual_seed(0))}
    for guard in (restart, ranking):
        found = []
        for epoch in range(3):
            found.append(guard.after_epoch(_end(epoch, stage, _genotype("cccc"), weights=weights)) is not None)
            if epoch == 0:
                guard.rolled_back(0)
        assert found == [False, False, True]


def test_stages_after_which_something_is_planned_do_not_answer() -> None:
    guard = Restart(2)
    guard.after_epoch(_end(0, Stage(0, 1, SPACE, 3, 0, after=2), _genotype("cccc"), accuracy=0.9))
    guard.after_epoch(_end(1, Stage(1, 1, SPACE, 3, 1), _genotype("cccc"), accuracy=0.2))
    guard.after_epoch(_end(2, Stage(2, 1, SPACE, 3, 2), _genotype("cccc"), accuracy=0.1))
    assert guard.answer() == 1


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("darts-plus", {"skips": -1}, "skips is -1"),
        ("darts-plus", {"skips": 0}, "nothing would stop the search"),
        ("darts-plus", {"stable_epochs": 1}, "stable_epochs is 1"),
        ("darts-plus", {"stable_epochs": -2}, "stable_epochs is -2"),
        ("darts-plus", {"ignored_share": 1.0}, "ignored_share is 1.0"),
        ("darts-first", {"restart_after": 1}, "restart_after is 1"),
        *(
            (name, {"restart_after": 2}, f"restart_after is 2 with {name}")
            for name in ("p-darts", "sgas", "darts-plus", "r-darts-es", "r-darts-ada")
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(name: str, setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose(tiny.config(name, **setting))


def test_a_negative_start_is_refused() -> None:
    with pytest.raises(UserError, match="start_epoch is -1"):
        StableRanking(10, -1)


def test_published_values_of_darts_plus() -> None:
    config = configure("darts-plus", data="cifar10", data_root="nowhere")
    assert (config.hypergradient, config.epochs, config.batch_size) == ("first", 50, 64)
    guards = compose(config).guards
    assert [(guard.skips, guard.start_epoch) for guard in guards if isinstance(guard, SkipLimit)] == [(2, 10)]
    ranking = configure("darts-plus", data="cifar10", data_root="nowhere", skips=0, stable_epochs=10)
    found = [(each.epochs, each.start_epoch) for each in compose(ranking).guards if isinstance(each, StableRanking)]
    assert found == [(10, 10)]


def _epochs(path: Path) -> list[dict[str, Any]]:
    return [record for record in tiny.metrics(path) if record["kind"] == "epoch"]


def test_a_search_stops_at_two_skips_and_answers_with_them(tmp_path: Path) -> None:
    """Two operators on every edge and alphas that hardly move: nearly any genotype has two skips."""
    config = tiny.config("darts-plus", epochs=5, seed=4)
    result = search(config, tmp_path / "run", train_set=tiny.images(), search_space=SPACE)
    records = _epochs(tmp_path / "run")
    skips = [record["skips"]["normal"] for record in records]
    # A fifth of the epochs does not count.
    assert result.epochs == len(records) < 5
    assert skips[-1] >= 2 > max(skips[1:-1], default=0)
    assert records[-1]["guard"]["guard"] == "SkipLimit"
    assert result.genotype.skips("normal") == skips[-1]


def test_a_stuck_search_begins_anew_and_resumes_in_its_second_stage(tmp_path: Path) -> None:
    """Alphas that do not learn are stuck at once: three stages of two epochs."""
    config = tiny.config(epochs=6, arch_lr=0.0, restart_after=2)
    whole = search(config, tmp_path / "whole", train_set=tiny.images(32), search_space=tiny.SPACE)
    with pytest.raises(Interrupted):
        search(config, tmp_path / "cut", train_set=tiny.images(32), search_space=tiny.SPACE, progress=tiny.StopAt(6))
    resumed = resume(tmp_path / "cut", train_set=tiny.images(32))
    tiny.assert_same_run(tmp_path / "whole", tmp_path / "cut")
    records = _epochs(tmp_path / "whole")
    assert [(record["stage"], record["stage_epoch"]) for record in records] == [
        (stage, epoch) for stage in range(3) for epoch in range(2)
    ]
    assert [record["epoch"] for record in records if "guard" in record] == [1, 3]
    # Each stage's schedule runs over its own epochs, on alphas of its own.
    alphas = [RunFolder.open(tmp_path / "whole").read_json(f"epochs/000{epoch}.json")["alphas"] for epoch in range(6)]
    assert alphas[0] == alphas[1] != alphas[2] == alphas[3] != alphas[4]
    assert records[0]["lr"] == records[2]["lr"] == records[4]["lr"] == config.lr
    best = max((records[epoch] for epoch in (1, 3, 5)), key=lambda record: record["valid_accuracy"])
    assert (whole.epochs, whole.valid_accuracy) == (6, best["valid_accuracy"])
    text = RunFolder.open(tmp_path / "whole").read_json(f"epochs/{best['epoch']:04d}.json")["text"]
    assert whole.genotype.text() == resumed.genotype.text() == text
