r"""Whether ranks are uniform, by exact probabilities of their empirical distribution function.

All tests of this room end here. The numbers of n uniform ranks below increasing points
:math:`t_1 < \dots < t_P` are binomial, each by itself, and together the values at P times of a
Poisson process that has n events by time 1. So the probability that they stay between lower and
upper bounds, at all points at once, is a sum that needs no simulation and no approximation.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nfbook._checks import check_count, check_fraction, check_type

__all__ = ["UniformCounts", "ecdf_points"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# The most points at which an empirical distribution function is looked at.
MOST_POINTS = 100


def ecdf_points(num_draws: int) -> Tensor:
    r"""Return the ranks that the empirical distribution function is looked at below.

    A rank among L draws takes L + 1 values, from 0 to L. These are all of 1, ..., L, or 100 of them
    that are evenly spread.

    Arguments:
        num_draws: The number of draws L.

    Returns:
        Increasing whole numbers, `(P,)`.

    Raises:
        TypeError: num_draws is not an int.
        ValueError: It is less than 1.

    Example:
        >>> ecdf_points(4), len(ecdf_points(999))
        (tensor([1, 2, 3, 4]), 100)
    """
    check_count("num_draws", num_draws)
    count = min(num_draws, MOST_POINTS)
    return torch.linspace(1, num_draws, count, dtype=torch.float64).round().long()


class UniformCounts:
    r"""How many of n independent uniform numbers lie below each of some points.

    .. math:: C_j = \#\{i : u_i \le t_j\} \sim \operatorname{Binomial}(n, t_j),
        \qquad 0 < t_1 < \dots < t_P < 1.

    A count is as strange as its two-sided probability is small, :math:`\gamma_j(c) = 2 \min
    (\Pr(C_j \le c), \Pr(C_j \ge c))`, and all of them together as the strangest of them.

    Source: T. Säilynoja, P.-C. Bürkner and A. Vehtari, Graphical test for discrete uniformity and
    its applications in goodness-of-fit evaluation and multiple sample comparison, Statistics and
    Computing 32 (2022), 32, section 2. The probabilities are computed as A. Moscovich and B. Nadler
    do, Fast calculation of boundary crossing probabilities for Poisson processes, Statistics and
    Probability Letters 123 (2017), 177-182.

    Arguments:
        points: The points t, increasing and strictly between 0 and 1, `(P,)`.
        n: The number of uniform numbers.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: n is not positive, or the points are not as stated.

    Example:
        >>> counts = UniformCounts(torch.tensor([0.25, 0.5, 0.75]), 100)
        >>> counts.band(0.05)
        (tensor([15, 39, 65]), tensor([35, 61, 85]))
        >>> round(counts.p_value(torch.tensor([26, 49, 76])), 3)
        0.989
    """

    def __init__(self, points: Tensor, n: int) -> None:
        check_type("points", points, Tensor, "a torch.Tensor")
        check_count("n", n)
        t = points.detach().cpu().to(torch.float64)
        if (
            t.ndim != 1
            or not len(t)
            or not bool((torch.diff(t) > 0).all() and t[0] > 0 and t[-1] < 1)
        ):
            raise ValueError(
                f"points must be increasing and strictly between 0 and 1, got {points.tolist()}"
            )
        self.n = n
        self._t: Floats = t.numpy()

    @cached_property
    def _log_factorial(self) -> Floats:
        return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, self.n + 1)))])

    @cached_property
    def _strangeness(self) -> Floats:
        r"""The two-sided probabilities :math:`\gamma_j(c)`, `(P, n + 1)`."""
        c, t, log_factorial = np.arange(self.n + 1), self._t[:, None], self._log_factorial
        log_pmf = log_factorial[-1] - log_factorial - log_factorial[::-1]
        pmf = np.exp(log_pmf + c * np.log(t) + (self.n - c) * np.log1p(-t))
        below = pmf.cumsum(1)
        above = pmf[:, ::-1].cumsum(1)[:, ::-1]
        strangeness: Floats = 2 * np.minimum(below, above)
        return strangeness

    def p_value(self, counts: Tensor) -> float:
        r"""Return the probability that n uniform numbers are at least as strange as these counts.

        Arguments:
            counts: The counts at the points, whole numbers from 0 to n, `(P,)`.

        Raises:
            TypeError: counts is not a tensor of whole numbers.
            ValueError: Its shape does not fit, or a count is none that n numbers can have.
        """
        check_type("counts", counts, Tensor, "a torch.Tensor")
        if counts.is_floating_point() or counts.is_complex():
            raise TypeError(f"counts must hold whole numbers, got {counts.dtype}")
        if counts.shape != (len(self._t),):
            raise ValueError(f"counts must have shape ({len(self._t)},), got {tuple(counts.shape)}")
        c: Integers = counts.detach().cpu().numpy()
        if c.min() < 0 or c.max() > self.n:
            raise ValueError(f"counts must lie between 0 and {self.n}, got {c.min()} to {c.max()}")
        return self._stranger(self._strangeness[np.arange(len(c)), c].min())

    def band(self, level: float) -> tuple[Tensor, Tensor]:
        r"""Return the widest simultaneous band that uniform numbers leave no oftener than stated.

        Counts leave it exactly if their `p_value` is at most the level.

        Arguments:
            level: The probability that at least one count lies outside, between 0 and 1.

        Returns:
            The lowest and the highest counts inside, each `(P,)`.

        Raises:
            TypeError: level is not a number.
            ValueError: It does not lie between 0 and 1.
        """
        check_fraction("level", level)
        candidates = np.unique(self._strangeness)
        low, high = -1, len(candidates) - 1  # the last makes all counts strange
        while high - low > 1:
            middle = (low + high) // 2
            if self._stranger(candidates[middle]) <= level:
                low = middle
            else:
                high = middle
        lower, upper = _limits(self._inside(candidates[low] if low >= 0 else 0.0))
        return torch.from_numpy(lower), torch.from_numpy(upper)

    def _inside(self, gamma: float) -> npt.NDArray[np.bool_]:
        """Say of each count at each point whether it is less strange, by more than rounding."""
        return self._strangeness > gamma * (1 + 1e-9)

    def _stranger(self, gamma: float) -> float:
        r"""Return the probability that some count has a :math:`\gamma_j` of at most gamma."""
        inside = self._inside(gamma)
        if not inside.any(1).all():
            return 1.0
        lower, upper = _limits(inside)
        steps = np.diff(self._t, prepend=0.0, append=1.0)
        state, start = np.ones(1), 0
        for step, low, high in zip(steps, [*lower, self.n], [*upper, self.n], strict=True):
            jumps = self._poisson(step, high - start)
            state = np.convolve(state, jumps)[low - start : high - start + 1]
            start = low
        stays = state[0] / self._poisson(1.0, self.n)[-1]
        return float(np.clip(1 - stays, 0.0, 1.0))

    def _poisson(self, step: float, most: int) -> Floats:
        """Return the probabilities of 0, ..., most events in a part of the time."""
        c, rate = np.arange(most + 1), self.n * step
        probabilities: Floats = np.exp(c * np.log(rate) - rate - self._log_factorial[: most + 1])
        return probabilities


def _limits(inside: npt.NDArray[np.bool_]) -> tuple[Integers, Integers]:
    """Return the lowest and the highest count inside at each point; all between them are, too."""
    return inside.argmax(1), inside.shape[1] - 1 - inside[:, ::-1].argmax(1)
