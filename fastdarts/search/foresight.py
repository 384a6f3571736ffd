"""What can be known of a search before its first step, and would be a pity to learn after the last."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fastdarts.errors import UserError
from fastdarts.spaces import Space

__all__ = ["check_cells", "few_steps", "foresee", "missing_classes"]

# As far as the alphas of the digits' search go: 165 steps of 0.009.
_USUAL_REACH = 1.5


def check_cells(space: Space, layers: int) -> None:
    """Refuse a network without a cell of some type: its alphas would stay as they were drawn, and be read as found.

    Args:
        space: the search space.
        layers: number of cells.

    Raises:
        UserError: naming the type.
    """
    absent = [key for key in space.arch_keys(layers) if key not in space.keys(layers)]
    if absent:
        raise UserError(
            f"a network of {layers} cells has no {absent[0]} cell, whose operators would never be searched",
            "at least 3 layers",
            "layers 1/3 and 2/3 down the network are reduction cells",
        )


def foresee(arch_lr: float, steps: int, space: Space, labels: Tensor, levels: Mapping[str, Tensor]) -> list[str]:
    """What to tell before the first step, a line each: :func:`few_steps` and :func:`missing_classes`."""
    widest = max(space.normal.width, space.reduce.width)
    return [line for line in (few_steps(arch_lr, steps, widest), missing_classes(labels, levels)) if line]


def few_steps(arch_lr: float, steps: int, candidates: int) -> str:
    """Say so where the alphas have too few steps to tell an operator from the others.

    Adam moves an alpha by about its learning rate a step, whatever the gradient is. After n steps in one direction, and
    all others in the other, an operator of K has the weight ``1 / (1 + (K - 1) exp(-2 n lr))``. Where that is not even
    twice the weight it begins with, no operator stands out at the end, and the genotype is chance.

    Args:
        arch_lr: learning rate of the alphas.
        steps: in which they learn.
        candidates: operators of the widest edge.

    Returns:
        One line, empty where there are enough.
    """
    if candidates < 2 or not steps:
        return ""
    most = 1.0 / (1.0 + (candidates - 1) * math.exp(-2.0 * arch_lr * steps))
    if most >= min(2.0 / candidates, 0.9):
        return ""
    enough = float(f"{_USUAL_REACH / steps:.1g}")
    return (
        f"this search can decide nothing: the alphas learn in {steps} steps of {arch_lr:g}, after which the largest "
        f"weight of {candidates} operators is at most {most:.3f}, and all begin with {1 / candidates:.3f}; "
        f"search more epochs, or set arch_lr={enough:g} (for digits it is raised likewise)"
    )


def missing_classes(labels: Tensor, levels: Mapping[str, Tensor]) -> str:
    """Say so where a level has no image of a class.

    Args:
        labels: [N], int64, of the training set.
        levels: the indices of each level's images by its name.

    Returns:
        One line, empty where no class is missing.
    """
    counts = torch.bincount(labels.cpu())
    told = []
    for name, indices in levels.items():
        there = torch.bincount(labels.cpu()[indices.cpu()], minlength=len(counts))
        missing = ((counts > 0) & (there == 0)).nonzero().flatten().tolist()
        if missing:
            which = ", ".join(f"{each} ({int(counts[each])} in all)" for each in missing[:5])
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            told.append(f"the {name} level has no image of class {which}{more}")
    remedy = "another seed or train_portion parts the images otherwise"
    return f"{'; '.join(told)}: {remedy}" if told else ""
