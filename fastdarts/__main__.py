"""`fastdarts` and `python -m fastdarts`: the command line, where what it needs is installed."""

from __future__ import annotations

import sys

_LAB = ("typer", "rich")

__all__ = ["main"]


def main() -> None:
    """Run the command line, or say in one line what to install for it."""
    try:
        from fastdarts.cli import main as run
    except ModuleNotFoundError as error:
        if error.name not in _LAB:
            raise
        sys.exit(f"fastdarts: the command needs {error.name}, which is not installed: pip install 'fastdarts[lab]'")
    run()


if __name__ == "__main__":
    main()
