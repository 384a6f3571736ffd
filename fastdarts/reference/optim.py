"""The optimisers' steps on flat buffers, in plain torch on any device."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["adam_", "sgd_"]


def sgd_(
    weights: Tensor,
    gradient: Tensor,
    momentum: Tensor,
    lr: Tensor,
    *,
    momentum_factor: float,
    weight_decay: float,
    grad_clip: float,
) -> Tensor:
    """One step of SGD with momentum, weight decay and a clipped gradient norm, in place and without the host.

    `norm = |gradient|`, `d = gradient min(1, grad_clip / (norm + 1e-6)) + weight_decay weights`,
    `momentum = momentum_factor momentum + d`, `weights -= lr momentum`: `clip_grad_norm_` and `torch.optim.SGD` without
    dampening or Nesterov, whose first step is that of a momentum of zeros. The gradient stays as it is.

    Args:
        weights: [P], float32 | float64, contiguous; all parameters in one buffer, written.
        gradient: [P], the dtype of weights, contiguous.
        momentum: [P], the dtype of weights, contiguous; zeros before the first step, written.
        lr: [], float64, on the device of weights.
        momentum_factor: share of the momentum that a step keeps.
        weight_decay: L2 penalty, added to the clipped gradient.
        grad_clip: largest norm of the gradient; 0 clips nothing.

    Returns:
        norm [], float64: that of the gradient before it is clipped.

    Raises:
        UserError: (the op) a shape, a device or a layout that does not fit, or a tensor that requires gradients.
        TypeError: (the op) a dtype that does not fit.

    Source: torch.nn.utils.clip_grad_norm_ and torch.optim.SGD; quark0/darts `train_search.train`.
    """
    norm: Tensor = torch.linalg.vector_norm(gradient, dtype=torch.float64)
    if grad_clip:
        gradient = gradient * (grad_clip / (norm + 1e-6)).clamp(max=1.0)
    momentum.mul_(momentum_factor).add_(gradient.add(weights, alpha=weight_decay))
    weights.sub_(lr * momentum)
    return norm


def adam_(
    parameters: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor,
    lr: Tensor,
    *,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """One step of Adam, in place and without the host.

    `t = step + 1`, `d = gradient + weight_decay parameters`, `exp_avg += (1 - beta1) (d - exp_avg)`,
    `exp_avg_sq = beta2 exp_avg_sq + (1 - beta2) d^2`,
    `parameters -= lr / (1 - beta1^t) exp_avg / (sqrt(exp_avg_sq) / sqrt(1 - beta2^t) + eps)`, `step = t`:
    `torch.optim.Adam(capturable=True)`, with the corrections of the bias in float64.

    Args:
        parameters: [P], float32 | float64, contiguous; all parameters in one buffer, written.
        gradient: [P], the dtype of parameters, contiguous.
        exp_avg: [P], the dtype of parameters, contiguous; zeros before the first step, written.
        exp_avg_sq: [P], the same.
        step: [], float64, on the device of parameters; how many steps were made, written.
        lr: [], float64, on the device of parameters.
        beta1: share of `exp_avg` that a step keeps.
        beta2: share of `exp_avg_sq` that a step keeps.
        eps: added to the root of the second moment.
        weight_decay: L2 penalty, added to the gradient.

    Raises:
        UserError: (the op) a shape, a device or a layout that does not fit, or a tensor that requires gradients.
        TypeError: (the op) a dtype that does not fit.

    Source: torch.optim.Adam; Kingma and Ba 2015, algorithm 1.
    """
    step += 1
    descent = gradient.add(parameters, alpha=weight_decay)
    exp_avg.lerp_(descent, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(descent, descent, value=1 - beta2)
    root = exp_avg_sq.sqrt() / (1 - beta2**step).sqrt() + eps
    parameters.sub_(lr / (1 - beta1**step) * (exp_avg / root))
