"""Whose bytes they are: storages by part of the network and by operation, at the peak and between the passes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from fastdarts.nn import Supernet

__all__ = ["Ledger", "Share", "watched"]

STEM, HEAD = "stem", "head"
_AUTOGRAD = "autograd"  # what is kept and was returned by no operation that torch shows
_Owner = tuple[str, str]


@dataclass(frozen=True)
class Share:
    """The bytes of one operation in one part of a network.

    Args:
        part: `stem`, `cell 0` and so on, or `head`, which holds the classifier and the loss.
        op: the operation that made the storages, such as `aten.convolution` or `fastdarts.cell`; what a fused operation
            allocates for itself is its own.
        kept_bytes: kept between forward and backward.
        peak_bytes: there when the pass held the most.
    """

    part: str
    op: str
    kept_bytes: int
    peak_bytes: int


class Ledger:
    """Keeps account for a :class:`fastdarts.profile.Tracker` of what each storage was made by.

    Args:
        timed: whether to keep the timeline.

    Attributes:
        part, op: what makes storages now; :func:`watched` sets the part, the tracker the operation.
        timeline: (seconds of a clock that only goes forward, bytes that exist, part) after each change.
    """

    def __init__(self, *, timed: bool = False) -> None:
        self.part, self.op = STEM, _AUTOGRAD
        self.timeline: list[tuple[float, int, str]] = []
        self._timed = timed
        self._owners: dict[int, _Owner] = {}
        self._sizes: dict[int, int] = {}
        self._live: dict[_Owner, int] = {}
        self._kept: dict[_Owner, int] = {}
        self._at_peak: dict[_Owner, int] = {}
        self._total = self._peak = 0

    def enter(self, op: str) -> str:
        """An operation begins; returns the one that it is part of, to be set back."""
        outer, self.op = self.op, op if self.op == _AUTOGRAD else self.op
        return outer

    def made(self, key: int, size: int) -> None:
        """A storage exists from now on."""
        owner = self._owners[key] = (self.part, self.op)
        self._sizes[key] = size
        self._live[owner] = self._live.get(owner, 0) + size
        self._total += size
        self.reached(0)
        self._note()

    def freed(self, key: int, size: int) -> None:
        """It is gone."""
        self._live[self._owners.pop(key)] -= size
        del self._sizes[key]
        self._total -= size
        self._note()

    def reached(self, extra: int) -> None:
        """The operation under way holds so many bytes more for a moment."""
        if self._total + extra > self._peak:
            self._peak, self._at_peak = self._total + extra, dict(self._live)
            if extra:
                owner = (self.part, self.op)
                self._at_peak[owner] = self._at_peak.get(owner, 0) + extra

    def keeps(self, keys: Iterable[int]) -> None:
        """These storages are what the graph keeps."""
        self._kept = {}
        for key in keys:
            owner = self._owners[key]
            self._kept[owner] = self._kept.get(owner, 0) + self._sizes[key]

    def shares(self) -> list[Share]:
        """The breakdown, in the order in which the parts and operations first made something."""
        owners = dict.fromkeys((*self._live, *self._kept, *self._at_peak))
        found = [Share(*owner, self._kept.get(owner, 0), self._at_peak.get(owner, 0)) for owner in owners]
        return [share for share in found if share.kept_bytes or share.peak_bytes]

    def _note(self) -> None:
        if self._timed:
            self.timeline.append((time.perf_counter(), self._total, self.part))


@contextmanager
def watched(model: Supernet, ledger: Ledger) -> Iterator[None]:
    """Tells the ledger which part of the supernet runs, forward and backward, while the block lasts."""
    cells = cast(list[nn.Module], list(model.cells))

    def enter(part: str) -> Any:
        def begin(*_: Any) -> None:
            ledger.part = part

        return begin

    def before(index: int) -> Any:
        def begin(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            if index == 0:
                for each in inputs[:2]:
                    _when_known(each, enter(STEM))
            ledger.part = f"cell {index}"

        return begin

    def after(index: int) -> Any:
        def end(_: nn.Module, __: Any, out: Tensor) -> None:
            _when_known(out, enter(f"cell {index}"))
            if index == len(cells) - 1:
                ledger.part = HEAD

        return end

    def restart(*_: Any) -> None:
        ledger.part = STEM

    handles = [model.register_forward_pre_hook(restart)]
    for index, cell in enumerate(cells):
        handles += [cell.register_forward_pre_hook(before(index)), cell.register_forward_hook(after(index))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _when_known(tensor: Tensor, then: Any) -> None:
    """Calls `then` in backward once the tensor's gradient is complete: what made the tensor runs next."""
    if tensor.requires_grad:
        tensor.register_hook(then)
