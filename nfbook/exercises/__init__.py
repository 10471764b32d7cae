"""Automatic checks for the book's exercises.

A reader hands an answer to `check`, which says whether it is right and, where a common mistake
explains the answer, which one. Nothing is raised, so a notebook runs on to its end::

    ✗ bayes-1: you divided by n. The prior counts as a + b further tosses.

The exercises of a page stand in the module that is named after the page's file, with ``_`` for
``-``, in a dictionary ``EXERCISES``: ``latent-variables-1`` is found in ``latent_variables.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

__all__ = ["Exercise", "Mistake", "check"]

Solution = Callable[..., Tensor | float]

NAME = re.compile(r"([a-z][a-z0-9]*(?:-[a-z][a-z0-9]*)*)-\d+")


@dataclass(frozen=True)
class Mistake:
    """A wrong solution that readers come to, and the hint that leads out of it.

    Example:
        >>> Mistake(lambda: 1.0, "you forgot to divide by 2.").hint
        'you forgot to divide by 2.'
    """

    solution: Solution
    hint: str


@dataclass(frozen=True)
class Exercise:
    """What a right answer is.

    Attributes:
        solution: The right answer, as a function. Without ``at`` it takes no arguments and the
            reader gives its value; with ``at`` the reader gives a function too.
        hint: What to say when no known mistake explains the answer.
        mistakes: Known mistakes, tried in order.
        at: Arguments at which a reader's function is compared.
        tolerance: The largest relative error of a right answer.

    Example:
        >>> half = Exercise(solution=lambda: 0.5, hint="think of symmetry.")
        >>> half.solution()
        0.5
    """

    solution: Solution
    hint: str
    mistakes: tuple[Mistake, ...] = ()
    at: tuple[tuple[Any, ...], ...] = ()
    tolerance: float = 1e-6


def check(name: str, answer: object) -> None:
    """Print whether ``answer`` solves the exercise ``name``, such as ``"bayes-1"``.

    Raises:
        ValueError: There is no such exercise.

    Example:
        >>> check("bayes-1", None)
        ○ bayes-1: no answer yet. Replace None by yours and run the cell again.
    """
    exercise = _find(name)
    if answer is None:
        print(f"○ {name}: no answer yet. Replace None by yours and run the cell again.")
        return
    problem = _problem(exercise, answer)
    print(f"✗ {name}: {problem}" if problem else f"✓ {name}: correct.")


def _find(name: str) -> Exercise:
    match = NAME.fullmatch(name) if isinstance(name, str) else None
    exercises = _exercises(match[1]) if match else {}
    if not match or name not in exercises:
        known = f"; this page has {', '.join(exercises)}" if exercises else ""
        raise ValueError(f"name must be an exercise such as 'bayes-1', got {name!r}{known}")
    return exercises[name]


def _exercises(page: str) -> dict[str, Exercise]:
    module = f"{__name__}.{page.replace('-', '_')}"
    try:
        exercises: dict[str, Exercise] = import_module(module).EXERCISES
    except ModuleNotFoundError as error:
        # An import that fails inside the module is a fault of the book, not of the name.
        if error.name != module:
            raise
        return {}
    return exercises


def _problem(exercise: Exercise, answer: object) -> str | None:
    """Return what is wrong with an answer, or None."""
    try:
        given = _values(exercise, answer)
    except _UnusableError as error:
        return str(error)
    right = _values(exercise, exercise.solution if exercise.at else exercise.solution())
    for one, other in zip(given, right, strict=True):
        if one.shape != other.shape:
            return f"the shape should be {tuple(other.shape)}, yours is {tuple(one.shape)}."
    if _agree(given, right, exercise.tolerance):
        return None
    for mistake in exercise.mistakes:
        value = mistake.solution if exercise.at else mistake.solution()
        if _agree(given, _values(exercise, value), exercise.tolerance):
            return mistake.hint
    if any(not bool(torch.isfinite(one).all()) for one in given):
        return f"the result holds NaN or infinity. {exercise.hint}"
    return exercise.hint


class _UnusableError(Exception):
    """An answer that cannot be compared, with the reason."""


def _values(exercise: Exercise, answer: object) -> list[Tensor]:
    if not exercise.at:
        if callable(answer):
            raise _UnusableError("the answer should be a value, yours is a function. Call it.")
        return [_tensor("the answer", answer)]
    if not callable(answer):
        raise _UnusableError(f"the answer should be a function, yours is {type(answer).__name__}.")
    values = []
    for arguments in exercise.at:
        try:
            # Copies, for a function may change its arguments in place.
            value = answer(*deepcopy(arguments))
        except Exception as error:
            # Whatever the reader's function raises is a message for the reader.
            raise _UnusableError(f"your function raised {type(error).__name__}: {error}") from error
        if value is None:
            raise _UnusableError("your function returned None. Did you forget return?")
        values.append(_tensor("what your function returns", value))
    return values


def _tensor(what: str, value: object) -> Tensor:
    wanted = f"{what} should be a real number or a tensor of them, not"
    try:
        # As real numbers, complex ones would lose their imaginary parts without an error.
        number = torch.as_tensor(value, dtype=torch.complex128)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise _UnusableError(f"{wanted} {type(value).__name__}.") from error
    if bool(number.imag.any()):
        raise _UnusableError(f"{wanted} a complex one.")
    return number.real


def _agree(given: list[Tensor], right: list[Tensor], tolerance: float) -> bool:
    return all(
        one.shape == other.shape
        and torch.allclose(one, other, rtol=tolerance, atol=tolerance * 1e-3)
        for one, other in zip(given, right, strict=True)
    )
