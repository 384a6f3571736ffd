"""ReinMax's estimator against its matrices, and against the exact gradient of what it is exact for."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from fastdarts.errors import UserError
from fastdarts.search import configure
from fastdarts.search.methods import compose
from fastdarts.search.reinmax import ReinMax, reinmax
from tests.sampled import supernet
from tests.unequal import SPACE as UNEQUAL


def _jacobian(p: Tensor) -> Tensor:
    return torch.diag(p) - torch.outer(p, p)


@pytest.mark.parametrize("tau", [1.0, 1.5])
def test_the_gradient_is_that_of_its_matrices(tau: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    index, slope = torch.randint(5, (6,)), torch.randn(6, 5, dtype=torch.float64)
    weights = reinmax(logits, index, tau)
    assert torch.equal(weights.detach(), torch.nn.functional.one_hot(index, 5).double())
    (found,) = torch.autograd.grad((weights * slope).sum(), logits)
    for row, drawn, own, gradient in zip(logits.detach(), index, slope, found, strict=True):
        one = torch.nn.functional.one_hot(drawn, 5).double()
        half = (one + (row / tau).softmax(0)) / 2
        expected = (2 * _jacobian(half) - _jacobian(row.softmax(0)) / 2) @ own
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)


def test_its_mean_over_all_draws_is_exact_for_quadratic_functions() -> None:
    """Second order: the first-order estimate, straight-through, is not."""
    torch.manual_seed(1)
    matrix = torch.randn(4, 4, dtype=torch.float64)
    logits = torch.randn(1, 4, dtype=torch.float64, requires_grad=True)

    def value(weights: Tensor) -> Tensor:
        return (weights @ matrix * weights).sum()

    p = logits.softmax(-1)[0]
    ones = torch.eye(4, dtype=torch.float64)
    (exact,) = torch.autograd.grad(sum((p[k] * value(ones[k : k + 1]) for k in range(4)), torch.zeros(())), logits)
    mean, straight = torch.zeros_like(exact), torch.zeros_like(exact)
    for k in range(4):
        weights = reinmax(logits, torch.tensor([k]))
        mean += p[k].detach() * torch.autograd.grad(value(weights), logits)[0]
        soft = logits.softmax(-1)
        hard = ones[k : k + 1] + soft - soft.detach()
        straight += p[k].detach() * torch.autograd.grad(value(hard), logits)[0]
    torch.testing.assert_close(mean, exact, rtol=1e-10, atol=1e-12)
    assert (straight - exact).abs().max() > 1e-2


def test_draws_have_the_softmax_frequencies_and_padding_is_never_drawn() -> None:
    model = supernet(UNEQUAL)
    torch.manual_seed(2)
    relaxation = ReinMax(1.0)
    with torch.no_grad():
        drawn = Counter(relaxation(model, 0.0)["active"]["normal"][0] for _ in range(3000))
    p = model.mixing_weights()["normal"][0].tolist()
    count = UNEQUAL.cell("normal", 3).counts[0]
    assert set(drawn) <= {(k,) for k in range(count)}
    assert all(abs(drawn[(k,)] / 3000 - p[k]) < 0.04 for k in range(count))
    mixing = relaxation(model, 0.0)
    assert [len(row) for row in mixing["active"]["normal"]] == list(UNEQUAL.cell("normal", 3).counts)
    weights = mixing["weights"]
    loss = sum((weights[key] * torch.randn_like(weights[key])).sum() for key in weights)
    for key, gradient in zip(weights, torch.autograd.grad(loss, model.arch_parameters()), strict=True):
        assert gradient.isfinite().all()
        for row, there in zip(gradient, UNEQUAL.cell(key, 3).counts, strict=True):
            assert row[there:].tolist() == [0.0] * len(row[there:])


def test_settings() -> None:
    config = configure("gdas-reinmax", data="cifar10")
    assert (config.epochs, config.layers, config.options) == (250, 6, {"tau": 1.0, "derive": "pairs"})
    with pytest.raises(UserError, match=r"tau is 0\.5"):
        compose(configure("gdas-reinmax", data="cifar10", tau=0.5))
