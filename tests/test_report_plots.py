"""Plots: well-formed SVG that shows what was recorded and leaves matplotlib's global state alone."""

from __future__ import annotations

import math
import re
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pytest

from fastdarts.report import (
    plot_comparison,
    plot_counts,
    plot_curves,
    plot_edge_weights,
    plot_hypergradient,
    plot_mixing,
    plot_mixing_by_cell,
)
from fastdarts.report.figure import inline
from fastdarts.report.palette import COLOURS
from fastdarts.spaces import CellGenotype

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()).strip() for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def lines(svg: str, colour: str) -> list[str]:
    """Paths drawn in a colour of the palette, longest first."""
    paths = [
        str(node.get("d"))
        for node in ElementTree.fromstring(svg).iter(f"{SVG}path")
        if f"stroke: {COLOURS[colour].light}" in str(node.get("style"))
    ]
    return sorted(paths, key=len, reverse=True)


def epochs(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"epoch": k} | {name: value(k) for name, value in fields.items()} for k in range(count)]


def mixing(count: int, edges: list[tuple[int, int]], keys: tuple[str, ...] = ("normal",)) -> list[dict[str, Any]]:
    primitives = ["skip_connect", "sep_conv_3x3"]
    row = [{"source": source, "node": node, "primitives": primitives} for source, node in edges]
    return [
        {
            "epoch": k,
            "weights": {key: [[0.5 + 0.1 * k, 0.5 - 0.1 * k] for _ in edges] for key in keys},
            "edge_weights": None,
            "edges": dict.fromkeys(keys, row),
        }
        for k in range(count)
    ]


def test_curves_show_both_levels_and_leave_gaps() -> None:
    records = epochs(5, train_loss=lambda k: 2 - k / 4, valid_loss=lambda k: math.nan if k == 2 else 2 - k / 5)
    svg = plot_curves(records, arch_start_epoch=2)
    assert {"Cross-entropy", "Accuracy", "alphas start", "epoch"} <= set(texts(svg))
    assert len(re.findall("L", lines(svg, "sep_conv_3x3")[0])) == 4
    assert len(re.findall("M", lines(svg, "dil_conv_3x3")[0])) == 2
    assert "alphas start" not in texts(plot_curves(records))


def test_a_level_that_was_not_recorded_has_no_line() -> None:
    svg = plot_curves(epochs(4, train_accuracy=lambda k: k / 4), labels=("training", "validation"))
    assert "training" in texts(svg) and "validation" not in texts(svg)


@pytest.mark.parametrize("count", [1, 2, 30])
def test_counts(count: int) -> None:
    records = epochs(
        count,
        skips=lambda k: {"normal": k % 3, "reduce": 1},
        entropy=lambda k: {"normal": 2.0, "reduce": 1.5},
        parameters=lambda k: 30_000 + k,
    )
    assert {"Skip connections", "Parameters", "normal", "reduce"} <= set(texts(plot_counts(records)))


def test_counts_of_many_cells_are_pooled() -> None:
    records = epochs(4, skips=lambda k: {f"cell{c}": k for c in range(20)})
    found = texts(plot_counts(records))
    assert "all 20 cells" in found and "cell0" not in found
    assert "60" in found


def test_counts_survive_missing_fields() -> None:
    assert "Parameters" in texts(plot_counts(epochs(3)))


def test_mixing_names_edges_and_what_was_kept() -> None:
    edges = [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    kept = CellGenotype(((("skip_connect", 0),), (("sep_conv_3x3", 2),)), (2, 3))
    found = texts(plot_mixing(mixing(3, edges), "normal", kept=kept))
    c2, c1 = "c\u2096\u208b\u2082", "c\u2096\u208b\u2081"
    for source, node in ((c2, 0), (c1, 0), (c2, 1), (c1, 1), ("0", 1)):
        assert f"{source} \u2192 {node}" in found
    # Once in the legend, once in the panel of the edge that keeps it.
    assert found.count("skip") == 2 and found.count("sep 3x3") == 2


@pytest.mark.parametrize("count", [1, 3])
def test_mixing_draws_a_line_an_operator_and_edge(count: int) -> None:
    svg = plot_mixing(mixing(count, [(0, 2), (1, 2), (0, 3), (2, 3)]), "normal")
    drawn = [line for line in lines(svg, "skip_connect") if line.count("L") == count - 1] if count > 1 else [0] * 4
    assert len(drawn) >= 4


def test_edge_weights_have_a_panel_a_node() -> None:
    files = mixing(3, [(0, 2), (1, 2), (0, 3), (2, 3)])
    for each in files:
        each["edge_weights"] = {"normal": [0.75, 0.25, 0.5, 0.5]}
    found = texts(plot_edge_weights(files, "normal"))
    assert {"into 0", "into 1", "from 0"} <= set(found)
    # 0.75 of two edges is 1.5 equal shares.
    assert "1.50" in found or "1.5" in found


def test_weights_that_hardly_move_are_still_told_apart() -> None:
    files = mixing(3, [(0, 2), (1, 2)])
    for k, each in enumerate(files):
        each["weights"] = {"normal": [[0.5 + k / 1e4, 0.5 - k / 1e4]] * 2}
    line = max(lines(plot_mixing(files, "normal"), "skip_connect"), key=lambda path: path.count("L"))
    heights = [float(point.split()[1]) for point in re.findall(r"[ML] ([-\d.]+ [-\d.]+)", line)]
    assert max(heights) - min(heights) > 20


def test_mixing_by_cell_has_a_panel_a_cell() -> None:
    keys = tuple(f"cell{k}" for k in range(7))
    for count in (1, 4):
        found = texts(plot_mixing_by_cell(mixing(count, [(0, 2), (1, 2)], keys)))
        assert [f"cell {k}" for k in range(7)] == [text for text in found if text.startswith("cell ")]


def test_hypergradient_without_finite_values_is_still_a_plot() -> None:
    checks = [{"epoch": 0, "cosine": math.nan, "relative_error": math.inf}]
    assert "Relative error" in texts(plot_hypergradient(checks))


@pytest.mark.parametrize("found", [0.5, 0.94, 0.951, 0.99])
def test_comparison_has_every_dot_and_both_names(found: float) -> None:
    means = [0.93, 0.95, 0.95, 0.95, 0.97]
    random = [{"mean": mean} for mean in means]
    svg = plot_comparison({"found": {"mean": found}, "random": random, "random_mean": 0.95, "interval95": [0.94, 0.96]})
    found_texts = texts(svg)
    assert f"found cell {100 * found:.2f}" in found_texts
    assert any(text.startswith("mean of random cells 95.00") for text in found_texts)
    dots = {
        (node.get("x"), node.get("y"))
        for node in ElementTree.fromstring(svg).iter(f"{SVG}use")
        if COLOURS["sep_conv_3x3"].light in str(node.get("style"))
    }
    assert len(dots) == len(means)


def test_plots_repeat_and_leave_the_global_state() -> None:
    before = dict(matplotlib.rcParams)
    records = epochs(3, train_loss=lambda k: k, train_accuracy=lambda k: k / 3)
    assert plot_curves(records) == plot_curves(records)
    assert dict(matplotlib.rcParams) == before


def test_inline_renames_ids_and_colours() -> None:
    svg = plot_curves(epochs(3, train_loss=lambda k: k))
    fragment = inline(svg, "a b<")
    assert "xmlns" not in fragment and "<style" not in fragment and "http" not in fragment
    ids = re.findall(r'\bid="([^"]+)"', fragment)
    assert ids and all(each.startswith("a-b--") for each in ids)
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', fragment)) <= set(ids)
    blue = COLOURS["sep_conv_3x3"].light
    assert f"var(--sep_conv_3x3,{blue})" in fragment
