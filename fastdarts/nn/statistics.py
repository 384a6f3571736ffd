"""Running statistics of batch norms that the engine has computed: moved as `nn.BatchNorm2d` moves its own."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import torch
from torch import Tensor, nn

from fastdarts.ops.track import track_

__all__ = ["Kept", "chosen", "kept", "move", "move_stacked"]

Kept = tuple[list[Tensor], list[Tensor], list[Tensor]]
"""Running means, variances and counted batches of some batch norms."""


@torch.no_grad()
def move(running: Kept, mean: Tensor, var: Tensor, momentum: float | None, count: int) -> None:
    """Move the statistics of norms that keep theirs apart.

    `running = (1 - m) * running + m * batch`, the variance unbiased; m = 1 / batches without a momentum.

    Args:
        running: [C'] each, and scalars; written in place.
        mean, var: [B, C'], float64, the variance biased.
        momentum: m.
        count: values a channel, above 1.

    In float64, and rounded once: nearer to it than torch's own, which rounds two or three times.
    """
    torch._foreach_add_(running[2], 1)
    factor: float | Tensor
    factor = 1.0 / torch.stack(running[2]).double().unsqueeze(-1) if momentum is None else momentum
    for own, new, scale in zip(running, (mean, var), (1.0, count / (count - 1)), strict=False):
        moved = torch.lerp(torch.stack(own).double(), new * scale, factor)
        torch._foreach_copy_(own, list(moved.to(own[0].dtype).unbind()))


@torch.no_grad()
def move_stacked(
    running: tuple[Tensor, Tensor, Tensor],
    rows: Tensor | None,
    mean: Tensor,
    var: Tensor,
    momentum: float | None,
    count: int,
) -> None:
    """The same of norms whose statistics are rows of one tensor a kind.

    Args:
        running: means and variances [B, C'] or [C'], counted batches [B] or []; written in place.
        rows: [B'], int64; which ones these are, None for all.
    """
    unbiased = count / (count - 1)
    if rows is None and momentum is not None:
        track_(*running, mean, var, momentum=momentum, unbiased=unbiased)
        return
    tracked = running[2]
    tracked += 1 if rows is None else torch.zeros_like(tracked).index_fill_(0, rows, 1)
    for own, new, factor in zip(running[:2], (mean, var), (1.0, unbiased), strict=True):
        before = chosen(own, rows).double()
        if momentum is None:
            moved = torch.lerp(before, new * factor, (1.0 / chosen(tracked, rows).double()).unsqueeze(-1))
        else:
            moved = torch.lerp(before, new * factor, momentum)
        if rows is None:
            own.copy_(moved)
        else:
            own.index_copy_(0, rows, moved.to(own.dtype))


def chosen(values: Tensor, rows: Tensor | None) -> Tensor:
    """Some rows, None for all."""
    return values if rows is None else values.index_select(0, rows)


def kept(norms: Sequence[nn.BatchNorm2d]) -> Kept:
    """The statistics of norms that keep theirs apart."""
    if any("running_mean" not in norm._buffers for norm in norms):
        # Rows of several stacks, or of none: a row that is written is written there.
        found = [[getattr(norm, name) for norm in norms] for name in _NAMES]
    else:
        found = [[buffers[name] for buffers in map(_buffers, norms)] for name in _NAMES]
    means, variances, batches = found
    return means, variances, batches


_buffers = attrgetter("_buffers")
_NAMES = ("running_mean", "running_var", "num_batches_tracked")
