"""What a search step will need, and what it needed: one pass under the tracker, on the meta device or on a real one."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts.errors import UserError
from fastdarts.nn import Cell, Supernet
from fastdarts.plan import Flops
from fastdarts.profile.ledger import Ledger, Share, watched
from fastdarts.profile.replay import ReplayTracker
from fastdarts.profile.tracker import Tracker
from fastdarts.profile.work import supernet_flops

__all__ = ["Predictor", "Usage", "largest_batch", "measure"]


@dataclass(frozen=True)
class Usage:
    """Bytes and floating-point operations of one forward and backward pass, all gradients asked.

    Args:
        batch: images.
        kept_bytes: what the graph keeps between forward and backward.
        peak_bytes: the most that exists at one moment besides parameters, buffers and the batch: activations,
            scratch, and the gradients so far.
        weight_bytes: parameters and buffers, the architecture's included.
        gradient_bytes: gradients of all parameters, at the end of the pass.
        optimiser_bytes: SGD's momentum of the weights and Adam's two moments of the architecture parameters.
        batch_bytes: images and labels of both levels' batches.
        flops: of the cells, the preprocessing, the stem and the classifier; None where a candidate has no fused kernel.
    """

    batch: int
    kept_bytes: int
    peak_bytes: int
    weight_bytes: int
    gradient_bytes: int
    optimiser_bytes: int
    batch_bytes: int
    flops: Flops | None

    @property
    def total_bytes(self) -> int:
        """The peak of a search step: the pass, with what exists all the time."""
        return self.peak_bytes + self.weight_bytes + self.optimiser_bytes + self.batch_bytes


def measure(model: Supernet, images: Tensor, labels: Tensor, ledger: Ledger | None = None) -> Usage:
    """Run one pass of a supernet in training, forward and backward, and count its bytes.

    On the meta device nothing is allocated or computed, and the counts are those of a real pass.

    Args:
        model: a supernet on the images' device; its gradients are set to None.
        images: [N, C, H, W], floating.
        labels: [N], int64.
        ledger: told whose the bytes are.

    Returns:
        The usage.
    """
    parameters, architecture = list(model.parameters()), model.arch_parameters()
    for parameter in parameters:
        parameter.grad = None
    given = [*parameters, *model.buffers()]
    tracking = (ReplayTracker if images.is_meta else Tracker)([*given, images, labels], ledger)
    with nullcontext() if ledger is None else watched(model, ledger), tracking as tracker:
        loss = F.cross_entropy(model(images), labels)
        kept = tracker.kept()
        loss.backward()
    gradients = _bytes(parameter.grad for parameter in parameters if parameter.grad is not None)
    for parameter in parameters:
        parameter.grad = None
    return Usage(
        batch=len(images),
        kept_bytes=kept,
        peak_bytes=tracker.peak,
        weight_bytes=_bytes(given),
        gradient_bytes=gradients,
        # SGD keeps as much as every weight is, Adam twice what every architecture parameter is.
        optimiser_bytes=_bytes(parameters) + _bytes(architecture),
        batch_bytes=2 * _bytes([images, labels]),
        flops=supernet_flops(model, len(images), *images.shape[2:]),
    )


class Predictor:
    """The usage of a supernet at any batch size and in any memory mode, without allocating it.

    Args:
        build: makes the supernet; called once, under the meta device.
        size: height and width of the images, pixels.
        dtype: of parameters and images.
    """

    def __init__(self, build: Callable[[], Supernet], size: tuple[int, int], *, dtype: torch.dtype) -> None:
        with torch.device("meta"):
            self.model = build().to(dtype)
        self._size, self._dtype = size, dtype
        self._found: dict[tuple[int, str | None], Usage] = {}

    def __call__(self, batch: int, memory: str | None = None) -> Usage:
        """The usage at a batch size; asked again, it is not computed again.

        Args:
            batch: images.
            memory: `fast`, `balanced` or `lean`; None for the supernet's own.

        Raises:
            UserError: a batch that the supernet refuses.
        """
        if (batch, memory) not in self._found:
            self._found[batch, memory] = self._measured(batch, memory)
        return self._found[batch, memory]

    def shares(self, batch: int, memory: str | None = None) -> list[Share]:
        """Whose the bytes are, by part of the network and by operation; arguments and errors as of a call."""
        ledger = Ledger()
        self._found[batch, memory] = self._measured(batch, memory, ledger)
        return ledger.shares()

    def _measured(self, batch: int, memory: str | None, ledger: Ledger | None = None) -> Usage:
        images = torch.empty(batch, self.model.in_channels, *self._size, dtype=self._dtype, device="meta")
        labels = torch.empty(batch, dtype=torch.int64, device="meta")
        with _mode(self.model, memory):
            return measure(self.model, images, labels, ledger)


def largest_batch(predict: Callable[[int], Usage], budget: int, *, start: int = 2) -> int:
    """The largest batch whose step fits into a budget.

    Bytes grow with the batch by an almost constant amount an image, so that two or three predictions find the place:
    what is returned was predicted to fit, and one image more was predicted not to.

    Args:
        predict: the usage at a batch size.
        budget: bytes.
        start: where to begin, at least 2.

    Returns:
        Images; 0 where not even two fit, which batch norm may need.

    Raises:
        UserError: no batch is too large.
    """
    low, high, attempts = 1, sys.maxsize, 0
    batch = max(2, start)
    before = (0, _without_batch(predict(batch)))
    while high - low > 1:
        total = predict(batch).total_bytes
        low, high = (batch, high) if total <= budget else (low, batch)
        slope = (total - before[1]) / (batch - before[0])
        if slope <= 0:
            raise UserError(f"a budget of {budget} bytes, which every batch fits", "a smaller budget")
        guess, attempts = batch + math.floor((budget - total) / slope), attempts + 1
        if attempts > 8:  # bytes that grow by leaps: halve instead
            guess = 2 * low if high == sys.maxsize else (low + high) // 2
        before, batch = (batch, total), min(max(guess, low + 1), high - 1)
    return low if low > 1 else 0


@contextmanager
def _mode(model: Supernet, memory: str | None) -> Iterator[None]:
    """The cells in a memory mode, and back."""
    cells = cast(list[Cell], list(model.cells))
    own = [cell.memory for cell in cells]
    try:
        for cell in cells:
            cell.memory = memory or cell.memory
        yield
    finally:
        for cell, mode in zip(cells, own, strict=True):
            cell.memory = mode


def _without_batch(usage: Usage) -> int:
    """About what a step takes besides what grows with the batch."""
    return usage.weight_bytes + usage.optimiser_bytes + usage.gradient_bytes


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)
