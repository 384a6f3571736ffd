"""Whole cells on the GPU's kernels: Triton's, interpreted where there is no GPU, and those in CUDA C++ on the shim."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from types import ModuleType

import cell_oracle as oracle
import pytest
import torch
import torch.nn.functional as F
from cell_oracle import PLANS, given, outcome
from cuda_shim import on_shim
from tiny import SPACE
from torch import Tensor

from fastdarts import use_backend
from fastdarts.nn import Supernet
from fastdarts.ops import _engine, maps
from fastdarts.ops.cell import cell
from fastdarts.plan import MEMORY

__all__ = ["on_shim"]

ORDINARY = [name for name in PLANS if not name.startswith(("one pixel", "one image", "one channel", "only", "nothing"))]
# Interpreted, DARTS' own cell takes most of a minute: "uneven", "twice" and "partly" have all that there is in it.
LARGE = ("normal", "reduction", "partial", "partial reduction", "s1", "one pixel", "one image", "one channel")


@pytest.fixture
def choose(triton_device: torch.device) -> Callable[[str], use_backend]:
    """The backend of a name on a GPU; interpreted, Triton's."""
    return lambda name: use_backend(name if triton_device.type == "cuda" else "triton")


def few(names: Iterable[str], *interpreted: str) -> list[object]:
    """All of them on a GPU, a few interpreted; with FASTDARTS_ALL all."""
    every = "FASTDARTS_ALL" in os.environ
    return [pytest.param(name, marks=[] if every or name in interpreted else pytest.mark.gpu) for name in names]


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("name", few(PLANS, *(name for name in PLANS if name not in LARGE)))
def test_is_the_reference(name: str, triton_device: torch.device) -> None:
    with use_backend("triton"):
        oracle.assert_same_function(given(name).to(triton_device))


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(
    "name", few(["partial reduction", "uneven partial", "uneven", "noise"], "uneven partial", "uneven", "noise")
)
def test_is_the_reference_with_running_statistics(name: str, triton_device: torch.device) -> None:
    with use_backend("triton"):
        oracle.assert_same_function(given(name, training=False).to(triton_device))


@pytest.mark.parametrize("backend", [pytest.param("cuda", marks=pytest.mark.gpu), "triton"])
@pytest.mark.parametrize("name", few(ORDINARY, "twice", "mixed op halved"))
def test_single_precision_rounds_as_plain_torch(
    name: str, backend: str, triton_device: torch.device, choose: Callable[[str], use_backend]
) -> None:
    with choose(backend):
        oracle.assert_rounds_as_plain_torch(
            oracle.given_for(PLANS[name][0], 4, 9, 8).to(triton_device), dtype=torch.float32
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("backend", [pytest.param("cuda", marks=pytest.mark.gpu), "triton"])
@pytest.mark.parametrize("name", few(ORDINARY, "mixed op halved"))
def test_half_precision_rounds_as_plain_torch(
    name: str, backend: str, dtype: torch.dtype, triton_device: torch.device, choose: Callable[[str], use_backend]
) -> None:
    case = oracle.given_for(PLANS[name][0], 4, 9, 8).to(triton_device)
    with choose(backend):
        oracle.assert_rounds_as_plain_torch(
            case, dtype=dtype, wide=torch.float32, gradients=name.startswith("mixed op")
        )


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("backend", [pytest.param("cuda", marks=pytest.mark.gpu), "triton"])
@pytest.mark.parametrize("name", few(ORDINARY, "uneven partial"))
def test_memory_modes_change_no_bit(
    name: str, backend: str, triton_device: torch.device, choose: Callable[[str], use_backend]
) -> None:
    case = given(name).to(triton_device)
    with choose(backend):
        expected = outcome(cell, case, torch.float32, memory="fast")
        for memory in MEMORY[1:]:
            found = outcome(cell, case, torch.float32, memory=memory)
            assert [key for key, value in expected.items() if not torch.equal(found[key], value)] == []


@pytest.fixture
def on_cuda_cells(on_shim: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backend triton, interpreted, with the stencils in CUDA C++, on the shim: what backend cuda is on a GPU."""
    launchers = _engine.launchers
    monkeypatch.setattr(_engine, "launchers", lambda op, backend: launchers(op, "cuda"))


@pytest.mark.usefixtures("on_cuda_cells", "poisoned_memory")
@pytest.mark.parametrize("name", ["uneven partial", "twice", "mixed op halved"])
def test_cuda_and_triton_make_a_cell_together(name: str) -> None:
    with use_backend("triton"):
        case = oracle.given_for(PLANS[name][0], 4, 9, 8)
        oracle.assert_rounds_as_plain_torch(case, dtype=torch.float32)
        found = [outcome(cell, given(name), torch.float32, memory=memory) for memory in MEMORY]
    assert all(torch.equal(value, each[key]) for each in found[1:] for key, value in found[0].items())


def allocated(case: oracle.Given) -> list[tuple[int, torch.dtype]]:
    found: list[tuple[int, torch.dtype]] = []
    with maps.observed(lambda tensor: found.append((tensor.numel(), tensor.dtype))):
        leaves = case.leaves(torch.float32)
        out, *_ = case.call(cell, leaves)
        out.backward(torch.ones_like(out))
    return found


@pytest.mark.parametrize("backend", [pytest.param("cuda", marks=pytest.mark.gpu), "triton"])
@pytest.mark.parametrize("name", few(["normal", "reduction", "uneven partial"], "uneven partial"))
def test_on_meta_the_same_is_allocated(
    name: str, backend: str, triton_device: torch.device, choose: Callable[[str], use_backend]
) -> None:
    with choose(backend):
        assert allocated(given(name).to(torch.device("meta"))) == allocated(given(name).to(triton_device))


def step(model: Supernet, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Loss, gradients and running statistics of one training step."""
    model.train().zero_grad(set_to_none=True)
    loss = F.cross_entropy(model(x), labels)
    loss.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    return found | {"loss": loss.detach()} | {name: buffer.clone() for name, buffer in model.named_buffers()}


def test_a_supernet_learns_as_in_plain_torch(triton_device: torch.device) -> None:
    """Every layer between the cells too, in float64: what the fused step computes is what plain torch computes."""
    found = {}
    for backend in ("triton", "reference"):
        torch.manual_seed(0)
        model = Supernet(SPACE, channels=2, layers=3, classes=3, in_channels=1, partial=2)
        x, labels = torch.randn(3, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2])
        with use_backend(backend):
            found[backend] = step(model.double().to(triton_device), x.to(triton_device), labels.to(triton_device))
    assert found["triton"].keys() == found["reference"].keys()
    largest = max(1.0, *(float(value.double().abs().max()) for value in found["reference"].values()))
    oracle.assert_all_within(
        {name: value.float() for name, value in found["triton"].items()},
        {name: value.float() for name, value in found["reference"].items()},
        {name: value.double() for name, value in found["reference"].items()},
        terms=largest,
    )
