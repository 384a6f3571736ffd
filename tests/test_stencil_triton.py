"""The stencil's Triton kernels: values, moments and every gradient against the reference."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from stencil_cases import EVERY, FAR, FOUR, Case, Inputs, cast, draw
from tolerance import assert_within
from torch import Tensor

from fastdarts.errors import UserError
from fastdarts.ops import maps
from fastdarts.reference.stencil import Conv
from fastdarts.reference.stencil import stencil as reference
from fastdarts.reference.stencil import stencil_backward as reference_backward

pytest.importorskip("triton")
from fastdarts.ops import _stencil_triton as launchers
from fastdarts.ops._records import StencilBackward, StencilForward

pytestmark = pytest.mark.usefixtures("poisoned_memory", "rounded")
TWO = (Conv(0, 3, 1, 1), Conv(1, 5, 2, 2))
SIZES = ((6, 7), (5, 3))
HOSTILE = {
    "every kernel, float32": Case(count=2, channels=5, convs=EVERY[::2], extra=3),
    "every other, float64": Case(count=1, channels=2, convs=EVERY[1::2], dtype=torch.float64, sizes=((5, 4),)),
    "float64, normalised": Case(count=1, channels=33, sizes=SIZES, convs=TWO, normalised=True, dtype=torch.float64),
    "float32, normalised": Case(channels=20, sizes=SIZES, convs=TWO, normalised=True, extra=12),
    "bfloat16": Case(channels=16, sizes=SIZES, convs=TWO, dtype=torch.bfloat16, extra=16),
    "bfloat16, normalised": Case(channels=4, sizes=SIZES, convs=TWO, dtype=torch.bfloat16, normalised=True),
    "taps far apart": Case(count=1, channels=4, sizes=((8, 11),), convs=FAR[1:5], normalised=True),
    "float16": Case(channels=3, sizes=((9, 2), (1, 1)), convs=TWO, dtype=torch.float16, extra=1),
    "one pixel, one channel": Case(count=1, channels=1, sizes=((1, 1),), convs=(EVERY[0], EVERY[5])),
    "two programs' outputs": Case(count=1, channels=145, sizes=((2, 1),), convs=(Conv(0, 1, 1, 1),)),
}


@pytest.fixture
def rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter cuts float32 to bfloat16 where the GPU rounds: sums of such values would be off."""
    interpreter = importlib.import_module("triton.runtime.interpreter")
    convert = interpreter._convert_float

    def to_nearest(values: Any, source: Any, target: Any, mode: Any) -> Any:
        if (source.name, target.name) != ("fp32", "bf16"):
            return convert(values, source, target, mode)
        low = torch.from_numpy(values.astype("float32")).bfloat16()
        return low.view(torch.int16).numpy().view("uint16")

    monkeypatch.setattr(interpreter, "_convert_float", to_nearest)


def on(device: torch.device, tensors: list[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    """Copies with the strides kept."""
    moved = []
    for x in tensors:
        low = cast(x, dtype or x.dtype)
        moved.append(torch.empty_strided(x.shape, x.stride(), dtype=low.dtype, device=device).copy_(low))
    return moved


class Given:
    """A case's tensors: exact in float64, and as they are launched."""

    def __init__(self, case: Case, device: torch.device) -> None:
        self.case, self.exact = case, draw(case)
        self.low = Inputs(*(on(device, each, case.dtype) for each in vars(self.exact).values()))
        statistics = on(device, self.exact.statistics)
        self.statistics = dict(zip(("mean", "rstd"), statistics, strict=False))
        self.arguments = self.low.sources, case.convs, self.low.depthwise, self.low.pointwise
        self.gradients = [maps.as_maps(g) for g in self.low.gradients]
        shape = 3, len(case.convs), case.channels
        self.affine = torch.randn(shape).bfloat16().double()

    def backward(self, ys: list[Tensor] | None, **more: Any) -> tuple[Any, ...]:
        alpha, beta, gamma = self.affine.to(self.gradients[0].device).unbind()
        beta = torch.zeros_like(beta) if ys is None else beta
        return launchers.backward(
            StencilBackward(*self.arguments, self.gradients, ys, alpha, beta, gamma, **self.statistics, **more)
        )

    def dys(self, ys: list[Tensor] | None) -> list[Tensor]:
        """What the kernels form on the way, in float64."""
        found = []
        for i, g in enumerate(self.gradients):
            a, b, c = (each[i][:, None, None] for each in self.affine)
            found.append(a * g.double().cpu() + c + (0 if ys is None else b * ys[i].double().cpu()))
        return found

    def reference(self, function: Any, dys: list[Tensor] | None, dtype: torch.dtype) -> tuple[Any, ...]:
        inputs = self.exact.change(lambda tensor: cast(tensor, dtype))
        more = [] if dys is None else [[dy.to(dtype) for dy in dys]]
        statistics = dict(zip(("mean", "rstd"), self.exact.statistics, strict=False))
        given = inputs.sources, self.case.convs, inputs.depthwise, inputs.pointwise
        return function(*given, *more, **statistics)

    def sizes(self, function: Any, dys: list[Tensor] | None) -> tuple[Any, ...]:
        """The sums of absolute values behind each result."""
        large = self.exact.change(torch.abs)
        more = [] if dys is None else [[dy.abs() for dy in dys]]
        statistics = dict(zip(("mean", "rstd"), large.statistics, strict=False))
        if statistics:
            statistics["mean"] = -statistics["mean"]
        return function(large.sources, self.case.convs, large.depthwise, large.pointwise, *more, **statistics)


def assert_close(name: str, got: Tensor, eager: Tensor, exact: Tensor, terms: float | Tensor = 0.0) -> None:
    assert_within(name, got.cpu(), eager, exact.double(), terms=float(torch.as_tensor(terms).abs().max()))


@pytest.fixture(params=HOSTILE.values(), ids=HOSTILE.keys())
def given(request: pytest.FixtureRequest, triton_device: torch.device) -> Given:
    return Given(request.param, triton_device)


def test_parity(given: Given) -> None:
    """Values and moments, and gradients with y read and batch norms' coefficients folded in."""
    dtype = given.case.dtype
    ys, mean, var = launchers.forward(StencilForward(*given.arguments, **given.statistics))
    exact, eager = (given.reference(reference, None, each) for each in (torch.float64, dtype))
    sizes = given.sizes(reference, None)
    for i, y in enumerate(ys):
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert_close(f"y[{i}]", y, eager[0][i], exact[0][i], sizes[0][i])
    moments = [torch.var_mean(y.cpu().double(), (0, 2, 3), correction=0) for y in ys]
    stored = [torch.stack([each[k] for each in moments]) for k in (1, 0)]
    arithmetic = maps.arithmetic(dtype)
    # Interpreted, numpy adds a tile's float32 squares one after the other.
    terms = 4 * float(stored[1].max())
    for name, got, right in (("mean", mean, stored[0]), ("var", var, stored[1])):
        assert got.dtype == torch.float64
        assert_close(name, got.to(arithmetic), right.to(arithmetic), right, terms=terms)

    dys = given.dys(ys)
    exact, eager = (given.reference(reference_backward, dys, each) for each in (torch.float64, dtype))
    got, sizes = given.backward(ys), given.sizes(reference_backward, dys)
    for kind, mine, plain, right, size in zip(
        ("dx", "ddepthwise", "dpointwise"), got, eager, exact, sizes, strict=False
    ):
        for i in range(len(right)):
            assert_close(f"{kind}[{i}]", mine[i], plain[i], right[i], size[i])
    if given.case.normalised:
        stored = [each.cpu().double() for each in got[0]]
        sums = torch.stack([g.sum((0, 2, 3)) for g in stored])
        large = max(float(g.abs().sum((0, 2, 3)).max()) for g in stored)
        assert_close("sums", got[3].to(arithmetic), sums.to(arithmetic), sums, terms=large)
        assert_close("products", got[4].to(dtype), eager[4].to(dtype), exact[4], terms=large)
    else:
        assert got[3] is got[4] is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_dx_is_added_in_place_and_weights_may_be_left_out(dtype: torch.dtype, triton_device: torch.device) -> None:
    given = Given(Case(count=2, channels=6, sizes=SIZES, convs=TWO, extra=2, dtype=dtype), triton_device)
    fresh, spread, mix, *_ = given.backward(None, weights=False)
    assert spread is mix is None
    wide = [torch.randn(2, h, w, 9, device=triton_device).to(dtype).permute(0, 3, 1, 2) for h, w in SIZES]
    before = [buffer.clone() for buffer in wide]
    got, *_ = given.backward(None, weights=False, dx=[buffer[:, 2:8] for buffer in wide])
    exact = given.reference(reference_backward, given.dys(None), torch.float64)[0]
    eager = given.reference(reference_backward, given.dys(None), dtype)[0]
    for mine, old, buffer, new, plain, right in zip(got, before, wide, fresh, eager, exact, strict=True):
        assert mine.data_ptr() == buffer[:, 2:8].data_ptr()
        assert torch.equal(buffer[:, [0, 1, 8]], old[:, [0, 1, 8]])
        kept = old[:, 2:8]
        if dtype == torch.float32:
            assert torch.equal(mine, kept + new)
        assert_close("dx", mine, (kept.cpu() + plain).to(dtype), kept.cpu().double() + right)


def test_backward_does_not_cancel_where_means_are_large(triton_device: torch.device) -> None:
    """beta y + gamma is the centred y: |mean| / std of 1e4 must not cost four digits."""
    x, noise = (torch.randn(2, 8, 3, 3, device=triton_device) for _ in range(2))
    x, y = (each.contiguous(memory_format=torch.channels_last) for each in (x.abs() + 1, 1e4 + noise))
    weights = [torch.ones(8, 1, 1, 1)], [torch.eye(8)[:, :, None, None].contiguous()]
    weights = tuple([each.to(triton_device) for each in given] for given in weights)
    one = torch.ones(1, 8, dtype=torch.float64, device=triton_device)
    mean = y.double().mean((0, 2, 3))[None]
    (dx,), *_ = launchers.backward(
        StencilBackward([x], [Conv(0, 1, 1, 1)], *weights, [torch.zeros_like(y)], [y], one, one, -mean)
    )
    centred = (y.double() - mean[0][:, None, None]).cpu()
    assert_within("dx", dx.cpu(), centred.float(), centred)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_moments_are_those_of_what_is_stored(dtype: torch.dtype, triton_device: torch.device) -> None:
    """|mean| / std up to 1e4, several tiles, and channels without variance, whose variance is exactly 0."""
    x = torch.rand(3, 4, 19, 8) + torch.logspace(0, 4, 4)[:, None, None]
    x[:, 1] = 3.0
    x = maps.as_maps(x.to(device=triton_device, dtype=dtype))
    eye = torch.eye(4, device=triton_device)[:, :, None, None]
    (y,), mean, var = launchers.forward(StencilForward([x], [Conv(0, 1, 1, 1)], [torch.ones_like(eye[:, :1])], [eye]))
    assert torch.equal(y, x)
    exact = torch.var_mean(y.double(), (0, 2, 3), correction=0)
    assert var[0, 1] == 0 and mean[0, 1] == 3
    # Channel by channel, in units of its own spread; float64 sees the mean of 1e4 rounded at each merge, and
    # interpreted, numpy adds the 456 float32 squares of a tile one after the other.
    arithmetic = maps.arithmetic(dtype)
    terms = 1e6 if dtype == torch.float64 else 64.0
    for key, got, right, unit in (("var", var[0], exact[0], exact[0]), ("mean", mean[0], exact[1], exact[0].sqrt())):
        error = ((got - right) / torch.where(unit > 0, unit, 1)).to(arithmetic).cpu()
        none = torch.zeros_like(error)
        assert_within(key, error, none, none.double(), terms=terms)


@pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")  # of numpy, interpreting
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_not_a_number_and_infinity_stay_where_eager_has_them(value: float, triton_device: torch.device) -> None:
    case = Case(count=2, channels=3, sizes=((6, 5), (4, 6)), convs=FOUR[::3] + FOUR[2:3])
    given = Given(case, triton_device)
    for sources in (given.low.sources, given.exact.sources):
        sources[0][1, 2, 4, 3] = value
        sources[1][0, 0, 0, 0] = -value
    got, exact = launchers.forward(StencilForward(*given.arguments)), given.reference(reference, None, torch.float32)
    named = [*zip(got[0], exact[0], strict=True), *zip(got[1:], exact[1:], strict=True)]
    dx = given.reference(reference_backward, given.dys(None), torch.float32)[0]
    named += zip(given.backward(None)[0], dx, strict=True)
    for mine, right in named:
        assert torch.equal(mine.cpu().isnan(), right.isnan())
        assert torch.equal(mine.cpu().isinf(), right.isinf())


def test_slots_change_roundings_only_and_runs_nothing(
    triton_device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight's gradient is a sum over slots of several tiles each."""
    given = Given(Case(count=3, channels=3, sizes=((16, 33),), convs=(Conv(0, 3, 1, 1),)), triton_device)
    monkeypatch.setattr(launchers, "SLOTS", 2)
    once, again = given.backward(None), given.backward(None)
    monkeypatch.undo()
    exact, eager = (
        given.reference(reference_backward, given.dys(None), each) for each in (torch.float64, torch.float32)
    )
    for k, name in ((1, "ddepthwise"), (2, "dpointwise")):
        assert torch.equal(once[k][0], again[k][0])
        assert_close(name, once[k][0], eager[k][0], exact[k][0])


def test_sources_without_convolutions_and_calls_without(triton_device: torch.device) -> None:
    case = Case(count=1, channels=2, sizes=SIZES, convs=(Conv(1, 3, 1, 1),))
    given = Given(case, triton_device)
    dx, *_ = given.backward(None)
    assert not dx[0].any() and dx[1].any()
    kept = [torch.randn_like(x) for x in given.low.sources]
    before = [x.clone() for x in kept]
    given.backward(None, dx=kept, weights=False)
    assert torch.equal(kept[0], before[0]) and not torch.equal(kept[1], before[1])
    ys, mean, var = launchers.forward(StencilForward(given.low.sources, [], [], []))
    assert ys == [] and mean.shape == var.shape == (0, 2)


@pytest.mark.parametrize("normalised", [False, True])
def test_meta_allocates_the_same(normalised: bool, triton_device: torch.device) -> None:
    given = Given(Case(count=1, channels=3, sizes=SIZES, convs=TWO, normalised=normalised), triton_device)

    def run(device: torch.device) -> list[tuple[Any, ...]]:
        seen: list[tuple[Any, ...]] = []
        moved = Given(given.case, torch.device("cpu"))
        moved.low = Inputs(*(on(device, each) for each in vars(moved.low).values()))
        moved.arguments = moved.low.sources, given.case.convs, moved.low.depthwise, moved.low.pointwise
        moved.gradients = [maps.as_maps(g) for g in moved.low.gradients]
        moved.statistics = {key: value.to(device) for key, value in moved.statistics.items()}
        moved.affine = moved.affine.to(device)
        with maps.observed(lambda x: seen.append((x.shape, x.stride(), x.dtype))):
            launchers.forward(StencilForward(*moved.arguments, **moved.statistics))
            moved.backward(None)
            moved.backward(moved.gradients, weights=False)
        return seen

    assert run(torch.device("meta")) == run(triton_device)


def test_refusals(triton_device: torch.device) -> None:
    given = Given(Case(count=1, channels=3, sizes=SIZES, convs=TWO, normalised=True), triton_device)
    with pytest.raises(UserError, match="dx is given with mean"):
        given.backward(None, dx=given.low.sources)
    given.gradients[0] = given.gradients[0].contiguous()
    with pytest.raises(UserError, match="g has shape"):
        given.backward(None)
    sources, convs, depthwise, pointwise = given.arguments
    with pytest.raises(UserError, match="the weights of"):
        launchers.forward(StencilForward(sources, [replace(conv, kernel=7) for conv in convs], depthwise, pointwise))
