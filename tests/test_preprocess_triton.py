"""preprocess in Triton: the launchers against plain torch, interpreted where there is no GPU."""

from __future__ import annotations

import inspect

import pytest
import torch
from test_preprocess import LAYOUTS, by_hand, inputs, laid_out, magnitudes, results
from tolerance import assert_all_within, assert_within
from torch import Tensor

from fastdarts.ops import _preprocess_cpu, maps
from fastdarts.reference.preprocess import preprocess as reference

pytest.importorskip("triton")
from fastdarts.kernels import preprocess as kernels
from fastdarts.ops import _preprocess_triton
from fastdarts.ops._preprocess_triton import backward, forward, normalise_, reduce
from fastdarts.ops._records import PreprocessBackward, PreprocessForward

# (N, C_in, C_out, H, W, stride)
SHAPES = [
    (2, 48, 16, 4, 4, 1),
    (3, 7, 20, 5, 3, 1),
    (2, 64, 36, 5, 7, 2),
    (2, 8, 5, 6, 5, 2),
    (1, 70, 37, 3, 11, 1),
    (2, 3, 1, 3, 3, 2),
    (1, 1, 1, 1, 4, 1),
    (3, 4, 2, 1, 1, 2),
]


class Fused(torch.autograd.Function):
    """What the library op does around the launchers, on them."""

    @staticmethod
    def forward(ctx, x, stride, mean, var, eps, *weights):
        ctx.training, ctx.stride = mean is None, stride
        y, own_mean, own_var = forward(PreprocessForward(x, weights, stride=stride, moments=mean is None))
        assert (own_mean is None) == (own_var is None) == (mean is not None)
        mean, var = (own_mean, own_var) if mean is None else (mean.double(), var.double())
        rstd = (var + eps).rsqrt()
        normalise_(y, mean, rstd)
        ctx.save_for_backward(x, y, rstd, *weights)
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    def backward(ctx, g, *_):
        x, xhat, rstd, *weights = ctx.saved_tensors
        g, pixels = maps.as_maps(g), xhat.numel() // xhat.shape[1]
        beta = gamma = torch.zeros_like(rstd)
        if ctx.training:
            total, products = reduce(g, xhat)
            beta, gamma = -rstd * products / pixels, -rstd * total / pixels
        values = xhat if ctx.training else None
        dx, dweights = backward(PreprocessBackward(x, weights, g, values, rstd, beta, gamma, stride=ctx.stride))
        return dx, None, None, None, None, *(each.to(x.dtype) for each in dweights)


def fused(x: Tensor, weights: list[Tensor], *, stride=1, mean=None, var=None, eps=1e-5):
    return Fused.apply(x, stride, mean, var, eps, *weights)


def placed(x: Tensor, device: torch.device) -> Tensor:
    """x on a device, lying in memory as it does, with what is around it where x is no variable."""
    if device.type == "cpu":
        return x
    if x.requires_grad:
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=device).copy_(x)
    size = x.untyped_storage().nbytes() // x.element_size()
    return x.as_strided((size,), (1,), 0).to(device).as_strided(x.shape, x.stride(), x.storage_offset())


def on(device: torch.device):
    """`fused` on a device, between tensors on the CPU."""

    def call(x: Tensor, weights: list[Tensor], **options: object) -> tuple[Tensor, Tensor, Tensor]:
        moved = placed(x, device)
        options = {name: each.to(device) if isinstance(each, Tensor) else each for name, each in options.items()}
        return tuple(each.cpu() for each in fused(moved, [weight.to(device) for weight in weights], **options))

    return call


def assert_parity(
    device: torch.device, x: Tensor, weights: list[Tensor], dtype: torch.dtype, layout: str, **options: object
) -> None:
    got = results(on(device), x, weights, dtype, layout, **options)
    exact = results(reference, x, weights, torch.float64, **options)
    # In float64 the reference is its own plain torch, but for the layout, which changes the order of its sums.
    eager = results(reference, x, weights, dtype, "maps" if dtype == torch.float64 else layout, **options)
    assert got.keys() == eager.keys() == exact.keys()
    terms = magnitudes(exact, x, weights, **options)
    for name in exact:
        assert_within(name, got[name], eager[name], exact[name], terms=terms[name])


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_parity(triton_device: torch.device, shape: tuple[int, ...], layout: str) -> None:
    assert_parity(triton_device, *inputs(*shape), torch.float32, layout, stride=shape[-1])


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_parity_in_other_dtypes(triton_device: torch.device, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for layout in ("maps", "slice of planes") if dtype == torch.bfloat16 else ("maps",):
        assert_parity(triton_device, *inputs(*shape), dtype, layout, stride=shape[-1])


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("stride", [1, 2])
def test_evaluation_uses_the_given_statistics(triton_device: torch.device, stride: int) -> None:
    x, weights = inputs(2, 5, 6, 3, 5, stride)
    statistics = {"mean": torch.randn(6), "var": torch.rand(6) + 0.5, "eps": 1e-3}
    for dtype in (torch.float32, torch.bfloat16):
        assert_parity(triton_device, x, weights, dtype, "maps", stride=stride, **statistics)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's, which interprets
@pytest.mark.parametrize("stride", [1, 2])
def test_not_a_number_and_infinity_pass_as_in_torch(triton_device: torch.device, stride: int) -> None:
    for value in (torch.nan, torch.inf, -torch.inf):
        x, weights = inputs(2, 5, 4, 4, 3, stride)
        x[1, 2, 2, 2] = value
        for training in ({}, {"mean": torch.zeros(4), "var": torch.ones(4)}):
            got = results(on(triton_device), x, weights, torch.float32, "maps", stride=stride, **training)
            want = results(reference, x, weights, torch.float32, "maps", stride=stride, **training)
            for name in want:
                assert torch.equal(got[name].isnan(), want[name].isnan()), (value, name)
                assert torch.equal(got[name].isinf(), want[name].isinf()), (value, name)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's, which interprets
def test_the_factors_of_tf32_are_rounded(triton_device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they would be cut otherwise, all in one direction; with the switch off nothing is lost."""
    monkeypatch.setattr(_preprocess_triton, "tf32_allowed", lambda: True)
    x = torch.tensor([1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-12, torch.nan, torch.inf]).view(5, 1, 1, 1).to(triton_device)
    weight = torch.ones(1, 1, 1, 1, device=triton_device)
    rounded = forward(PreprocessForward(x, [weight], stride=1, moments=False))[0].flatten().cpu()
    want = torch.tensor([1 + 2**-10, 1 + 2**-9, 1, torch.nan, torch.inf])
    assert torch.equal(rounded.nan_to_num(-1), want.nan_to_num(-1))
    monkeypatch.setattr(_preprocess_triton, "tf32_allowed", lambda: False)
    exact = forward(PreprocessForward(x, [weight], stride=1, moments=False))[0].flatten().cpu()
    assert torch.equal(exact.nan_to_num(-1), x.flatten().cpu().nan_to_num(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_mean_of_ten_thousand_standard_deviations(triton_device: torch.device, dtype: torch.dtype) -> None:
    x, weights = inputs(3, 16, 8, 8, 8, 1)
    weights[0].abs_()
    spread = float(reference(x, weights)[2].sqrt().mean())
    x = x.relu()
    x[:, 0] = 1e4 * spread / float(weights[0][:, 0].mean())
    got, eager = (each(x.to(dtype), [weights[0].to(dtype)]) for each in (on(triton_device), reference))
    _, *moments = reference(x, weights)
    exact = (by_hand(x, weights[0], *moments), *moments)
    mean, deviation = exact[1].abs(), exact[2].sqrt()
    # A value errs by a rounding of its mean: what that is of its deviation, and what it does to a square.
    sizes = (mean / deviation).max(), mean.max(), 2 * (mean * deviation).max()
    for name, size, *values in zip(("xhat", "mean", "var"), sizes, got, eager, exact, strict=True):
        assert_within(name, *(value.to(dtype) for value in values[:2]), values[2], terms=float(size))


def test_moments_of_many_blocks(triton_device: torch.device) -> None:
    """More than the second kernel takes at once, each block with a mean of its own."""
    blocks, channels = 300, 3
    means = torch.randn(blocks, channels, dtype=torch.float64).mul_(1e3)
    y = means[:, None] + torch.randn(blocks, 16, channels, dtype=torch.float64)
    pixels = blocks * 16 - 5
    y = y.view(-1, channels)[:pixels]
    parts = [(each.mean(0), (each - each.mean(0)).square().sum(0)) for each in y.split(16)]
    parts = [torch.stack(each).to(triton_device) for each in zip(*parts, strict=True)]
    mean, var = (torch.full((channels,), torch.nan, dtype=torch.float64, device=triton_device) for _ in range(2))
    args = (mean, var, *parts, pixels, blocks, channels, 16, 256, 16)
    kernels.fold_moments[(1,)](*args, num_warps=8, enable_fp_fusion=True)
    exact = y.mean(0), y.var(0, correction=0)
    largest = float(y.abs().max())
    assert_within("mean", mean.cpu(), exact[0], exact[0], terms=largest)
    assert_within("var", var.cpu(), exact[1], exact[1], terms=largest**2)


@pytest.mark.usefixtures("poisoned_memory")
def test_sums_of_a_batch_norm(triton_device: torch.device) -> None:
    for shape in ((3, 5, 4, 7), (2, 70, 3, 3), (1, 1, 9, 30)):
        g, xhat = (torch.randn(shape).contiguous(memory_format=torch.channels_last) for _ in range(2))
        wide = laid_out(xhat, "slice of maps")
        total, products = reduce(g.to(triton_device), placed(wide, triton_device))
        exact = {"total": g.double().sum((0, 2, 3)), "products": (g.double() * xhat.double()).sum((0, 2, 3))}
        plain = {"total": g.sum((0, 2, 3)), "products": (g * xhat).sum((0, 2, 3))}
        terms = float(g.abs().sum((0, 2, 3)).max())
        assert_all_within({"total": total.cpu().float(), "products": products.cpu().float()}, plain, exact, terms=terms)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("layout", ["planes", "slice of maps"])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_gradient_is_added_where_it_is_wanted(triton_device: torch.device, stride: int, layout: str) -> None:
    x, weights = inputs(2, 6, 10, 5, 5, stride)
    x = placed(laid_out(x, layout), triton_device)
    weights = [weight.to(triton_device) for weight in weights]
    y = forward(PreprocessForward(x, weights, stride=stride))[0]
    g = placed(laid_out(torch.randn(y.shape, dtype=y.dtype), "slice of maps"), triton_device)
    alpha, beta, gamma = torch.randn(3, 10, dtype=torch.float64).to(triton_device)
    fresh, dweights = backward(PreprocessBackward(x, weights, g, y, alpha, beta, gamma, stride=stride))
    assert fresh is not None and dweights is not None
    assert maps.is_maps(fresh) == (x.stride(1) == 1) and fresh.is_contiguous() != maps.is_maps(fresh)
    for target in LAYOUTS:
        before = laid_out(torch.randn(x.shape, dtype=x.dtype), target)
        dx = placed(laid_out(before.clone(), target), triton_device)
        out, none = backward(
            PreprocessBackward(x, weights, g, y, alpha, beta, gamma, stride=stride, dx=dx, need_weights=False)
        )
        assert out is dx and none is None
        torch.testing.assert_close(dx.cpu(), before + fresh.cpu())
        beyond = dx.as_strided((dx.untyped_storage().nbytes() // 8,), (1,), 0).cpu()
        assert int(beyond.isnan().sum()) == beyond.numel() - dx.numel()
    none, again = backward(PreprocessBackward(x, weights, g, y, alpha, beta, gamma, stride=stride, need_dx=False))
    assert none is None and again is not None
    assert all(map(torch.equal, again, dweights))
    args = (x, weights, g, y, alpha, beta, gamma)
    assert backward(PreprocessBackward(*args, stride=stride, need_dx=False, need_weights=False)) == (None, None)


@pytest.mark.parametrize("stride", [1, 2])
def test_many_blocks_of_pixels_and_channels(
    triton_device: torch.device, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program takes several blocks of pixels, and dW comes in as many parts as programs."""
    x, weights = inputs(2, 70, 20, 6, 8, stride)
    monkeypatch.setattr(_preprocess_triton, "_PROGRAMS", 6)
    for layout in ("planes", "maps"):
        assert_parity(triton_device, x, weights, torch.float32, layout, stride=stride)


def test_every_run_gives_the_same_bits(triton_device: torch.device) -> None:
    x, weights = inputs(2, 20, 36, 4, 5, 1)
    runs = [results(on(triton_device), x, weights, torch.float32, "maps", stride=1) for _ in range(2)]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_meta_allocates_what_is_computed(triton_device: torch.device) -> None:
    seen: dict[str, list[object]] = {}
    for device in (triton_device, torch.device("meta")):
        for stride, layout in ((1, "planes"), (2, "slice of maps")):
            x, weights = inputs(2, 6, 10, 5, 5, stride)
            given = laid_out(x.float(), layout)
            given = given.to(device) if device.type == "meta" else placed(given, device)
            given_weights = [weight.float().to(device) for weight in weights]
            found = seen.setdefault(device.type, [])
            with maps.observed(lambda t, found=found: found.append((t.shape, t.stride(), t.dtype))):
                y, mean, _ = forward(PreprocessForward(given, given_weights, stride=stride))
                normalise_(y, mean, mean)
                reduce(y, y)
                backward(PreprocessBackward(given, given_weights, y, y, mean, mean, mean, stride=stride))
                backward(
                    PreprocessBackward(
                        given, given_weights, y, None, mean, mean, mean, stride=stride, need_weights=False
                    )
                )
            assert y.device.type == device.type
    assert seen["meta"] == seen[triton_device.type] and len(seen["meta"]) >= 20


def test_the_signatures_are_those_of_the_cpu() -> None:
    for name in _preprocess_cpu.__all__:
        own, other = (inspect.signature(getattr(each, name)) for each in (_preprocess_triton, _preprocess_cpu))
        assert own == other, name
