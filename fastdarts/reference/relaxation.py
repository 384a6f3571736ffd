"""From architecture parameters to mixing weights and edge weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["concrete", "edge_normalisation", "gumbel", "joint_softmax", "mixing_weights", "paired", "straight_through"]


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
    return _masked(alphas, present).softmax(dim=-1)


def joint_softmax(alphas: Tensor, counts: Sequence[int], present: Tensor | None = None) -> Tensor:
    """Softmax over all candidates of all edges into a node.

    `w[e, k] = exp(alpha[e, k]) / sum_{f into the node of e} sum_{j present} exp(alpha[f, j])` where present, else 0.

    Args:
        alphas: [E, width], floating; edges ordered by node.
        counts: number of edges into each node, their sum E.
        present: [E, width], bool; as of :func:`mixing_weights`.

    Returns:
        [E, width], the dtype of alphas; a node's entries add up to 1.

    Source: Jiang et al. 2019 (I-DARTS), section 3; docs/facts.md, 2.
    """
    nodes = _masked(alphas, present).split(list(counts))
    return torch.cat([node.flatten().softmax(dim=0).view_as(node) for node in nodes])


def gumbel(exponential: Tensor) -> Tensor:
    """Gumbel noise from exponential noise.

    `G = -log(max(x, tiny))`, tiny the dtype's smallest normal number.

    Published code draws again where x was 0 and G infinite. Raised to the smallest number instead, G is at most 87 in
    float32, and nobody has to look at the values, so that a CUDA graph can hold the draw.

    Args:
        exponential: any shape, floating; drawn from Exp(1).

    Returns:
        The same shape and dtype, finite.

    Source: Dong, Yang 2019 (GDAS), section 3.2; Xie et al. 2019 (SNAS), section 2.2.
    """
    return -exponential.clamp_min(torch.finfo(exponential.dtype).tiny).log()


def concrete(alphas: Tensor, noise: Tensor, temperature: float | Tensor, present: Tensor | None = None) -> Tensor:
    """A draw from the concrete distribution, differentiable by the alphas.

    `w[e, k] = exp((alpha[e, k] + G[e, k]) / t) / sum_{j present} exp((alpha[e, j] + G[e, j]) / t)`

    The papers add the noise to `log softmax(alpha)`, which differs from alpha by one number an edge: w is the same.

    Args:
        alphas: [E, width], floating.
        noise: [E, width], G of :func:`gumbel`.
        temperature: t > 0; a number, or a scalar tensor.
        present: [E, width], bool; as of :func:`mixing_weights`.

    Returns:
        [E, width], the dtype of alphas.

    Source: Xie et al. 2019 (SNAS), section 2.2; Dong, Yang 2019 (GDAS), section 3.2.
    """
    return ((_masked(alphas, present) + noise) / temperature).softmax(dim=-1)


def straight_through(soft: Tensor, index: Tensor) -> Tensor:
    """One candidate an edge with the gradient of soft weights.

    Forward `w[e, k] = 1` where k is the edge's index, else 0, both exactly; backward `dw = dsoft`.

    Args:
        soft: [E, width], floating.
        index: [E], int64.

    Returns:
        [E, width], the dtype of soft.

    Source: Dong, Yang 2019 (GDAS), section 3.2; docs/facts.md, 5.
    """
    hard = torch.zeros_like(soft).scatter_(-1, index.unsqueeze(-1), 1.0)
    # The difference is exactly 0; hard - soft + soft, as it is often written, would be 1 only up to rounding.
    return hard + (soft - soft.detach())


def paired(alphas: Tensor, pair: Tensor, present: Tensor | None = None) -> Tensor:
    """Softmax over two of the candidates of each edge, as though there were no others.

    `q[e, k] = exp(alpha[e, k]) / (exp(alpha[e, i]) + exp(alpha[e, j]))` for k in the pair i, j of e, else 0; so
    `dq[e, j] / dalpha[e, i] = q[e, j] (delta_ij - q[e, i])`.

    Args:
        alphas: [E, width], floating.
        pair: [E, 2], int64; the candidates, two different ones. [E, 1] where there is one an edge.
        present: [E, width], bool; as of :func:`mixing_weights`. A member that is not present has q = 0.

    Returns:
        [E, width], the dtype of alphas.

    Source: Cai, Zhu, Han 2019 (ProxylessNAS), Eq. 4 with N = 2, section 3.2.1.
    """
    two = _masked(alphas, present).gather(-1, pair).softmax(dim=-1)
    return torch.zeros_like(alphas).scatter(-1, pair, two)


def edge_normalisation(betas: Tensor, counts: Sequence[int]) -> Tensor:
    """Softmax over the edges that enter each node.

    `b[e] = exp(beta[e]) / sum_{f into the node of e} exp(beta[f])`

    Args:
        betas: [E], floating; edges ordered by node.
        counts: number of edges into each node, their sum E; 0 for a node without edges.

    Returns:
        [E], the dtype of betas.

    Source: Xu et al. 2020 (PC-DARTS), Eq. 4; docs/facts.md, 3.
    """
    return torch.cat([node.softmax(dim=-1) for node in betas.split(list(counts))])


def _masked(alphas: Tensor, present: Tensor | None) -> Tensor:
    return alphas if present is None else alphas.masked_fill(~present, -torch.inf)
