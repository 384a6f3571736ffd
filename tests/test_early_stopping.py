"""RobustDARTS' guards: against the published rule written out by epochs, and in searches that go back for real."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from fastdarts.errors import UserError
from fastdarts.runs import RunFolder
from fastdarts.search import METHODS, Interrupted, configure, job, resume, search
from fastdarts.search.choices import EpochEnd, Stage, Stop
from fastdarts.search.early_stopping import AdaptiveWeightDecay, EarlyStopping, Rise
from fastdarts.search.methods import compose
from fastdarts.spaces import Genotype
from tests import tiny
from tests.eigenvalues import EPOCHS, end_of, measured_at, published, saved, walk

RULES = [
    {},
    {"every": 1, "start": 3},
    {"every": 3, "window": 3, "delta": 2, "factor": 1.1, "start": 0},
    {"every": 2, "window": 4, "delta": 1, "factor": 0.9, "start": 7},
    {"every": 1, "window": 1, "delta": 1, "factor": 1.2, "start": 5},
    {"every": 5, "window": 7, "delta": 3, "factor": 1.05, "start": 4},
]


def guarded(rule: dict[str, Any]) -> tuple[Rise, int]:
    settings = {"every": 2, **rule}
    every = settings.pop("every")
    if "start" in settings:
        settings["start_epoch"] = settings.pop("start")
    return Rise(**settings), every


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: "-".join(f"{k}{v}" for k, v in rule.items()) or "published")
def test_stopping_against_the_published_rule(rule: dict[str, Any]) -> None:
    rise, every = guarded(rule)
    stops = []
    for seed in range(60):
        values, known = walk(seed), {}
        guard: EarlyStopping = EarlyStopping(rise, every)
        for epoch, value in enumerate(values):
            measured = measured_at(epoch, every)
            known |= {epoch: value} if measured else {}
            action = guard.after_epoch(end_of(epoch, 0, value if measured else None, []))
            # The last epoch has nothing after it that could be stopped.
            due = published(known, **rule) if measured and epoch < EPOCHS - 1 else None
            assert (guard.answer(), action is not None) == (due, due is not None)
            if action is not None:
                assert isinstance(action, Stop)
                stops.append(epoch)
                break
            guard = saved(guard, lambda: EarlyStopping(rise, every))  # type: ignore[assignment]
    assert 5 < len(stops) <= 60
    assert min(stops) >= rise.first_check(every)


def test_the_published_numbers_worked_by_hand() -> None:
    guard = EarlyStopping(Rise(), 2)
    # 1 up to epoch 20, then 1 more every second epoch. The averages of five: 1.2, 1.6, 2.2, ... at 22, 24, 26, against
    # 1 of eight epochs before: 1.2 is not above 1.3, 1.6 is.
    for epoch in range(24):
        value = 1.0 if epoch <= 20 else 1.0 + (epoch - 20) / 2
        assert guard.after_epoch(end_of(epoch, 0, value if epoch % 2 == 0 else None, [])) is None
    action = guard.after_epoch(end_of(24, 0, 3.0, []))
    assert isinstance(action, Stop)
    assert "genotype of epoch 13" in action.why
    assert guard.answer() == 12


def test_nothing_is_judged_before_epoch_22() -> None:
    guard = EarlyStopping(Rise(), 2)
    actions = [guard.after_epoch(end_of(epoch, 0, 10.0**epoch, [])) for epoch in range(0, 24, 2)]
    assert [action is not None for action in actions] == [False] * 11 + [True]
    assert guard.answer() == 10
    assert Rise().first_check(2) == 22
    assert Rise(start_epoch=3).first_check(2) == 16


@pytest.mark.parametrize("values", [[math.nan] * 25, [0.0] * 25, [-1.0 - k for k in range(25)]])
def test_no_ratio_no_rise(values: list[float]) -> None:
    guard = EarlyStopping(Rise(), 2)
    assert all(guard.after_epoch(end_of(2 * k, 0, value, [])) is None for k, value in enumerate(values))


def test_a_new_stage_begins_anew_and_a_rollback_forgets() -> None:
    guard = EarlyStopping(Rise(window=1, delta=1, factor=1.3, start_epoch=0), 1)
    assert guard.after_epoch(end_of(0, 0, 1.0, [])) is None
    fresh = Stage(1, EPOCHS, tiny.SPACE, 3, index=1)
    other = EpochEnd(1, fresh, None, None, {}, {"eigenvalue": 9.0}, print)  # type: ignore[arg-type]
    assert guard.after_epoch(other) is None
    guard = EarlyStopping(Rise(window=1, delta=1, factor=1.3, start_epoch=0), 1)
    for epoch, value in enumerate((4.0, 3.0, 2.0)):
        assert guard.after_epoch(end_of(epoch, 0, value, [])) is None
    # 2 to 3 is a rise; from the 4 of epoch 0, where the search was put back to, it is none.
    guard.rolled_back(0)
    assert guard.after_epoch(end_of(3, 2, 3.0, [])) is None
    assert guard.after_epoch(end_of(4, 2, 4.0, [])) is not None
    assert guard.answer() == 3


def test_published_settings() -> None:
    for name in ("r-darts-es", "r-darts-ada"):
        config = configure(name, data="cifar10")
        assert (config.hypergradient, config.eigenvalue_every, config.drop_path, config.cutout) == ("second", 2, 0, 0)
        assert (config.epochs, config.batch_size, config.channels, config.weight_decay) == (50, 64, 16, 3e-4)
        (guard, *_) = compose(config).guards
        assert guard.rule == Rise(window=5, delta=4, factor=1.3, start_epoch=10)  # type: ignore[attr-defined]
    assert isinstance(guard, AdaptiveWeightDecay)
    assert (guard.weight_decay, guard.factor, guard.largest, guard.memory) == (3e-4, 10.0, 0.03, 24)
    config = configure("r-darts-l2", data="cifar10", space="s3")
    assert (config.hypergradient, config.weight_decay, config.ramp, config.layers) == ("second", 81e-4, True, 8)
    assert all("Zela" in METHODS[f"r-darts-{kind}"].source for kind in ("es", "ada", "l2"))
    small = configure("r-darts-es", data="digits")
    assert Rise(start_epoch=small.options["start_epoch"]).first_check(small.eigenvalue_every) < small.epochs - 1


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("r-darts-es", {"eigenvalue_every": 0}, "eigenvalue_every is 0"),
        ("r-darts-es", {"window": 0}, "window is 0"),
        ("r-darts-ada", {"delta": 0}, "delta is 0"),
        ("r-darts-es", {"factor": 0.0}, "factor is 0.0"),
        ("r-darts-es", {"start_epoch": -1}, "start_epoch is -1"),
        ("r-darts-ada", {"decay_factor": 1.0}, "decay_factor is 1.0"),
        ("r-darts-ada", {"weight_decay": 0.0}, "weight_decay 0 with"),
        ("r-darts-ada", {"weight_decay": 0.1}, "weight_decay 0.1 with"),
        ("r-darts-ada", {"max_weight_decay": 1.0}, "max_weight_decay 1"),
        ("r-darts-ada", {"ada_history": "code"}, "ada_history is 'code'; expected one of paper, published"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_settings_that_cannot_work_write_nothing(
    name: str, settings: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=told):
        search(tiny.config(name, **settings), tmp_path / "run", train_set=tiny.images(), search_space=tiny.SPACE)
    assert not (tmp_path / "run").exists()


def test_a_search_too_short_to_judge_says_so() -> None:
    told: list[str] = []
    guard = EarlyStopping(Rise(), 2)
    for epochs in (22, 23, 24):
        guard.after_epoch(end_of(0, 0, 1.0, told, epochs=epochs))
    assert len(told) == 2
    assert "no rise of the eigenvalue can be seen in 22 epochs, the first after epoch 23" in told[0]


# Any two positive eigenvalues in a row are a rise: what the guards then do is what is tested.
FORCED = {"window": 1, "delta": 1, "factor": 1e-9, "start_epoch": 0, "eigenvalue_every": 1, "hypergradient": "first"}


def forced(name: str, **settings: Any) -> Any:
    return tiny.config(name, **(FORCED | settings))


@pytest.fixture
def constant_eigenvalue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs nothing, and is a rise to :data:`FORCED`."""
    monkeypatch.setattr(job, "measure", lambda *_: {"eigenvalue": 1.0, "eigenvalue_how": "exact"})


def run(config: Any, path: Path, **settings: Any) -> Any:
    return search(config, path, train_set=tiny.images(), search_space=tiny.SPACE, **settings)


def epochs_of(path: Path) -> list[dict[str, Any]]:
    return [each for each in tiny.metrics(path) if each["kind"] == "epoch"]


@pytest.mark.usefixtures("constant_eigenvalue")
def test_a_search_stops_and_answers_with_an_earlier_genotype(tmp_path: Path) -> None:
    config = forced("r-darts-es", epochs=5, start_epoch=1, arch_lr=0.05)
    result = run(config, tmp_path / "run")
    records = epochs_of(tmp_path / "run")
    assert result.epochs == len(records) == 3
    assert result.genotype == Genotype.from_json(
        RunFolder.open(tmp_path / "run").read_json("epochs/0001.json")["genotype"]
    )
    assert result.valid_loss == records[1]["valid_loss"]
    assert records[2]["guard"]["action"] == "stop"
    assert resume(tmp_path / "run", train_set=tiny.images()) == result
    with pytest.raises(Interrupted):
        run(config, tmp_path / "cut", progress=tiny.StopAt(8))
    assert resume(tmp_path / "cut", train_set=tiny.images()).genotype == result.genotype
    tiny.assert_same_run(tmp_path / "run", tmp_path / "cut")


@pytest.mark.usefixtures("constant_eigenvalue")
def test_a_rollback_brings_back_everything_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states: dict[int, dict[str, Any]] = {}
    begin = job.SearchJob.begin_epoch

    def spy(self: job.SearchJob, epoch: int) -> None:
        kept = {"weight_optimizer": self.step_both.weight_optimizer, "arch_optimizer": self.step_both.arch_optimizer}
        states[epoch] = {"model": {name: value.clone() for name, value in self.model.state_dict().items()}}
        for name, optimizer in kept.items():
            state = optimizer.state_dict()["state"]
            states[epoch][name] = {
                (at, key): torch.as_tensor(v).clone() for at in state for key, v in state[at].items()
            }
        states[epoch]["decay"] = {group["weight_decay"] for group in self.step_both.weight_optimizer.param_groups}
        states[epoch]["at"] = epoch - self.stage.start
        begin(self, epoch)
        states[epoch]["lr"] = self.lr

    monkeypatch.setattr(job.SearchJob, "begin_epoch", spy)
    run(forced("r-darts-ada", epochs=3), tmp_path / "run")
    # Epoch 1 shows a rise, epoch 2 is the second try at it and shows another; 3 and 4 end the stage.
    assert [states[epoch]["at"] for epoch in sorted(states)] == [0, 1, 1, 1, 2]
    decays = [decay for epoch in sorted(states) for decay in states[epoch]["decay"]]
    assert decays == pytest.approx([3e-4, 3e-4, 3e-3, 0.03, 0.03])
    for epoch in (2, 3):
        for part in ("model", "weight_optimizer", "arch_optimizer"):
            before, again = states[1][part], states[epoch][part]
            assert before.keys() == again.keys() != set()
            assert all(torch.equal(before[name], again[name]) for name in before)
        assert states[epoch]["lr"] == states[1]["lr"]
    assert any(not torch.equal(value, states[0]["model"][name]) for name, value in states[1]["model"].items())
    records = epochs_of(tmp_path / "run")
    assert [each["epoch"] for each in records] == list(range(5))
    assert [each["guard"]["epoch"] for each in records if "guard" in each] == [0, 0]
    assert "back to the end of epoch 1, with weight decay 0.03" in records[2]["guard"]["why"]


@pytest.mark.usefixtures("constant_eigenvalue")
def test_a_kill_around_the_rollbacks_changes_nothing(tmp_path: Path) -> None:
    config = forced("r-darts-ada", epochs=3)
    whole = run(config, tmp_path / "whole")
    assert whole.epochs == 5
    # In the epoch that is taken back, in the first try after it, and in the second.
    for step in (5, 8, 10):
        with pytest.raises(Interrupted):
            run(config, tmp_path / f"cut{step}", progress=tiny.StopAt(step))
        resumed = resume(tmp_path / f"cut{step}", train_set=tiny.images())
        tiny.assert_same_run(tmp_path / "whole", tmp_path / f"cut{step}")
        assert resumed.genotype == whole.genotype


def test_a_search_measures_on_the_way(tmp_path: Path) -> None:
    config = tiny.config("r-darts-es", space="s2", epochs=4, layers=3, eigenvalue="lanczos", hypergradient="first")
    result = search(config, tmp_path / "run", train_set=tiny.images(16))
    records = epochs_of(tmp_path / "run")
    assert len(records) == result.epochs == 4
    # Every second epoch, and the last.
    assert ["eigenvalue" in each for each in records] == [True, False, True, True]
    assert all(each["eigenvalue"] > 1e-3 for each in records if "eigenvalue" in each)
    assert records[0]["eigenvalue_how"] == "lanczos"
