"""Data in memory or on its way: both are a few batches that can be run through again and again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor

from nfbook._checks import (
    check_count,
    check_generator,
    check_precision,
    check_same_dtype,
    check_tensor,
)
from nfbook.sampling import source_device

__all__ = ["Batches", "Moments", "check_range", "check_weights", "moments", "subsample"]


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
        weights: How often each observation counts, `(n,)`, or an iterable of the weights of each
            batch where x is one of batches. Observations of weight zero are left out.

    Attributes:
        dim: The number of dimensions D.
        dtype: The dtype of all batches.
        device: The device of the first batch.
        missing: Whether entries may be missing.

    Raises:
        TypeError: x is neither a tensor nor an iterable, or can be run through only once, or a
            batch is not a floating-point tensor, has half precision or another dtype. The weights
            are not of the kind of x.
        ValueError: There are no batches, a batch has another D, an element is NaN or infinite, or
            a later pass does not have as many observations as the first. A weight is negative,
            all are zero, or there are more or fewer weights than observations.

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

    def __init__(
        self,
        x: Tensor | Iterable[Tensor],
        *,
        missing: bool = False,
        weights: Tensor | Iterable[Tensor] | None = None,
    ) -> None:
        self.missing = missing
        self._count: int | None = None
        self._source: Iterable[Tensor]
        self._weights: Iterable[Tensor] | None = None
        # An array is no stream of its rows; the check says what to do with it.
        self._whole = isinstance(x, Tensor) or hasattr(x, "shape")
        if self._whole:
            # Checked before it is cut, once and for all, and an error speaks of the whole.
            self._check(x, "D")
            assert isinstance(x, Tensor)
            self._source = torch.split(x, ROWS)
            passing = iter(self._source)
            if weights is not None:
                self._weights = torch.split(check_weights(weights, x), ROWS)
        else:
            self._source, passing = _again_and_again("x", x)
            if weights is not None:
                if isinstance(weights, Tensor):
                    raise TypeError(
                        "weights must be an iterable of the weights of each batch where x is an "
                        "iterable of batches, got a Tensor"
                    )
                self._weights, _ = _again_and_again("weights", weights)
        first = next(passing, None)
        if first is None:
            raise ValueError("x must hold at least one batch, got none")
        self._check(first, "D")
        self.dim = int(first.shape[1])
        self.dtype = self._source_dtype = first.dtype
        self.device = first.device

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the batches, and check that every pass has as many observations as the first."""
        return (x for x, _ in self.weighted())

    def weighted(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield each batch with the weights of its observations, or with None if there are none."""
        weights = repeat(None) if self._weights is None else iter(self._weights)
        count, empty = 0, True
        for x in self._source:
            w = next(weights, None)
            if not self._whole:
                self._check_next(x, w)
            count += len(x)
            if w is not None:
                heavy = w > 0
                if not bool(heavy.all()):
                    x, w = x[heavy], w[heavy]
            if len(x):
                empty = False
                yield x.to(self.dtype), None if w is None else w.to(self.dtype)
        if self._weights is not None and next(weights, None) is not None:
            raise ValueError("weights must hold as many batches as x, got more")
        if not self._whole and self._count not in (None, count):
            raise ValueError(
                f"x must be the same in every pass, got {self._count} observations in the first "
                f"and {count} in a later one"
            )
        self._count = count
        if empty:
            raise ValueError("weights must not all be zero")

    def in_float64(self) -> Batches:
        """Return the same batches with dtype torch.float64, each one converted as it passes."""
        if self.dtype == torch.float64:
            return self
        wide = copy(self)
        wide.dtype = torch.float64
        return wide

    def _check_next(self, batch: Tensor, weights: Tensor | None) -> None:
        self._check(batch, self.dim)
        if batch.dtype != self._source_dtype:
            raise TypeError(
                f"every batch of x must have the dtype of the first, {self._source_dtype}, "
                f"got {batch.dtype}"
            )
        if self._weights is not None:
            if weights is None:
                raise ValueError("weights must hold as many batches as x, got fewer")
            check_weights(weights, batch, of_a_part=True)

    def _check(self, batch: object, dim: int | str) -> None:
        name = "x" if self._whole else "every batch of x"
        check_tensor(name, batch, ("n", dim), missing=self.missing)
        assert isinstance(batch, Tensor)
        check_precision(name, batch)


def _again_and_again(name: str, batches: object) -> tuple[Iterable[Tensor], Iterator[Tensor]]:
    """Return what can be run through again and again, with a first pass, and refuse all else."""
    if not isinstance(batches, Iterable) or isinstance(batches, str | bytes):
        raise TypeError(
            f"{name} must be a torch.Tensor or an iterable of them, such as a list, "
            f"got {type(batches).__name__}"
        )
    passing = iter(batches)
    if passing is batches:
        raise TypeError(
            f"{name} must be an iterable that starts anew in every pass, such as a list; "
            "a generator is empty after the first"
        )
    return batches, passing


def check_weights(weights: object, x: Tensor, *, of_a_part: bool = False) -> Tensor:
    """Return weights that were checked to fit the observations x, `(n, D)`.

    Arguments:
        weights: The weights, `(n,)`.
        x: The observations.
        of_a_part: Whether there are further observations, so that all of these may count nothing.

    Raises:
        TypeError: They are not a tensor of the dtype of x.
        ValueError: They have another shape than `(n,)`, or one is negative, NaN or infinite, or
            all are zero.

    Example:
        >>> check_weights(torch.tensor([1.0, -1.0]), torch.zeros(2, 3))
        Traceback (most recent call last):
        ...
        ValueError: weights must not be negative, got -1.0
    """
    check_tensor("weights", weights, (len(x),))
    assert isinstance(weights, Tensor)
    check_same_dtype(x=x, weights=weights)
    if bool((weights < 0).any()):
        raise ValueError(f"weights must not be negative, got {float(weights.min())}")
    if not of_a_part and not bool(weights.any()):
        raise ValueError("weights must not all be zero")
    return weights


@dataclass(frozen=True)
class Moments:
    r"""Mean and covariance of n observations, the latter divided by n, both in float64.

    Where observations have weights, each one counts as often as its weight says, and n is the sum
    of all. Where entries are missing, each column has the moments of its own entries.

    Attributes:
        count: The number of observations n.
        mean: Their mean, `(D,)`.
        covariance: Their covariance matrix, `(D, D)`, or its diagonal, `(D,)`.
        rows: The number of observations of positive weight.

    Example:
        >>> Moments(1, torch.zeros(2), torch.zeros(2, 2), 1).count
        1
    """

    count: float
    mean: Tensor
    covariance: Tensor
    rows: int


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
        batches: The data. Entries may be missing where only variances are wanted.
        diagonal: Whether only the variance of each column is wanted.

    Raises:
        ValueError: A column has no entry at all.

    Example:
        >>> moments(Batches(torch.tensor([[1.0], [3.0]]))).covariance
        tensor([[1.]], dtype=torch.float64)
    """
    rows = 0
    count: float = 0
    zeros = torch.zeros(batches.dim, dtype=torch.float64, device=batches.device)
    origin = mean = entries = zeros
    scatter = torch.zeros((), dtype=torch.float64, device=batches.device)
    for x, weights in batches.in_float64().weighted():
        if rows == 0:
            # Some entry of each column: the first one, where none is missing.
            origin = torch.where(x[0].isnan(), x.nanmedian(0).values, x[0]).nan_to_num()
        shifted = x - origin
        if weights is None and not batches.missing:
            new = torch.full_like(origin, len(x))
            here = shifted.mean(0)
            centred = shared = shifted - here
        else:
            shares = torch.ones_like(x) if weights is None else weights.unsqueeze(1)
            shares = torch.where(x.isnan(), 0.0, shares)
            new = shares.sum(0)
            shifted = shifted.nan_to_num()
            here = (shares * shifted).sum(0) / new.clamp(min=torch.finfo(torch.float64).tiny)
            centred = shifted - here
            shared = shares * centred
        # A column that has had no entry yet does not move.
        share = torch.where(new > 0, new / (entries + new), 0.0)
        delta = here - mean
        if diagonal:
            scatter = scatter + (shared * centred).sum(0) + entries * share * delta**2
        else:
            scatter = scatter + shared.mT @ centred
            scatter = scatter + entries * share * delta.outer(delta)
        mean = mean + share * delta
        entries = entries + new
        rows += len(x)
        count += len(x) if weights is None else float(weights.sum())
    if not bool((entries > 0).all()):
        j = int((entries == 0).nonzero()[0])
        raise ValueError(f"x must have an entry in every column, got none in column {j}")
    return Moments(count, origin + mean, scatter / entries, rows)


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


def subsample(
    batches: Batches, size: int, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor | None]:
    r"""Return a random subset of the observations, in one pass.

    Each observation draws a random number :math:`u_i` between 0 and 1, and the ``size`` smallest
    are kept, so every subset is equally likely whatever the batches are. With fewer observations
    than that, all are returned.

    Observations with weights are ordered by :math:`u_i / w_i`, so that heavy ones are kept. With
    the smallest value t that is not kept, :math:`\max(w_i, 1 / t)` are their weights in the subset:
    the sum over any group of observations has the group's own weight as its expectation.

    Source: N. Duffield, C. Lund and M. Thorup, Priority sampling for estimation of arbitrary subset
    sums, Journal of the ACM 54 (2007), 32.

    Arguments:
        batches: The data.
        size: The number of observations wanted.
        generator: The source of randomness, or None for torch's own.

    Returns:
        Observations, `(min(n, size), D)`, and their weights, or None where they have none.

    Example:
        >>> x = torch.arange(6.0).reshape(6, 1)
        >>> rows, weights = subsample(Batches(x), 2, generator=torch.Generator().manual_seed(0))
        >>> rows.shape, weights
        (torch.Size([2, 1]), None)
    """
    check_count("size", size)
    check_generator(generator)
    device = source_device(generator, batches.device)
    kept: list[Tensor] = []
    for x, weights in batches.weighted():
        keys = torch.rand(len(x), dtype=torch.float64, generator=generator, device=device)
        keys = keys.to(x.device)
        new = [keys, x] if weights is None else [keys / weights, x, weights]
        kept = [torch.cat(both) for both in zip(kept, new, strict=True)] if kept else new
        order = kept[0].argsort()[: size + 1]
        kept = [values[order] for values in kept]
    threshold = kept[0][size:].reciprocal()
    rows, *weighing = (values[:size] for values in kept[1:])
    if not weighing:
        return rows, None
    return rows, weighing[0].clamp(min=float(threshold)) if len(threshold) else weighing[0]
