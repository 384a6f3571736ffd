"""Search spaces: presets against the papers, exact sizes, definitions of one's own and every way they can be wrong."""

from __future__ import annotations

import ast
import copy
import doctest
import json
import re
import sys
from pathlib import Path

import pytest

from fastdarts import spaces
from fastdarts.errors import UserError
from fastdarts.spaces import PRIMITIVES, CellSpace, Edge, Space, _primitives, define_space, space, space_names

ROOT = Path(__file__).resolve().parents[1]
SHORT = {
    "none": "none",
    "skip": "skip_connect",
    "max": "max_pool_3x3",
    "avg": "avg_pool_3x3",
    "sep3": "sep_conv_3x3",
    "sep5": "sep_conv_5x5",
    "dil3": "dil_conv_3x3",
    "dil5": "dil_conv_5x5",
    "noise": "noise",
}
DARTS = ("none", "max", "avg", "skip", "sep3", "sep5", "dil3", "dil5")
# RobustDARTS src/spaces.py, edge by edge: docs/facts.md, 6, columns normal and reduction.
S1 = """
e0 skip|dil3 max|avg    e1 skip|dil5 max|dil3   e2 skip|dil5 max|avg    e3 skip|sep3 max|avg    e4 skip|dil3 skip|dil5
e5 max|skip max|avg     e6 skip|sep3 max|sep3   e7 skip|sep3 skip|dil3  e8 skip|dil3 skip|dil5  e9 skip|sep3 max|avg
e10 max|skip max|avg    e11 skip|dil3 skip|dil5 e12 dil3|dil5 skip|dil5 e13 dil3|dil5 skip|dil5
"""


def names(short: str) -> tuple[str, ...]:
    return tuple(SHORT[word] for word in short.split("|"))


def small(**changes: object) -> Space:
    given: dict[str, object] = {"name": "small", "primitives": ["skip_connect", "sep_conv_3x3"], "nodes": 2}
    return define_space(**{**given, **changes})  # type: ignore[arg-type]


def test_the_package_needs_nothing_but_python() -> None:
    for path in (ROOT / "fastdarts" / "spaces").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                assert module.split(".")[0] in sys.stdlib_module_names or module.startswith("fastdarts."), path


def test_every_export_exists_and_is_documented() -> None:
    for name in spaces.__all__:
        found = getattr(spaces, name)
        assert found.__doc__ or name in ("PRIMITIVES", "PUBLISHED")


def test_primitives_say_their_window() -> None:
    for name, primitive in PRIMITIVES.items():
        assert primitive.name == name
        window, apart = re.search(r"_(\d)x(\d)(?:_d\d)?$", name), re.search(r"_d(\d)$", name)
        assert primitive.kernel == (max(map(int, window.groups())) if window else 1)
        assert primitive.dilation == (int(apart[1]) if apart else 2 if name.startswith("dil_") else 1)
    parametric = {name for name, primitive in PRIMITIVES.items() if not primitive.parameter_free}
    assert {name.split("_")[0] for name in parametric} == {"sep", "dil", "conv", "nor"}


def test_the_presets_by_name() -> None:
    expected = ("darts", "darts-without-none", "s1", "s2", "s3", "s4", "amended-s1", "amended-s2", "amended-s2-full")
    assert space_names() == expected
    for name in expected:
        assert space(name).name == name
        assert space(name.upper().replace("-", "_")) is space(name)
        assert space(name).source
    with pytest.raises(UserError, match=r"unknown search space 'dart'.*amended-s2-full.*did you mean 'darts'\?"):
        space("dart")


@pytest.mark.parametrize("name", ["darts", "s1", "s2", "s3", "s4"])
def test_fourteen_edges_in_the_order_of_darts(name: str) -> None:
    preset = space(name)
    for cell in (preset.normal, preset.reduce):
        places = [(edge.source, edge.node) for edge in cell.edges]
        assert places == [(source, node) for node in (2, 3, 4, 5) for source in range(node)]
        assert (cell.nodes, cell.concat, cell.inputs) == (4, (2, 3, 4, 5), 2)
        assert [cell.into(node) for node in cell.states] == [(0, 1), (2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12, 13)]
    assert preset.shared and preset.layers == 8 and preset.keep == 2


@pytest.mark.parametrize(
    ("name", "primitives"),
    [("darts", "|".join(DARTS)), ("s2", "skip|sep3"), ("s3", "none|skip|sep3"), ("s4", "noise|sep3")],
)
def test_uniform_candidates(name: str, primitives: str) -> None:
    for cell in (space(name).normal, space(name).reduce):
        assert {edge.primitives for edge in cell.edges} == {names(primitives)}
        assert cell.width == len(names(primitives))


def test_s1_edge_by_edge() -> None:
    rows = re.findall(r"e(\d+) (\S+) (\S+)", S1)
    assert [int(edge) for edge, _, _ in rows] == list(range(14))
    assert [edge.primitives for edge in space("s1").normal.edges] == [names(normal) for _, normal, _ in rows]
    assert [edge.primitives for edge in space("s1").reduce.edges] == [names(reduce) for _, _, reduce in rows]
    assert space("s1").normal.counts == (2,) * 14


@pytest.mark.parametrize(
    ("name", "shared", "layers", "primitives"),
    [
        ("amended-s1", True, 8, DARTS[1:]),
        ("amended-s2", False, 20, ("skip", "sep3")),
        ("amended-s2-full", False, 20, DARTS[1:]),
    ],
)
def test_amended_spaces_fix_eight_edges(name: str, shared: bool, layers: int, primitives: tuple[str, ...]) -> None:
    preset = space(name)
    assert (preset.shared, preset.layers, preset.keep) == (shared, layers, None)
    for cell in (preset.normal, preset.reduce):
        places = [(edge.source, edge.node) for edge in cell.edges]
        assert places == [(0, 2), (1, 2), (0, 3), (2, 3), (0, 4), (3, 4), (0, 5), (4, 5)]
        assert {edge.primitives for edge in cell.edges} == {names("|".join(primitives))}


def test_published_sizes() -> None:
    darts = ((1 * 3 * 6 * 10) * 7**8) ** 2
    assert space("darts").size() == darts == 1_076_746_950_455_072_400
    assert f"{darts:.1e}" == "1.1e+18"  # Amended-DARTS, section 4.1.3
    assert space("amended-s1").size() == 7**16
    assert f"{7**16:.1e}" == "3.3e+13"
    assert space("amended-s2").size(20) == 2**160
    assert f"{2**160:.1e}" == "1.5e+48"
    assert space("amended-s2").size(3) == 2**24
    assert space("amended-s2-full").size() == 7**160
    for name in ("s1", "s2", "s3", "s4"):
        assert space(name).size() == (180 * 2**8) ** 2


def test_size_of_unequal_candidates() -> None:
    candidates = {
        (0, 2): ["skip_connect", "sep_conv_3x3"],
        (0, 3): ["none", "skip_connect"],
        (1, 3): ["max_pool_3x3", "avg_pool_3x3", "sep_conv_3x3"],
        (2, 3): ["skip_connect"],
    }
    kept_two = define_space("unequal", candidates, reduce={(0, 2): ["skip_connect"]})
    # Node 2 keeps its only edge; node 3 keeps two of three: 1*3 + 1*1 + 3*1 ways.
    assert kept_two.size() == 2 * 7
    assert kept_two.normal.node_size(3, 1) == 1 + 3 + 1
    assert define_space("all", candidates, keep=None).size() == (2 * 3) ** 2


def test_layers_keys_and_cells() -> None:
    shared, own = space("darts"), space("amended-s2")
    assert shared.reductions(8) == {2, 5} and shared.reductions() == {2, 5}
    assert shared.kinds(6) == ("normal", "normal", "reduce", "normal", "reduce", "normal")
    assert shared.keys(6) == shared.kinds(6)
    assert shared.arch_keys(6) == ("normal", "reduce") == shared.arch_keys(1)
    assert shared.kinds(1) == ("reduce",)
    assert own.keys(3) == own.arch_keys(3) == ("cell0", "cell1", "cell2")
    assert own.reductions() == {6, 13}
    mixed = small(shared=False, layers=6, reduce=["max_pool_3x3"])
    assert [mixed.cell(f"cell{layer}").width for layer in range(6)] == [2, 2, 1, 2, 1, 2]
    with pytest.raises(UserError, match=r"no architecture 'cell3'.*cell0, cell1, cell2"):
        own.cell("cell3", 3)
    with pytest.raises(UserError, match="0 layers"):
        shared.kinds(0)
    with pytest.raises(TypeError, match="layers must be an int"):
        shared.kinds(8.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", space_names())
def test_spaces_are_values(name: str) -> None:
    preset = space(name)
    assert Space.from_json(json.loads(json.dumps(preset.to_json()))) == preset
    assert copy.deepcopy(preset) == preset
    assert len({preset, copy.deepcopy(preset)}) == 1


@pytest.mark.parametrize("damage", ["format", "normal", "layers"])
def test_damaged_json_is_refused(damage: str) -> None:
    data = space("darts").to_json()
    del data[damage]
    with pytest.raises(UserError, match="JSON of a search space"):
        Space.from_json(data)
    with pytest.raises(UserError, match="JSON of a search space"):
        Space.from_json({**space("darts").to_json(), "normal": {"edges": 3, "nodes": 4, "concat": [2]}})


def test_a_space_of_ones_own() -> None:
    found = small(concat=[3], layers=5, keep=1, source="a note")
    assert [(edge.source, edge.node) for edge in found.normal.edges] == [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    assert found.normal == found.reduce
    assert (found.normal.concat, found.layers, found.keep, found.source) == ((3,), 5, 1, "a note")
    by_edges = small(nodes=None, edges=[(0, 2), (1, 3), (2, 3)], reduce=["max_pool_3x3"])
    by_mapping = small(
        nodes=None,
        primitives={edge: ["skip_connect", "sep_conv_3x3"] for edge in [(0, 2), (1, 3), (2, 3)]},
        reduce={edge: ["max_pool_3x3"] for edge in [(0, 2), (1, 3), (2, 3)]},
    )
    assert by_edges == by_mapping
    assert define_space("four", ["skip_connect"]).normal.nodes == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"primitives": ["sep_conv_3X3"]},
            r"unknown primitive 'sep_conv_3X3' on edge 0 -> 2.*did you mean 'sep_conv_3x3'\?",
        ),
        ({"primitives": ["qqqq"]}, r"unknown primitive 'qqqq' on edge 0 -> 2; expected one of none,.*nor_conv_3x3$"),
        ({"primitives": ["tanh"]}, r"unknown primitive 'tanh'"),
        ({"primitives": []}, r"edge 0 -> 2 has no candidate"),
        ({"primitives": ["none"]}, r"edge 0 -> 2 has no candidate.*besides none"),
        ({"primitives": ["skip_connect"] * 2}, r"edge 0 -> 2 names a primitive twice"),
        ({"edges": [(1, 2), (0, 2), (0, 3)]}, r"edge 0 -> 2 comes after 1 -> 2; expected edges ordered by node"),
        ({"edges": [(0, 3), (0, 2)]}, r"edge 0 -> 2 comes after 0 -> 3"),
        ({"edges": [(0, 2), (0, 2), (0, 3)]}, r"edge 0 -> 2 is given twice"),
        ({"edges": [(0, 2)]}, r"node 3 has no inputs"),
        ({"edges": []}, r"a cell without edges"),
        ({"edges": [(0, 2), (3, 3)]}, r"edge 3 -> 3 does not run forwards; expected 0 <= source < node"),
        ({"edges": [(0, 2), (4, 3)]}, r"edge 4 -> 3 does not run forwards"),
        ({"edges": [(-1, 2), (0, 3)]}, r"edge -1 -> 2 does not run forwards"),
        ({"edges": [(0, 1), (0, 2), (0, 3)]}, r"edge 0 -> 1 feeds no node of the cell; expected a node from 2 to 3"),
        ({"edges": [(0, 2), (0, 3), (0, 4)]}, r"edge 0 -> 4 feeds no node"),
        ({"concat": [4]}, r"concat names state 4; expected nodes from 2 to 3"),
        ({"concat": [1, 2]}, r"concat names state 1"),
        ({"concat": []}, r"concat \[\]"),
        ({"concat": [2, 2]}, r"concat \[2, 2\]; expected one or more nodes, each once"),
        ({"nodes": 0}, r"a cell of 0 nodes"),
        ({"keep": 0}, r"keep 0; expected at least 1, or None"),
        ({"layers": 0}, r"0 layers"),
        ({"name": "Amended_S2"}, r"'Amended_S2' belongs to a preset"),
        ({"name": " "}, r"a space named ' '"),
        (
            {"primitives": {(0, 2): ["skip_connect"]}, "edges": [(0, 2)]},
            r"primitives names the edges and edges= does too",
        ),
    ],
)
def test_impossible_definitions(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        small(**changes)


@pytest.mark.parametrize(
    "changes",
    [{"primitives": "skip_connect"}, {"primitives": [3]}, {"edges": [(0,)]}, {"edges": [("a", 2)]}, {"layers": "8"}],
)
def test_wrong_types_in_definitions(changes: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        small(**changes)


def test_edges_are_of_integers() -> None:
    with pytest.raises(TypeError, match=r"source of an edge must be an int, got 0\.0"):
        Edge(0.0, 2, ("skip_connect",))  # type: ignore[arg-type]


def test_cells_must_have_the_two_inputs() -> None:
    one = CellSpace((Edge(0, 1, ("skip_connect",)),), 1, (1,), inputs=1)
    with pytest.raises(UserError, match="two inputs"):
        Space("one", one, one)
    with pytest.raises(TypeError, match="CellSpace"):
        Space("none", None, None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="0 inputs"):
        CellSpace((Edge(0, 1, ("skip_connect",)),), 1, (1,), inputs=0)


def test_the_page_runs() -> None:
    known = dict(_primitives._KNOWN)
    result = doctest.testfile(str(ROOT / "docs" / "spaces.md"), module_relative=False)
    # What the page registers ends with it.
    _primitives._KNOWN.clear()
    _primitives._KNOWN.update(known)
    assert result.attempted > 10 and result.failed == 0
