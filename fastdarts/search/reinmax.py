"""ReinMax: one operator an edge, with a gradient of second order through the draw."""

from __future__ import annotations

import torch
from torch import Tensor

from fastdarts.nn import Supernet
from fastdarts.search.choices import Mixing
from fastdarts.search.relaxation import present
from fastdarts.search.sampling import Drawn, active_of, noise

__all__ = ["ReinMax", "reinmax"]


class ReinMax(Drawn):
    """One operator an edge is drawn with the probabilities softmax(alpha); :func:`reinmax` has the gradient.

    A pass for the weights runs what was drawn and nothing else. One that is differentiated by the alphas runs all
    operators, of which the drawn has weight 1 and the others 0: the estimate takes every operator's gradient, where
    GDAS makes do with the drawn one's.

    Args:
        tau: temperature of the second softmax, at least 1.

    Source: Liu et al.: Bridging Discrete and Backpropagation, NeurIPS 2023, Algorithm 2.
    """

    asks_host = True

    def __init__(self, tau: float) -> None:
        self.tau = tau

    def __call__(self, model: Supernet, progress: float | Tensor) -> Mixing:
        weights, index = {}, {}
        everything = torch.is_grad_enabled()
        for key, alphas in model.arch.alphas.items():
            there = present(model, key)
            logits = alphas if there is None else alphas.masked_fill(~there, -torch.inf)
            drawn = (logits.detach() + noise(alphas)).argmax(-1, keepdim=True)
            weights[key] = reinmax(logits, drawn.squeeze(-1), self.tau)
            every = torch.arange(alphas.shape[1], device=alphas.device).expand_as(alphas)
            index[key] = every if everything else drawn
        return {"weights": weights, "edge_weights": model.edge_weights(), "active": active_of(index, model)}


def reinmax(logits: Tensor, index: Tensor, tau: float = 1.0) -> Tensor:
    """One-hot forward; backward `(2 J((D + softmax(x / tau)) / 2) - J(softmax(x)) / 2) g`, `J(p) = diag(p) - p p^T`.

    Args:
        logits: [E, width], floating; -inf where there is no candidate.
        index: [E], int64; what was drawn, D as a one-hot row.
        tau: temperature.

    Returns:
        [E, width], the dtype of logits.
    """
    drawn = torch.zeros_like(logits).scatter(-1, index[:, None], 1.0)
    first = logits.softmax(-1)
    half = ((drawn + (logits.detach() / tau).softmax(-1)) / 2).detach()
    # A softmax whose value is `half` and whose Jacobian is that of a softmax there.
    there = logits.isfinite()
    shift = torch.where(there, half.log() - logits.detach(), torch.zeros_like(half))
    second = 2 * (logits + shift).softmax(-1) - first / 2
    return drawn + (second - second.detach())
