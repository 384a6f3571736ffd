"""When, on what and with which source a run was begun: for who reads it later; no number depends on it."""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import fastdarts

__all__ = ["describe_origin"]


def describe_origin() -> dict[str, Any]:
    """The moment (UTC, ISO 8601), processor, cores, system, and the commit of fastdarts where it runs from a clone.

    Neither the machine's name nor a path is among them, so that a page with them may be shown to others.
    """
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    system = f"{platform.system()} {platform.release()}"
    return {"started": started, "processor": _processor(), "cores": cores, "system": system, "commit": _commit()}


@functools.cache
def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1] if match else platform.processor() or platform.machine()


@functools.cache
def _commit() -> str | None:
    """``c23990a`` or, where files differ from the commit, ``c23990a-dirty``; None where fastdarts is no clone."""
    root, git = Path(fastdarts.__file__).resolve().parents[1], shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    command = [git, "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
