"""Which images each level learns from."""

from __future__ import annotations

import torch
from torch import Tensor

from fastdarts.data import Batches, ImageSet, split_levels
from fastdarts.search.config import SearchConfig

__all__ = ["ON_TRAINING", "part_levels", "smallest_batch"]

ON_TRAINING = (
    "one level, no image held out: what is called validation here is measured on images that the weights learn from "
    "(--set held_out=0.1 holds a tenth out)"
)


def part_levels(config: SearchConfig, images: ImageSet) -> tuple[Tensor, Tensor]:
    """The images that weights learn from, and those that alphas do, or that only validate a search of one level."""
    labels = images.labels if config.split_by_class else None
    portion = 1.0 - config.held_out if config.held_out else config.train_portion
    weight_level, arch_level = split_levels(len(images.labels), portion, config.seed, labels)
    if config.one_level and not config.held_out:
        weight_level = torch.cat([weight_level, arch_level])
    return weight_level, arch_level


def smallest_batch(batches: Batches) -> int:
    """Images of the smallest batch of a pass."""
    left = 0 if batches.drop_last else len(batches.indices) % batches.batch_size
    return left or batches.batch_size
