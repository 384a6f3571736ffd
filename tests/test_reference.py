"""The functional forms: mixing, partial channels, relaxations, drop-path, and derivatives of all of them."""

from __future__ import annotations

from collections.abc import Callable

import nn_oracle as oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tolerance import assert_within
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from fastdarts import reference

IMAGES = oracle.images(2, 3, 3, 4)


def kernel(*shape: int, seed: int) -> Tensor:
    return oracle.images(*shape, seed=seed).requires_grad_()


def functional_forms() -> dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]]:
    """Every functional form with differentiable arguments, at stride 2 where it has one."""
    x = IMAGES.clone().requires_grad_()
    square, point = kernel(3, 3, 3, 3, seed=1), kernel(3, 3, 1, 1, seed=2)
    deep, deeper = kernel(3, 1, 3, 3, seed=3), kernel(3, 1, 5, 5, seed=4)
    row, column = kernel(3, 3, 1, 7, seed=5), kernel(3, 3, 7, 1, seed=6)
    half, weights = kernel(2, 3, 1, 1, seed=7), kernel(2, 1, 1, 1, seed=8).flatten().detach().requires_grad_()
    scale, bias = kernel(3, 1, 1, 1, seed=9).flatten().detach().requires_grad_(), torch.zeros(3).double()

    def affine(y: Tensor) -> Tensor:
        return reference.batch_norm(y, scale, bias)

    def candidates(s: Tensor) -> list[Callable[[Tensor], Tensor]]:
        return [lambda y: reference.max_pool(y, norm=reference.batch_norm), lambda y: y * s]

    return {
        "batch_norm": (lambda x, w: reference.batch_norm(x, w, bias), (x, scale)),
        "relu_conv_bn": (lambda x, w: reference.relu_conv_bn(x, w, stride=2), (x, square)),
        "dil_conv": (lambda x, d, p: reference.dil_conv(x, d, p, stride=2, norm=affine), (x, deep, point)),
        "sep_conv": (
            lambda x, d, p, e: reference.sep_conv(x, d, p, e, p, stride=2),
            (x, deeper, point, deep),
        ),
        "conv_7x1_1x7": (lambda x, r, c: reference.conv_7x1_1x7(x, r, c, stride=2), (x, row, column)),
        "factorised_reduce": (lambda x, a, b: reference.factorised_reduce(x, a, b), (x, half, point)),
        "max_pool": (lambda x: reference.max_pool(x, stride=2, norm=reference.batch_norm), (x,)),
        "avg_pool": (lambda x: reference.avg_pool(x, stride=2), (x,)),
        "zero": (lambda x: reference.zero(x, stride=2), (x,)),
        "mixed_sum": (lambda x, w: reference.mixed_sum(x, candidates(w[0]), w), (x, weights)),
        "weighted_sum": (lambda x, w: reference.weighted_sum([x, x * x], w), (x, weights)),
        "partial_channels": (
            lambda x: reference.partial_channels(x, lambda y: reference.avg_pool(y, stride=2), partial=3, stride=2),
            (x,),
        ),
        "mixing_weights": (lambda w: reference.mixing_weights(w[None], torch.tensor([[True, False]])), (weights,)),
        "edge_normalisation": (lambda w: reference.edge_normalisation(w, [2, 1]), (scale,)),
    }


@pytest.mark.parametrize("name", functional_forms())
def test_first_and_second_derivatives(name: str) -> None:
    function, inputs = functional_forms()[name]
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


def test_convolutions_default_to_the_padding_that_keeps_the_size() -> None:
    x, depthwise, pointwise = IMAGES, torch.ones(3, 1, 5, 5).double(), torch.ones(3, 3, 1, 1).double()
    assert reference.dil_conv(x, depthwise, pointwise).shape == x.shape
    assert reference.sep_conv(x, depthwise, pointwise, depthwise, pointwise).shape == x.shape
    unpadded = reference.dil_conv(x, depthwise[:, :, :3, :3], pointwise, padding=0, dilation=1)
    assert unpadded.shape == (2, 3, 1, 2)


def test_mixed_sum_is_the_weighted_sum_and_runs_only_the_active() -> None:
    calls: list[int] = []

    def candidate(k: int) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            calls.append(k)
            return x * (k + 1)

        return run

    ops, weights = [candidate(k) for k in range(4)], torch.tensor([0.5, -1.0, 0.0, 2.0], dtype=torch.float64)
    assert torch.equal(reference.mixed_sum(IMAGES, ops, weights), 0.5 * IMAGES - 2 * IMAGES + 8 * IMAGES)
    assert calls == [0, 1, 2, 3]
    assert torch.equal(reference.mixed_sum(IMAGES, ops, weights, active=[3, 1]), 8 * IMAGES - 2 * IMAGES)
    assert calls == [0, 1, 2, 3, 3, 1]


def test_weighted_sum_without_weights_adds() -> None:
    assert torch.equal(reference.weighted_sum([IMAGES]), IMAGES)
    assert torch.equal(reference.weighted_sum([IMAGES, IMAGES, IMAGES]), IMAGES + IMAGES + IMAGES)
    with pytest.raises(ValueError, match="zip"):
        reference.weighted_sum([IMAGES, IMAGES], [torch.ones(())])


@given(
    n=st.integers(1, 2),
    group=st.integers(1, 3),
    partial=st.integers(1, 4),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    stride=st.sampled_from([1, 2]),
)
def test_partial_channels_by_index(n: int, group: int, partial: int, height: int, width: int, stride: int) -> None:
    x = oracle.images(n, group * partial, height, width)
    y = reference.partial_channels(x, lambda s: -s[:, :, ::stride, ::stride], partial=partial, stride=stride)
    expected = torch.empty(n, group * partial, -(-height // stride), -(-width // stride), dtype=x.dtype)
    for channel in range(group * partial):
        source = channel % partial * group + channel // partial
        for i in range(expected.shape[2]):
            for j in range(expected.shape[3]):
                window = x[:, source, stride * i : stride * i + stride, stride * j : stride * j + stride]
                sampled = source < group
                expected[:, channel, i, j] = -window[:, 0, 0] if sampled else window.amax((1, 2))
    assert torch.equal(y, expected)


def test_channel_shuffle_interleaves_the_groups() -> None:
    x = torch.arange(8).reshape(1, 8, 1, 1)
    assert reference.channel_shuffle(x, 4).flatten().tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert reference.channel_shuffle(x, 2).flatten().tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert torch.equal(reference.channel_shuffle(reference.channel_shuffle(x, 4), 2), x)


def test_bypass_of_even_sizes_is_the_peers_pool() -> None:
    x = torch.randn(2, 3, 6, 4)
    assert torch.equal(reference.bypass(x, stride=2), torch.nn.MaxPool2d(2, 2)(x))
    assert reference.bypass(x) is x


def test_mixing_weights_are_masked_exactly() -> None:
    alphas = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    present = torch.arange(4) < torch.tensor([4, 2, 1])[:, None]
    weights = reference.mixing_weights(alphas, present)
    for row, (found, count) in enumerate(zip(weights, [4, 2, 1], strict=True)):
        assert_within("weights", found.float(), found.float(), oracle.softmax(alphas[row].detach(), count))
    (gradient,) = torch.autograd.grad((weights * torch.randn(3, 4)).sum(), alphas)
    assert torch.equal(weights == 0, ~present) and not gradient[~present].any() and gradient[:2][present[:2]].all()


def test_mixing_weights_without_a_mask_are_the_softmax() -> None:
    alphas = torch.randn(14, 8)
    assert torch.equal(reference.mixing_weights(alphas), torch.softmax(alphas, -1))
    assert torch.equal(reference.mixing_weights(alphas, torch.ones(14, 8, dtype=torch.bool)), torch.softmax(alphas, -1))


def test_edge_normalisation_sums_to_one_per_node() -> None:
    betas = torch.randn(9, dtype=torch.float64)
    weights = reference.edge_normalisation(betas, [2, 3, 4])
    for first, last in ((0, 2), (2, 5), (5, 9)):
        expected = oracle.softmax(betas[first:last], last - first)
        assert_within("node", weights[first:last].float(), expected.float(), expected)


def test_edge_normalisation_wants_every_edge() -> None:
    with pytest.raises(RuntimeError, match="split_with_sizes"):
        reference.edge_normalisation(torch.zeros(5), [2, 2])


def test_drop_path_drops_whole_images_and_keeps_the_mean() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.ones(4000, 2, 2, 1)
    y = reference.drop_path(x, 0.25, generator=generator)
    assert sorted(y.unique().tolist()) == [0.0, pytest.approx(4 / 3)]
    assert torch.equal(y, y[:, :1, :1].expand_as(y))
    assert abs(float((y == 0).float().mean()) - 0.25) < 0.03
    again = reference.drop_path(x, 0.25, generator=torch.Generator().manual_seed(1))
    assert torch.equal(y, again) and x.eq(1).all()


def test_drop_path_of_probability_zero_draws_nothing() -> None:
    x = torch.randn(2, 1, 1, 1)
    state = torch.get_rng_state()
    assert reference.drop_path(x, 0.0) is x and torch.equal(torch.get_rng_state(), state)


def test_drop_path_draws_from_the_default_generator() -> None:
    x = torch.randn(16, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(5)
    y = reference.drop_path(x, 0.5)
    torch.manual_seed(5)
    mask = torch.empty(16, 1, 1, 1, dtype=torch.float64).bernoulli_(0.5)
    assert torch.equal(y, x / 0.5 * mask)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, (mask / 0.5).expand_as(x))


def test_batch_norm_refuses_a_single_value() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        reference.batch_norm(torch.ones(1, 3, 1, 1))


def test_noise_takes_a_generator() -> None:
    first, second = (reference.noise(IMAGES, stride=2, generator=torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, second) and first.shape == (2, 3, 2, 2) and first.dtype == torch.float64
