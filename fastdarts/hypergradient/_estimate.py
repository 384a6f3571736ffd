"""Hypergradients: the gradient of a bilevel problem's architecture level, for any model, leaving no trace behind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from fastdarts.errors import UserError
from fastdarts.hypergradient._kinds import EXACT, RULES, Problem
from fastdarts.hypergradient._passes import GeneratorStates, ModuleStates, Passes

__all__ = ["KINDS", "HypergradientError", "hypergradient", "hypergradient_error"]

KINDS = tuple(RULES)
"""The kinds of hypergradient: one-level, first, second, second-exact, amended, amended-exact."""


@dataclass(frozen=True)
class HypergradientError:
    """How far a finite-difference hypergradient is from its exact kind, all alphas taken as one vector.

    Args:
        kind: the finite-difference kind that was measured, ``second`` or ``amended``.
        cosine: cosine of the angle between the two; nan where one of them is zero.
        relative_error: ``|finite - exact| / |exact|``; nan where both are zero, inf where only the exact one is.
        norm: Euclidean norm of the finite-difference hypergradient.
        exact_norm: Euclidean norm of the exact one.
    """

    kind: str
    cosine: float
    relative_error: float
    norm: float
    exact_norm: float


def hypergradient(
    kind: str,
    *,
    loss_train: Callable[[], Tensor],
    loss_val: Callable[[], Tensor],
    weights: Iterable[Tensor],
    alphas: Iterable[Tensor],
    lr: float = 0.0,
    momentum: float = 0.0,
    momentum_buffers: Iterable[Tensor | None] | None = None,
    weight_decay: float = 0.0,
    epsilon: float = 0.01,
    eta: float = 0.1,
    module_state: str = "restore",
) -> tuple[Tensor, ...]:
    """Gradient of the architecture level's objective by the alphas.

    ``one-level``: ``dL_train/dalpha``; ``first``: ``dL_val/dalpha``;
    ``second``, ``second-exact``: ``dL_val/dalpha(w') - lr * D v`` with ``v = dL_val/dw(w')`` and the unrolled
    weights ``w' = w - lr * (momentum * m + dL_train/dw + weight_decay * w)``;
    ``amended``, ``amended-exact``: ``dL_val/dalpha - eta * D H v`` with ``v = dL_val/dw``;
    everything at ``w`` unless said otherwise, ``D = d2L_train/(dalpha dw)``, ``H = d2L_train/dw2``. ``second`` and
    ``amended`` take ``D d`` and ``H d`` by central differences at ``w +- R d``, ``R = epsilon / |d|``; the exact
    kinds take them by double backward, without forming either matrix.

    Weights, alphas, their ``grad`` and ``requires_grad``, and the buffers of every module that a loss runs are left
    bit for bit as they were, also when a loss raises. All evaluations of one loss see the same random numbers
    (torch's default CPU and CUDA generators). The generators are left as after one evaluation of each loss that the
    kind uses: ``loss_train`` before ``loss_val`` in the second-order kinds, ``loss_val`` before ``loss_train`` in
    the amended ones; when a loss raises, as they were.

    Args:
        kind: one of :data:`KINDS`.
        loss_train: computes the weight level's loss at the current weights and alphas: a scalar tensor.
        loss_val: the same for the architecture level.
        weights: leaves of the weight level, of any shapes, floating dtypes and devices.
        alphas: leaves of the architecture level, likewise.
        lr: learning rate of the unrolled step (second-order kinds).
        momentum: momentum coefficient of the unrolled step.
        momentum_buffers: a buffer per weight, of its shape; None, as a whole or for one weight, is no buffer yet.
        weight_decay: L2 coefficient of the unrolled step.
        epsilon: length of a finite-difference step in the space of all weights.
        eta: amending coefficient.
        module_state: ``restore``, or ``peer``: passes leave their effect on module buffers (batch-norm statistics)
            as in quark0's ``Architect``: all but the validation pass at ``w'``, which there runs on a copy.

    Returns:
        One tensor per alpha, of its shape, dtype and device; zero where nothing depends on an alpha, nan everywhere
        if any evaluated loss is not finite.

    Raises:
        UserError: for an unknown kind, arguments that do not fit, or a loss that is no scalar or has no graph.
        TypeError: for arguments of the wrong type.
        RuntimeError: if an exact kind meets an operation without a second derivative.

    Source:
        Liu, Simonyan, Yang: DARTS, ICLR 2019, Eq. 7 and 8; Bi et al.: Stabilizing DARTS with Amended Gradient
        Estimation on Architectural Parameters, arXiv 1910.11831, Eq. 6 and appendix A.2.
    """
    _check_choice("kind", kind, KINDS)
    _check_choice("module_state", module_state, ("restore", "peer"))
    weights, alphas = _leaves(weights, alphas, kind)
    buffers = _buffers(momentum_buffers, weights)
    _check_numbers(kind, lr=lr, momentum=momentum, weight_decay=weight_decay, epsilon=epsilon, eta=eta)
    _check_callable(loss_train=loss_train, loss_val=loss_val)
    passes = Passes(loss_train, loss_val, leaves=(*weights, *alphas), keep_module_state=module_state == "peer")
    problem = Problem(
        kind=kind,
        passes=passes,
        weights=weights,
        alphas=alphas,
        lr=float(lr),
        momentum=float(momentum),
        momentum_buffers=buffers,
        weight_decay=float(weight_decay),
        epsilon=float(epsilon),
        eta=float(eta),
    )
    with torch.no_grad(), passes:
        return passes.poisoned(RULES[kind](problem))


def hypergradient_error(
    kind: str,
    *,
    loss_train: Callable[[], Tensor],
    loss_val: Callable[[], Tensor],
    weights: Iterable[Tensor],
    alphas: Iterable[Tensor],
    lr: float = 0.0,
    momentum: float = 0.0,
    momentum_buffers: Iterable[Tensor | None] | None = None,
    weight_decay: float = 0.0,
    epsilon: float = 0.01,
    eta: float = 0.1,
    module_state: str = "restore",
) -> HypergradientError:
    """Error of a finite-difference hypergradient against its exact kind, on the same batches and random numbers.

    A measurement changes nothing: generators and module buffers too are left as they were, whatever
    ``module_state`` says of the passes in between, so that a run that reports the error equals one that does not.

    Args:
        kind: ``second`` or ``amended``; the other arguments are those of :func:`hypergradient`.

    Returns:
        Cosine, relative error and the two norms, computed in float64.

    Raises:
        UserError: if ``kind`` is not a finite-difference one, or for what :func:`hypergradient` refuses.
    """
    _check_choice("kind", kind, tuple(EXACT))
    weights, alphas = _leaves(weights, alphas, kind)
    buffers = _buffers(momentum_buffers, weights)
    start = GeneratorStates()

    def flat(kind: str) -> Tensor:
        gradient = hypergradient(
            kind,
            loss_train=loss_train,
            loss_val=loss_val,
            weights=weights,
            alphas=alphas,
            lr=lr,
            momentum=momentum,
            momentum_buffers=buffers,
            weight_decay=weight_decay,
            epsilon=epsilon,
            eta=eta,
            module_state=module_state,
        )
        start.restore()
        return torch.cat([each.flatten().cpu().double() for each in gradient])

    with ModuleStates() as states:
        exact = flat(EXACT[kind])
        states.restore()
        finite = flat(kind)
    return _compare(kind, finite, exact)


def _compare(kind: str, finite: Tensor, exact: Tensor) -> HypergradientError:
    norm, exact_norm = finite.norm(), exact.norm()
    return HypergradientError(
        kind=kind,
        cosine=float(finite @ exact / (norm * exact_norm)),
        relative_error=float((finite - exact).norm() / exact_norm),
        norm=float(norm),
        exact_norm=float(exact_norm),
    )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{name} is {value!r}", f"one of {', '.join(choices)}")


def _check_callable(**losses: Callable[[], Tensor]) -> None:
    for name, loss in losses.items():
        if not callable(loss):
            raise TypeError(f"{name} is {type(loss).__name__}; expected a function of no arguments")


# Weights may all be frozen, and only the alphas learn.
_WITHOUT_WEIGHTS = ("first", "one-level")


def _leaves(weights: Iterable[Tensor], alphas: Iterable[Tensor], kind: str) -> tuple[list[Tensor], list[Tensor]]:
    found: list[list[Tensor]] = []
    names: dict[int, str] = {}
    for group, tensors in (("weights", weights), ("alphas", alphas)):
        if isinstance(tensors, Tensor):
            raise TypeError(f"{group} is one tensor; expected a sequence of tensors")
        found.append(list(tensors))
        if not found[-1] and not (group == "weights" and kind in _WITHOUT_WEIGHTS):
            remedy = f"kind {kind!r} looks at what the weights learn; 'first' needs none" if group == "weights" else ""
            raise UserError(f"{group} is empty", "at least one tensor that learns", remedy)
        for index, leaf in enumerate(found[-1]):
            name = f"{group}[{index}]"
            _check_leaf(name, leaf)
            if id(leaf) in names:
                raise UserError(f"{name} is the same tensor as {names[id(leaf)]}", "each tensor once")
            names[id(leaf)] = name
    return found[0], found[1]


def _check_leaf(name: str, leaf: Tensor) -> None:
    if not isinstance(leaf, Tensor):
        raise TypeError(f"{name} is {type(leaf).__name__}; expected a tensor")
    if is_lazy(leaf):
        raise UserError(f"{name} is not initialised yet", "a parameter with a shape", "run the model once first")
    if not leaf.is_floating_point():
        raise UserError(f"{name} is {leaf.dtype}", "a floating-point tensor")
    if not leaf.is_leaf:
        raise UserError(
            f"{name} of shape {tuple(leaf.shape)} is computed from other tensors", "a leaf, such as a parameter"
        )
    if not leaf.requires_grad:
        raise UserError(
            f"{name} of shape {tuple(leaf.shape)} does not require grad", "requires_grad", "leave frozen tensors out"
        )


def _buffers(buffers: Iterable[Tensor | None] | None, weights: list[Tensor]) -> list[Tensor | None]:
    found: list[Tensor | None] = [None] * len(weights) if buffers is None else list(buffers)
    if len(found) != len(weights):
        raise UserError(f"{len(found)} momentum_buffers for {len(weights)} weights", "one per weight, or None")
    for index, (buffer, weight) in enumerate(zip(found, weights, strict=True)):
        if buffer is not None and buffer.shape != weight.shape:
            raise UserError(
                f"momentum_buffers[{index}] has shape {tuple(buffer.shape)}", f"{tuple(weight.shape)}, its weight's"
            )
    return found


def _check_numbers(kind: str, **values: float) -> None:
    used: set[str] = set()
    if kind in ("second", "second-exact"):
        used |= {"lr", "momentum", "weight_decay"}
    if kind in ("amended", "amended-exact"):
        used |= {"eta"}
    if kind in EXACT:
        used |= {"epsilon"}
    for name, value in values.items():
        if not isinstance(value, Real):
            raise TypeError(f"{name} is {type(value).__name__}; expected a number")
        positive = name in ("lr", "epsilon")
        if name in used and not (math.isfinite(value) and (value > 0 or (value == 0 and not positive))):
            remedy = "at learning rate 0 the gradient is that of kind 'first'" if name == "lr" and value == 0 else ""
            raise UserError(f"{name} is {value}", f"a finite number{' above' if positive else ', at least'} 0", remedy)
