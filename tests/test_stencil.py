"""stencil: values, moments and every gradient against the reference, and what no kernel may do."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stencil_cases import DTYPES, EVERY, FAR, FOUR, Case, Inputs, cast, draw, evaluate
from tolerance import assert_within
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from fastdarts import use_backend
from fastdarts._backend import native
from fastdarts.ops import maps
from fastdarts.ops._records import StencilBackward, StencilForward
from fastdarts.reference.stencil import Conv
from fastdarts.reference.stencil import stencil as reference
from fastdarts.reference.stencil import stencil_backward as reference_backward

op = importlib.import_module("fastdarts.ops.stencil")
launchers = importlib.import_module("fastdarts.ops._stencil_cpu")


def magnitudes(case: Case, inputs: Inputs) -> dict[str, float]:
    """The largest sum of absolute values behind each result."""
    large = inputs.change(torch.abs)
    if case.normalised:
        large.statistics[0].neg_()
    found = evaluate(reference, case, large, torch.float64)
    found["var"] = found["var"] + found["mean"] ** 2
    return {key: float(value.abs().max()) for key, value in found.items()}


@contextmanager
def without_onednn() -> Iterator[None]:
    """oneDNN's bfloat16 gradient of a strided depthwise kernel is at times infinite, which would allow anything."""
    # Not torch.backends.mkldnn.flags, which sets TF32 too and warns that there is none.
    before = torch.backends.mkldnn.set_flags(False)
    try:
        yield
    finally:
        torch.backends.mkldnn.set_flags(before[0])


def assert_parity(case: Case) -> None:
    inputs = draw(case)
    exact = evaluate(reference, case, inputs, torch.float64)
    with without_onednn():
        eager = evaluate(reference, case, inputs, case.dtype)
    got = evaluate(op.stencil, case, inputs, case.dtype)
    terms = magnitudes(case, inputs)
    for key in exact:
        assert_within(key, got[key], eager[key], exact[key], terms=terms[key])


@pytest.fixture(params=native().isas() if native() else [])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = native().isa()
    native().choose_isa(request.param)
    yield request.param
    native().choose_isa(before)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("normalised", [False, True], ids=["plain", "normalised"])
@pytest.mark.parametrize("channels", [3, 16, 37])
def test_parity(isa: str, channels: int, normalised: bool, dtype: torch.dtype) -> None:
    assert_parity(Case(channels=channels, convs=EVERY + FAR, normalised=normalised, dtype=dtype, extra=3))


@settings(max_examples=80)
@given(
    count=st.integers(1, 5),
    channels=st.integers(1, 40),
    sizes=st.lists(st.tuples(st.integers(1, 13), st.integers(1, 13)), min_size=1, max_size=3),
    convs=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(EVERY + FAR)), min_size=1, max_size=4),
    normalised=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    extra=st.integers(0, 3),
    seed=st.integers(0, 2**31),
)
def test_parity_of_any_shape(sizes: list[tuple[int, int]], convs: list[tuple[int, Conv]], **rest: Any) -> None:
    every = tuple(replace(conv, source=source % len(sizes)) for source, conv in convs)
    used = sorted({conv.source for conv in every})  # a source without convolutions has no gradient to ask for
    every = tuple(replace(conv, source=used.index(conv.source)) for conv in every)
    assert_parity(Case(sizes=tuple(sizes[s] for s in used), convs=every, **rest))


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("normalised", [False, True], ids=["plain", "normalised"])
def test_backward_forms_dy_from_the_batch_norms_coefficients(normalised: bool, dtype: torch.dtype) -> None:
    case = Case(sizes=((6, 7), (5, 3)), convs=FOUR, normalised=normalised, channels=9)
    inputs = draw(case)
    low = inputs.change(lambda tensor: cast(tensor, dtype))
    arguments = low.sources, case.convs, low.depthwise, low.pointwise
    statistics = dict(zip(("mean", "rstd"), inputs.statistics, strict=False))
    ys, _, _ = launchers.forward(StencilForward(*arguments, **statistics))
    alpha, beta, gamma = torch.randn(3, len(FOUR), 9).bfloat16().double()
    gradients = [maps.as_maps(g) for g in low.gradients]
    got = launchers.backward(StencilBackward(*arguments, gradients, ys, alpha, beta, gamma, **statistics))
    affine = [alpha, beta, gamma]
    dys = []
    for i, (g, y) in enumerate(zip(gradients, ys, strict=True)):
        a, b, c = (each[i][:, None, None] for each in affine)
        dys.append(a * g.double() + b * y.double() + c)
    exact = reference_backward(inputs.sources, case.convs, inputs.depthwise, inputs.pointwise, dys, **statistics)
    eager = reference_backward(*arguments, [dy.to(dtype) for dy in dys], **statistics)
    for kind, mine, plain, right in zip(("g", "ddepthwise", "dpointwise"), got, eager, exact, strict=False):
        for i in range(len(right)):
            assert_within(f"{kind}[{i}]", mine[i], plain[i], right[i].double())
    if normalised:
        sums, sizes = (
            torch.stack([each(g.double()).sum((0, 2, 3)) for g in got[0]]) for each in (Tensor.clone, torch.abs)
        )
        assert_within("sums", got[3].float(), sums.float(), sums, terms=float(sizes.max()))
        assert_within("products", got[4].to(dtype), eager[4].to(dtype), exact[4])
    else:
        assert got[3] is got[4] is None
    half = launchers.backward(
        StencilBackward(*arguments, gradients, ys, alpha, beta, gamma, **statistics, weights=False)
    )
    assert half[1] is half[2] is None
    assert all(torch.equal(a, b) for a, b in zip(half[0], got[0], strict=True))


def test_backward_does_not_cancel_where_means_are_large() -> None:
    """beta y + gamma is the centred y: |mean| / std of 1e4 must not cost four digits."""
    x = torch.randn(4, 8, 6, 6).contiguous(memory_format=torch.channels_last)
    y = (1e4 + torch.randn(4, 8, 6, 6)).contiguous(memory_format=torch.channels_last)
    weights = [torch.ones(8, 1, 1, 1)], [torch.eye(8)[:, :, None, None].contiguous()]
    one = torch.ones(1, 8, dtype=torch.float64)
    mean = y.double().mean((0, 2, 3))[None]
    given = [x.abs() + 1], [Conv(0, 1, 1, 1)], *weights, [torch.zeros_like(y)], [y]
    (dx,), *_ = launchers.backward(StencilBackward(*given, one, one, -mean))
    centred = y.double() - mean[0][:, None, None]
    assert_within("dx", dx, centred.float(), centred)


def test_dx_is_added_where_it_is_given() -> None:
    case = Case(sizes=((6, 7), (5, 3)), convs=FOUR, channels=6, extra=4)
    inputs = draw(case).change(torch.Tensor.float)
    inputs.sources = [cast(x, torch.float32) for x in draw(case).sources]
    arguments = (
        inputs.sources,
        case.convs,
        inputs.depthwise,
        inputs.pointwise,
        [maps.as_maps(g) for g in inputs.gradients],
    )
    one, zero = torch.ones(4, 6, dtype=torch.float64), torch.zeros(4, 6, dtype=torch.float64)
    fresh, *_ = launchers.backward(StencilBackward(*arguments, None, one, zero, zero))
    wide = [torch.randn(3, h, w, 8).permute(0, 3, 1, 2) for h, w in case.sizes]
    before = [buffer.clone() for buffer in wide]
    given = [buffer[:, 1:7] for buffer in wide]
    got, *_ = launchers.backward(StencilBackward(*arguments, None, one, zero, zero, dx=given, weights=False))
    for mine, old, buffer, new in zip(got, before, wide, fresh, strict=True):
        assert torch.equal(mine, old[:, 1:7] + new)
        assert torch.equal(buffer[:, [0, 7]], old[:, [0, 7]])


def everything(case: Case) -> list[Tensor]:
    return list(evaluate(op.stencil, case, draw(case), case.dtype).values())


@pytest.mark.parametrize("channels", [4, 16, 36])
def test_no_bit_depends_on_threads_or_on_the_run(threads: Callable[[int], None], channels: int) -> None:
    case = Case(count=19, channels=channels, sizes=((24, 23), (16, 16)), convs=FOUR * 2, normalised=channels == 16)
    threads(1)
    once = everything(case)
    for count in (1, 2, 3):
        threads(count)
        assert all(torch.equal(a, b) for a, b in zip(once, everything(case), strict=True))


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [2, 16, 19])
def test_everything_that_is_returned_was_written(channels: int, dtype: torch.dtype) -> None:
    case = Case(channels=channels, sizes=((5, 4), (1, 1)), convs=FOUR, normalised=channels == 2, dtype=dtype)
    assert all(result.isfinite().all() for result in everything(case))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("channels", [4, 16])
def test_not_a_number_and_infinity_stay_where_eager_has_them(channels: int, value: float) -> None:
    case = Case(channels=channels, sizes=((9, 11), (7, 6)), convs=FOUR)
    inputs = draw(case)
    inputs.sources[0][1, 2, 4, 5] = value
    inputs.sources[1][0, 0, 0, 0] = -value
    got, exact = (evaluate(function, case, inputs, torch.float32) for function in (op.stencil, reference))
    for key in exact:
        assert torch.equal(got[key].isnan(), exact[key].isnan()), key
        assert torch.equal(got[key].isinf(), exact[key].isinf()), key
    assert not got["y 3x3 dilation 1 stride 1"][2].isnan().any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [4, 16, 20])
def test_moments_are_those_of_what_is_stored(isa: str, channels: int, dtype: torch.dtype) -> None:
    """|mean| / std up to 1e4, and channels without variance, whose variance is exactly 0."""
    x = torch.rand(5, channels, 9, 8) + torch.logspace(0, 4, channels)[:, None, None]
    x[:, 1] = 3.0
    x = maps.as_maps(x.to(dtype))
    eye = torch.eye(channels)[:, :, None, None]
    (y,), mean, var = op.stencil([x], [Conv(0, 1, 1, 1)], [torch.ones(channels, 1, 1, 1)], [eye])
    assert torch.equal(y, x)
    first = y[:1, :, :1, :1].double()  # what is far from 0 and close to its mean is subtracted without a rounding
    exact = list(torch.var_mean(y.double() - first, (0, 2, 3), correction=0))
    exact[1] += first.flatten()
    assert var[0, 1] == 0 and mean[0, 1] == 3
    # Channel by channel, in units of its own spread: of float32 maps the moments are float64's, the means' size shows
    # only in float64, where it is rounded at each merge.
    arithmetic = maps.arithmetic(dtype)
    units = [torch.where(each > 0, each, 1) for each in (exact[0], exact[0].sqrt())]
    terms = float((exact[1].abs() / units[1]).max()) if dtype == torch.float64 else 1.0
    for key, got, right, unit in (("var", var[0], exact[0], units[0]), ("mean", mean[0], exact[1], units[1])):
        error = ((got - right) / unit).to(arithmetic)
        none = torch.zeros_like(error)
        assert_within(key, error, none, none.double(), terms=terms)


def test_moments_of_bfloat16_are_those_of_rounded_values(isa: str) -> None:
    """What is normalised is what was stored: values before rounding have another mean by a part of their rounding."""
    case = Case(channels=5, convs=FOUR[:2], sizes=((9, 8),), dtype=torch.bfloat16)
    low = draw(case).change(lambda tensor: cast(tensor, torch.bfloat16))
    ys, mean, var = op.stencil(low.sources, case.convs, low.depthwise, low.pointwise)
    for i, y in enumerate(ys):
        exact_var, exact_mean = torch.var_mean(y.double(), (0, 2, 3), correction=0)
        for key, got, exact in (("mean", mean[i], exact_mean), ("var", var[i], exact_var)):
            assert_within(key, got.float(), exact.float(), exact)


def test_gradients_by_finite_differences() -> None:
    case = Case(count=1, channels=2, sizes=((3, 4), (3, 2)), convs=FOUR, normalised=True, dtype=torch.float64)
    inputs = draw(case)
    for x in inputs.sources:
        x[x == 0] = 1  # where the ReLU has no derivative
    leaves = [tensor.requires_grad_() for tensor in inputs.all()]

    def values(*given: Tensor) -> tuple[Tensor, ...]:
        x, d, p, s = given[:2], given[2:6], given[6:10], given[10:]
        return tuple(op.stencil(x, case.convs, d, p, **dict(zip(("mean", "rstd"), s, strict=False)))[0])

    for count in (10, 12):  # without and with the statistics
        assert gradcheck(values, leaves[:count])
    with use_backend("reference"):
        assert gradgradcheck(values, leaves, fast_mode=True)
    first = torch.autograd.grad(sum(y.square().sum() for y in values(*leaves)), leaves[2], create_graph=True)[0]
    with pytest.raises(RuntimeError, match=r"use_backend\('reference'\)"):
        first.sum().backward()
