"""The step as a GPU runs it: nothing in it asks the host, so that it may be captured in a CUDA graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fastdarts.hypergradient import EXACT
from fastdarts.hypergradient._passes import NoGenerators, Passes
from fastdarts.nn import Supernet
from fastdarts.search._flat import FlatAdam, FlatParameters, FlatSGD
from fastdarts.search.choices import Perturbation, Relaxation
from fastdarts.search.config import SearchConfig
from fastdarts.search.step import Losses, SearchStep

__all__ = ["UnattendedStep"]


class UnattendedStep(SearchStep):
    """:class:`SearchStep` on flat buffers, the learning rate and the search's progress read on the device.

    Its numbers are those of :class:`SearchStep` to rounding: the gradient's norm is summed over one buffer, and finite
    differences take their step from a tensor. Captured or not it gives the same bits.

    Attributes:
        flat: the weights.
        lr: [], float64, on the device; the weights' learning rate, to be filled before a step.
    """

    def __init__(
        self,
        model: Supernet,
        config: SearchConfig,
        relaxation: Relaxation,
        perturbation: Perturbation | None = None,
    ) -> None:
        super().__init__(model, config, relaxation, perturbation)
        self.flat = FlatParameters(self.weights)
        self.sgd = FlatSGD(self.weight_optimizer, self.flat, config.grad_clip)
        self.adam = FlatAdam(self.arch_optimizer, FlatParameters(self.alphas))
        self.lr = torch.full((), config.lr, dtype=torch.float64, device=self.flat.values.device)

    def set_lr(self, lr: float) -> None:
        super().set_lr(lr)
        self.lr.fill_(lr)

    def state_dict(self) -> dict[str, Any]:
        self.adam.publish()
        return super().state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.sgd.adopt()
        self.adam.adopt()

    def _hypergradient(self, losses: Losses) -> Sequence[Tensor]:
        if self.config.hypergradient in EXACT.values():
            return super()._hypergradient(losses)
        passes = Passes(**losses, leaves=(*self.weights, *self.alphas), keep_module_state=True, generators=NoGenerators)
        kinds = {"one-level": _one_level, "first": _first, "second": _second, "amended": _amended}
        with torch.no_grad(), passes:
            return passes.poisoned(kinds[self.config.hypergradient](self, passes))

    def _learn_alphas(self, gradients: Sequence[Tensor]) -> None:
        largest = self.config.arch_grad_clip
        if largest:
            # torch's clip_grad_norm_ without its question for non-finite norms.
            norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(each) for each in gradients]))
            factor = (largest / (norm + 1e-6)).clamp(max=1.0)
            gradients = [each * factor for each in gradients]
        self.adam.step(gradients)

    def _learn_weights(self, loss: Tensor) -> None:
        # Not backward(): a gradient that is accumulated belongs to the stream on which its parameter was first used.
        gradients = torch.autograd.grad(loss, self.weights, materialize_grads=True)
        with torch.no_grad():
            self.sgd.step(gradients, self.lr)


# The kinds of `hypergradient`, whose docstring has the formulas.


def _one_level(step: UnattendedStep, passes: Passes) -> list[Tensor]:
    return passes.gradients("loss_train", step.alphas)


def _first(step: UnattendedStep, passes: Passes) -> list[Tensor]:
    return passes.gradients("loss_val", step.alphas)


def _second(step: UnattendedStep, passes: Passes) -> list[Tensor]:
    slope = step.flat.flat(passes.gradients("loss_train", step.weights))
    descent = slope.add_(step.flat.values, alpha=step.weight_optimizer.param_groups[0]["weight_decay"])
    if step.config.momentum:
        descent.add_(step.sgd.momentum, alpha=step.config.momentum)
    with _displaced(step, descent, -step.lr):
        first, v = _validation(step, passes, discard=True)
    return _minus(first, step.lr, _central_difference(step, passes, step.alphas, v))


def _amended(step: UnattendedStep, passes: Passes) -> list[Tensor]:
    first, v = _validation(step, passes)
    hv = step.flat.flat(_central_difference(step, passes, step.weights, v))
    return _minus(first, step.config.eta, _central_difference(step, passes, step.alphas, hv))


def _validation(step: UnattendedStep, passes: Passes, *, discard: bool = False) -> tuple[list[Tensor], Tensor]:
    """``dL_val/dalpha``, and ``dL_val/dw`` as a buffer [P]."""
    gradients = passes.gradients("loss_val", [*step.alphas, *step.weights], discard=discard)
    return gradients[: len(step.alphas)], step.flat.flat(gradients[len(step.alphas) :])


def _central_difference(
    step: UnattendedStep, passes: Passes, wanted: Sequence[Tensor], direction: Tensor
) -> list[Tensor]:
    norm = torch.linalg.vector_norm(direction, dtype=torch.float64)
    largest = torch.finfo(direction.dtype).max
    radius = step.config.epsilon / norm
    # Such a direction is zero or nothing but rounding. On a device 1 / 0 is inf: one comparison serves both.
    radius = torch.where(radius > largest, torch.zeros_like(radius), radius)
    with _displaced(step, direction, radius):
        plus = passes.gradients("loss_train", wanted)
    with _displaced(step, direction, -radius):
        minus = passes.gradients("loss_train", wanted)
    factor = norm / (2 * step.config.epsilon)
    return [(above - below) * factor for above, below in zip(plus, minus, strict=True)]


@contextmanager
def _displaced(step: UnattendedStep, direction: Tensor, length: Tensor) -> Iterator[None]:
    """Stand at ``w + length * direction`` and come back to the very same bits."""
    saved = step.flat.values.clone()
    try:
        step.flat.values.add_(direction * length)
        torch.clear_autocast_cache()
        yield
    finally:
        step.flat.values.copy_(saved)
        torch.clear_autocast_cache()


def _minus(first: list[Tensor], factor: float | Tensor, second: list[Tensor]) -> list[Tensor]:
    return [one - factor * other for one, other in zip(first, second, strict=True)]
