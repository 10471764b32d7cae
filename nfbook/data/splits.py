"""The three parts of a data set: one to train on, one to choose by, one to report."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Splits"]


class Splits(NamedTuple):
    """A data set in its three fixed parts.

    Attributes:
        train: What parameters are trained on, `(n, D)`.
        validation: What settings are chosen by, `(m, D)`.
        test: What is reported, and looked at once, `(k, D)`.

    Example:
        >>> import torch
        >>> splits = Splits(torch.zeros(50, 2), torch.zeros(10, 2), torch.zeros(10, 2))
        >>> len(splits.train)
        50
    """

    train: Tensor
    validation: Tensor
    test: Tensor
