"""mixed_sum on Triton: the library op against plain torch, the launchers against float64, hostile shapes, memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fastdarts import use_backend
from fastdarts.ops import _mixed_sum_cpu as cpu
from fastdarts.ops import maps
from fastdarts.ops._records import SumBackward, SumForward, SumReduce
from fastdarts.reference.parameter_free import avg_pool, max_pool
from tests.mixed_sum_cases import EVERY, INF, NAN, STRIDED, Case, Inputs, assert_parity, build, statistics
from tests.tolerance import assert_within

triton_ops = pytest.importorskip("fastdarts.ops._mixed_sum_triton")

DTYPES = [torch.float32, torch.bfloat16, torch.float64]
SKIP = cpu.Edge(1, True, False, False)
LARGEST, AVERAGE = cpu.Edge(1, False, True, False), cpu.Edge(2, False, False, True)


@pytest.fixture(autouse=True)
def quiet_interpreter():
    """Interpreted arithmetic is numpy's, which warns of what is not finite."""
    with np.errstate(all="ignore"):
        yield


def moved(inputs: Inputs, device: torch.device) -> Inputs:
    def move(x: Tensor) -> Tensor:
        return x.detach().to(device).requires_grad_()

    bypass = None if inputs.bypass is None else move(inputs.bypass)
    lists = [move(y) for y in inputs.ys], move(inputs.weights), [move(x) for x in inputs.sources]
    running = tuple(each.to(device) for each in inputs.running)
    return Inputs(*lists, move(inputs.edge_weights), bypass, running, inputs.g.to(device))  # type: ignore[arg-type]


def check(case: Case, device: torch.device, inputs: Inputs | None = None) -> None:
    """The library op's output and gradients, computed by Triton's launchers."""
    with use_backend("triton"):
        assert_parity(case, moved(build(case) if inputs is None else inputs, device))


@pytest.mark.parametrize(
    "case",
    [
        Case(),
        Case(mixed=1, terms=1, height=1, width=2, edges=(SKIP,)),
        Case(mixed=3, partial=2, batch=1, edges=(STRIDED, EVERY)),
        Case(mixed=4, partial=4, edges=(STRIDED, cpu.Edge(2, False, False, False)), odd=False),
        Case(mixed=20, terms=9, batch=1, edges=(LARGEST, AVERAGE, SKIP), bypass=False),
        Case(mixed=36, terms=5, height=3, width=7, edges=()),
        Case(terms=0, edges=(EVERY, EVERY, STRIDED), ties=True, training=False),
        Case(partial=3, mixed=2, terms=2, ties=True, height=4, width=3),
    ],
    ids=lambda case: f"C{case.mixed}-K{case.partial}-T{case.terms}-E{len(case.edges)}",
)
def test_parity(case: Case, triton_device: torch.device) -> None:
    check(case, triton_device)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("partial", [1, 2])
def test_every_dtype(dtype: torch.dtype, partial: int, triton_device: torch.device) -> None:
    check(Case(dtype=dtype, partial=partial, batch=1), triton_device)


def test_float16(triton_device: torch.device) -> None:
    case = Case(mixed=4, partial=2, edges=(EVERY,))
    half, double = torch.float16, torch.float64
    got, exact = (launch(replace(case, dtype=dtype), triton_device, like=half) for dtype in (half, double))
    largest = max(float(value.abs().max()) for value in exact.values())  # a sum that cancels has terms of that size
    for name, ref64 in exact.items():
        found = got[name] if got[name].dtype == half else got[name].float()  # sums are float32's
        assert_within(name, found, ref64.to(found.dtype), ref64, terms=largest)


@pytest.mark.parametrize("offset", [100.0, -1e4])
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_a_mean_ten_thousand_times_the_deviation(
    dtype: torch.dtype, offset: float, triton_device: torch.device
) -> None:
    case = Case(batch=1, mixed=8, height=6, width=5, edges=(EVERY, STRIDED), offset=offset, dtype=dtype)
    check(case, triton_device)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("partial", [1, 2])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_what_is_not_finite_spreads_as_in_torch(
    training: bool, partial: int, value: float, triton_device: torch.device
) -> None:
    case = Case(mixed=4, partial=partial, training=training)
    inputs = build(case)
    with torch.no_grad():
        for x in (*inputs.ys, *inputs.sources):
            x[0, 1, 2, 1] = x[1, 3, 0, 0] = x[1, 3, 1, 1] = value
            x[1, -1, 0, 0] = x[0, 2, 0, 1] = value
    check(case, triton_device, inputs)


@pytest.mark.parametrize("edge", [EVERY, STRIDED])
def test_a_channel_of_minus_infinity_has_a_first_maximum_too(edge: cpu.Edge, triton_device: torch.device) -> None:
    case = Case(mixed=2, partial=2, training=False, terms=0, edges=(edge,), batch=1)
    inputs = build(case)
    with torch.no_grad():
        for x in inputs.sources:
            x.fill_(-INF)
    check(case, triton_device, inputs)


@pytest.mark.parametrize("edge", [LARGEST, cpu.Edge(2, False, True, False)])
def test_the_first_maximum_wins_and_zero_has_no_sign(edge: cpu.Edge, triton_device: torch.device) -> None:
    case = Case(mixed=2, partial=2, height=6, width=7, edges=(edge,), terms=0, odd=False, training=False)
    inputs = build(case)
    with torch.no_grad():
        x = inputs.sources[0]
        x.copy_(torch.where(torch.rand(x.shape) < 0.5, 0.0, -0.0))
        x[0, 0, :3] = NAN  # of several, the last one
    check(case, triton_device, inputs)


def launch(case: Case, device: torch.device, kernels=triton_ops, like: torch.dtype | None = None) -> dict[str, Tensor]:
    """Everything that the launchers write, for one node; of values that `like` holds too."""
    inputs = build(case)
    inputs = inputs if like is None else inputs.to(like).to(case.dtype)
    mean, var, means, variances = (x.to(device) for x in statistics(inputs, replace(case, training=False)))
    rstd, pool_rstd = (var + 1e-5).rsqrt(), (variances + 1e-5).rsqrt()
    inputs = moved(inputs, device)
    ys, sources = ([x.detach() for x in group] for group in (inputs.ys, inputs.sources))
    n, channels = case.batch, case.mixed * case.partial
    out = maps.empty_maps(n, channels + 3, case.height, case.width, like=inputs.g)[:, :channels]
    scale = inputs.weights.detach().double()[:, None] * rstd
    free = inputs.edge_weights.detach().double()[:, :, None] * torch.cat(
        [torch.ones_like(pool_rstd[:, :1]), pool_rstd], 1
    )
    edges, partial = case.edges, case.partial
    bypass = None if inputs.bypass is None else inputs.bypass.detach()
    kernels.forward(SumForward(out, ys, scale, None, sources, edges, free, bypass, partial, mean=mean, pool_mean=means))
    found = kernels.reduce(SumReduce(inputs.g, ys, mean, rstd, sources, edges, means, pool_rstd, partial))
    dx = [maps.zeros_maps(*x.shape, like=x) for x in sources]
    kernels.backward(
        SumBackward(found.g, sources, edges, free, free / 7, free / 5, bypass, dx, partial, pool_mean=means)
    )
    moments = [
        kernels.pool_moments(x, e.stride, max_pool=True, avg_pool=True) for x, e in zip(sources, edges, strict=True)
    ]
    sums = {name: getattr(found, name) for name in ("g", "total", "products", "free")}
    sums |= {} if found.bypass is None else {"bypass": found.bypass}
    lists = {f"dx[{i}]": x for i, x in enumerate(dx)} | {f"moments[{i}]": torch.stack(x) for i, x in enumerate(moments)}
    return {"out": out} | sums | lists


MANY = Case(batch=3, mixed=6, height=4, width=5, terms=9, edges=(EVERY, EVERY, STRIDED))


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("case", [MANY, replace(MANY, mixed=4, partial=4), Case(mixed=17, terms=1, edges=())])
def test_several_programs_slots_and_images_do_what_the_cpu_does(
    case: Case, triton_device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small tables stand for large maps: loops over images, tiles, slots; nothing is read before it was written."""
    for name, value in {"_PROGRAMS": 0, "_ELEMENTS": 1024, "_GATHERED": 128, "_TILE": 64, "_SLOTS": 3}.items():
        monkeypatch.setattr(triton_ops, name, value)
    case = replace(case, dtype=torch.float64)
    got = launch(case, triton_device)
    expected = launch(case, torch.device("cpu"), cpu)
    largest = max(float(value.abs().max()) for value in expected.values() if value.numel())
    for name, wanted in expected.items():
        assert_within(name, got[name].cpu(), wanted, wanted.double(), terms=largest)


@pytest.mark.usefixtures("poisoned_memory")
def test_gaps_between_pixels_are_left_alone(triton_device: torch.device) -> None:
    out = maps.empty_maps(2, 12, 4, 4, like=torch.empty(0, device=triton_device))
    x, zeros = maps.zeros_maps(2, 4, 4, 4, like=out), torch.zeros(0, 4, device=triton_device)
    ones = torch.ones(1, 3, 4, device=triton_device)
    triton_ops.forward(SumForward(out[:, 4:8], [], zeros, None, [x], [EVERY], ones, None, 1))
    assert out[:, :4].isnan().all() and out[:, 8:].isnan().all() and (out[:, 4:8] == 0).all()


def test_a_node_of_nothing_is_its_bias(triton_device: torch.device) -> None:
    out, bias = maps.empty_maps(2, 6, 3, 3, like=torch.empty(0, device=triton_device)), torch.arange(3.0)
    none, free = (torch.zeros(*shape, device=triton_device) for shape in ((0, 3), (0, 3, 3)))
    triton_ops.forward(SumForward(out, [], none, bias.to(triton_device), [], [], free, None, 2))
    assert torch.equal(out[0, :, 0, 0].cpu(), torch.tensor([0.0, 0, 1, 0, 2, 0]))  # shuffled
    pools = torch.zeros(0, 2, 3, device=triton_device)
    found = triton_ops.reduce(SumReduce(out, [], none, none, [], [], pools, pools, 2))
    assert torch.equal(found.g[0, :, 0, 0].cpu(), torch.tensor([0.0, 1, 2, 0, 0, 0]))
    assert torch.equal(found.total.cpu(), torch.tensor([0.0, 18, 36], dtype=torch.float64))
    assert found.products.numel() == found.free.numel() == 0 and found.bypass is not None


@pytest.mark.parametrize("partial", [1, 2])
def test_two_edges_from_one_source_add_up(partial: int, triton_device: torch.device) -> None:
    x, g = (torch.randn(2, 8, 5, 6).to(triton_device, memory_format=torch.channels_last) for _ in range(2))
    coefficients = torch.randn(3, 2, 3, 8 // partial, device=triton_device).double()
    bypass = torch.tensor([0.5, 2.0], device=triton_device)

    def added(dx: list[Tensor]) -> list[Tensor]:
        triton_ops.backward(SumBackward(g, [x, x], [EVERY, EVERY], *coefficients, bypass, dx, partial))
        return dx

    both = torch.ones_like(x)
    added([both, both])
    first, second = added([torch.ones_like(x), torch.zeros_like(x)])
    assert_within("dx", both, first + second, first.double() + second.double(), terms=float(first.abs().max()) * 2)


@pytest.mark.parametrize("edge", [EVERY, STRIDED])
@pytest.mark.parametrize("shape", [(1, 3, 9, 3), (2, 5, 1, 1)], ids=str)
def test_strips_of_rows_meet(
    shape: tuple[int, ...], edge: cpu.Edge, triton_device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ties and values that are not finite on every border, in float64: the CPU's gradient."""
    monkeypatch.setattr(triton_ops, "_ROWS", 4)
    n, channels, height, width = shape
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(n, height, width, channels, generator=draw, dtype=torch.float64).round().permute(0, 3, 1, 2)
    kind = torch.rand(x.shape, generator=draw)
    for value, below in ((-INF, 0.4), (INF, 0.2), (NAN, 0.1)):
        x[kind < below] = value
    side = [-(-pixels // edge.stride) for pixels in (height, width)]
    g = torch.randn(n, *side, channels, generator=draw, dtype=torch.float64).permute(0, 3, 1, 2)
    alpha, gamma = torch.randn(2, 1, 3, channels, generator=draw, dtype=torch.float64)

    def gradient(kernels, device: torch.device) -> Tensor:
        given = [each.to(device) for each in (g, x, alpha, torch.zeros_like(alpha), gamma)]
        dx = maps.zeros_maps(*shape, like=given[1])
        kernels.backward(SumBackward(given[0], [given[1]], [edge], *given[2:], None, [dx], 1))
        return dx.cpu()

    wanted = gradient(cpu, torch.device("cpu"))
    # A pixel takes part in nine windows of either pool.
    terms = 18 * float(g.abs().max() * alpha.abs().max() + gamma.abs().max())
    assert_within("dx", gradient(triton_ops, triton_device), wanted, wanted, terms=terms)


@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (1, 17, 1, 3)], ids=str)
@pytest.mark.parametrize(("stride", "offset"), [(1, 1e4), (2, 0.0)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_moments_of_pools(
    shape: tuple[int, ...], stride: int, offset: float, dtype: torch.dtype, triton_device: torch.device
) -> None:
    n, channels, height, width = shape
    x = (torch.randn(n, height, width, channels + 2) + offset).to(triton_device, dtype)
    x = x.permute(0, 3, 1, 2)[:, :channels]
    mean, var = triton_ops.pool_moments(x, stride, max_pool=True, avg_pool=True)
    for i, pool in enumerate((max_pool, avg_pool)):
        for name, got, moment in (("mean", mean, torch.mean), ("var", var, lambda v, d: v.var(d, correction=0))):
            exact = moment(pool(x.double(), stride=stride), (0, 2, 3))
            own = moment(pool(x.to(maps.arithmetic(dtype)), stride=stride).double(), (0, 2, 3))
            rounding = torch.finfo(maps.arithmetic(dtype)).eps / torch.finfo(torch.float64).eps
            assert_within(f"{name}[{i}]", got[i], own, exact, terms=9 * rounding * (offset + 5))


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_variances_have_their_digits(offset: float, triton_device: torch.device, monkeypatch) -> None:
    """Values that float32 holds exactly: what is left are the errors of the sums, small against the variance."""
    monkeypatch.setattr(triton_ops, "_SLOTS", 3)
    x = (torch.randint(-8, 8, (2, 13, 12, 20)) / 4.0 + offset).permute(0, 3, 1, 2).to(triton_device)
    _, var = triton_ops.pool_moments(x, 1, max_pool=True, avg_pool=False)
    exact = max_pool(x.double()).var((0, 2, 3), correction=0)
    assert_within("var", var[0].float(), exact.float(), exact)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_moments_of_what_is_not_finite(value: float, triton_device: torch.device) -> None:
    x = torch.randn(40, 3, 2, 2).to(triton_device, memory_format=torch.channels_last)
    x[0, 0, 0, 0] = x[20, 0, 1, 1] = x[39, 2, 1, 1] = value
    mean, var = triton_ops.pool_moments(x, 1, max_pool=True, avg_pool=True)
    for i, pool in enumerate((max_pool, avg_pool)):
        own, pooled = (pool(values).double() for values in (x, x.double()))  # the values are float32's
        eager, exact = own.mean((0, 2, 3)).float(), pooled.mean((0, 2, 3))
        assert_within("mean", mean[i].float(), eager, exact, terms=float(x.nan_to_num(0, 0, 0).abs().max()))
        assert torch.equal(var[i].isnan(), pooled.var((0, 2, 3)).isnan())


@pytest.mark.usefixtures("poisoned_memory")
def test_moments_of_one_pool_only(triton_device: torch.device) -> None:
    x = torch.randn(2, 3, 5, 5).to(triton_device, memory_format=torch.channels_last)
    both = triton_ops.pool_moments(x, 1, max_pool=True, avg_pool=True)
    for row, flags in enumerate(({"max_pool": True, "avg_pool": False}, {"max_pool": False, "avg_pool": True})):
        for moment, all_moments in zip(triton_ops.pool_moments(x, 1, **flags), both, strict=True):
            assert torch.equal(moment[row], all_moments[row]) and (moment[1 - row] == 0).all()
    x[0, 0, 0, 0] = NAN
    for moment in triton_ops.pool_moments(x, 1, max_pool=False, avg_pool=False):
        assert (moment == 0).all()


@pytest.mark.parametrize("partial", [1, 2])
def test_on_meta_the_same_is_allocated(partial: int, triton_device: torch.device) -> None:
    case = Case(mixed=4, partial=partial, gap=0, edges=(EVERY,), terms=1)
    inputs = build(case)
    stats, sources = statistics(inputs, case), [x.detach() for x in inputs.sources]

    def node(move: Callable[[Tensor], Tensor]) -> list[tuple]:
        found: list[Tensor] = []
        out, g = move(torch.empty_like(inputs.g)), move(inputs.g)
        ys, xs = [move(y.detach()) for y in inputs.ys], [move(x) for x in sources]
        mean, rstd, pool_mean, pool_rstd = (move(each) for each in stats)
        free, bypass = torch.cat([pool_mean, pool_mean[:, :1]], 1), move(inputs.bypass.detach())
        with maps.observed(found.append):
            triton_ops.forward(SumForward(out, ys, mean, None, xs, case.edges, free, bypass, partial))
            reduced = triton_ops.reduce(SumReduce(g, ys, mean, rstd, xs, case.edges, pool_mean, pool_rstd, partial))
            triton_ops.backward(SumBackward(reduced.g, xs, case.edges, free, free, free, bypass, xs, partial))
            triton_ops.pool_moments(xs[0], 1, max_pool=True, avg_pool=False)
        return [(tensor.shape, tensor.dtype, tensor.stride()) for tensor in found]

    assert node(lambda x: x.to(triton_device, copy=True)) == node(lambda x: x.to("meta"))
