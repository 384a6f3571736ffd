"""README and docs: links lead somewhere, and the files and names that the text speaks of exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^()\s]+)\)")
SPAN = re.compile(r"`([^`\n]+)`")
# What a reader cannot have: the workplace's own papers.
OUTSIDE = re.compile(r"facts(?:\.md)?[ ,]+section|design\.md|shared design|the issue\b|/work/", re.IGNORECASE)


def shown(page: Path) -> str:
    """The text without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """As a forge and the site's builder make them of headings."""
    headings = re.findall(r"^#+ +(.+)$", shown(page), re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", each).replace("`", "").lower() for each in headings]
    return {re.sub(r"[^\w\- ]", "", each).strip().replace(" ", "-") for each in plain}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(shown(page)):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: no such file"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


def _exists(path: str) -> bool:
    bases = (ROOT, ROOT / "fastdarts", ROOT / "tests", ROOT / "docs")
    # `ops/_<op>_cpu.py` stands for one file an op.
    pattern = re.sub(r"<\w+>", "*", path)
    return any(next(base.glob(pattern), None) for base in bases)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_are_spoken_of_exist(page: Path) -> None:
    """Those of this project, by their folder or as a test."""
    own = re.compile(r"^((fastdarts|tests|bench|csrc|docs|ops|nn|plan|cli|kernels)/[\w/.*<>-]+|test_[\w*]+\.py)$")
    missing = [each for each in SPAN.findall(shown(page)) if own.match(each) and not _exists(each.rstrip("/"))]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_names_that_are_spoken_of_exist(page: Path) -> None:
    """`fastdarts.package.name`, with or without what it is called with."""
    for dotted in re.findall(r"`(fastdarts(?:\.\w+)+)", shown(page)):
        words = dotted.split(".")
        for count in range(len(words), 0, -1):
            try:
                found = importlib.import_module(".".join(words[:count]))
            except ModuleNotFoundError:
                continue
            for word in words[count:]:
                assert hasattr(found, word), dotted
                found = getattr(found, word)
            break


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_nothing_is_cited_that_a_reader_cannot_have(page: Path) -> None:
    if page.name != "facts.md":
        assert not OUTSIDE.findall(page.read_text(encoding="utf-8"))


def test_the_site_has_every_page() -> None:
    """`make docs` is strict on this too; here without its packages."""
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    own = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert set(re.findall(r": ([\w./-]+\.md)$", nav, re.MULTILINE)) == own | {
        "index.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
    }


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_lists_and_tables_stand_apart(page: Path) -> None:
    """A forge takes them without a blank line before, the site's builder for words of the paragraph."""
    before = ""
    for line in shown(page).splitlines():
        item, goes_on = re.match(r"([-*]|\d+\.) ", line), re.match(r"([-*]|\d+\.) | {2,}|#", before)
        assert not (item and before.strip() and not goes_on), line
        table = line.startswith("|") != before.startswith("|")
        assert not (table and line.strip() and before.strip() and not before.startswith("#")), line
        before = line
