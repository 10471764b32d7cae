"""What a fit is made of: its result, its history, when it stops, and the size of its steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from nfbook._checks import check_count, check_real

__all__ = ["Fit", "History", "best", "check_start_dtype", "check_stopping", "robbins_monro"]


M_co = TypeVar("M_co", covariant=True)
M = TypeVar("M")


@dataclass(frozen=True)
class History:
    r"""The bound after each half-step of a fit, in nats, summed over the observations.

    Where the E-step is exact, ``after_e_step`` is the log-likelihood of the data: it opens with
    that of the start and ends with that of the result.

    Attributes:
        after_e_step: :math:`\mathcal{L}(q_{t+1}, \theta_t)` for t = 0, ..., T, shape `(T + 1,)`.
        after_m_step: :math:`\mathcal{L}(q_{t+1}, \theta_{t+1})` for t = 0, ..., T - 1, `(T,)`.
        converged: Whether the last step gained no more than the tolerance.
        restarts: The last bound of every restart, `(R,)`. The fit is the best of them.

    Example:
        >>> history = History(
        ...     torch.tensor([-9.0, -5.0, -4.0]), torch.tensor([-6.0, -4.5]), True
        ... )
        >>> history.half_steps
        tensor([-9.0000, -6.0000, -5.0000, -4.5000, -4.0000])
        >>> history
        History(2 iterations, bound -9 to -4, converged)
    """

    after_e_step: Tensor
    after_m_step: Tensor
    converged: bool
    restarts: Tensor | None = None

    @property
    def iterations(self) -> int:
        """The number T of M-steps."""
        return len(self.after_m_step)

    @property
    def half_steps(self) -> Tensor:
        """The bound after every half-step, in their order, shape `(2 T + 1,)`."""
        pairs = torch.stack([self.after_e_step[:-1], self.after_m_step], dim=1)
        return torch.cat([pairs.flatten(), self.after_e_step[-1:]])

    def __repr__(self) -> str:
        first, last = float(self.after_e_step[0]), float(self.after_e_step[-1])
        end = "converged" if self.converged else "not converged"
        steps = "1 iteration" if self.iterations == 1 else f"{self.iterations} iterations"
        return f"History({steps}, bound {first:.6g} to {last:.6g}, {end})"


class Fit(NamedTuple, Generic[M_co]):
    """A fitted model and the history of the fit.

    Attributes:
        model: The fitted model.
        history: The bound after each half-step.

    Example:
        >>> from nfbook.latent import PPCA
        >>> x = torch.tensor([[3.0, 1.0], [-3.0, 1.0], [3.0, -1.0], [-3.0, -1.0]])
        >>> model, history = PPCA.fit(x, 1)
        >>> model.noise_variance
        tensor(1.)
    """

    model: M_co
    history: History


def best(fits: list[Fit[M]]) -> Fit[M]:
    """Return the fit with the highest bound, with the bounds of all in its history.

    Example:
        >>> low, high = (History(torch.tensor([b]), torch.empty(0), True) for b in (-3.0, -2.0))
        >>> best([Fit("low", low), Fit("high", high)])
        Fit(model='high', history=History(0 iterations, bound -2 to -2, converged))
    """
    ends = torch.stack([fit.history.after_e_step[-1] for fit in fits])
    model, history = fits[int(ends.argmax())]
    return Fit(model, History(history.after_e_step, history.after_m_step, history.converged, ends))


def check_start_dtype(start: Tensor, dtype: torch.dtype) -> None:
    """Check that a fit starts in the dtype of the data.

    Example:
        >>> check_start_dtype(torch.zeros(2), torch.float64)
        Traceback (most recent call last):
        ...
        TypeError: x and start must have the same dtype, got torch.float64 and torch.float32
    """
    if start.dtype != dtype:
        raise TypeError(f"x and start must have the same dtype, got {dtype} and {start.dtype}")


def check_stopping(tolerance: object, max_iterations: object) -> None:
    """Check the two arguments that say when a fit stops.

    Example:
        >>> check_stopping(-1.0, 10)
        Traceback (most recent call last):
        ...
        ValueError: tolerance must be at least 0, got -1.0
    """
    if check_real("tolerance", tolerance) < 0:
        raise ValueError(f"tolerance must be at least 0, got {tolerance}")
    check_count("max_iterations", max_iterations)


def robbins_monro(
    first: float = 0.5, flat: float = 100, power: float = 0.7
) -> Callable[[int], float]:
    r"""Return step sizes that fall slowly enough to arrive and fast enough to stay.

    .. math:: \kappa_t = \frac{\kappa_0}{(1 + t / \tau)^\alpha}, \qquad
        \sum_t \kappa_t = \infty, \qquad \sum_t \kappa_t^2 < \infty.

    Source: H. Robbins and S. Monro, A stochastic approximation method, Annals of Mathematical
    Statistics 22 (1951), 400-407.

    Arguments:
        first: The first step size :math:`\kappa_0`, above 0 and at most 1.
        flat: The number :math:`\tau` of steps after which the size has fallen by the factor
            :math:`2^{-\alpha}`, above 0.
        power: The exponent :math:`\alpha`, above 1/2 and at most 1, which gives the two sums.

    Returns:
        The function from t to :math:`\kappa_t`.

    Raises:
        TypeError: An argument is not a number.
        ValueError: An argument is out of its range.

    Example:
        >>> step_size = robbins_monro(first=0.5, flat=10, power=1.0)
        >>> step_size(0), step_size(10), step_size(90)
        (0.5, 0.25, 0.05)
    """
    if not 0 < check_real("first", first) <= 1:
        raise ValueError(f"first must be above 0 and at most 1, got {first}")
    if not check_real("flat", flat) > 0:
        raise ValueError(f"flat must be above 0, got {flat}")
    if not 0.5 < check_real("power", power) <= 1:
        raise ValueError(f"power must be above 0.5 and at most 1, got {power}")
    return lambda t: float(first / (1 + t / flat) ** power)
