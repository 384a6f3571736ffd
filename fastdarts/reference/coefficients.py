"""The coefficients of a node's affine combination and of its batch norms' gradients: a few vectors of channels."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["gradient", "mixing", "rows"]


def rows(mean: Tensor, var: Tensor, index: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Means and reciprocal standard deviations of some batch norms.

    `rstd = 1 / sqrt(var + eps)`, of the rows `index`.

    Args:
        mean: [R, C'], float64, contiguous.
        var: [R, C'], float64, contiguous, biased.
        index: [K], int64.
        eps: added to the variance.

    Returns:
        (mean [K, C'], rstd [K, C']), float64.
    """
    return mean[index], 1 / (var[index] + eps).sqrt()


def mixing(
    mean: Tensor, var: Tensor, norms: Tensor, weights: Tensor, columns: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """What a node multiplies its candidates by: the mixing weight times the batch norm's reciprocal deviation.

    `scale = weights[columns] / sqrt(var[norms] + eps)`.

    Args:
        mean: [R, C'], float64, contiguous.
        var: [R, C'], float64, contiguous, biased.
        norms: [K], int64, the candidates' rows of the statistics.
        weights: [W], float64, contiguous.
        columns: [K], int64, the candidates' places in the weights.
        eps: added to the variance.

    Returns:
        (scale [K, C'], mean [K, C'], rstd [K, C']), float64.
    """
    found, rstd = rows(mean, var, norms, eps)
    return weights[columns].unsqueeze(1) * rstd, found, rstd


def gradient(
    scale: Tensor, rstd: Tensor, mean: Tensor, total: Tensor, products: Tensor, *, pixels: int, stored: int
) -> Tensor:
    """The gradient that a batch norm of the batch's own statistics passes on, as an affine map of g and y.

    `dy = alpha g + beta y + gamma` with `alpha = scale`, `beta = -scale rstd products / pixels` and
    `gamma = -scale total / pixels - beta mean`; the last term only in the rows whose y is stored as it is, the others
    come centred.

    Args:
        scale: [K, C'], float64, contiguous, as all.
        rstd: [K, C'].
        mean: [K, C'] or more than `stored` rows of it.
        total: [C'], or [K, C']: the sums of g.
        products: [K, C'], the sums of g times the normalised value.
        pixels: N * H * W.
        stored: how many rows, the first ones, belong to values that are not centred.

    Returns:
        [3, K, C'], float64: alpha, beta, gamma.

    Source: Ioffe and Szegedy 2015, section 3.
    """
    beta = -scale * rstd * products / pixels
    gamma = -scale * total / pixels
    centred = torch.arange(len(scale), device=scale.device).unsqueeze(1) >= stored
    return torch.stack([scale, beta, gamma - torch.where(centred, 0.0, beta * mean[: len(scale)])])
