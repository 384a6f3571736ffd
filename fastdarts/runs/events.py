"""TensorBoard's view of the records: optional, derived, and rewound with them."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fastdarts.reading import open_regular

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["Events"]

_PATTERN = "events.out.tfevents.*"


class Events:
    """The scalars of one run folder, written through torch's `SummaryWriter` where tensorboard is installed.

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
        if self._writer is None and not self._missing:
            self._open()
        if self._writer is not None:
            self._writer.add_scalar(tag, value, step)

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
