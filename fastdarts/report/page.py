"""Pages: a jinja2 template filled with facts, one HTML file that loads nothing from elsewhere.

A page of your own is a template in ``fastdarts/report/templates/`` that extends ``base.html``, which brings the head,
the style for screens, phones and paper, and the heading. ``parts.html`` has what pages share: tables, plots for both
kinds of screen, notices, genotypes (``parts.py`` makes what it shows)::

    {% extends "base.html" %}
    {% from "parts.html" import listed, notice, plot %}
    {% block about %}<p class="sub">What this page is of.</p>{% endblock %}
    {% block body %}
    <section><h2>Bytes by cell</h2>{{ listed(["Cell", "Bytes"], rows) }}</section>
    {% endblock %}

    html = render("memory.html", heading="Memory of a step", rows=rows)

Every value is escaped unless it is :class:`markupsafe.Markup`, such as what :func:`fastdarts.report.figure.inline`
makes of a drawing. The functions of ``words.py`` are filters: ``{{ peak | bytes }}``, ``{{ accuracy | percent }}``.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdarts.report import words
from fastdarts.report.files import replace_file
from fastdarts.report.palette import COLOURS, FONT

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["render", "write_page"]

_FILTERS: dict[str, Callable[..., str]] = {
    "budget": words.as_budget,
    "bytes": words.as_bytes,
    "count": words.as_count,
    "duration": words.as_duration,
    "epoch": words.as_epoch,
    "number": words.as_number,
    "origin": words.origin_words,
    "percent": words.as_percent,
    "points": words.as_points,
    "setting": words.as_setting,
    "without_paths": words.without_paths,
}


def render(template: str, **facts: Any) -> str:
    """Fill a template.

    Args:
        template: its name in ``fastdarts/report/templates/``.
        facts: what it names, ``heading`` among them; one that is missing is an error, never an empty place.

    Returns:
        HTML.
    """
    return _environment().get_template(template).render(facts)


def write_page(path: str | os.PathLike[str], template: str, **facts: Any) -> Path:
    """Fill a template and put the page in place as a whole.

    Args:
        path: the file; one that is there is replaced.
        template, facts: as for :func:`render`.

    Returns:
        The path written.

    Raises:
        UserError: if it cannot be written.
    """
    # A name that is no UTF-8 is shown with its bytes as \xNN, rather than refused at the end of a run.
    return replace_file(path, render(template, **facts).encode("utf-8", "backslashreplace"))


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({name: _known(say) for name, say in _FILTERS.items()})
    environment.globals.update(colours=COLOURS, font=Markup(FONT), missing=words.MISSING, plural=words.plural)
    return environment


def _known(say: Callable[..., str]) -> Callable[..., str]:
    """Words for what a record lacks are not for a fact that the template names wrongly: that stays an error."""

    def filtered(value: Any, *more: Any) -> str:
        from jinja2 import Undefined

        if isinstance(value, Undefined):
            str(value)
        return say(value, *more)

    return filtered
