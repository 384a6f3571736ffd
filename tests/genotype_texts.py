"""What the tests of genotypes' formats share."""

from __future__ import annotations

import pytest

from fastdarts.spaces import CellGenotype, Genotype, GenotypeError, parse_genotype

Nodes = tuple[tuple[tuple[str, int], ...], ...]


def flat(nodes: Nodes) -> list[tuple[str, int]]:
    return [pair for node in nodes for pair in node]


def shared(normal: Nodes, reduce: Nodes, *concats: tuple[int, ...]) -> Genotype:
    """A genotype of these nodes, all of them concatenated where nothing else is said."""
    every = [tuple(range(2, 2 + len(nodes))) for nodes in (normal, reduce)]
    found = [CellGenotype(nodes, at) for nodes, at in zip((normal, reduce), concats or every, strict=True)]
    return Genotype(dict(zip(("normal", "reduce"), found, strict=True)))


def refused(text: str, message: str, at: str | None = None) -> None:
    """Demand an error, where ``at`` stands."""
    with pytest.raises(GenotypeError, match=message) as caught:
        parse_genotype(text)
    if at is not None:
        assert caught.value.offset is not None and text.startswith(at, caught.value.offset)
