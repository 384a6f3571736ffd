"""quark0's Architect: the architecture level's half of a search step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fastdarts.compat.ranks import average_gradients, rank_count, share
from fastdarts.errors import UserError
from fastdarts.hypergradient import hypergradient

__all__ = ["Architect", "ArchitectArguments", "SearchModel"]

# quark0's R: the length of the finite-difference step of the second-order gradient.
EPSILON = 1e-2
PARTS = ("_compute_unrolled_model", "_construct_model_from_theta", "_hessian_vector_product")


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
    """What :class:`Architect` asks of a model; from `new` on only where the parts of quark0's step are used."""

    def arch_parameters(self) -> list[Tensor]:
        """The alphas."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """The weights."""
        ...

    def _loss(self, input: Tensor, target: Tensor) -> Tensor: ...

    def new(self) -> SearchModel:
        """A model of the same sizes with these alphas and fresh weights."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The weights by name."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]:
        """Weights and buffers."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> Any:
        """Take them over."""
        ...


class Architect:
    """Adam on the alphas along the first-order or the unrolled second-order gradient.

    The unrolled gradient is computed without a copy of the model. Where a subclass overrides one of quark0's three
    parts of it (:meth:`_compute_unrolled_model`, :meth:`_construct_model_from_theta`,
    :meth:`_hessian_vector_product`), it is put together from them as there.

    With a process group of several ranks the alphas' gradients are averaged over them in every step, and rank 0's
    alphas are everybody's from the first on: `DistributedDataParallel` does that for parameters, which alphas are not.

    Args:
        model: a search network: `arch_parameters()`, `parameters()` and `_loss(input, target)`.
        args: momentum, weight_decay, arch_learning_rate, arch_weight_decay.

    Attributes:
        average_over_ranks: set it to False where every rank searches on its own.

    Raises:
        TypeError: for a model without `arch_parameters`, such as one wrapped by `DistributedDataParallel`.

    Source: Liu et al. 2019 (DARTS), Algorithm 1, Eq. 7 and 8; docs/facts.md, 1.1.
    """

    average_over_ranks = True

    def __init__(self, model: SearchModel, args: ArchitectArguments) -> None:
        if not hasattr(model, "arch_parameters"):
            raise TypeError(
                f"model is a {type(model).__name__} without arch_parameters(); expected the search network, "
                "of a wrapped one model.module"
            )
        self.network_momentum = args.momentum
        self.network_weight_decay = args.weight_decay
        self.model = model
        self.optimizer = torch.optim.Adam(
            model.arch_parameters(),
            lr=args.arch_learning_rate,
            betas=(0.5, 0.999),
            weight_decay=args.arch_weight_decay,
        )
        self._agreed = False

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
        together = self.average_over_ranks and rank_count() > 1
        if together and not self._agreed:
            share(self.model.arch_parameters())
            self._agreed = True
        self.optimizer.zero_grad()
        if unrolled:
            self._backward_step_unrolled(input_train, target_train, input_valid, target_valid, eta, network_optimizer)
        else:
            self._backward_step(input_valid, target_valid)
        if together:
            average_gradients(self.model.arch_parameters())
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
        train, valid = (input_train, target_train), (input_valid, target_valid)
        if any(_overridden(self, part) for part in PARTS):
            gradients: Sequence[Tensor] = self._gradient_of_parts(train, valid, eta, network_optimizer)
        else:
            buffers = momentum_buffers(network_optimizer, self._weights())
            gradients = self._gradient(
                "second",
                train,
                valid,
                # A cosine schedule may end at rate 0: the smallest float moves no weight, and the passes leave
                # batch-norm statistics as quark0's do.
                lr=max(float(eta), math.ulp(0.0)),
                momentum=self.network_momentum,
                momentum_buffers=buffers,
                weight_decay=self.network_weight_decay,
                epsilon=EPSILON,
            )
            _draw_as_new(self.model)
        for alpha, gradient in zip(self.model.arch_parameters(), gradients, strict=True):
            alpha.grad = gradient

    def _compute_unrolled_model(
        self, input: Tensor, target: Tensor, eta: float, network_optimizer: Optimizer
    ) -> SearchModel:
        """A copy of the model after one SGD step on its training loss.

        `w' = w - eta * (momentum * m + dL_train/dw + weight_decay * w)`

        Args:
            input: [N, C, H, W]; images of the weight level.
            target: [N], int64; their labels.
            eta: learning rate of the weights.
            network_optimizer: of the weights; a weight without a momentum buffer has none.

        Returns:
            What :meth:`_construct_model_from_theta` makes of w'.
        """
        parameters, weights = list(self.model.parameters()), self._weights()
        slopes = torch.autograd.grad(self.model._loss(input, target), weights, materialize_grads=True)
        moved = dict(zip(map(id, weights), slopes, strict=True))
        pieces = []
        with torch.no_grad():
            buffers = momentum_buffers(network_optimizer, parameters)
            for parameter, buffer in zip(parameters, buffers, strict=True):
                step = torch.zeros_like(parameter)
                if id(parameter) in moved:
                    step = moved[id(parameter)] + self.network_weight_decay * parameter
                    step = step if buffer is None else self.network_momentum * buffer + step
                pieces.append(parameter.sub(step, alpha=eta).flatten())
        return self._construct_model_from_theta(torch.cat(pieces))

    def _construct_model_from_theta(self, theta: Tensor) -> SearchModel:
        """A fresh copy of the model (`model.new()`) with other weights and this model's buffers.

        Args:
            theta: [P]; all parameters in the order of `model.parameters()`, flattened.

        Raises:
            UserError: for another number of elements.
        """
        named = dict(self.model.named_parameters())
        sizes = [parameter.numel() for parameter in named.values()]
        if theta.numel() != sum(sizes):
            raise UserError(f"theta has {theta.numel()} elements", f"{sum(sizes)}, those of model.parameters()")
        pieces = [p.view(v.shape) for p, v in zip(theta.detach().split(sizes), named.values(), strict=True)]
        fresh = self.model.new()
        fresh.load_state_dict({**self.model.state_dict(), **dict(zip(named, pieces, strict=True))})
        return fresh

    def _hessian_vector_product(
        self, vector: Sequence[Tensor], input: Tensor, target: Tensor, r: float = EPSILON
    ) -> list[Tensor]:
        """`d2L_train/(dalpha dw) v` by central differences at `w +- R v`, `R = r / |v|`; zero for v = 0.

        Args:
            vector: a tensor for each of `model.parameters()`, of its shape; those of frozen ones and of alphas may be
                left out.
            input: [N, C, H, W]; images of the weight level.
            target: [N], int64; their labels.
            r: length of the step in the space of all weights.

        Returns:
            A tensor an alpha. The weights come back to the same bits; batch-norm statistics have seen two passes.

        Raises:
            UserError: for another number of tensors.
        """
        parameters: list[Tensor] = list(self.model.parameters())
        weights: list[Tensor] = parameters if len(vector) == len(parameters) else [*self._weights()]
        if len(vector) != len(weights):
            raise UserError(f"a vector of {len(vector)} tensors", f"{len(parameters)}, one for each parameter")
        direction = [each.detach() for each in vector]
        norm = torch.linalg.vector_norm(torch.stack([each.norm() for each in direction]))
        radius = r / norm.item() if norm else 0.0
        saved = [weight.detach().clone() for weight in weights]
        slopes = []
        try:
            for length in (radius, -radius):
                _move(weights, saved, direction, length)
                loss = self.model._loss(input, target)
                slopes.append(torch.autograd.grad(loss, self.model.arch_parameters(), materialize_grads=True))
        finally:
            _move(weights, saved, direction, 0.0)
        return [(plus - minus).mul_(norm / (2 * r)) for plus, minus in zip(*slopes, strict=True)]

    def _gradient_of_parts(
        self, train: tuple[Tensor, Tensor], valid: tuple[Tensor, Tensor], eta: float, network_optimizer: Optimizer
    ) -> list[Tensor]:
        """The second-order gradient as quark0 puts it together."""
        unrolled = self._compute_unrolled_model(*train, eta, network_optimizer)
        unrolled._loss(*valid).backward()

        def gradients(tensors: Iterable[Tensor]) -> list[Tensor]:
            return [torch.zeros_like(each) if each.grad is None else each.grad for each in tensors]

        direct = gradients(unrolled.arch_parameters())
        implicit = self._hessian_vector_product(gradients(weights_of(unrolled)), *train)
        return [one.sub(other, alpha=eta) for one, other in zip(direct, implicit, strict=True)]

    def _weights(self) -> list[nn.Parameter]:
        return weights_of(self.model)

    def _gradient(
        self, kind: str, train: tuple[Tensor, Tensor], valid: tuple[Tensor, Tensor], **settings: Any
    ) -> Sequence[Tensor]:
        weights, alphas = self._weights(), self.model.arch_parameters()
        if not weights:
            # Of frozen weights an unrolled step moves none.
            return torch.autograd.grad(self.model._loss(*valid), alphas, materialize_grads=True)
        return hypergradient(
            kind,
            loss_train=lambda: self.model._loss(*train),
            loss_val=lambda: self.model._loss(*valid),
            weights=weights,
            alphas=alphas,
            module_state="peer",
            **settings,
        )


def weights_of(model: SearchModel) -> list[nn.Parameter]:
    """The parameters that the weight level learns: neither frozen, nor alphas that are parameters."""
    alphas = {id(alpha) for alpha in model.arch_parameters()}
    return [weight for weight in model.parameters() if weight.requires_grad and id(weight) not in alphas]


def momentum_buffers(optimizer: Optimizer, weights: Iterable[nn.Parameter]) -> list[Tensor | None]:
    """The momentum buffer of each weight, None where it has none yet."""
    state = optimizer.state
    return [state[weight].get("momentum_buffer") if weight in state else None for weight in weights]


@torch.no_grad()
def _move(weights: list[Tensor], saved: list[Tensor], direction: list[Tensor], length: float) -> None:
    """Put the weights to `saved + length * direction`."""
    torch._foreach_copy_(weights, saved)
    if length:
        torch._foreach_add_(weights, direction, alpha=length)
    # Inside a caller's autocast region the low-precision copies of the weights would go stale unnoticed.
    torch.clear_autocast_cache()


def _overridden(architect: Architect, name: str) -> bool:
    return getattr(getattr(architect, name), "__func__", None) is not getattr(Architect, name)


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
