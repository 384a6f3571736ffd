"""What a run's last bits depend on is recorded, and a run that goes on elsewhere says so, once."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fastdarts._backend import native
from fastdarts.evaluate import budget, compare, compare_methods, continue_many, search_many, tabulate
from fastdarts.report import write_report
from fastdarts.runs import RunFolder
from fastdarts.search import Interrupted, Progress, environment, resume, search
from fastdarts.spaces import define_space, random_genotype
from tests import tiny

SPACE = define_space("few", {(0, 2): ("skip_connect",), (1, 2): ("skip_connect", "max_pool_3x3")}, nodes=1, layers=3)
SMALL: dict[str, Any] = {"epochs": 1, "batch_size": 8, "channels": 4, "layers": 3, "auxiliary": 0.0, "device": "cpu"}
SEARCH: dict[str, Any] = {"epochs": 1, "batch_size": 8, "channels": 4, "layers": 3, "crop": 1, "device": "cpu"}


class Listener(Progress):
    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, message: str) -> None:
        if "goes on with" in message:
            self.told.append(message)


@pytest.fixture
def elsewhere() -> Iterator[pytest.MonkeyPatch]:
    """Set attributes here to be on another machine; undo to be back."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def _move(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "ANOTHER")


def _resumed(path: Path) -> list[str]:
    listener = Listener()
    resume(path, train_set=tiny.images(), progress=listener)
    return listener.told


def _cut(path: Path, at: int) -> None:
    with pytest.raises(Interrupted):
        search(tiny.config(), path, train_set=tiny.images(), search_space=SPACE, progress=tiny.StopAt(at))


def test_what_the_last_bits_depend_on_is_recorded() -> None:
    described = environment.describe_environment(torch.device("cpu"), 3)
    assert described["threads"] == 3
    assert described["torch"] == torch.__version__
    assert described["torch_isa"] == torch.backends.cpu.get_cpu_capability()
    core = native()
    assert core is not None
    assert described["core_isa"] in core.isas()
    before = core.isa()
    for isa in core.isas():
        core.choose_isa(isa)
        assert environment.describe_environment(torch.device("cpu"))["core_isa"] == isa
    core.choose_isa(before)


@pytest.mark.parametrize("what", ["threads", "torch_isa", "core_isa", "torch"])
def test_each_kind_of_move_is_told_in_one_line(what: str, tmp_path: Path, elsewhere: pytest.MonkeyPatch) -> None:
    _cut(tmp_path / "run", 2)
    now = environment.describe_environment(torch.device("cpu"))
    if what == "threads":
        elsewhere.setattr(torch, "get_num_threads", lambda: 77)
        elsewhere.setattr(torch, "set_num_threads", lambda count: None)
    elif what == "torch":
        elsewhere.setattr(torch, "__version__", "2.99")
    elif what == "torch_isa":
        _move(elsewhere)
    else:
        elsewhere.setattr(environment, "native", lambda: SimpleNamespace(isa=lambda: "another"))
    new = environment.describe_environment(torch.device("cpu"))[what]
    expected = f"run goes on with {what} {new} instead of {now[what]}: from here on its last bits may differ"
    assert _resumed(tmp_path / "run") == [expected]


def test_it_is_told_once_and_again_at_the_way_back(tmp_path: Path, elsewhere: pytest.MonkeyPatch) -> None:
    _cut(tmp_path / "run", 2)
    _move(elsewhere)
    assert len(_resumed(tmp_path / "run")) == 1
    assert _resumed(tmp_path / "run") == []
    elsewhere.undo()
    assert len(_resumed(tmp_path / "run")) == 1
    kept = [record for record in RunFolder.open(tmp_path / "run").metrics() if record["kind"] == "environment"]
    assert [record["changed"] for record in kept] == [["torch_isa"], ["torch_isa"]]
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "went on with" in page and "torch_isa ANOTHER" in page and "to rounding only" in page


def test_work_that_is_done_again_elsewhere_is_told_again(tmp_path: Path, elsewhere: pytest.MonkeyPatch) -> None:
    """The record belongs to the steps that it is about: without a checkpoint after it, both are taken back."""
    _cut(tmp_path / "run", 2)
    _move(elsewhere)
    with elsewhere.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Listener, "epoch", lambda self, record: (_ for _ in ()).throw(KeyboardInterrupt), raising=False)
        _resumed(tmp_path / "run")
    assert len(_resumed(tmp_path / "run")) == 1
    assert sum(record["kind"] == "environment" for record in RunFolder.open(tmp_path / "run").metrics()) == 1


def test_what_an_older_version_did_not_record_is_no_move(tmp_path: Path) -> None:
    _cut(tmp_path / "run", 2)
    told = Listener()
    with RunFolder.create(tmp_path / "old", {"environment": {"threads": torch.get_num_threads()}}) as folder:
        environment.note_environment(folder, torch.device("cpu"), told)
    with RunFolder.create(tmp_path / "older", {}) as folder:
        environment.note_environment(folder, torch.device("cpu"), told)
    assert told.told == []


def _comparing(path: Path, progress: Progress) -> Any:
    arguments: dict[str, Any] = {"search_space": SPACE, "settings": budget("custom", **SMALL), "random_cells": 2}
    sets = (tiny.images(32), tiny.images(24, seed=1))
    return compare(random_genotype(SPACE, 7, layers=3), path, **arguments, sets=sets, progress=progress)


def _comparing_methods(path: Path, progress: Progress) -> Any:
    settings: dict[str, Any] = {"search": SEARCH, "training": SMALL, "data": "custom", "search_space": SPACE}
    sets = (tiny.images(32), tiny.images(24, seed=1))
    return compare_methods(["darts-first"], path, seeds=(0, 1), **settings, sets=sets, progress=progress)


def _searching_often(path: Path, progress: Progress) -> Any:
    if path.exists():
        return continue_many(path, train_set=tiny.images(), progress=progress)
    configs = {f"seed-{seed}": tiny.config(epochs=1, seed=seed) for seed in (0, 1)}
    settings: dict[str, Any] = {"search_space": SPACE, "selection": budget("custom", **SMALL)}
    return search_many(configs, path, **settings, train_set=tiny.images(), progress=progress)


def _tabulating(path: Path, progress: Progress) -> Any:
    sets = (tiny.images(32), tiny.images(24, seed=1))
    return tabulate(SPACE, path, settings=budget("custom", **SMALL), sets=sets, progress=progress)


WORK = [_comparing, _comparing_methods, _searching_often, _tabulating]


@pytest.mark.parametrize("work", WORK, ids=[work.__name__.strip("_") for work in WORK])
def test_folders_of_several_runs_tell_it_too(work: Any, tmp_path: Path, elsewhere: pytest.MonkeyPatch) -> None:
    listener = Listener()
    first = json.dumps(work(tmp_path / "whole", listener), default=str)
    assert listener.told == []
    _move(elsewhere)
    expected = "whole goes on with torch_isa ANOTHER instead of"
    assert json.dumps(work(tmp_path / "whole", listener), default=str) == first
    assert len(listener.told) == 1 and listener.told[0].startswith(expected)
    work(tmp_path / "whole", listener)
    assert len(listener.told) == 1


def test_every_generator_is_seeded() -> None:
    def drawn(seed: int) -> list[float]:
        environment.seed_everything(seed)
        return [float(torch.rand(())), random.random(), float(np.random.rand())]

    first, other = drawn(3), drawn(4)
    assert drawn(3) == first
    assert all(one != another for one, another in zip(first, other, strict=True))
