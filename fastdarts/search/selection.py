"""The choice among sampled architectures by the accuracy of the weights that they share."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts.nn import Supernet
from fastdarts.search.choices import Finished, StrongestEdges
from fastdarts.search.sampling import path
from fastdarts.search.step import accuracy
from fastdarts.spaces import Genotype, random_genotype

__all__ = ["SharedWeights"]

# Architectures between two lines to whoever waits; on CIFAR-10 the 1000 take minutes.
_TOLD = 100


class SharedWeights(StrongestEdges):
    """Sample architectures, validate each on a few batches with the supernet's weights, and the best of them on all.

    The best is that of the highest accuracy, of equal ones that of the lowest loss. Everything is a function of the
    finished search: the samples come from a generator of its seed, and all are judged on the same first batches, so
    that they differ by what they are and not by what they saw. The authors draw new batches for each.

    Args:
        samples: architectures drawn uniformly from the space; one that comes twice is validated once.
        finalists: how many of every ``per_round`` samples see the whole validation set.
        batches: batches of the first round; no more than the set has.
        per_round: samples of which the best are finalists; 1000.
        with_none: draw as the authors do; :func:`fastdarts.spaces.random_genotype`.

    Source: Li, Talwalkar 2019, section 3.2 (evaluation of sampled architectures); docs/facts.md, 6.1: 1000 samples
    on 10 batches, the best 10 on the full validation set.
    """

    def __init__(
        self, samples: int, finalists: int, batches: int, per_round: int = 1000, with_none: bool = False
    ) -> None:
        super().__init__()
        self.samples, self.finalists, self.batches = samples, finalists, batches
        self.per_round, self.with_none = per_round, with_none

    def final(self, finished: Finished) -> Genotype:
        """The selected genotype."""
        model = finished.model
        generator = torch.Generator().manual_seed(finished.seed)
        seeds = torch.randint(2**62, (self.samples,), generator=generator).tolist()
        sampled = [random_genotype(model.space, seed, layers=model.layers, with_none=self.with_none) for seed in seeds]
        drawn = dict.fromkeys(sampled)
        few = list(islice(finished.valid(), self.batches))
        finished.note(f"validating {len(drawn)} random architectures on {len(few)} batches each")
        training = model.training
        model.eval()
        first = {}
        for genotype in drawn:
            first[genotype] = _merit(model, genotype, few)
            if len(first) % _TOLD == 0:
                finished.note(f"validated {len(first)} of {len(drawn)} random architectures")
        best: dict[Genotype, None] = {}
        for start in range(0, len(sampled), self.per_round):
            once = dict.fromkeys(sampled[start : start + self.per_round])
            best |= dict.fromkeys(sorted(once, key=first.__getitem__)[: self.finalists])
        last = {genotype: _merit(model, genotype, finished.valid()) for genotype in best}
        model.train(training)
        chosen = min(last, key=last.__getitem__)
        finished.note(f"the best of {len(last)} finalists: validation accuracy {-last[chosen][0]:.4f}, shared weights")
        return chosen


@torch.no_grad()
def _merit(model: Supernet, genotype: Genotype, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Accuracy, negative, and mean loss of the model in its mode on these batches: the smaller, the better."""
    mixing, sums, count = path(model, genotype), [], 0
    for images, labels in batches:
        logits = model(images, **mixing)
        loss = F.cross_entropy(logits, labels, reduction="sum").double()
        sums.append(torch.stack([accuracy(logits, labels) * len(labels), loss]))
        count += len(labels)
    correct, total = torch.stack(sums).sum(0).tolist()
    return -correct / count, total / count
