"""The records of a run, one JSON object a line."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from fastdarts.errors import UserError
from fastdarts.reading import content, open_regular, parse_json
from fastdarts.runs.durable import write_all

__all__ = ["append", "flush", "prefix", "read", "records", "repair", "starts_with", "truncate", "whole"]

# Bytes of the file: a million records of single steps are 200 MB; and of one record.
_LIMIT = 1 << 28
_LONGEST = 1 << 20


def append(path: Path, record: dict[str, Any]) -> None:
    """Append one record, flushed to the disk; a write that fails or is interrupted leaves the file as it was.

    Args:
        path: the `metrics.jsonl`.
        record: what `json` can write; nan and infinities become `NaN` and `Infinity`, which Python reads back.

    Raises:
        TypeError: if the record is no dict or holds something that JSON cannot.
        OSError: what the system said.
    """
    if type(record) is not dict:
        raise TypeError(f"record is a {type(record).__qualname__}; expected a dict")
    line = (json.dumps(record) + "\n").encode("ascii")
    fd = open_regular(path, os.O_WRONLY | os.O_APPEND, follow=False)
    try:
        size = os.fstat(fd).st_size
        try:
            write_all(fd, line)
            # A kill loses nothing either way; against a power cut each flush costs milliseconds, too much for a step.
            if record.get("kind") != "step":
                os.fsync(fd)
        except BaseException:
            # The next record would otherwise be glued to a torn line, and both would be lost.
            os.ftruncate(fd, size)
            raise
    finally:
        os.close(fd)


def _complete(data: bytes) -> int:
    """The length of `data` in bytes up to the end of its last whole record: only the last line can be torn."""
    end = data.rfind(b"\n") + 1
    start = data.rfind(b"\n", 0, max(end - 1, 0)) + 1
    try:
        _record(data[start:end], "the last line")
    except UserError:
        return start
    return end


def _record(line: bytes, where: str) -> dict[str, Any]:
    if len(line) > _LONGEST:
        raise UserError(f"{where} has {len(line)} bytes", f"at most {_LONGEST}")
    value = parse_json(line, where)
    if type(value) is not dict:
        raise UserError(f"{where} is a {type(value).__name__}")
    return value


def whole(path: Path) -> bytes:
    """The file's content."""
    return content(path, limit=_LIMIT, follow=False)


def read(path: Path) -> list[dict[str, Any]]:
    """All whole records; a torn last line is left out.

    Raises:
        UserError: if a line before the last is no JSON object, with its number.
    """
    return records(whole(path), path)


def records(data: bytes, path: Path) -> list[dict[str, Any]]:
    """The records of the file's content, as :func:`read`."""
    found = []
    for number, line in enumerate(data[: _complete(data)].split(b"\n")[:-1], 1):
        try:
            found.append(_record(line, "it"))
        except UserError as error:
            raise UserError(
                f"{path} line {number} is {line[:40]!r}",
                "a JSON object",
                "restore the file, or delete that line by hand",
            ) from error
    return found


def starts_with(data: bytes, size: int, sha256: str) -> bool:
    """Whether the file's content begins with so many bytes of this SHA-256; an empty beginning always does."""
    return not size or (len(data) >= size and hashlib.sha256(data[:size]).hexdigest() == sha256)


def repair(path: Path) -> None:
    """Cut a torn last line off, so that records can follow."""
    data = whole(path)
    if _complete(data) < len(data):
        logging.getLogger("fastdarts").warning(
            "%s: dropped a torn last line of %d bytes", path, len(data) - _complete(data)
        )
        truncate(path, _complete(data))


def flush(path: Path) -> tuple[int, str]:
    """Flush the records to the disk and return their length in bytes and their SHA-256."""
    fd = open_regular(path, os.O_WRONLY, follow=False)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return prefix(path)


def prefix(path: Path, size: int = -1) -> tuple[int, str]:
    """Length in bytes and SHA-256 of the first `size` bytes (all with -1), or of what there is if that is less."""
    data = whole(path)
    data = data if size < 0 else data[:size]
    return len(data), hashlib.sha256(data).hexdigest()


def truncate(path: Path, size: int) -> None:
    """Cut the file to its first `size` bytes, flushed."""
    fd = open_regular(path, os.O_WRONLY, follow=False)
    try:
        os.ftruncate(fd, size)
        os.fsync(fd)
    finally:
        os.close(fd)
