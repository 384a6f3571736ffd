"""quark0's Architect: the architecture level's half of a search step."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fastdarts.search import hypergradient

__all__ = ["Architect", "ArchitectArguments", "SearchModel"]

# quark0's R: the length of the finite-difference step of the second-order gradient.
EPSILON = 1e-2


class ArchitectArguments(Protocol):
    """What :class:`Architect` reads of the parsed command line.

    Attributes:
        momentum: of the weights' SGD.
        weight_decay: of the weights' SGD.
        arch_learning_rate: of the alphas' Adam.
        arch_weight_decay: of the alphas' Adam.
    """

    momentum: float
    weight_decay: float
    arch_learning_rate: float
    arch_weight_decay: float


class SearchModel(Protocol):
    """What :class:`Architect` asks of a model."""

    def arch_parameters(self) -> list[Tensor]:
        """The alphas."""
        ...

    def parameters(self) -> list[nn.Parameter]:
        """The weights."""
        ...

    def _loss(self, input: Tensor, target: Tensor) -> Tensor: ...


class Architect:
    """Adam on the alphas along the first-order or the unrolled second-order gradient.

    Args:
        model: a search network: `arch_parameters()`, `parameters()` and `_loss(input, target)`.
        args: momentum, weight_decay, arch_learning_rate, arch_weight_decay.

    Source: Liu et al. 2019 (DARTS), Algorithm 1, Eq. 7 and 8; facts section 1.1.
    """

    def __init__(self, model: SearchModel, args: ArchitectArguments) -> None:
        self.network_momentum = args.momentum
        self.network_weight_decay = args.weight_decay
        self.model = model
        self.optimizer = torch.optim.Adam(
            model.arch_parameters(),
            lr=args.arch_learning_rate,
            betas=(0.5, 0.999),
            weight_decay=args.arch_weight_decay,
        )

    def step(
        self,
        input_train: Tensor,
        target_train: Tensor,
        input_valid: Tensor,
        target_valid: Tensor,
        eta: float,
        network_optimizer: Optimizer,
        unrolled: bool,
    ) -> None:
        """Update the alphas; weights stay as they are, batch-norm statistics move as in quark0.

        Args:
            input_train: [N, C, H, W]; images of the weight level, read if unrolled.
            target_train: [N], int64; their labels.
            input_valid: [N, C, H, W]; images of the architecture level.
            target_valid: [N], int64; their labels.
            eta: learning rate of the weights, the length of the unrolled step.
            network_optimizer: of the weights; its momentum buffers, where there are any yet, are read if unrolled.
            unrolled: whether to take the second-order gradient.
        """
        self.optimizer.zero_grad()
        if unrolled:
            self._backward_step_unrolled(input_train, target_train, input_valid, target_valid, eta, network_optimizer)
        else:
            self._backward_step(input_valid, target_valid)
        self.optimizer.step()

    def _backward_step(self, input_valid: Tensor, target_valid: Tensor) -> None:
        """Add the first-order gradient to the alphas' `.grad`; subclasses override it, as they do quark0's."""
        valid = input_valid, target_valid
        for alpha, gradient in zip(self.model.arch_parameters(), self._gradient("first", valid, valid), strict=True):
            alpha.grad = gradient if alpha.grad is None else alpha.grad + gradient

    def _backward_step_unrolled(
        self,
        input_train: Tensor,
        target_train: Tensor,
        input_valid: Tensor,
        target_valid: Tensor,
        eta: float,
        network_optimizer: Optimizer,
    ) -> None:
        """Set the alphas' `.grad` to the second-order gradient; subclasses override it, as they do quark0's."""
        state = network_optimizer.state
        gradients = self._gradient(
            "second",
            (input_train, target_train),
            (input_valid, target_valid),
            # A cosine schedule may end at rate 0: the smallest float moves no weight, and the passes leave batch-norm
            # statistics as quark0's do.
            lr=max(float(eta), math.ulp(0.0)),
            momentum=self.network_momentum,
            momentum_buffers=[state[w].get("momentum_buffer") if w in state else None for w in self._weights()],
            weight_decay=self.network_weight_decay,
            epsilon=EPSILON,
        )
        for alpha, gradient in zip(self.model.arch_parameters(), gradients, strict=True):
            alpha.grad = gradient
        _draw_as_new(self.model)

    def _weights(self) -> list[nn.Parameter]:
        return [weight for weight in self.model.parameters() if weight.requires_grad]

    def _gradient(
        self, kind: str, train: tuple[Tensor, Tensor], valid: tuple[Tensor, Tensor], **settings: Any
    ) -> tuple[Tensor, ...]:
        return hypergradient(
            kind,
            loss_train=lambda: self.model._loss(*train),
            loss_val=lambda: self.model._loss(*valid),
            weights=self._weights(),
            alphas=self.model.arch_parameters(),
            module_state="peer",
            **settings,
        )


def _draw_as_new(model: SearchModel) -> None:
    """Advance torch's default CPU generator as quark0's `model.new()` does in every unrolled step.

    A shuffling `DataLoader` draws from the same generator: without this a script that is otherwise unchanged would see
    other batches. DARTS' 1.9 million draws take about 10 ms; the network that they are for is not built.
    """
    if not isinstance(model, nn.Module) or not hasattr(model, "new"):
        return
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            torch.empty(module.weight.shape).uniform_()
            if module.bias is not None:
                torch.empty(module.bias.shape).uniform_()
    for alpha in model.arch_parameters():
        torch.randn(alpha.shape)
