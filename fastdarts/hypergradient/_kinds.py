"""What each kind of hypergradient computes, as passes over the two losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import torch
from torch import Tensor

from fastdarts.hypergradient._passes import Passes

__all__ = ["EXACT", "RULES", "Problem", "second_derivative", "slope_of"]

EXACT: Mapping[str, str] = MappingProxyType({"second": "second-exact", "amended": "amended-exact"})
"""What each finite-difference kind approximates."""


@dataclass(frozen=True)
class Problem:
    """A bilevel problem at its current point; the fields are :func:`hypergradient`'s arguments."""

    kind: str
    passes: Passes
    weights: list[Tensor]
    alphas: list[Tensor]
    lr: float
    momentum: float
    momentum_buffers: list[Tensor | None]
    weight_decay: float
    epsilon: float
    eta: float

    @cached_property
    def saved(self) -> list[Tensor]:
        """Copies of the weights, made once and only for the kinds that move them."""
        return [weight.detach().clone() for weight in self.weights]

    @property
    def leaves(self) -> list[Tensor]:
        """Alphas, then weights."""
        return [*self.alphas, *self.weights]

    @contextmanager
    def displaced(self, direction: list[Tensor], step: float) -> Iterator[None]:
        """Stand at ``w + step * direction`` and come back to the very same bits."""
        saved = self.saved
        try:
            torch._foreach_add_(self.weights, direction, alpha=step)
            # Inside a caller's autocast region the low-precision copies of the weights would go stale unnoticed.
            torch.clear_autocast_cache()
            yield
        finally:
            torch._foreach_copy_(self.weights, saved)
            torch.clear_autocast_cache()


def _one_level(problem: Problem) -> list[Tensor]:
    return problem.passes.gradients("loss_train", problem.alphas)


def _first(problem: Problem) -> list[Tensor]:
    return problem.passes.gradients("loss_val", problem.alphas)


def _second(problem: Problem) -> list[Tensor]:
    first, v = _unrolled(problem)
    return _minus(first, problem.lr, _central_difference(problem, problem.alphas, v))


def _second_exact(problem: Problem) -> list[Tensor]:
    first, v = _unrolled(problem)
    with problem.passes.loss("loss_train", problem.leaves) as loss, _differentiated_twice(problem.kind):
        mixed = second_derivative(slope_of(loss, problem.weights), problem.alphas, v)
    return _minus(first, problem.lr, mixed)


def _amended(problem: Problem) -> list[Tensor]:
    first, v = _validation(problem)
    hv = _central_difference(problem, problem.weights, v)
    return _minus(first, problem.eta, _central_difference(problem, problem.alphas, hv))


def _amended_exact(problem: Problem) -> list[Tensor]:
    first, v = _validation(problem)
    with problem.passes.loss("loss_train", problem.leaves) as loss, _differentiated_twice(problem.kind):
        slope = slope_of(loss, problem.weights)
        hv = second_derivative(slope, problem.weights, v, keep_graph=True)
        mixed = second_derivative(slope, problem.alphas, hv)
    return _minus(first, problem.eta, mixed)


RULES: Mapping[str, Callable[[Problem], list[Tensor]]] = MappingProxyType(
    {
        "one-level": _one_level,
        "first": _first,
        "second": _second,
        "second-exact": _second_exact,
        "amended": _amended,
        "amended-exact": _amended_exact,
    }
)


def _validation(problem: Problem, *, discard: bool = False) -> tuple[list[Tensor], list[Tensor]]:
    """``dL_val/dalpha`` and ``dL_val/dw`` where the weights stand, in one pass."""
    gradients = problem.passes.gradients("loss_val", problem.leaves, discard=discard)
    return gradients[: len(problem.alphas)], gradients[len(problem.alphas) :]


def _unrolled(problem: Problem) -> tuple[list[Tensor], list[Tensor]]:
    """``dL_val/dalpha`` and ``dL_val/dw`` after one SGD step on the training loss (DARTS, Eq. 7)."""
    slope = problem.passes.gradients("loss_train", problem.weights)
    step = list(torch._foreach_add(slope, problem.weights, alpha=problem.weight_decay))
    for each, buffer in zip(step, problem.momentum_buffers, strict=True):
        if buffer is not None and problem.momentum:
            each.add_(buffer, alpha=problem.momentum)
    with problem.displaced(step, -problem.lr):
        return _validation(problem, discard=True)


def _central_difference(problem: Problem, wanted: list[Tensor], direction: list[Tensor]) -> list[Tensor]:
    """``(dL_train/dwanted (w + R d) - dL_train/dwanted (w - R d)) / 2R`` with ``R = epsilon / |d|``; zero for d = 0.

    The two passes are made for a zero direction as well, so that the cost and what the passes leave in generators
    and kept module state do not depend on the data.
    """
    norm = _norm(direction)
    double = all(each.dtype == torch.float64 for each in direction)
    largest = torch.finfo(torch.float64 if double else torch.float32).max
    radius = problem.epsilon / norm if norm else math.inf
    # Such a direction is zero or nothing but rounding: it is not followed, and both passes see the same weights.
    radius = 0.0 if radius > largest else radius
    with problem.displaced(direction, radius):
        plus = problem.passes.gradients("loss_train", wanted)
    with problem.displaced(direction, -radius):
        minus = problem.passes.gradients("loss_train", wanted)
    # Times |d| / 2 epsilon, not over 2R: an infinite |d| must give a non-finite quotient, not a division by zero.
    return list(torch._foreach_mul(torch._foreach_sub(plus, minus), norm / (2 * problem.epsilon)))


def _norm(tensors: list[Tensor]) -> float:
    """Euclidean norm of all tensors as one vector, accumulated in float64, with one wait for the device."""
    norms = torch._foreach_norm(tensors, 2, torch.float64)
    return float(torch.linalg.vector_norm(torch.stack([each.to(norms[0].device) for each in norms])).item())


def slope_of(loss: Tensor, weights: list[Tensor]) -> list[Tensor]:
    """``dL/dw`` as a graph of weights and alphas, so that it can be differentiated once more."""
    slope = list(torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True))
    _refuse_error_nodes(slope)
    return slope


def _refuse_error_nodes(tensors: list[Tensor]) -> None:
    """Raise where an ``autograd.Function`` marked ``once_differentiable`` stands in the graph.

    Its node raises when it runs, but ``autograd.grad`` never runs it: the node leads to no leaf, so the derivative
    through it would silently be zero.
    """
    found = [each.grad_fn for each in tensors if each.grad_fn is not None]
    seen = set(found)
    while found:
        node = found.pop()
        if node.name() == "torch::autograd::Error":
            raise RuntimeError("an autograd.Function marked once_differentiable has no second derivative")
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                found.append(following)


def second_derivative(
    slope: list[Tensor], wanted: list[Tensor], direction: list[Tensor], *, keep_graph: bool = False
) -> list[Tensor]:
    """``d(slope . direction)/dwanted``, one double backward."""
    # A slope that depends on nothing (a loss linear in that weight) has no graph, and its derivative is zero.
    pairs = [(each, along) for each, along in zip(slope, direction, strict=True) if each.requires_grad]
    if not pairs:
        return [torch.zeros_like(each) for each in wanted]
    outputs, along = zip(*pairs, strict=True)
    return list(torch.autograd.grad(outputs, wanted, along, retain_graph=keep_graph, materialize_grads=True))


@contextmanager
def _differentiated_twice(kind: str) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        alternative = next(finite for finite, exact in EXACT.items() if exact == kind)
        raise RuntimeError(
            f"hypergradient {kind!r} differentiates loss_train twice, and that failed: {error}; where an operation "
            f"has no second derivative, use kind {alternative!r} (finite differences) or compute the loss under "
            "fastdarts.use_backend('reference')"
        ) from error


def _minus(first: list[Tensor], factor: float, second: list[Tensor]) -> list[Tensor]:
    return list(torch._foreach_sub(first, second, alpha=factor))
