"""From weights to genotypes: quark0's rule against a second implementation, its ties, and uniform random genotypes."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import numpy as np
import pytest
import torch

from fastdarts.errors import UserError
from fastdarts.spaces import CellSpace, Genotype, Space, define_space, derive, random_genotype, space, space_names

FloatArray = np.ndarray
LAYERS = 4


def strongest(cell: CellSpace, weights: FloatArray, keep: int | None) -> list[list[tuple[str, int]]]:
    """The rule once more, by repeated arg-max (which takes the first of equals) on the array's own numbers."""
    nodes = []
    for node in cell.states:
        edges = cell.into(node)
        masked = np.full((len(edges), cell.width), -np.inf, weights.dtype)
        for row, edge in enumerate(edges):
            for column, name in enumerate(cell.edges[edge].primitives):
                if name != "none":
                    masked[row, column] = weights[edge, column]
        left = masked.max(axis=1)
        order = range(len(edges))
        if keep is not None:
            order = []
            for _ in range(min(keep, len(edges))):
                order.append(int(left.argmax()))
                left[order[-1]] = -np.inf
        nodes.append(
            [(cell.edges[edges[row]].primitives[masked[row].argmax()], cell.edges[edges[row]].source) for row in order]
        )
    return nodes


def softmax(logits: FloatArray) -> FloatArray:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (shifted / shifted.sum(axis=-1, keepdims=True)).astype(logits.dtype)


def draw(preset: Space, seed: int, ties: bool, dtype: type) -> dict[str, FloatArray]:
    rng = np.random.default_rng(seed)
    drawn = {}
    for key in preset.arch_keys(LAYERS):
        shape = len(preset.cell(key, LAYERS).edges), preset.cell(key, LAYERS).width
        # Few different numbers, so that most nodes hold equal edges and equal operators.
        logits = rng.integers(0, 2, shape) if ties else 1e-3 * rng.standard_normal(shape)
        drawn[key] = softmax(logits.astype(dtype))
    return drawn


@pytest.mark.parametrize("name", space_names())
@pytest.mark.parametrize("ties", [False, True], ids=["random", "ties"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "edge weights"])
def test_against_a_second_implementation(name: str, ties: bool, dtype: type, weighted: bool) -> None:
    preset = space(name)
    for seed in range(5):
        weights = draw(preset, seed, ties, dtype)
        betas = None
        if weighted:
            rng = np.random.default_rng(seed + 1000)
            betas = {key: softmax(rng.standard_normal(len(rows)).astype(dtype)) for key, rows in weights.items()}
        found = derive(preset, weights, layers=LAYERS, edge_weights=betas)
        preset.check(found, LAYERS)
        for key, rows in weights.items():
            mixed = rows if betas is None else rows * betas[key][:, None]
            assert mixed.dtype == dtype
            cell = preset.cell(key, LAYERS)
            assert [list(node) for node in found.cell(key).nodes] == strongest(cell, mixed, preset.keep)
            assert found.cell(key).concat == cell.concat


def one_node(keep: int | None = 1, primitives: tuple[str, ...] = ("none", "skip_connect", "sep_conv_3x3")) -> Space:
    return define_space("one node", primitives, nodes=1, keep=keep)


def test_ties_go_to_the_earlier_source_and_column() -> None:
    equal = {key: [[0.2, 0.4, 0.4], [0.2, 0.4, 0.4]] for key in ("normal", "reduce")}
    assert derive(one_node(), equal).normal.nodes == ((("skip_connect", 0),),)
    later = {key: [[0.9, 0.3, 0.4], [0.0, 0.3, 0.5]] for key in ("normal", "reduce")}
    assert derive(one_node(2), later).normal.nodes == ((("sep_conv_3x3", 1), ("sep_conv_3x3", 0)),)
    assert derive(one_node(None), later).normal.nodes == ((("sep_conv_3x3", 0), ("sep_conv_3x3", 1)),)
    assert derive(one_node(), later).normal.nodes == ((("sep_conv_3x3", 1),),)


def test_products_round_as_float32_where_the_weights_are() -> None:
    # Edge 1 wins by 6e-8 exactly; in float32, where the peers decide, both products are 1 and edge 0 comes first.
    above, below = 1 + 2**-23, 1 - 2**-24
    assert above * below > 1
    assert np.float32(above) * np.float32(below) == 1
    primitives = ("none", "skip_connect")
    weights, betas = [[0.0, 1.0], [0.0, above]], [1.0, below]
    containers = (
        lambda values: values,
        lambda values: np.array(values, np.float32),
        lambda values: np.array(values, np.float64),
        lambda values: torch.tensor(values, requires_grad=True),
        lambda values: [torch.tensor(value) for value in values],
        lambda values: json.loads(json.dumps(torch.tensor(values).tolist())),
    )
    for pack in containers:
        both = {key: pack(weights) for key in ("normal", "reduce")}
        edge = {key: pack(betas) for key in ("normal", "reduce")}
        found = derive(one_node(1, primitives), both, edge_weights=edge)
        assert found.normal.nodes == ((("skip_connect", 0),),)
    # 0.1 is no float32 number: these weights were computed in float64 and are compared so.
    double = {key: [[0.1, 1.0], [0.1, above]] for key in ("normal", "reduce")}
    edge = dict.fromkeys(("normal", "reduce"), betas)
    assert derive(one_node(1, primitives), double, edge_weights=edge).normal.nodes == ((("skip_connect", 1),),)


def test_numbers_beyond_float32_are_multiplied_as_float64() -> None:
    huge = {key: [[0.0, 1e300], [0.0, 2e300]] for key in ("normal", "reduce")}
    edge = {key: [1.0, 1.0] for key in ("normal", "reduce")}
    found = derive(one_node(1, ("none", "skip_connect")), huge, edge_weights=edge)
    assert found.normal.nodes == ((("skip_connect", 1),),)


def test_none_and_padding_never_win() -> None:
    padded = {key: [[9.0, 0.1, 0.2, 7.0], [0.0, 0.3, 0.1, float("nan")]] for key in ("normal", "reduce")}
    assert derive(one_node(2), padded).normal.nodes == ((("skip_connect", 1), ("sep_conv_3x3", 0)),)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "weights for nothing; expected for normal, reduce"),
        ({"normal": [[1, 1, 1]] * 2}, "weights for normal; expected for normal, reduce"),
        ({"normal": [[1, 1, 1]] * 3, "reduce": [[1, 1, 1]] * 2}, "3 rows of weights for normal; expected 2 rows"),
        (
            {"normal": [[1, 1]] * 2, "reduce": [[1, 1, 1]] * 2},
            "2 weights on edge 0 -> 2 of normal; expected at least 3",
        ),
        ({"normal": [1, 1], "reduce": [1, 1]}, "2 rows of weights for normal"),
        ({"normal": 1, "reduce": 1}, "one number of weights for normal"),
        ({"normal": [[1, float("nan"), 1]] * 2, "reduce": [[1, 1, 1]] * 2}, "a weight of normal is nan"),
        ({"normal": [[1, 1, 1]] * 2, "reduce": [[1, float("inf"), 1]] * 2}, "a weight of reduce is inf"),
    ],
)
def test_weights_that_fit_nothing(weights: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        derive(one_node(), weights)


@pytest.mark.parametrize(
    ("betas", "message"),
    [
        ({"normal": [1, 1]}, "edge_weights for normal; expected for normal, reduce"),
        ({"normal": [1, 1, 1], "reduce": [1, 1]}, "edge weights of the wrong shape for normal; expected 2 numbers"),
        ({"normal": [1, float("nan")], "reduce": [1, 1]}, "a weight of normal is nan"),
    ],
)
def test_edge_weights_that_fit_nothing(betas: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        derive(one_node(), {key: [[1, 1, 1]] * 2 for key in ("normal", "reduce")}, edge_weights=betas)


def unequal(keep: int | None) -> Space:
    candidates = {
        (0, 2): ["skip_connect", "sep_conv_3x3"],
        (0, 3): ["none", "skip_connect"],
        (1, 3): ["max_pool_3x3", "avg_pool_3x3", "sep_conv_3x3"],
        (2, 3): ["skip_connect"],
    }
    return define_space("unequal", candidates, reduce={(0, 2): ["skip_connect"]}, keep=keep)


def every_normal_cell(preset: Space) -> set[tuple[tuple[tuple[str, int], ...], ...]]:
    per_node = []
    for node in preset.normal.states:
        edges = [preset.normal.edges[index] for index in preset.normal.into(node)]
        keep = len(edges) if preset.keep is None else min(preset.keep, len(edges))
        ways = []
        for kept in itertools.combinations(edges, keep):
            named = [[(name, edge.source) for name in edge.primitives if name != "none"] for edge in kept]
            ways += list(itertools.product(*named))
        per_node.append(ways)
    return set(itertools.product(*per_node))


@pytest.mark.parametrize("keep", [1, 2, None])
def test_random_genotypes_are_uniform(keep: int | None) -> None:
    preset = unequal(keep)
    cells = every_normal_cell(preset)
    assert len(cells) == preset.size()
    share = 300
    drawn = Counter(random_genotype(preset, seed).normal.nodes for seed in range(share * len(cells)))
    assert set(drawn) == cells
    # Binomial with mean 300: five standard deviations are 87.
    assert max(abs(count - share) for count in drawn.values()) < 5 * share**0.5


@pytest.mark.parametrize("name", space_names())
def test_random_genotypes_of_the_presets(name: str) -> None:
    preset = space(name)
    drawn = [random_genotype(preset, seed) for seed in range(30)]
    for genotype in drawn:
        preset.check(genotype)
    assert len(set(drawn)) == 30
    assert drawn == [random_genotype(preset, seed) for seed in range(30)]


def test_random_genotypes_do_not_change_between_versions() -> None:
    assert str(random_genotype(space("s2"), 0, layers=5)) == (
        "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1), ('skip_connect', 1), ('sep_conv_3x3', 2), "
        "('sep_conv_3x3', 1), ('skip_connect', 2), ('sep_conv_3x3', 0), ('skip_connect', 2)], "
        "normal_concat=range(2, 6), "
        "reduce=[('skip_connect', 0), ('skip_connect', 1), ('sep_conv_3x3', 0), ('skip_connect', 1), "
        "('sep_conv_3x3', 2), ('sep_conv_3x3', 3), ('sep_conv_3x3', 0), ('skip_connect', 3)], "
        "reduce_concat=range(2, 6))"
    )
    assert random_genotype(space("amended-s2"), 0, layers=3).keys == ("cell0", "cell1", "cell2")


def replace(genotype: Genotype, node: int, *pairs: tuple[str, int]) -> Genotype:
    nodes = list(genotype.normal.nodes)
    nodes[node] = pairs
    changed = type(genotype.normal)(tuple(nodes), genotype.normal.concat)
    return Genotype({"normal": changed, "reduce": genotype.reduce})


def test_check_names_what_a_space_does_not_have() -> None:
    preset = space("s1")
    good = random_genotype(preset, 0)
    dil3, skip = ("dil_conv_3x3", 0), ("skip_connect", 1)
    preset.check(replace(good, 0, skip, dil3))
    with pytest.raises(UserError, match=r"node 2 of the normal cell has inputs \[0\]; expected 2 different sources"):
        preset.check(replace(good, 0, dil3), counted=True)
    with pytest.raises(UserError, match=r"inputs \[1, 1\]; expected 2 different"):
        preset.check(replace(good, 0, skip, ("dil_conv_5x5", 1)), counted=True)
    # SNAS keeps any number of edges, and GDAS may take an input twice: supernets of the space hold them all the same.
    preset.check(replace(good, 0, dil3))
    preset.check(replace(good, 0, skip, ("dil_conv_5x5", 1)))
    with pytest.raises(UserError, match="has an operator twice"):
        preset.check(replace(good, 0, skip, skip))
    with pytest.raises(UserError, match=r"sep_conv_3x3 on edge 1 -> 2 of the normal.*: skip_connect, dil_conv_5x5"):
        preset.check(replace(good, 0, dil3, ("sep_conv_3x3", 1)))
    with pytest.raises(UserError, match="no such edge"):
        space("amended-s1").check(replace(random_genotype(space("amended-s1"), 0), 1, dil3, skip))
    with pytest.raises(UserError, match="expected the cells of space amended-s2: cell0, cell1"):
        space("amended-s2").check(good, 2)
    with pytest.raises(UserError, match=r"expected 2 nodes, concat \[2, 3\]"):
        define_space("two", ["skip_connect"], nodes=2).check(good)
