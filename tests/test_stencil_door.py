"""stencil's doors: the library ops under torch's own checks and its compiler, layouts, meta, and what is refused."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from stencil_cases import FOUR, Case, draw
from torch import Tensor

from fastdarts import use_backend
from fastdarts._backend import native
from fastdarts.errors import UserError
from fastdarts.ops import maps
from fastdarts.ops._records import StencilBackward, StencilForward
from fastdarts.plan import CUDA_DILATIONS, DILATIONS, SIDES

op = importlib.import_module("fastdarts.ops.stencil")
launchers = importlib.import_module("fastdarts.ops._stencil_cpu")


def test_the_core_has_the_windows_that_plans_have() -> None:
    core = native()
    assert tuple(core.stencil_sides) == SIDES
    assert (tuple(range(1, core.stencil_dilations + 1)), core.cuda_dilations) == (DILATIONS, CUDA_DILATIONS)


@pytest.mark.parametrize("normalised", [False, True], ids=["plain", "normalised"])
def test_opcheck(normalised: bool) -> None:
    case = Case(count=2, channels=3, sizes=((5, 4), (3, 4)), convs=FOUR, normalised=normalised)
    inputs = draw(case).change(torch.Tensor.float)
    numbers = [[getattr(conv, key) for conv in FOUR] for key in ("source", "kernel", "dilation", "stride")]
    statistics = inputs.statistics or [None, None]
    given = [tensor.detach() for tensor in inputs.gradients]
    for each in inputs.all():
        each.requires_grad_()
    arguments = inputs.sources, *numbers, inputs.depthwise, inputs.pointwise
    torch.library.opcheck(torch.ops.fastdarts.stencil.default, (*arguments, *statistics))
    for weights in (False, True):
        # Its own derivative is refused, which opcheck's other tests would ask for.
        checks = ("test_schema", "test_faketensor")
        backward = torch.ops.fastdarts.stencil_backward.default
        torch.library.opcheck(backward, (*arguments, given, *statistics, weights), test_utils=checks)


def test_a_compiled_function_that_calls_it_is_one_graph() -> None:
    case = Case(count=2, channels=4, sizes=((5, 4), (3, 4)), convs=FOUR)
    inputs = draw(case).change(torch.Tensor.float)

    def values(x: list[Tensor], d: list[Tensor], p: list[Tensor]) -> Tensor:
        return sum(y.square().sum() for y in op.stencil(x, FOUR, d, p)[0])

    given = inputs.sources, inputs.depthwise, inputs.pointwise
    compiled = torch.compile(values, fullgraph=True, backend="aot_eager")
    leaves = [tensor.requires_grad_() for tensor in inputs.all()]
    both = [torch.autograd.grad(function(*given), leaves) for function in (values, compiled)]
    assert all(torch.equal(a, b) for a, b in zip(*both, strict=True))


def test_any_layout_and_an_expanded_gradient() -> None:
    inputs = draw(Case(channels=6, convs=FOUR, sizes=((6, 7), (5, 3)))).change(torch.Tensor.float)
    totals = []
    for layout in (torch.contiguous_format, torch.channels_last):
        sources = [x.detach().contiguous(memory_format=layout).requires_grad_() for x in inputs.sources]
        ys, mean, var = op.stencil(sources, FOUR, inputs.depthwise, inputs.pointwise)
        assert all(y.is_contiguous(memory_format=torch.channels_last) for y in ys)
        totals.append([*ys, mean, var, *torch.autograd.grad(sum(y.sum() for y in ys), sources)])
    assert all(torch.equal(a, b) for a, b in zip(*totals, strict=True))


def test_on_meta_the_same_tensors_are_allocated() -> None:
    case = Case(channels=6, sizes=((6, 7), (5, 3)), convs=FOUR, normalised=True)
    inputs = draw(case)
    one = torch.ones(4, 6, dtype=torch.float64)
    seen: dict[str, list[tuple[Any, ...]]] = {}
    for device in ("cpu", "meta"):
        x, d, p, s, g = vars(inputs.change(lambda tensor, device=device: tensor.to(device))).values()
        x, g = [[maps.as_maps(tensor) for tensor in each] for each in (x, g)]
        statistics = dict(zip(("mean", "rstd"), s, strict=True))
        found = seen[device] = []
        with maps.observed(lambda tensor, found=found: found.append((tensor.shape, tensor.dtype))):
            ys, *moments = launchers.forward(StencilForward(x, FOUR, d, p, **statistics))
            out = launchers.backward(StencilBackward(x, FOUR, d, p, g, ys, *[one.to(device)] * 3, **statistics))
        found += [(tensor.shape, tensor.stride(), tensor.dtype) for tensor in (*ys, *moments, *out[0], *out[1], out[3])]
    assert seen["cpu"] == seen["meta"]


def small() -> dict[str, Any]:
    inputs = draw(Case(channels=3, sizes=((4, 4), (3, 4)), convs=FOUR)).change(torch.Tensor.float)
    return {
        "sources": inputs.sources, "convs": list(FOUR), "depthwise": inputs.depthwise, "pointwise": inputs.pointwise,
        "mean": torch.zeros(2, 3), "rstd": torch.ones(2, 3),
    }  # fmt: skip


def swapped(key: str, at: int, change: Callable[[Any], Any]) -> dict[str, Any]:
    given = small()
    given[key] = [change(each) if i == at else each for i, each in enumerate(given[key])]
    return given


REFUSED = {
    "no source": (lambda: small() | {"sources": []}, "sources are an empty list; expected at least one map"),
    "empty batch": (lambda: swapped("sources", 0, lambda x: x[:0]), r"a source has shape \[0, 3, 4, 4\]; expected"),
    "three dimensions": (lambda: swapped("sources", 1, lambda x: x[0]), r"shape \[3, 3, 4\]; expected \[N, C, H, W\]"),
    "two batches": (lambda: swapped("sources", 1, lambda x: x[:2]), "one number of images and one of channels"),
    "no such source": (lambda: swapped("convs", 0, lambda c: replace(c, source=2)), "source=2.*one of 2 sources"),
    "even kernel": (lambda: swapped("convs", 0, lambda c: replace(c, kernel=4)), "kernel=4.*kernel 1, 3, 5 or 7"),
    "stride 3": (lambda: swapped("convs", 0, lambda c: replace(c, stride=3)), "dilation 1 to 3, stride 1 or 2"),
    "another kernel": (lambda: swapped("depthwise", 0, lambda w: w[..., 1:]), r"depthwise has shape \[3, 1, 3, 2\]"),
    "another width": (lambda: swapped("pointwise", 0, lambda w: w[1:]), r"expected \[3, 3, 1, 1\] for 3 channels"),
    "few weights": (lambda: small() | {"pointwise": []}, "expected as many of each"),
    "mean alone": (lambda: small() | {"rstd": None}, "one of mean and rstd is None; expected both or neither"),
    "mean's shape": (lambda: small() | {"mean": torch.zeros(3)}, r"mean has shape \[3\]; expected \[2, 3\]"),
    "devices": (lambda: small() | {"mean": torch.zeros(2, 3, device="meta")}, "mean is on meta.*move it with .to"),
}  # fmt: skip


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused(what: str, backend: str) -> None:
    given, message = REFUSED[what]
    with pytest.raises(UserError, match=message), use_backend(backend):
        op.stencil(**given())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            lambda: swapped("sources", 0, lambda x: x.half()),
            "a source is float16; expected float32, bfloat16 or float64",
        ),
        (lambda: swapped("sources", 1, lambda x: x.double()), "the first source torch.float32; expected one dtype"),
        (lambda: swapped("depthwise", 0, lambda w: w.int()), "depthwise is int32; expected a floating dtype"),
        (lambda: swapped("pointwise", 0, lambda w: 1.0), "pointwise hold a float; expected tensors"),
    ],
)
def test_wrong_types_are_refused(given: Callable[[], dict[str, Any]], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        op.stencil(**given())


@pytest.mark.parametrize(
    "change",
    [
        {"count": 0}, {"threads": 0}, {"scratch_bytes": 64}, {"scratch": 8}, {"mean": 64}, {"y_mean": 64},
        {"sources": [(64, 2, 4, 4, 0, 0)]}, {"sources": [(0, 3, 4, 4, 0, 0)]}, {"sources": [(64, 3, 0, 4, 0, 0)]},
        {"convs": [(1, 3, 1, 1, 64, 64, 64, 3, 0, 0, 0, 0)]}, {"convs": [(0, 9, 1, 1, 64, 64, 64, 3, 0, 0, 0, 0)]},
        {"convs": [(0, 3, 1, 1, 0, 64, 64, 3, 0, 0, 0, 0)]}, {"convs": [(0, 3, 1, 1, 64, 64, 64, 2, 0, 0, 0, 0)]},
    ],
)  # fmt: skip
def test_the_native_function_guards_its_memory(change: dict[str, Any]) -> None:
    given = {
        "count": 1, "channels": 3, "sources": [(64, 3, 4, 4, 0, 0)], "threads": 1, "mean": 0, "rstd": 0, "y_mean": 0,
        "convs": [(0, 3, 1, 1, 64, 64, 64, 3, 0, 0, 0, 0)], "y_var": 0, "scratch": 64, "scratch_bytes": 0,
    }  # fmt: skip
    with pytest.raises(ValueError, match="stencil"):
        native().stencil_forward_float32(**(given | change))
