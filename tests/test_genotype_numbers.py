"""Genotypes that others write as numbers: NASLib's and RandomNAS' pairs, ENAS' and NAO's rows, ENAS-pytorch's graph."""

from __future__ import annotations

import json

import pytest
from genotype_texts import flat, refused, shared
from hypothesis import given
from hypothesis import strategies as st

from fastdarts.spaces import CellGenotype, Genotype, GenotypeError, parse_genotype, published, random_genotype, space

# quark0's DARTS_V2 in NASLib's compact form, operators counted without none; RandomNAS counts none as 0.
COMPACT = (
    ((0, 3), (1, 3), (0, 3), (1, 3), (1, 3), (0, 2), (0, 2), (2, 5)),
    ((0, 0), (1, 0), (2, 2), (1, 0), (0, 0), (2, 2), (2, 2), (1, 0)),
)
LISTS = tuple(list(cell) for cell in COMPACT)
RANDOM = tuple([(source, op + 1) for source, op in cell] for cell in COMPACT)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(str(COMPACT), id="naslib"),
        pytest.param(f"arch = {COMPACT}", id="naslib with a label"),
        pytest.param(f"naslib: {LISTS}", id="naslib's lists"),
        pytest.param(f"BANANAS: {[[list(pair) for pair in cell] for cell in COMPACT]}", id="bananas"),
        pytest.param(f"randomnas: {RANDOM}", id="randomnas"),
        pytest.param(f"03/25 08:32:01 PM randomnas: {RANDOM[0]} {RANDOM[1]}", id="randomnas' file"),
        pytest.param(f"RandomNAS = {RANDOM}".replace("(0, 4)", "(np.int64(0), np.int64(4))"), id="numpy 2"),
    ],
)
def test_pairs_of_numbers(text: str) -> None:
    assert parse_genotype(text) == published("DARTS_V2")


def test_pairs_in_the_spaces_of_robustdarts() -> None:
    searched = space("s1")
    found = random_genotype(searched, seed=3)
    for name in ("s1", "s2", "s3", "s4"):
        searched = space(name)
        found = random_genotype(searched, seed=3)
        arch = [
            [
                (source, next(e for e in cell.edges if (e.source, e.node) == (source, node)).primitives.index(op))
                for op, source, node in found.edges(key)
            ]
            for key, cell in (("normal", searched.normal), ("reduce", searched.reduce))
        ]
        assert parse_genotype(f"randomnas-{name}: {tuple(arch)}") == found


@pytest.mark.parametrize(
    ("text", "message", "at"),
    [
        (str(LISTS), "pairs of numbers that mean other operators.*'naslib: '.*'randomnas: '.*'randomnas-s1: '", "[(0"),
        (f"{RANDOM[0]} {RANDOM[1]}", "pairs of numbers that mean other operators", None),
        (
            "naslib: (((0, 7), (1, 0)), ((0, 0), (1, 0)))",
            "operator 7 on edge 0 -> 2; expected as naslib counts: 0 max",
            "7",
        ),
        ("randomnas: [[(0, 8), (1, 0)], [(0, 0), (1, 0)]]", "operator 8.*0 none, 1 max_pool_3x3", "8"),
        ("randomnas: [[(2, 1), (1, 0)], [(0, 0), (1, 0)]]", "source 2 of node 2; expected a state from 0 to 1", "2, 1"),
        ("randomnas: [[(0, 1)], [(0, 0)]]", "a cell of 1 pairs; expected two for each node", "[(0, 1"),
        ("naslib: [[(0, 1), (1, 1)]]", "1 cells of pairs; expected two", None),
        ("naslib: [[(0, 1, 2), (1, 1)], [(0, 1), (1, 1)]]", "a pair of 3 numbers", "(0, 1, 2"),
    ],
)
def test_pairs_that_cannot_be(text: str, message: str, at: str | None) -> None:
    refused(text, message, at)


def test_naslib_on_nas_bench_201() -> None:
    # OP_NAMES counts Identity, Zero, ReLUConvBN3x3, ReLUConvBN1x1, AvgPool1x1; edges 1-2, 1-3, 1-4, 2-3, 2-4, 3-4.
    found = parse_genotype("naslib: (4, 0, 3, 1, 2, 0)")
    assert str(found) == "|avg_pool_3x3~0|+|skip_connect~0|none~1|+|nor_conv_1x1~0|nor_conv_3x3~1|skip_connect~2|"
    refused("(4, 0, 3, 1, 2, 0)", "6 numbers.*'naslib: '", "4")
    refused("naslib: (5, 0, 3, 1, 2, 0)", "operator 5; expected as NASLib counts: 0 skip_connect, 1 none", "5")


# ENAS' released cells (cifar10_micro_final.sh); unused states are the output.
ENAS = "0 2 0 0 0 4 0 1 0 4 1 1 1 0 0 1 0 2 1 1"
ENAS_REDUCE = "1 0 1 0 0 3 0 2 1 1 3 1 1 0 0 4 0 3 1 1"
ENAS_FOUND = shared(
    (
        (("avg_pool_3x3", 0), ("sep_conv_3x3", 0)),
        (("skip_connect", 0), ("sep_conv_5x5", 0)),
        (("skip_connect", 0), ("sep_conv_5x5", 1)),
        (("sep_conv_3x3", 1), ("sep_conv_5x5", 0)),
        (("avg_pool_3x3", 0), ("sep_conv_5x5", 1)),
    ),
    (
        (("sep_conv_3x3", 1), ("sep_conv_3x3", 1)),
        (("max_pool_3x3", 0), ("avg_pool_3x3", 0)),
        (("sep_conv_5x5", 1), ("sep_conv_5x5", 3)),
        (("sep_conv_3x3", 1), ("skip_connect", 0)),
        (("max_pool_3x3", 0), ("sep_conv_5x5", 1)),
    ),
    (2, 3, 4, 5, 6),
    (2, 4, 5, 6),
)


@pytest.mark.parametrize(
    "text",
    [
        f"{ENAS} {ENAS_REDUCE}",
        f'fixed_arc="{ENAS} {ENAS_REDUCE}"',
        f"03/25 08:32:01 PM Arch: {ENAS} {ENAS_REDUCE}\n",
        f"[{ENAS[:20]}\n {ENAS[20:]}]\n[{ENAS_REDUCE}]",
        f"nao: [{ENAS} {ENAS_REDUCE}]".replace(" ", ", ").replace("nao:,", "nao:"),
        f"[[{ENAS}], [{ENAS_REDUCE}]]".replace(" ", ",").replace(",,", ","),
    ],
)
def test_enas_and_nao(text: str) -> None:
    assert parse_genotype(text) == ENAS_FOUND


def test_an_input_that_no_node_takes_is_passed_on() -> None:
    found = parse_genotype("1 4 1 0  0 2 1 3").normal
    assert found == CellGenotype(((("skip_connect", 1), ("sep_conv_3x3", 1)), (("skip_connect", 0),)), (3, 2))


def test_naos_larger_space_as_far_as_it_is_here() -> None:
    found = parse_genotype("nao: 0 7 1 6 0 5 1 11")
    assert flat(found.normal.nodes) == [("nor_conv_3x3", 0), ("nor_conv_1x1", 1)]
    assert flat(found.reduce.nodes) == [("skip_connect", 0), ("max_pool_3x3", 1)]


@pytest.mark.parametrize(
    ("text", "message", "at"),
    [
        ("0 7 1 0 0 1 1 2", "operator 7; expected as ENAS counts.*write 'nao: '", "7"),
        ("nao: 0 15 1 0 0 1 1 2", "operator 15, avg_pool_5x5; expected one that is a primitive here", "15"),
        ("nao: 0 16 1 0 0 1 1 2", "operator 16; expected as NAO counts: 0 to 15", "16"),
        ("2 0 1 0 0 1 1 2", "source 2 of node 2 does not exist before it", "2 0 1"),
        ("0 1 0 1", "4 numbers in 1 rows; expected 4 numbers a node", "0 1 0 1"),
        ("42", "1 numbers in 1 rows", "42"),
        ("[0]\n[3 0]\n[0 1 0]\n[2 0 0 1]", "the layers of ENAS' macro space", None),
        ("0 3 0 0 1 0 2 0 0 1", "the layers of ENAS' macro space", None),
        ("[1 2] [1 2] [1 2]", "3 rows of numbers; expected one or two", None),
        ("9 0 0", "activation 9; expected as ENAS counts: 0 tanh, 1 relu, 2 identity, 3 sigmoid", None),
        ("1 0 0", "relu of the first node; expected tanh", "1"),
        ("[1, 2.5, 3]", "2.5 is not an integer", "2.5"),
    ],
)
def test_numbers_that_cannot_be(text: str, message: str, at: str | None) -> None:
    refused(text, message, at)


def test_enas_recurrent_numbers_and_graph() -> None:
    # ENAS' ptb_final.sh: the first activation, then source and activation.
    found = parse_genotype("0 0 0 1 1 2 1 2 0 2 0 5 1 1 0 6 1 8 1 8 1 8 1")
    names = ["tanh", "relu", "relu", "tanh", "tanh", "relu", "tanh", "relu", "relu", "relu", "relu"]
    nodes = tuple(((name, source),) for name, source in zip(names, (0, 1, 2, 2, 2, 5, 1, 6, 8, 8, 8), strict=True))
    assert found == Genotype({"recurrent": CellGenotype(nodes, (3, 4, 7, 9, 10, 11), 1)})
    # ENAS-pytorch's dag.json has the cell of the paper's figure, as quark0's ENAS with nodes 2 and 3 exchanged.
    swap = {2: 3, 3: 2}
    paper = published("ENAS").cell("recurrent")
    fed = {swap.get(n, n): (op, swap.get(source, source)) for op, source, n in paper.edges()}
    dag: dict[str, list[list[object]]] = {"-1": [[0, "tanh"]], "-2": [[0, "tanh"]]}
    for node, (op, source) in sorted(fed.items()):
        dag.setdefault(str(source), []).append([node, "ReLU" if op == "relu" else op])
    for leaf in paper.concat:
        dag[str(swap.get(leaf, leaf))] = [[12, "avg"]]
    dag["12"] = [[13, "h[t]"]]
    cell = CellGenotype(tuple((fed[node],) for node in range(1, 12)), (3, 5, 6, 9, 10, 11), 1)
    assert parse_genotype(json.dumps(dag, indent=2)) == Genotype({"recurrent": cell})


@pytest.mark.parametrize(
    ("dag", "message"),
    [
        ({"-1": [[0, "relu"]], "0": [[1, "tanh"]]}, "relu of the first node"),
        ({"-1": [[1, "tanh"]], "0": [[2, "tanh"]]}, "a graph without its first node"),
        ({"-1": [[0, "tanh"]], "0": [[2, "tanh"]]}, "a graph without node 1"),
        ({"-1": [[0, "tanh"]], "0": [[1, "tanh"], [1, "relu"]]}, "node 1 is fed twice"),
        ({"-1": [[0, "tanh"]], "0": [[1, "gelu"]]}, "unknown primitive 'gelu'"),
        ({"-1": [[0, "tanh"]], "0": [[1]]}, "an edge of 1 parts"),
        ({"-1": [[0, "tanh"]], "0": [[1, "tanh"]], "x": []}, "a node named 'x'"),
    ],
)
def test_graphs_that_cannot_be(dag: dict[str, object], message: str) -> None:
    refused(json.dumps(dag), message)


@given(st.text(alphabet="[]() ,0123456789\n", max_size=60), st.sampled_from(["", "naslib: ", "nao: ", "randomnas: "]))
def test_any_numbers_are_read_or_refused(text: str, label: str) -> None:
    try:
        found = parse_genotype(label + text)
    except GenotypeError as error:
        assert error.line is not None
    else:
        assert parse_genotype(str(found)) == found
