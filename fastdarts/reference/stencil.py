"""ReLU, depthwise and pointwise convolution, and the moments of the result, for many convolutions of a few sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

__all__ = ["Conv", "stencil", "stencil_backward"]


@dataclass(frozen=True)
class Conv:
    """One depthwise-separable convolution of a source, padded with `dilation * (kernel // 2)` zeros on each side.

    Args:
        source: which source it reads.
        kernel: side of the depthwise kernel, odd, pixels.
        dilation: pixels between its taps.
        stride: 1 or 2, pixels.
    """

    source: int
    kernel: int
    dilation: int
    stride: int

    @property
    def padding(self) -> int:
        """Zeros on each side of the source, pixels."""
        return self.dilation * (self.kernel // 2)


def stencil(
    sources: Sequence[Tensor],
    convs: Sequence[Conv],
    depthwise: Sequence[Tensor],
    pointwise: Sequence[Tensor],
    *,
    mean: Tensor | None = None,
    rstd: Tensor | None = None,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The convolutions of a list of sources before their batch norms, with the statistics that those need.

    `y_i = pointwise_i * (depthwise_i * u_s)` with `s = convs[i].source` and `u_s = relu(x_s)`, or, where statistics of
    the source are given, `u_s = relu((x_s - mean[s]) * rstd[s])`: the second half of a separable convolution.
    `mean_i` and `var_i` are those of `y_i` as it is stored, over N, H' and W', biased. They carry no gradient: what
    batch norm adds to the gradient of y is the business of whoever normalises (see `mixed_sum`).

    Args:
        sources: S maps [N, C, H, W], float32 | bfloat16 | float64, of one N, C, dtype and device; H and W may differ.
            Maps (`fastdarts.ops.maps`) are read where they lie, anything else is copied to channels_last.
        convs: T convolutions.
        depthwise: T weights [C, 1, k, k], floating.
        pointwise: T weights [C, C, 1, 1], floating.
        mean: [S, C], floating; with rstd, or None.
        rstd: [S, C], floating; 1 / sqrt(var + eps).

    Returns:
        T maps y [N, C, ceil(H / stride), ceil(W / stride)], the sources' dtype, channels_last in the fused op; their
        means and biased variances, [T, C] each, float64.

    Raises:
        UserError: (the op) a shape or a device that does not fit, an empty batch, a convolution that does not exist.
        TypeError: (the op) a dtype or a type that does not fit.

    Source: Liu et al. 2019 (DARTS), section 3.1; Chan, Golub and LeVeque 1979 for how the op adds up moments.
    """
    ys = []
    for conv, spread, mix in zip(convs, depthwise, pointwise, strict=True):
        u = _activation(sources, conv.source, mean, rstd)
        z = F.conv2d(u, spread.to(u.dtype), None, conv.stride, conv.padding, conv.dilation, groups=u.shape[1])
        ys.append(F.conv2d(z, mix.to(u.dtype)))
    if not ys:
        none = sources[0].new_empty((0, sources[0].shape[1]), dtype=torch.float64)
        return ys, none, none.clone()
    moments = [torch.var_mean(y.detach().double(), (0, 2, 3), correction=0) for y in ys]
    return ys, torch.stack([mean for _, mean in moments]), torch.stack([var for var, _ in moments])


def stencil_backward(
    sources: Sequence[Tensor],
    convs: Sequence[Conv],
    depthwise: Sequence[Tensor],
    pointwise: Sequence[Tensor],
    gradients: Sequence[Tensor],
    *,
    mean: Tensor | None = None,
    rstd: Tensor | None = None,
    weights: bool = True,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor, Tensor]:
    """The gradients of :func:`stencil` with respect to what its ReLU reads and to its weights.

    `dz_i = pointwise_i^T * dy_i`, `du_s = sum over the convolutions i of s of depthwise_i^T * dz_i`,
    `g_s = du_s * relu'(a_s)` with `a_s` what the ReLU reads: `x_s`, or `(x_s - mean[s]) * rstd[s]`.

    Args:
        sources: as in :func:`stencil`.
        convs: as in :func:`stencil`.
        depthwise: as in :func:`stencil`.
        pointwise: as in :func:`stencil`.
        gradients: T maps like y: dL/dy.
        mean: as in :func:`stencil`.
        rstd: as in :func:`stencil`.
        weights: whether the gradients of the weights are computed.

    Returns:
        S maps g; T gradients of the depthwise and T of the pointwise weights in the arithmetic dtype, none unless
        `weights`; `sum g` and `sum g * a` over N, H and W, [S, C] each, float64, [0, C] where mean is None.
    """
    arithmetic = torch.float64 if sources[0].dtype == torch.float64 else torch.float32
    read = [_before_relu(sources, s, mean, rstd).to(arithmetic) for s in range(len(sources))]
    total = [torch.zeros_like(a) for a in read]
    ddepthwise, dpointwise = [], []
    for conv, spread, mix, dy in zip(convs, depthwise, pointwise, gradients, strict=True):
        u, dy, spread, mix = F.relu(read[conv.source]), dy.to(arithmetic), spread.to(arithmetic), mix.to(arithmetic)
        how = (conv.stride, conv.padding, conv.dilation, u.shape[1])
        z = F.conv2d(u, spread, None, *how)
        dz = conv2d_input(z.shape, mix, dy)
        total[conv.source] += conv2d_input(u.shape, spread, dz, *how)
        if weights:
            ddepthwise.append(conv2d_weight(u, spread.shape, dz, *how))
            dpointwise.append(conv2d_weight(z, mix.shape, dy))
    out = [torch.where(a <= 0, 0.0, du).to(sources[0].dtype) for a, du in zip(read, total, strict=True)]
    if mean is None:
        none = sources[0].new_empty((0, sources[0].shape[1]), dtype=torch.float64)
        return out, ddepthwise, dpointwise, none, none.clone()
    sums = torch.stack([g.double().sum((0, 2, 3)) for g in out])
    products = torch.stack([(g.double() * a.double()).sum((0, 2, 3)) for g, a in zip(out, read, strict=True)])
    return out, ddepthwise, dpointwise, sums, products


def _before_relu(sources: Sequence[Tensor], source: int, mean: Tensor | None, rstd: Tensor | None) -> Tensor:
    x = sources[source]
    if mean is None or rstd is None:
        return x
    wide = torch.promote_types(x.dtype, torch.float32)
    shift, scale = (statistic[source].to(wide)[:, None, None] for statistic in (mean, rstd))
    return (x.to(wide) - shift) * scale


def _activation(sources: Sequence[Tensor], source: int, mean: Tensor | None, rstd: Tensor | None) -> Tensor:
    return F.relu(_before_relu(sources, source, mean, rstd)).to(sources[source].dtype)
