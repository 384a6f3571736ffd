"""The methods against their authors' own functions: what these gave on the same numbers, under tests/golden."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from fastdarts import reference
from fastdarts.search.progressive import limit_skips
from fastdarts.search.sampling import Concrete
from fastdarts.spaces import CellSpace, Edge, Genotype, Space, derive, space

DARTS = space("darts")
NAMES = DARTS.normal.edges[0].primitives


@cache
def golden(method: str) -> dict[str, Any]:
    path = Path(__file__).parent / "golden" / "methods.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))[method]
    assert len(found["commit"]) == 40
    return found


def _weights(seed: int) -> dict[str, torch.Tensor]:
    draw = Random(seed)
    rows = [[[draw.gauss(0, 1.0) for _ in range(8)] for _ in range(14)] for _ in range(2)]
    return {key: torch.tensor(each).softmax(-1) for key, each in zip(("normal", "reduce"), rows, strict=True)}


def _pairs(genotype: Genotype, key: str) -> list[list[int]]:
    return [[NAMES.index(op), source] for op, source, _ in genotype.edges(key)]


def _derived(seed: int, rule: str) -> list[list[list[int]]]:
    found = derive(DARTS, _weights(seed), rule=rule)
    DARTS.check(found)
    return [_pairs(found, key) for key in ("normal", "reduce")]


def test_snas_keeps_every_edge_with_its_strongest_operator_none_among_them() -> None:
    edges = nones = 0
    for case in golden("snas")["cases"]:
        every = _derived(case["seed"], "every-edge")
        assert every == case["every"]
        assert _derived(case["seed"], "two-edges") == case["two"]
        edges += sum(map(len, every))
        nones += sum(op == 0 for cell in every for op, _ in cell)
    assert edges == 14 * 2 * 25
    assert nones > 50, "the rule is another one only where `none` wins"


def test_snas_cells_are_of_the_space_and_are_written_and_read() -> None:
    from fastdarts.nn import DerivedNetwork, Supernet
    from fastdarts.spaces import parse_genotype

    found = derive(DARTS, _weights(0), rule="every-edge")
    assert parse_genotype(found.text()) == found == Genotype.from_json(found.to_json())
    DARTS.check(found)
    supernet = Supernet(DARTS, channels=4, layers=3).eval()
    images = torch.randn(2, 3, 8, 8)
    assert supernet(images, active=supernet.one_path(found)).isfinite().all()
    network = DerivedNetwork(found, channels=4, layers=3, classes=10).eval()
    assert network(images)[0].isfinite().all()


def test_snas_temperatures() -> None:
    at = Concrete(1.0, 0.03, 150)
    found = [at.temperature(epoch / 150) for epoch in (0, 1, 74, 148, 149)]
    assert found == pytest.approx(golden("snas")["temperatures"], rel=1e-12)


def test_gdas_keeps_pairs_of_operator_and_input() -> None:
    twice = 0
    for case in golden("gdas")["cases"]:
        found = _derived(case["seed"], "pairs")
        assert found == case["pairs"]
        for cell in found:
            twice += sum(cell[2 * node][1] == cell[2 * node + 1][1] for node in range(4))
    assert twice > 10, "the rule is another one only where an input serves twice"


def _stage(seed: int) -> tuple[Space, dict[str, list[list[float]]]]:
    """A last stage of three candidates an edge, with weights that are often equal."""
    draw = Random(seed)
    chosen = [sorted(draw.sample(range(8), 3)) for _ in range(14)]
    rows = [[draw.randint(1, 8) / 16 for _ in range(3)] for _ in range(14)]
    edges = tuple(
        Edge(edge.source, edge.node, tuple(NAMES[k] for k in each))
        for edge, each in zip(DARTS.normal.edges, chosen, strict=True)
    )
    cell = CellSpace(edges, 4, DARTS.normal.concat)
    return Space("last", cell, cell), {"normal": rows, "reduce": rows}


def test_p_darts_ties_and_every_skip_limit() -> None:
    told = 0
    for case in golden("p-darts")["cases"]:
        last, rows = _stage(case["seed"])
        weights = {key: torch.tensor(each) for key, each in rows.items()}
        for limit, expected in case["genotypes"].items():
            most = 8 if limit == "free" else int(limit)
            found = limit_skips(last, {"weights": weights}, most, layers=8, rule="later")
            nodes = [sorted(found.normal.nodes[node]) for node in range(4)]
            theirs = [sorted((NAMES[op], source) for op, source in expected[2 * n : 2 * n + 2]) for n in range(4)]
            assert nodes == theirs, (case["seed"], limit)
            told += 1
    assert told > 50


def test_proxyless_gradient_and_shift() -> None:
    """Of one edge of eight operators: the alphas' gradient by the gates', Adam's step, and the shift after it."""
    for case in golden("proxyless")["cases"]:
        draw = Random(case["seed"])
        alphas = torch.tensor([[draw.gauss(0, 1) for _ in range(8)]], dtype=torch.float64, requires_grad=True)
        gates = torch.tensor([draw.gauss(0, 1) for _ in range(8)], dtype=torch.float64)
        pair = torch.tensor([draw.sample(range(8), 2)])
        index = pair if case["mode"] == "two" else torch.arange(8)[None]
        weights = reference.straight_through(reference.paired(alphas, index), pair[:, 0])
        (gradient,) = torch.autograd.grad((weights[0] * gates)[index[0]].sum(), alphas)
        assert gradient[0].tolist() == pytest.approx(case["gradient"], rel=1e-12, abs=1e-15)
        before = alphas.detach().gather(-1, pair)
        alphas.grad = gradient
        torch.optim.Adam([alphas], 1e-3, betas=(0.0, 0.999)).step()
        after = alphas.detach().clone()
        if case["mode"] == "two":
            shift = before.logsumexp(-1, keepdim=True) - after.gather(-1, pair).logsumexp(-1, keepdim=True)
            after.scatter_add_(-1, pair, shift.expand_as(pair))
        assert after[0].tolist() == pytest.approx(case["after"], rel=1e-12)
