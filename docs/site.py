"""What the site needs besides the pages of docs/: files outside it that pages link to, the public names, docstrings.

mkdocs calls `on_files` and `on_page_markdown`; mkdocstrings loads `Docstrings`. The pages stay as a forge shows them.
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File

# Pages of the root; README is the site's home.
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}
LINK = re.compile(r"\]\((?!https?:|#)([^()\s#]+)(#[^()\s]*)?\)")
RETURNS = re.compile(r"^(?:Returns|Yields):\n((?: +.*\n?|\n(?= ))+)", re.MULTILINE)
TABLE = re.compile(r"^(=+  +=[= ]*\n(?:.*\n)+?=+  +=[= ]*)$", re.MULTILINE)
ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):(`)~?")


def _own(page: Path, root: Path, link: str) -> str | None:
    """The path in the site of a file outside docs/ that a page links to; None for a page of docs/ or of the root."""
    target = (page.parent / link).resolve()
    if target.is_relative_to(root / "docs") or str(target.relative_to(root)) in PAGES:
        return None
    return str(target.relative_to(root))


def on_files(files: Any, config: Any) -> Any:
    """Add the root's pages, and every file outside docs/ that some page links to."""
    root = Path(config.config_file_path).parent
    for name, place in PAGES.items():
        files.append(File.generated(config, place, abs_src_path=str(root / name)))
    for page in [*(root / "docs").rglob("*.md"), *(root / name for name in PAGES)]:
        for link, _ in LINK.findall(page.read_text(encoding="utf-8")):
            own = _own(page, root, link)
            if own is not None and files.get_file_from_path(own) is None:
                files.append(File.generated(config, own, abs_src_path=str(root / own)))
    return files


def _body(root: Path, module: str) -> list[ast.stmt]:
    base = root.joinpath(*module.split("."))
    path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8")).body


def _definition(root: Path, module: str, name: str) -> str:
    """The full path of a public name: a package's function may be called as the module that holds it."""
    for node in _body(root, module):
        for each in node.names if isinstance(node, ast.ImportFrom) else ():
            if (each.asname or each.name) == name:
                return _definition(root, str(node.module), each.name)
    return f"{module}.{name}"


def _public(root: Path, package: str) -> dict[str, str]:
    """The names of a package's `__all__`, and where they are defined."""
    for node in _body(root, package):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return {name: _definition(root, package, name) for name in ast.literal_eval(node.value)}
    raise ValueError(f"{package} has no __all__")


def _names(root: Path, package: str) -> str:
    """Each public name with its docstring; where two packages have it, only in the one that defines it."""
    pages = {path.stem: _public(root, path.stem).values() for path in (root / "docs" / "api").glob("*.md")}
    parts = []
    for name, full in _public(root, package).items():
        having = sorted(each for each, names in pages.items() if full in names)
        owner = max(having, key=lambda each: len(each) * full.startswith(f"{each}."))
        same = f"## {name} {{ #{package}.{name} }}\n\n[`{name}`][{full}] of [{owner}]({owner}.md).\n"
        parts.append(f"::: {full}\n" if owner == package else same)
    return "\n".join(parts)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links as the site's pages lie, relative to the page with docs/ as the top; public names one by one."""
    root = Path(config.config_file_path).parent
    source = Path(page.file.abs_src_path)
    up = "../" * (len(Path(page.file.src_uri).parts) - 1)

    def moved(found: re.Match[str]) -> str:
        link, anchor = found[1], found[2] or ""
        target = (source.parent / link).resolve().relative_to(root)
        place = PAGES.get(str(target)) or str(target).removeprefix("docs/")
        return f"]({up}{place}{anchor})"

    markdown = re.sub(r"^::: (\S+)$", lambda found: _names(root, found[1]), markdown, flags=re.MULTILINE)
    return LINK.sub(moved, markdown)


class Docstrings(griffe.Extension):
    """As Markdown: `:func:`name`` is `name`, a table stays as it is
    typed, and what a function returns is a paragraph, not a type and a colon."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring:
            text = ROLE.sub(r"\1", obj.docstring.value)
            text = TABLE.sub(r"```text\n\1\n```", text)
            obj.docstring.value = RETURNS.sub(lambda found: f"**Returns:** {textwrap.dedent(found[1])}", text)
