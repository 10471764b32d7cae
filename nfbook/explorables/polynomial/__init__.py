"""Old Faithful's waiting times as a polynomial of the duration, under a prior of any width."""

from __future__ import annotations

from nfbook.explorables.base import Count, Explorable, Real

__all__ = ["PolynomialExplorable"]


class PolynomialExplorable(Explorable, module="polynomial"):
    r"""The predictive of a Bayesian polynomial regression on Old Faithful, and its evidence.

    The targets are waiting times in tens of minutes from 70, the features the Chebyshev polynomials
    :math:`T_0(u), \dots, T_k(u)` of the duration, scaled to :math:`u = (t - 3.5) / 2`. The noise
    has the standard deviation 0.6, and every weight the prior :math:`\mathcal{N}(0, \tau^2)`.

    `nfbook.bayes.LinearRegression` computes the same in Python. The mean and the central 95 % of
    the predictive, fit, log Occam factor and log-evidence move with the values.

    Attributes:
        degree: The degree k of the polynomial, from 0 to 16.
        prior_width: The standard deviation :math:`\tau` of each weight's prior, from 0.1 to 10.

    Raises:
        TypeError: A value is not a number, or the degree is not whole.
        ValueError: A value lies outside its range.

    Example:
        >>> figure = PolynomialExplorable(degree=8, prior_width=3.0)
        >>> figure.degree = 4
        >>> figure
        PolynomialExplorable(degree=4, prior_width=3.0)
    """

    degree = Count(16).tag(sync=True)
    prior_width = Real(0.1, 10.0).tag(sync=True)

    def __init__(self, *, degree: int = 8, prior_width: float = 3.0) -> None:
        super().__init__(degree=degree, prior_width=prior_width)
