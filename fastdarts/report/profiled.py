"""The page of `fastdarts profile`: what each mode takes, whose the bytes are, a step's timeline, and how it grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from fastdarts.report.figure import figure_to_svg, panels, style_axes
from fastdarts.report.page import render
from fastdarts.report.palette import COLOURS
from fastdarts.report.parts import Plot, draw_plot
from fastdarts.report.treemap import Tile, draw_treemap
from fastdarts.report.words import as_bytes

__all__ = ["render_profile"]

Row = Mapping[str, Any]

_LINES = [COLOURS[key].light for key in ("sep_conv_3x3", "dil_conv_3x3", "skip_connect", "conv_3x3", "max_pool_3x3")]
_MOST_LINES, _OPERATIONS = 8, 15
_FIGURES = {"seconds": ("Time of a step", "ms", 1e3), "step_bytes": ("Bytes of a step", "MB", 1e-6)}


def render_profile(found: Mapping[str, Any]) -> str:
    """The page as HTML text.

    Args:
        found: what `fastdarts profile --json` prints: `facts`, `rows`, `growth`, `largest`.
    """
    facts, rows = found["facts"], found["rows"]
    timelines = [(_who(row), row["values"]["timeline"]) for row in rows if row["values"].get("timeline")]
    shared = [row for row in rows if row["values"].get("shares", {}).get("measured")]
    return render(
        "profile.html",
        heading=f"Profile: {facts['space']}, {facts['method']}",
        facts=facts,
        rows=[_row(row) for row in rows],
        equal=[row["equal"] for row in rows if row["equal"] is not None],
        errors=[(_who(row), row["error"]) for row in rows if row["error"]],
        timeline=draw_plot("timeline", _draw_timeline, timelines) if timelines else None,
        maps=[(_who(row), _treemap(f"bytes-{place}", row)) for place, row in enumerate(shared)],
        times=[_times(row) for row in rows if row["values"].get("time")],
        growth=_growth_plots(found["growth"]),
        fits=[_fit(each) for each in found["growth"]],
        largest=found["largest"],
    )


def _row(row: Row) -> list[str]:
    settings = ", ".join(f"{name} {value}" for name, value in row["settings"].items() if name != "memory")
    figures = [row["kept_bytes"], row["peak_bytes"], row["predicted"]["total_bytes"], row["step_bytes"]]
    time = "" if row["seconds"] is None else f"{1e3 * row['seconds']:.4g} ms"
    speed = "out of memory" if row["out_of_memory"] else ""
    if row["images_per_second"]:
        speed = f"{row['images_per_second']:.4g}"
    return [settings, _who(row), *("" if each is None else as_bytes(each, 3) for each in figures), time, speed]


def _who(row: Row) -> str:
    return str(row["settings"].get("memory", "") if row["contender"] == "fastdarts" else row["contender"])


def _draw_timeline(timelines: Sequence[tuple[str, Sequence[Sequence[Any]]]], *, narrow: bool = False) -> str:
    figure, places = panels(1, 1, height=2.9 if narrow else 3.4, narrow=narrow)
    (axes,) = places.values()
    for place, (name, line) in enumerate(timelines):
        x, y = [1e3 * at for at, _, _ in line], [live / 1e6 for _, live, _ in line]
        axes.plot(x, y, color=_LINES[place % len(_LINES)], linewidth=1.3, label=name, drawstyle="steps-post")
    style_axes(axes, title="Bytes that exist", xlabel="ms since the step began, watched", ylabel="MB")
    axes.set_ylim(0, None)
    axes.legend(frameon=False, fontsize=8, labelcolor=COLOURS["muted"].light)
    return figure_to_svg(figure, title="Bytes that exist during a step")


def _treemap(name: str, row: Row) -> Plot:
    tiles: dict[str, list[Tile]] = {}
    for share in row["values"]["shares"]["measured"]:
        if share["peak_bytes"]:
            label = share["op"].removeprefix("fastdarts.").removeprefix("aten.")
            key = "sep_conv_3x3" if share["op"].startswith("fastdarts.") else "max_pool_3x3"
            told = f"{share['part']}, {share['op']}: {as_bytes(share['peak_bytes'], 3)}"
            tiles.setdefault(share["part"], []).append(Tile(label, share["peak_bytes"], key, told))
    return Plot(*(Markup(draw_treemap(tiles, f"{name}-{narrow}", narrow=narrow)) for narrow in (False, True)))


def _times(row: Row) -> dict[str, Any]:
    time, step = row["values"]["time"], row["values"]["step"]
    whole = time["seconds"]
    table = [
        [
            each["op"],
            each["level"],
            str(each["calls"]),
            f"{1e3 * each['seconds']:.3g} ms",
            _share(each["seconds"], whole),
        ]
        for each in time["operations"][:_OPERATIONS]
    ]
    levels = [f"{name} {_share(seconds, whole)}" for name, seconds in time["levels"].items()]
    halves = [f"{name} {1e3 * seconds:.3g} ms" for name, seconds in step["levels"].items()]
    return {"who": _who(row), "levels": levels, "halves": halves, "table": table}


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.3g}%"


def _growth_plots(growth: Sequence[Row]) -> list[tuple[str, Plot]]:
    axes = dict.fromkeys(each["axis"] for each in growth)
    return [(axis, draw_plot(f"growth-{axis}", _draw_growth, growth, axis)) for axis in axes]


def _draw_growth(growth: Sequence[Row], axis: str, *, narrow: bool = False) -> str:
    rows, columns = (2, 1) if narrow else (1, 2)
    figure, places = panels(rows, columns, height=5.6 if narrow else 3.1, gaps=(0.72, 0.9), narrow=narrow)
    for axes, (name, (title, unit, scale)) in zip(places.values(), _FIGURES.items(), strict=True):
        lines = [each for each in growth if each["axis"] == axis and each["figure"] == name]
        for place, each in enumerate(lines[:_MOST_LINES]):
            x, colour = [point[0] for point in each["points"]], _LINES[place % len(_LINES)]
            label = ", ".join(_fixed(each))
            axes.plot(x, [scale * point[1] for point in each["points"]], "o", color=colour, markersize=4, label=label)
            axes.plot(x, [scale * (each["intercept"] + each["slope"] * at) for at in x], color=colour, linewidth=1)
        style_axes(axes, title=title, xlabel=axis, ylabel=unit)
        axes.set_ylim(0, None)
        axes.legend(frameon=False, fontsize=7, labelcolor=COLOURS["muted"].light)
    return figure_to_svg(figure, title=f"Time and bytes of a step against {axis}")


def _fixed(each: Row) -> list[str]:
    return [value if name in ("memory", "contender") else f"{name} {value}" for name, value in each["fixed"].items()]


def _fit(each: Row) -> list[str]:
    seconds = each["figure"] == "seconds"
    slope, start = (
        f"{1e3 * value:.4g} ms" if seconds else f"{value / 1e6:.4g} MB" for value in (each["slope"], each["intercept"])
    )
    fit = f"{each['r_squared']:.5f}", f"{100 * each['residual']:.2g}%"
    return [each["axis"], ", ".join(_fixed(each)), each["figure"].replace("_", " "), slope, start, *fit]
