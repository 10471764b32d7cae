"""What a bound is weighted with while training goes on: annealing and warm-up."""

from __future__ import annotations

from collections.abc import Callable

from nfbook._checks import check_count, check_real

__all__ = ["Annealing", "constant", "linear_annealing"]

Annealing = Callable[[int], float]
"""From the number of updates done, to a weight between 0 and 1."""


def constant(step: int) -> float:
    """Return 1, which is no annealing.

    Example:
        >>> constant(0)
        1
    """
    return 1


def linear_annealing(start: float = 0.01, updates: int = 10_000) -> Annealing:
    r"""Return :math:`\beta_t = \min(1, \beta_0 + t / T)`, by default that of the NF-VAE's authors.

    Source: D. J. Rezende and S. Mohamed, Variational inference with normalizing flows, ICML
    (2015), section 6.

    Arguments:
        start: The weight :math:`\beta_0` of the first update, from 0, as the warm-up of the
            divergence has it, to 1.
        updates: The number T of updates in which the weight would rise by 1.

    Raises:
        TypeError: A number has the wrong type.
        ValueError: It is out of its range.

    Example:
        >>> beta = linear_annealing()
        >>> beta(0), beta(5_000), beta(20_000)
        (0.01, 0.51, 1)
    """
    if not 0 <= check_real("start", start) <= 1:
        raise ValueError(f"start must lie between 0 and 1, got {start}")
    check_count("updates", updates)
    return lambda step: min(1, start + step / updates)
