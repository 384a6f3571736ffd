"""Steps that are recorded and replayed: the same bits as steps that are not, with an emulated graph on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastdarts.data import Augmentation, Batches
from fastdarts.nn import Supernet
from fastdarts.runs import RunFolder
from fastdarts.search import METHODS, Interrupted, SearchConfig, graph, resume, search
from fastdarts.search._unattended import UnattendedStep
from fastdarts.search.choices import Softmax
from fastdarts.search.figures import evaluate
from fastdarts.search.graph import Replayed
from fastdarts.search.step import SearchStep
from fastdarts.search.stepper import Evaluation, Inputs, Stepper
from fastdarts.spaces import define_space
from tests import tiny
from tests.graph_emulator import Emulator, HostAsked, nothing_asked
from tests.recorded import NOT_RECORDED, assert_recorded_is_the_same, emulated

CUDA = torch.device("cuda")


def _batches(seed: int) -> Batches:
    return Batches(tiny.images(), batch_size=8, seed=seed, augmentation=Augmentation(crop=1, flip=True, cutout=2))


def _step(cls: type[SearchStep], kind: str = "first", **overrides: Any) -> SearchStep:
    torch.manual_seed(0)
    config = tiny.config(hypergradient=kind, **overrides)
    model = Supernet(tiny.SPACE, channels=4, layers=3, classes=3, in_channels=1)
    return cls(model, config, Softmax())


def _state(step: SearchStep) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in step.model.state_dict().items()}


def _assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []


# The stepper.


@pytest.mark.parametrize("one_level", [False, True])
def test_the_stepper_takes_the_steps_that_a_loop_would(one_level: bool) -> None:
    kind = "one-level" if one_level else "first"
    ours, theirs = _step(SearchStep, kind), _step(SearchStep, kind)
    stepper = Stepper(ours, _batches(0), None if one_level else _batches(1), None)
    train, valid = _batches(0), _batches(1)
    for number in range(3):
        alphas = number != 1
        got = stepper(stepper.draw(), 0.1 * number, alphas=alphas)
        batch = train.next()
        other = batch if one_level else valid.next()
        expected = theirs(batch, other if alphas else None, 0.1 * number)
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[name], value.double()) for name, value in expected.items())
    _assert_same(_state(ours), _state(theirs))


def test_the_evaluation_is_that_of_the_library_function() -> None:
    step = _step(SearchStep)
    batches = Batches(tiny.images(44), batch_size=8, seed=0)
    for _ in range(2):
        assert Evaluation(step.model, batches, None)() == evaluate(step.model, batches.once())
    assert step.model.training


def test_inputs_travel_in_one_buffer() -> None:
    inputs = Inputs(8, 2, torch.device("cpu"))
    first, second = _batches(0).draw(), _batches(1).draw()
    inputs.fill(first, second, lr=0.1, progress=0.25)
    assert torch.equal(inputs.draws[0], first)
    assert torch.equal(inputs.draws[1], second)
    assert (inputs.lr.item(), inputs.progress.item()) == (0.1, 0.25)
    assert len({each.untyped_storage().data_ptr() for each in (*inputs.draws, inputs.lr, inputs.progress)}) == 1


def test_figures_are_the_callers_own() -> None:
    stepper = Stepper(_step(UnattendedStep), _batches(0), _batches(1), None)
    first = stepper(stepper.draw(), 0.0, alphas=True)
    before = {name: value.clone() for name, value in first.items()}
    stepper(stepper.draw(), 0.0, alphas=True)
    _assert_same(first, before)


@pytest.mark.parametrize("kind", ["one-level", "first", "second", "amended"])
def test_an_unattended_step_asks_the_host_for_nothing(kind: str) -> None:
    step = _step(UnattendedStep, kind)
    # The augmentation on a CPU checks its indices; on a GPU that is left to the device.
    train, valid, progress = _batches(0).next(), _batches(1).next(), torch.zeros((), dtype=torch.float64)
    step(train, valid, progress)
    with nothing_asked():
        step(train, valid, progress)
        step(train, None, progress)
    with pytest.raises(HostAsked), nothing_asked():
        _step(SearchStep, "second")(train, valid, 0.0)


# Whole searches, recorded.


def _search(path: Path, config: SearchConfig, **others: Any) -> dict[str, Tensor]:
    search(config, path, train_set=tiny.images(), search_space=others.pop("search_space", tiny.SPACE), **others)
    return tiny.state_of(path)


@pytest.mark.parametrize(
    ("name", "settings", "graphs"),
    [
        ("darts-first", {"cutout": 2, "flip": True}, 2),
        ("darts-one-level", {}, 2),
        ("darts-second", {"check_hypergradient": (1,)}, 2),
        ("darts-first", {"hypergradient": "amended", "momentum": 0.0, "grad_clip": 0.0}, 2),
        ("pc-darts", {"epochs": 2}, 3),
    ],
)
def test_a_recorded_search_is_the_same_to_the_bit(
    name: str, settings: dict[str, Any], graphs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The learning rate falls between recording and replay: a number of Python's that was kept would be seen."""
    config = tiny.config(name, **settings)
    recorder = assert_recorded_is_the_same(config, tmp_path, monkeypatch)
    assert (recorder.recorded, recorder.warm_ups) == (graphs, graphs)
    steps = RunFolder.open(tmp_path / "plain").metrics()[-1]["step"]
    assert recorder.replays == steps + 2 * 3 - recorder.warm_ups


@pytest.mark.parametrize(
    "name", [name for name in METHODS if not name.startswith(("darts-", "pc-darts")) and name not in NOT_RECORDED]
)
def test_every_method_that_can_be_recorded_is_the_same_to_the_bit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert assert_recorded_is_the_same(tiny.config(name), tmp_path, monkeypatch).recorded >= 2


def test_noise_is_drawn_anew_at_every_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = define_space("own", ("noise", "sep_conv_3x3"), nodes=2, layers=3)
    config = tiny.config(space="own")
    for name, recorder in (("plain", None), ("recorded", Emulator())):
        emulated(monkeypatch, recorder)
        _search(tmp_path / name, config, search_space=own)
    tiny.assert_same_run(tmp_path / "plain", tmp_path / "recorded")


@pytest.mark.parametrize("stop", [1, 4])
def test_a_stopped_search_continues_bit_for_bit(stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It warms up once more after a resumption, where the other one replays."""
    config = tiny.config()
    emulated(monkeypatch, Emulator())
    _search(tmp_path / "whole", config)
    emulated(monkeypatch, Emulator())
    with pytest.raises(Interrupted):
        _search(tmp_path / "cut", config, progress=tiny.StopAt(stop))
    emulated(monkeypatch, Emulator())
    resume(tmp_path / "cut", train_set=tiny.images())
    tiny.assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("fail_at", [1, 2])
def test_a_failed_recording_costs_nothing(fail_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Emulator(fail_at)
    for name, each in (("plain", None), ("failed", recorder)):
        emulated(monkeypatch, each)
        _search(tmp_path / name, tiny.config())
    tiny.assert_same_run(tmp_path / "plain", tmp_path / "failed")
    assert recorder.failed
    assert recorder.recorded == fail_at


def test_a_function_is_warmed_up_then_recorded_once_then_replayed() -> None:
    done: list[str] = []

    class Spy:
        failed = False

        def warm_up(self, work: Callable[[], None]) -> None:
            done.append("warm-up")

        def record(self, work: Callable[[], None]) -> Callable[[], None]:
            done.append("record")
            return lambda: done.append("replay")

    spy = Spy()
    replayed = Replayed(lambda: done.append("plain"), spy)
    for _ in range(graph.WARM_UPS + 2):
        replayed()
    assert done == ["warm-up"] * graph.WARM_UPS + ["record", "replay", "replay"]
    # Another function's recording failed: nothing is replayed any more.
    spy.failed = True
    replayed()
    assert done[-1] == "plain"


def test_the_emulator_replays_as_a_graph_does() -> None:
    """Recording computes nothing; memory is read anew, a number of Python's is not."""
    total, given, factor = torch.zeros(2), torch.ones(2), [2.0]
    replay = Emulator().record(lambda: total.add_(given * factor[0]))
    assert replay is not None
    assert total.tolist() == [0.0, 0.0]
    replay()
    given.fill_(10.0)
    factor[0] = 100.0
    replay()
    assert total.tolist() == [22.0, 22.0]


def test_the_emulator_refuses_what_a_graph_would() -> None:
    value = torch.zeros(2)
    for asks in (lambda: value.sum().item(), lambda: bool(value[0] > 0), lambda: torch.tensor([1, 2]), value.nonzero):
        with pytest.raises(HostAsked):
            Emulator().record(asks)
