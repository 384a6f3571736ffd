"""What is installed: stated once, free of torch, complete, and whole without a compiler."""

from __future__ import annotations

import ast
import importlib.machinery
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import torch
from test_structure import LAB

import fastdarts
from fastdarts import __main__, _backend

ROOT = Path(__file__).resolve().parents[1]
SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]
CALL = """
import torch
from fastdarts.ops import augment
images = torch.arange(24, dtype=torch.uint8).reshape(2, 1, 3, 4)
zero = torch.zeros(1, 2, dtype=torch.int64)
out = augment(images, torch.tensor([1]), zero, torch.tensor([True]), zero.repeat(1, 2), torch.ones(1), torch.ones(1))
assert torch.equal(out, images[1:].flip(-1) + 1.0), out
"""


def python(
    executable: str | Path, script: str, cwd: Path, *flags: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(executable), *flags, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=kept | environment)
    assert done.returncode == 0, done.stderr
    return done


def test_setup_imports_no_torch_and_runs_no_pip() -> None:
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    allowed = sys.stdlib_module_names | {"setuptools", "pybind11", "ninja"}
    assert {name.split(".")[0] for name in modules} <= allowed
    text = "\n".join(ast.unparse(statement) for statement in tree.body[1:])  # without the docstring
    assert not re.search(r"\bpip\b|nvidia-smi", text)
    assert re.findall(r"environ\.get\('(\w+)'", text) == ["FASTDARTS_BUILD", "FASTDARTS_CUDA", "CUDA_HOME"]
    assert text.count("environ.") == text.count("environ") - text.count("environment") == 3


def test_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine is installed without what the command line is made of."""
    for name in [name for name in sys.modules if name.startswith("fastdarts.cli")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit, match=r"^fastdarts: the command needs typer, .*pip install 'fastdarts\[lab\]'$"):
        __main__.main()


def test_an_import_of_the_layers_loads_nothing_of_the_lab() -> None:
    blocked = ("typer", "rich", "scipy", "matplotlib", "sklearn", "tensorboard", *(f"fastdarts.{lab}" for lab in LAB))
    script = f"import sys\nsys.modules.update(dict.fromkeys({blocked!r}))\nimport fastdarts.compat.darts\n"
    python(sys.executable, script + "import fastdarts.hypergradient, fastdarts.profile\n", ROOT)


def test_the_version_is_stated_once() -> None:
    stated = re.compile(rf"""["']{re.escape(fastdarts.__version__)}["']""")
    sources = ["pyproject.toml", "setup.py", "Makefile", "fastdarts/**/*.py", "kernels/**/*.py", "csrc/**/*.*"]
    found = [
        path.relative_to(ROOT).as_posix()
        for pattern in sources
        for path in ROOT.glob(pattern)
        if stated.search(path.read_text(encoding="utf-8"))
    ]
    assert found == ["fastdarts/__init__.py"]


def test_the_core_runs_where_there_is_no_torch(tmp_path: Path) -> None:
    script = f"""
import importlib.util, sys
sys.modules["torch"] = None
spec = importlib.util.spec_from_file_location("fastdarts._C", {_backend.native().__file__!r})
core = importlib.util.module_from_spec(spec)
spec.loader.exec_module(core)
print(core.version, *core.ops)
"""
    ops = _backend.native().ops
    assert "cell" in ops
    assert python(sys.executable, script, tmp_path).stdout.split() == [fastdarts.__version__, *ops]


def test_no_source_of_the_core_includes_torch() -> None:
    sources = [path for path in (ROOT / "csrc").rglob("*") if path.is_file()]
    assert sources
    for path in sources:
        assert not re.search(r"#include\s*[<\"](torch|ATen|c10)", path.read_text(encoding="utf-8")), path


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_git_ignores_no_source() -> None:
    """A line `runs/` in .gitignore, meant for run folders, would also leave out the package fastdarts.runs."""
    folders = ("fastdarts", "csrc", "kernels", "tests", "bench", "docs")
    names = [path for folder in folders for path in (ROOT / folder).rglob("*.*") if path.is_file()]
    measured = ROOT / "bench/results/local"  # what a benchmark leaves, meant to be ignored
    kept = (path for path in names if path.suffix not in {".so", ".pyc"} and measured not in path.parents)
    sources = "\n".join(map(str, kept))
    command = ["git", "-c", "safe.directory=*", "check-ignore", "--no-index", "--stdin"]
    found = subprocess.run(command, input=sources, capture_output=True, text=True, cwd=ROOT)
    assert (found.returncode, found.stdout) == (1, ""), found.stdout + found.stderr


def source_copy(folder: Path) -> Path:
    target = folder / "fastdarts source"  # the space is part of the test
    for name in ("fastdarts", "csrc", "kernels"):
        left_out = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(ROOT / name, target / name, ignore=left_out, symlinks=True)  # fastdarts/kernels is one
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, target)
    if (ROOT / "build").exists():  # what ninja finds up to date there it does not compile again
        shutil.copytree(ROOT / "build", target / "build", ignore=shutil.ignore_patterns("lib*", "bdist*", "temp*"))
    return target


def pip(*arguments: object, cwd: Path, executable: Path | str = sys.executable, **environment: str) -> str:
    command = [str(executable), "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=kept | environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_kernels_are_a_package_wherever_the_tree_lies(tmp_path: Path) -> None:
    """On a machine that is lent for minutes nothing is installed: the tree on the path must do."""
    source = source_copy(tmp_path)
    paths = os.pathsep.join([str(source), str(Path(torch.__file__).parents[1])])
    found = python(
        sys.executable, "import fastdarts.kernels; print(fastdarts.kernels.__file__)", tmp_path, "-S", PYTHONPATH=paths
    )
    assert Path(found.stdout.strip()).resolve() == (source / "kernels/__init__.py").resolve()


NO_COMPILER = {"CC": "/no/such/cc", "CXX": "/no/such/c++", "CUDA_HOME": "/no/such/cuda"}
OFFLINE = ("--no-build-isolation", "--no-deps", "--no-index")


@pytest.mark.slow
def test_a_wheel_holds_everything_and_works(tmp_path: Path) -> None:
    source = source_copy(tmp_path)
    pip("wheel", *OFFLINE, "-w", tmp_path, source, cwd=tmp_path)
    (wheel,) = tmp_path.glob("fastdarts-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    modules = {path.relative_to(source).as_posix() for path in (source / "fastdarts").rglob("*.py")}
    modules |= {f"fastdarts/{path.relative_to(source).as_posix()}" for path in (source / "kernels").rglob("*.py")}
    modules |= {path.relative_to(source).as_posix() for path in source.glob("fastdarts/report/templates/*")}
    assert modules | {f"fastdarts/_C{SUFFIX}", "fastdarts/py.typed"} <= names
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"fastdarts"}
    script = f"import fastdarts.kernels, fastdarts; print(fastdarts.__file__){CALL}"
    found = python(sys.executable, script, tmp_path / "site", PYTHONPATH=str(tmp_path / "site"))
    assert found.stdout.startswith(str(tmp_path / "site"))
    assert "reference" not in found.stderr


@pytest.mark.slow
def test_an_editable_install_works_in_a_fresh_environment(tmp_path: Path) -> None:
    import ninja

    source = source_copy(tmp_path)
    venv.create(tmp_path / "env", symlinks=True)
    fresh = tmp_path / "env" / "bin" / "python"
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    torch_at = Path(torch.__file__).parents[1]
    # A .pth file lends this environment's packages, build tools included, without installing them again.
    (site / "lent.pth").write_text(f"{torch_at}\n", encoding="utf-8")
    # With another ninja, which remembers commands in its own way, all that lies in build/ would be compiled again.
    if (tool := Path(ninja.BIN_DIR, "ninja")).is_file():
        fresh.with_name("ninja").symlink_to(tool)
    pip("install", *OFFLINE, "-e", source, cwd=tmp_path, executable=fresh)
    assert list((source / "fastdarts").glob("_C*"))
    script = f"import fastdarts.kernels, fastdarts; print(fastdarts.__file__, fastdarts.kernels.__file__){CALL}"
    found = python(fresh, script, tmp_path)
    assert found.stdout == f"{source}/fastdarts/__init__.py {source}/fastdarts/kernels/__init__.py\n"
    assert "reference" not in found.stderr


@pytest.mark.slow
def test_without_a_compiler_the_build_warns_and_the_package_works(tmp_path: Path) -> None:
    source = source_copy(tmp_path)
    auto = {"FASTDARTS_BUILD": "auto", "FASTDARTS_CUDA": ""}
    said = pip("-v", "wheel", *OFFLINE, "-w", tmp_path, source, cwd=tmp_path, **NO_COMPILER, **auto)
    assert "without its native core: pure Python will run, slower" in said
    (wheel,) = tmp_path.glob("fastdarts-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    assert not list((tmp_path / "site").glob("fastdarts/_C*"))
    # Without site (-S) no editable install can lend its extension.
    paths = os.pathsep.join([str(tmp_path / "site"), str(Path(torch.__file__).parents[1])])
    found = python(sys.executable, CALL, tmp_path / "site", "-S", PYTHONPATH=paths)
    assert "backend reference (fastdarts._C cannot be imported" in found.stderr


def test_a_strict_build_refuses_to_degrade(tmp_path: Path) -> None:
    source = source_copy(tmp_path)
    with pytest.raises(AssertionError, match="/no/such/c"):
        pip("-v", "wheel", *OFFLINE, "-w", tmp_path, source, cwd=tmp_path, FASTDARTS_BUILD="strict", **NO_COMPILER)
    assert not list(tmp_path.glob("*.whl"))
