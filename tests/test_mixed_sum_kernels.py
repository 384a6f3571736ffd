"""The launchers of mixed_sum: gaps, aliases, threads, instruction sets, memory, moments of pools."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastdarts import _backend
from fastdarts.ops import maps
from fastdarts.ops._mixed_sum_cpu import Edge, backward, forward, pool_moments, reduce
from fastdarts.ops._records import SumBackward, SumForward, SumReduce
from fastdarts.reference.parameter_free import avg_pool, max_pool
from tests.mixed_sum_cases import DTYPES, EVERY, INF, NAN, STRIDED, Case, assert_parity, build, statistics
from tests.tolerance import assert_within

WIDE = Case(batch=5, mixed=16, height=20, width=12, terms=9, edges=(EVERY, STRIDED, Edge(1, True, False, False)))
PARTIAL = replace(WIDE, mixed=4, partial=4, terms=4)


def launch(case: Case, gap: int = 3, pool_mean: bool = True) -> dict[str, Tensor]:
    """Everything that the launchers write, for one node."""
    inputs = build(case)
    mean, var, means, variances = statistics(inputs, case)
    rstd, pool_rstd = (var + 1e-5).rsqrt(), (variances + 1e-5).rsqrt()
    shape = (case.batch, case.mixed * case.partial, case.height, case.width)
    out = maps.empty_maps(shape[0], shape[1] + gap, *shape[2:], like=inputs.g)[:, : shape[1]]
    scale = inputs.weights.detach().double()[:, None] * rstd
    free = inputs.edge_weights.detach().double()[:, :, None] * torch.cat(
        [torch.ones_like(pool_rstd[:, :1]), pool_rstd], 1
    )
    sources, edges, bypass, partial = [x.detach() for x in inputs.sources], case.edges, inputs.bypass, case.partial
    forward(SumForward(out, inputs.ys, scale, None, sources, edges, free, bypass, partial, mean=mean, pool_mean=means))
    found = reduce(SumReduce(inputs.g, inputs.ys, mean, rstd, sources, edges, means, pool_rstd, partial))
    dx = [maps.zeros_maps(*x.shape, like=x) for x in sources]
    backward(SumBackward(found.g, sources, edges, free, free / 7, free / 5, bypass, dx, partial, pool_mean=means))
    moments = [pool_moments(x, e.stride, max_pool=True, avg_pool=True) for x, e in zip(sources, edges, strict=True)]
    sums = {name: getattr(found, name) for name in ("g", "total", "products", "free")}
    sums |= {} if found.bypass is None else {"bypass": found.bypass}
    lists = {f"{name}[{i}]": x for name, group in (("dx", dx), ("moments", moments)) for i, x in enumerate(group)}
    return {"out": out} | sums | {k: torch.stack(x) if isinstance(x, tuple) else x for k, x in lists.items()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize(
    "case", [WIDE, PARTIAL, replace(WIDE, dtype=torch.bfloat16)], ids=["wide", "partial", "bfloat16"]
)
def test_threads_change_no_bit(case: Case) -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            found.append(launch(case))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert_equal(found[0], other)


@pytest.fixture(params=_backend.native().isas() if _backend.native() else [])
def isa(request: pytest.FixtureRequest):
    core = _backend.native()
    before = core.isa()
    core.choose_isa(request.param)
    yield request.param
    core.choose_isa(before)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [WIDE, PARTIAL, Case(mixed=3, partial=2), Case(mixed=36, width=7)])
def test_every_instruction_set(case: Case, dtype: torch.dtype) -> None:
    assert_parity(replace(case, dtype=dtype))
    assert_parity(replace(case, dtype=dtype, training=False, ties=True))


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("case", [WIDE, PARTIAL, Case(mixed=1, height=1, width=2), Case(mixed=17, edges=(), terms=1)])
def test_everything_is_written_and_nothing_read_before(case: Case) -> None:
    for name, tensor in launch(case).items():
        assert tensor.isfinite().all(), name


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("case", [WIDE, PARTIAL])
def test_gaps_between_pixels_are_left_alone(case: Case) -> None:
    out = maps.empty_maps(2, 12, 4, 4, like=torch.empty(0))
    x = maps.zeros_maps(2, 4, 4, 4, like=out)
    forward(SumForward(out[:, 4:8], [], torch.zeros(0, 4), None, [x], [EVERY], torch.ones(1, 3, 4), None, 1))
    assert out[:, :4].isnan().all() and out[:, 8:].isnan().all() and (out[:, 4:8] == 0).all()
    assert_equal(launch(case, gap=0), launch(case, gap=5))


def test_a_node_of_nothing_is_its_bias() -> None:
    out, bias = maps.empty_maps(2, 6, 3, 3, like=torch.empty(0)), torch.arange(3.0)
    forward(SumForward(out, [], torch.zeros(0, 3), bias, [], [], torch.zeros(0, 3, 3), None, 2))
    assert torch.equal(out[0, :, 0, 0], torch.tensor([0.0, 0, 1, 0, 2, 0]))  # shuffled


def test_a_bias_does_the_same_as_means() -> None:
    case = replace(WIDE, dtype=torch.float64)
    inputs, free = build(case), torch.randn(3, 3, 16).double()
    mean, _, pool_mean, _ = statistics(inputs, case)
    scale, sources = torch.randn(9, 16).double(), [x.detach() for x in inputs.sources]
    wanted = torch.tensor([[e.max_pool, e.avg_pool] for e in case.edges])[:, :, None]
    bias = -(scale * mean).sum(0) - (free[:, 1:] * pool_mean * wanted).sum((0, 1))
    one, other = (maps.empty_maps(5, 16, 20, 12, like=sources[0]) for _ in range(2))
    forward(SumForward(one, inputs.ys, scale, bias, sources, case.edges, free, None, 1))
    forward(
        SumForward(other, inputs.ys, scale, None, sources, case.edges, free, None, 1, mean=mean, pool_mean=pool_mean)
    )
    largest = max(float(value.detach().abs().max()) for value in (*inputs.ys, *sources))  # no pool or mean is larger
    factors = torch.cat([scale, free.flatten(0, 1)]).abs().sum(0)
    assert_within("node", one, one, other, terms=2 * largest * float(factors.max()))


@pytest.mark.usefixtures("isa")
def test_a_mean_of_ten_thousand_deviations_keeps_its_digits() -> None:
    """It is no float32 number: what rounding it leaves behind must not be lost, forward or backward."""
    y = (1e4 + torch.randn(3, 4, 5, 6)).to(memory_format=torch.channels_last)
    mean, one = y.double().mean((0, 2, 3))[None], torch.ones(1, 4, dtype=torch.float64)
    out, none = maps.empty_maps(3, 4, 5, 6, like=y), torch.zeros(0, 3, 4, dtype=torch.float64)
    forward(SumForward(out, [y], one, None, [], [], none, None, 1, mean=mean))
    centred = y.double() - mean[0][:, None, None]
    assert_within("node", out, centred.float(), centred)

    largest, zeros = Edge(1, False, True, False), torch.zeros(1, 3, 4, dtype=torch.float64)
    found = []
    for x in (y, y.double()):
        dx = maps.zeros_maps(3, 4, 5, 6, like=x)
        means = max_pool(y.double()).mean((0, 2, 3)).expand(1, 2, 4)
        backward(
            SumBackward(torch.zeros_like(x), [x], [largest], zeros, zeros + 1, zeros, None, [dx], 1, pool_mean=means)
        )
        found.append(dx)
    assert_within("dx", found[0], found[1].float(), found[1])


@pytest.mark.parametrize("dtype", DTYPES[::2], ids=str)
@pytest.mark.parametrize("partial", [1, 2])
def test_two_edges_from_one_source_add_up(dtype: torch.dtype, partial: int) -> None:
    x, g = (torch.randn(2, 8, 5, 6).to(dtype, memory_format=torch.channels_last) for _ in range(2))
    edges = [EVERY, Edge(1, False, True, False)]
    coefficients = torch.randn(3, 2, 3, 8 // partial).double()

    def added(dx: list[Tensor]) -> list[Tensor]:
        backward(SumBackward(g, [x, x], edges, *coefficients, torch.tensor([0.5, 2.0]), dx, partial))
        return dx

    both = torch.ones_like(x)
    added([both, both])
    first, second = added([torch.ones_like(x), torch.zeros_like(x)])
    assert_within("dx", both, first + second, first.double() + second.double(), terms=float(first.abs().max()) * 2)


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 3), st.sampled_from([1, 3, 4, 16, 17]), st.integers(1, 9), st.integers(1, 9)),
    stride=st.sampled_from([1, 2]),
    dtype=st.sampled_from(DTYPES),
    offset=st.sampled_from([0.0, 3.0, 1e4]),
    gap=st.sampled_from([0, 2]),
    seed=st.integers(0, 2**31),
)
def test_moments_of_pools(shape, stride: int, dtype: torch.dtype, offset: float, gap: int, seed: int) -> None:
    n, channels, height, width = shape
    draw = torch.Generator().manual_seed(seed)
    x = (torch.randn(n, height, width, channels + gap, generator=draw) + offset).to(dtype)
    x = x.permute(0, 3, 1, 2)[:, :channels]
    mean, var = pool_moments(x, stride, max_pool=True, avg_pool=True)
    for i, pool in enumerate((max_pool, avg_pool)):
        for name, got, moment in (("mean", mean, torch.mean), ("var", var, lambda v, d: v.var(d, correction=0))):
            exact = moment(pool(x.double(), stride=stride), (0, 2, 3))
            # The values are those that float32 arithmetic has, their moments are float64's.
            own = moment(pool(x.to(maps.arithmetic(dtype)), stride=stride).double(), (0, 2, 3))
            rounding = torch.finfo(maps.arithmetic(dtype)).eps / torch.finfo(torch.float64).eps
            assert_within(f"{name}[{i}]", got[i], own, exact, terms=9 * rounding * (offset + 5))


def test_moments_of_one_pool_only() -> None:
    x = torch.randn(2, 3, 5, 5).to(memory_format=torch.channels_last)
    both = pool_moments(x, 1, max_pool=True, avg_pool=True)
    for row, flags in enumerate(({"max_pool": True, "avg_pool": False}, {"max_pool": False, "avg_pool": True})):
        for moment, all_moments in zip(pool_moments(x, 1, **flags), both, strict=True):
            assert torch.equal(moment[row], all_moments[row]) and (moment[1 - row] == 0).all()


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_moments_of_what_is_not_finite(value: float) -> None:
    x = torch.randn(70, 3, 2, 2).to(memory_format=torch.channels_last)
    x[0, 0, 0, 0] = x[40, 0, 1, 1] = x[69, 2, 1, 1] = value
    mean, var = pool_moments(x, 1, max_pool=True, avg_pool=True)
    for i, pool in enumerate((max_pool, avg_pool)):
        own, pooled = (pool(values).double() for values in (x, x.double()))  # the values are float32's
        eager, exact = own.mean((0, 2, 3)).float(), pooled.mean((0, 2, 3))
        assert_within("mean", mean[i].float(), eager, exact, terms=float(x.nan_to_num(0, 0, 0).abs().max()))
        assert torch.equal(var[i].isnan(), pooled.var((0, 2, 3)).isnan())


def test_on_meta_the_same_is_allocated() -> None:
    case, seen = replace(PARTIAL, gap=0), []
    inputs = build(case)
    stats, sources = statistics(inputs, case), [x.detach() for x in inputs.sources]

    def node(move: Callable[[Tensor], Tensor]) -> list[tuple]:
        found: list[Tensor] = []
        out, g = move(torch.empty_like(inputs.g)), move(inputs.g)
        ys, xs = [move(y.detach()) for y in inputs.ys], [move(x) for x in sources]
        mean, rstd, pool_mean, pool_rstd = (move(each) for each in stats)
        free, bypass = torch.cat([pool_mean, pool_mean[:, :1]], 1), move(inputs.bypass.detach())
        with maps.observed(found.append):
            forward(SumForward(out, ys, mean, None, xs, case.edges, free, bypass, case.partial))
            reduced = reduce(SumReduce(g, ys, mean, rstd, xs, case.edges, pool_mean, pool_rstd, case.partial))
            backward(SumBackward(reduced.g, xs, case.edges, free, free, free, bypass, xs, case.partial))
            pool_moments(xs[0], 1, max_pool=True, avg_pool=False)
        return [(tensor.shape, tensor.dtype, tensor.stride()) for tensor in found]

    for move in (lambda x: x.clone(), lambda x: x.to("meta")):
        seen.append(node(move))
    assert seen[0] == seen[1] and len(seen[0]) > 8


@pytest.mark.parametrize(
    "change",
    [
        {"threads": 0},
        {"shape": (0, 4, 1, 3, 3)},
        {"shape": (2, 4, 3, 3, 3)},
        {"out": 0},
        {"out": 2},
        {"ys": [0]},
        {"bias": 0},
    ],
)
def test_the_native_function_guards_its_memory(change: dict[str, object]) -> None:
    out, scratch = torch.full((2, 3, 3, 4), -1.0), torch.empty(1 << 20, dtype=torch.uint8)
    bias = torch.zeros(4, dtype=torch.float64)
    addresses = dict.fromkeys(("scale", "mean", "free", "pool_mean", "bypass"), 0)
    given = {"shape": (2, 4, 1, 3, 3), "ys": [], "edges": [], "out": out.data_ptr(), "out_pixel": 4, "threads": 1}
    given |= addresses | {"bias": bias.data_ptr(), "scratch": scratch.data_ptr()}
    with pytest.raises(ValueError):
        _backend.native().mixed_sum_forward_float32(**(given | change))
    assert (out == -1).all()
