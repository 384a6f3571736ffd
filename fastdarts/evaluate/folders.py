"""Folders that a second call with the same arguments continues, and one with others leaves alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastdarts.errors import UserError
from fastdarts.evaluate.retrain import begun
from fastdarts.runs import RunFolder

__all__ = ["continued", "free_folder"]


@contextmanager
def continued(root: Path, record: Mapping[str, Any], *, differs: str, expected: str) -> Iterator[RunFolder]:
    """A run folder, new or begun with this record, locked while the block lasts.

    Args:
        root: the folder.
        record: what makes two calls the same, and ``command``, which does not.
        differs, expected: what to tell of a folder that another record began.

    Raises:
        UserError: for such a folder.
    """
    with RunFolder.open(root) if begun(root) else RunFolder.create(root, dict(record)) as folder:
        if not _same(folder, record):
            raise UserError(f"{root} was begun with {differs}", expected, "repeat them, or name another folder (--run)")
        yield folder


def free_folder(base: Path, record: Mapping[str, Any]) -> Path:
    """The first of ``base``, ``base-2``, ``base-3`` and so on that is new or was begun with this record."""
    path, number = base, 1
    while begun(path) and not _same(RunFolder.open(path), record):
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path


def _same(folder: RunFolder, record: Mapping[str, Any]) -> bool:
    return {**folder.config, "command": ""} == {**record, "command": ""}
