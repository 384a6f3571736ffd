"""How long work is asked to stop: signals become a request that is heard at the next good moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastdarts.errors import Interrupted

__all__ = ["Stop", "stop_on_signal", "stoppable"]

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether the work under way was asked to stop."""

    requested = False

    def check(self, path: Path) -> None:
        """Raise :class:`Interrupted` if so; what is to be kept lies in ``path`` by now."""
        if self.requested:
            raise Interrupted(path)


# The request that the outermost block listens for.
_current: Stop | None = None


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Turn the first SIGINT or SIGTERM into a request to stop at the next good moment; a second one acts at once.

    Inside such a block another one gives the same request, so that a signal between two parts of a long work stops the
    whole. A signal that was ignored when the process started, as SIGINT is in a script's background job, is heard too.
    """
    global _current
    if threading.current_thread() is not threading.main_thread():
        yield Stop()
        return
    if _current is not None:
        yield _current
        return
    stop = _current = Stop()
    # A handler that is not Python's is None, and could not be put back.
    handlers = ((number, signal.getsignal(number)) for number in _NUMBERS)
    before = {number: handler for number, handler in handlers if handler is not None}

    def request(number: int, frame: Any) -> None:
        stop.requested = True
        for each, handler in before.items():
            signal.signal(each, _at_once(each) if handler is signal.SIG_IGN else handler)

    for number in before:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        _current = None
        for number, handler in before.items():
            signal.signal(number, handler)


def _at_once(number: int) -> Callable[[int, Any], Any] | signal.Handlers:
    return signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL


@contextmanager
def stoppable(path: Path) -> Iterator[Stop]:
    """A long work whose parts are all kept in ``path``: asked to stop in one of them, or between two, it ends so.

    The parts look at the request when they like, as ``run_job`` does after every step; otherwise it is heard when the
    block ends.

    Args:
        path: where the whole continues.

    Raises:
        Interrupted: naming ``path``, on SIGINT or SIGTERM.
    """
    with stop_on_signal() as stop:
        try:
            yield stop
        except Interrupted as part:
            raise Interrupted(path) from part
        stop.check(path)
