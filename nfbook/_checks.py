"""Argument checks shared by every public function.

Each one names the argument, says what was expected and what came, and changes nothing: a value
is accepted as it is or refused. Nothing is broadcast, cast or clipped to make it fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "check_count",
    "check_fraction",
    "check_generator",
    "check_positive",
    "check_same_dtype",
    "check_tensor",
    "check_zero_one",
    "scalar",
]

Dim = int | str


def check_tensor(name: str, value: object, shape: Sequence[Dim]) -> dict[str, int]:
    """Check that ``value`` is a finite floating-point tensor of the given shape.

    A dimension is an integer (that size exactly), a letter (any size of at least one; the same
    letter means the same size) or, in first place only, ``"*"`` (any number of dimensions).

    Returns:
        The size of each letter.

    Raises:
        TypeError: ``value`` is no tensor, or its elements are integers, booleans or complex.
        ValueError: The shape differs, a dimension is empty, or an element is NaN or infinite.

    Example:
        >>> check_tensor("x", torch.zeros(5, 2), ("n", "D"))
        {'n': 5, 'D': 2}
        >>> check_tensor("x", torch.zeros(5), ("n", "D"))
        Traceback (most recent call last):
        ...
        ValueError: x must have shape (n, D), got (5,)
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(
            f"{name} must be a floating-point tensor, got {value.dtype}; "
            f"convert it first, for example with {name}.to(torch.float64)"
        )
    sizes = _match_shape(name, tuple(value.shape), tuple(shape))
    if value.numel() == 0:
        raise ValueError(f"{name} must not be empty, got shape {tuple(value.shape)}")
    if not bool(torch.isfinite(value).all()):
        bad = int((~torch.isfinite(value)).sum())
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite of {value.numel()}")
    return sizes


def _match_shape(name: str, got: tuple[int, ...], expected: tuple[Dim, ...]) -> dict[str, int]:
    wanted = f"({', '.join(map(str, expected))}{',' if len(expected) == 1 else ''})"
    problem = f"{name} must have shape {wanted}, got {got}"
    if expected and expected[0] == "*":
        expected = expected[1:]
        if len(got) < len(expected):
            raise ValueError(problem)
        got = got[len(got) - len(expected) :]
    if len(got) != len(expected):
        raise ValueError(problem)
    sizes: dict[str, int] = {}
    for size, dim in zip(got, expected, strict=True):
        if isinstance(dim, int):
            if size != dim:
                raise ValueError(problem)
        elif sizes.setdefault(dim, size) != size:
            raise ValueError(problem)
    return sizes


def scalar(name: str, value: object) -> Tensor:
    """Return ``value`` as a finite floating-point tensor without dimensions.

    A Python number takes torch's default dtype; a tensor keeps its own.

    Example:
        >>> scalar("a", 2.0)
        tensor(2.)
        >>> scalar("a", "two")
        Traceback (most recent call last):
        ...
        TypeError: a must be a number or a tensor without dimensions, got str
    """
    if isinstance(value, bool) or not isinstance(value, int | float | Tensor):
        raise TypeError(
            f"{name} must be a number or a tensor without dimensions, got {type(value).__name__}"
        )
    if not isinstance(value, Tensor):
        value = torch.tensor(float(value))
    check_tensor(name, value, ())
    return value


def check_positive(name: str, value: Tensor) -> None:
    """Check that every element of ``value`` is above zero.

    Example:
        >>> check_positive("variance", torch.tensor([1.0, -2.0]))
        Traceback (most recent call last):
        ...
        ValueError: variance must be positive, got -2.0
    """
    if not bool((value > 0).all()):
        raise ValueError(f"{name} must be positive, got {float(value.min())}")


def check_zero_one(name: str, value: Tensor) -> None:
    """Check that every element of ``value`` is exactly 0 or 1."""
    wrong = value[(value != 0) & (value != 1)]
    if wrong.numel():
        raise ValueError(f"{name} must hold only 0 and 1, got {float(wrong.flatten()[0])}")


def check_count(name: str, value: object, minimum: int = 1) -> None:
    """Check that ``value`` is a whole number of at least ``minimum``.

    Example:
        >>> check_count("n", 0)
        Traceback (most recent call last):
        ...
        ValueError: n must be at least 1, got 0
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")


def check_same_dtype(**tensors: Tensor) -> None:
    """Check that all tensors, given by name, share one dtype.

    Example:
        >>> check_same_dtype(x=torch.zeros(1), mean=torch.zeros(1, dtype=torch.float64))
        Traceback (most recent call last):
        ...
        TypeError: x and mean must have the same dtype, got torch.float32 and torch.float64
    """
    (first, reference), *others = tensors.items()
    for name, value in others:
        if value.dtype != reference.dtype:
            raise TypeError(
                f"{first} and {name} must have the same dtype, "
                f"got {reference.dtype} and {value.dtype}"
            )


def check_generator(name: str, value: object) -> None:
    """Check that ``value`` is a ``torch.Generator``: randomness is always explicit."""
    if not isinstance(value, torch.Generator):
        raise TypeError(
            f"{name} must be a torch.Generator, got {type(value).__name__}; "
            "make one with torch.Generator().manual_seed(0)"
        )


def check_fraction(name: str, value: float) -> None:
    """Check that a number lies strictly between 0 and 1."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if math.isnan(value) or not 0 < value < 1:
        raise ValueError(f"{name} must lie between 0 and 1, got {value}")
