"""What a supernet and a derived network share: the stem, the stack of cells and the classifier."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from fastdarts.errors import UserError
from fastdarts.nn.checks import at_least_one, check_maps, check_statistics, halved

__all__ = ["Place", "StackedCell", "Trunk"]

_STEMS = ("cifar", "imagenet")


@dataclass(frozen=True)
class Place:
    """Where in the stack a cell stands, which is all that a cell must know of the network.

    Args:
        layer: number of the cell, from 0.
        c_prev_prev: channels of the output of two layers before.
        c_prev: channels of the output of the layer before.
        channels: C of this cell.
        reduction: whether this cell halves the map.
        reduction_prev: whether the layer before did.
    """

    layer: int
    c_prev_prev: int
    c_prev: int
    channels: int
    reduction: bool
    reduction_prev: bool


class StackedCell(nn.Module):
    """A cell as a trunk stacks it.

    Attributes:
        multiplier: channels of its output, in units of the cell's own.
    """

    multiplier: int


class Trunk(nn.Module):
    """Stem, cells, global pooling and linear classifier, built in quark0's order under quark0's `state_dict` keys.

    Args:
        build_cell: makes the cell of a place; its output has `multiplier * place.channels` channels.
        channels: C of the first cell; doubled in every reduction.
        layers: number of cells.
        reductions: which of them halve the map.
        classes: number of classes.
        in_channels: channels of the images.
        stem: `cifar` (one convolution) or `imagenet` (three of stride 2, in two stages).
        stem_channels: channels after the stem.
        build_auxiliary: makes the auxiliary head from the channels after cell 2 * layers // 3; None for no head.

    Raises:
        UserError: a count below 1, or an unknown stem.

    Source: Liu et al. 2019 (DARTS), section 3.1; docs/facts.md, 1.
    """

    def __init__(
        self,
        build_cell: Callable[[Place], StackedCell],
        *,
        channels: int,
        layers: int,
        reductions: Collection[int],
        classes: int,
        in_channels: int,
        stem: str,
        stem_channels: int,
        build_auxiliary: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        check_trunk(channels=channels, layers=layers, classes=classes, in_channels=in_channels, stem=stem)
        self.layers, self.in_channels = layers, in_channels
        self._two_stages = stem == "imagenet"
        if self._two_stages:
            self.stem0, self.stem1 = _imagenet_stem(in_channels, stem_channels)
        else:
            self.stem = nn.Sequential(
                nn.Conv2d(in_channels, stem_channels, 3, padding=1, bias=False), nn.BatchNorm2d(stem_channels)
            )
        self.cells = nn.ModuleList()
        c_prev_prev = c_prev = stem_channels
        reduction_prev = self._two_stages
        for layer in range(layers):
            reduction = layer in reductions
            channels *= 2 if reduction else 1
            cell = build_cell(Place(layer, c_prev_prev, c_prev, channels, reduction, reduction_prev))
            self.cells.append(cell)
            c_prev_prev, c_prev, reduction_prev = c_prev, cell.multiplier * channels, reduction
            if layer == 2 * layers // 3:
                c_auxiliary = c_prev
        self._halvings = 3 * self._two_stages + len(set(reductions) & set(range(layers)))
        if build_auxiliary is not None:
            self.auxiliary_head = build_auxiliary(c_auxiliary)
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(c_prev, classes)

    def begin(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The two inputs of the first cell.

        Args:
            images: [N, in_channels, H, W], floating.

        Raises:
            UserError: a wrong shape, an empty batch, or so little that batch norm cannot train on the last map.
            TypeError: no tensor, or no floating dtype.
        """
        name = type(self).__name__
        check_maps(images, self._takes(), name)
        if self.training:
            height, width = (halved(size, 2**self._halvings) for size in images.shape[2:])
            check_statistics(len(images), height, width, name)
        if self._two_stages:
            older = self.stem0(images)
            return older, self.stem1(older)
        newer = self.stem(images)
        return newer, newer

    def _takes(self) -> int | None:
        """The channels of images that the stem takes; None where someone has put in one that does not tell."""
        stem = self.stem0 if self._two_stages else self.stem
        first = next(stem.children(), None)
        return first.in_channels if isinstance(stem, nn.Sequential) and isinstance(first, nn.Conv2d) else None

    def classify(self, features: Tensor, dropout: float = 0.0) -> Tensor:
        """Logits [N, classes] of the last cell's output [N, C, H, W].

        Args:
            features: [N, C, H, W], floating.
            dropout: probability that a pooled feature is dropped, in training only; at 0 nothing is drawn.
        """
        pooled = self.global_pooling(features).flatten(1)
        if dropout and self.training:
            pooled = F.dropout(pooled, dropout)
        return self.classifier(pooled)


def check_trunk(*, channels: int, layers: int, classes: int, in_channels: int, stem: str) -> None:
    """Refuse the sizes that make no network, before anything is allocated."""
    counts = {"channels": channels, "layers": layers, "classes": classes, "in_channels": in_channels}
    for name, value in counts.items():
        at_least_one(name, value)
    if stem not in _STEMS:
        raise UserError(f"stem is {stem!r}", f"one of {', '.join(_STEMS)}")


def _imagenet_stem(in_channels: int, channels: int) -> tuple[nn.Sequential, nn.Sequential]:
    half = max(1, channels // 2)
    first = nn.Sequential(
        nn.Conv2d(in_channels, half, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(half),
        nn.ReLU(inplace=True),
        nn.Conv2d(half, channels, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(channels),
    )
    second = nn.Sequential(
        nn.ReLU(), nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(channels)
    )
    return first, second
