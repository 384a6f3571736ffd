"""The faults that `make mutants` plants are still there to be planted: code and tests move on."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted import AREAS

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("area", AREAS)
def test_every_fault_fits_and_names_tests_that_exist(area: str) -> None:
    for mutant in AREAS[area]:
        found = (ROOT / mutant.path).read_text(encoding="utf-8").count(mutant.old)
        assert found == 1, f"tests/planted: {mutant.name}: {mutant.path} holds {mutant.old!r} {found} times, expected 1"
        for each in mutant.tests:
            path, _, name = each.partition("::")
            text = (ROOT / path).read_text(encoding="utf-8")
            name = name.partition("[")[0]
            assert f"def {name}(" in text if name else text, f"tests/planted: {mutant.name}: there is no {each}"


def test_names_are_unique() -> None:
    names = [(area, mutant.name) for area, mutants in AREAS.items() for mutant in mutants]
    assert len(set(names)) == len(names)
