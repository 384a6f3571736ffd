"""The records of a run: written whole, read back, rewound."""

from __future__ import annotations

import logging
import math
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from run_folders import CONFIG, is_state, state, three_epochs

from fastdarts.errors import UserError
from fastdarts.runs import RunFolder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test cuts the power, and a busy disk takes its time to flush; test_runs_faults.py sees that it is asked to."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    with three_epochs(tmp_path / "run") as run:
        yield run


def test_metrics_come_back_as_logged(run: RunFolder) -> None:
    record = {"kind": "step", "loss": math.inf, "lr": 0.1, "name": "é\n", "skips": {"normal": 2}, "none": None}
    run.log(record)
    run.log({"loss": math.nan})
    assert run.metrics()[-2] == record
    assert math.isnan(run.metrics()[-1]["loss"])


def test_records_that_are_no_json_are_refused_untouched(run: RunFolder) -> None:
    before = (run.path / "metrics.jsonl").read_bytes()
    for record in ([1], {"loss": torch.ones(1)}):
        with pytest.raises(TypeError):
            run.log(record)  # type: ignore[arg-type]
    assert (run.path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("torn", ['{"kind": "ep', '{"kind"\n', "\0\0\0\0", "\xff\xfe\n"], ids=repr)
def test_a_torn_last_line_is_ignored_and_then_dropped(run: RunFolder, torn: str) -> None:
    run.close()
    with (run.path / "metrics.jsonl").open("a", encoding="latin-1") as file:
        file.write(torn)
    assert [record["epoch"] for record in run.metrics()] == [0, 1, 2]
    with run:
        run.log({"epoch": 3})
    assert [record["epoch"] for record in run.metrics()] == [0, 1, 2, 3]
    assert is_state(run.load(), 30)


def test_a_damaged_line_further_up_is_named(run: RunFolder) -> None:
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    (run.path / "metrics.jsonl").write_text("\n".join([lines[0], "{oops", lines[2]]) + "\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl line 2 is b'{oops'"):
        run.metrics()


def test_files_are_written_whole_and_read_back(run: RunFolder) -> None:
    assert run.write_json("genotype.json", {"a": [1, 2]}) == run.path / "genotype.json"
    assert run.read_json("genotype.json") == {"a": [1, 2]}
    run.write_text("cells/normal.svg", "<svg>é</svg>")
    run.write_bytes("cells/normal.svg", b"\x89PNG")
    assert (run.path / "cells/normal.svg").read_bytes() == b"\x89PNG"
    with pytest.raises(UserError, match=r"absent\.json: No such file"):
        run.read_json("absent.json")
    with pytest.raises(TypeError):
        run.write_json("genotype.json", {"a": torch.ones(1)})
    assert run.read_json("genotype.json") == {"a": [1, 2]}


@pytest.mark.parametrize("name", ["", "/tmp/x", "../x", "a/../../x", "config.json", "metrics.jsonl", "checkpoints/x"])
def test_names_that_lead_outside_or_are_taken_are_refused(run: RunFolder, name: str) -> None:
    with pytest.raises(UserError, match="file name"):
        run.write_text(name, "")


def test_what_a_killed_process_left_is_removed_by_the_next_writer(run: RunFolder) -> None:
    run.close()
    (run.path / ".tmp-result.json").write_text("{")
    (run.path / "epochs/.tmp-0003.json").touch()
    shutil.copytree(run.path / "checkpoints/step-00000030", run.path / "checkpoints/.tmp-step-00000040")
    os.rename(run.path / "checkpoints/step-00000030", run.path / "checkpoints/.old-step-00000030")
    assert run.steps() == [20]
    with run:
        assert not list(run.path.rglob(".tmp-*"))
        assert not list(run.path.rglob(".old-*"))
        assert is_state(run.load(), 30)


def test_the_temporary_files_of_a_run_inside_are_its_own(run: RunFolder) -> None:
    run.close()
    with RunFolder.create(run.path / "compare", CONFIG) as inner:
        (inner.path / ".tmp-comparison.json").touch()
        run.log({})
        assert (inner.path / ".tmp-comparison.json").exists()


def curves(path: Path, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(path))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def test_the_curves_do_not_show_what_was_lost(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", CONFIG) as run:
        for step in range(1, 5):
            run.scalar("loss", step, step)
            run.scalar("by epoch", step, step // 2)
            if step == 2:
                run.save(step, {})
    for value in (7.0, 8.0):  # two attempts, of which the first is lost too
        with RunFolder.open(tmp_path / "run") as run:
            run.rewind(run.load())
            run.scalar("loss", value, 3)
    assert curves(run.path, "loss") == [(1, 1.0), (2, 2.0), (3, 8.0)]
    assert curves(run.path, "by epoch") == [(0, 1.0), (1, 2.0)]


def test_without_tensorboard_there_is_one_line_and_no_events(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with caplog.at_level(logging.INFO, logger="fastdarts"):
        for step in range(3):
            run.scalar("loss", 1.0, step)
    run.save(40, state(40))
    run.rewind(run.load())
    assert [record.message for record in caplog.records if "tensorboard" in record.message] == [
        "tensorboard is not installed: no TensorBoard events (metrics.jsonl has everything)"
    ]
    assert not list(run.path.glob("events.*"))
