"""What every test file shares: seeds, threads, marks and poisoned memory."""

from __future__ import annotations

import importlib.util
import os
import random
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from gpu_order import place
from hypothesis import settings

from fastdarts import _backend

# Triton decides when a kernel is defined: without a GPU this whole process interprets them.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    if importlib.util.find_spec("triton"):
        interpreted = importlib.import_module("interpreted")
        interpreted.interpret_as_compiled()
        interpreted.interpret_in_less_time()

settings.register_profile("fastdarts", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("fastdarts")

# What tests/machines.py asks of this process beside its environment, as `isa=avx2,threads=2`.
BEGUN = pytest.StashKey[float]()
MACHINE = dict(each.split("=") for each in os.environ.get("FASTDARTS_TEST_MACHINE", "").split(",") if each)


# They take longest and so begin first: whichever process got one of them at the end would run alone.
SLOWEST = (
    *("paper", "stencil_cuda", "nn_edits", "cell_gpu", "search_methods", "bench_gpu", "cli", "search_graph"),
    *("compare_methods", "device_call", "preprocess_triton", "nn_fused", "nn_fused_wrappers", "mixed_sum_triton"),
    *("searches", "report_collapse", "packaging", "stencil_triton", "search_loop"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gpu-seconds", type=float, help="after which no further GPU test begins; they come by value")


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[BEGUN] = time.monotonic()
    if "isa" in MACHINE:
        importlib.import_module("fastdarts._C").choose_isa(MACHINE["isa"])
    if "onednn" in MACHINE:
        torch.backends.mkldnn.set_flags(MACHINE["onednn"] == "on")
    if "denormals" in MACHINE:
        torch.set_flush_denormal(MACHINE["denormals"] == "flush")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "order" in MACHINE:
        random.Random(MACHINE["order"]).shuffle(items)
    elif not torch.cuda.is_available():
        turn = {f"test_{name}": place for place, name in enumerate(SLOWEST)}
        items.sort(key=lambda item: turn.get(item.path.stem, len(turn)))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device: torch.cuda.is_available() is False"))
    elif marked and "order" not in MACHINE:
        items.sort(key=lambda item: place(item.nodeid) if item.get_closest_marker("gpu") else -1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    seconds = item.config.getoption("--gpu-seconds")
    over = seconds is not None and time.monotonic() - item.config.stash[BEGUN] > seconds
    if over and item.get_closest_marker("gpu"):
        pytest.skip(f"the {seconds:.0f} s of the GPU tests were over")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """A process a core: two threads each would wait for each other. `threads` of tests/machines.py asks for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(int(MACHINE.get("threads", 1)))
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seeded() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command prints depends on the terminal and on what is set for it: here on neither."""
    for name in ("FORCE_COLOR", "NO_COLOR", "PY_COLORS", "TERM", "COLORTERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "25")


@pytest.fixture(autouse=True)
def backend_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test's plain `use_backend` call ends with the test."""
    monkeypatch.setattr(_backend, "_calls", ())


@pytest.fixture(autouse=True)
def primitives_kept() -> Iterator[None]:
    """What a test registers ends with the test."""
    from fastdarts.nn.primitives import OWN
    from fastdarts.spaces import _primitives

    before = [(registry, dict(registry)) for registry in (_primitives._KNOWN, OWN)]
    yield
    for registry, content in before:
        registry.clear()
        registry.update(content)


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """torch.empty gives NaN (integers: the largest value), so that an output never written is seen."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(1).isnan().all()
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.utils.deterministic.fill_uninitialized_memory = before[1]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def triton_device(request: pytest.FixtureRequest) -> torch.device:
    """Where Triton kernels run: interpreted on the CPU in a process without a GPU, compiled on the GPU in one with."""
    pytest.importorskip("triton")
    if request.param == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("kernels are compiled for the GPU in this process, not interpreted: see the same test on cuda")
    return torch.device(request.param)
