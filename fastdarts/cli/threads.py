"""How long waiting threads (GNU OpenMP) spin before they sleep: a search's choice, and OpenMP's own for comparisons."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["openmps_own_turns", "spin_few_turns"]

_NAME = "GOMP_SPINCOUNT"
_ours = ""


def spin_few_turns() -> None:
    """Before torch is imported: 1,000 turns, where nobody has said how many.

    Spinning, two threads keep the cores from each other as soon as another process wants one: a digits step on two
    threads took 0.7 s alone, with either setting, and beside one busy process 2.4 s with OpenMP's own and 1.9 s so.
    """
    global _ours
    if _NAME not in os.environ:
        os.environ[_NAME] = _ours = "1000"


@contextmanager
def openmps_own_turns() -> Iterator[None]:
    """Processes that begin in the block spin as OpenMP has it, unless the user has said how long.

    Eager torch has many short parallel regions: on an idle machine its step takes 1.6 times as long with few turns, and
    who runs it has not set them.
    """
    taken = os.environ.pop(_NAME) if _ours and os.environ.get(_NAME) == _ours else None
    try:
        yield
    finally:
        if taken is not None:
            os.environ[_NAME] = taken
