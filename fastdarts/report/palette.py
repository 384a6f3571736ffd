"""Names, colours and line styles of primitives: one place for drawings, plots and the page."""

from __future__ import annotations

from dataclasses import dataclass

from fastdarts.spaces import PRIMITIVES

__all__ = ["COLOURS", "FONT", "Colour", "colour_of", "dash_of", "short_name"]


@dataclass(frozen=True)
class Colour:
    """A colour on a light page and the one that takes its place on a dark page."""

    light: str
    dark: str


FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif"

# Hues after Okabe and Ito (colour-blind safe), moved in lightness so that members of one family differ in grey too.
# Every light value is unique: the page finds a plot's colours by it.
COLOURS: dict[str, Colour] = {
    "paper": Colour("#ffffff", "#14171c"),
    "ink": Colour("#1b1f24", "#e8eaed"),
    "muted": Colour("#59616b", "#a2abb6"),
    "trunk": Colour("#7d8792", "#8f99a5"),
    "faint": Colour("#c3cad2", "#56606c"),
    "panel": Colour("#f4f6f8", "#1e232a"),
    "accent": Colour("#b3261e", "#ff8a80"),
    "none": Colour("#8a8f98", "#858c96"),
    "skip_connect": Colour("#008f68", "#2fc79a"),
    "max_pool_3x3": Colour("#c99700", "#f2c230"),
    "avg_pool_3x3": Colour("#8f6a00", "#c79a2e"),
    "sep_conv_3x3": Colour("#0063a6", "#4fa8ec"),
    "sep_conv_5x5": Colour("#3d9bd9", "#9bd0f7"),
    "sep_conv_7x7": Colour("#16306b", "#7c8ff0"),
    "dil_conv_3x3": Colour("#c04a00", "#ff8642"),
    "dil_conv_5x5": Colour("#ee8b50", "#ffb994"),
    "dil_conv_7x7": Colour("#8a3500", "#e0691f"),
    "conv_7x1_1x7": Colour("#7a2f72", "#c67fbd"),
    "conv_3x1_1x3": Colour("#5c2a6b", "#b48fd6"),
    "conv_1x1": Colour("#9b4f96", "#d391cd"),
    "conv_3x3": Colour("#cc79a7", "#f0aed1"),
    "noise": Colour("#4d4a63", "#a9a4cf"),
    "other": Colour("#5f6b52", "#a9bb97"),
}

_ALIASES = {
    "max_pool_5x5": "max_pool_3x3",
    "avg_pool_5x5": "avg_pool_3x3",
    "dil_conv_3x3_d3": "dil_conv_3x3",
    "dil_conv_5x5_d3": "dil_conv_5x5",
    "dil_conv_7x7_d3": "dil_conv_7x7",
    "nor_conv_1x1": "conv_1x1",
    "nor_conv_3x3": "conv_3x3",
    "identity": "skip_connect",
    "tanh": "sep_conv_3x3",
    "relu": "dil_conv_3x3",
    "sigmoid": "conv_3x3",
    "selu": "max_pool_3x3",
}
_FAMILIES = {
    "none": "none",
    "skip": "skip_connect",
    "pool": "max_pool_3x3",
    "sep_conv": "sep_conv_3x3",
    "dil_conv": "dil_conv_3x3",
    "conv": "conv_1x1",
    "noise": "noise",
}
_WORDS = {
    "skip_connect": "skip",
    "conv_7x1_1x7": "7x1, 1x7",
    "conv_3x1_1x3": "3x1, 1x3",
    "nor_conv_1x1": "conv 1x1",
    "nor_conv_3x3": "conv 3x3",
    "dil_conv_3x3_d3": "dil 3x3, 3 apart",
    "dil_conv_5x5_d3": "dil 5x5, 3 apart",
    "dil_conv_7x7_d3": "dil 7x7, 3 apart",
}
_DASHES: dict[str, tuple[float, ...]] = {
    "none": (1.0, 2.0),
    "avg_pool_3x3": (5.0, 2.0),
    "sep_conv_5x5": (5.0, 2.0),
    "sep_conv_7x7": (1.5, 1.5),
    "dil_conv_5x5": (5.0, 2.0),
    "noise": (1.0, 1.0),
    "max_pool_5x5": (1.5, 1.5),
    "avg_pool_5x5": (1.5, 1.5),
    "dil_conv_3x3_d3": (1.5, 1.5),
    "dil_conv_5x5_d3": (1.5, 1.5),
    "dil_conv_7x7_d3": (1.5, 1.5),
}


def colour_of(primitive: str) -> str:
    """The key of ``COLOURS`` for a primitive: its own, its family's, or ``other``.

    Args:
        primitive: name of a primitive, known or user-defined.

    Returns:
        A key of ``COLOURS``; safe as a CSS class name whatever the primitive is called.
    """
    name = _ALIASES.get(primitive, primitive)
    if name in COLOURS:
        return name
    known = PRIMITIVES.get(name)
    return _FAMILIES.get(known.family, "other") if known is not None else "other"


def dash_of(primitive: str) -> tuple[float, ...]:
    """On and off lengths (points) of a primitive's line in plots; empty for a full line."""
    return _DASHES.get(primitive, _DASHES.get(_ALIASES.get(primitive, primitive), ()))


def short_name(primitive: str) -> str:
    """The name as written on an edge: ``sep_conv_3x3`` is ``sep 3x3``, ``max_pool_3x3`` is ``max 3x3``."""
    if primitive in _WORDS:
        return _WORDS[primitive]
    return primitive.replace("_conv_", " ").replace("_pool_", " ").replace("_", " ")
