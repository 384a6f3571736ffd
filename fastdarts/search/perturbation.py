"""SmoothDARTS: the weights learn under mixing weights that are moved, at random or against them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fastdarts.errors import UserError
from fastdarts.nn import Supernet
from fastdarts.nn.fused import constant
from fastdarts.search.choices import Mixing, Perturbation

__all__ = ["AdversarialPerturbation", "RandomPerturbation", "distribution"]

FIRST_RADIUS = 0.03

Rows = dict[str, Tensor]


def distribution(values: Tensor, present: Tensor | None = None) -> Tensor:
    """Clip what was moved to [0, 1] and rescale every row to sum 1.

    `u = clamp(v, 0, 1)`; a row of zeros becomes 1 at its largest v; `w = u / sum(u)`

    Args:
        values: [E, width], floating; mixing weights and what was added to them.
        present: [E, width], bool; which entries are candidates, at least one a row. None where all are.

    Returns:
        [E, width], the dtype of values; exactly 0 where no candidate is.

    Source: Chen and Hsieh 2020 (SmoothDARTS), whose mixing weights stay on the simplex;
    the way there: docs/facts.md, 7.
    """
    if present is not None:
        values = values.masked_fill(~present, -torch.inf)
    clipped = values.clamp(0.0, 1.0)
    # Not one_hot, which looks at its indices on the host.
    largest = torch.arange(values.shape[1], device=values.device) == values.argmax(1, keepdim=True)
    rows = torch.where(clipped.sum(1, keepdim=True) > 0.0, clipped, largest.to(clipped))
    return rows / rows.sum(1, keepdim=True)


class _Ball(Perturbation):
    """What both perturbations share: a ball around the mixing weights that grows from epoch to epoch.

    `eps(e) = 0.03 + (largest - 0.03) e / E`

    Args:
        largest: radius that the ball would have after the last epoch, in units of a mixing weight.
        epochs: E.

    Raises:
        UserError: a radius that is not in (0, 1].
    """

    def __init__(self, largest: float, epochs: int) -> None:
        if not 0.0 < largest <= 1.0:
            raise UserError(f"perturbation is {largest}", "a number above 0 and at most 1", "SmoothDARTS uses 0.3")
        self.largest, self.epochs = largest, epochs

    def radius(self, progress: float | Tensor) -> float | Tensor:
        """eps of the epoch in which the search is; a scalar tensor where ``progress`` is one."""
        # Half a millionth of an epoch is less than any step and more than the rounding of progress * epochs.
        epochs = progress * self.epochs + 5e-7
        epoch = torch.floor(epochs) if isinstance(epochs, Tensor) else math.floor(epochs)
        return FIRST_RADIUS + (self.largest - FIRST_RADIUS) * epoch / self.epochs

    def _moved(self, model: Supernet, weights: Rows, moves: Rows) -> Rows:
        return {key: distribution(rows + moves[key], _present(model, key, rows)) for key, rows in weights.items()}

    def _random(self, weights: Rows, radius: float | Tensor) -> Rows:
        return {key: torch.empty_like(rows).uniform_(-1.0, 1.0) * radius for key, rows in weights.items()}


class RandomPerturbation(_Ball):
    """SDARTS-RS: uniform noise on every mixing weight, another at every step.

    `w = distribution(softmax(alpha) + delta)`, `delta ~ U(-eps, eps)`

    The weights' descent then minimises the training loss averaged over the ball.

    Source: Chen and Hsieh 2020 (SmoothDARTS), the inner problem of SDARTS-RS and Algorithm 1; radius: docs/facts.md, 7.
    """

    def __call__(
        self, model: Supernet, mixing: Mixing, progress: float | Tensor, loss: Callable[[Mixing], Tensor]
    ) -> Mixing:
        weights = mixing["weights"]
        return mixing | {"weights": self._moved(model, weights, self._random(weights, self.radius(progress)))}


class AdversarialPerturbation(_Ball):
    """SDARTS-ADV: the mixing weights of the ball that the weights find worst, by projected gradient ascent.

    From a random start, ``steps`` times `w <- distribution(w0 + clamp(w + 2 eps / steps sign(dL_train/dw) - w0, -eps,
    eps))`. What was found is taken unless its loss is below that of w0. The network is in evaluation mode meanwhile:
    batch norms use their running statistics and leave them alone. ``steps`` forward and backward passes and two forward
    ones are added to a step of the search.

    Args:
        largest, epochs: as of :class:`RandomPerturbation`.
        steps: of the ascent.

    Source: Chen and Hsieh 2020 (SmoothDARTS), the inner problem of SDARTS-ADV and Algorithm 1; the number and length of
    the steps and the random start: docs/facts.md, 7.
    """

    def __init__(self, largest: float, epochs: int, steps: int = 7) -> None:
        super().__init__(largest, epochs)
        if steps < 1:
            raise UserError(f"attack_steps is {steps}", "at least 1", "SmoothDARTS uses 7")
        self.steps = steps

    def __call__(
        self, model: Supernet, mixing: Mixing, progress: float | Tensor, loss: Callable[[Mixing], Tensor]
    ) -> Mixing:
        radius, centre = self.radius(progress), mixing["weights"]
        with _evaluating(model):
            before = loss(mixing)
            weights = self._moved(model, centre, self._random(centre, radius))
            for _ in range(self.steps):
                slopes = _slopes(mixing, weights, loss)
                climbed = {key: rows + slopes[key].sign() * (2 * radius / self.steps) for key, rows in weights.items()}
                moves = {key: _clamped(climbed[key] - rows, radius) for key, rows in centre.items()}
                weights = self._moved(model, centre, moves)
            fell = before > loss(mixing | {"weights": weights})
        # A choice on the device: no comparison is asked for on the host.
        return mixing | {"weights": {key: torch.where(fell, rows, weights[key]) for key, rows in centre.items()}}


def _present(model: Supernet, key: str, rows: Tensor) -> Tensor | None:
    """Which entries of ``rows`` [E, width] are candidates; None for all."""
    counts, width = model.space.cell(key, model.layers).counts, rows.shape[1]
    if min(counts) == width:
        return None
    return constant(tuple(tuple(column < count for column in range(width)) for count in counts), rows.device)


def _clamped(moves: Tensor, radius: float | Tensor) -> Tensor:
    return torch.where(moves.abs() > radius, moves.sign() * radius, moves)


def _slopes(mixing: Mixing, weights: Rows, loss: Callable[[Mixing], Tensor]) -> Rows:
    """Gradient of the loss by the mixing weights, zero for a cell type that the network does not have."""
    leaves = {key: rows.detach().requires_grad_() for key, rows in weights.items()}
    with torch.enable_grad():
        value = loss(mixing | {"weights": leaves})
    slopes = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, slopes, strict=True))


@contextmanager
def _evaluating(model: Supernet) -> Iterator[None]:
    """Evaluation mode, and weights that are constants, so that an ascent pays for no gradient of theirs."""
    training = model.training
    learning = [weight for weight in model.weight_parameters() if weight.requires_grad]
    try:
        model.eval()
        for weight in learning:
            weight.requires_grad_(False)
        yield
    finally:
        for weight in learning:
            weight.requires_grad_(True)
        model.train(training)
