"""mixed_sum, the library op: output and every gradient against plain torch, hostile values, refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastdarts import _backend
from fastdarts.errors import UserError
from fastdarts.ops.mixed_sum import Edge, mixed_sum
from fastdarts.reference.mixed_sum import node_sum
from tests.mixed_sum_cases import (
    DTYPES,
    EVERY,
    INF,
    NAN,
    STRIDED,
    Case,
    arguments,
    assert_parity,
    build,
    run,
    statistics,
)

EDGES = st.builds(
    lambda stride, skip, largest, average: Edge(stride, skip and stride == 1, largest, average),
    st.sampled_from([1, 2]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
CASES = st.builds(
    Case,
    batch=st.integers(1, 3),
    mixed=st.sampled_from([1, 2, 3, 4, 7, 8, 16, 17, 36]),
    partial=st.sampled_from([1, 2, 4]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    terms=st.integers(0, 8),
    edges=st.lists(EDGES, max_size=4).map(tuple),
    dtype=st.sampled_from(DTYPES),
    training=st.booleans(),
    bypass=st.booleans(),
    gap=st.sampled_from([0, 3]),
    odd=st.booleans(),
    ties=st.booleans(),
    seed=st.integers(0, 2**31),
).filter(lambda case: case.terms + len(case.edges) > 0 and case.batch * case.height * case.width > 1)


@settings(max_examples=150)
@given(case=CASES)
def test_parity(case: Case) -> None:
    assert_parity(case)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)  # in float64 the reference would be held to its own errors
@pytest.mark.parametrize("offset", [100.0, 1e4, -1e4])
def test_a_mean_ten_thousand_times_the_deviation(dtype: torch.dtype, offset: float) -> None:
    case = Case(batch=3, mixed=16, height=9, width=8, terms=6, edges=(EVERY, EVERY), offset=offset, dtype=dtype)
    assert_parity(case)
    assert_parity(replace(case, partial=2, edges=(STRIDED, EVERY)))


def test_float32_is_closer_to_float64_than_torch_where_means_are_large() -> None:
    case = Case(batch=4, mixed=8, height=16, width=16, terms=12, edges=(), offset=1e4)
    inputs = build(case)
    stats = statistics(inputs, case)
    got, eager = (run(function, inputs, case, stats)["out"] for function in (mixed_sum, node_sum))
    exact = run(node_sum, inputs.to(torch.float64), case, stats)["out"]
    assert (got - exact).abs().max() <= (eager - exact).abs().max()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_constant_channels(dtype: torch.dtype) -> None:
    case = Case(mixed=3, partial=2, dtype=dtype)
    inputs = build(case)
    with torch.no_grad():
        for x in (*inputs.ys, *inputs.sources):
            x[:, 0], x[:, 2] = 3.0, 0.0
    assert_parity(case, inputs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("partial", [1, 2])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_what_is_not_finite_spreads_as_in_torch(dtype: torch.dtype, training: bool, partial: int, value: float) -> None:
    case = Case(mixed=4, partial=partial, dtype=dtype, training=training)
    inputs = build(case)
    with torch.no_grad():
        for x in (*inputs.ys, *inputs.sources):
            x[0, 1, 2, 1] = x[1, 3, 0, 0] = x[1, 3, 1, 1] = value
            x[1, -1, 0, 0] = x[0, 2, 0, 1] = value
    assert_parity(case, inputs)


@pytest.mark.parametrize("training", [True, False])
def test_a_channel_of_minus_infinity_has_a_first_maximum_too(training: bool) -> None:
    case = Case(mixed=2, partial=2, training=training, terms=0)
    inputs = build(case)
    with torch.no_grad():
        for x in inputs.sources:
            x.fill_(-INF)
    assert_parity(case, inputs)


@pytest.mark.parametrize("edge", [Edge(1, False, True, False), Edge(2, False, True, False)])
def test_the_first_maximum_wins_and_zero_has_no_sign(edge: Edge) -> None:
    case = Case(mixed=2, partial=2, height=6, width=7, edges=(edge,), terms=0, odd=False, training=False)
    inputs = build(case)
    with torch.no_grad():
        x = inputs.sources[0]
        x.copy_(torch.where(torch.rand(x.shape) < 0.5, 0.0, -0.0))
        x[0, 0, :3] = NAN  # of several, the last one
    assert_parity(case, inputs)


SMALL = Case(batch=2, mixed=2, partial=2, height=3, width=2, terms=2, dtype=torch.float64, gap=0)


@pytest.mark.parametrize("case", [SMALL, replace(SMALL, partial=1, training=False), replace(SMALL, edges=())])
def test_opcheck(case: Case) -> None:
    torch.library.opcheck(torch.ops.fastdarts.mixed_sum, arguments(case))


def test_opcheck_of_backward_and_moments() -> None:
    given = [each.detach() if isinstance(each, Tensor) else each for each in arguments(SMALL)]
    given[0], given[4] = ([x.detach() for x in group] for group in (given[0], given[4]))
    grad = torch.randn(2, 4, 3, 2, dtype=torch.float64)
    for needs in ((True, True), (False, True), (False, False)):
        torch.library.opcheck(torch.ops.fastdarts.mixed_sum_backward, (grad, *given, *needs))
    torch.library.opcheck(torch.ops.fastdarts.pool_moments, (given[4][0], 2, True, False))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("partial", [1, 2])
def test_gradcheck(training: bool, partial: int) -> None:
    case = replace(SMALL, training=training, partial=partial)
    inputs = build(case)
    names = list(inputs.named())

    def function(*tensors: Tensor) -> Tensor:
        given = dict(zip(names, tensors, strict=True))
        ys, sources = ([given[name] for name in names if name.startswith(group)] for group in ("ys", "sources"))
        moved = replace(inputs, ys=ys, sources=sources, **{n: x for n, x in given.items() if "[" not in n})
        stats = statistics(moved, case)
        rest = (moved.edge_weights, stats[2], stats[3], moved.bypass, partial, 1e-5, training)
        return mixed_sum(moved.ys, moved.weights, *stats[:2], moved.sources, case.edges, *rest)

    assert torch.autograd.gradcheck(function, list(inputs.named().values()))


def test_a_second_derivative_is_refused() -> None:
    case = replace(SMALL, dtype=torch.float32)
    inputs = build(case)
    mean, var, pool_mean, pool_var = statistics(inputs, case)
    given = (inputs.ys, inputs.weights, mean, var, inputs.sources, case.edges, inputs.edge_weights, pool_mean, pool_var)
    out = mixed_sum(*given, inputs.bypass, case.partial)
    (dy,) = torch.autograd.grad(out.square().sum(), inputs.ys[0], create_graph=True)
    with pytest.raises(RuntimeError, match=r"use_backend\('reference'\)"):
        dy.sum().backward()
    with _backend.use_backend("reference"):
        out = mixed_sum(*given, inputs.bypass, case.partial)
    (dy,) = torch.autograd.grad(out.square().sum(), inputs.ys[0], create_graph=True)
    dy.square().sum().backward()
    assert inputs.ys[0].grad is not None


def test_only_what_is_asked_for_has_a_gradient() -> None:
    given = list(arguments(SMALL))
    given[0] = [x.detach() for x in given[0]]
    out = torch.ops.fastdarts.mixed_sum(*given)
    out.sum().backward()  # an expanded gradient of stride 0
    assert all(x.grad is None for x in given[0])
    assert all(x.grad is not None for x in (*given[4], given[1], given[6], given[9]))


def test_compiles_as_one_graph() -> None:
    given = arguments(replace(SMALL, dtype=torch.float32))
    compiled = torch.compile(
        lambda *args: torch.ops.fastdarts.mixed_sum(*args) * 2, fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(compiled(*given), torch.ops.fastdarts.mixed_sum(*given) * 2)


NAMES = ("ys", "weights", "mean", "var", "sources", "edges", "edge_weights", "pool_mean", "pool_var", "bypass")


def named_arguments() -> dict[str, object]:
    case = replace(SMALL, dtype=torch.float32)
    return dict(zip(NAMES, arguments(case), strict=False)) | {"edges": list(case.edges), "partial": 2}


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: {"ys": [g["ys"][0][0], g["ys"][1]]}, r"ys\[0\] has shape \[2, 3, 2\]"),
        (lambda g: {"ys": [y[:0] for y in g["ys"]]}, r"the node has shape \[0, 4, 3, 2\]; expected each at least 1"),
        (lambda g: {"ys": [g["ys"][0], g["ys"][1][:, :1]]}, r"ys\[1\] has shape \[2, 1, 3, 2\]; expected \[2, 2\] and"),
        (lambda g: {"sources": [g["sources"][0][:, :, 1:], g["sources"][1]]}, r"sources\[0\] has shape \[2, 4, 2, 2\]"),
        (lambda g: {"sources": g["sources"][:1]}, "2 edges for 1 sources"),
        (lambda g: {"ys": [], "sources": [], "edges": []}, "neither ys nor sources"),
        (lambda g: {"edges": [Edge(2, True, True, True)] * 2}, r"sources\[0\] has shape"),
        (lambda g: {"edges": [EVERY, Edge(2, True, True, True)]}, r"edges\[1\] skips at stride 2"),
        (lambda g: {"edges": [EVERY, Edge(3, False, True, True)]}, r"edges\[1\] has stride 3; expected 1 or 2"),
        (lambda g: {"weights": g["weights"][:1]}, r"weights has shape \[1\]; expected \[2\] for 2 ys"),
        (lambda g: {"bypass": g["bypass"][:1]}, r"bypass has shape \[1\]; expected \[2\]"),
        (lambda g: {"pool_var": g["pool_var"][:, :1]}, r"pool_var has shape \[2, 1, 2\]; expected \[2, 2, 2\]"),
        (lambda g: {"mean": g["mean"].requires_grad_()}, r"mean requires gradients.*mean.detach\(\)"),
        (lambda g: {"mean": g["mean"].to("meta")}, "mean is on meta, weights on cpu"),
        (lambda g: {"partial": 3}, r"partial|sources\[0\] has shape"),
    ],
)
def test_what_does_not_fit_is_refused(backend: str, change, message: str) -> None:
    given = named_arguments()
    with _backend.use_backend(backend), pytest.raises(UserError, match=message):
        mixed_sum(**(given | change(given)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: {"ys": [y.half() for y in g["ys"]]}, r"ys\[0\] is float16; expected float32, bfloat16 or float64"),
        (lambda g: {"sources": [x.double() for x in g["sources"]]}, r"sources\[0\] is float64; expected float32"),
        (lambda g: {"weights": [1.0, 2.0]}, "weights is a list; expected a torch.Tensor"),
        (lambda g: {"edge_weights": g["edge_weights"].long()}, "edge_weights is int64; expected a floating dtype"),
        (lambda g: {"edges": [1, 2]}, r"edges\[0\] is a int; expected an Edge"),
    ],
)
def test_wrong_types_are_refused(change, message: str) -> None:
    given = named_arguments()
    with pytest.raises(TypeError, match=message):
        mixed_sum(**(given | change(given)))


def test_one_pixel_has_no_variance() -> None:
    case = Case(batch=1, height=1, width=1, edges=(EVERY,))
    with pytest.raises(UserError, match=r"one pixel a channel.*larger batch"):
        torch.ops.fastdarts.mixed_sum(*arguments(case))
    assert_parity(replace(case, training=False))
