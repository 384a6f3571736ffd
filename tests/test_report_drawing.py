"""Drawings of genotypes: everything is there, nothing lies over anything else."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fastdarts.errors import UserError
from fastdarts.report import draw_png, draw_svg, draw_terminal, write_svg
from fastdarts.report.cell import state_name
from fastdarts.report.drawing import cell_scenes, genotype_scene
from fastdarts.report.layered import Vertex, Wire, lay_out
from fastdarts.report.palette import COLOURS, colour_of, dash_of, short_name
from fastdarts.report.scene import Box, Curve, Label, Scene
from fastdarts.spaces import (
    PRIMITIVES,
    PUBLISHED,
    CellGenotype,
    Genotype,
    parse_genotype,
    published,
    random_genotype,
    space,
)

NB201 = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|nor_conv_3x3~2|"
SVG = "{http://www.w3.org/2000/svg}"
# Width of a letter in DejaVu Sans, wider than the system fonts, as a share of the font size.
LETTER = 0.64


def on_curve(piece: tuple[tuple[float, float], ...], t: float) -> tuple[float, float]:
    """De Casteljau's point at t of a piece of two or four points."""
    points = list(piece)
    while len(points) > 1:
        points = [((1 - t) * a[0] + t * b[0], (1 - t) * a[1] + t * b[1]) for a, b in pairwise(points)]
    return points[0]


def assert_legible(scene: Scene) -> None:
    boxes = [shape for shape in scene.shapes if isinstance(shape, Box) and shape.fill != "paper"]
    for k, a in enumerate(boxes):
        assert a.x >= 0 and a.x + a.width <= scene.width and a.y >= 0 and a.y + a.height <= scene.height
        for b in boxes[k + 1 :]:
            apart = a.x + a.width <= b.x or b.x + b.width <= a.x or a.y + a.height <= b.y or b.y + b.height <= a.y
            assert apart, f"{a} lies over {b}"
    for curve in (shape for shape in scene.shapes if isinstance(shape, Curve)):
        for x, y in (on_curve(piece, k / 40) for piece in curve.pieces for k in range(41)):
            for box in boxes:
                inside = box.x + 1 < x < box.x + box.width - 1 and box.y + 1 < y < box.y + box.height - 1
                assert not inside, f"a line runs through {box}"
    for label in (shape for shape in scene.shapes if isinstance(shape, Label)):
        width = LETTER * label.size * len(label.text.replace("_{", "").replace("}", ""))
        for box in boxes:
            if box.x <= label.x <= box.x + box.width and box.y <= label.y <= box.y + box.height:
                assert width <= box.width, f"{label.text} is wider than its box"


def tips(scene: Scene) -> list[str]:
    return sorted(shape.tip for shape in scene.shapes if isinstance(shape, Box) and shape.tip)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_genotypes_are_legible(name: str) -> None:
    genotype = published(name)
    for scene in cell_scenes(genotype):
        assert_legible(scene)
    assert_legible(genotype_scene(genotype))
    drawn = [tip.split(" from ")[0] for scene in cell_scenes(genotype) for tip in tips(scene)]
    assert sorted(drawn) == sorted(op for key in genotype.keys for op, _, _ in genotype.edges(key))


@given(st.integers(0, 10**6))
def test_any_darts_cell_is_legible_and_complete(seed: int) -> None:
    cell = random_genotype(space("darts"), seed, layers=8).normal
    (scene,) = cell_scenes(cell)
    assert_legible(scene)
    wanted = [f"{op} from {state_name(source, 2)} to node {state_name(node, 2)}" for op, source, node in cell.edges()]
    assert tips(scene) == sorted(wanted)


@pytest.mark.parametrize("genotype", [NB201, "PC_DARTS_cifar", "unshared", "fixed"])
def test_whole_genotypes_as_svg(genotype: str) -> None:
    if genotype in ("unshared", "fixed"):
        layers = 20
        base = space("amended-s2" if genotype == "fixed" else "darts")
        cells = {f"cell{k}": next(iter(random_genotype(base, k, layers=layers).cells.values())) for k in range(layers)}
        drawn = Genotype(cells)
    else:
        drawn = parse_genotype(genotype) if "|" in genotype else published(genotype)
    scene = genotype_scene(drawn)
    assert_legible(scene)
    root = ElementTree.fromstring(draw_svg(drawn))
    texts = ["".join(node.itertext()).replace("\u200b", "") for node in root.iter(f"{SVG}text")]
    for key in drawn.keys:
        for op, _, _ in drawn.edges(key):
            assert short_name(op) in texts
    if genotype == "fixed":
        assert "cell 19" in texts and "c" + "k\u22122" + " \u2192 3" in texts
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert title is not None and description is not None and description.text
    assert root.get("role") == "img"


def test_one_cell_and_titles_are_escaped() -> None:
    text = draw_svg(published("DARTS_V2").normal, title="<b>&")
    root = ElementTree.fromstring(text)
    assert "<b>" not in text
    assert any("<b>&" in (node.text or "") for node in root.iter(f"{SVG}text"))


def test_fragment_brings_no_style_of_its_own() -> None:
    fragment = draw_svg(published("DARTS_V2"), standalone=False)
    assert "<style" not in fragment and "xmlns" not in fragment
    assert "<style" in draw_svg(published("DARTS_V2"))


def test_files(tmp_path: Path) -> None:
    genotype = published("DARTS_V2")
    path = draw_png(genotype, tmp_path / "cell.png", dpi=96)
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    scene = genotype_scene(genotype)
    size = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    assert abs(size[0] - scene.width) <= 1 and abs(size[1] - scene.height) <= 1
    assert write_svg(genotype, tmp_path / "cell.svg").read_text(encoding="utf-8") == draw_svg(genotype)


def test_recurrent_cell_names_its_states() -> None:
    (scene,) = cell_scenes(published("DARTS_V2_recurrent"))
    assert "node 1 = sigmoid(0); node 2 = relu(1)" in scene.description
    assert "output = mean of nodes 1, 2, 3, 4, 5, 6, 7, 8" in scene.description
    labels = [shape.text for shape in scene.shapes if isinstance(shape, Label)]
    assert {"x_{t}", "h_{t-1}", "h_{t}", "8"} <= set(labels)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("DARTS_V2", ("node 3 = skip(c_{k-2}) + dil 3x3(0)", "c_k = concat(0, 1, 2, 3)", "reduction cell")),
        ("ENAS_recurrent", ("node 11 = relu(8)", "h_t = mean(2, 5, 6, 9, 10, 11)")),
    ],
)
def test_terminal(name: str, lines: tuple[str, ...]) -> None:
    out = io.StringIO()
    Console(file=out, width=120, color_system=None).print(draw_terminal(published(name)))
    plain = " ".join(out.getvalue().split())
    assert "\x1b" not in out.getvalue()
    for line in lines:
        assert line in plain
    coloured = io.StringIO()
    terminal = Console(file=coloured, width=120, force_terminal=True, color_system="truecolor")
    terminal.print(draw_terminal(published(name)))
    assert "\x1b[1;38;2;" in coloured.getvalue()


@pytest.mark.parametrize("draw", [draw_svg, draw_terminal, lambda value: draw_png(value, "never.png")])
def test_only_genotypes_are_drawn(draw: object) -> None:
    assert callable(draw)
    with pytest.raises(TypeError, match=r"Genotype or a CellGenotype.*str"):
        draw("DARTS_V2")
    assert not Path("never.png").exists()


def test_long_edges_have_lanes_and_the_output_a_column_of_its_own() -> None:
    chain = [Vertex("a"), Vertex("b", (Wire("a", "x"),)), Vertex("c", (Wire("b", "x"), Wire("a", "x")))]
    layout = lay_out([*chain, Vertex("out", (Wire("b"),))], "out")
    assert layout.columns == (("a",), ("b",), ("c",), ("out",))
    assert set(layout.lane) == {("a", 1), ("b", 2)}
    assert layout.lane["a", 1] != layout.y["b"]


def test_crossings_are_undone() -> None:
    inputs = [Vertex("a"), Vertex("b")]
    layout = lay_out([*inputs, Vertex("c", (Wire("b", "x"),)), Vertex("d", (Wire("a", "x"),))])
    assert layout.y["a"] < layout.y["b"] and layout.y["d"] < layout.y["c"]


def test_every_primitive_has_a_colour_and_families_differ() -> None:
    assert all(colour_of(name) in COLOURS and colour_of(name) != "other" for name in PRIMITIVES)
    assert colour_of("my_own<op>") == "other"
    lights = [colour.light for colour in COLOURS.values()]
    assert len(lights) == len(set(lights))
    convolutional = [name for name, primitive in PRIMITIVES.items() if primitive.family != "activation"]
    styles = {(colour_of(name), dash_of(name)) for name in convolutional}
    assert len(styles) == len(convolutional)


@pytest.mark.parametrize("write", [write_svg, draw_png])
def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, write: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"cannot write .*nowhere.*No such file"):
        write(published("DARTS_V2"), tmp_path / "nowhere" / "cell")


def test_matplotlib_and_rich_are_imported_when_first_used(tmp_path: Path) -> None:
    code = (
        "import sys, fastdarts.report as r, fastdarts.spaces as s\n"
        "assert not {'matplotlib', 'rich'} & set(sys.modules)\n"
        "r.draw_png(s.published('DARTS_V2'), 'cell.png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    here = {"PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=here)


def test_cells_are_drawn_the_same_every_time() -> None:
    cell = CellGenotype(((("sep_conv_3x3", 1), ("sep_conv_3x3", 0)),), (2,))
    assert draw_svg(cell) == draw_svg(cell)
