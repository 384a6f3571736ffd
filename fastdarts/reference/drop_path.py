"""Drop-path: forget whole paths of single images while the derived network trains."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["drop_path"]


def drop_path(x: Tensor, probability: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Set each image's map to zero with the given probability and scale the others up.

    `y[n] = x[n] / (1 - p) * m[n]`, m[n] = 0 with probability p, else 1.

    Args:
        x: [N, C, H, W], floating.
        probability: p, 0 <= p < 1; at 0 x is returned and nothing is drawn.
        generator: where the mask comes from; None for torch's default generator of x's device.

    Returns:
        [N, C, H, W], the dtype of x.

    Source: Larsson et al. 2017 (FractalNet), section 3; Zoph et al. 2018 (NASNet); docs/facts.md, 1.1.
    """
    if probability <= 0.0:
        return x
    kept = 1.0 - probability
    mask = torch.empty(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(kept, generator=generator)
    return x.div(kept).mul(mask)
