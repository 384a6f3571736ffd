"""Numbers as a person reads them; what is missing is said to be missing."""

from __future__ import annotations

import math

from fastdarts.report.records import number

__all__ = ["MISSING", "as_bytes", "as_count", "as_duration", "as_number", "as_percent", "plural"]

MISSING = "not recorded"


def as_percent(value: object, digits: int = 2) -> str:
    """A fraction as percent: 0.9731 is ``97.31%``."""
    amount = number(value)
    return MISSING if math.isnan(amount) else f"{100 * amount:.{digits}f}%"


def as_number(value: object, digits: int = 4) -> str:
    """A measured value with ``digits`` significant digits; nan and infinities are named as such."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    amount = number(value)
    return MISSING if math.isnan(amount) else f"{amount:.{digits}g}"


def as_count(value: object) -> str:
    """A count with thousands separated: ``1,234,567``."""
    amount = number(value)
    return MISSING if math.isnan(amount) else f"{amount:,.0f}"


def as_bytes(value: object) -> str:
    """Bytes in the unit that fits: ``312 MB``."""
    amount = number(value)
    if math.isnan(amount):
        return MISSING
    for unit in ("bytes", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "bytes" or amount >= 10 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.2f} GB"


def as_duration(value: object) -> str:
    """Seconds in units that fit: ``2 h 05 min``, ``3 min 12 s``, ``4.2 s``."""
    seconds = number(value)
    if math.isnan(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def plural(count: int, noun: str) -> str:
    """``1 epoch``, ``3 epochs``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
