"""The public names: a list a package, each of them documented where it is defined, all of them in docs/api."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
API = ROOT / "docs" / "api"
# The command line is told by `fastdarts --help`, kernels are reached through `fastdarts.ops`, methods by their names.
NOT_PUBLIC = {"fastdarts.cli", "fastdarts.cli.profiling", "fastdarts.compat", "fastdarts.kernels"}
NOT_PUBLIC |= {"fastdarts.search.methods"}
PUBLIC = sorted(path.stem for path in API.glob("fastdarts*.md"))
NAMES = [(package, name) for package in PUBLIC for name in importlib.import_module(package).__all__]


def _source(module: str) -> Path:
    parts = module.split(".")[1:]
    base = ROOT.joinpath(*(parts if parts[:1] == ["kernels"] else ["fastdarts", *parts]))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def documented(module: str, name: str) -> str | None:
    """The docstring of a name, read from the sources: below a class, a function or a constant, where it is defined."""
    body = ast.parse(_source(module).read_text(encoding="utf-8")).body
    for node, below in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            return ast.get_docstring(node)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if name in [target.id for target in targets if isinstance(target, ast.Name)]:
            return ast.get_docstring(ast.Module([below], [])) if isinstance(below, ast.Expr) else None
        if isinstance(node, ast.ImportFrom) and (
            alias := next((a for a in node.names if a.asname in (None, name) and (a.asname or a.name) == name), None)
        ):
            return documented(str(node.module), alias.name)
    raise AssertionError(f"{module} does not define {name}")


def test_every_package_is_public_or_said_not_to_be() -> None:
    folders = (each.parent.relative_to(ROOT) for each in (ROOT / "fastdarts").rglob("__init__.py"))
    packages = {".".join(each.parts) for each in folders}
    modules = {"fastdarts.compat.darts", "fastdarts.compat.pcdarts"}
    assert set(PUBLIC) == (packages - NOT_PUBLIC) | modules


@pytest.mark.parametrize("package", PUBLIC)
def test_the_names_are_sorted(package: str) -> None:
    """Constants, classes, functions."""
    names = importlib.import_module(package).__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))


@pytest.mark.parametrize("package", PUBLIC)
def test_the_page_of_a_package_has_its_names(package: str) -> None:
    page = (API / f"{package}.md").read_text(encoding="utf-8")
    listed = re.findall(r"`(\w+)`", page.split("\n\n")[2])
    assert listed == importlib.import_module(package).__all__
    assert f"\n::: {package}\n" in page


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_every_public_name_is_documented_where_it_is_defined(package: str, name: str) -> None:
    assert documented(package, name)


@pytest.mark.parametrize(
    ("package", "old", "new"),
    [
        ("fastdarts.plan", "KINDS", "fastdarts.plan._cell.CANDIDATE_KINDS"),
        ("fastdarts.profile", "kept_bytes", "fastdarts.profile.measure_kept_bytes"),
        ("fastdarts.reference", "Norm", "fastdarts.reference.batch_norm.NormFunction"),
    ],
)
def test_names_of_before_still_mean_what_they_meant(package: str, old: str, new: str) -> None:
    module, _, name = new.rpartition(".")
    assert getattr(importlib.import_module(package), old) is getattr(importlib.import_module(module), name)
    assert old not in importlib.import_module(package).__all__


@pytest.mark.parametrize("package", [each for each in PUBLIC if "_BEFORE" in _source(each).read_text(encoding="utf-8")])
def test_every_name_of_before_is_there(package: str) -> None:
    module = importlib.import_module(package)
    assert all(getattr(module, name) is not None for name in module._BEFORE)
    assert not set(module._BEFORE) & set(module.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = module.nothing


@pytest.mark.parametrize(
    ("op", "reference"),
    [
        ("augment.augment", "augment.augment"),
        ("mixed_sum.mixed_sum", "mixed_sum.node_sum"),
        ("optim.adam_", "optim.adam_"),
        ("optim.sgd_", "optim.sgd_"),
        ("preprocess.preprocess", "preprocess.preprocess"),
        ("stencil.stencil", "stencil.stencil"),
        ("track.track_", "track.track_"),
    ],
)
def test_an_op_says_what_its_reference_says(op: str, reference: str) -> None:
    file, name = op.split(".")
    other, plain = reference.split(".")
    assert documented(f"fastdarts.ops.{file}", name) == documented(f"fastdarts.reference.{other}", plain)
