"""Genotypes as values: what they refuse, what they count, exact round trips, and the published ones."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdarts.errors import UserError
from fastdarts.spaces import (
    PRIMITIVES,
    PUBLISHED,
    STYLES,
    CellGenotype,
    Genotype,
    GenotypeError,
    parse_genotype,
    published,
)

CONVOLUTIONAL = [name for name, primitive in PRIMITIVES.items() if primitive.family != "activation"]
ACTIVATIONS = [name for name, primitive in PRIMITIVES.items() if primitive.family == "activation"]
SKIP, SEP3 = ("skip_connect", 0), ("sep_conv_3x3", 1)

# docs/facts.md, 1, 3 and 4, and quark0's and SNAS' genotypes.py, as op:source, nodes divided by bars.
SHORT = {"sep3": "sep_conv_3x3", "sep5": "sep_conv_5x5", "sep7": "sep_conv_7x7", "dil3": "dil_conv_3x3"} | {
    "dil5": "dil_conv_5x5", "skip": "skip_connect", "max": "max_pool_3x3", "avg": "avg_pool_3x3", "none": "none",
    "conv7": "conv_7x1_1x7", "relu": "relu", "tanh": "tanh", "sigmoid": "sigmoid", "identity": "identity",
}  # fmt: skip
FOUR = (2, 3, 4, 5)
CELLS = {
    "DARTS_V1": (
        ("sep3:1 sep3:0 | skip:0 sep3:1 | skip:0 sep3:1 | sep3:0 skip:2", FOUR),
        ("max:0 max:1 | skip:2 max:0 | max:0 skip:2 | skip:2 avg:0", FOUR),
    ),
    "DARTS_V2": (
        ("sep3:0 sep3:1 | sep3:0 sep3:1 | sep3:1 skip:0 | skip:0 dil3:2", FOUR),
        ("max:0 max:1 | skip:2 max:1 | max:0 skip:2 | skip:2 max:1", FOUR),
    ),
    "PC_DARTS_cifar": (
        ("sep3:1 skip:0 | sep3:0 dil3:1 | sep5:0 sep3:1 | avg:0 dil3:1", FOUR),
        ("sep5:1 max:0 | sep5:1 sep5:2 | sep3:0 sep3:3 | sep3:1 sep3:2", FOUR),
    ),
    "PC_DARTS_image": (
        ("skip:1 sep3:0 | sep3:0 skip:1 | sep3:1 sep3:3 | sep3:1 dil5:4", FOUR),
        ("sep3:0 skip:1 | dil5:2 max:1 | sep3:2 sep3:1 | sep5:0 sep3:3", FOUR),
    ),
    "PDARTS": (
        ("skip:0 dil3:1 | skip:0 sep3:1 | sep3:1 sep3:3 | sep3:0 dil5:4", FOUR),
        ("avg:0 sep5:1 | sep3:0 dil5:2 | max:0 dil3:1 | dil3:1 dil5:3", FOUR),
    ),
    "SNAS_mild": (
        ("sep3:0 sep3:1 | skip:0 dil3:1 | skip:0 skip:1 | skip:0 sep3:1", FOUR),
        ("max:0 max:1 | max:1 skip:2 | max:1 skip:2 | max:0 dil5:2", FOUR),
    ),
    "SNAS_moderate": (
        ("dil5:0 skip:1 | sep3:0 skip:1 | skip:0 skip:1 | sep3:0 dil5:1", FOUR),
        ("max:0 max:1 | sep5:0 dil5:1 | sep5:0 sep5:1 | sep5:0 sep5:1", FOUR),
    ),
    "SNAS_aggressive": (
        ("sep5:0 skip:1 | skip:0 skip:1 | dil5:1 skip:0 | skip:0 dil5:1", FOUR),
        ("sep5:0 none:1 | sep5:0 none:1 | none:1 none:0 | none:1 none:0", FOUR),
    ),
    "NASNet": (
        ("sep5:1 sep3:0 | sep5:0 sep3:0 | avg:1 skip:0 | avg:0 avg:0 | sep3:1 skip:1", (2, 3, 4, 5, 6)),
        ("sep5:1 sep7:0 | max:1 sep7:0 | avg:1 sep5:0 | skip:3 avg:2 | sep3:2 max:1", (4, 5, 6)),
    ),
    "AmoebaNet": (
        ("avg:0 max:1 | sep3:0 sep5:2 | sep3:0 avg:3 | sep3:1 skip:1 | skip:0 avg:1", (4, 5, 6)),
        ("avg:0 sep3:1 | max:0 sep7:2 | sep7:0 avg:1 | max:0 max:1 | conv7:0 sep3:5", (3, 4, 6)),
    ),
    "DARTS_V1_recurrent": (
        ("relu:0 | relu:1 | tanh:2 | relu:3 | relu:4 | identity:1 | relu:5 | relu:1", tuple(range(1, 9))),
    ),
    "DARTS_V2_recurrent": (
        ("sigmoid:0 | relu:1 | relu:1 | identity:1 | tanh:2 | sigmoid:5 | tanh:3 | relu:5", tuple(range(1, 9))),
    ),
    "ENAS_recurrent": (
        (
            "tanh:0|tanh:1|relu:1|tanh:3|tanh:3|relu:3|relu:4|relu:7|relu:8|relu:8|relu:8",
            (2, 5, 6, 9, 10, 11),
        ),
    ),
    "I_DARTS_GLOBAL_V1": (
        ("identity:0 | relu:1 | identity:2 | tanh:3 | relu:3 | relu:5 | identity:2 | relu:6", tuple(range(1, 9))),
    ),
}


def shorthand(text: str) -> tuple[tuple[tuple[str, int], ...], ...]:
    pairs = [[word.split(":") for word in node.split()] for node in text.split("|")]
    return tuple(tuple((SHORT[op], int(source)) for op, source in node) for node in pairs)


def shared(normal: CellGenotype | None = None, reduce: CellGenotype | None = None) -> Genotype:
    one = CellGenotype(((SKIP, SEP3),), (2,))
    return Genotype({"normal": normal or one, "reduce": reduce or one})


@st.composite
def cells(draw: st.DrawFn, names: list[str], inputs: int, width: tuple[int, int]) -> CellGenotype:
    count = draw(st.integers(1, 5))
    nodes = []
    for node in range(count):
        pair = st.tuples(st.sampled_from(names), st.integers(0, inputs + node - 1))
        nodes.append(tuple(draw(st.lists(pair, min_size=width[0], max_size=width[1]))))
    states = st.permutations(range(inputs, inputs + count))
    concat = draw(states)[: draw(st.integers(1, count))]
    return CellGenotype(tuple(nodes), tuple(concat), inputs)


def of_two(width: tuple[int, int]) -> st.SearchStrategy[Genotype]:
    cell = cells(CONVOLUTIONAL, 2, width)
    return st.builds(lambda normal, reduce: Genotype({"normal": normal, "reduce": reduce}), cell, cell)


def of_many(width: tuple[int, int]) -> st.SearchStrategy[Genotype]:
    found = st.lists(cells(CONVOLUTIONAL, 2, width), min_size=1, max_size=12)
    return found.map(lambda many: Genotype({f"cell{layer}": cell for layer, cell in enumerate(many)}))


FLAT = st.one_of(of_two((2, 2)), of_many((2, 2)))
NESTED = st.one_of(of_two((1, 4)), of_many((1, 4)))
RECURRENT = cells(ACTIVATIONS, 1, (1, 1)).map(lambda cell: Genotype({"recurrent": cell}))
NB201 = cells(CONVOLUTIONAL, 1, (1, 3)).map(
    lambda cell: Genotype({"cell": CellGenotype(cell.nodes, (len(cell.nodes),), 1)})
)


@pytest.mark.parametrize(
    ("style", "strategy"), [("darts", FLAT), ("nested", NESTED), ("recurrent", RECURRENT), ("nb201", NB201)]
)
def test_every_style_round_trips(style: str, strategy: st.SearchStrategy[Genotype]) -> None:
    @given(strategy)
    def check(genotype: Genotype) -> None:
        assert style in genotype.styles
        assert parse_genotype(genotype.text(style)) == genotype
        assert "\n" not in genotype.text(style)

    check()


@given(st.one_of(FLAT, NESTED, RECURRENT, NB201))
def test_the_best_style_and_json_round_trip(genotype: Genotype) -> None:
    assert parse_genotype(str(genotype)) == genotype
    written = json.dumps(genotype.to_json())
    assert Genotype.from_json(json.loads(written)) == genotype
    assert parse_genotype(written) == genotype
    assert parse_genotype(json.dumps(genotype.to_json(), indent=2)) == genotype
    assert copy.deepcopy(genotype) == genotype and hash(copy.deepcopy(genotype)) == hash(genotype)


def test_the_styles_say_what_they_can() -> None:
    uneven = shared(CellGenotype(((SKIP,), (SKIP, SEP3, ("noise", 2))), (2, 3)))
    assert uneven.styles == ("nested",)
    assert str(uneven) == uneven.text("nested")
    assert str(uneven) == (
        "Genotype(normal=[[('skip_connect', 0)], [('skip_connect', 0), ('sep_conv_3x3', 1), ('noise', 2)]], "
        "normal_concat=range(2, 4), reduce=[[('skip_connect', 0), ('sep_conv_3x3', 1)]], reduce_concat=range(2, 3))"
    )
    with pytest.raises(GenotypeError, match="'darts' cannot say this genotype; expected one of nested"):
        uneven.text("darts")
    with pytest.raises(GenotypeError, match=r"unknown style 'dart'.*darts, nested, recurrent, nb201; did you mean"):
        uneven.text("dart")
    for name in PUBLISHED:
        assert set(published(name).styles) <= set(STYLES)


def test_text_is_what_quark0_prints() -> None:
    assert repr(published("DARTS_V2")) == str(published("DARTS_V2"))
    assert str(published("DARTS_V2")) == (
        "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
        "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], "
        "normal_concat=range(2, 6), reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), "
        "('max_pool_3x3', 1), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], "
        "reduce_concat=range(2, 6))"
    )
    assert "concat=[2, 5, 6, 9, 10, 11]" in str(published("ENAS"))
    nb201 = Genotype({"cell": CellGenotype(((SKIP,), (SKIP, SEP3)), (2,), 1)})
    assert str(nb201) == "|skip_connect~0|+|skip_connect~0|sep_conv_3x3~1|"


def test_helpers() -> None:
    darts = published("DARTS_V2")
    assert darts.keys == ("normal", "reduce") == tuple(darts.cells)
    assert darts.cell("normal") is darts.normal and darts.cell("reduce") is darts.reduce
    assert (darts.skips("normal"), darts.skips("reduce")) == (2, 3)
    assert darts.counts("normal") == {"sep_conv_3x3": 5, "skip_connect": 2, "dil_conv_3x3": 1}
    assert list(darts.edges("normal"))[:3] == [("sep_conv_3x3", 0, 2), ("sep_conv_3x3", 1, 2), ("sep_conv_3x3", 0, 3)]
    assert list(darts.edges("normal"))[-1] == ("dil_conv_3x3", 2, 5)
    assert darts.layers is None and not darts.is_recurrent
    assert published("ENAS").is_recurrent and published("ENAS").skips("recurrent") == 0
    one = darts.normal
    assert Genotype((("cell1", one), ("cell0", one))).layers == 2
    with pytest.raises(GenotypeError, match="no cell 'recurrent' in the genotype; expected one of normal, reduce"):
        darts.cell("recurrent")


def test_keys_are_put_in_order_and_lists_become_tuples() -> None:
    cell = CellGenotype([[["skip_connect", 0], ["sep_conv_3x3", 1]]], [2])  # type: ignore[arg-type, list-item]
    assert cell == CellGenotype(((SKIP, SEP3),), (2,))
    many = {f"cell{layer}": cell for layer in reversed(range(12))}
    assert Genotype(many).keys == tuple(f"cell{layer}" for layer in range(12))
    assert Genotype({"reduce": cell, "normal": cell}) == shared()
    assert shared() != shared(CellGenotype(((SEP3, SKIP),), (2,)))
    assert len({shared(), shared()}) == 1


@pytest.mark.parametrize(
    ("build", "message", "path"),
    [
        (
            lambda: CellGenotype(((("sep_conv_3", 0),),), (2,)),
            "unknown primitive 'sep_conv_3' into node 2.*sep_conv_3x3",
            (0, 0, "op"),
        ),
        (lambda: CellGenotype(((SKIP,), (("zzz", 0),)), (2,)), "expected one of none,.*nor_conv_3x3$", (1, 0, "op")),
        (lambda: CellGenotype(((SKIP, ("noise", 2)),), (2,)), "source 2 of node 2.*from 0 to 1", (0, 1, "source")),
        (lambda: CellGenotype(((("noise", -1),),), (2,)), "source -1 of node 2", (0, 0, "source")),
        (lambda: CellGenotype(((SKIP,),), (3,)), "concat names state 3.*from 2 to 2", ("concat", 0)),
        (lambda: CellGenotype(((SKIP,),), (1,)), "concat names state 1", ("concat", 0)),
        (lambda: CellGenotype(((SKIP,), (SKIP,)), (2, 3, 2)), "concat names node 2 twice", ("concat", 2)),
        (lambda: CellGenotype(((SKIP,),), ()), "concat is empty", ("concat",)),
        (lambda: CellGenotype((), (2,)), "without nodes", ("nodes",)),
        (lambda: CellGenotype(((SKIP,), ()), (2,)), "node 3 has no inputs", (1,)),
        (lambda: CellGenotype(((SKIP,),), (2,), 3), "with 3 inputs; expected 1 or 2", ("inputs",)),
        (lambda: Genotype({}), "a genotype of the cells none", ("cells",)),
        (lambda: Genotype({"normal": shared().normal}), "has no reduce cell", ("missing", "reduce")),
        (lambda: Genotype({"reduce": shared().normal}), "has no normal cell", ("missing", "normal")),
        (lambda: Genotype({"cell0": shared().normal, "cell2": shared().normal}), "has no cell1", ("missing", "cell1")),
        (lambda: Genotype({"cell01": shared().normal}), "of the cells 'cell01'", ("cells",)),
        (
            lambda: shared(CellGenotype(((("tanh", 0),),), (2,))),
            "'tanh' is no primitive of a conv",
            ("normal", 0, 0, "op"),
        ),
        (
            lambda: shared(CellGenotype(((SKIP,),), (1,), 1)),
            "the normal cell has 1 inputs; expected 2",
            ("normal", "inputs"),
        ),
        (
            lambda: Genotype({"recurrent": CellGenotype(((SKIP,),), (1,), 1)}),
            "no primitive of a recurrent",
            ("recurrent", 0, 0, "op"),
        ),
        (
            lambda: Genotype({"recurrent": CellGenotype(((("tanh", 0),) * 2,), (1,), 1)}),
            "has 2 inputs",
            ("recurrent", 0),
        ),
        (
            lambda: Genotype({"cell": CellGenotype(((SKIP,), (SKIP,)), (1,), 1)}),
            r"its last node, \[2\]",
            ("cell", "concat"),
        ),
    ],
)
def test_impossible_genotypes(build: Callable[[], object], message: str, path: tuple[object, ...]) -> None:
    with pytest.raises(GenotypeError, match=message) as caught:
        build()
    assert isinstance(caught.value, UserError)
    assert caught.value.path == path
    assert caught.value.line is caught.value.column is None


@pytest.mark.parametrize(
    "build",
    [
        lambda: CellGenotype(((("skip_connect", 0.0),),), (2,)),
        lambda: CellGenotype(((("skip_connect", True),),), (2,)),
        lambda: CellGenotype((((3, 0),),), (2,)),
        lambda: CellGenotype((("skip_connect", 0),), (2,)),
        lambda: CellGenotype(((SKIP,),), (2.0,)),
        lambda: Genotype({"normal": ((SKIP,),), "reduce": ((SKIP,),)}),
    ],
)
def test_wrong_types(build: Callable[[], object]) -> None:
    with pytest.raises(TypeError):
        build()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data.pop("format"), "not the JSON of a genotype; expected.*fastdarts-genotype/1"),
        (lambda data: data.pop("cells"), "malformed"),
        (lambda data: data["cells"].pop("normal"), "has no normal cell"),
        (lambda data: data["cells"]["normal"].pop("concat"), "malformed: 'concat'"),
        (lambda data: data["cells"]["normal"].update(nodes=3), "malformed"),
        (
            lambda data: data["cells"]["normal"].update(nodes=[[["zzz", 0]]]),
            "in the normal cell, unknown primitive 'zzz'",
        ),
        (lambda data: data.update(cells=[]), "malformed"),
    ],
)
def test_damaged_json(damage: Callable[[dict[str, object]], object], message: str) -> None:
    data = shared().to_json()
    damage(data)
    with pytest.raises(GenotypeError, match=message):
        Genotype.from_json(data)
    with pytest.raises(GenotypeError, match="not the JSON of a genotype"):
        Genotype.from_json([])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_genotypes_are_those_of_the_papers(name: str) -> None:
    genotype = published(name)
    assert [(cell.nodes, cell.concat) for cell in genotype.cells.values()] == [
        (shorthand(nodes), concat) for nodes, concat in CELLS[name]
    ]
    assert published(name.lower().replace("_", "-")) is genotype
    assert PUBLISHED[name]


def test_published_names() -> None:
    assert set(PUBLISHED) == set(CELLS)
    also = {"darts": "DARTS_V2", "PC-DARTS": "PC_DARTS_cifar", "pcdarts": "PC_DARTS_cifar", "P-DARTS": "PDARTS"}
    also |= {"snas": "SNAS_mild", "ENAS": "ENAS_recurrent", "global_v1": "I_DARTS_GLOBAL_V1"}
    for name, meant in also.items():
        assert published(name) is published(meant)
    with pytest.raises(UserError, match=r"no published genotype 'DART_V2'.*did you mean 'DARTS_V2'\?"):
        published("DART_V2")
