"""What a method is: published hyper-parameters, settings of its own, and the choices that it composes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastdarts.search.choices import Choices
from fastdarts.search.config import SearchConfig

__all__ = ["Method"]


def _plain(config: SearchConfig) -> Choices:
    return Choices()


@dataclass(frozen=True)
class Method:
    """One search method.

    Args:
        name: what ``--method`` takes.
        summary: one line for ``--help`` and the report.
        source: paper and equation.
        defaults: fields of :class:`SearchConfig` that differ from its defaults, as published.
        options: the method's own settings and their published values, which :class:`SearchConfig` keeps in
            ``options``; a value given instead must be of the same type.
        small: fields and options that differ where the data set is the shipped one.
        compose: makes the choices of one search.
        earlier: options that came after runs were written without them, and the values that such runs go on with.
        epochs: where the options decide how long a search is: from the options, the published number of epochs.
    """

    name: str
    summary: str
    source: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    small: Mapping[str, Any] = field(default_factory=dict)
    compose: Callable[[SearchConfig], Choices] = _plain
    earlier: Mapping[str, Any] = field(default_factory=dict)
    epochs: Callable[[Mapping[str, Any]], int] | None = None
