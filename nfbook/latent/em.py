r"""The EM algorithm: climb a bound on the log-likelihood, one block of coordinates at a time.

For any distribution q over the latent variables the bound
:math:`\mathcal{L}(q, \theta) = \mathbb{E}_q \log p(\mathbf{X}, \mathbf{Z} \mid \theta) +
\mathrm{H}(q)` is at most :math:`\log p(\mathbf{X} \mid \theta)`. The E-step raises it over q, the
M-step over :math:`\theta`.

The M-step sees the data through a few sums only, the expected sufficient statistics. So the
E-step returns those: they can be added up over batches of the data, and their size does not
depend on how many observations there were.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor

from nfbook._checks import check_count, check_real, check_type
from nfbook.latent.batches import Batches

if TYPE_CHECKING:
    from tqdm import tqdm

__all__ = [
    "Fit",
    "History",
    "Statistics",
    "best",
    "check_start_dtype",
    "check_stopping",
    "climb",
    "progress_bar",
]


class Statistics(Protocol):
    """What an E-step returns: sums over observations, so that batches can be added."""

    @property
    def count(self) -> int:
        """The number of observations n."""

    def __add__(self, other: Self, /) -> Self:
        """Return the statistics of both batches together."""


S = TypeVar("S", bound=Statistics)


class Climbable(Protocol[S]):
    """A model that EM can fit."""

    def e_step(self, x: Tensor) -> S:
        """Return the expected sufficient statistics under the best q."""

    def m_step(self, statistics: S) -> Self:
        """Return the model with the best parameters for that q."""

    def bound(self, statistics: S) -> Tensor:
        """Return the bound of this model for the q behind the statistics."""


M_co = TypeVar("M_co", covariant=True)
C = TypeVar("C", bound=Climbable)  # type: ignore[type-arg]


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


def climb(
    model: C,
    batches: Batches,
    *,
    tolerance: float,
    max_iterations: int,
    m_step: Callable[[C, Any], C] | None = None,
    progress: bool = True,
    what: str = "EM",
) -> Fit[C]:
    r"""Alternate E-steps and M-steps until the bound stops rising.

    Arguments:
        model: The start. It has ``e_step``, ``m_step`` and ``bound``.
        batches: The data.
        tolerance: Stop when an iteration gains no more than this, in nats per observation.
        max_iterations: The largest number of M-steps.
        m_step: Takes model and statistics in place of the model's own ``m_step``, where that one
            needs more arguments.
        progress: Whether a run of more than two seconds shows how far it is.
        what: What the progress bar is called.

    Returns:
        The last model, and the history with the bound after each half-step.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The tolerance is negative, or a count is too small.

    Example:
        >>> from nfbook.latent import GaussianMixture
        >>> x = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]], dtype=torch.float64)
        >>> half, one = torch.full((2,), 0.5).double(), torch.ones(2, 1, 1).double()
        >>> start = GaussianMixture(half, x[1:3], one)
        >>> fit = climb(start, Batches(x), tolerance=1e-9, max_iterations=100)
        >>> bool((fit.history.half_steps.diff() > -1e-12).all())
        True
    """
    check_stopping(tolerance, max_iterations)
    after_e_step: list[float] = []
    after_m_step: list[float] = []
    converged = False
    with progress_bar(max_iterations, what, show=progress) as bar:
        while True:
            statistics = _expected_statistics(model, batches)
            after_e_step.append(float(model.bound(statistics)))
            converged = (
                len(after_e_step) > 1
                and after_e_step[-1] - after_e_step[-2] <= tolerance * statistics.count
            )
            if converged or len(after_m_step) == max_iterations:
                break
            model = model.m_step(statistics) if m_step is None else m_step(model, statistics)
            after_m_step.append(float(model.bound(statistics)))
            bar.set_postfix_str(f"bound {after_m_step[-1]:.6g}", refresh=False)
            bar.update()
    history = History(
        torch.tensor(after_e_step, dtype=torch.float64),
        torch.tensor(after_m_step, dtype=torch.float64),
        converged,
    )
    return Fit(model, history)


def best(fits: list[Fit[C]]) -> Fit[C]:
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


def progress_bar(total: int, what: str, *, show: bool) -> tqdm[None]:
    """Return a bar that appears after two seconds and leaves nothing behind.

    It is drawn in a terminal and in a live notebook, never into a file. A notebook does not know
    whether its outputs will be stored: where they will, set the environment variable TQDM_DISABLE.

    Example:
        >>> with progress_bar(10, "EM", show=False) as bar:
        ...     _ = bar.update()
    """
    from tqdm.auto import tqdm  # it looks for a notebook's widgets, which takes a while

    check_type("progress", show, bool, "True or False")
    quiet = not show or bool(os.environ.get("TQDM_DISABLE"))
    # None: drawn unless the output is a file.
    return tqdm(total=total, desc=what, delay=2, leave=False, disable=quiet or None)


def _expected_statistics(model: Climbable[S], batches: Batches) -> S:
    total = None
    for x in batches:
        part = model.e_step(x)
        total = part if total is None else total + part
    assert total is not None, "Batches is never empty"
    return total
