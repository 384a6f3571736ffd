"""Figures of networks: what a validation pass measures, how large a derived network is, how mixed a mixture is."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdarts.data import ImageSet
from fastdarts.nn import DerivedNetwork
from fastdarts.search.step import accuracy
from fastdarts.spaces import Genotype

__all__ = ["check_batch", "count_parameters", "entropy", "evaluate"]


def check_batch(model: nn.Module, images: ImageSet, batch_size: int) -> None:
    """Refuse batches of one image where a layer needs two to train, by a pass without data or memory.

    Raises:
        UserError: from the layer that the first step would have stopped at, after the run folder was made.
    """
    if batch_size == 1:
        with torch.no_grad():
            copy.deepcopy(model).to("meta").train()(torch.empty(1, *images.images.shape[1:], device="meta"))


def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Mean cross-entropy and accuracy of ``model`` in eval mode over one pass; the mode is put back after."""
    training = model.training
    model.eval()
    loss: float | Tensor = 0.0
    correct: float | Tensor = 0.0
    count = 0
    with torch.no_grad():
        for images, labels in batches:
            logits = model(images)
            logits = logits[0] if isinstance(logits, tuple) else logits
            loss = loss + F.cross_entropy(logits, labels, reduction="sum").double()
            correct = correct + accuracy(logits, labels) * len(labels)
            count += len(labels)
    model.train(training)
    return float(loss) / count, float(correct) / count


def count_parameters(genotype: Genotype, channels: int, layers: int, classes: int, in_channels: int) -> int:
    """Number of weights of the derived network, without its auxiliary head, as the papers count them."""
    with torch.device("meta"):
        network = DerivedNetwork(genotype, channels=channels, layers=layers, classes=classes, in_channels=in_channels)
    return sum(weight.numel() for weight in network.parameters())


def entropy(weights: Tensor) -> float:
    """Mean over edges of the entropy of the mixing weights [E, width], in nats."""
    return float(torch.special.entr(weights.detach().double()).sum(1).mean())
