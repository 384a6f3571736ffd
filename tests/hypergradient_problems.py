"""Bilevel problems that the hypergradient tests share, some of them solved on paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FINITE = ("second", "amended")

# Evaluations of (loss_train, loss_val).
EVALUATIONS = {
    "one-level": (1, 0),
    "first": (0, 1),
    "second": (3, 1),
    "second-exact": (2, 1),
    "amended": (4, 1),
    "amended-exact": (1, 1),
}


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([each.detach().reshape(-1) for each in tensors])


def split(vector: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    sizes = [torch.Size(shape).numel() for shape in shapes]
    return [part.reshape(shape).clone() for part, shape in zip(vector.split(sizes), shapes, strict=True)]


@dataclass
class Problem:
    """Two losses and their leaves; ``arguments`` go to ``hypergradient`` as they are."""

    loss_train: Callable[[], Tensor]
    loss_val: Callable[[], Tensor]
    weights: list[Tensor]
    alphas: list[Tensor]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def arguments(self) -> dict[str, Any]:
        own = {"loss_train": self.loss_train, "loss_val": self.loss_val}
        return own | {"weights": self.weights, "alphas": self.alphas} | self.settings


def toy(w: float, alpha: float, **settings: Any) -> Problem:
    """Appendix A.1 of the amended paper: L = (w x - alpha)^2, x_train = 1, x_val = 2."""
    weight, arch = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (w, alpha))
    return Problem(lambda: (weight - arch) ** 2, lambda: (2 * weight - arch) ** 2, [weight], [arch], settings)


class Quadratic:
    """L = w'Aw/2 + w'Ba + a'Ca/2 + b'w + c'a at both levels, A random, symmetric and positive definite.

    All entries are small integers, so that float64 computes without rounding as long as the settings are dyadic.
    """

    weight_shapes = ((3, 2), (), (1, 4))
    alpha_shapes = ((2, 2), (3,))

    def __init__(self) -> None:
        n, m = (sum(torch.Size(s).numel() for s in shapes) for shapes in (self.weight_shapes, self.alpha_shapes))

        def draw(*shape: int) -> Tensor:
            return torch.randint(-3, 4, shape).double()

        def level() -> tuple[Tensor, ...]:
            a, c = draw(n, n), draw(m, m)
            return a @ a.T + torch.eye(n), draw(n, m), c + c.T, draw(n), draw(m)

        self.train, self.val = level(), level()
        self.w, self.a, self.m = draw(n), draw(m), draw(n)

    def slope(self, level: tuple[Tensor, ...], w: Tensor) -> tuple[Tensor, Tensor]:
        """(dL/dw, dL/dalpha) on paper."""
        a, b, c, d, e = level
        return a @ w + b @ self.a + d, b.T @ w + c @ self.a + e

    def problem(self, **settings: Any) -> Problem:
        weights = [each.requires_grad_() for each in split(self.w, self.weight_shapes)]
        alphas = [each.requires_grad_() for each in split(self.a, self.alpha_shapes)]

        def loss(level: tuple[Tensor, ...]) -> Tensor:
            a, b, c, d, e = level
            w, x = (torch.cat([each.reshape(-1) for each in leaves]) for leaves in (weights, alphas))
            return w @ a @ w / 2 + w @ b @ x + x @ c @ x / 2 + d @ w + e @ x

        settings = {"momentum_buffers": split(self.m, self.weight_shapes)} | settings
        return Problem(lambda: loss(self.train), lambda: loss(self.val), weights, alphas, settings)

    def solution(
        self, kind: str, *, lr: float = 0.0, momentum: float = 0.0, weight_decay: float = 0.0, eta: float = 0.0
    ) -> Tensor:
        """The hypergradient on paper: H = A_train and d2L_train/(dalpha dw) = B_train'."""
        hessian, mixed = self.train[0], self.train[1].T
        if kind == "one-level":
            return self.slope(self.train, self.w)[1]
        if kind == "first":
            return self.slope(self.val, self.w)[1]
        if kind.startswith("amended"):
            v, first = self.slope(self.val, self.w)
            return first - eta * mixed @ hessian @ v
        step = momentum * self.m + self.slope(self.train, self.w)[0] + weight_decay * self.w
        v, first = self.slope(self.val, self.w - lr * step)
        return first - lr * mixed @ v


class Mixture(nn.Module):
    """A smooth searched network: each layer mixes two candidates by the softmax of its alphas, then batch norm."""

    def __init__(self, width: int = 5, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleList(nn.Linear(width, width) for _ in range(2)) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(2))
        self.head = nn.Linear(width, 3)
        self.dropout = nn.Dropout(dropout)
        self.alphas = [torch.randn(2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
        self.batches = [(torch.randn(12, width, dtype=torch.float64), torch.arange(12) % 3) for _ in range(2)]
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        for (left, right), norm, alpha in zip(self.layers, self.norms, self.alphas, strict=True):
            weight = alpha.softmax(0)
            x = norm(weight[0] * torch.tanh(left(x)) + weight[1] * torch.sin(right(x)))
            x = self.dropout(x)
        return self.head(x)


def mixture(dropout: float = 0.0, **settings: Any) -> tuple[Mixture, Problem]:
    """The smooth network on two random batches."""
    model = Mixture(dropout=dropout)

    def loss(level: int) -> Tensor:
        images, labels = model.batches[level]
        return F.cross_entropy(model(images), labels)

    weights = list(model.parameters())
    defaults = {"lr": 0.3, "momentum": 0.9, "weight_decay": 3e-2, "epsilon": 1e-2, "eta": 0.1}
    defaults["momentum_buffers"] = [torch.randn_like(each) if i % 3 else None for i, each in enumerate(weights)]
    return model, Problem(lambda: loss(0), lambda: loss(1), weights, list(model.alphas), defaults | settings)


def relative_error(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    exact = flat(expected)
    return float((flat(actual) - exact).norm() / exact.norm())
