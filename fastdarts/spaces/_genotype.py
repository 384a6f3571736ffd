"""Genotypes: the discrete architecture that a search returns, as data, as text and as JSON."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import index
from types import MappingProxyType
from typing import Any

from fastdarts.errors import did_you_mean
from fastdarts.spaces._error import GenotypeError
from fastdarts.spaces._primitives import PRIMITIVES
from fastdarts.spaces._wiring import flat_nodes

__all__ = ["FORMAT", "STYLES", "CellGenotype", "Genotype"]

STYLES = ("darts", "nested", "recurrent", "nb201")
"""The ways to write a genotype as text; see :meth:`Genotype.text`."""

FORMAT = "fastdarts-genotype/1"
"""The tag of a genotype's JSON."""
_UNSHARED = re.compile(r"cell(0|[1-9][0-9]{0,4})")


@dataclass(frozen=True)
class CellGenotype:
    """One discrete cell.

    Args:
        nodes: for every intermediate node its inputs as (primitive, source state), in the order they are summed.
        concat: states whose concatenation (recurrent cells: mean) is the output; any order, each once.
        inputs: number of cell inputs: 2 in a convolutional cell, 1 in a recurrent or a NAS-Bench-201 cell.

    Raises:
        GenotypeError: an unknown primitive, a source that does not exist before its node, an impossible concat.
        TypeError: a primitive that is no string, a state that is no integer.
    """

    nodes: tuple[tuple[tuple[str, int], ...], ...]
    concat: tuple[int, ...]
    inputs: int = 2

    def __post_init__(self) -> None:
        nodes = tuple(tuple(_pair(pair) for pair in node) for node in self.nodes)
        object.__setattr__(self, "nodes", nodes)
        object.__setattr__(self, "concat", tuple(index(state) for state in self.concat))
        if self.inputs not in (1, 2):
            raise GenotypeError(f"a cell with {self.inputs} inputs", "1 or 2", path=("inputs",))
        if not nodes:
            raise GenotypeError("a cell without nodes", "at least one node", path=("nodes",))
        for place, node in enumerate(nodes):
            self._check_node(place, node)
        self._check_concat()

    def _check_node(self, place: int, node: tuple[tuple[str, int], ...]) -> None:
        if not node:
            raise GenotypeError(f"node {place + self.inputs} has no inputs", "at least one", path=(place,))
        for slot, (op, source) in enumerate(node):
            if op not in PRIMITIVES:
                # Two inputs make a convolutional cell; with one it may be recurrent or NAS-Bench-201's.
                names = [p.name for p in PRIMITIVES.values() if self.inputs == 1 or p.family != "activation"]
                remedy = did_you_mean(op, names)
                expected = "a known primitive" if remedy else f"one of {', '.join(names)}"
                what = f"unknown primitive {op!r} into node {place + self.inputs}"
                raise GenotypeError(what, expected, remedy, path=(place, slot, "op"))
            last = place + self.inputs - 1
            if not 0 <= source <= last:
                raise GenotypeError(
                    f"source {source} of node {place + self.inputs} does not exist before it",
                    f"a state from 0 to {last}",
                    path=(place, slot, "source"),
                )

    def _check_concat(self) -> None:
        if not self.concat:
            raise GenotypeError("concat is empty", "at least one node", path=("concat",))
        states = self.states
        named: set[int] = set()
        for place, state in enumerate(self.concat):
            if state not in states:
                raise GenotypeError(
                    f"concat names state {state}",
                    f"nodes of the cell, from {states[0]} to {states[-1]}",
                    path=("concat", place),
                )
            if state in named:
                raise GenotypeError(f"concat names node {state} twice", "each once", path=("concat", place))
            named.add(state)

    @classmethod
    def from_pairs(cls, pairs: Sequence[tuple[str, int]], concat: Iterable[int] | None) -> CellGenotype:
        """Build a cell of the flat list that DARTS' family writes: two edges a node, or SNAS' all.

        Args:
            pairs: (primitive, source) of every edge, node by node.
            concat: states whose concatenation is the output; None for all nodes.

        Raises:
            GenotypeError: as the class; edges that make no nodes.
        """
        pairs = [_pair(pair) for pair in pairs]
        states = None if concat is None else tuple(index(state) for state in concat)
        sizes = flat_nodes([source for _, source in pairs], None if states is None else max(states, default=0))
        rest = iter(pairs)
        nodes = tuple(tuple(islice(rest, size)) for size in sizes)
        return cls(nodes, tuple(range(2, 2 + len(nodes))) if states is None else states)

    @property
    def states(self) -> range:
        """The states of the intermediate nodes."""
        return range(self.inputs, self.inputs + len(self.nodes))

    def edges(self) -> Iterator[tuple[str, int, int]]:
        """Yield (primitive, source, node) for every edge, node by node."""
        for node, pairs in zip(self.states, self.nodes, strict=True):
            for op, source in pairs:
                yield op, source, node

    def counts(self) -> dict[str, int]:
        """Count each primitive that occurs, in order of first use."""
        return dict(Counter(op for op, _, _ in self.edges()))


@dataclass(frozen=True, init=False, repr=False)
class Genotype:
    """A discrete architecture: one cell per architecture key.

    The keys are ``normal, reduce`` (DARTS), ``cell0, cell1, ...`` (every layer its own), ``recurrent`` (DARTS on
    PTB) or ``cell`` (NAS-Bench-201). Equal when keys, edges in order and concat in order are equal; hashable.

    Args:
        cells: key -> cell, a mapping or pairs, in any order.

    Raises:
        GenotypeError: keys that make no architecture, or a cell that does not fit its key.
    """

    pairs: tuple[tuple[str, CellGenotype], ...]

    def __init__(self, cells: Mapping[str, CellGenotype] | Iterable[tuple[str, CellGenotype]]) -> None:
        given = dict(cells)
        for key, cell in given.items():
            if not isinstance(cell, CellGenotype):
                raise TypeError(f"cell {key!r} must be a CellGenotype, got {type(cell).__name__}")
        ordered = tuple((key, given[key]) for key in _ordered_keys(given))
        for key, cell in ordered:
            _check_kind(key, cell)
        object.__setattr__(self, "pairs", ordered)

    @property
    def cells(self) -> Mapping[str, CellGenotype]:
        """The cells by key, in order."""
        return MappingProxyType(dict(self.pairs))

    @property
    def keys(self) -> tuple[str, ...]:
        """The architecture keys in order."""
        return tuple(key for key, _ in self.pairs)

    def cell(self, key: str) -> CellGenotype:
        """Return the cell of a key.

        Raises:
            GenotypeError: there is no such cell.
        """
        for name, cell in self.pairs:
            if name == key:
                return cell
        raise GenotypeError(f"no cell {key!r} in the genotype", f"one of {', '.join(self.keys)}")

    @property
    def normal(self) -> CellGenotype:
        """The normal cell of a shared genotype."""
        return self.cell("normal")

    @property
    def reduce(self) -> CellGenotype:
        """The reduction cell of a shared genotype."""
        return self.cell("reduce")

    @property
    def is_recurrent(self) -> bool:
        """Whether this is a recurrent cell."""
        return self.keys == ("recurrent",)

    @property
    def layers(self) -> int | None:
        """The number of layers when every layer has its own cell, else None: any depth will do."""
        return len(self.pairs) if self.keys[0] == "cell0" else None

    def edges(self, key: str) -> Iterator[tuple[str, int, int]]:
        """Yield (primitive, source, node) for every edge of a cell."""
        return self.cell(key).edges()

    def counts(self, key: str) -> dict[str, int]:
        """Count each primitive of a cell."""
        return self.cell(key).counts()

    def skips(self, key: str) -> int:
        """Count the skip connections of a cell: the collapse of DARTS shows here first."""
        return self.counts(key).get("skip_connect", 0)

    def text(self, style: str | None = None) -> str:
        """Write the genotype on one line, as :func:`parse_genotype` and the field's own tools read it.

        Args:
            style: "darts" (flat pairs, two per node), "nested" (a list per node, as pt.darts), "recurrent" (DARTS on
                PTB) or "nb201" (``|op~0|+|op~0|op~1|``); None takes the first that can say it.

        Raises:
            GenotypeError: an unknown style, or one that cannot say this genotype.
        """
        able = self.styles
        style = able[0] if style is None else style
        if style not in STYLES:
            raise GenotypeError(f"unknown style {style!r}", f"one of {', '.join(STYLES)}", did_you_mean(style, STYLES))
        if style not in able:
            raise GenotypeError(f"style {style!r} cannot say this genotype", f"one of {', '.join(able)}")
        if style == "nb201":
            return "+".join(_nb201_node(node) for node in self.cell("cell").nodes)
        if style == "recurrent":
            cell = self.cell("recurrent")
            return f"Genotype(recurrent={_flat(cell)}, concat={_concat(cell)})"
        write = _flat if style == "darts" else _nested
        fields = (f"{key}={write(cell)}, {key}_concat={_concat(cell)}" for key, cell in self.pairs)
        return f"Genotype({', '.join(fields)})"

    @property
    def styles(self) -> tuple[str, ...]:
        """The styles that can say this genotype, the best first; never empty."""
        if self.is_recurrent:
            return ("recurrent",)
        if self.keys == ("cell",):
            return ("nb201",)
        two = all(len(node) == 2 for _, cell in self.pairs for node in cell.nodes)
        return ("darts", "nested") if two else ("nested",)

    def __repr__(self) -> str:
        return self.text()

    def to_json(self) -> dict[str, Any]:
        """Return the genotype as JSON data; :meth:`from_json` gives an equal one back."""
        cells = {
            key: {
                "inputs": cell.inputs,
                "nodes": [[list(pair) for pair in node] for node in cell.nodes],
                "concat": list(cell.concat),
            }
            for key, cell in self.pairs
        }
        return {"format": FORMAT, "cells": cells}

    @classmethod
    def from_json(cls, data: object) -> Genotype:
        """Rebuild a genotype from :meth:`to_json`.

        Raises:
            GenotypeError: the data is not a genotype, or an impossible one.
        """
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            raise GenotypeError("not the JSON of a genotype", f'an object with "format": "{FORMAT}"')
        try:
            return cls({key: _cell_from_json(key, cell) for key, cell in data["cells"].items()})
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise GenotypeError(
                f"the JSON of a genotype is malformed: {error}", "what Genotype.to_json writes"
            ) from None


def _cell_from_json(key: str, data: Mapping[str, Any]) -> CellGenotype:
    try:
        return CellGenotype(data["nodes"], data["concat"], data["inputs"])
    except GenotypeError as error:
        what = f"in the {key} cell, {error.what}"
        raise GenotypeError(what, error.expected, error.remedy, path=(key, *error.path)) from None


def _pair(pair: Any) -> tuple[str, int]:
    if isinstance(pair, str) or len(pair) != 2:
        raise TypeError(f"an input of a node must be (primitive, source), got {pair!r}")
    op, source = pair
    if not isinstance(op, str) or isinstance(source, bool):
        raise TypeError(f"an input of a node must be (primitive, source), got {pair!r}")
    return op, index(source)


def _ordered_keys(given: Mapping[str, CellGenotype]) -> tuple[str, ...]:
    for keys in (("normal", "reduce"), ("recurrent",), ("cell",)):
        if set(given) == set(keys):
            return keys
    layers = tuple(f"cell{layer}" for layer in range(len(given)))
    if given and set(given) == set(layers):
        return layers
    expected = "normal and reduce, or cell0, cell1, ... without a gap, or recurrent, or cell"
    if set(given) in ({"normal"}, {"reduce"}):
        missing = "reduce" if "normal" in given else "normal"
        raise GenotypeError(f"the genotype has no {missing} cell", expected, path=("missing", missing))
    if given and all(_UNSHARED.fullmatch(key) for key in given):
        missing = next((key for key in layers if key not in given), "cell0")
        raise GenotypeError(f"the genotype has no {missing}", expected, path=("missing", missing))
    raise GenotypeError(f"a genotype of the cells {', '.join(map(repr, given)) or 'none'}", expected, path=("cells",))


def _check_kind(key: str, cell: CellGenotype) -> None:
    recurrent = key == "recurrent"
    inputs = 1 if key in ("recurrent", "cell") else 2
    if cell.inputs != inputs:
        raise GenotypeError(f"the {key} cell has {cell.inputs} inputs", f"{inputs}", path=(key, "inputs"))
    for place, node in enumerate(cell.nodes):
        if recurrent and len(node) != 1:
            raise GenotypeError(
                f"node {place + 1} of the recurrent cell has {len(node)} inputs", "exactly one", path=(key, place)
            )
        for slot, (op, _) in enumerate(node):
            if (PRIMITIVES[op].family == "activation") != recurrent:
                names = [p.name for p in PRIMITIVES.values() if (p.family == "activation") == recurrent]
                raise GenotypeError(
                    f"{op!r} is no primitive of a {'recurrent' if recurrent else 'convolutional'} cell",
                    f"one of {', '.join(names)}",
                    path=(key, place, slot, "op"),
                )
    if key == "cell" and cell.concat != (cell.states[-1],):
        raise GenotypeError(
            f"a NAS-Bench-201 cell with concat {list(cell.concat)}",
            f"its last node, [{cell.states[-1]}]",
            path=(key, "concat"),
        )


def _flat(cell: CellGenotype) -> str:
    return repr([pair for node in cell.nodes for pair in node])


def _nested(cell: CellGenotype) -> str:
    return repr([list(node) for node in cell.nodes])


def _concat(cell: CellGenotype) -> str:
    run = range(cell.concat[0], cell.concat[0] + len(cell.concat))
    return repr(run) if cell.concat == tuple(run) else repr(list(cell.concat))


def _nb201_node(node: tuple[tuple[str, int], ...]) -> str:
    return f"|{'|'.join(f'{op}~{source}' for op, source in node)}|"
