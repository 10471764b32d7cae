"""How a run is stopped from outside: after a step, never within one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Interrupted", "stop_between_steps"]


class Interrupted(KeyboardInterrupt):
    """Training was stopped from outside, between two steps and with a checkpoint."""


@contextmanager
def stop_between_steps() -> Iterator[threading.Event]:
    """Turn Ctrl-C and SIGTERM into an event; the second Ctrl-C stops at once.

    Example:
        >>> with stop_between_steps() as stop:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     stop.is_set()
        True
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {each: signal.signal(each, ask) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for each, handler in before.items():
            # None: it was set by another language than Python, which cannot set it again.
            signal.signal(each, signal.SIG_DFL if handler is None else handler)
