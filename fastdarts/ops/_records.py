"""One record a call of a kernel: what every backend's launcher of it takes, and all that it takes.

Maps are those of `fastdarts/ops/maps.py`: pixels with their channels side by side, any pixel stride. They lie on the
backend's device, or on meta, where a launcher allocates the same tensors and computes nothing. Coefficients and
statistics are float64, those of preprocess any floating dtype; variances are biased. N is the batch, C the channels,
C' = C / partial those that candidates run on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from torch import Tensor

from fastdarts.plan._schedule import Convolution, InEdge
from fastdarts.reference.mixed_sum import Edge
from fastdarts.reference.stencil import Conv

__all__ = [
    "CoefficientLaunchers",
    "Conv",
    "Edge",
    "PreprocessBackward",
    "PreprocessForward",
    "PreprocessLaunchers",
    "StencilBackward",
    "StencilForward",
    "StencilGradients",
    "StencilLaunchers",
    "SumBackward",
    "SumForward",
    "SumLaunchers",
    "SumReduce",
    "SumReduced",
    "conv_of",
    "edge_of",
]


def conv_of(planned: Convolution) -> Conv:
    """A convolution of a program as launchers take it."""
    return Conv(planned.source, planned.kernel, planned.dilation, planned.stride)


def edge_of(planned: InEdge) -> Edge:
    """An in-edge of a program as launchers take it."""
    return Edge(planned.stride, planned.skip >= 0, planned.max_pool >= 0, planned.avg_pool >= 0)


@dataclass(frozen=True, slots=True)
class StencilForward:
    """`y_i = P_i D_i relu(x)`, and its moments, for each convolution; x of a normalised source is (x - mean) * rstd.

    Args:
        sources: S maps [N, C, H, W], float32 | bfloat16 | float64, on a GPU float16 too.
        convs: T convolutions.
        depthwise: T weights [C, 1, k, k], floating.
        pointwise: T weights [C, C, 1, 1], floating.
        mean: [S, C]; with rstd, or None for sources that are not normalised.
        rstd: [S, C].
        moments: whether means and variances are computed.
    """

    sources: Sequence[Tensor]
    convs: Sequence[Conv]
    depthwise: Sequence[Tensor]
    pointwise: Sequence[Tensor]
    mean: Tensor | None = None
    rstd: Tensor | None = None
    moments: bool = True


@dataclass(frozen=True, slots=True)
class StencilBackward:
    """The gradients of :class:`StencilForward`, with the batch norms' backward folded into what is read.

    `dy_i = alpha_i g_i + beta_i y_i + gamma_i`, then as `fastdarts.reference.stencil.stencil_backward`.

    Args:
        sources: as in forward, like convs, depthwise, pointwise, mean and rstd.
        g: T maps of y's shape and dtype; one tensor may stand in several places.
        ys: T maps likewise, what forward returned; None where beta is 0.
        alpha: [T, C]; like beta and gamma.
        dx: S maps of the sources' shape and dtype to which the gradients are added; None for fresh ones.
        weights: whether the gradients of the weights are computed.
    """

    sources: Sequence[Tensor]
    convs: Sequence[Conv]
    depthwise: Sequence[Tensor]
    pointwise: Sequence[Tensor]
    g: Sequence[Tensor]
    ys: Sequence[Tensor] | None
    alpha: Tensor
    beta: Tensor
    gamma: Tensor
    mean: Tensor | None = None
    rstd: Tensor | None = None
    dx: Sequence[Tensor] | None = None
    weights: bool = True


StencilGradients: TypeAlias = (
    "tuple[list[Tensor], list[Tensor] | None, list[Tensor] | None, Tensor | None, Tensor | None]"
)


class StencilLaunchers(Protocol):
    """ReLU, depthwise, pointwise and moments of many convolutions in one pass."""

    def forward(self, given: StencilForward) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
        """T channels_last maps [N, C, ceil(H / stride), ceil(W / stride)]; means and variances [T, C], or None."""

    def backward(self, given: StencilBackward) -> StencilGradients:
        """Of the sources, of the weights, and of normalised sources two sums.

        S maps: dx, or, of normalised sources, the gradient g1 of `(x - mean) * rstd`; T gradients of the depthwise and
        T of the pointwise weights in the arithmetic dtype, None and None unless `weights`; of normalised sources
        `sum g1` and `sum g1 * (x - mean) * rstd`, [S, C] each, float64, else None and None.
        """


@dataclass(frozen=True, slots=True)
class SumForward:
    """A node, written to `out`.

    `mixed = bias + sum_t scale_t (y_t - mean_t) + sum_e (free[e, 0] x + free[e, 1] (max - pool_mean[e, 0])
    + free[e, 2] (avg - pool_mean[e, 1]))`. Means given as such keep their digits where they are large against the
    deviation; a bias of `- sum scale * mean` does not.

    Args:
        out: maps [N, C, H', W'], float32 | bfloat16 | float64, on a GPU float16 too; written.
        ys: T times [N, C', H', W'], channels_last, the dtype of out.
        scale: [T, C'].
        bias: [C'] or None for 0.
        sources: E times maps [N, C, H, W], the dtype of out.
        edges: E times what is mixed of each source beside its y's.
        free: [E, 3, C'].
        bypass: [E] or None for 1 each; read where partial > 1.
        partial: K, the share of the channels that is mixed is 1/K.
        mean: [T, C'] or None for 0.
        pool_mean: [E, 2, C'] or None for 0.
    """

    out: Tensor
    ys: Sequence[Tensor]
    scale: Tensor
    bias: Tensor | None
    sources: Sequence[Tensor]
    edges: Sequence[Edge]
    free: Tensor
    bypass: Tensor | None
    partial: int
    mean: Tensor | None = None
    pool_mean: Tensor | None = None


@dataclass(frozen=True, slots=True)
class SumReduce:
    """Sums of a node's gradient with each of its candidates, over N, H' and W'.

    Args:
        g: maps [N, C, H', W'], the gradient of the node.
        ys: as in :class:`SumForward`, like sources, edges and partial.
        mean: [T, C']; so is rstd, and `xhat = (y - mean) * rstd`.
        rstd: the reciprocal deviations.
        pool_mean: [E, 2, C'], of maximum and average; so is pool_rstd.
        pool_rstd: the reciprocal deviations.
    """

    g: Tensor
    ys: Sequence[Tensor]
    mean: Tensor
    rstd: Tensor
    sources: Sequence[Tensor]
    edges: Sequence[Edge]
    pool_mean: Tensor
    pool_rstd: Tensor
    partial: int


@dataclass(frozen=True, slots=True)
class SumReduced:
    """What a :class:`SumReduce` found.

    Args:
        g: maps [N, C, H', W'], the gradient with its channels in the order of the candidates: the one that was given
            where partial is 1.
        total: [C'], float64, `sum g`.
        products: [T, C'], float64, `sum g * xhat_t`.
        free: [E, 3, C'], float64, `sum g * x`, `sum g * xhat` of the maximum and of the average; 0 where not present.
        bypass: [E], float64, `sum g * x` over the channels that are not mixed; None where all are.
    """

    g: Tensor
    total: Tensor
    products: Tensor
    free: Tensor
    bypass: Tensor | None


@dataclass(frozen=True, slots=True)
class SumBackward:
    """A node's gradient, added to those of its sources through skips, pools and the bypass.

    `dx_e += alpha[e, 0] g`, and through each pool v the gradient `alpha g + beta (v - pool_mean) + gamma`; the values v
    are computed again. A maximum gives its gradient to the first of the largest pixels.

    Args:
        g: as :class:`SumReduced` has it.
        sources: as in :class:`SumForward`, like edges, bypass and partial.
        alpha: [E, 3, C'], of x, maximum and average; so are beta and gamma, whose first rows are unread.
        dx: E times maps of the sources' shapes, the dtype of g; added to in place. Entries may be the same tensor.
        pool_mean: [E, 2, C'] or None for 0.
    """

    g: Tensor
    sources: Sequence[Tensor]
    edges: Sequence[Edge]
    alpha: Tensor
    beta: Tensor
    gamma: Tensor
    bypass: Tensor | None
    dx: Sequence[Tensor]
    partial: int
    pool_mean: Tensor | None = None


class SumLaunchers(Protocol):
    """A node's weighted sum in one pass over all candidates of all its in-edges."""

    def forward(self, given: SumForward) -> None:
        """Write the node."""

    def reduce(self, given: SumReduce) -> SumReduced:
        """The sums, and the gradient with its channels in the order of the candidates."""

    def backward(self, given: SumBackward) -> None:
        """Add to the sources' gradients."""

    def pool_moments(self, x: Tensor, stride: int, *, max_pool: bool, avg_pool: bool) -> tuple[Tensor, Tensor]:
        """Mean and biased variance [2, C], float64, of the 3x3 pools of maps x, without the pooled maps.

        Rows: maximum, average of the pixels inside; 0 where not wanted.
        """


@dataclass(frozen=True, slots=True)
class PreprocessForward:
    """The convolution before its batch norm, with its statistics: `y = W relu(x)`.

    Args:
        x: [N, C_in, H, W], float32 | bfloat16 | float64, on a GPU float16 too, any strides; fastest as maps.
        weights: one [C_out, C_in, 1, 1], or at stride 2 the two halves' (one where there is one output), floating.
        stride: 1 or 2, pixels.
        moments: whether to take the statistics.
    """

    x: Tensor
    weights: Sequence[Tensor]
    stride: int
    moments: bool = True


@dataclass(frozen=True, slots=True)
class PreprocessBackward:
    """The gradients of the convolution, the batch norm's applied on the fly: `dy = alpha g + beta y + gamma`.

    `dx = W^T dy` where `x > 0`, else 0; `dW = sum over pixels of dy relu(x)^T`.

    Args:
        x: as in :class:`PreprocessForward`, like weights and stride.
        g: maps [N, C_out, H', W'], the dtype of x.
        y: maps [N, C_out, H', W'], the dtype of x: whatever beta multiplies, y or xhat; None for beta = 0, as in
            evaluation, where an infinite y must not matter.
        alpha: [C_out], floating; so are beta and gamma.
        beta: unread where y is None.
        dx: what to add the input's gradient to, the shape and dtype of x, any strides; None for a fresh tensor in the
            memory format of x.
        need_dx: False leaves the input's gradient out.
        need_weights: False leaves the weights' gradients out.
    """

    x: Tensor
    weights: Sequence[Tensor]
    g: Tensor
    y: Tensor | None
    alpha: Tensor
    beta: Tensor
    gamma: Tensor
    stride: int
    dx: Tensor | None = None
    need_dx: bool = True
    need_weights: bool = True


class PreprocessLaunchers(Protocol):
    """ReLU, 1x1 convolution and moments of a cell's input or of a factorised reduction."""

    def forward(self, given: PreprocessForward) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """y [N, C_out, ceil(H / stride), ceil(W / stride)], channels_last; mean and variance [C_out], or None."""

    def normalise_(self, y: Tensor, mean: Tensor, rstd: Tensor) -> None:
        """`y = (y - mean) * rstd` in place; y channels_last, mean and rstd [C]."""

    def reduce(self, g: Tensor, xhat: Tensor) -> tuple[Tensor, Tensor]:
        """`sum g` and `sum g * xhat` over N, H and W, [C] each, float64, of maps of one shape and dtype."""

    def backward(self, given: PreprocessBackward) -> tuple[Tensor | None, list[Tensor] | None]:
        """dx or None; the weights' gradients or None, float32, or float64 for float64, in the shapes of the weights."""


class CoefficientLaunchers(Protocol):
    """Statistics to scales, and the batch norms' backward: `fastdarts.reference.coefficients`."""

    def rows(self, mean: Tensor, var: Tensor, index: Tensor, eps: float) -> tuple[Tensor, Tensor]: ...

    def mixing(
        self, mean: Tensor, var: Tensor, norms: Tensor, weights: Tensor, columns: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]: ...

    def gradient(
        self, scale: Tensor, rstd: Tensor, mean: Tensor, total: Tensor, products: Tensor, *, pixels: int, stored: int
    ) -> Tensor: ...
