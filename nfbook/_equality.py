"""When two things that consist of tensors are equal."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

__all__ = ["EqualByParts", "are_equal"]


class EqualByParts:
    """What equals another one of its class whose attributes are equal, tensors by their numbers.

    Example:
        >>> class Shift(EqualByParts):
        ...     def __init__(self, by):
        ...         self.by = by
        >>> Shift(torch.ones(2)) == Shift(torch.ones(2)), Shift(torch.ones(2)) == Shift(0)
        (True, False)
    """

    def __eq__(self, other: object) -> bool:
        return self is other or (type(self) is type(other) and are_equal(vars(self), vars(other)))

    # Equal ones have equal hashes, and looking at the numbers would wait for a device.
    def __hash__(self) -> int:
        return hash(type(self))


def are_equal(one: Any, other: Any) -> bool:
    """Return whether two values are equal, which for tensors means all numbers, dtype and device.

    Example:
        >>> are_equal([torch.ones(2), 3], [torch.ones(2), 3])
        True
    """
    if one is other:
        return True
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return (
            isinstance(one, Tensor)
            and isinstance(other, Tensor)
            and (one.dtype, one.device) == (other.dtype, other.device)
            and torch.equal(one, other)
        )
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(are_equal(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(are_equal, one, other))
    if isinstance(one, partial) and isinstance(other, partial):
        parts = [(each.func, each.args, each.keywords) for each in (one, other)]
        return are_equal(*parts)
    return bool(one == other)
