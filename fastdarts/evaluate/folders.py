"""Folders that a second call with the same arguments continues, and one with others leaves alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastdarts.errors import UserError
from fastdarts.evaluate.retrain import RetrainConfig, begun
from fastdarts.runs import RunFolder
from fastdarts.search.config import SearchConfig
from fastdarts.search.environment import describe_environment, note_environment, resolve_device
from fastdarts.search.origin import describe_origin
from fastdarts.search.progress import Progress

__all__ = ["continued", "free_folder"]


@contextmanager
def continued(
    root: Path,
    record: Mapping[str, Any],
    first: SearchConfig | RetrainConfig,
    progress: Progress,
    *,
    differs: str,
    expected: str,
) -> Iterator[RunFolder]:
    """A run folder, new or begun with this record, locked while the block lasts.

    Args:
        root: the folder.
        record: what makes two calls the same, and ``command``, which does not; the environment is added to it.
        first: one of the runs in it: where and with how many threads they run.
        progress: is told where the folder was begun in another environment.
        differs, expected: what to tell of a folder that another record began.

    Raises:
        UserError: for such a folder.
    """
    device = resolve_device(first.device)
    kept = {**record, "environment": describe_environment(device, first.threads), "origin": describe_origin()}
    with RunFolder.open(root) if begun(root) else RunFolder.create(root, kept) as folder:
        if not _same(folder, record):
            raise UserError(f"{root} was begun with {differs}", expected, "repeat them, or name another folder (--run)")
        note_environment(folder, device, progress, first.threads)
        yield folder


def free_folder(base: Path, record: Mapping[str, Any]) -> Path:
    """The first of ``base``, ``base-2``, ``base-3`` and so on that is new or was begun with this record."""
    path, number = base, 1
    while begun(path) and not _same(RunFolder.open(path), record):
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path


def _same(folder: RunFolder, record: Mapping[str, Any]) -> bool:
    begun_with, now = (
        {name: value for name, value in each.items() if name not in ("command", "environment", "origin")}
        for each in (folder.config, record)
    )
    return begun_with == now
