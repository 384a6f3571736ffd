"""The stencil's CUDA kernels, forward: on the host shim everywhere, on the GPU where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from cuda_shim import ROOT, cuda_device, on_shim
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stencil_cases import EVERY, FOUR, Case, Inputs, cast, draw
from tolerance import assert_within
from torch import Tensor

from fastdarts.ops import _stencil_cpu, _stencil_cuda, maps
from fastdarts.ops._records import StencilForward
from fastdarts.reference.stencil import Conv
from fastdarts.reference.stencil import stencil as reference

__all__ = ["cuda_device", "on_shim"]

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHARED = 99 * 1024  # bytes that a block gets on every GPU since sm_80
Values = tuple[list[Tensor], Tensor, Tensor]


def forward(case: Case, inputs: Inputs, device: torch.device, **options: Any) -> Values:
    sources = [cast(x, case.dtype).to(device) for x in inputs.sources]
    weights = [[weight.to(device) for weight in weights] for weights in (inputs.depthwise, inputs.pointwise)]
    statistics = {key: value.to(device) for key, value in inputs.keywords().items()}
    ys, mean, var = _stencil_cuda.forward(StencilForward(sources, case.convs, *weights, **statistics, **options))
    assert mean is not None and var is not None
    return [y.cpu() for y in ys], mean.cpu(), var.cpu()


def evaluate(case: Case, inputs: Inputs, dtype: torch.dtype) -> Values:
    low = inputs.change(lambda tensor: cast(tensor, dtype))
    return reference(low.sources, case.convs, low.depthwise, low.pointwise, **low.keywords())


def assert_parity(case: Case, device: torch.device) -> None:
    inputs = draw(case)
    large = inputs.change(torch.abs)
    if case.normalised:
        large.statistics[0].neg_()
    got, exact, scales = forward(case, inputs, device), *(evaluate(case, x, torch.float64) for x in (inputs, large))
    eager = evaluate(case, inputs, case.dtype)
    for i, conv in enumerate(case.convs):
        scale = float(scales[0][i].max())
        assert_within(f"y {conv}", got[0][i], eager[0][i], exact[0][i], terms=scale)
        # Moments leave in float64 with the errors of the values that they are of.
        mean, var = ([each[k][i].to(case.dtype) for each in (got, eager)] for k in (1, 2))
        assert_within(f"mean {conv}", *mean, exact[1][i], terms=scale)
        assert_within(f"var {conv}", *var, exact[2][i], terms=scale**2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("normalised", [False, True], ids=["plain", "normalised"])
@pytest.mark.parametrize("channels", [1, 4, 16, 37])
def test_parity(cuda_device: torch.device, channels: int, normalised: bool, dtype: torch.dtype) -> None:
    assert_parity(Case(channels=channels, normalised=normalised, dtype=dtype, extra=3), cuda_device)


@pytest.mark.parametrize(
    ("count", "channels", "size"),
    [(2, 16, (32, 32)), (5, 32, (16, 16)), (9, 64, (8, 8)), (3, 4, (33, 70)), (2, 20, (19, 45)), (40, 3, (2, 2))],
    ids=str,
)
def test_parity_of_maps_of_several_tiles_and_tiles_of_several_maps(
    cuda_device: torch.device, count: int, channels: int, size: tuple[int, int]
) -> None:
    convs = (*(Conv(0, k, d, 1) for k in (3, 5) for d in (1, 2)), Conv(0, 5, 2, 2), Conv(0, 3, 1, 2))
    assert_parity(Case(count=count, channels=channels, sizes=(size,), convs=convs), cuda_device)


@pytest.mark.parametrize("channels", [100, 256])
def test_parity_where_the_channels_come_in_chunks(
    cuda_device: torch.device, on_shim: ModuleType, channels: int
) -> None:
    on_shim.launches()
    convs = (Conv(0, 3, 1, 1), Conv(0, 7, 2, 1), Conv(0, 5, 1, 2))
    assert_parity(Case(count=1, channels=channels, sizes=((8, 7),), convs=convs, normalised=True), cuda_device)
    for _, _, threads, shared, _ in on_shim.launches():
        assert threads <= 256 and shared <= SHARED


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(1, 4),
    channels=st.integers(1, 40),
    sizes=st.lists(st.tuples(st.integers(1, 13), st.integers(1, 13)), min_size=1, max_size=3),
    convs=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(EVERY)), min_size=1, max_size=4),
    normalised=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    extra=st.integers(0, 3),
    seed=st.integers(0, 2**31),
)
def test_parity_of_any_shape(
    cuda_device: torch.device, sizes: list[tuple[int, int]], convs: list[tuple[int, Conv]], **rest: Any
) -> None:
    every = tuple(replace(conv, source=source % len(sizes)) for source, conv in convs)
    assert_parity(Case(sizes=tuple(sizes), convs=every, **rest), cuda_device)


def tf32(x: Tensor) -> Tensor:
    """Rounded to 10 bits after the leading one."""
    bits = x.float().view(torch.int32) + 0x1000 & ~0x1FFF
    return bits.view(torch.float32).double()


@pytest.mark.parametrize("channels", [8, 24])
def test_products_of_float32_are_rounded_to_tf32_where_torch_allows_it(
    cuda_device: torch.device, monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    case = Case(channels=channels, convs=FOUR[:2], sizes=((12, 9),))
    inputs = draw(case)
    inputs.pointwise = [weight / 3 for weight in inputs.pointwise]
    exact, _, _ = evaluate(case, inputs, torch.float64)
    eye = torch.eye(channels).double()[:, :, None, None]
    z, _, _ = evaluate(case, replace(inputs, pointwise=[eye, eye]), torch.float64)
    full, _, _ = forward(case, inputs, cuda_device)
    monkeypatch.setattr(_stencil_cuda, "tf32_allowed", lambda: True)
    got, _, _ = forward(case, inputs, cuda_device)
    for i, right in enumerate(exact):
        eager = torch.nn.functional.conv2d(tf32(z[i]), tf32(inputs.pointwise[i]))
        assert_within(f"y{i}", got[i], eager.float(), right)
        assert not torch.equal(got[i], full[i])


@pytest.mark.parametrize("order", ["descending", "shuffled"])
@pytest.mark.parametrize("channels", [4, 20])
def test_no_bit_depends_on_the_order_of_threads_and_blocks(on_shim: ModuleType, order: str, channels: int) -> None:
    case = Case(count=5, channels=channels, sizes=((16, 23), (9, 8)), convs=FOUR * 2, normalised=channels == 4)
    inputs, cpu = draw(case), torch.device("cpu")
    once = forward(case, inputs, cpu)
    on_shim.choose_order(order)
    again = forward(case, inputs, cpu)
    assert all(torch.equal(a, b) for a, b in zip((*once[0], *once[1:]), (*again[0], *again[1:]), strict=True))


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [2, 19])
def test_everything_that_is_returned_was_written(cuda_device: torch.device, channels: int, dtype: torch.dtype) -> None:
    case = Case(channels=channels, sizes=((5, 4), (1, 1)), convs=FOUR, normalised=channels == 2, dtype=dtype)
    ys, *moments = forward(case, draw(case), cuda_device)
    assert all(result.isfinite().all() for result in (*ys, *moments))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("channels", [4, 16, 33])
def test_not_a_number_and_infinity_stay_where_eager_has_them(
    cuda_device: torch.device, channels: int, value: float
) -> None:
    case = Case(channels=channels, sizes=((9, 11), (7, 6)), convs=FOUR)
    inputs = draw(case)
    inputs.sources[0][1, 2, 4, 5] = value
    inputs.sources[1][0, 0, 0, 0] = -value
    got, exact = forward(case, inputs, cuda_device), evaluate(case, inputs, torch.float32)
    for mine, right in zip((*got[0], *got[1:]), (*exact[0], *exact[1:]), strict=True):
        assert torch.equal(mine.isnan(), right.isnan())
        assert torch.equal(mine.isinf(), right.isinf())
    assert not got[0][0][2].isnan().any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [4, 20])
def test_moments_are_those_of_what_is_stored(cuda_device: torch.device, channels: int, dtype: torch.dtype) -> None:
    """|mean| / std up to 1e4, and channels without variance, whose variance is exactly 0."""
    x = torch.rand(5, channels, 9, 8) + torch.logspace(0, 4, channels)[:, None, None]
    x[:, 1] = 3.0
    x = maps.as_maps(x.to(cuda_device, dtype))
    weights = [torch.ones(channels, 1, 1, 1)], [torch.eye(channels)[:, :, None, None]]
    given = [[weight.to(cuda_device) for weight in each] for each in weights]
    (y,), mean, var = _stencil_cuda.forward(StencilForward([x], [Conv(0, 1, 1, 1)], *given))
    assert mean is not None and var is not None and (dtype == torch.float32 or torch.equal(y, x))
    exact_var, exact_mean = torch.var_mean(y.double(), (0, 2, 3), correction=0)
    assert var[0, 1] == 0 and mean[0, 1] == 3
    units = torch.where(exact_var > 0, exact_var, 1)
    for key, error in (("var", (var[0] - exact_var) / units), ("mean", (mean[0] - exact_mean) / units.sqrt())):
        none = torch.zeros_like(error)
        assert_within(key, error.float(), none.float(), none, terms=4.0)


def test_weights_and_maps_at_odd_addresses(cuda_device: torch.device) -> None:
    """Parameters of a flat buffer, and channels of a map, begin anywhere: nothing may be loaded four at a time."""
    case = Case(channels=8, sizes=((9, 7),), convs=FOUR[:2], extra=5)
    inputs = draw(case)

    def flat(weights: Sequence[Tensor]) -> list[Tensor]:
        buffer = torch.full((1 + sum(weight.numel() for weight in weights),), torch.nan)
        pieces = buffer[1:].split([weight.numel() for weight in weights])
        return [piece.view(weight.shape).copy_(weight) for piece, weight in zip(pieces, weights, strict=True)]

    expected = forward(case, inputs, cuda_device)
    odd = replace(inputs, depthwise=flat(inputs.depthwise), pointwise=flat(inputs.pointwise))
    got = forward(case, odd, cuda_device)
    assert all(torch.equal(a, b) for a, b in zip((*expected[0], *expected[1:]), (*got[0], *got[1:]), strict=True))


def test_calls_of_more_than_a_launch_holds(cuda_device: torch.device) -> None:
    convs = (*(Conv(0, 1, 1, 1) for _ in range(100)), *(Conv(s, 3, 1, 1 + s % 2) for s in range(20)))
    assert_parity(Case(count=1, channels=2, sizes=((2, 3),) * 20, convs=convs), cuda_device)


def test_a_call_launches_the_same_kernels_each_time(on_shim: ModuleType) -> None:
    case = Case(channels=6, sizes=((6, 7), (5, 3)), convs=FOUR)
    found = []
    for seed in (0, 1):
        on_shim.launches()
        forward(case, draw(replace(case, seed=seed)), torch.device("cpu"))
        found.append(on_shim.launches())
    assert found[0] == found[1]
    assert [kernel for kernel, *_ in found[0]] == ["stencil_forward", "stencil_fold"] * 2


def test_on_meta_the_same_tensors_are_allocated(cuda_device: torch.device) -> None:
    case = Case(channels=6, sizes=((6, 7), (5, 3)), convs=FOUR, normalised=True)
    inputs, seen = draw(case), []
    for device in (cuda_device, torch.device("meta")):
        x, d, p, s, _ = vars(inputs.change(lambda tensor, device=device: tensor.to(device))).values()
        found: list[tuple[Any, ...]] = []
        with maps.observed(lambda tensor, found=found: found.append((tensor.shape, tensor.dtype))):
            values = _stencil_cuda.forward(
                StencilForward([maps.as_maps(x.float()) for x in x], FOUR, d, p, mean=s[0], rstd=s[1])
            )
        found += [(tensor.shape, tensor.stride(), tensor.dtype) for tensor in (*values[0], *values[1:])]
        seen.append(found)
    assert seen[0] == seen[1]


def test_float64_is_refused(on_shim: ModuleType) -> None:
    case = Case(dtype=torch.float64)
    with pytest.raises(TypeError, match="float32, bfloat16 or float16"):
        forward(case, draw(case), torch.device("cpu"))


def test_the_cpu_agrees_without_moments(on_shim: ModuleType) -> None:
    case = Case(channels=5, convs=FOUR[:2])
    inputs = draw(case).change(torch.Tensor.float)
    given = [maps.as_maps(x) for x in inputs.sources], case.convs, inputs.depthwise, inputs.pointwise
    (mine, *none), (right, *_) = (
        _stencil_cuda.forward(StencilForward(*given, moments=False)),
        _stencil_cpu.forward(StencilForward(*given)),
    )
    exact, _, _ = evaluate(case, draw(case), torch.float64)
    assert none == [None, None]
    for i, y in enumerate(exact):
        assert_within(f"y{i}", mine[i], right[i], y, terms=float(y.abs().max()))


@pytest.mark.slow
def test_under_address_sanitizer() -> None:
    compiler = os.environ.get("CXX", "g++")
    libraries = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    if not Path(libraries[0]).is_absolute():
        pytest.skip(f"{compiler} has no libasan.so")
    files = [str(path) for path in sorted((ROOT / "tests").glob("test_stencil_cuda*.py"))]
    # The orders of threads are tried on shapes of the parity tests; an address that depended on one would change bits.
    chosen = "not address_sanitizer and not any_shape and not past_the_end and not order_of_threads and not cuda-"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--capture=sys", "-p", "no:cacheprovider", "-k", chosen]
    # Python itself leaks on purpose.
    environment = os.environ | {"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0"}
    command += [str(ROOT / "tests/test_cuda_shim.py"), *files]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
