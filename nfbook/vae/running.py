"""Means over more draws than are held at once: of numbers, and of weights given as logarithms."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nfbook._checks import check_log_values
from nfbook.estimators import Estimate

__all__ = ["RunningMoments", "RunningWeights"]


class RunningMoments:
    r"""Mean and variance of draws that come in pieces, `(K, *)` each.

    A piece of b draws whose mean differs by :math:`\delta` from that of the a draws before adds its
    own sum of squares and :math:`\frac{a b}{a + b} \delta^2` (Chan, Golub and LeVeque, 1983).

    Example:
        >>> moments = RunningMoments()
        >>> for piece in torch.tensor([1.0, 2.0, 6.0]).split(2):
        ...     moments.add(piece)
        >>> moments.mean().value
        tensor(3.)
    """

    def __init__(self) -> None:
        self.count = 0
        self.centre = self.squares = torch.zeros(())

    def add(self, values: Tensor) -> None:
        """Take in a piece, `(K, *)`."""
        mean, new = values.mean(0), len(values)
        squares = (values - mean).square().sum(0)
        delta = mean - self.centre if self.count else torch.zeros_like(mean)
        share = new / (self.count + new)
        self.squares = self.squares + squares + self.count * share * delta.square()
        # Where a mean is infinite, as that of a weight of zero is, so is the mean of all.
        moved = torch.where(delta.isfinite(), share * delta, mean)
        self.centre = self.centre + moved if self.count else mean
        self.count += new

    def mean(self) -> Estimate:
        """Return the mean, `(*)`, with its standard error, infinite for a single draw."""
        if self.count == 1:
            return Estimate(self.centre, torch.full_like(self.centre, math.inf))
        error = (self.squares / (self.count - 1) / self.count).sqrt()
        return Estimate(self.centre, error.nan_to_num(nan=math.inf, posinf=math.inf))


class RunningWeights:
    r"""The mean and the effective number of weights whose logarithms come in pieces, `(K, *)` each.

    Both need no more than the largest weight, and :math:`\sum_k w_k` and :math:`\sum_k w_k^2` in
    its units. Their logarithms in other units may be large, and nearly equal.

    Example:
        >>> weights = RunningWeights()
        >>> for piece in torch.tensor([0.0, 0.0, 0.0, -100.0]).split(2):
        ...     weights.add(piece)
        >>> weights.effective_sample_size()
        tensor(3.)
    """

    def __init__(self) -> None:
        self.count = 0
        self.log_largest = torch.tensor(-math.inf)
        self.sum = self.squares = torch.zeros(())

    def add(self, log_w: Tensor) -> None:
        """Take in a piece, `(K, *)`.

        Raises:
            ValueError: A logarithm is NaN or plus infinity.
        """
        check_log_values("log_w", log_w, ("K", *log_w.shape[1:]))
        before = self.log_largest.to(log_w)
        self.log_largest = torch.maximum(before, log_w.amax(0))
        unit = torch.where(self.log_largest.isneginf(), 0.0, self.log_largest)
        w, shrunk = (log_w - unit).exp(), (before - unit).exp()
        self.sum = shrunk * self.sum.to(w) + w.sum(0)
        self.squares = shrunk.square() * self.squares.to(w) + w.square().sum(0)
        self.count += len(log_w)

    def effective_sample_size(self) -> Tensor:
        """Return how many weights count, from 1 to K, `(*)`; 0 if all are zero."""
        return (self.sum.square() / self.squares).nan_to_num(nan=0.0)

    def log_mean(self) -> Estimate:
        r"""Return the logarithm of the mean, `(*)`, with its standard error.

        To first order it is that of the mean divided by the mean,
        :math:`\sqrt{1/\text{ESS} - 1/K}`; it is infinite for a single draw.
        """
        value = self.log_largest + (self.sum / self.count).log()
        if self.count == 1:
            return Estimate(value, torch.full_like(value, math.inf))
        variance = 1 / self.effective_sample_size() - 1 / self.count
        return Estimate(value, variance.clamp(min=0).sqrt())
