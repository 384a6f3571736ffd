"""The page of a profile: whether it may be written, and writing it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastdarts.errors import UserError

__all__ = ["check_page", "write_page"]


def check_page(path: Path | None) -> None:
    """Refuse a page that could not be written, before hours of measuring.

    Raises:
        UserError: for another ending, or a folder that does not exist.
    """
    if path is not None and path.suffix.lower() != ".html":
        raise UserError(f"--html {path}", "a file named .html")
    if path is not None and not path.absolute().parent.is_dir():
        raise UserError(f"--html {path}: {path.absolute().parent} is no folder", "a file in a folder that exists")


def write_page(found: Mapping[str, Any], path: Path) -> Path:
    """Write it, in the place of what was there."""
    from fastdarts.report.files import replace_file
    from fastdarts.report.profiled import render_profile

    return replace_file(path, render_profile(found).encode("utf-8", "backslashreplace"))
