"""What curves by epoch have in common: they break where a model ends, and numbered lines mark what happened."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastdarts.report.history import Event, segments
from fastdarts.report.palette import COLOURS
from fastdarts.report.records import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["broken", "explain_events", "mark_events", "marker_of"]

# From so many points on a line is seen without dots.
_FEW = 3


def broken(epochs: Sequence[Mapping[str, Any]], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Coordinates of a curve by epoch of the run, with a gap where a stage begins or a rollback took epochs back.

    Args:
        epochs: records, in order.
        values: one per epoch; nan for a gap.

    Returns:
        x, in which the first epoch is 1, and y for ``Axes.plot``.
    """
    x: list[float] = []
    y: list[float] = []
    done = 0
    for segment in segments(epochs):
        if x:
            x.append(math.nan)
            y.append(math.nan)
        x += [number(record.get("epoch")) + 1 for record in segment.records]
        y += values[done : done + len(segment.records)]
        done += len(segment.records)
    return x, y


def marker_of(epochs: Sequence[Mapping[str, Any]]) -> str:
    """``o`` where some stretch of the curve is so short that a line alone would not be seen."""
    return "o" if any(len(segment.records) < _FEW for segment in segments(epochs)) else ""


def mark_events(panels: Iterable[Axes], events: Sequence[Event], *, numbered: bool = True) -> None:
    """Mark what happened by upright lines between two epochs, numbered from 1 as :func:`explain_events` does.

    Args:
        panels: with the epoch of the run on the x axis.
        events: in order.
        numbered: whether the lines have numbers; small panels have no room.
    """
    colour = COLOURS["accent"].light
    for axes in panels:
        for k, event in enumerate(events, 1):
            axes.axvline(event.epoch + 1.5, color=colour, linewidth=0.8, linestyle=(0, (3, 2)), zorder=1)
            if numbered:
                place: dict[str, Any] = {
                    "xycoords": ("data", "axes fraction"),
                    "textcoords": "offset points",
                    "xytext": (2, -1),
                }
                axes.annotate(str(k), (event.epoch + 1.5, 1.0), va="top", fontsize=7.5, color=colour, **place)


def explain_events(events: Sequence[Event]) -> str:
    """The numbers of the marks in words, for a caption; empty where there are none."""
    if not events:
        return ""
    told = (f"({k}) after epoch {event.epoch + 1} {_who(event)}{event.done}" for k, event in enumerate(events, 1))
    return f"Dashed lines: {'; '.join(told)}. Epochs are those of the run."


def _who(event: Event) -> str:
    return f"{event.guard} " if event.guard else ""
