"""The choice of backend: in force where it should be, refused where it cannot be, and said once."""

from __future__ import annotations

import gc
import logging
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

import fastdarts
from fastdarts import _backend, ops
from fastdarts._backend import Backend, backend_for, backends, current_backend, native, use_backend
from fastdarts.ops import _engine, augment


@pytest.fixture
def without_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backend, "_load_native", lambda: (None, "no compiler; reinstall"))


@pytest.fixture
def unsaid() -> Iterator[None]:
    _backend._resolve.cache_clear()
    yield
    _backend._resolve.cache_clear()


def in_a_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def test_auto_takes_the_native_core() -> None:
    assert current_backend() == "cpu"


def test_a_block_ends_where_it_ends() -> None:
    with use_backend("reference"):
        assert current_backend() == "reference"
        with use_backend("cpu"):
            assert current_backend() == "cpu"
        assert current_backend() == "reference"
        with use_backend("auto"):
            assert current_backend() == "cpu"
    assert current_backend() == "cpu"
    with pytest.raises(KeyError), use_backend("reference"):
        raise KeyError
    assert current_backend() == "cpu"


def test_one_object_may_be_entered_again() -> None:
    choice = use_backend("reference")
    with choice, choice:
        assert current_backend() == "reference"
    assert current_backend() == "cpu"
    with choice:
        assert current_backend() == "reference"


def test_a_plain_call_holds_for_every_thread() -> None:
    use_backend("reference")
    assert current_backend() == "reference"
    assert in_a_thread(current_backend) == "reference"
    use_backend("auto")
    assert current_backend() == "cpu"


def test_a_block_holds_for_its_own_thread_only() -> None:
    use_backend("cpu")
    with use_backend("reference"):
        assert in_a_thread(current_backend) == "cpu"
        assert current_backend() == "reference"


def test_a_block_in_one_thread_leaves_a_plain_call_in_another_alone() -> None:
    block = use_backend("cpu")
    in_a_thread(lambda: use_backend("reference"))
    with block:
        assert current_backend() == "cpu"
        assert in_a_thread(current_backend) == "reference"
    assert current_backend() == "reference"


def test_blocks_in_many_threads_do_not_mix() -> None:
    wrong = []

    def work(name: str) -> None:
        for _ in range(300):
            with use_backend(name):
                if current_backend() != name:
                    wrong.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("reference", "cpu") * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert current_backend() == "cpu"


def test_plain_calls_do_not_pile_up() -> None:
    for _ in range(100):
        use_backend("reference")
    gc.collect()
    assert len(_backend._calls) <= 2


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(RuntimeError, match="no backend is called 'fast'; expected one of auto, reference, cpu"):
        use_backend("fast")
    assert current_backend() == "cpu"


NONE = _backend._Gpu("torch sees no GPU", "", interpreted=False)
GPU = _backend._Gpu("", "", interpreted=False)


def _core(**names: object) -> ModuleType:
    core = ModuleType("core")
    vars(core).update({"ops": ("augment", "cell")} | names)
    return core


@pytest.mark.usefixtures("unsaid")
@pytest.mark.parametrize("name", ["triton", "cuda"])
def test_a_backend_that_is_not_live_says_why(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backend, "_gpu", lambda: NONE)
    monkeypatch.setattr(_backend, "_load_native", lambda: (_core(cuda_stencil_forward_float32=None), "built"))
    with pytest.raises(RuntimeError, match=f"'{name}' is not live: torch sees no GPU; live here: reference, cpu"):
        use_backend(name)


BUILT = _core(cuda_stencil_forward_float32=None)


@pytest.mark.parametrize(
    ("core", "gpu", "live", "said"),
    [
        (BUILT, GPU, ["reference", "cpu", "triton", "cuda"], "CUDA C++, and Triton"),
        (_core(), GPU, ["reference", "cpu", "triton"], "built without CUDA; reinstall where nvcc"),
        (None, GPU, ["reference", "triton"], "no compiler"),
        (BUILT, replace(GPU, triton="pip install triton"), ["reference", "cpu"], "pip install triton"),
        (BUILT, replace(NONE, interpreted=True), ["reference", "cpu", "triton"], "interpreted on the CPU"),
    ],
)
def test_what_a_gpu_backend_needs(core: ModuleType | None, gpu: _backend._Gpu, live: list[str], said: str) -> None:
    table = _backend._table((core, "no compiler"), gpu)
    assert [name for name, backend in table.items() if backend.live] == live
    assert said in table["cuda"].reason
    assert all(backend.ops for backend in table.values() if backend.live)


@pytest.mark.usefixtures("unsaid")
def test_on_a_gpu_the_fastest_live_backend_is_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_backend, "_gpu", lambda: GPU)
    for names, chosen, level in (({"cuda_stencil_forward_float32": None}, "cuda", "INFO"), ({}, "triton", "WARNING")):
        monkeypatch.setattr(_backend, "_load_native", lambda names=names: (_core(**names), "built"))
        with caplog.at_level(logging.INFO, logger="fastdarts"):
            assert backend_for("cell", "cuda") == chosen
            assert (backend_for("cell", "cpu"), backend_for("cell", "meta")) == ("cpu", "cpu")
        assert [r.levelname for r in caplog.records if "cell on cuda" in r.message] == [level]
        caplog.clear()
    with use_backend("triton"):
        assert backend_for("cell", "meta") == "triton"


def test_an_interpreted_backend_is_never_taken_unasked() -> None:
    assert backend_for("cell", "cpu") == "cpu"
    with use_backend("triton"):
        assert backend_for("cell", "cpu") == "triton"


@pytest.mark.usefixtures("without_native")
def test_without_the_native_core() -> None:
    assert native() is None
    assert current_backend() == "reference"
    assert not backends()["cpu"].live
    with pytest.raises(RuntimeError, match="'cpu' is not live: no compiler; reinstall; live here: reference"):
        use_backend("cpu")


@pytest.mark.usefixtures("without_native", "unsaid")
def test_a_slower_backend_is_said_aloud_once(caplog: pytest.LogCaptureFixture) -> None:
    zero, one = torch.zeros(1, 4, dtype=torch.int64), torch.ones(1)
    given = (torch.ones(1, 1, 2, 2), zero[:, 0], zero[:, :2], torch.tensor([True]), zero, one, one)
    with caplog.at_level(logging.INFO, logger="fastdarts"):
        for _ in range(3):
            assert torch.equal(augment(*given), torch.full((1, 1, 2, 2), 2.0))
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.WARNING, "augment on cpu: backend reference (no compiler; reinstall)")
    ]


@pytest.mark.usefixtures("unsaid")
def test_each_choice_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="fastdarts"):
        for _ in range(2):
            backend_for("augment", "cpu")
            with use_backend("reference"):
                backend_for("augment", "cpu")
            backend_for("augment", "cuda")
    # No kernel runs on this process' CUDA tensors, which is worth a warning.
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO", "WARNING"]
    said = [record.message.partition(" (")[0] for record in caplog.records]
    assert said == [
        "augment on cpu: backend cpu",
        "augment on cpu: backend reference, as chosen",
        "augment on cuda: backend reference",
    ]


def test_an_explicit_choice_is_kept_or_refused_never_replaced() -> None:
    with use_backend("cpu"):
        with pytest.raises(RuntimeError, match="'cpu' runs on cpu tensors, augment got cuda ones"):
            backend_for("augment", "cuda")
        with pytest.raises(RuntimeError, match="'cpu' has no coffee; it has augment"):
            backend_for("coffee", "cpu")


def test_what_is_live_is_a_table() -> None:
    table = backends()
    assert list(table) == ["reference", "cpu", "triton", "cuda"]
    ops = ("augment", "stencil", "mixed_sum", "preprocess", "cell", "optim", "track")
    assert table["reference"].ops == table["triton"].ops == ops
    assert table["cpu"] == Backend("cpu", True, f"fastdarts._C, {native().build()['compiler']}", ops)


@pytest.fixture
def reloading() -> Iterator[None]:
    _backend._load_native.cache_clear()
    yield
    _backend._load_native.cache_clear()


@pytest.mark.usefixtures("reloading")
def test_a_missing_extension_is_a_reason_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastdarts._C", None)
    assert native() is None
    assert "cannot be imported" in _backend.native_failure()
    assert "C++17 compiler" in backends()["cpu"].reason


@pytest.mark.usefixtures("reloading")
def test_an_extension_of_another_version_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastdarts._C", SimpleNamespace(version="0.0.0"))
    assert native() is None
    assert f"built for version 0.0.0, not for {fastdarts.__version__}" in _backend.native_failure()


def test_a_kernel_is_found_by_the_name_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a backend has no file for is lent to it, and so is what its files do not name in DTYPES."""
    (tmp_path / "_preprocess_cuda.py").write_text("import torch\nDTYPES = (torch.float32,)\n")

    def forget() -> None:
        for cache in (_engine.launchers, _engine._modules, _engine._has):
            cache.cache_clear()

    assert _engine.launchers("preprocess", "cuda").__name__ == "fastdarts.ops._preprocess_triton"
    with monkeypatch.context() as patch:
        patch.setattr(ops, "__path__", [*ops.__path__, str(tmp_path)])
        forget()
        assert _engine.launchers("preprocess", "cuda").__name__ == "fastdarts.ops._preprocess_cuda"
        assert _engine.launchers("coefficients", "cuda").__name__ == "fastdarts.ops._coefficients_triton"
        assert [_engine._has("cuda", dtype) for dtype in (torch.float32, torch.bfloat16)] == [True, False]
    sys.modules.pop("fastdarts.ops._preprocess_cuda", None)
    vars(ops).pop("_preprocess_cuda", None)
    forget()
    assert [_engine._has("cuda", dtype) for dtype in (torch.bfloat16, torch.float64)] == [True, False]
