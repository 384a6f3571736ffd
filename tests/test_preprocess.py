"""preprocess: the fused pass against plain torch, in output, statistics and gradients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerance import assert_all_within, assert_within
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fastdarts import _C, use_backend
from fastdarts.errors import UserError
from fastdarts.ops import _preprocess_cpu, maps
from fastdarts.ops._preprocess_cpu import backward, forward, reduce
from fastdarts.ops._records import PreprocessBackward, PreprocessForward
from fastdarts.ops.preprocess import preprocess
from fastdarts.reference.preprocess import preprocess as reference

DTYPES = [torch.float32, torch.bfloat16, torch.float64]
LAYOUTS = ["planes", "maps", "slice of maps", "slice of planes", "transposed"]


def laid_out(x: Tensor, layout: str) -> Tensor:
    """x with the same values, lying in memory as `layout` says."""
    n, channels, height, width = x.shape
    if layout == "planes":
        return x.contiguous()
    if layout == "maps":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return x.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
    wide = torch.full((n, channels + 3, height, width), torch.nan, dtype=x.dtype)
    if layout == "slice of maps":
        wide = wide.contiguous(memory_format=torch.channels_last)
    wide[:, :channels] = x
    return wide[:, :channels]


def inputs(n: int, c_in: int, c_out: int, height: int, width: int, stride: int) -> tuple[Tensor, list[Tensor]]:
    """x and the weights in float64, exact in bfloat16 too."""
    outputs = [c_out] if stride == 1 else [size for size in (c_out - c_out // 2, c_out // 2) if size]
    x = torch.randn(n, c_in, height, width)
    x.view(-1)[::11], x.view(-1)[5::11] = 0.0, -0.0  # where the gradient of the ReLU is 0
    weights = [torch.randn(size, c_in, 1, 1) for size in outputs]
    return x.bfloat16().double(), [weight.bfloat16().double() for weight in weights]


def results(function, x: Tensor, weights: list[Tensor], dtype: torch.dtype, layout: str = "planes", **options):
    """Output, statistics in the arithmetic type and all gradients, by name, of a gradient that is no constant."""
    x = laid_out(x.to(dtype), layout).requires_grad_()
    weights = [weight.to(dtype).requires_grad_() for weight in weights]
    xhat, mean, var = function(x, weights, **options)
    assert mean.dtype == var.dtype == torch.float64
    assert maps.pixel_stride(xhat) == xhat.shape[1]
    g = torch.arange(xhat.numel(), dtype=torch.float64).sin().reshape(xhat.shape).bfloat16().to(dtype)
    dx, *dweights = torch.autograd.grad(xhat, [x, *weights], g)
    kind = maps.arithmetic(dtype)
    named = {"xhat": xhat.detach(), "mean": mean.to(kind), "var": var.to(kind), "dx": dx}
    return named | {f"dweights[{i}]": dweight for i, dweight in enumerate(dweights)}


def magnitudes(exact: dict[str, Tensor], x: Tensor, weights: list[Tensor], **options) -> dict[str, float]:
    """The largest sum of absolute values behind each result, in float64: a batch norm's both passes cancel."""
    x, weights = x.detach().requires_grad_(), [weight.abs().requires_grad_() for weight in weights]
    spread = 1 + exact["xhat"].abs() if "mean" not in options else torch.ones_like(exact["xhat"])
    rstd = (exact["var"] + options.get("eps", 1e-5)).rsqrt()[:, None, None]
    zero, one = torch.zeros_like(exact["var"]), torch.ones_like(exact["var"])
    y = reference(x, weights, **{**options, "mean": zero, "var": one, "eps": 1e-300})[0]  # torch 2.11 refuses 0
    dx, *dweights = torch.autograd.grad(y, [x, *weights], rstd * (1 + spread))
    mean = exact["mean"].abs()[:, None, None]
    largest = {"xhat": (y + mean) * rstd, "mean": y, "var": y * y, "dx": dx}
    largest |= {f"dweights[{i}]": dweight for i, dweight in enumerate(dweights)}
    return {name: float(value.detach().max()) for name, value in largest.items()}


def assert_parity(x: Tensor, weights: list[Tensor], dtype: torch.dtype, layout: str, **options) -> None:
    got = results(preprocess, x, weights, dtype, layout, **options)
    eager = results(reference, x, weights, dtype, layout, **options)
    exact = results(reference, x, weights, torch.float64, **options)
    assert got.keys() == eager.keys() == exact.keys()
    terms = magnitudes(exact, x, weights, **options)
    for name in exact:
        assert_within(name, got[name], eager[name], exact[name], terms=terms[name])


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape",
    [(2, 48, 16, 8, 8, 1), (3, 7, 20, 5, 3, 1), (2, 64, 36, 7, 7, 2), (2, 8, 8, 6, 5, 2), (1, 150, 70, 9, 11, 1)],
    ids=str,
)
def test_parity(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    *_, stride = shape
    assert_parity(*inputs(*shape), dtype, layout, stride=stride)


@settings(max_examples=60)
@given(
    shape=st.tuples(*(st.integers(1, most) for most in (4, 70, 70, 9, 9, 2))),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
)
def test_parity_for_any_shape(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    n, _, _, height, width, stride = shape
    torch.manual_seed(sum(shape))
    x, weights = inputs(*shape)
    if n * -(-height // stride) * -(-width // stride) == 1:
        with pytest.raises(UserError, match="one pixel"):
            preprocess(x, weights, stride=stride)
        return
    assert_parity(x, weights, dtype, layout, stride=stride)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_evaluation_uses_the_given_statistics(stride: int, dtype: torch.dtype) -> None:
    x, weights = inputs(2, 12, 10, 5, 7, stride)
    mean, var = torch.randn(10), torch.rand(10) + 0.5
    assert_parity(x, weights, dtype, "maps", stride=stride, mean=mean, var=var, eps=1e-3)
    one_pixel, weights = inputs(1, 3, 2, 1, 1, stride)
    assert_parity(one_pixel, weights, dtype, "maps", stride=stride, mean=mean[:2], var=var[:2])


@pytest.mark.parametrize("layout", ["planes", "maps"])
@pytest.mark.parametrize("stride", [1, 2])
def test_not_a_number_and_infinity_pass_as_in_torch(stride: int, layout: str) -> None:
    for value in (torch.nan, torch.inf, -torch.inf):
        x, weights = inputs(3, 5, 4, 6, 5, stride)
        x[1, 2, 2, 2] = value
        for training in ({}, {"mean": torch.zeros(4), "var": torch.ones(4)}):
            got = results(preprocess, x, weights, torch.float32, layout, stride=stride, **training)
            want = results(reference, x, weights, torch.float32, layout, stride=stride, **training)
            for name in want:
                assert torch.equal(got[name].isnan(), want[name].isnan()), (value, name)
                assert torch.equal(got[name].isinf(), want[name].isinf()), (value, name)


def test_zero_variance() -> None:
    x, weights = inputs(2, 6, 5, 4, 4, 1)
    weights[0][1] = 0
    x[:, 2:] = 0
    x[:, :2] = 3
    weights[0][3, 1:] = 0
    xhat, mean, var = preprocess(x.float(), [weights[0].float()])
    assert torch.equal(xhat, torch.zeros_like(xhat)) and torch.equal(var, torch.zeros_like(var))
    assert_within(
        "mean", mean.float(), *(reference(x.to(t), [weights[0].to(t)])[1].to(t) for t in (torch.float, torch.double))
    )


def by_hand(x: Tensor, weight: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """xhat with nearly exact moments: torch's batch norm adds up its own one by one, and loses digits."""
    y = torch.nn.functional.conv2d(x.relu(), weight)
    return (y - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_mean_of_ten_thousand_standard_deviations(dtype: torch.dtype) -> None:
    x, weights = inputs(4, 16, 8, 16, 16, 1)
    weights[0].abs_()
    spread = float(reference(x, weights)[2].sqrt().mean())
    x = x.relu()
    x[:, 0] = 1e4 * spread / float(weights[0][:, 0].mean())
    got, eager = (function(x.to(dtype), [weights[0].to(dtype)]) for function in (preprocess, reference))
    _, *moments = reference(x, weights)
    exact = (by_hand(x, weights[0], *moments), *moments)
    assert float((exact[1] / exact[2].sqrt()).mean()) > 5e3
    mean, deviation = exact[1].abs(), exact[2].sqrt()
    # A value errs by a rounding of its mean: what that is of its deviation, and what it does to a square.
    sizes = (mean / deviation).max(), mean.max(), 2 * (mean * deviation).max()
    for name, size, *values in zip(("xhat", "mean", "var"), sizes, got, eager, exact, strict=True):
        assert_within(name, *(value.to(dtype) for value in values[:2]), values[2], terms=float(size))


def test_sums_of_a_batch_norm() -> None:
    for shape in ((3, 5, 4, 7), (2, 40, 9, 9)):
        g, xhat = (torch.randn(shape).contiguous(memory_format=torch.channels_last) for _ in range(2))
        total, products = reduce(g, laid_out(xhat, "slice of maps"))
        exact = {"total": g.double().sum((0, 2, 3)), "products": (g.double() * xhat.double()).sum((0, 2, 3))}
        plain = {"total": g.sum((0, 2, 3)), "products": (g * xhat).sum((0, 2, 3))}
        terms = float(g.abs().sum((0, 2, 3)).max())
        assert_all_within({"total": total.float(), "products": products.float()}, plain, exact, terms=terms)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stride", [1, 2])
def test_the_gradient_is_added_where_it_is_wanted(stride: int, layout: str) -> None:
    x, weights = inputs(2, 6, 10, 5, 5, stride)
    x = laid_out(x, layout)
    y, mean, var = forward(PreprocessForward(x, weights, stride=stride))
    assert mean is not None and var is not None
    g = laid_out(torch.randn_like(y), "slice of maps")
    alpha, beta, gamma = torch.randn(3, 10, dtype=torch.float64)
    fresh, dweights = backward(PreprocessBackward(x, weights, g, y, alpha, beta, gamma, stride=stride))
    assert fresh is not None and dweights is not None
    assert maps.is_maps(fresh) == (x.stride(1) == 1) and fresh.is_contiguous() != maps.is_maps(fresh)
    for target in LAYOUTS:
        before = laid_out(torch.randn_like(x), target)
        dx = laid_out(before.clone(), target)
        out, none = backward(
            PreprocessBackward(x, weights, g, y, alpha, beta, gamma, stride=stride, dx=dx, need_weights=False)
        )
        assert out is dx and none is None
        torch.testing.assert_close(dx, before + fresh)
    none, again = backward(PreprocessBackward(x, weights, g, y, alpha, beta, gamma, stride=stride, need_dx=False))
    assert none is None and again is not None
    assert all(map(torch.equal, again, dweights))


def test_only_what_needs_a_gradient_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def watched(given: PreprocessBackward) -> object:
        asked.append((given.need_dx, given.need_weights))
        return backward(given)

    monkeypatch.setattr(_preprocess_cpu, "backward", watched)
    x, weights = inputs(2, 4, 6, 4, 4, 2)
    for of_x, of_weights in ((True, False), (False, True), (True, True)):
        given_x, given_weights = x.clone().requires_grad_(of_x), [w.clone().requires_grad_(of_weights) for w in weights]
        preprocess(given_x, given_weights, stride=2)[0].square().sum().backward()
        assert (given_x.grad is not None) == of_x and (given_weights[1].grad is not None) == of_weights
    assert asked == [(True, False), (False, True), (True, True)]


def test_statistics_carry_no_gradient() -> None:
    x, weights = inputs(2, 4, 6, 4, 4, 1)
    xhat, mean, var = preprocess(x.requires_grad_(), weights)
    assert xhat.requires_grad and not mean.requires_grad and not var.requires_grad


@pytest.fixture
def threads_kept() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads_kept")
@pytest.mark.parametrize("layout", ["planes", "maps"])
@pytest.mark.parametrize("stride", [1, 2])
def test_threads_change_no_bit(stride: int, layout: str) -> None:
    x, weights = inputs(9, 40, 36, 21, 19, stride)
    runs = []
    for threads in (1, 2, 3, 1):
        torch.set_num_threads(threads)
        runs.append(results(preprocess, x, weights, torch.float32, layout, stride=stride))
    for run in runs[1:]:
        assert all(torch.equal(run[name], runs[0][name]) for name in run)


@pytest.fixture(params=_C.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _C.isa()
    _C.choose_isa(request.param)
    yield request.param
    _C.choose_isa(before)


@pytest.mark.usefixtures("isa", "poisoned_memory")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["planes", "maps"])
def test_every_instruction_set(layout: str, dtype: torch.dtype) -> None:
    for shape in ((2, 48, 16, 8, 8, 1), (2, 70, 37, 5, 4, 1), (3, 19, 22, 7, 9, 2), (2, 3, 1, 3, 3, 2)):
        assert_parity(*inputs(*shape), dtype, layout, stride=shape[-1])


@pytest.mark.parametrize("stride", [1, 2])
def test_gradcheck(stride: int) -> None:
    x, weights = inputs(2, 3, 4, 3, 3, stride)
    x[x == 0] = 1  # where the ReLU has no derivative
    given = (laid_out(x, "maps").requires_grad_(), *(weight.requires_grad_() for weight in weights))
    statistics = {"mean": torch.zeros(4), "var": torch.ones(4)}
    for options in ({}, statistics):
        assert torch.autograd.gradcheck(lambda x, *w, o=options: preprocess(x, w, stride=stride, **o)[0], given)


@pytest.mark.parametrize("stride", [1, 2])
def test_opcheck(stride: int) -> None:
    for dtype in DTYPES:
        for layout in ("planes", "slice of maps"):
            x, weights = inputs(2, 3, 4, 5, 4, stride)
            x = laid_out(x.to(dtype), layout).requires_grad_()
            weights = [weight.to(dtype).requires_grad_() for weight in weights]
            for statistics in ((None, None), (torch.zeros(4), torch.ones(4))):
                torch.library.opcheck(torch.ops.fastdarts.preprocess, (x, weights, *statistics, stride, 1e-5))


def test_second_derivatives() -> None:
    x, weights = inputs(2, 3, 4, 3, 3, 1)
    x[x == 0] = 1  # where the ReLU has no derivative
    given = (x.requires_grad_(), weights[0].requires_grad_())

    def gradient() -> Tensor:
        return torch.autograd.grad(preprocess(x, weights)[0].square().sin().sum(), x, create_graph=True)[0]

    with pytest.raises(RuntimeError, match=r"use_backend\('reference'\)"):
        gradient().sum().backward()
    with use_backend("reference"):
        gradient().square().sum().backward()
        assert torch.autograd.gradgradcheck(lambda x, w: preprocess(x, [w])[0], given)


def test_compiles_without_a_break() -> None:
    x, weights = inputs(2, 3, 4, 5, 5, 2)
    compiled = torch.compile(lambda *args: preprocess(args[0], args[1:], stride=2), fullgraph=True, backend="aot_eager")
    own = results(preprocess, x, weights, torch.float32, stride=2)
    other = results(lambda x, w, stride: compiled(x, *w), x, weights, torch.float32, stride=2)
    assert all(torch.equal(own[name], other[name]) for name in own)


def test_meta_allocates_what_the_cpu_does() -> None:
    seen: dict[str, list[tuple[object, ...]]] = {}
    for device in ("cpu", "meta"):
        for stride in (1, 2):
            x, weights = inputs(2, 6, 10, 5, 5, stride)
            for layout in ("planes", "slice of maps"):
                given = laid_out(x, layout).to(device).requires_grad_()
                given_weights = [weight.to(device).requires_grad_() for weight in weights]
                allocations = seen.setdefault(device, [])
                with maps.observed(lambda t, a=allocations: a.append((t.shape, t.stride(), t.dtype))):
                    xhat = torch.ops.fastdarts.preprocess(given, given_weights, None, None, stride, 1e-5)[0]
                    assert xhat.device.type == device
                    xhat.sum().backward()
    assert seen["cpu"] == seen["meta"] and len(seen["cpu"]) >= 40
    with FakeTensorMode() as mode:
        fake, fake_weight = mode.from_tensor(x), mode.from_tensor(weights[0])
        assert preprocess(fake, [fake_weight], stride=1)[0].shape == (2, 5, 5, 5)


def test_autocast_leaves_the_dtype_alone() -> None:
    x, weights = inputs(2, 6, 10, 5, 5, 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert preprocess(x.float(), [weights[0].float()])[0].dtype == torch.float32


REFUSED = {
    "an empty batch": ({"x": torch.zeros(0, 3, 4, 4)}, UserError, "x has shape"),
    "three sides": ({"x": torch.zeros(3, 4, 4)}, UserError, "x has shape"),
    "no pixel": ({"x": torch.zeros(2, 3, 0, 4)}, UserError, "x has shape"),
    "half": ({"x": torch.zeros(2, 3, 4, 4).half()}, TypeError, "x is float16"),
    "a list": ({"x": [1.0]}, TypeError, "x is a list"),
    "other dtypes": ({"weights": [torch.zeros(4, 3, 1, 1).double()]}, TypeError, r"weights\[0\] is float64"),
    "a weight that is none": ({"weights": [None]}, TypeError, r"weights\[0\] is a NoneType"),
    "another width": ({"weights": [torch.zeros(4, 5, 1, 1)]}, UserError, r"weights\[0\] has shape"),
    "a 3x3 weight": ({"weights": [torch.zeros(4, 3, 3, 3)]}, UserError, r"weights\[0\] has shape"),
    "no weight": ({"weights": []}, UserError, "0 weights at stride 1"),
    "two halves": ({"weights": [torch.zeros(4, 3, 1, 1)] * 2}, UserError, "2 weights at stride 1"),
    "stride 3": ({"stride": 3}, UserError, "stride is 3"),
    "mean alone": ({"mean": torch.zeros(4)}, UserError, "one of mean and var"),
    "short statistics": ({"mean": torch.zeros(3), "var": torch.ones(3)}, UserError, "mean has shape"),
    "integer statistics": ({"mean": torch.zeros(4).int(), "var": torch.ones(4)}, TypeError, "mean is int32"),
    "statistics with gradients": (
        {"mean": torch.zeros(4).requires_grad_(), "var": torch.ones(4)},
        UserError,
        "mean requires gradients",
    ),
    "two devices": ({"weights": [torch.zeros(4, 3, 1, 1, device="meta")]}, UserError, r"weights\[0\] is on meta"),
    "one pixel": ({"x": torch.zeros(1, 3, 1, 1)}, UserError, "one pixel a channel"),
}


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, backend: str) -> None:
    changed, error, message = REFUSED[case]
    given = {"x": torch.zeros(2, 3, 4, 4), "weights": [torch.zeros(4, 3, 1, 1)]} | changed
    with use_backend(backend), pytest.raises(error, match=message):
        preprocess(given.pop("x"), given.pop("weights"), **given)


def test_the_core_checks_what_would_touch_other_memory() -> None:
    x, weights = inputs(2, 3, 4, 5, 5, 1)
    with pytest.raises(ValueError, match="not positive"):
        _C.preprocess_normalise_float32(y=64, mean=64, rstd=64, pixels=0, channels=1, threads=1)
    with pytest.raises(ValueError, match="two halves at stride 1"):
        _C.preprocess_forward_scratch(sizes=(1, 1, 1, 1, 1), outputs=(1, 1), element=4, threads=1)
    with pytest.raises(ValueError, match="null pointer"):
        _C.preprocess_reduce_float64(
            g=0, xhat=64, strides=(1, 1), pixels=1, channels=1, total=64, products=64, scratch=64, threads=1
        )
    assert preprocess(x, weights)[0].shape == (2, 4, 5, 5)
