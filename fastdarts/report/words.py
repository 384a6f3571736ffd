"""Numbers as a person reads them; what is missing is said to be missing."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from fastdarts.report.records import number

__all__ = [
    "MISSING",
    "as_budget",
    "as_bytes",
    "as_count",
    "as_duration",
    "as_epoch",
    "as_number",
    "as_percent",
    "as_points",
    "as_setting",
    "origin_words",
    "plural",
    "without_paths",
]

MISSING = "not recorded"

_BUDGET = (("epochs", "epoch"), ("layers", "cell"), ("channels", "channel"), ("batch_size", "image a batch"))
# An absolute path in a command or a message: a slash at the start of a word, as far as the word goes.
_PATH = re.compile(r"""(?<![\w.~\u2026/-])/(?:[^\s'"/]+/)*([^\s'"/]+)/?""")


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


def as_bytes(value: object, digits: int | None = None) -> str:
    """Bytes in the unit of a power of ten that fits: ``312 MB``, ``1.67 GB``.

    Args:
        value: how many.
        digits: significant ones; None for whole units from 10 on, and two decimals of gigabytes.
    """
    amount, units = number(value), ["bytes", "kB", "MB", "GB"]
    if math.isnan(amount):
        return MISSING
    while len(units) > 1 and (amount if digits is None else float(f"{amount:.{digits}g}")) >= 1000:
        amount, units = amount / 1000, units[1:]
    if digits is not None:
        return f"{amount:.{digits}g} {units[0]}"
    decimals = {"bytes": 0, "GB": 2}.get(units[0], 0 if amount >= 10 else 1)
    return f"{amount:.{decimals}f} {units[0]}"


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


def as_points(value: float) -> str:
    """A difference of fractions in points of percent, with its sign: ``+0.81``."""
    return f"{100 * value:+.2f}".replace("-", "\u2212")


def as_setting(value: Any) -> str:
    """A setting as one writes it: ``0.0003``, ``yes``, ``none``, ``steps 7, decay 0.1`` of several in one."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {as_setting(each)}" for name, each in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else "yes" if value is True else "no" if value is False else str(value)


def plural(count: int, noun: str) -> str:
    """``1 epoch``, ``3 epochs``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def as_epoch(value: object) -> str:
    """The epoch of a record, which counts from 0, as people count: from 1, as in the terminal and in alarms."""
    amount = number(value)
    return MISSING if math.isnan(amount) else f"{amount + 1:.0f}"


def as_budget(budget: object) -> str:
    """What trainings may cost: ``15 epochs, 3 cells, 8 channels, 64 images a batch``; empty where nothing is known."""
    known = budget if isinstance(budget, Mapping) else {}
    told = [(number(known.get(key)), word) for key, word in _BUDGET]
    return ", ".join(
        f"{amount:.0f} {word if amount == 1 else _many(word)}" for amount, word in told if not math.isnan(amount)
    )


def origin_words(config: Mapping[str, Any]) -> str:
    """When, on what and with which versions a run was begun, in a line.

    Args:
        config: what its ``config.json`` holds.
    """
    origin, environment = (
        each if isinstance(each, Mapping) else {} for each in (config.get("origin"), config.get("environment"))
    )
    parts = [
        str(origin["started"])[:16].replace("T", " ") + " UTC"
        if "started" in origin
        else f"at a time that was {MISSING}"
    ]
    if "processor" in origin:
        parts.append(f"{origin['processor']}, {plural(int(number(origin.get('cores')) or 0), 'core')}")
    if environment.get("device") not in (None, "cpu"):
        parts.append(str(environment["device"]))
    commit = f" (commit {origin['commit']})" if origin.get("commit") else ""
    parts.append(f"fastdarts {environment.get('fastdarts', 'version ' + MISSING)}{commit}")
    parts += [
        f"{name} {environment[key]}" for key, name in (("torch", "torch"), ("python", "Python")) if key in environment
    ]
    return without_paths(f"Begun {'; '.join(parts)}.")


def without_paths(text: str) -> str:
    """A text that a page may show to others: of ``/home/me/data`` only ``\u2026/data``.

    Args:
        text: a command, a message, a setting.
    """
    return _PATH.sub(lambda match: f"\u2026/{match[1]}", text)


def _many(word: str) -> str:
    first, space, rest = word.partition(" ")
    return f"{first}s{space}{rest}"
