"""`fastdarts doctor`: which backends are live, which are not and why, and what the machine has."""

from __future__ import annotations

import typer

from fastdarts.cli import options
from fastdarts.cli.printing import print_json

__all__ = ["doctor"]


def doctor(as_json: options.AsJson = False) -> None:
    """Show which backends work here, why the others do not, and what this machine has."""
    from fastdarts import _doctor

    facts = _doctor.report()
    if as_json:
        print_json(_doctor.as_dict(facts))
        return
    section = ""
    for fact in facts:
        if fact.section != section:
            section = fact.section
            typer.echo(section)
        value = ", ".join(fact.value) if isinstance(fact.value, list) else fact.value
        note = f"  ({fact.note})" if fact.note else ""
        typer.echo(f"  {' ' if fact.ok else '!'} {fact.name:<22} {'none' if value in (None, '') else value}{note}")
