"""`python -m fastdarts` is the command line."""

from __future__ import annotations

from fastdarts.cli import main

if __name__ == "__main__":
    main()
