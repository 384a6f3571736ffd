"""The tables of README and docs from the records of `fastdarts bench`, between marks like these:

    <!-- bench short: bench/results/suite-avx512.json bench/results/suite-avx2.json -->
    <!-- /bench -->

    python -m bench.tables            # writes them anew
    python -m bench.tables --check    # exits with 1 where one is not what its files say

`short` is ratios, a column a file; `long` is every figure, a table a file. A file that is not there is
left out, and said; where none is there, what stands between the marks stays.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from fastdarts.bench import long_table, read, short_table

__all__ = ["main", "renewed"]

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/performance.md")
_BLOCK = re.compile(r"(<!-- bench (short|long): ([^>]*?) -->\n)(.*?)(<!-- /bench -->)", re.DOTALL)
_TABLES = {"short": short_table, "long": long_table}


def renewed(text: str, root: Path = ROOT) -> tuple[str, list[str]]:
    """A page with its tables as their files say, and the files that are not there."""
    missing: list[str] = []

    def block(found: re.Match[str]) -> str:
        names = found[3].split()
        absent = [name for name in names if not (root / name).exists()]
        missing.extend(absent)
        present = [read(root / name) for name in names if name not in absent]
        body = f"\n{_TABLES[found[2]](present)}\n\n" if present else found[4]
        return found[1] + body + found[5]

    return _BLOCK.sub(block, text), missing


def main(arguments: list[str]) -> int:
    """Write, or check, all pages; the number of pages that were not as their files say."""
    stale = 0
    for page in PAGES:
        path = ROOT / page
        old = path.read_text(encoding="utf-8")
        new, missing = renewed(old)
        for name in missing:
            print(f"{page}: {name} is not there: to be measured on an idle machine (make bench-suite)")
        if new != old:
            stale += 1
            print(f"{page}: {'stale' if '--check' in arguments else 'written'}")
            if "--check" not in arguments:
                path.write_text(new, encoding="utf-8")
    return stale if "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
