"""The coin: a Beta prior, Bernoulli data, and the posterior of both."""

from __future__ import annotations

from nfbook.explorables.base import Count, Explorable, Real

__all__ = ["CoinExplorable"]


class CoinExplorable(Explorable, module="coin"):
    r"""Prior, scaled likelihood and posterior of a coin's probability of heads.

    The prior is :math:`\mathrm{Beta}(a, b)`; after :math:`h` heads and :math:`t` tails the
    posterior is :math:`\mathrm{Beta}(a + h, b + t)`, and the evidence of the sequence is

    .. math:: p(\mathbf{X}) = \frac{B(a + h, b + t)}{B(a, b)}.

    `nfbook.bayes.BetaBernoulli` computes the same in Python. Curves, MAP, posterior mean, MLE
    and log-evidence move with the values; in a live session they can be read and set here.

    Attributes:
        prior_a: The prior's :math:`a`, from 0.1 to 20.
        prior_b: The prior's :math:`b`, from 0.1 to 20.
        heads: The number of heads, from 0 to 50.
        tails: The number of tails, from 0 to 50.

    Raises:
        TypeError: A value is not a number, or a count is not whole.
        ValueError: A value lies outside its range.

    Example:
        >>> coin = CoinExplorable(prior_a=2.0, prior_b=2.0, heads=7, tails=3)
        >>> coin.heads = 8
        >>> coin
        CoinExplorable(prior_a=2.0, prior_b=2.0, heads=8, tails=3)
    """

    prior_a = Real(0.1, 20.0).tag(sync=True)
    prior_b = Real(0.1, 20.0).tag(sync=True)
    heads = Count(50).tag(sync=True)
    tails = Count(50).tag(sync=True)

    def __init__(
        self, *, prior_a: float = 2.0, prior_b: float = 2.0, heads: int = 7, tails: int = 3
    ) -> None:
        super().__init__(prior_a=prior_a, prior_b=prior_b, heads=heads, tails=tails)
