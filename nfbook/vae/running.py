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
        self.centre = self.centre + share * delta if self.count else mean
        self.count += new

    def mean(self) -> Estimate:
        """Return the mean, `(*)`, with its standard error, infinite for a single draw."""
        if self.count == 1:
            return Estimate(self.centre, torch.full_like(self.centre, math.inf))
        return Estimate(self.centre, (self.squares / (self.count - 1) / self.count).sqrt())


class RunningWeights:
    r"""The mean and the effective number of weights whose logarithms come in pieces, `(K, *)` each.

    Both need no more than :math:`\log \sum_k w_k` and :math:`\log \sum_k w_k^2`.

    Example:
        >>> weights = RunningWeights()
        >>> for piece in torch.tensor([0.0, 0.0, 0.0, -100.0]).split(2):
        ...     weights.add(piece)
        >>> weights.effective_sample_size()
        tensor(3.)
    """

    def __init__(self) -> None:
        self.count = 0
        self.log_sum = self.log_squares = torch.tensor(-math.inf)

    def add(self, log_w: Tensor) -> None:
        """Take in a piece, `(K, *)`.

        Raises:
            ValueError: A logarithm is NaN or plus infinity.
        """
        check_log_values("log_w", log_w, ("K", *log_w.shape[1:]))
        self.log_sum = torch.logaddexp(self.log_sum.to(log_w), log_w.logsumexp(0))
        self.log_squares = torch.logaddexp(self.log_squares.to(log_w), (2 * log_w).logsumexp(0))
        self.count += len(log_w)

    def effective_sample_size(self) -> Tensor:
        """Return how many weights count, from 1 to K, `(*)`; 0 if all are zero."""
        return (2 * self.log_sum - self.log_squares).exp().nan_to_num(nan=0.0)

    def log_mean(self) -> Estimate:
        r"""Return the logarithm of the mean, `(*)`, with its standard error.

        To first order it is that of the mean divided by the mean,
        :math:`\sqrt{1/\text{ESS} - 1/K}`; it is infinite for a single draw.
        """
        value = self.log_sum - math.log(self.count)
        if self.count == 1:
            return Estimate(value, torch.full_like(value, math.inf))
        variance = 1 / self.effective_sample_size() - 1 / self.count
        return Estimate(value, variance.clamp(min=0).sqrt())
