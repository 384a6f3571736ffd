"""coefficients: each launcher against plain torch, on statistics that are not kind."""

from __future__ import annotations

import os

import pytest
import torch
from tolerance import assert_within
from torch import Tensor

from fastdarts.ops import _coefficients_cpu, maps
from fastdarts.ops._engine import launchers
from fastdarts.reference import coefficients as reference

EPS = 1e-5
# (rows of statistics, K, C'); the last one takes two programs.
SHAPES = [(1, 1, 1), (5, 7, 3), (4, 2, 20), (9, 40, 36)]


@pytest.fixture(params=["plain", "interpreted", pytest.param("cuda", marks=pytest.mark.gpu)])
def where(request: pytest.FixtureRequest) -> torch.device | str:
    """Where a launcher's kernels run: a GPU, or how on the CPU."""
    if request.param != "plain":
        pytest.importorskip("triton")
    if request.param == "interpreted" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("kernels are compiled for the GPU in this process, not interpreted")
    return torch.device("cuda") if request.param == "cuda" else request.param


@pytest.fixture
def run(where: torch.device | str):
    """Calls a launcher by name with its tensors where it computes, and returns what it gives as a list on the CPU."""
    device = where if isinstance(where, torch.device) else torch.device("cpu")
    module = launchers("coefficients", "cpu" if where == "plain" else "triton")

    def call(name: str, *args: object, **options: object) -> list[Tensor]:
        moved = [each.to(device) if isinstance(each, Tensor) else each for each in args]
        found = getattr(module, name)(*moved, **options)
        found = list(found) if isinstance(found, tuple) else [found]
        assert all(each.dtype == torch.float64 and each.is_contiguous() for each in found)
        return [each.cpu() for each in found]

    return call


def statistics(rows: int, channels: int) -> tuple[Tensor, Tensor]:
    """Means far from 0, and variances from 0 over 1e-8 to 1e6; the first row is mean 0 and rstd 1."""
    mean = torch.randn(rows, channels, dtype=torch.float64) * 100
    var = 10 ** (torch.rand(rows, channels, dtype=torch.float64) * 14 - 8)
    var[rows // 2, 0] = 0
    mean[0], var[0] = 0, 1 - EPS
    return mean, var


def assert_equal_to(names: str, got: list[Tensor], exact: list[Tensor]) -> None:
    for name, ours, wanted in zip(names.split(), got, exact, strict=True):
        assert_within(name, ours, wanted, wanted)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows(run, shape: tuple[int, int, int]) -> None:
    count, chosen, channels = shape
    mean, var = statistics(count, channels)
    index = torch.randint(count, (chosen,))
    assert_equal_to("mean rstd", run("rows", mean, var, index, EPS), [*reference.rows(mean, var, index, EPS)])
    first = run("rows", mean, var, torch.zeros(1, dtype=torch.int64), EPS)
    assert torch.equal(first[0], torch.zeros(1, channels)) and torch.equal(first[1], torch.ones(1, channels))


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_mixing(run, shape: tuple[int, int, int]) -> None:
    count, chosen, channels = shape
    mean, var = statistics(count, channels)
    weights = torch.randn(11, dtype=torch.float64)
    weights[-1] = 0
    norms, columns = torch.randint(count, (chosen,)), torch.randint(11, (chosen,))
    args = (mean, var, norms, weights, columns, EPS)
    assert_equal_to("scale mean rstd", run("mixing", *args), [*reference.mixing(*args)])


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("one_total", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradient(run, shape: tuple[int, int, int], one_total: bool) -> None:
    _, rows, channels = shape
    scale, rstd, products = torch.randn(3, rows, channels, dtype=torch.float64)
    total = torch.randn(rows, channels, dtype=torch.float64)
    total = total[0] if one_total else total
    for stored in {0, rows // 2, rows}:
        # A mean that is not read must not matter, and only the stored rows need be there.
        mean = torch.full((rows, channels), torch.nan, dtype=torch.float64)
        mean[:stored] = torch.randn(stored, channels, dtype=torch.float64)
        for pixels in (1, 3, 65536):
            args, options = (scale, rstd, mean, total, products), {"pixels": pixels, "stored": stored}
            got, wanted = run("gradient", *args, **options)[0], reference.gradient(*args, **options)
            assert torch.equal(got[0], scale)
            assert_within("beta", got[1], wanted[1], wanted[1])
            terms = float((wanted[1] * mean).nan_to_num().abs().max() + wanted[2].abs().max())
            assert_within("gamma", got[2], wanted[2], wanted[2], terms=terms)
            assert torch.equal(run("gradient", scale, rstd, mean[:stored], total, products, **options)[0], got)


def test_the_gradient_is_that_of_a_batch_norm() -> None:
    y = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    g, weight = torch.randn_like(y), 0.7
    xhat = torch.nn.functional.batch_norm(y, None, None, training=True, eps=EPS)
    (wanted,) = torch.autograd.grad(xhat, y, weight * g)
    mean, var = y.detach().mean((0, 2, 3)).unsqueeze(0), y.detach().var((0, 2, 3), correction=0).unsqueeze(0)
    zero = torch.zeros(1, dtype=torch.int64)
    scale, mean, rstd = reference.mixing(mean, var, zero, torch.tensor([weight], dtype=torch.float64), zero, EPS)
    total, products = g.sum((0, 2, 3)), (g * xhat.detach()).sum((0, 2, 3)).unsqueeze(0)
    for value, stored in ((y.detach(), 1), (y.detach() - mean[0, :, None, None], 0)):
        found = reference.gradient(scale, rstd, mean, total, products, pixels=40, stored=stored)
        alpha, beta, gamma = found[:, 0, :, None, None].unbind()
        terms = (alpha * g).abs() + (beta * value).abs() + gamma.abs()
        assert_within("dy", alpha * g + beta * value + gamma, wanted, wanted, terms=float(terms.max()))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's, which interprets
def test_infinity_and_not_a_number_stay_in_their_channel(run) -> None:
    mean, var = statistics(3, 4)
    mean[1, 1], var[1, 1], mean[1, 2], var[1, 2] = torch.inf, torch.inf, torch.nan, torch.nan
    index, weights = torch.tensor([0, 1]), torch.ones(2, dtype=torch.float64)
    got = run("mixing", mean, var, index, weights, index, EPS)
    assert_equal_to("scale mean rstd", got, [*reference.mixing(mean, var, index, weights, index, EPS)])
    scale, mean, rstd = got
    products = torch.full_like(scale, torch.inf)
    args = (scale, rstd, mean, mean[1], products)
    for stored in (0, 1, 2):
        found = run("gradient", *args, pixels=8, stored=stored)[0]
        wanted = reference.gradient(*args, pixels=8, stored=stored)
        assert torch.equal(found.isnan(), wanted.isnan()) and torch.equal(found.isinf(), wanted.isinf())


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_meta_allocates_what_is_computed(backend: str) -> None:
    if backend == "triton":
        pytest.importorskip("triton")
    mean, var = statistics(5, 6)
    index, weights = torch.tensor([4, 0]), torch.ones(5, dtype=torch.float64)
    seen: dict[str, list[object]] = {"meta": [], "cpu": []}
    for device, found in seen.items():
        module = launchers("coefficients", backend) if device == "meta" else _coefficients_cpu
        given = [each.to(device) for each in (mean, var, index, weights)]
        with maps.observed(lambda t, found=found: found.append((t.shape, t.stride(), t.dtype))):
            module.rows(*given[:3], EPS)
            scale, mean_of, rstd = module.mixing(*given, given[2], EPS)
            out = module.gradient(scale, rstd, mean_of, mean_of[0], scale, pixels=8, stored=1)
        assert out.shape == (3, 2, 6) and out.device.type == device
    assert seen["meta"] == seen["cpu"] and len(seen["cpu"]) == 6
