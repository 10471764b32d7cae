r"""The EM algorithm: raise a bound on the log-likelihood, one block of coordinates at a time.

For any distribution q over the latent variables the bound
:math:`\mathcal{L}(q, \theta) = \mathbb{E}_q \log p(\mathbf{X}, \mathbf{Z} \mid \theta) +
\mathrm{H}(q)` is at most :math:`\log p(\mathbf{X} \mid \theta)`. The E-step raises it over q, the
M-step over :math:`\theta`.

The M-step sees the data through a few sums only, the expected sufficient statistics. So the
E-step returns those: they can be added up over batches of the data, and their size does not
depend on how many observations there were.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor

from nfbook.data.batches import Batches
from nfbook.fitting import Fit, History, check_stopping
from nfbook.progress import progress_bar

__all__ = ["EMModel", "Statistics", "check_own", "run_em"]


class Statistics(Protocol):
    """What an E-step returns: sums over observations, so that batches can be added."""

    @property
    def count(self) -> float:
        """The number of observations n, or the sum of their weights."""

    def __add__(self, other: Self, /) -> Self:
        """Return the statistics of both batches together."""


S = TypeVar("S", bound=Statistics)


class EMModel(Protocol[S]):
    """A model that EM can fit."""

    def e_step(self, x: Tensor, *, weights: Tensor | None = None) -> S:
        """Return the expected sufficient statistics under the best q."""

    def m_step(self, statistics: S) -> Self:
        """Return the model with the best parameters for that q."""

    def bound(self, statistics: S) -> Tensor:
        """Return the bound of this model for the q behind the statistics."""


def check_own(model: object, maker: object) -> None:
    """Check that statistics come from the E-step of the very model whose M-step they are for.

    Example:
        >>> check_own("one", "another")
        Traceback (most recent call last):
        ...
        ValueError: statistics must come from this model's own e_step, got those of another model
    """
    if maker is not model:
        raise ValueError(
            "statistics must come from this model's own e_step, got those of another model"
        )


C = TypeVar("C", bound=EMModel)  # type: ignore[type-arg]


def run_em(
    model: C,
    batches: Batches,
    *,
    tolerance: float,
    max_iterations: int,
    e_step: Callable[..., Any] | None = None,
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
        e_step: Takes model and observations, and ``weights=`` where they have weights, in place of
            the model's own ``e_step``, where that one needs more arguments.
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
        >>> fit = run_em(start, Batches(x), tolerance=1e-9, max_iterations=100)
        >>> bool((fit.history.half_steps.diff() > -1e-12).all())
        True
    """
    check_stopping(tolerance, max_iterations)
    after_e_step: list[float] = []
    after_m_step: list[float] = []
    converged = False
    with progress_bar(max_iterations, what, show=progress) as bar:
        while True:
            statistics = _expected_statistics(model, batches, e_step)
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
        torch.tensor(after_e_step, dtype=torch.float64, device="cpu"),
        torch.tensor(after_m_step, dtype=torch.float64, device="cpu"),
        converged,
    )
    return Fit(model, history)


def _expected_statistics(
    model: EMModel[S], batches: Batches, e_step: Callable[..., Any] | None
) -> S:
    total: Any = None
    for x, weights in batches.weighted():
        options = {} if weights is None else {"weights": weights}
        part = model.e_step(x, **options) if e_step is None else e_step(model, x, **options)
        total = part if total is None else total + part
    assert total is not None, "Batches is never empty"
    checked: S = total
    return checked
