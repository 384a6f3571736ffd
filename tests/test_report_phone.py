"""On a phone of 390 pixels: plots of their own, whose letters can be read, and cells as formulas."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from report_runs import comparison_of, epoch_file, make_run, page_of

from fastdarts.report import (
    plot_comparison,
    plot_counts,
    plot_curves,
    plot_edge_weights,
    plot_hypergradient,
    plot_mixing,
    plot_mixing_by_cell,
    write_report,
)
from fastdarts.runs import RunFolder
from fastdarts.spaces import space

# What is left of 390 pixels beside the page's margins, and what an eye reads at arm's length.
ROOM, READABLE = 358.0, 10.0
DARTS, UNSHARED = space("darts"), space("amended-s2")
EPOCHS = [
    {"epoch": k, "skips": {"normal": 1}, "entropy": {"normal": 2.0}, "parameters": 3e4, "eigenvalue": 0.5, "lr": 0.1}
    | {"train_loss": 1.0, "valid_loss": 1.0, "train_accuracy": 0.5, "valid_accuracy": 0.5}
    for k in range(4)
]
FILES = [epoch_file(DARTS, 4, epoch) for epoch in range(2)]
MANY = [epoch_file(UNSHARED, 20, epoch) for epoch in range(2)]
CHECKS = [{"epoch": k, "cosine": 0.5, "relative_error": 0.1} for k in range(3)]
PLOTS: dict[str, Callable[..., str]] = {
    "curves": lambda **how: plot_curves(EPOCHS, **how),
    "counts": lambda **how: plot_counts(EPOCHS, **how),
    "mixing": lambda **how: plot_mixing(FILES, "normal", **how),
    "edges": lambda **how: plot_edge_weights(FILES, "normal", **how),
    "cells": lambda **how: plot_mixing_by_cell(MANY, **how),
    "hypergradient": lambda **how: plot_hypergradient(CHECKS, **how),
    "comparison": lambda **how: plot_comparison(comparison_of(0.97, [0.9, 0.95]), **how),
}


def letters(svg: str) -> tuple[float, list[float]]:
    """Width of a plot [user units], and the size of each piece of text in it."""
    root = ElementTree.fromstring(svg)
    sizes = [float(size) for size in re.findall(r"font: (?:[a-z]+ )*([\d.]+)px", svg)]
    sizes += [float(size) for size in re.findall(r"font-size: ([\d.]+)px", svg)]
    return float(str(root.get("viewBox")).split()[2]), sizes


@pytest.mark.parametrize("name", PLOTS)
def test_letters_are_readable_at_390_pixels(name: str) -> None:
    width, sizes = letters(PLOTS[name](narrow=True))
    assert sizes and min(sizes) * ROOM / width >= READABLE
    width, sizes = letters(PLOTS[name]())
    assert min(sizes) * ROOM / width < READABLE, "a plot for a wide screen, which this one is to replace"


def test_the_page_shows_each_plot_to_one_kind_of_screen(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", epochs=2)
    with RunFolder.open(run) as folder:
        folder.write_json("comparison.json", comparison_of(0.9, [0.8, 0.95]))
    text = write_report(run).read_text(encoding="utf-8")
    assert text.count('class="wide"') == text.count('class="narrow"') > 3
    assert "@media screen and (max-width:800px){.wide{display:none}.narrow{display:block}" in text
    assert ".narrow{display:none}" in text


def test_a_cell_is_written_out_too(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "run", epochs=1))
    lists: list[dict[str, Any]] = [a for tag, a in page.elements if "formulas" in str(a.get("class"))]
    assert len(lists) == 1
    assert re.search(r"node 0 = (skip|sep 3x3)\(c k-\d \) \+", page.text)
    assert not [
        a
        for _, a in page_of(make_run(tmp_path / "u", searched=UNSHARED, layers=20, epochs=1)).elements
        if "formulas" in str(a.get("class"))
    ]


def test_the_machines_name_is_not_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", epochs=1)
    (run / "events.out.tfevents.1.secret-host.2.0").write_bytes(b"")
    assert "secret-host" not in page_of(run).text
