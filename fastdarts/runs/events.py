"""TensorBoard's view of the records: optional, derived, and rewound with them."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastdarts.reading import open_regular

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["Events", "Shown"]

_PATTERN = "events.out.tfevents.*"
_PLAIN = (bool, int, float, str)


class Events:
    """What TensorBoard shows of one run folder, written through torch's `SummaryWriter` where it is installed.

    Args:
        folder: the run folder, which TensorBoard reads.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None
        self._missing = False
        self._purge_step: int | None = None

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Add one point to the curve `tag`; nothing happens without tensorboard."""
        writer = self._ready()
        if writer is not None:
            writer.add_scalar(tag, value, step)

    def histogram(self, tag: str, values: Sequence[float], step: int) -> None:
        """Add the histogram of some numbers; those that are not finite, which have no place in one, are left out."""
        writer, finite = self._ready(), [value for value in values if math.isfinite(value)]
        if writer is not None and finite:
            writer.add_histogram(tag, np.asarray(finite), step)

    def hparams(self, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Name the settings of the run, and the curves that they are to be judged by, for the HPARAMS tab.

        `SummaryWriter.add_hparams` would make a folder of its own for them, a run inside the run.
        """
        writer = self._ready()
        if writer is None:
            return
        from torch.utils.tensorboard.summary import hparams

        plain = {name: value if type(value) in _PLAIN else str(value) for name, value in settings.items()}
        for summary in hparams(plain, dict.fromkeys(metrics, 0.0)):
            writer._get_file_writer().add_summary(summary)

    def _ready(self) -> SummaryWriter | None:
        if self._writer is None and not self._missing:
            self._open()
        return self._writer

    def _open(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self._missing = True
            logging.getLogger("fastdarts").info(
                "tensorboard is not installed: no TensorBoard events (metrics.jsonl has everything)"
            )
            return
        self._writer = SummaryWriter(str(self._folder), purge_step=self._purge_step)
        self._purge_step = None

    def sizes(self) -> dict[str, int]:
        """Hand all points to the system and return each event file's length in bytes, by name."""
        if self._writer is not None:
            self._writer.flush()
        return {path.name: path.stat().st_size for path in sorted(self._folder.glob(_PATTERN))}

    def rewind(self, sizes: dict[str, int], step: int) -> None:
        """Cut the event files to what they were when `sizes` was taken, at `step`.

        The cut is exact whatever the points are counted in; the purge step tells a TensorBoard that is already showing
        the lost part to drop it.
        """
        self.close()
        for path in self._folder.glob(_PATTERN):
            size = sizes.get(path.name)
            if size is None:
                path.unlink()
            elif path.stat().st_size > size:
                _truncate(path, size)
        self._purge_step = step + 1

    def close(self) -> None:
        """Flush and close; a later `scalar` opens a new event file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close()
            except OSError as error:
                logging.getLogger("fastdarts").warning(
                    "%s: the last TensorBoard events are lost: %s", self._folder, error
                )


def _truncate(path: Path, size: int) -> None:
    fd = open_regular(path, os.O_WRONLY, follow=False)
    try:
        os.ftruncate(fd, size)
    finally:
        os.close(fd)


class Shown:
    """The part of a run folder that TensorBoard shows."""

    _events: Events

    def _hold(self) -> None:
        raise NotImplementedError

    def _writing(self, what: str) -> AbstractContextManager[None]:
        raise NotImplementedError

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Add a point to a TensorBoard curve; without tensorboard installed nothing happens.

        Args:
            tag: the curve, such as "loss/train".
            value: a number.
            step: training steps done, the same counter as in `save`.

        Raises:
            UserError: if it cannot be written.
        """
        self._hold()
        with self._writing("TensorBoard events"):
            self._events.scalar(tag, value, step)

    def histogram(self, tag: str, values: Sequence[float], step: int) -> None:
        """Add a histogram to TensorBoard's; the arguments are as for `scalar`, but for many numbers."""
        self._hold()
        with self._writing("TensorBoard events"):
            self._events.histogram(tag, values, step)

    def hparams(self, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Tell TensorBoard the run's settings, and the tags of the curves (`scalar`) that they are judged by."""
        self._hold()
        with self._writing("TensorBoard events"):
            self._events.hparams(settings, metrics)
