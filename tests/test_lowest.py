"""The lowest promised versions are the ones that `make test-lowest` runs the tests with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def test_python() -> None:
    (promised,) = re.findall(r'requires-python = ">=([\d.]+)"', PROJECT)
    assert f"LOWEST_PYTHON ?= python{promised}\n" in MAKEFILE
    assert f'python_version = "{promised}"' in PROJECT, "mypy's"
    assert f'target-version = "py{promised.replace(".", "")}"' in PROJECT, "ruff's"
    assert f"Python {promised} or newer" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("package", ["torch", "safetensors"])
def test_packages(package: str) -> None:
    (promised,) = re.findall(rf'"{package}>=([\d.]+)"', PROJECT)
    (lowest,) = re.findall(r"^LOWEST \?= (.+)$", MAKEFILE, re.MULTILINE)
    assert f"{package}=={promised}.0" in lowest.split()


def test_the_readme_names_the_lowest_torch() -> None:
    (promised,) = re.findall(r'"torch>=([\d.]+)"', PROJECT)
    assert f"torch {promised} or newer" in (ROOT / "README.md").read_text(encoding="utf-8")
