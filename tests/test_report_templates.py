"""Templates of pages: a wrong name is an error and never an empty place, and nothing is shown unescaped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from report_runs import Page

from fastdarts.errors import UserError
from fastdarts.report import page
from fastdarts.report.page import render, write_page

TEMPLATES = Path(page.__file__).parent / "templates"


@pytest.fixture
def template(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of templates with one more, which a test fills."""
    for file in TEMPLATES.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    environment = page._environment().overlay(cache_size=0)
    monkeypatch.setattr(environment, "loader", type(environment.loader)(tmp_path))
    monkeypatch.setattr(page, "_environment", lambda: environment)
    return tmp_path / "own.html"


def test_a_page_of_ones_own_is_a_template_that_extends_the_base(template: Path) -> None:
    template.write_text(
        '{% extends "base.html" %}{% from "parts.html" import listed %}{% block about %}<p>{{ total | bytes }}</p>'
        '{% endblock %}{% block body %}{{ listed(["Cell", "Bytes"], rows, 1) }}{% endblock %}'
    )
    text = render("own.html", heading="Memory <of> a step", total=345_000_000, rows=[["<0>", "1"], ["1", "2"]])
    found = Page(text)
    assert "Memory <of> a step 345 MB Cell Bytes <0> 1 1 2" in found.text
    assert "<0>" not in text and "<of>" not in text
    assert [attrs for tag, attrs in found.elements if tag == "tr"] == [{}, {}, {"class": "marked"}]


@pytest.mark.parametrize("named", ["{{ lacking }}", "{{ lacking | bytes }}", "{{ given.lacking | percent }}"])
def test_a_fact_that_was_not_given_is_an_error(named: str, template: Path) -> None:
    template.write_text('{% extends "base.html" %}{% block body %}' + named + "{% endblock %}")
    with pytest.raises(UndefinedError, match="lacking"):
        render("own.html", heading="h", given={})
    template.write_text('{% extends "base.html" %}{% block body %}{{ given | percent }}{% endblock %}')
    assert "not recorded" in Page(render("own.html", heading="h", given=None)).text


def test_a_page_that_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        write_page(tmp_path / "nowhere" / "x.html", "base.html", heading="h")
    path = write_page(tmp_path / "x.html", "base.html", heading="a name that is no UTF-8: caf\udce9")
    assert b"caf\\udce9</h1>" in path.read_bytes()


@pytest.mark.parametrize("path", sorted(TEMPLATES.iterdir()), ids=lambda path: path.name)
def test_no_template_loads_anything_or_switches_escaping_off(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"https?:|<script|<link|@import|url\(|\|\s*safe|autoescape", text)
