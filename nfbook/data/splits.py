"""The three parts of a data set: one to train on, one to choose by, one to report."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Splits", "fixed_order"]


class Splits(NamedTuple):
    """A data set in its three fixed parts.

    Attributes:
        train: What parameters are trained on, `(n, D)`, or `(n,)` for labels.
        validation: What settings are chosen by, `(m, D)` or `(m,)`.
        test: What is reported, and looked at once, `(k, D)` or `(k,)`.

    Example:
        >>> Splits(*torch.arange(5).split([3, 1, 1])).validation
        tensor([3])
    """

    train: Tensor
    validation: Tensor
    test: Tensor


def fixed_order(n: int) -> Tensor:
    """Return the whole numbers below n in an order that is the same for ever and everywhere.

    Of the generators at hand, NumPy's old one is the one whose numbers no version may change
    (NEP 19).

    Example:
        >>> fixed_order(5)
        tensor([2, 0, 1, 3, 4])
    """
    return torch.from_numpy(np.random.RandomState(0).permutation(n))
