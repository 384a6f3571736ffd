"""A search from Python: a bar in a terminal and silence elsewhere, and a result that reports and draws itself."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fastdarts.errors import UserError
from fastdarts.search import Progress, search
from fastdarts.search.console import TerminalProgress
from fastdarts.search.progress import watcher
from tests import tiny


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_is_shown_in_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Progress()
    for stream, kind in ((Terminal(), TerminalProgress), (io.StringIO(), Progress), (None, Progress)):
        monkeypatch.setattr(sys, "stderr", stream)
        assert type(watcher(None)) is kind
        assert watcher(own) is own


def test_a_result_reports_and_draws_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    result = search(tiny.config("darts-first"), tmp_path / "run", train_set=tiny.images(), search_space=tiny.SPACE)
    assert "search (darts-first) 1/" in shown.getvalue() and capsys.readouterr().out == ""
    page = result.report()
    assert page == tmp_path / "run" / "report.html"
    assert "The genotype found" in page.read_text(encoding="utf-8")
    words = {"cells": "normal cell", "curves": "Cross-entropy", "counts": "Entropy of the mixing weights"}
    for what, said in words.items():
        drawing = result.plot(what, tmp_path / f"{what}.svg")
        ElementTree.fromstring(drawing)
        assert said in drawing and drawing._repr_svg_() == drawing
        assert (tmp_path / f"{what}.svg").read_text(encoding="utf-8") == drawing
    assert result.plot() == result.plot("cells")
    with pytest.raises(UserError, match="one of cells, curves, counts"):
        result.plot("cell")
