"""Ctrl-C while work is under way that is to be finished first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_stops: list[Callable[[], object]] = []  # of the work under way, innermost last


def interrupt(*_: object) -> None:
    """Do what an interrupt does here: ask the work under way to stop, or raise KeyboardInterrupt.

    Work that was asked before is not asked again.
    """
    if not _stops:
        raise KeyboardInterrupt
    _stops.pop()()


@contextmanager
def noted(stop: Callable[[], object]) -> Iterator[None]:
    """Call ``stop()`` on the first interrupt; a second one raises KeyboardInterrupt at once.

    Only the main thread may handle signals: in another nothing changes. Where the process was
    started with interrupts ignored (``nohup command &``) they stay ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    handled = callable(before)
    _stops.append(stop)
    if handled:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        if stop in _stops:
            _stops.remove(stop)
        if handled:
            signal.signal(signal.SIGINT, before)
