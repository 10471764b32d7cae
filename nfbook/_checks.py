"""Argument checks shared by every public function.

Each one names the argument, says what was expected and what came, and changes nothing: a value
is accepted as it is or refused. Nothing is broadcast, cast or clipped to make it fit.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import UnionType

import torch
from torch import Tensor
from torch.distributions import Distribution

__all__ = [
    "check_callable",
    "check_context",
    "check_count",
    "check_dense",
    "check_distribution",
    "check_fraction",
    "check_generator",
    "check_log_values",
    "check_positive",
    "check_precision",
    "check_real",
    "check_same_dtype",
    "check_tensor",
    "check_type",
    "check_vectors",
    "check_widths",
    "check_zero_one",
    "scalar",
]

Dim = int | str


def check_tensor(
    name: str, value: object, shape: Sequence[Dim], *, missing: bool = False
) -> dict[str, int]:
    """Check that ``value`` is a finite floating-point tensor of the given shape.

    A dimension is an integer (that size exactly), a letter (any size of at least one; the same
    letter means the same size) or, in first place only, ``"*"`` (any number of dimensions).
    Where entries may be missing, NaN stands for them and is allowed.

    Returns:
        The size of each letter.

    Raises:
        TypeError: ``value`` is not a dense tensor, or its elements are integers, booleans or
            complex.
        ValueError: The shape differs, a dimension is empty, or an element is NaN or infinite.

    Example:
        >>> check_tensor("x", torch.zeros(5, 2), ("n", "D"))
        {'n': 5, 'D': 2}
        >>> check_tensor("x", torch.zeros(5), ("n", "D"))
        Traceback (most recent call last):
        ...
        ValueError: x must have shape (n, D), got (5,)
    """
    tensor, sizes = _floating_point(name, value, shape)
    # A finite sum has finite terms and takes no memory; only otherwise are they looked at singly.
    if bool(tensor.detach().sum().isfinite()):
        return sizes
    bad = int((tensor.isinf() if missing else ~tensor.isfinite()).sum())
    if bad:
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite of {tensor.numel()}")
    return sizes


def check_log_values(name: str, value: object, shape: Sequence[Dim]) -> dict[str, int]:
    """Check that ``value`` may be logarithms of densities or weights, of the given shape.

    Minus infinity is the logarithm of zero. All else is as for `check_tensor`.

    Example:
        >>> check_log_values("log_w", torch.tensor([0.0, -torch.inf]), ("K",))
        {'K': 2}
        >>> check_log_values("log_w", torch.tensor([0.0, torch.inf]), ("K",))
        Traceback (most recent call last):
        ...
        ValueError: log_w must be finite or minus infinity, got 1 NaN or plus infinity of 2
    """
    tensor, sizes = _floating_point(name, value, shape)
    bad = int((torch.isnan(tensor) | torch.isposinf(tensor)).sum())
    if bad:
        raise ValueError(
            f"{name} must be finite or minus infinity, "
            f"got {bad} NaN or plus infinity of {tensor.numel()}"
        )
    return sizes


def _floating_point(
    name: str, value: object, shape: Sequence[Dim]
) -> tuple[Tensor, dict[str, int]]:
    """Return the tensor that ``value`` was checked to be, and the size of each letter."""
    if not isinstance(value, Tensor):
        advice = ""
        if hasattr(value, "shape"):
            advice = "; convert it first, for example with torch.as_tensor(numpy.asarray(...))"
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}{advice}")
    check_dense(name, value)
    if not value.is_floating_point():
        raise TypeError(
            f"{name} must be a floating-point tensor, got {value.dtype}; "
            "convert it first, for example with .to(torch.float64)"
        )
    sizes = _match_shape(name, tuple(value.shape), tuple(shape))
    if value.numel() == 0:
        raise ValueError(f"{name} must not be empty, got shape {tuple(value.shape)}")
    return value, sizes


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


def scalar(name: str, value: object, like: Tensor | None = None) -> Tensor:
    """Return ``value`` as a finite floating-point tensor without dimensions.

    A Python number takes dtype and device of ``like``, or torch's defaults; a tensor keeps its own.

    Example:
        >>> scalar("a", 2.0)
        tensor(2.)
        >>> scalar("a", "two")
        Traceback (most recent call last):
        ...
        TypeError: a must be a number or a tensor without dimensions, got str
    """
    if not isinstance(value, Tensor):
        number = check_real(name, value, "a number or a tensor without dimensions")
        value = torch.tensor(number) if like is None else like.new_tensor(number)
        if number != 0 and value == 0:
            raise ValueError(f"{name} must not round to zero in {value.dtype}, got {number}")
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


def check_precision(name: str, value: Tensor) -> None:
    """Check that ``value`` has single or double precision; in half, torch factors no matrix.

    Example:
        >>> check_precision("means", torch.zeros(2, dtype=torch.float16))
        Traceback (most recent call last):
        ...
        TypeError: means must have dtype torch.float32 or torch.float64, got torch.float16
    """
    if value.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} must have dtype torch.float32 or torch.float64, got {value.dtype}")


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


def check_dense(name: str, value: Tensor) -> None:
    """Check that a tensor is not sparse.

    Example:
        >>> check_dense("z", torch.eye(2).to_sparse())
        Traceback (most recent call last):
        ...
        TypeError: z must be a dense tensor, got one with the layout torch.sparse_coo; \
convert it first, with .to_dense()
    """
    if value.layout is not torch.strided:
        raise TypeError(
            f"{name} must be a dense tensor, got one with the layout {value.layout}; "
            "convert it first, with .to_dense()"
        )


def check_context(context: Tensor | None, size: int) -> None:
    """Check that there is a context if and only if its size is not zero.

    Example:
        >>> check_context(None, 3)
        Traceback (most recent call last):
        ...
        TypeError: context must be a torch.Tensor (*, 3), got None
    """
    if context is None and size:
        raise TypeError(f"context must be a torch.Tensor (*, {size}), got None")
    if context is not None and not size:
        raise TypeError("context must be None for what was made without one, got a tensor")


def check_widths(name: str, value: object) -> None:
    """Check the widths of a network's hidden layers.

    Example:
        >>> check_widths("hidden_features", 64)
        Traceback (most recent call last):
        ...
        TypeError: hidden_features must be a list or tuple of ints, got int
    """
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{name} must be a list or tuple of ints, got {type(value).__name__}")
    for width in value:
        check_count(f"every one of {name}", width)


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


def check_real(name: str, value: object, wanted: str = "a number") -> float:
    """Check that ``value`` is a finite Python number, and return it as a float.

    Example:
        >>> check_real("limit", float("nan"))
        Traceback (most recent call last):
        ...
        ValueError: limit must be finite, got nan
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be {wanted}, got {type(value).__name__}")
    if not abs(value) <= sys.float_info.max:
        # Python refuses to print an int with too many digits.
        came = value if isinstance(value, float) else "an int beyond the largest float"
        raise ValueError(f"{name} must be finite, got {came}")
    return float(value)


def check_fraction(name: str, value: object) -> None:
    """Check that a number lies strictly between 0 and 1.

    Example:
        >>> check_fraction("share", 1)
        Traceback (most recent call last):
        ...
        ValueError: share must lie strictly between 0 and 1, got 1.0
    """
    number = check_real(name, value)
    if not 0 < number < 1:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {number}")


def check_type(name: str, value: object, kind: type | UnionType, wanted: str) -> None:
    """Check that ``value`` is an instance of ``kind``, which the message calls ``wanted``.

    Example:
        >>> check_type("shape", 3, tuple, "a tuple of ints")
        Traceback (most recent call last):
        ...
        TypeError: shape must be a tuple of ints, got int
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {wanted}, got {type(value).__name__}")


def check_vectors(name: str, value: object, size: int | None = None) -> Tensor:
    """Return ``value``, which was checked to be a dense tensor `(*, size)`; None for any size.

    No number is looked at, so nothing waits for a device.

    Example:
        >>> check_vectors("z", torch.zeros(5, 2), 3)
        Traceback (most recent call last):
        ...
        ValueError: z must have shape (*, 3), got (5, 2)
    """
    check_type(name, value, Tensor, "a torch.Tensor")
    assert isinstance(value, Tensor)
    check_dense(name, value)
    # Not by "in", which torch.compile cannot follow where a size is symbolic.
    if not value.dim() or (size is not None and value.shape[-1] != size):
        wanted = "D" if size is None else size
        raise ValueError(f"{name} must have shape (*, {wanted}), got {tuple(value.shape)}")
    return value


def check_callable(name: str, value: object) -> None:
    """Check that ``value`` can be called.

    Example:
        >>> check_callable("draw", None)
        Traceback (most recent call last):
        ...
        TypeError: draw must be a function, got NoneType
    """
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {type(value).__name__}")


def check_generator(generator: object) -> None:
    """Check that ``generator`` is a ``torch.Generator``, or None for torch's global one."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator, got {type(generator).__name__}; "
            "make one with torch.Generator().manual_seed(0)"
        )


def check_distribution(name: str, value: object) -> None:
    """Check that ``value`` is a ``torch.distributions`` object."""
    check_type(name, value, Distribution, "a torch.distributions.Distribution")
