"""The structure, held by reading the sources: floors, circles, imports, exports, sizes and forbidden calls."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {
    "cli": 5, "compat": 5, "__main__": 5,
    "search": 4, "evaluate": 4, "profile": 4, "bench": 4, "_doctor": 4,
    "nn": 3, "hypergradient": 3,
    "ops": 2, "plan": 2, "report": 2, "data": 2,
    "reference": 1, "kernels": 1, "_C": 1, "spaces": 1, "runs": 1,
    "errors": 0, "reading": 0, "_backend": 0, "_moved": 0, "__version__": 0,
}  # fmt: skip
# What searches, judges and reports; a layer, a drop-in network or a hypergradient is to be had without it.
LAB = {"search", "evaluate", "bench", "data", "runs", "report", "cli", "_doctor"}
HEAVY = {"matplotlib", "sklearn", "tensorboard", "scipy", "triton", "torchvision", "PIL", "pandas"}
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve"}

PACKAGE = sorted((ROOT / "fastdarts").rglob("*.py")) + sorted((ROOT / "kernels").rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in PACKAGE}
INITS = [path for path in PACKAGE if path.name == "__init__.py"]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = ("fastdarts", *parts) if parts[0] == "kernels" else parts
    return ".".join(part for part in parts if part != "__init__")


def imported(path: Path, nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Absolute names of what the nodes import; `from a import b` is `a.b`, which may be a module or a name of one."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """What runs when the module is imported: everything outside functions and `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from (inner for decorator in node.decorator_list for inner in ast.walk(decorator))
        elif isinstance(node, ast.Lambda) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            continue
        else:
            yield node
            yield from at_import(node)


def part(module: str) -> str | None:
    words = module.split(".")
    return words[1] if words[0] == "fastdarts" and len(words) > 1 else None


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PACKAGE, ids=relative)
def test_imports_run_downwards(path: Path) -> None:
    own = part(module_name(path))
    if own is None or own == "__main__":
        return
    assert own in FLOORS, f"fastdarts.{own} stands on no floor: give it one above"
    if own not in LAB:
        for name in imported(path, ast.walk(TREES[path])):
            assert part(name) not in LAB, f"{path.name} is of the engine and imports {name}, which is the lab's"
    for name in imported(path, ast.walk(TREES[path])):
        below = part(name)
        if below is not None:
            assert below in FLOORS, f"{name} is on no floor: import a name from the module that defines it"
            assert FLOORS[below] <= FLOORS[own], f"{module_name(path)} (floor {FLOORS[own]}) imports {name}"


def test_no_circles() -> None:
    """Neither between the packages of a floor nor, at import time, between modules."""
    packages: dict[str, set[str]] = {}
    modules: dict[str, set[str]] = {}
    known = {module_name(path) for path in PACKAGE}
    for path, tree in TREES.items():
        own = module_name(path)
        if part(own) is None:
            continue
        needs = {part(name) for name in imported(path, ast.walk(tree))} - {None, part(own)}
        packages.setdefault(part(own), set()).update(needs)
        for name in imported(path, at_import(tree)):
            found = next((module for module in (name, name.rpartition(".")[0]) if module in known), None)
            if found and found not in (own, "fastdarts"):
                modules.setdefault(own, set()).add(found)
    assert tuple(TopologicalSorter(packages).static_order())
    assert tuple(TopologicalSorter(modules).static_order())


@pytest.mark.parametrize("path", PACKAGE, ids=relative)
def test_nothing_heavy_and_no_environment_at_import(path: Path) -> None:
    # The launchers of Triton kernels are themselves imported at the first launch only.
    allowed = {"triton"} if "kernels" in path.parts or path.stem.endswith("_triton") else set()
    forbidden = HEAVY | ({"torch", "numpy"} if "spaces" in path.parts else set())
    nodes = list(at_import(TREES[path]))
    tops = {name.split(".")[0] for name in imported(path, iter(nodes))}
    assert not tops & (forbidden - allowed)
    names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert not names & {"environ", "getenv", "is_available", "device_count", "current_device"}


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = "import sys, fastdarts; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not set(found.stdout.split()) & HEAVY


@pytest.mark.parametrize("path", INITS, ids=relative)
def test_exports_are_a_list_that_is_true(path: Path) -> None:
    assigned = [
        node.value
        for node in TREES[path].body
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        and "__all__" in {ast.unparse(target) for target in getattr(node, "targets", [getattr(node, "target", None)])}
    ]
    assert len(assigned) == 1, "one literal __all__"
    names = ast.literal_eval(assigned[0])
    assert isinstance(names, list) and len(set(names)) == len(names)
    module = importlib.import_module(module_name(path))
    missing = [name for name in names if not hasattr(module, name)]
    assert not missing, missing
    here = {
        name.rpartition(".")[2]
        for name in imported(path, iter(TREES[path].body))
        if part(name) and not name.rpartition(".")[2].startswith("_")
    }
    here -= {node.id for node in ast.walk(TREES[path]) if isinstance(node, ast.Name)}  # used there, not only passed on
    assert here <= set(names), f"imported for export but not listed: {sorted(here - set(names))}"


@pytest.mark.parametrize("path", PACKAGE, ids=relative)
def test_forbidden_calls(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path, ast.walk(TREES[path]))} & PICKLES
    for node in ast.walk(TREES[path]):
        where = f"{relative(path)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"eval", "exec", "torch.load", "torch.save", "exit", "quit"}, f"{where}: {called}"
            pickled = [word for word in node.keywords if word.arg == "allow_pickle"]
            assert all(ast.unparse(word.value) == "False" for word in pickled), f"{where}: allow_pickle"
        if isinstance(node, ast.ExceptHandler) and ast.unparse(node.body[-1]) != "raise":
            caught = ast.unparse(node.type) if node.type else "everything"
            assert caught not in {"everything", "Exception", "BaseException"}, f"{where}: except {caught}"


@pytest.mark.parametrize("path", PACKAGE, ids=relative)
def test_modules_postpone_annotations(path: Path) -> None:
    assert "__future__.annotations" in set(imported(path, iter(TREES[path].body)))


def test_files_and_functions_can_be_read_at_once() -> None:
    patterns = ("fastdarts/**/*.py", "kernels/**/*.py", "tests/*.py", "bench/*.py", "csrc/**/*.[ch]*", "setup.py")
    for path in (path for pattern in patterns for path in ROOT.glob(pattern)):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines < 400, f"{relative(path)} has {lines} lines"
    for path in (path for path in PACKAGE if "kernels" not in path.parts):
        for node in ast.walk(TREES[path]):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                first = node.body[min(len(node.body) - 1, int(ast.get_docstring(node) is not None))]
                length = node.end_lineno - first.lineno + 1
                assert length < 60, f"{relative(path)}: {node.name} has {length} lines"
