"""`fastdarts runs` and two runs side by side: what is listed is what is on the disk, and nothing is written."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from report_runs import comparison_of, make_run

from fastdarts import cli
from fastdarts.errors import UserError
from fastdarts.report.listing import list_runs
from fastdarts.report.pair import pair_rows, pair_words
from fastdarts.report.records import read_run
from fastdarts.runs import RunFolder, is_locked

BUDGET = {"epochs": 15, "channels": 8, "layers": 4, "batch_size": 64}


def command(*arguments: str | Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["fastdarts", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def retrained(path: Path, accuracy: float, **more: Any) -> Path:
    run = make_run(path, epochs=1)
    record = {"test_accuracy": accuracy, "parameters": 20000, "test_images": 360, "history": []}
    with RunFolder.open(run) as folder:
        folder.write_json("retrain.json", record | BUDGET | more)
    return run


def test_each_state_is_told(tmp_path: Path) -> None:
    finished, stopped = make_run(tmp_path / "done", epochs=3), make_run(tmp_path / "half", epochs=2, finished=False)
    with RunFolder.open(finished) as folder:
        folder.write_json("comparison.json", comparison_of(0.9731, [0.95, 0.96]) | {"budget": BUDGET})
    live, damaged = make_run(tmp_path / "live", epochs=1, finished=False), make_run(tmp_path / "bad", epochs=1)
    (damaged / "config.json").write_text("{", encoding="utf-8")
    (tmp_path / "no run").mkdir()
    before = sorted(os.listdir(stopped))
    with RunFolder.open(live):
        assert is_locked(live) and not is_locked(stopped)
        found = {entry.path.name: entry for entry in list_runs(tmp_path)}
    assert set(found) == {"done", "half", "live", "bad"}
    done = found["done"]
    assert (done.kind, done.method, done.data, done.started) == ("search", "darts-second", "digits", "2026-11-30 18:40")
    assert (done.state, done.result) == ("finished", "test 97.31%; 2 random cells 95.50%")
    assert found["half"].state == "stopped after epoch 2 of 3"
    assert found["live"].state == "running"
    assert found["bad"].state.startswith("cannot be read")
    assert sorted(os.listdir(stopped)) == before
    assert [entry.path for entry in list_runs(finished)] == [finished]
    with pytest.raises(UserError, match="is no folder"):
        list_runs(tmp_path / "nowhere")


def test_the_command_prints_a_line_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = retrained(tmp_path / "mine", 0.95)
    assert command("runs", tmp_path, monkeypatch=monkeypatch) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].split()[:3] == ["run", "kind", "method"]
    assert lines[1].split() == [
        "mine",
        "search",
        "darts-second",
        "digits",
        "2026-11-30",
        "18:40",
        "test",
        "95.00%",
        "finished",
    ]
    assert command("runs", tmp_path, "--json", monkeypatch=monkeypatch) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["path"] == str(run) and entry["result"] == "test 95.00%"
    assert command("runs", tmp_path / "nowhere", monkeypatch=monkeypatch) == 2
    assert "is no folder" in capsys.readouterr().err


def test_two_runs_are_told_apart_only_by_enough_images(tmp_path: Path) -> None:
    a, b = (read_run(retrained(tmp_path / name, value)) for name, value in (("a", 0.95), ("b", 0.94)))
    rows = {row[0]: row[1:] for row in pair_rows(a, b)}
    assert rows[""] == ["a", "b"] and rows["method"] == ["darts-second"] * 2 and rows["seed"] == ["7", "7"]
    assert rows["test accuracy"] == ["95.00%", "94.00%"] and rows["training"] == ["15 epochs, 4 cells, 8 channels"] * 2
    first, second = pair_words(a, b)
    assert first.startswith("a is ahead by 1.00 points, 4 of 360 test images")
    assert "overlap: so many images cannot tell the two apart" in first
    assert second == "Their cells share 8 of 8 edges with the same operator."
    far = read_run(retrained(tmp_path / "far", 0.5))
    assert "do not meet" in pair_words(far, a)[0] and pair_words(far, a)[0].startswith("a is ahead by 45.00 points")


def test_other_budgets_and_data_do_not_compare(tmp_path: Path) -> None:
    a, quick = (read_run(retrained(tmp_path / name, 0.95, **more)) for name, more in (("a", {}), ("q", {"epochs": 1})))
    assert "different budgets (15 epochs" in pair_words(a, quick)[0]
    untested = read_run(make_run(tmp_path / "untested", epochs=1, data="svhn"))
    assert "Not both networks were tested" in pair_words(a, untested)[0]
    rows = {row[0]: row[1:] for row in pair_rows(a, untested)}
    assert rows["data"] == ["digits", "svhn"] and rows["test accuracy"] == ["95.00%", "not tested"]


def test_compare_takes_two_runs_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = retrained(tmp_path / "a", 0.95), retrained(tmp_path / "b", 0.94)
    assert command("compare", a, b, monkeypatch=monkeypatch) == 0
    out = capsys.readouterr().out
    assert "test accuracy" in out and "a is ahead by 1.00 points" in out
    assert command("compare", a, b, "--json", monkeypatch=monkeypatch) == 0
    assert json.loads(capsys.readouterr().out)["rows"]["test accuracy"] == ["95.00%", "94.00%"]
    assert command("compare", a, b, "--epochs", "3", monkeypatch=monkeypatch) == 2
    assert "--epochs was given with two runs" in capsys.readouterr().err
    assert command("compare", a, tmp_path / "nowhere", monkeypatch=monkeypatch) == 2
