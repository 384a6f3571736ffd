"""A planted fault, and the short way to write several."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Mutant", "of"]


@dataclass(frozen=True)
class Mutant:
    """A fault: `old`, which is in the file once, becomes `new`.

    Args:
        name: what was done wrong.
        path: of the file, in the tree.
        old, new: text; `new` is empty where something was forgotten.
        tests: what should see it, as pytest takes it: the fewest files, or tests of a file that takes long.
    """

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def compiled(self) -> bool:
        """Whether the native core must be built again."""
        return self.path.startswith("csrc/")


def of(what: str, path: str, tests: str, *faults: tuple[str, str, str]) -> list[Mutant]:
    """Faults of one file.

    Args:
        what: is wrong, before each name.
        path: of the file.
        tests: `stencil, track` for two files, `tests/test_stencil.py` the first; `stencil::test_parity[tap]` for a test.
        faults: name, old, new.
    """
    files = (each.partition("::") for each in tests.split(", "))
    wanted = tuple(f"tests/test_{name}.py{colons}{test}" for name, colons, test in files)
    return [Mutant(f"{what}: {name}", path, old, new, wanted) for name, old, new in faults]
