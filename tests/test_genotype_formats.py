"""Genotypes as other projects write them: all edges, log lines, configurations, YAML, whole files; small quotations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from genotype_texts import flat, refused, shared
from hypothesis import given
from hypothesis import strategies as st

from fastdarts.cli.targets import read_target
from fastdarts.compat.darts import Genotype as Quark0
from fastdarts.compat.genotypes import to_genotype
from fastdarts.errors import UserError
from fastdarts.spaces import (
    CellGenotype,
    Genotype,
    GenotypeError,
    parse_genotype,
    published,
)

# SNAS_moderate_edge_all of SNAS-Series: four nodes, every edge, the strongest first.
NORMAL_ALL = (
    (("dil_conv_5x5", 0), ("skip_connect", 1)),
    (("sep_conv_3x3", 0), ("skip_connect", 1), ("none", 2)),
    (("skip_connect", 0), ("none", 3), ("none", 2), ("skip_connect", 1)),
    (("sep_conv_3x3", 0), ("dil_conv_5x5", 1), ("none", 4), ("none", 3), ("none", 2)),
)
REDUCE_ALL = (
    (("max_pool_3x3", 0), ("max_pool_3x3", 1)),
    (("sep_conv_5x5", 0), ("none", 2), ("dil_conv_5x5", 1)),
    (("none", 3), ("none", 2), ("sep_conv_5x5", 0), ("sep_conv_5x5", 1)),
    (("none", 4), ("none", 3), ("none", 2), ("sep_conv_5x5", 0), ("sep_conv_5x5", 1)),
)
NOISE = "normal=[('noise', 0), ('noise', 1)], normal_concat=[2], reduce=[('noise', 0), ('noise', 1)], reduce_concat=[2]"
TINY = f"Genotype({NOISE})"


def test_all_edges_are_four_nodes_and_not_seven() -> None:
    text = f"SNAS = Genotype(normal={flat(NORMAL_ALL)}, normal_concat=range(2, 6), reduce={flat(REDUCE_ALL)}, "
    found = parse_genotype(f"{text}reduce_concat=[2, 3, 4, 5])")
    assert found == shared(NORMAL_ALL, REDUCE_ALL)
    assert parse_genotype(str(found)) == found == parse_genotype(json.dumps(found.to_json()))
    peer = Quark0(flat(NORMAL_ALL), range(2, 6), flat(REDUCE_ALL), range(2, 6))
    assert to_genotype(peer) == found


def test_what_could_be_either_is_decided_by_the_concat() -> None:
    edges = flat(NORMAL_ALL)
    two = tuple(zip(edges[::2], edges[1::2], strict=True))
    assert CellGenotype.from_pairs(edges, range(2, 9)).nodes == two
    assert CellGenotype.from_pairs(edges, [8]).nodes == two
    assert CellGenotype.from_pairs(edges, [5]).nodes == NORMAL_ALL
    message = "14 edges that are 4 nodes with all of theirs or 7 nodes of two; expected a concat that names the nodes"
    text = f"Genotype(normal={edges}, normal_concat=None, {NOISE.split('], ', 2)[2]})"
    refused(text, message, "normal=")
    with pytest.raises(UserError, match=message):
        to_genotype(Quark0(edges, None, edges, None))
    # Five edges can only be two nodes with all of theirs; one source twice is none of that.
    assert CellGenotype.from_pairs(edges[:5], None).nodes == NORMAL_ALL[:2]
    with pytest.raises(GenotypeError, match="odd number of inputs, 5"):
        CellGenotype.from_pairs([*edges[:4], ("noise", 0)], None)
    assert len(CellGenotype.from_pairs(edges[:4], None).nodes) == 2


@pytest.mark.parametrize(
    "before",
    [
        "2019-09-16 17:35:58,162 ",
        "2019-09-16 17:35:58,162 genotype = ",
        "03/25 08:32:01 PM genotype = ",
        "[2019-09-16 17:35:58,162][root][INFO] - ",
        "2019-09-16 17:35:58 - INFO - ",
        "2019-09-16T17:35:58.162 INFO (SIM) Genotype at stop epoch: ",
        "[2019/09/16 17:35] epoch 3: ",
        "# a comment\nBest Genotype = ",
    ],
)
def test_labels_and_time_stamps(before: str) -> None:
    assert parse_genotype(before + TINY) == parse_genotype(TINY)
    for text in ("|nor_conv_3x3~0|", "{'normal': [('noise', 0), ('noise', 1)], 'normal_concat': None}"):
        if "SIM" not in before:
            refused_or_read = [_outcome(before + text), _outcome(text)]
            assert refused_or_read[0] == refused_or_read[1]


def _outcome(text: str) -> object:
    try:
        return parse_genotype(text)
    except GenotypeError as error:
        return error.what


def test_primitives_that_others_use() -> None:
    assert str(parse_genotype("Genotype(recurrent=[('selu', 0)], concat=[1])")).count("selu") == 1
    text = TINY.replace("noise", "conv_3x1_1x3")
    assert str(parse_genotype(text)).count("conv_3x1_1x3") == 4


def configuration(genotype: Genotype) -> dict[str, object]:
    """As nasbench301's `convert_genotype_to_config` writes it, with settings of the training beside."""
    prefix = "NetworkSelectorDatasetInfo:darts:"
    config: dict[str, object] = {"CreateImageDataLoader:batch_size": 96, f"{prefix}drop_path_prob": 0.2}
    for key in ("normal", "reduce"):
        for op, source, node in genotype.edges(key):
            config[f"{prefix}edge_{key}_{sum(range(2, node)) + source}"] = op
        for node, pairs in zip(range(2, 6), genotype.cell(key).nodes, strict=True):
            if node > 2:
                config[f"{prefix}inputs_node_{key}_{node}"] = "_".join(str(s) for s in sorted(s for _, s in pairs))
    return config


def printed(config: dict[str, object]) -> str:
    return "Configuration(values={\n" + "".join(f"  '{k}': {v!r},\n" for k, v in config.items()) + "})\n"


def test_nas_bench_301() -> None:
    genotype = published("PC_DARTS_cifar")
    config = configuration(genotype)
    # The edges of a node come in the order of their sources.
    ordered = {
        key: tuple(tuple(sorted(n, key=lambda pair: pair[1])) for n in genotype.cell(key).nodes)
        for key in genotype.keys
    }
    expected = shared(ordered["normal"], ordered["reduce"])
    record = {"budget": 98, "optimized_hyperparamater_config": config, "info": [{"val_accuracy": 91.2}]}
    numpy = printed(config).replace("'sep_conv_5x5'", "np.str_('sep_conv_5x5')")
    old = "Configuration:\n" + "".join(f"  {k}, Value: {v!r}\n" for k, v in config.items())
    for text in (json.dumps(config), str(config), json.dumps(record), printed(config), numpy, old):
        assert parse_genotype(text) == expected


def test_configurations_that_cannot_be() -> None:
    config = configuration(published("DARTS_V1"))
    prefix = "NetworkSelectorDatasetInfo:darts:"
    wrong = config | {f"{prefix}inputs_node_reduce_4": "0_1"}
    refused(
        json.dumps(wrong), "node 4 of the reduce cell has edges from 0, 2; expected edges from its inputs 0_1", '"0_1"'
    )
    refused(
        json.dumps(config | {f"{prefix}edge_normal_4": "noise"}), "node 3 of the normal cell has edges from 0, 1, 2"
    )
    refused(json.dumps(config | {f"{prefix}edge_normal_14": "noise"}), "edge 14 of the normal cell; expected 0 to 13")
    refused(json.dumps(config | {f"{prefix}edge_normal_1": "sep_conv"}), "unknown primitive 'sep_conv'", '"sep_conv"')
    refused(json.dumps(config | {f"{prefix}edge_normal_1": 3}), "3 is no name", "3, ")
    del config[f"{prefix}edge_normal_0"]
    refused(json.dumps(config), "node 2 of the normal cell has edges from 1; expected two edges")


def described(cells: list[tuple[str, tuple]], *, output: int = 1, post: str = "concate_channels") -> str:
    """As PyYAML writes archai's ModelDesc: tags, anchors, lists at the indentation of their keys."""
    tag = "!!python/object:archai.nas.model_desc"
    lines, known = [f"{tag}.ModelDesc", "_cell_descs:"], set()
    for kind, nodes in cells:
        lines += [f"- {tag}.CellDesc", "  _nodes:"]
        for node in nodes:
            lines += [f"  - {tag}.NodeDesc", "    conv_params: &id007", "      ch_in: 16", "    edges:"]
            for op, source in node:
                lines += [
                    f"    - {tag}.EdgeDesc",
                    "      input_ids:",
                    f"      - {source}",
                    f"      op_desc: {tag}.OpDesc",
                ]
                lines += ["        children: null", f"        name: {op}", "        params:", "          conv: *id007"]
        if kind in known:
            lines.append(f"  cell_type: *{kind}")
        else:
            lines += [f"  cell_type: &{kind} !!python/object/apply:archai.nas.model_desc.CellType", f"  - {kind}"]
        known.add(kind)
        lines += ["  node_shapes:", "  - - 16", "    - -1", f"  post_op: {tag}.OpDesc", f"    name: {post}"]
        lines += ["    params:", f"      out_states: {output}"]
    return "\n".join([*lines, "params: {}", "extra: []", "dataroot: ~/data # a comment", ""])


ONE = ((("sep_conv_3x3", 0), ("skip_connect", 1)), (("max_pool_3x3", 2), ("dil_conv_3x3", 0)))
TWO = ((("max_pool_3x3", 0), ("none", 1)), (("avg_pool_3x3", 1), ("skip_connect", 2)))


def test_archai() -> None:
    cells = [("regular", ONE), ("reduction", TWO), ("reduction", TWO), ("regular", ONE)]
    assert parse_genotype(described(cells, output=2)) == shared(ONE, TWO)
    assert parse_genotype(f"---\n{described(cells)}") == shared(ONE, TWO, (3,), (3,))
    # Regular cells that differ: every layer has its own.
    cells = [("regular", ONE), ("reduction", TWO), ("reduction", TWO), ("regular", TWO)]
    found = parse_genotype(described(cells, output=2))
    assert found.layers == 4
    assert [found.cell(f"cell{n}").nodes for n in range(4)] == [ONE, TWO, TWO, TWO]


@pytest.mark.parametrize(
    ("text", "message", "at"),
    [
        (
            described([("regular", ONE), ("regular", ONE), ("reduction", TWO), ("regular", TWO)]),
            "reduce in layers .2.",
            None,
        ),
        (
            described([("regular", ONE), ("reduction", TWO)], output=3),
            "3 states in a cell's output; expected 1 to 2",
            None,
        ),
        (described([("regular", ONE)], post="add"), "a cell's output by 'add'", "add"),
        (described([("other", ONE)]), "a cell of type 'other'; expected 'regular' or 'reduction'", "other"),
        (described([("regular", ((("sep", 0),),)), ("reduction", TWO)]), "unknown primitive 'sep' into node 2", "sep"),
        (described([("regular", ((("noise", 2),),)), ("reduction", TWO)]), "source 2 of node 2 does not exist", "2\n"),
        (
            described([("regular", ONE)]).replace("*id007", "*id008"),
            "an alias '.id008'; expected a name that stands above",
            "*id008",
        ),
        ("_cell_descs:\n- a: 1", "a dict without cell_type", "a"),
        ("_cell_descs:\n- a: 1\n   b: 2", "a line out of place", "b"),
        ("_cell_descs:\n- a: [1", r"unexpected '\['", "[1"),
        ("_cell_descs:\n- a: 'x", "a string with an escape, or without its end", "'x"),
        ("_cell_descs:\n\t- a: 1", "a tab in an indentation", "\t"),
        ("_cell_descs:\n- " + "- " * 40 + "a: 1", "lines that nest too deeply", None),
        ("_cell_descs: []", "a model without cells", None),
        ("_cell_descs:\n- a", "'a' without cell_type", "a"),
    ],
)
def test_descriptions_that_cannot_be(text: str, message: str, at: str | None) -> None:
    refused(text, message, at)


FILE = f"""from collections import namedtuple

Genotype = namedtuple('Genotype', 'normal normal_concat reduce reduce_concat')
# OLD = {TINY}
V1 = {TINY}
V2 = {published("DARTS_V2")}

def parse(gene_normal):
    return Genotype(
        normal=gene_normal, normal_concat=range(2, 6))
"""
LOG = "\n".join(
    [
        "2019-09-16 17:35:58,162 gpu device = 0",
        "2019-09-16 17:35:58,163 args = Namespace(arch='x', lr=[0.1])",
        f"2019-09-16 17:36:58,162 genotype = {TINY}",
        "2019-09-16 17:37:58,162 valid_acc 12.5",
        f"2019-09-16 17:38:58,162 genotype = {published('PC_DARTS_cifar')}",
        "",
    ]
)


def test_a_whole_file_of_genotypes_and_a_log(tmp_path: Path) -> None:
    assert parse_genotype(FILE, "V2") == published("DARTS_V2") == parse_genotype(FILE, 6) == parse_genotype(FILE, "6")
    assert parse_genotype(FILE, "V1") == parse_genotype(TINY)
    assert parse_genotype(LOG, "last") == published("PC_DARTS_cifar")
    assert parse_genotype("x\n|none~0|\n|noise~0|+|none~1|\n", "last") == parse_genotype("|noise~0|+|none~1|")
    refused(FILE, r"a text with 2 genotypes: V1, V2; .*parse_genotype\(text, 'V2'\), on the command line FILE:V2")
    refused(LOG, r"a text with 2 genotypes: genotype \(lines 3 to 5\).*parse_genotype\(text, 'last'\)")
    for which, message in (("V3", "no genotype 'V3'; expected 2 genotypes: V1, V2"), (4, "no genotype 4")):
        with pytest.raises(GenotypeError, match=message):
            parse_genotype(FILE, which)
    with pytest.raises(GenotypeError, match="2 genotypes named 'genotype'; expected a line's number: 3, 5; or 'last'"):
        parse_genotype(LOG, "genotype")
    with pytest.raises(UserError, match="a text with 2 genotypes"):
        to_genotype(FILE)
    (tmp_path / "genotypes.py").write_text(FILE)
    (tmp_path / "arch.json").write_text(json.dumps(configuration(published("DARTS_V1"))))
    named = read_target(f"{tmp_path}/genotypes.py:V2")
    assert (named.genotype, named.name) == (published("DARTS_V2"), "genotypes-V2")
    assert read_target(f"{tmp_path}/arch.json").genotype.counts("normal") == published("DARTS_V1").counts("normal")
    with pytest.raises(UserError, match="FILE:V2"):
        read_target(f"{tmp_path}/genotypes.py")


def test_a_slip_in_a_file_is_shown_where_it_stands() -> None:
    text = FILE.replace("('dil_conv_3x3', 2)", "('dil_conv', 2)")
    with pytest.raises(GenotypeError, match="unknown primitive 'dil_conv'") as caught:
        parse_genotype(text, "V2")
    assert (caught.value.line, caught.value.offset) == (6, text.index("'dil_conv',"))


def test_a_module_is_no_genotype() -> None:
    with pytest.raises(TypeError, match="is the module json; expected one of its genotypes"):
        to_genotype(json)  # type: ignore[arg-type]


@given(st.data())
def test_any_slip_in_a_description_is_read_or_refused(data: st.DataObject) -> None:
    text = described([("regular", ONE), ("reduction", TWO)])
    place = data.draw(st.integers(0, len(text) - 1))
    slip = data.draw(st.sampled_from(["", " ", "\n", "-", ":", "x", "*", "\t", "'", "  "]))
    try:
        parse_genotype(text[:place] + slip + text[place + 1 :])
    except GenotypeError as error:
        assert error.line is not None
