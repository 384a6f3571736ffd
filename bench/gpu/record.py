"""What a call leaves behind: one file of lines, each whole as soon as it is written, whatever ends the process.

    {"stage": "steps", "in": "steps", "machine": {...}, "toy": false, "paper": false}    a stage has begun, in a check
    {"stage": "steps", "in": "steps", "begun": "DARTS, fp32, ..."}                       and one of its rows
    {"stage": "steps", "in": "steps", "row": {"name": "DARTS, fp32, ...", "ms": 9.5}}    which has ended
    {"check": "steps", "status": "ok", "seconds": 31.0, "limit": 60}                     and how the check did

Several processes may write one after the other. Only the standard library is needed to read it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["NAME", "Row", "append", "lines", "lost"]

Row = dict[str, Any]
NAME = "rows.jsonl"


def append(folder: Path, line: Row) -> None:
    """Write one line to the folder's record."""
    with (folder / NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def lines(path: Path, offset: int = 0) -> Iterator[Row]:
    """The lines of a record from a byte on; one that was cut off in the middle is left out."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        for text in file:
            try:
                found = json.loads(text)
            except ValueError:
                continue
            if isinstance(found, dict):
                yield found


def lost(row: Row) -> bool:
    """Whether a row has no figure because something went wrong: an error, or a backend that is not there."""
    return "error" in row or "not_live" in row
