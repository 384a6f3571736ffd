"""Weighted sums: of an edge's candidates, and of a node's edges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts.reference.parameter_free import avg_pool, max_pool
from fastdarts.reference.partial_channels import bypass as _bypass
from fastdarts.reference.partial_channels import channel_shuffle

__all__ = ["Edge", "mixed_sum", "node_sum", "weighted_sum"]


def mixed_sum(
    x: Tensor, ops: Sequence[Callable[[Tensor], Tensor]], weights: Tensor, active: Sequence[int] | None = None
) -> Tensor:
    """The mixed operation of an edge.

    `y = sum_k weights[k] * ops[k](x)`, over the active k only where they are given.

    Args:
        x: [N, C, H, W], floating.
        ops: K candidates, of one output shape.
        weights: [K], floating; mixing weights after the relaxation.
        active: indices of the candidates that run, at least one; None for all.

    Returns:
        [N, C, H', W'], the dtype of x.

    Source: Liu et al. 2019 (DARTS), Eq. 2.
    """
    chosen = range(len(ops)) if active is None else active
    each = weights.unbind()
    # Each product directly after its candidate: autograd then adds the candidates' gradients of x in their order.
    return weighted_sum([each[k] * ops[k](x) for k in chosen])


def weighted_sum(terms: Sequence[Tensor], weights: Sequence[Tensor] | Tensor | None = None) -> Tensor:
    """`y = sum_i weights[i] * terms[i]`, added from the first to the last: a node from its edges.

    Args:
        terms: n tensors of one shape, n at least 1.
        weights: n scalars or [n]; None for 1 each.

    Returns:
        A tensor of the terms' shape and dtype.

    Source: Liu et al. 2019 (DARTS), Eq. 1; Xu et al. 2020 (PC-DARTS), Eq. 4 with weights.
    """
    scaled = terms if weights is None else [weight * term for weight, term in zip(weights, terms, strict=True)]
    total = scaled[0]
    for term in scaled[1:]:
        total = total + term
    return total


@dataclass(frozen=True)
class Edge:
    """What a node mixes of one source beside the outputs of convolutions.

    Args:
        stride: 1 or 2, pixels.
        skip: the source itself, at stride 1 only.
        max_pool: its 3x3 maxima, normalised.
        avg_pool: its 3x3 averages, normalised.
    """

    stride: int
    skip: bool
    max_pool: bool
    avg_pool: bool


def node_sum(
    ys: Sequence[Tensor],
    weights: Tensor,
    mean: Tensor,
    var: Tensor,
    sources: Sequence[Tensor],
    edges: Sequence[Edge],
    edge_weights: Tensor,
    pool_mean: Tensor,
    pool_var: Tensor,
    bypass: Tensor | None = None,
    partial: int = 1,
    eps: float = 1e-5,
    training: bool = True,
) -> Tensor:
    """A node from all candidates of all its incoming edges, the batch norms applied on the fly.

    With `xhat = (v - mu) r`, `r = 1 / sqrt(var + eps)`, of each candidate v before its batch norm, over the first
    C' = C / K channels:

    `mixed = sum_t weights[t] xhat_t + sum_e (edge_weights[e, 0] x_e + edge_weights[e, 1] xhat(max_e)
    + edge_weights[e, 2] xhat(avg_e))`; with K = 1 that is the node. Else the other channels are
    `rest = sum_e bypass[e] x_e` (the maxima of 2x2 windows at stride 2), and
    `node[m K + k] = concat(mixed, rest)[k C' + m]`.

    Backward, with g the gradient of `mixed`, M its pixels, and per channel `G = sum g`, `Q_t = sum g xhat_t`:
    `dweights[t] = sum_c Q_t`, the same for edge_weights, with `sum g x` for a skip and a bypass; for a y of weight w

    `dy = alpha g + beta y + gamma`, `alpha = w r`, `beta = - w r^2 Q / M`, `gamma = - alpha G / M - beta mu`

    in training, since the statistics are those of the batch, and `dy = w r g` in evaluation. Pools likewise, and on to
    the source: to the first of the largest pixels, or shared out over the pixels inside.

    Args:
        ys: T times [N, C', H', W'], float32 | bfloat16 | float64, before their batch norms.
        weights: [T], floating; mixing weights, times the edge weights where there are any.
        mean: [T, C'], floating; the statistics of the batch in training, running ones in evaluation.
        var: [T, C'], floating, biased.
        sources: E times [N, C, H, W] with ceil(H / stride) = H' and ceil(W / stride) = W', the dtype of the ys.
        edges: E times which candidates without weights there are; those of no source are unread.
        edge_weights: [E, 3], floating; of the skip, the maximum and the average.
        pool_mean: [E, 2, C'], floating; of the maximum and the average.
        pool_var: [E, 2, C'], floating, biased.
        bypass: [E], floating; weights of the channels that are not mixed; None for 1 each. Unread with K = 1.
        partial: K, the share of the channels that is mixed is 1/K.
        eps: added to the variances.
        training: whether mean and var are functions of the ys and the sources, through which gradients flow. The
            reference then computes them itself.

    Returns:
        The node [N, C, H', W'], the dtype of the ys, channels_last.

    Raises:
        ValueError: a shape that does not fit, an empty batch, nothing to add, or one pixel in all in training.
        TypeError: another dtype or type.
        RuntimeError: a second derivative of the fused op; `use_backend("reference")` has one.

    Source: Liu et al. 2019 (DARTS), Eq. 1 and 2; Xu et al. 2020 (PC-DARTS), Eq. 3 and 4.
    """

    def norm(v: Tensor, mu: Tensor, square: Tensor) -> Tensor:
        if training:
            return F.batch_norm(v, None, None, training=True, eps=eps)
        return F.batch_norm(v, mu.to(v.dtype), square.to(v.dtype), training=False, eps=eps)

    terms = [w * norm(*each) for w, *each in zip(weights.unbind(), ys, mean, var, strict=True)]
    rest: list[Tensor] = []
    for e, (x, edge) in enumerate(zip(sources, edges, strict=True)):
        mixed, other = x.split((x.shape[1] // partial, x.shape[1] - x.shape[1] // partial), 1)
        if edge.skip:
            terms.append(edge_weights[e, 0] * mixed)
        for i, (wanted, pool) in enumerate(((edge.max_pool, max_pool), (edge.avg_pool, avg_pool))):
            if wanted:
                value = norm(pool(mixed, stride=edge.stride), pool_mean[e, i], pool_var[e, i])
                terms.append(edge_weights[e, 1 + i] * value)
        if partial > 1:
            passed = _bypass(other, stride=edge.stride)
            rest.append(passed if bypass is None else bypass[e] * passed)
    if not terms:  # edges of no candidate, or of what is added to the other channels only
        first, stride = sources[0], edges[0].stride
        n, _, height, width = first[:, :, ::stride, ::stride].shape
        terms.append(first.new_zeros(n, first.shape[1] // partial, height, width))
    node = weighted_sum(terms)
    if partial > 1:
        others = weighted_sum(rest) if rest else node.mul(0.0).repeat(1, partial - 1, 1, 1)
        node = channel_shuffle(torch.cat([node, others], 1), partial)
    return node.contiguous(memory_format=torch.channels_last)
