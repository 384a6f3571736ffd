"""The measurements of large spaces: planned, measured and searched by the same code, here at the least of sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.spaces import __main__ as large
from fastdarts._backend import native
from fastdarts.spaces import space, space_names


@pytest.fixture
def least(monkeypatch: pytest.MonkeyPatch) -> str:
    name = "nas-bench-201"
    for sizes in (large.FULL, large.REDUCED):
        monkeypatch.setitem(sizes, name, large.Size(4, 3, 4))
    monkeypatch.setattr(large, "ROUNDS", 1)
    return name


def test_every_large_space_is_a_preset_with_both_sizes() -> None:
    assert set(large.FULL) == set(large.REDUCED) <= set(space_names())
    assert {name for name in large.FULL if not space(name).shared} == {"amended-s2-full", "darts-own"}


@pytest.mark.skipif(native() is None, reason="no native core: every mode would be plain torch")
def test_a_space_is_planned_and_measured(least: str) -> None:
    needs = large.plan(least)["needs"]
    assert list(needs) == ["eager", "fast", "balanced", "lean"]
    kept = [each["kept_bytes"] for each in needs.values()]
    assert kept == sorted(kept, reverse=True) and kept[0] > kept[1]
    assert all(each["total_bytes"] > each["kept_bytes"] for each in needs.values())
    rates = large.measure(least)["images_per_second"]
    assert list(rates) == list(needs) and all(rate > 0 for rate in rates.values())


def test_the_page_shows_its_record() -> None:
    record = json.loads(large.RECORD.read_text(encoding="utf-8"))
    text = large.PAGE.read_text(encoding="utf-8")
    assert large.page(text, record) == text
    assert set(record["plan"]) == set(large.FULL)


def test_what_is_not_measured_is_said() -> None:
    record: dict[str, Any] = {}
    assert "To be measured on an idle machine: `python -m bench.spaces measure`" in large.shown(record, "measure")


def test_an_unknown_space_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        large.main(["plan", "kernel-zo"])
    assert "no large space is called kernel-zo" in capsys.readouterr().err
