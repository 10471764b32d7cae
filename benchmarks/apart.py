"""Contestants in processes of their own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


class Apart:
    """A contestant in a process of its own, which waits while others take their turn.

    A compiler brings threads, memory and faults of its own. In a process apart they reach no other
    contestant.

    Arguments:
        make: What makes the contestant, a function at the top of a module.
        arguments: Its arguments.

    Raises:
        RuntimeError: The process ended, when it is `ask`ed.
    """

    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        # A fork of a process with threads may never end.
        context = multiprocessing.get_context("spawn")
        self._end, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, make, arguments), daemon=True)
        self._process.start()
        other.close()

    def ask(self, question: Callable[..., Any], *arguments: Any) -> Any:
        """Return ``question(contestant, *arguments)``, as that process has it."""
        try:
            self._end.send((question, arguments))
            return self._end.recv()
        except (EOFError, BrokenPipeError) as error:
            self._process.join()
            code = self._process.exitcode
            raise RuntimeError(f"a contestant's process ended, with the code {code}") from error

    def close(self) -> None:
        """End the process."""
        self._end.close()
        self._process.join()


def _serve(end: Connection, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    contestant = make(*arguments)
    while True:
        try:
            question, more = end.recv()
        except EOFError:
            return
        end.send(question(contestant, *more))
