"""Exponentiated gradients: alphas that move on the simplex of their mixing weights (GAEA)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastdarts.nn import Supernet
from fastdarts.search.choices import Softmax
from fastdarts.search.relaxation import present

__all__ = ["Exponentiated", "exponentiated_step"]

# The authors' floor. Theirs is of the weights before a row is divided by its sum, which depends on a term that all
# weights of the row have in common and that no gradient of a softmax knows.
_FLOOR = 1e-5
# Edge weights have none; this keeps their logarithms finite.
_TINY = 1e-30


class Exponentiated(Softmax):
    """The mixing weights are the parameters, and descend by exponentiated gradients: GAEA.

    `p = p exp(-lr dL/dp) / sum`, then no weight below 1e-5, and divided again; edge weights, where there are any, alike
    over the edges into a node, without a floor. The alphas hold log p, so that whatever reads their softmax reads p.

    Source: Li, Khodak, Balcan, Talwalkar: Geometry-Aware Gradient Algorithms for NAS, ICLR 2021, Algorithm 2; the
    authors' `cnn/architect/architect_edarts.py`.
    """

    exponentiated = True


@torch.no_grad()
def exponentiated_step(model: Supernet, gradients: Sequence[Tensor], lr: float) -> None:
    """Move the alphas, and the betas, along their gradients.

    With p = softmax(alpha) it is `dL/dp_k = (dL/dalpha_k) / p_k + <p, dL/dp>`, and what all of a row have in common
    goes when it is divided by its sum. So the gradients that any hypergradient gives will do.

    Args:
        model: the supernet.
        gradients: by its `arch_parameters()`.
        lr: of alphas and betas.
    """
    given = iter(gradients)
    for key, alphas in model.arch.alphas.items():
        there = present(model, key)
        logits = alphas.double() if there is None else alphas.double().masked_fill(~there, -torch.inf)
        moved = _moved(logits, next(given).double(), lr).clamp(min=_FLOOR)
        moved = moved if there is None else moved * there
        found = (moved / moved.sum(-1, keepdim=True)).log()
        alphas.copy_(found if there is None else found.masked_fill(~there, 0.0))
    for key, betas in model.arch.betas.items():
        cell = model.space.cell(key, model.layers)
        counts = [len(cell.into(node)) for node in cell.states]
        slopes = next(given).double().split(counts)
        rows = [
            _moved(each.double(), slope, lr).clamp(min=_TINY)
            for each, slope in zip(betas.split(counts), slopes, strict=True)
        ]
        betas.copy_(torch.cat(rows).log())


def _moved(logits: Tensor, slopes: Tensor, lr: float) -> Tensor:
    """`p exp(-lr g / p)` over its sum, of p = softmax of the logits; 0 where p is."""
    weights = logits.softmax(-1)
    there = weights > 0
    steps = torch.where(there, lr * slopes / weights.masked_fill(~there, 1.0), torch.zeros_like(weights))
    return (logits.log_softmax(-1) - steps).softmax(-1)
