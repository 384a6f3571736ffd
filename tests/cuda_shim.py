"""The CUDA kernels on a host without a GPU: builds tests/shim around csrc/cuda, for what `fastdarts._C` would have.

`shim()` is the module, `on_shim` a fixture that makes backend cuda run on it with tensors of the CPU, `cuda_device` one
that does so or gives the GPU where there is one; they skip where there is no C++ compiler. Objects are kept from run to
run in a folder of the user's, under the hash of what they are of.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fastdarts.ops import _stencil_cuda

ROOT = Path(__file__).parents[1]
# GCC 12 takes pybind11 for using what it has not set, once the sanitizer has changed the order of things.
SANITIZERS = ("-fsanitize=address", "-fno-omit-frame-pointer", "-Wno-maybe-uninitialized")
_SOURCES = ("csrc/cuda/stencil*.cu", "csrc/bindings/stencil_cuda.cpp", "tests/shim/*.cpp")
_INCLUDE = re.compile(r'^#include "(.+)"$', re.MULTILINE)
_FLAGS = (
    "-std=c++17",
    "-O1",
    "-g1",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Werror",
)


@functools.cache
def shim() -> ModuleType:
    """The module built of the present sources; with AddressSanitizer in a process that has preloaded it."""
    pytest.importorskip("pybind11")
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        pytest.skip(f"no C++ compiler: {compiler} is not on the PATH")
    path = build(compiler, SANITIZERS if "libasan" in os.environ.get("LD_PRELOAD", "") else ())
    spec = importlib.util.spec_from_file_location("_cuda_shim", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def on_shim(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The launchers of backend cuda call the shim, with tensors of the CPU."""
    module = shim()
    monkeypatch.setattr(_stencil_cuda, "core", lambda: module)
    yield module
    module.choose_order("ascending")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def cuda_device(request: pytest.FixtureRequest) -> torch.device:
    """Where the launchers of backend cuda run: on the shim, or on the GPU."""
    if request.param == "cpu":
        request.getfixturevalue("on_shim")
    return torch.device(request.param)


def build(compiler: str, flags: tuple[str, ...] = ()) -> Path:
    """Compile what has changed and link; the path of the module."""
    import pybind11

    include = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]
    command = [
        compiler,
        *_FLAGS,
        *flags,
        *include,
        "-DFASTDARTS_SHIM",
        "-include",
        str(ROOT / "tests/shim/cuda_shim.h"),
    ]
    sources = [path for pattern in _SOURCES for path in sorted(ROOT.glob(pattern))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda source: _compile(command, source), sources))
    target = _folder() / f"{_digest(objects, ' '.join(command))}{sysconfig.get_config_var('EXT_SUFFIX')}"
    return _make(target, lambda to: [compiler, "-shared", *flags, *map(str, objects), "-o", to])


def _compile(command: list[str], source: Path) -> Path:
    read = _included(source, {ROOT / "tests/shim/cuda_shim.h"})
    target = _folder() / f"{source.name}-{_digest(sorted(read), ' '.join(command))}.o"
    return _make(target, lambda to: [*command, "-x", "c++", "-c", str(source), "-o", to])


def _included(source: Path, found: set[Path]) -> set[Path]:
    """`found` with the source and, of this repository, all that it includes."""
    if source not in found:
        found.add(source)
        for name in _INCLUDE.findall(source.read_text(encoding="utf-8")):
            _included((source.parent / name).resolve(), found)
    return found


def built(name: str, read: list[Path], command: list[str]) -> Path:
    """What `command -o NAME` makes of files that it reads, in a folder of its own for what they hold."""
    folder = _folder() / f"{name}-{_digest(read, ' '.join(command))}"
    folder.mkdir(exist_ok=True)
    return _make(folder / name, lambda to: [*command, "-o", to])


def _make(target: Path, command: Callable[[str], list[str]]) -> Path:
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder, target.name)
            # With the sanitizer in it the compiler would take 1.7 times as long.
            plain = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
            done = subprocess.run(command(str(made)), capture_output=True, text=True, env=plain)
            assert done.returncode == 0, done.stderr
            made.replace(target)  # whole or not at all: others may be building the same
    return target


def _digest(paths: list[Path], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _folder() -> Path:
    folder = Path(tempfile.gettempdir(), f"fastdarts-shim-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    assert folder.stat().st_uid == os.getuid(), f"{folder} belongs to somebody else"
    return folder
