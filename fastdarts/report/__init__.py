"""Drawings of genotypes, plots of a search, and the report of a run."""

from __future__ import annotations

from fastdarts.report.drawing import draw_png, draw_svg, draw_terminal, write_svg
from fastdarts.report.mixing import plot_edge_weights, plot_mixing, plot_mixing_by_cell
from fastdarts.report.plots import plot_comparison, plot_counts, plot_curves, plot_hypergradient
from fastdarts.report.run import write_report

__all__ = [
    "draw_png",
    "draw_svg",
    "draw_terminal",
    "plot_comparison",
    "plot_counts",
    "plot_curves",
    "plot_edge_weights",
    "plot_hypergradient",
    "plot_mixing",
    "plot_mixing_by_cell",
    "write_report",
    "write_svg",
]
