"""SIGINT and SIGTERM end every long work with its state saved, whenever they come and also where they were ignored."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastdarts import cli
from fastdarts.evaluate import RetrainConfig, budget, compare, compare_methods, retrain, search_many, tabulate
from fastdarts.evaluate.retrain import RetrainJob
from fastdarts.search import Interrupted, search
from fastdarts.search.interrupt import stop_on_signal, stoppable
from fastdarts.search.job import SearchJob
from fastdarts.spaces import define_space, random_genotype
from tests import tiny

SPACE = define_space(
    "few", {(0, 2): ("skip_connect",), (1, 2): ("skip_connect", "max_pool_3x3")}, nodes=1, layers=3, keep=None
)
SMALL: dict[str, Any] = {"epochs": 1, "batch_size": 8, "channels": 4, "layers": 3, "auxiliary": 0.0, "device": "cpu"}


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def number(request: pytest.FixtureRequest) -> Iterator[int]:
    yield request.param


@pytest.fixture(params=[False, True], ids=["heard", "ignored"])
def ignored(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Both signals as a process finds them at its start: `(trap '' INT; ...)` and a script's `... &` leave them so."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for each in before:
        signal.signal(each, signal.SIG_IGN if request.param else signal.default_int_handler)
    yield request.param
    for each, handler in before.items():
        signal.signal(each, handler)


def _send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_the_first_signal_is_a_request_and_the_handlers_come_back(number: int, ignored: bool) -> None:
    before = signal.getsignal(number)
    with stop_on_signal() as stop:
        assert not stop.requested
        _send(number)
        assert stop.requested
    assert signal.getsignal(number) is before


def test_a_second_signal_acts_at_once(ignored: bool) -> None:
    with pytest.raises(KeyboardInterrupt), stop_on_signal():
        _send(signal.SIGINT)
        _send(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is (signal.SIG_IGN if ignored else signal.default_int_handler)


def test_an_inner_block_hears_what_the_outer_one_heard(number: int, ignored: bool) -> None:
    with stop_on_signal() as outer:
        with stop_on_signal() as inner:
            _send(number)
            assert inner.requested
        assert outer.requested
        with stop_on_signal() as later:
            assert later.requested


def test_the_whole_is_named_whichever_part_was_asked(tmp_path: Path, number: int, ignored: bool) -> None:
    with pytest.raises(Interrupted) as stop, stoppable(tmp_path), stoppable(tmp_path / "part"):
        _send(number)
    assert stop.value.path == tmp_path
    # Heard between two parts: the next one is not begun.
    begun = []
    with pytest.raises(Interrupted), stoppable(tmp_path):
        _send(number)
        with stoppable(tmp_path / "next") as request:
            request.check(tmp_path / "next")
            begun.append("next")
    assert not begun


def _sets() -> tuple[Any, Any]:
    return tiny.images(32), tiny.images(24, seed=1)


def _searching(path: Path) -> Any:
    return search(tiny.config(epochs=1), path, train_set=tiny.images(), search_space=SPACE)


def _retraining(path: Path) -> Any:
    config = RetrainConfig(random_genotype(SPACE, 0, layers=3).text(), **budget("custom", **SMALL))
    return retrain(config, path, sets=_sets())


def _comparing(path: Path) -> Any:
    settings = budget("custom", **SMALL)
    found = random_genotype(SPACE, 7, layers=3)
    return compare(found, path, search_space=SPACE, settings=settings, random_cells=2, sets=_sets())


def _comparing_methods(path: Path) -> Any:
    settings = {"search": SMALL_SEARCH, "training": SMALL}
    return compare_methods(
        ["darts-first"], path, seeds=(0, 1), data="custom", search_space=SPACE, sets=_sets(), **settings
    )


def _searching_often(path: Path) -> Any:
    configs = {f"seed-{seed}": tiny.config(epochs=1, seed=seed) for seed in (0, 1)}
    selection = budget("custom", **SMALL)
    return search_many(configs, path, search_space=SPACE, train_set=tiny.images(), selection=selection)


def _tabulating(path: Path) -> Any:
    return tabulate(SPACE, path, settings=budget("custom", **SMALL), sets=_sets())


SMALL_SEARCH = {"epochs": 1, "batch_size": 8, "channels": 4, "layers": 3, "crop": 1, "device": "cpu"}
LONG: list[tuple[Callable[[Path], Any], type, str]] = [
    (_searching, SearchJob, "_result"),
    (_retraining, RetrainJob, "end_epoch"),
    (_comparing, RetrainJob, "__init__"),
    (_comparing_methods, RetrainJob, "__init__"),
    (_searching_often, SearchJob, "__init__"),
    (_tabulating, RetrainJob, "__init__"),
]


@pytest.mark.parametrize(("work", "job", "where"), LONG, ids=[work.__name__.strip("_") for work, _, _ in LONG])
def test_long_work_hears_a_signal_outside_its_steps(
    work: Any, job: Any, where: str, number: int, ignored: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a network is built for the third time, or after the last step: nothing but the whole listens there."""
    own, calls = getattr(job, where), []

    def called(self: Any, *arguments: Any, **named: Any) -> Any:
        calls.append(where)
        # The first two of those that are built check the settings, before there is a folder.
        if where != "__init__" or len(calls) == 3:
            _send(number)
        return own(self, *arguments, **named)

    monkeypatch.setattr(job, where, called)
    with pytest.raises(Interrupted) as stop:
        work(tmp_path / "run")
    assert stop.value.path == tmp_path / "run"
    assert (tmp_path / "run" / "config.json").exists()


def test_the_command_ends_with_a_word(
    number: int, ignored: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before there is a run that could listen."""
    from fastdarts import search as searching

    before = signal.getsignal(number)
    monkeypatch.setattr(searching, "search", lambda *arguments, **named: _send(number))
    monkeypatch.setattr(sys, "argv", ["fastdarts", "search", "--run", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("fastdarts: stopped at once;")
    assert signal.getsignal(number) is before
