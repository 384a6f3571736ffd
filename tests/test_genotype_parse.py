"""Reading genotypes: every format of docs/facts.md, 10, its first five rows, and errors that point at the character."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastdarts.spaces import CellGenotype, Genotype, GenotypeError, parse_genotype, published

FLAT = (
    "[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 0), ('sep_conv_3x3', 1), "
    "('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 2)]"
)
REDUCE = (
    "[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 0), "
    "('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('avg_pool_3x3', 0)]"
)
LISTS = f"Genotype(normal={FLAT}, normal_concat=[2, 3, 4, 5], reduce={REDUCE}, reduce_concat=[2, 3, 4, 5])"
RANGES = LISTS.replace("[2, 3, 4, 5]", "range(2, 6)")
NONES = LISTS.replace("[2, 3, 4, 5]", "None")
# pt.darts prints a list per node.
NESTED = RANGES
for pairs in (FLAT, REDUCE):
    words = pairs[1:-1].replace("), (", ")@(").split("@")
    nodes = ", ".join(f"[{one}, {two}]" for one, two in zip(words[::2], words[1::2], strict=True))
    NESTED = NESTED.replace(pairs, f"[{nodes}]")
# xautodl: a tuple of (op, source, weight) for every node, in a dict.
WEIGHTED = f"""{{'normal': {NESTED.split("normal=")[1].split(", normal_concat")[0]}, 'normal_concat': [2, 3, 4, 5],
'reduce': {NESTED.split("reduce=")[1].split(", reduce_concat")[0]}, 'reduce_concat': [2, 3, 4, 5]}}"""
for source in range(3):
    WEIGHTED = WEIGHTED.replace(f"', {source})", f"', {source}, 0.1301743{source})")
TUPLES = WEIGHTED.replace("[(", "((").replace(")]", "))")
SOURCE = """# first order
DARTS_V1 = Genotype(
  normal = [
    ('sep_conv_3x3', 1), ('sep_conv_3x3', 0),  # step 1
    ('skip_connect', 0), ('sep_conv_3x3', 1),  # step 2
    ('skip_connect', 0), ('sep_conv_3x3', 1),
    ('sep_conv_3x3', 0), ('skip_connect', 2),
  ],
  normal_concat = [2, 3, 4, 5],
  reduce = [
    ('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 0),
    ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('avg_pool_3x3', 0),
  ],
  reduce_concat = [2, 3, 4, 5],
  connectN=None, connects=None,
)
"""


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(LISTS, id="lists"),
        pytest.param(RANGES, id="ranges"),
        pytest.param(NONES, id="concat None"),
        pytest.param(f"genotype = {RANGES}", id="named"),
        pytest.param(f"03/25 08:32:01 PM genotype = {RANGES}\n", id="log line"),
        pytest.param(f"Best Genotype = {NESTED}", id="pt.darts log"),
        pytest.param(SOURCE, id="source"),
        pytest.param(SOURCE.replace("\n", "\r\n"), id="source from Windows"),
        pytest.param(f"genotypes.{LISTS}", id="qualified"),
        pytest.param(LISTS.replace("'", '"').replace(" ", ""), id="double quotes, no blanks"),
        pytest.param(NESTED, id="pt.darts"),
        pytest.param(WEIGHTED, id="xautodl dict"),
        pytest.param(TUPLES, id="xautodl dict of tuples"),
        pytest.param(
            f"Genotype(normal={FLAT}, normal_concat=None, reduce={REDUCE}, reduce_concat=range(2, 6))", id="mixed"
        ),
        pytest.param(LISTS.replace("', 0)", "', 0, 1.0)").replace("', 1)", "', 1, 1e-1)"), id="Genotype of triples"),
        pytest.param(WEIGHTED.replace(", 0.13017430)", ", np.float32(0.13))"), id="numpy 2 weights"),
        pytest.param(WEIGHTED.replace(", 0.13017430)", ", tensor(0.13, device='cuda:0'))"), id="torch weights"),
        pytest.param(RANGES.replace("sep_conv", "dua_sepc"), id="xautodl's names"),
        pytest.param(f"Genotype({FLAT}, [2, 3, 4, 5], {REDUCE}, [2, 3, 4, 5])", id="positional"),
        pytest.param(
            json.dumps(
                [
                    json.loads(FLAT.replace("(", "[").replace(")", "]").replace("'", '"')),
                    None,
                    json.loads(REDUCE.replace("(", "[").replace(")", "]").replace("'", '"')),
                    None,
                ]
            ),
            id="eval-nas",
        ),
        pytest.param(f"dict(normal={FLAT}, normal_concat=None, reduce={REDUCE}, reduce_concat=None)", id="dict call"),
    ],
)
def test_every_form_of_darts_v1(text: str) -> None:
    assert parse_genotype(text) == published("DARTS_V1")


def test_the_weights_are_really_in_the_texts() -> None:
    assert WEIGHTED.count("0.130174") == 16 == TUPLES.count("0.130174")
    assert NESTED.count("[[") == 2 and TUPLES.count("((") == 8


def test_dilated_alias() -> None:
    found = parse_genotype(str(published("PDARTS")).replace("dil_conv", "dil_sepc").replace("sep_conv", "dua_sepc"))
    assert found == published("PDARTS")


def test_recurrent() -> None:
    text = (
        "Genotype(recurrent=[('relu', 0), ('relu', 1), ('tanh', 2), ('relu', 3), "
        "('relu', 4), ('identity', 1), ('relu', 5), ('relu', 1)], concat=range(1, 9))"
    )
    assert parse_genotype(text) == published("DARTS_V1_recurrent")
    assert parse_genotype(text.replace("range(1, 9)", "None")) == published("DARTS_V1_recurrent")
    assert parse_genotype(f"DARTS_V1 = {text}") == published("DARTS_V1_recurrent")


NB201 = "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|skip_connect~2|"


@pytest.mark.parametrize(
    "text",
    [
        NB201,
        f"arch = {NB201}\n",
        f"Structure(4 nodes with {NB201})",
        f"_Structure(4 nodes with {NB201})",
        f"last-geno: CellStructure(4 nodes with {NB201})",
        NB201.replace("+", " + "),
    ],
)
def test_nas_bench_201(text: str) -> None:
    nodes = (
        (("nor_conv_3x3", 0),),
        (("none", 0), ("avg_pool_3x3", 1)),
        (("skip_connect", 0), ("nor_conv_1x1", 1), ("skip_connect", 2)),
    )
    assert parse_genotype(text) == Genotype({"cell": CellGenotype(nodes, (3,), 1)})


def test_nb201_with_several_edges_from_a_source() -> None:
    text = "|dil_sepc_3x3~0|skip_connect~0|+|dua_sepc_5x5~0|none~1|"
    assert str(parse_genotype(text)) == text.replace("dil_sepc", "dil_conv").replace("dua_sepc", "sep_conv")


def test_unshared_cells() -> None:
    text = RANGES.replace("normal", "cell0").replace("reduce", "cell1")
    found = parse_genotype(text)
    assert found.layers == 2 and found.cell("cell1") == published("DARTS_V1").reduce
    assert str(found) == text


ONE = "normal=[('noise', 0), ('noise', 1)], normal_concat=[2]"
TWO = "reduce=[('noise', 0), ('noise', 1)], reduce_concat=[2]"
CELL = '{"inputs": 2, "nodes": [[["noise", 0]]], "concat": [2]}'
JSON = f'{{"format": "fastdarts-genotype/1", "cells": {{"normal": {CELL}, "reduce": {CELL}}}}}'


# «marks» the character that the error must point at.
@pytest.mark.parametrize(
    ("marked", "message"),
    [
        ("«", "the text ends; expected Genotype"),
        ("  \n ", "the text ends"),
        ("genotype =«", "the text ends; expected Genotype"),
        ("«DARTS_V2", "unexpected 'DARTS_V2'; expected Genotype"),
        ("«42", "1 numbers in 1 rows; expected 4 numbers a node"),
        ("«+", r"unexpected '\+'"),
        (f"«Genotypes({ONE}, {TWO})", r"a call of 'Genotypes'.*did you mean 'Genotype'\?"),
        ("«__import__('os')", "a call of '__import__'"),
        ("__import__('os')«.system('true')", "expected nothing more after the genotype"),
        ("«['a', 2, 3]", "a bare list of 3 values"),
        (f"Genotype({ONE}, {TWO})« x", "unexpected 'x'; expected nothing more"),
        (f"Genotype({ONE}, {TWO}), Genotype()", "unexpected ','"),
        # brackets, commas, quotes
        (f"Genotype({ONE}, {TWO}«", r"the text ends inside the '\(' of line 1, column 9; expected ',' or '\)'"),
        (
            "Genotype(normal=[('noise', 0), ('noise', 1)«",
            r"ends inside the '\[' of line 1, column 17; expected ',' or '\]'",
        ),
        (
            "Genotype(normal=[('noise', 0«], 1",
            r"unexpected '\]' inside the '\(' of line 1, column 18; expected ',' or '\)'",
        ),
        ("Genotype(normal=[('noise'« 0)])", "unexpected '0'"),
        ("Genotype(normal=[(«'noise, 0)])", "a string without its closing quote; expected a name in quotes"),
        (r"Genotype(normal=[(«'noi\x73e', 0)])", "a string with an escape"),
        ("Genotype(normal=[(«noise, 0)])", "unexpected 'noise'; expected a value"),
        ("Genotype(normal=[(#no«\n", "the text ends"),
        ("Genotype(normal=[('noise', «@0)])", "unexpected '@'; expected a value"),
        ("Genotype(normal=«)", r"unexpected '\)'; expected a value"),
        ("{«normal: 3}", "unexpected 'normal'; expected a field name in quotes"),
        ("{'normal'« 3}", "unexpected '3'; expected ':'"),
        ("{'normal': 3« 'reduce': 4}", "unexpected \"'\" inside the '{' of line 1, column 1; expected ',' or '}'"),
        ("Genotype(normal=[], «3)", "unexpected '3'; expected name=value"),
        ("(" * 17 + "«" + "(" * 900, "brackets nest too deeply"),
        (f"Genotype(normal=[('noise', «{'9' * 5000})])", "a number that long"),
        # fields
        (f"Genotype({ONE}, {TWO}, «reduce_concat=[2])", "field reduce_concat is given twice"),
        (f"Genotype({ONE}, «reduse=3)", r"unknown field 'reduse'; expected one of normal,.*did you mean 'reduce'\?"),
        (f"Genotype({ONE}, «reduce_concat=None)", r"reduce_concat without its cell; expected reduce=\[...\]"),
        (
            f"Genotype({ONE}, reduce=[('noise', 0), ('noise', 1)]«)",
            r"reduce without its concat; expected reduce_concat=",
        ),
        (f"Genotype({ONE}«)", "the genotype has no reduce cell"),
        (f"Genotype({ONE.replace('normal', 'cell1')}«)", "the genotype has no cell0"),
        (f"«Genotype({ONE}, recurrent=[('tanh', 0)], concat=[1])", "a genotype of the cells 'normal', 'recurrent'"),
        (f"Genotype({ONE}, {TWO}, connectN=«3)", "field connectN; expected None"),
        ("Genotype([], None, [], None, «3)", "a fifth value"),
        # cells
        (f"Genotype({ONE}, reduce=«None, reduce_concat=[2])", "None is not a list"),
        (f"Genotype({ONE}, reduce=«[], reduce_concat=[2])", "the reduce cell has no nodes"),
        (
            "Genotype(normal=[('noise', 0), («'tanh', 1)], normal_concat=None, " + TWO + ")",
            "'tanh' is no primitive of a conv",
        ),
        ("Genotype(recurrent=[('tanh', 0), ('tanh', «2)], concat=None)", "source 2 of node 2.*from 0 to 1"),
        ("Genotype(recurrent=[«[('tanh', 0), ('tanh', 0)]], concat=None)", "node 1 of the recurrent cell has 2 inputs"),
        # NAS-Bench-201
        ("|noise~0|+«noise~0|", r"unexpected 'noise'; expected '\|', the start of a node"),
        ("|noise~0|+|noise~0|noise~1|+«", "the text ends"),
        ("|«~0|", "unexpected '~'; expected an edge such as"),
        ("|noise«|", "unexpected '|'; expected '~'".replace("|", r"\|")),
        ("|noise~«x|", "unexpected 'x'; expected the source's number"),
        ("|noise~0« none~1|", r"unexpected 'none'; expected '\|'"),
        ("|«noize~0|", "unknown primitive 'noize'.*did you mean 'noise'"),
        ("|noise~0|+|noise~0|noise~«2|", "source 2 of node 2.*from 0 to 1"),
        ("|«tanh~0|", "'tanh' is no primitive of a conv"),
        ("Structure(2 nodes with |noise~0|«", r"the text ends; expected '\+' and the next node, or '\)'"),
        ("|noise~0|«)", "nothing more"),
        # the project's own JSON
        (JSON.replace("/1", "/9").replace('"fast', '«"fast'), "a format that this version does not read"),
        (JSON.replace('"cells"', '«"cell": 3, "cells"'), "unknown field 'cell'"),
        (JSON.replace('"inputs": 2', '"inputs": «5', 1), "a cell with 5 inputs"),
        (JSON.replace('["noise"', '[«"noize"', 1), "unknown primitive 'noize'"),
        (JSON.replace('[[["noise", 0]]]', '[[«"noise", 0]]', 1), "'noise' is not a list"),
        (JSON.replace('"normal": ', '"normal": «3, "none": '), "cell 'normal'; expected an object of inputs"),
        (JSON.replace(f', "reduce": {CELL}', "")[:-1] + "«}", "no reduce cell"),
    ],
)
def test_errors_point_at_the_character(marked: str, message: str) -> None:
    check(marked, message)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("[('noise', 0), ('noise', 1), «('noise', 0)]", "odd number of inputs, 3; expected 2"),
        ("[[('noise', 0)], «3]", "3 is not a list; expected a node"),
        ("[('noise', 0), «'noise']", "'noise' is not a list"),
        ("[[('noise', 0)], «[]]", "node 3 has no inputs"),
        ("[«('noise',), ('noise', 1)]", r"an input of 1 parts; expected \(primitive, source\)"),
        ("[(«0, 'noise'), ('noise', 1)]", "an input without a name"),
        ("[('noise', «'0'), ('noise', 1)]", "'0' is not a number; expected the source"),
        ("[('noise', «[0]), ('noise', 1)]", "a list is not a number"),
        ("[('noise', «0.5), ('noise', 1)]", "0.5 is not an integer"),
        ("[('noise', 0, «None), ('noise', 1)]", "None is not a number; expected the weight"),
        ("[('noise', «f(0)), ('noise', 1)]", r"f\(...\) is not a number"),
        ("[(«'nois', 0), ('noise', 1)]", "unknown primitive 'nois'.*did you mean 'noise'"),
        ("[('noise', 0), ('noise', «2)]", "source 2 of node 2 does not exist"),
        ("[('noise', «-1), ('noise', 1)]", "source -1"),
    ],
)
def test_errors_inside_a_cell(pairs: str, message: str) -> None:
    check(f"Genotype(normal={pairs}, normal_concat=None)", message)


@pytest.mark.parametrize(
    ("concat", "message"),
    [
        ("«'2'", "'2' is not a list; expected range"),
        ("[«7]", "concat names state 7"),
        ("[2, «2]", "concat names node 2 twice"),
        ("«[]", "concat is empty"),
        ("[«2.0]", "2.0 is not an integer"),
        ("«range(2, 6)", "concat names state 5"),
        ("«range(2, 99999999999999999999)", "concat names state 9{19}8"),
        ("«range(2, 3, 0)", "an impossible range"),
        ("«range(3, 2)", "concat is empty"),
        ("«range()", "an impossible range"),
    ],
)
def test_errors_inside_a_concat(concat: str, message: str) -> None:
    check(f"Genotype(normal=[('noise', 0), ('noise', 1)], normal_concat={concat})", message)


def check(marked: str, message: str) -> None:
    """Read the text without its mark and demand an error there."""
    text = marked.replace("«", "")
    with pytest.raises(GenotypeError, match=message) as caught:
        parse_genotype(text)
    error = caught.value
    assert error.line is not None and error.column is not None
    if "«" in marked:
        before = marked.partition("«")[0]
        assert error.line == before.count("\n") + 1
        assert error.column == len(before) - (before.rfind("\n") + 1) + 1 + skipped(marked)
    first, source, caret = str(error).split("\n")
    assert first.startswith(f"line {error.line}, column {error.column}: {error.what}")
    assert caret.strip() == "^"
    if caret.index("^") < len(source):
        assert source[caret.index("^")] == text.split("\n")[error.line - 1][error.column - 1]


def skipped(marked: str) -> int:
    """Blanks after the mark: an error stands at the next character that is none."""
    rest = marked.partition("«")[2]
    return len(rest) - len(rest.lstrip()) if rest.strip() else 0


def test_an_error_reads_well() -> None:
    text = "genotype = " + RANGES.replace("'skip_connect', 2), ('max_pool", "'skip_conect', 2), ('max_pool", 1)
    with pytest.raises(GenotypeError) as caught:
        parse_genotype(text)
    assert str(caught.value) == (
        "line 1, column 276: unknown primitive 'skip_conect' into node 3; expected a known primitive; "
        "did you mean 'skip_connect'?\n"
        "  ...uce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_conect', 2), ('max_poo...\n"
        "                                                     ^"
    )
    assert caught.value.path == ("reduce", 1, 0, "op")


def test_errors_know_their_line() -> None:
    with pytest.raises(GenotypeError) as caught:
        parse_genotype(SOURCE.replace("2), ('max_pool_3x3', 0),", "5), ('max_pool_3x3', 0),"))
    assert (caught.value.line, caught.value.column) == (11, 64)
    shown, caret = str(caught.value).split("\n")[1:]
    assert shown.endswith("('skip_connect', 5), ('max_pool_3x3', 0),")
    assert shown[caret.index("^")] == "5"


def test_control_characters_do_not_reach_the_terminal() -> None:
    with pytest.raises(GenotypeError) as caught:
        parse_genotype("Genotype(\x1b[31m\tnormal)")
    assert "\x1b" not in str(caught.value).split("\n", 1)[1] and "\t" not in str(caught.value)


def test_only_strings_are_read() -> None:
    with pytest.raises(TypeError, match="must be a str, got bytes"):
        parse_genotype(b"|none~0|")  # type: ignore[arg-type]


@given(st.text(alphabet="Genotyp(normal=[]{}'\"|+~,: \n0123.#_e-x", max_size=40))
@example("Genotype(")
@example("{'cells': {}}")
@example("{'cells': {'normal': {'inputs': 2, 'nodes': [[]], 'concat': []}}}")
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_genotype(text)
    except GenotypeError as error:
        assert error.line is not None


@given(st.data())
def test_any_slip_of_the_pen_is_read_or_refused(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([LISTS, NESTED, WEIGHTED, NB201, SOURCE, JSON]))
    place = data.draw(st.integers(0, len(text) - 1))
    slip = data.draw(st.sampled_from(["", "(", ")", "[", "]", "'", ",", "9", "x", " ", "|", "~", "\n"]))
    try:
        parse_genotype(text[:place] + slip + text[place + 1 :])
    except GenotypeError as error:
        assert error.line is not None
