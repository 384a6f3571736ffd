"""quark0's Architect: the architecture level's half of a search step."""

from __future__ import annotations

from typing import Protocol

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
            network_optimizer: of the weights; its momentum buffers, where there are any yet, are read.
            unrolled: whether to take the second-order gradient.
        """
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        state = network_optimizer.state
        gradients = hypergradient(
            # At rate 0, where a cosine schedule may end, both are the same gradient.
            "second" if unrolled and eta > 0 else "first",
            loss_train=lambda: self.model._loss(input_train, target_train),
            loss_val=lambda: self.model._loss(input_valid, target_valid),
            weights=weights,
            alphas=self.model.arch_parameters(),
            lr=float(eta),
            momentum=self.network_momentum,
            momentum_buffers=[state[w].get("momentum_buffer") if w in state else None for w in weights],
            weight_decay=self.network_weight_decay,
            epsilon=EPSILON,
            module_state="peer",
        )
        for alpha, gradient in zip(self.model.arch_parameters(), gradients, strict=True):
            alpha.grad = gradient
        self.optimizer.step()
