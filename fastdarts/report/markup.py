"""The smallest HTML templating that cannot forget to escape: text is escaped unless it is already markup."""

from __future__ import annotations

from html import escape

__all__ = ["Markup", "element", "table"]


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(name: str, *children: str, **attributes: str | bool) -> Markup:
    """An HTML element.

    Args:
        name: tag name.
        children: content; plain strings are escaped, :class:`Markup` is taken as it is.
        attributes: ``class_`` and ``aria_label`` become ``class`` and ``aria-label``; True is an attribute without
            value, False leaves it out.
    """
    opening = name
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            opening += f" {key}"
        elif value is not False:
            opening += f' {key}="{escape(value)}"'
    inner = "".join(child if isinstance(child, Markup) else escape(child) for child in children)
    return Markup(f"<{opening}>{inner}</{name}>\n")


def table(header: list[str], rows: list[list[str]], *, marked: int | None = None) -> Markup:
    """A table; the row ``marked`` stands out. Cells are escaped like children of an element."""
    head = element("thead", element("tr", *(element("th", text, scope="col") for text in header)))
    body = [
        element("tr", *(element("td", text) for text in row), class_="marked" if k == marked else False)
        for k, row in enumerate(rows)
    ]
    return element("div", element("table", head, element("tbody", *body)), class_="scroll")
