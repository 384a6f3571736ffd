"""How seconds and bytes grow along an axis: straight lines by least squares, with what they leave over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastdarts.cli.profiling.sweep import Axis

__all__ = ["FIGURES", "Growth", "grown"]

FIGURES = ("seconds", "kept_bytes", "peak_bytes", "step_bytes")


@dataclass(frozen=True)
class Growth:
    """A fitted line, figure = intercept + slope * setting.

    Args:
        axis: the setting.
        figure: a name of :data:`FIGURES`.
        fixed: the other settings of the sweep, and the contender.
        slope, intercept: of the line.
        slope_error: standard error of the slope; None for two points.
        r_squared: share of the variance that the line explains.
        residual: the largest distance of a point from the line, over the point's value.
        points: (setting, figure).
    """

    axis: str
    figure: str
    fixed: Mapping[str, str]
    slope: float
    intercept: float
    slope_error: float | None
    r_squared: float
    residual: float
    points: Sequence[tuple[float, float]]


def grown(axes: Sequence[Axis], rows: Iterable[Mapping[str, Any]]) -> list[Growth]:
    """Fit every figure along every numeric axis, for each combination of the other settings.

    Args:
        axes: of the sweep.
        rows: `settings` (values by axis as they were typed), `contender`, and the figures; None where there is none.
    """
    found = []
    rows = list(rows)
    for axis in (axis for axis in axes if axis.numeric):
        groups: dict[tuple[tuple[str, str], ...], list[Mapping[str, Any]]] = {}
        for row in rows:
            others = [(name, value) for name, value in row["settings"].items() if name != axis.name]
            groups.setdefault((*others, ("contender", row["contender"])), []).append(row)
        for fixed, group in groups.items():
            for figure in FIGURES:
                points = [
                    (float(row["settings"][axis.name]), float(row[figure]))
                    for row in group
                    if row.get(figure) is not None
                ]
                if len(points) > 1:
                    found.append(_fitted(axis.name, figure, dict(fixed), points))
    return found


def _fitted(axis: str, figure: str, fixed: dict[str, str], points: list[tuple[float, float]]) -> Growth:
    from scipy.stats import linregress

    x, y = zip(*points, strict=True)
    line = linregress(x, y)
    slope, intercept = float(line.slope), float(line.intercept)
    residual = max(abs(b - intercept - slope * a) / b if b else 0.0 for a, b in points)
    explained = 1.0 if min(y) == max(y) else float(line.rvalue) ** 2
    error = float(line.stderr) if len(points) > 2 else None
    return Growth(axis, figure, fixed, slope, intercept, error, explained, residual, points)
