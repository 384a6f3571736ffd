"""CUDA C++ as nvcc compiled it, launched on paper: grids, threads, shared memory, registers and argument blocks.

The objects of the build are linked with a CUDA runtime of paper (tests/paper/libcudart.cpp) and given what the shim is
given. Where no build of this tree had nvcc there is nothing to link: FASTDARTS_CUDA=sm_90a before the set-up has.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from cuda_shim import ROOT, built, shim
from stencil_cases import EVERY, FOUR, Case, cast, draw

from fastdarts.ops import _stencil_cuda, maps
from fastdarts.ops._records import StencilBackward, StencilForward
from fastdarts.reference.stencil import Conv

CASES = {
    "every": Case(),
    "one channel": Case(channels=1, convs=FOUR, sizes=((12, 9), (5, 6))),
    "maps of several tiles": Case(count=2, channels=16, sizes=((32, 32),), normalised=True),
    "tiles of several maps": Case(count=40, channels=3, sizes=((2, 2),)),
    "chunks of channels": Case(count=1, channels=256, sizes=((8, 7),), convs=(Conv(0, 3, 1, 1), Conv(0, 7, 2, 1))),
    "a slice": Case(channels=20, convs=FOUR, sizes=((9, 8), (16, 23)), normalised=True, extra=3),
    "two sources": Case(channels=36, convs=(*EVERY[:4], Conv(1, 5, 2, 1)), sizes=((7, 7), (7, 7))),
}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
Launches = list[tuple[str, int, int, int, int]]


def objects() -> list[Path]:
    """Those of nvcc and their bindings, of this tree's sources, of the newest build that has them."""
    found = [
        [*folder.glob("cuda/csrc/cuda/*.cu.o"), folder / "plain/csrc/bindings/stencil_cuda.cpp.o"]
        for folder in ROOT.glob("build/*")
    ]
    wanted = len(list((ROOT / "csrc/cuda").glob("*.cu"))) + 1
    whole = [each for each in found if len(each) == wanted and all(path.exists() for path in each)]
    newest = max((path.stat().st_mtime for path in (ROOT / "csrc").rglob("*.*")), default=0.0)
    fresh = [each for each in whole if min(path.stat().st_mtime for path in each) >= newest]
    return max(fresh, key=lambda each: each[0].stat().st_mtime, default=[])


@pytest.fixture(scope="module")
def paper() -> ModuleType:
    """nvcc's objects over the CUDA runtime of paper."""
    pytest.importorskip("pybind11")
    triton = pytest.importorskip("triton")
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        pytest.skip(f"no C++ compiler: {compiler} is not on the PATH")
    linked = objects()
    if not linked:
        pytest.skip("no objects of nvcc of these sources: FASTDARTS_CUDA=sm_90a before the set-up makes them")
    import pybind11

    cuda = Path(triton.__file__).parent / "backends/nvidia/include"
    include = [f"-isystem{cuda}", f"-isystem{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
    here = ROOT / "tests/paper"
    driver = built(
        "libcuda.so.1",
        [here / "libcuda.cpp"],
        [compiler, *flags, *include, str(here / "libcuda.cpp"), "-Wl,-soname,libcuda.so.1"],
    )
    source = here / "libcudart.cpp"
    command = [compiler, *flags, *include, str(source), *map(str, linked), str(driver), f"-Wl,-rpath,{driver.parent}"]
    path = built(f"_paper_cuda{sysconfig.get_config_var('EXT_SUFFIX')}", [source, *linked], command)
    spec = importlib.util.spec_from_file_location("_paper_cuda", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pretending() -> Iterator[ModuleType]:
    """The shim, which runs no thread."""
    module = shim()
    module.pretend(True)
    yield module
    module.pretend(False)


def launched(module: ModuleType, case: Case, tf32: bool, monkeypatch: pytest.MonkeyPatch) -> Launches:
    """What both passes of a case launch on it."""
    monkeypatch.setattr(_stencil_cuda, "core", lambda: module)
    monkeypatch.setattr(_stencil_cuda, "tf32_allowed", lambda: tf32)
    inputs = draw(case).change(lambda tensor: cast(tensor, case.dtype))
    g = [maps.as_maps(each) for each in inputs.gradients]
    coefficients = torch.ones(3, len(case.convs), case.channels, dtype=torch.float64)
    given: tuple[Any, ...] = inputs.sources, case.convs, inputs.depthwise, inputs.pointwise
    statistics = {key: value.double() for key, value in inputs.keywords().items()}
    module.launches()
    _stencil_cuda.forward(StencilForward(*given, **statistics))
    for weights in (True, False):
        _stencil_cuda.backward(StencilBackward(*given, g, g, *coefficients, **statistics, weights=weights))
    return list(module.launches())


def plainly(name: str) -> str:
    """A kernel's name alone, of how a launch writes it down or of what c++filt makes of nvcc's."""
    name = name.split("(fastdarts")[0].strip("()").split("<")[0]
    return name.rpartition("::")[2].rpartition(" ")[2].removesuffix("_kernel")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_what_nvcc_compiled_launches_as_the_shim_does(
    paper: ModuleType, pretending: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str, dtype: torch.dtype
) -> None:
    case = Case(**vars(CASES[name]) | {"dtype": dtype})
    for tf32 in (False, True) if dtype == torch.float32 else (False,):
        expected = launched(pretending, case, tf32, monkeypatch)
        found = launched(paper, case, tf32, monkeypatch)
        names = subprocess.run(["c++filt", *(each[0] for each in found)], capture_output=True, text=True, check=True)
        got = [(plainly(line), *each[1:]) for line, each in zip(names.stdout.splitlines(), found, strict=True)]
        assert got == [(plainly(each[0]), *each[1:]) for each in expected]
        assert len(found) >= 6


def test_what_a_gpu_refuses_is_an_error_on_paper(paper: ModuleType) -> None:
    assert paper.refusal("stencil_fold", 1, 256, 0) == ""
    assert "threads" in paper.refusal("stencil_fold", 1, 2048, 0)
    assert "blocks" in paper.refusal("stencil_fold", 1 << 31, 256, 0)
    assert "bytes of shared memory" in paper.refusal("stencil_fold", 1, 256, 50 << 10)
