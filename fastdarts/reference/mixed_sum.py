"""Weighted sums: of an edge's candidates, and of a node's edges."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

__all__ = ["mixed_sum", "weighted_sum"]


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
