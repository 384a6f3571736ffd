"""From draws to figures: a search's steps and evaluations on tensors that stay in place, replayed where possible."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts.data.batches import DRAWS, Batches, moved, pinned
from fastdarts.nn import Supernet
from fastdarts.search._unattended import UnattendedStep
from fastdarts.search.choices import Mixing
from fastdarts.search.graph import Recorder, Replayed
from fastdarts.search.step import SearchStep, accuracy

__all__ = ["Evaluation", "Inputs", "Stepper", "batch_statistics"]

_FIGURES = ("arch_loss", "arch_accuracy", "train_loss", "train_accuracy")


class Inputs:
    """What a step is told: one buffer, one copy to the device a step.

    Args:
        batch_size: images a level.
        levels: 1 or 2.
        device: where the buffer lies.

    Attributes:
        draws: for each level [DRAWS * batch_size], int64, views of the buffer.
        lr, progress: [], float64, views of the buffer.
    """

    def __init__(self, batch_size: int, levels: int, device: torch.device) -> None:
        size = DRAWS * batch_size
        self._buffer = torch.zeros(levels * size + 2, dtype=torch.int64, device=device)
        self.draws = self._buffer[:-2].split(size)
        self.lr, self.progress = self._buffer[-2:].view(torch.float64).unbind()

    def fits(self, draws: list[Tensor]) -> bool:
        """Whether the batches of these draws are whole ones."""
        return all(len(each) == len(place) for each, place in zip(draws, self.draws, strict=True))

    def fill(self, *draws: Tensor, lr: float, progress: float) -> None:
        """Bring the inputs of the next step to the device; the host does not wait for it."""
        numbers = torch.tensor([lr, progress], dtype=torch.float64)
        packed = torch.cat([*draws, numbers.view(torch.int64)])
        self._buffer.copy_(pinned(packed, self._buffer.device), non_blocking=True)


class Stepper:
    """Runs steps: draws go in by one copy, and batches, both levels' learning and the figures follow on the device.

    Args:
        step: both levels' updates.
        train: batches of the weight level.
        valid: those of the architecture level; None where both levels learn from the same.
        recorder: records the steps, one graph for those that move the alphas and one for those that do not.
    """

    def __init__(self, step: SearchStep, train: Batches, valid: Batches | None, recorder: Recorder | None) -> None:
        self.step, self.train, self.valid = step, train, valid
        self._inputs = Inputs(train.batch_size, 1 if valid is None else 2, train.device)
        if isinstance(step, UnattendedStep):
            step.lr = self._inputs.lr
        # Made here, so that it outlives what the graphs call their own memory.
        self._figures = torch.zeros(len(_FIGURES), dtype=torch.float64, device=train.device)
        self._replayed = {
            alphas: Replayed(functools.partial(self._compute, alphas), recorder) for alphas in (False, True)
        }

    def draw(self) -> list[Tensor]:
        """What decides the next step's batches, of every level; the streams move on."""
        return [level.draw() for level in (self.train, self.valid) if level is not None]

    def batches(self, draws: list[Tensor]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """The batches of both levels, made for a look at them."""
        train = self.train.make(moved(draws[0], self.train.device))
        return train, train if self.valid is None else self.valid.make(moved(draws[1], self.train.device))

    def __call__(self, draws: list[Tensor], progress: float, *, alphas: bool) -> dict[str, Tensor]:
        """One step.

        Args:
            draws: from :meth:`draw`.
            progress: share of the stage behind, from 0 to 1.
            alphas: whether they learn; else they wait.

        Returns:
            The step's losses and accuracies as float64 scalars of their own on the device.
        """
        self._progress = progress
        lr = self.step.weight_optimizer.param_groups[0]["lr"]
        if self._inputs.fits(draws):
            self._inputs.fill(*draws, lr=lr, progress=progress)
            self._replayed[alphas]()
        else:
            # A pass' smaller last batch, which no recorded step has the size of.
            whole = (torch.zeros_like(place, device="cpu") for place in self._inputs.draws)
            self._inputs.fill(*whole, lr=lr, progress=progress)
            self._compute(alphas, [moved(each, self.train.device) for each in draws])
        # A copy, over which the next replay does not write.
        figures = dict(zip(_FIGURES, self._figures.clone().unbind(), strict=True))
        return {name: figures[name] for name in _FIGURES if alphas or not name.startswith("arch")}

    def _compute(self, alphas: bool, given: list[Tensor] | None = None) -> None:
        draws = self._inputs.draws if given is None else given
        train, valid = self.train.make(draws[0]), None
        if alphas:
            valid = train if self.valid is None else self.valid.make(draws[1])
        unattended = isinstance(self.step, UnattendedStep)
        values = self.step(train, valid, self._inputs.progress if unattended else self._progress)
        for name, figure in zip(_FIGURES, self._figures, strict=True):
            if name in values:
                figure.copy_(values[name])


class Evaluation:
    """Mean cross-entropy and accuracy of a supernet in eval mode over one pass, as :func:`evaluate` gives them.

    Args:
        model: the supernet.
        batches: their pass for evaluation.
        recorder: records the passes of full batches.
        mixing: what a pass mixes; None for the softmax of the alphas.
        batch_statistics: normalise by each batch's own mean and variance; the running ones stay as they are.
    """

    def __init__(
        self,
        model: Supernet,
        batches: Batches,
        recorder: Recorder | None,
        mixing: Callable[[Supernet], Mixing] | None = None,
        batch_statistics: bool = False,
    ) -> None:
        self._batch_statistics = batch_statistics
        self._model, self._batches, self._mixing = model, batches, mixing
        self._draws = torch.zeros(DRAWS * batches.batch_size, dtype=torch.int64, device=batches.device)
        self._sums = torch.zeros(2, dtype=torch.float64, device=batches.device)
        self._replayed = Replayed(lambda: self._measure(self._draws), recorder)

    def __call__(self) -> tuple[float, float]:
        """Loss and accuracy."""
        self.start()
        return self.result()

    def start(self) -> None:
        """Begin; a GPU works on while the host does something else, as long as that does not ask it."""
        self._sums.zero_()
        with batch_statistics(self._model) if self._batch_statistics else _running_statistics(self._model):
            for draws in self._batches.still():
                if len(draws) == len(self._draws):
                    self._draws.copy_(pinned(draws, self._batches.device), non_blocking=True)
                    self._replayed()
                else:
                    self._measure(moved(draws, self._batches.device))

    def result(self) -> tuple[float, float]:
        """Loss and accuracy of the pass that was begun; waits for it."""
        loss, correct = self._sums.tolist()
        count = len(self._batches.indices)
        return loss / count, correct / count

    @torch.no_grad()
    def _measure(self, draws: Tensor) -> None:
        images, labels = self._batches.make(draws)
        logits = self._model(images, **(self._mixing(self._model) if self._mixing else {}))
        loss = F.cross_entropy(logits, labels, reduction="sum").double()
        self._sums += torch.stack([loss, accuracy(logits, labels) * len(labels)])


@contextmanager
def _running_statistics(model: Supernet) -> Iterator[None]:
    training = model.training
    model.eval()
    yield
    model.train(training)


@contextmanager
def batch_statistics(model: Supernet) -> Iterator[None]:
    """While the block runs batch norms normalise as in training; nothing is dropped, and no statistic moves."""
    training, kept = model.training, [buffer.clone() for buffer in model.buffers()]
    rates = model.dropout, model.skip_dropout, model.drop_path_prob
    model.train()
    model.dropout = model.skip_dropout = model.drop_path_prob = 0.0
    yield
    model.dropout, model.skip_dropout, model.drop_path_prob = rates
    with torch.no_grad():
        for buffer, before in zip(model.buffers(), kept, strict=True):
            buffer.copy_(before)
    model.train(training)
