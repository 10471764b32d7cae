"""Data in memory or on its way: both are a few batches that can be run through again and again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nfbook._checks import check_count, check_generator, check_precision, check_tensor

__all__ = ["Batches", "Moments", "check_range", "moments", "subsample"]


# Rows of a tensor that are looked at together, so that no temporary has the data's own size.
ROWS = 2**16


class Batches:
    r"""Observations as batches of rows, each one checked as it passes.

    A tensor is cut into pieces. Any other iterable is run through once in each pass, so it must
    start anew every time: a list, or an object whose ``__iter__`` opens the file again. No more
    than two of its batches are held at a time: the one in use, and the next while it is read.

    Arguments:
        x: Observations, `(n, D)`, or an iterable of such tensors with one D and one dtype.
        missing: Whether NaN is allowed, and stands for a missing entry.

    Attributes:
        dim: The number of dimensions D.
        dtype: The dtype of all batches.

    Raises:
        TypeError: x is no tensor and no iterable, or can be run through only once, or a batch is
            no floating-point tensor, of half precision or of another dtype.
        ValueError: There are no batches, a batch has another D, an element is NaN or infinite, or
            a later pass does not have as many observations as the first.

    Example:
        >>> batches = Batches([torch.zeros(3, 2), torch.ones(1, 2)])
        >>> [len(batch) for batch in batches], batches.dim
        ([3, 1], 2)
        >>> Batches(torch.zeros(3, 2) for _ in range(2))
        Traceback (most recent call last):
        ...
        TypeError: x must be an iterable that starts anew in every pass, such as a list; a
        generator is empty after the first
    """

    def __init__(self, x: Tensor | Iterable[Tensor], *, missing: bool = False) -> None:
        self._missing = missing
        self._count: int | None = None
        self._source: Iterable[Tensor]
        self._whole = isinstance(x, Tensor)
        if isinstance(x, Tensor):
            # Checked before it is cut, once and for all, and an error speaks of the whole.
            self._check(x, "D")
            self._source = torch.split(x, ROWS)
        elif not isinstance(x, Iterable) or isinstance(x, str | bytes):
            raise TypeError(
                "x must be a torch.Tensor or an iterable of them, such as a list, "
                f"got {type(x).__name__}"
            )
        else:
            self._source = x
        passing = iter(self._source)
        if passing is x:
            raise TypeError(
                "x must be an iterable that starts anew in every pass, such as a list; "
                "a generator is empty after the first"
            )
        first = next(passing, None)
        if first is None:
            raise ValueError("x must hold at least one batch, got none")
        self._check(first, "D")
        self.dim = int(first.shape[1])
        self.dtype = first.dtype

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the batches, and check that every pass has as many observations as the first."""
        if self._whole:
            yield from self._source
            return
        count = 0
        for batch in self._source:
            self._check(batch, self.dim)
            if batch.dtype != self.dtype:
                raise TypeError(
                    f"every batch of x must have the dtype of the first, {self.dtype}, "
                    f"got {batch.dtype}"
                )
            count += len(batch)
            yield batch
        if self._count not in (None, count):
            raise ValueError(
                f"x must be the same in every pass, got {self._count} observations in the first "
                f"and {count} in a later one"
            )
        self._count = count

    def in_float64(self) -> Batches:
        """Return the same batches with dtype torch.float64, each one converted as it passes."""
        if self.dtype == torch.float64:
            return self
        return Batches(_InFloat64(self), missing=self._missing)

    def _check(self, batch: object, dim: int | str) -> None:
        if self._missing and isinstance(batch, Tensor) and batch.is_floating_point():
            # In place of a missing entry any number will do for the other checks.
            batch = torch.where(batch.isnan(), 0.0, batch)
        name = "x" if self._whole else "every batch of x"
        check_tensor(name, batch, ("n", dim))
        assert isinstance(batch, Tensor)
        check_precision(name, batch)


class _InFloat64:
    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Tensor]:
        return (batch.to(torch.float64) for batch in self._batches)


@dataclass(frozen=True)
class Moments:
    r"""Mean and covariance of n observations, the latter divided by n, both in float64.

    Attributes:
        count: The number of observations n.
        mean: Their mean, `(D,)`.
        covariance: Their covariance matrix, `(D, D)`, or its diagonal, `(D,)`.

    Example:
        >>> Moments(1, torch.zeros(2), torch.zeros(2, 2)).count
        1
    """

    count: int
    mean: Tensor
    covariance: Tensor


def moments(batches: Batches, *, diagonal: bool = False) -> Moments:
    r"""Return mean and covariance in one pass, without cancellation.

    Two batches with counts a and b, means that differ by :math:`\boldsymbol{\delta}`, and scatter
    matrices (sums of squares about their own means) combine to the scatter

    .. math:: \mathbf{S}_a + \mathbf{S}_b + \frac{a b}{a + b} \boldsymbol{\delta}
        \boldsymbol{\delta}^\top.

    The first observation is subtracted from all, so that it does not matter where the data lie.

    Source: T. F. Chan, G. H. Golub and R. J. LeVeque, Algorithms for computing the sample
    variance, The American Statistician 37 (1983), 242-247.

    Arguments:
        batches: The data.
        diagonal: Whether only the variance of each column is wanted.

    Example:
        >>> moments(Batches(torch.tensor([[1.0], [3.0]]))).covariance
        tensor([[1.]], dtype=torch.float64)
    """
    count = 0
    origin = mean = torch.zeros(batches.dim, dtype=torch.float64)
    scatter = torch.zeros((), dtype=torch.float64)
    for x in batches:
        if count == 0:
            origin = x[0].to(torch.float64)
        rows = x.to(torch.float64) - origin
        here = rows.mean(0)
        centred = rows - here
        delta = here - mean
        weight = count * len(x) / (count + len(x))
        if diagonal:
            scatter = scatter + centred.square().sum(0) + weight * delta.square()
        else:
            scatter = scatter + centred.mT @ centred + weight * delta.outer(delta)
        count += len(x)
        mean = mean + delta * (len(x) / count)
    return Moments(count, origin + mean, scatter / count)


def check_range(variances: Tensor, dtype: torch.dtype) -> None:
    """Check that variances found in float64 have a place in the dtype of the data.

    Example:
        >>> check_range(torch.tensor([1.0, 1e60], dtype=torch.float64), torch.float32)
        Traceback (most recent call last):
        ...
        ValueError: x must have a variance within the range of torch.float32, got 1e+60
    """
    smallest, largest = torch.finfo(dtype).tiny, torch.finfo(dtype).max
    # NaN, which is infinity times zero here, is not within either.
    wrong = variances[~((variances >= smallest) & (variances <= largest))]
    if wrong.numel():
        got = float(wrong.flatten()[0].nan_to_num(nan=torch.inf, posinf=torch.inf))
        raise ValueError(f"x must have a variance within the range of {dtype}, got {got:.3g}")


def subsample(batches: Batches, size: int, generator: torch.Generator) -> Tensor:
    """Return a uniformly random subset of the observations, in one pass.

    Each observation draws a random number, and the ``size`` smallest are kept, so every subset is
    equally likely whatever the batches are. With fewer observations than that, all are returned.

    Arguments:
        batches: The data.
        size: The number of observations wanted.
        generator: The source of randomness.

    Returns:
        Observations, `(min(n, size), D)`.

    Example:
        >>> x = torch.arange(6.0).reshape(6, 1)
        >>> subsample(Batches(x), 2, torch.Generator().manual_seed(0)).shape
        torch.Size([2, 1])
    """
    check_count("size", size)
    check_generator("generator", generator)
    kept = torch.empty(0)
    keys = torch.empty(0, dtype=torch.float64)
    for x in batches:
        new = torch.rand(len(x), dtype=torch.float64, generator=generator)
        keys = torch.cat([keys, new])
        kept = x if len(kept) == 0 else torch.cat([kept, x])
        keys, order = keys.sort()
        keys, kept = keys[:size], kept[order[:size]]
    return kept
