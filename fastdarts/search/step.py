"""One step of the search: the architecture level, then the weight level."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdarts._backend import use_backend
from fastdarts.hypergradient import EXACT, HypergradientError, hypergradient, hypergradient_error
from fastdarts.nn import Supernet
from fastdarts.search.choices import Mixing, Perturbation, Relaxation
from fastdarts.search.config import SearchConfig
from fastdarts.search.cost import Cost
from fastdarts.search.drawn import DrawnWeights, RowAdam
from fastdarts.search.exponentiated import exponentiated_step

__all__ = ["Batch", "Losses", "SearchStep", "accuracy", "descend"]

Batch = tuple[Tensor, Tensor]
Losses = dict[str, Callable[[], Tensor]]


class SearchStep:
    """Both levels' updates of one step, in DARTS' order (Algorithm 1), alphas on the validation batch, then weights on
    the training batch, or the other way round.

    The weight level's pass sees constant mixing weights and the architecture level's asks no weight gradient,
    so neither pays for the other's backward.

    Args:
        model: the supernet.
        config: of the search.
        relaxation: of both levels' passes.
        perturbation: of the weight level's mixing.
    """

    def __init__(
        self,
        model: Supernet,
        config: SearchConfig,
        relaxation: Relaxation,
        perturbation: Perturbation | None = None,
    ) -> None:
        self.model, self.config = model, config
        self.relaxation, self.perturbation = relaxation, perturbation
        self.weights = model.weight_parameters()
        self.alphas = model.arch_parameters()
        self.weight_optimizer = torch.optim.SGD(
            self.weights,
            config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
        )
        adam: dict[str, Any] = {
            "lr": config.arch_lr,
            "betas": (config.arch_beta1, config.arch_beta2),
            "weight_decay": config.arch_weight_decay,
        }
        # The penalty on what the architecture costs; who knows the images' size gives it.
        self.cost: Cost | None = None
        self._rows = RowAdam(self.alphas, adam) if relaxation.by_edge else None
        self.arch_optimizer = torch.optim.Adam(self.alphas, **adam) if self._rows is None else self._rows.optimizer
        self._drawn = DrawnWeights(model, self.weight_optimizer) if relaxation.moves_drawn else None

    def set_lr(self, lr: float) -> None:
        """Set the weights' learning rate, which is also the unrolled step's."""
        for group in self.weight_optimizer.param_groups:
            group["lr"] = lr

    def set_weight_decay(self, weight_decay: float) -> None:
        """Set the weights' L2 coefficient, which is also the unrolled step's."""
        for group in self.weight_optimizer.param_groups:
            group["weight_decay"] = weight_decay

    def __call__(self, train: Batch, valid: Batch | None, progress: float | Tensor) -> dict[str, Tensor]:
        """Update alphas (unless ``valid`` is None) and weights; return the losses and accuracies as scalars.

        Args:
            train: images [B, C, H, W] float32 and labels [B] int64 of the weight level.
            valid: the same of the architecture level; None while the alphas wait.
            progress: share of the stage behind, from 0 to 1; a scalar float64 tensor where the step is unattended.
        """
        values = self.weight_step(train, progress) if self.config.weights_first else {}
        if valid is not None:
            values |= self.arch_step(train, valid, progress)
        return values if self.config.weights_first else values | self.weight_step(train, progress)

    def arch_step(self, train: Batch, valid: Batch, progress: float | Tensor) -> dict[str, Tensor]:
        """Adam on the alphas along the hypergradient."""
        seen: dict[str, Tensor] = {}
        self._learn_alphas(self._hypergradient(self._losses(train, valid, progress, seen)))
        self.relaxation.learned(self.model)
        return {f"arch_{name}": value for name, value in seen.items()}

    def weight_step(self, train: Batch, progress: float | Tensor) -> dict[str, Tensor]:
        """SGD on the weights, gradient norm clipped."""
        with torch.no_grad():
            mixing = self.relaxation(self.model, progress)
            if self.perturbation is not None:
                mixing = self.perturbation(
                    self.model, mixing, progress, lambda other: self._train_loss(train, other)[0]
                )
        loss, logits = self._train_loss(train, mixing)
        whole = self._with_auxiliary(loss, train[1])
        if self._drawn is None:
            self._learn_weights(whole)
        else:
            self._learn_drawn(whole, mixing, self._drawn)
        return {"train_loss": loss.detach(), "train_accuracy": accuracy(logits, train[1])}

    def state_dict(self) -> dict[str, Any]:
        """The optimisers' states, as torch's own give them."""
        return {
            "weight_optimizer": self.weight_optimizer.state_dict(),
            "arch_optimizer": self.arch_optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave, of this or another kind of step."""
        self.weight_optimizer.load_state_dict(state["weight_optimizer"])
        self.arch_optimizer.load_state_dict(state["arch_optimizer"])

    def check(self, train: Batch, valid: Batch, progress: float) -> HypergradientError:
        """Error of the finite-difference hypergradient against the exact one; everything stays as it was."""
        problem = self._problem(self._losses(train, valid, progress, {}, exact=True))
        return hypergradient_error(self.config.hypergradient, **problem)

    def _hypergradient(self, losses: Losses) -> Sequence[Tensor]:
        return hypergradient(self.config.hypergradient, **self._problem(losses), module_state="peer")

    def _train_loss(self, train: Batch, mixing: Mixing) -> tuple[Tensor, Tensor]:
        """The weight level's loss, without an auxiliary head's, and the logits."""
        logits = self.model(train[0], **mixing)
        return F.cross_entropy(logits, train[1], label_smoothing=self.config.label_smoothing), logits

    def _with_auxiliary(self, loss: Tensor, labels: Tensor) -> Tensor:
        """The loss of the pass that was just made, with its auxiliary head's."""
        logits = self.model.auxiliary_logits
        return loss if logits is None else loss + self.config.auxiliary * F.cross_entropy(logits, labels)

    def _learn_alphas(self, gradients: Sequence[Tensor]) -> None:
        for alpha, gradient in zip(self.alphas, gradients, strict=True):
            alpha.grad = gradient
        if self.config.arch_grad_clip:
            torch.nn.utils.clip_grad_norm_(self.alphas, self.config.arch_grad_clip)
        if self.relaxation.exponentiated:
            exponentiated_step(self.model, gradients, self.config.arch_lr)
        elif self._rows is None:
            self.arch_optimizer.step()
        else:
            self._rows.step(gradients, self.relaxation.skipped(self.model))
        for alpha in self.alphas:
            alpha.grad = None

    def _learn_weights(self, loss: Tensor) -> None:
        descend(loss, self.weights, self.weight_optimizer, self.config.grad_clip)

    def _learn_drawn(self, loss: Tensor, mixing: Mixing, drawn: DrawnWeights) -> None:
        loss.backward()
        if self.config.grad_clip:
            torch.nn.utils.clip_grad_norm_(self.weights, self.config.grad_clip)
        drawn.step(mixing["active"])
        self.weight_optimizer.zero_grad(set_to_none=True)

    def _losses(
        self, train: Batch, valid: Batch, progress: float | Tensor, seen: dict[str, Tensor], *, exact: bool = False
    ) -> Losses:
        """The two levels' losses; the figures of the one that is differentiated are put into ``seen``."""
        config = self.config
        # The loss that the hypergradient differentiates: what it evaluates besides is at moved weights.
        own = "train" if config.hypergradient == "one-level" else "valid"

        def loss(level: str, batch: Batch) -> Tensor:
            # The exact kinds differentiate the training loss twice, which fused operations cannot.
            twice = level == "train" and (exact or config.hypergradient in EXACT.values())
            with use_backend("reference") if twice else nullcontext():
                mixing = self.relaxation(self.model, progress)
                logits = self.model(batch[0], **mixing)
            smoothing = config.label_smoothing if level == "train" else 0.0
            value = F.cross_entropy(logits, batch[1], label_smoothing=smoothing)
            if level == own and not seen:
                seen.update({"loss": value.detach(), "accuracy": accuracy(logits, batch[1])})
            if level == own:
                value = self._penalised(value, mixing, progress)
            # The weights descend along the auxiliary loss too, so that an unrolled or amended gradient has to see it.
            return self._with_auxiliary(value, batch[1]) if level == "train" else value

        return {"loss_train": lambda: loss("train", train), "loss_val": lambda: loss("valid", valid)}

    def _penalised(self, loss: Tensor, mixing: Mixing, progress: float | Tensor) -> Tensor:
        """The loss that the alphas descend, with what the search and its relaxation add."""
        if self.cost is not None:
            loss = self.cost.penalised(loss, mixing["weights"])
        penalty = self.relaxation.penalty(self.model, progress)
        return loss if penalty is None else loss + penalty.to(loss.dtype)

    def _problem(self, losses: Losses) -> dict[str, Any]:
        config = self.config
        return {
            **losses,
            "weights": self.weights,
            "alphas": self.alphas,
            "lr": self.weight_optimizer.param_groups[0]["lr"],
            "momentum": config.momentum,
            "momentum_buffers": [self.weight_optimizer.state[w].get("momentum_buffer") for w in self.weights],
            "weight_decay": self.weight_optimizer.param_groups[0]["weight_decay"],
            "epsilon": config.epsilon,
            "eta": config.eta,
        }


def descend(loss: Tensor, weights: list[nn.Parameter], optimizer: torch.optim.Optimizer, grad_clip: float) -> None:
    """One optimiser step down ``loss``, the norm of all gradients clipped at ``grad_clip`` (0: not)."""
    loss.backward()
    if grad_clip:
        torch.nn.utils.clip_grad_norm_(weights, grad_clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of rows of ``logits`` [B, classes] whose largest entry is the label, as a scalar tensor."""
    return (logits.detach().argmax(1) == labels).double().mean()
