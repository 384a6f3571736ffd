"""What all readers of genotypes share: values that were read, and where each part of a genotype stood."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NoReturn, TypeVar

from fastdarts.spaces._error import GenotypeError
from fastdarts.spaces._genotype import CellGenotype, Genotype
from fastdarts.spaces._syntax import Atom, Fields, Items, Value

__all__ = ["Builder", "Nodes", "Path"]

_SCALARS = ("tensor", "float16", "float32", "float64", "int32", "int64")

Path = tuple[str | int, ...]
Nodes = tuple[tuple[tuple[str, int], ...], ...]
Made = TypeVar("Made")


class Builder:
    """Turns read values into a genotype and remembers where each part stood.

    Args:
        text: what was read.
        start: where the genotype begins, for errors that no part is to blame for.
    """

    def __init__(self, text: str, start: int = 0) -> None:
        self.text = text
        self.places: dict[Path, int] = {(): start}

    def fail(self, what: str, expected: str, place: int, remedy: str = "") -> NoReturn:
        """Raise the error of the character at ``place``."""
        raise GenotypeError(what, expected, remedy, text=self.text, offset=place)

    def make(self, build: Callable[[], Made], prefix: Path = ()) -> Made:
        """Build and, if what was written is impossible, point at the part that is."""
        try:
            return build()
        except GenotypeError as error:
            path = prefix + error.path
            while path not in self.places:
                path = path[:-1]
            raise GenotypeError(
                error.what,
                error.expected,
                error.remedy,
                path=prefix + error.path,
                text=self.text,
                offset=self.places[path],
            ) from None

    def genotype(self, cells: Mapping[str, CellGenotype]) -> Genotype:
        """The genotype of finished cells."""
        return self.make(partial(Genotype, cells))

    def cell(self, key: str, nodes: Nodes, concat: tuple[int, ...], inputs: int = 2) -> CellGenotype:
        """The cell of a key."""
        return self.make(partial(CellGenotype, nodes, concat, inputs), (key,))

    def stands(self, key: str, node: int, slot: int, op: int, source: int) -> None:
        """Remember where an input of a node was written."""
        self.places.setdefault((key, node), op)
        self.places[key, node, slot] = op
        self.places[key, node, slot, "op"] = op
        self.places[key, node, slot, "source"] = source

    def items(self, value: Value, expected: str) -> tuple[Value, ...]:
        """The values of a list."""
        if not isinstance(value, Items):
            self.fail(f"{self.describe(value)} is not a list", expected, value.start)
        return value.items

    def number(self, value: Value, expected: str) -> int | float:
        """Read a number, also as numpy and torch print one: ``np.float32(0.1)``, ``tensor(0.1, device='cuda:0')``."""
        if isinstance(value, Fields) and value.name and value.name.split(".")[-1] in _SCALARS and len(value.items) == 1:
            return self.number(value.items[0], expected)
        if not isinstance(value, Atom) or not isinstance(value.value, (int, float)):
            self.fail(f"{self.describe(value)} is not a number", expected, value.start)
        return value.value

    def integer(self, value: Value, expected: str) -> int:
        """Read an integer."""
        found = self.number(value, expected)
        if not isinstance(found, int):
            self.fail(f"{found} is not an integer", expected, value.start)
        return found

    def string(self, value: Value, expected: str) -> str:
        """Read a name in quotes, also as numpy prints one: ``np.str_('skip_connect')``."""
        if isinstance(value, Fields) and value.name in ("np.str_", "str_") and len(value.items) == 1:
            return self.string(value.items[0], expected)
        if not isinstance(value, Atom) or not isinstance(value.value, str):
            self.fail(f"{self.describe(value)} is no name", expected, value.start)
        return value.value

    @staticmethod
    def describe(value: Value) -> str:
        """What a value is, in a few words."""
        if isinstance(value, Atom):
            return repr(value.value)
        if isinstance(value, Items):
            return "a list"
        return f"{value.name}(...)" if value.name else "a dict"
