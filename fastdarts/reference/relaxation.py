"""From architecture parameters to mixing weights and edge weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["edge_normalisation", "mixing_weights"]


def mixing_weights(alphas: Tensor, present: Tensor | None = None) -> Tensor:
    """Softmax over the candidates of each edge.

    `w[e, k] = exp(alpha[e, k]) / sum_{j present} exp(alpha[e, j])` where present, else exactly 0, and the gradient of
    alpha is exactly 0 there too.

    Args:
        alphas: [E, width], floating.
        present: [E, width], bool, on the device of alphas; which entries are candidates, at least one an edge. None
            where all are.

    Returns:
        [E, width], the dtype of alphas.

    Source: Liu et al. 2019 (DARTS), Eq. 2.
    """
    if present is not None:
        alphas = alphas.masked_fill(~present, -torch.inf)
    return alphas.softmax(dim=-1)


def edge_normalisation(betas: Tensor, counts: Sequence[int]) -> Tensor:
    """Softmax over the edges that enter each node.

    `b[e] = exp(beta[e]) / sum_{f into the node of e} exp(beta[f])`

    Args:
        betas: [E], floating; edges ordered by node.
        counts: number of edges into each node, their sum E; 0 for a node without edges.

    Returns:
        [E], the dtype of betas.

    Source: Xu et al. 2020 (PC-DARTS), Eq. 4; facts section 3.
    """
    return torch.cat([node.softmax(dim=-1) for node in betas.split(list(counts))])
