"""Divergence: when the losses of a training say that it has no result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastdarts.errors import Diverged

__all__ = ["WORST", "check_losses"]

# A mean cross-entropy of 30 nats gives the true class a chance of e^-30; guessing among 1,000 classes costs 6.9. What
# trains is far below, overfitted networks on their test images included; what diverges with finite numbers, far above.
WORST = 30.0


def check_losses(record: Mapping[str, Any], path: Path, *, worst: float = math.inf) -> None:
    """Refuse losses that are not finite, or worse than ``worst``.

    Within a training only the former is asked, since a loss may peak and come down again; of what a result is taken
    from, both.

    Args:
        record: figures by name, of which those named ``*_loss`` are looked at [nats]; ``epoch``, from 0, if it has one.
        path: the run folder.
        worst: the largest loss that passes.

    Raises:
        Diverged: naming the first loss that does not.
    """
    for name, value in record.items():
        if name.endswith("_loss") and not (math.isfinite(value) and value <= worst):
            when = f" in epoch {record['epoch'] + 1}" if "epoch" in record else ""
            bound = f", more than {worst:g}" if math.isfinite(value) else ""
            raise Diverged(path, f"{name.replace('_', ' ')} is {value:.4g}{when}{bound}")
