"""Seeds: how often a comparison with n of them comes out right."""

from __future__ import annotations

from nfbook.explorables.base import Choice, Count, Explorable, Real

__all__ = ["SeedsExplorable"]


class SeedsExplorable(Explorable, module="seeds"):
    r"""Forty repeats of one comparison of two methods, each with n pairs of runs.

    The paired differences of one repeat are independent draws from
    :math:`\mathcal{N}(\delta, \sigma^2)`, and method A is better by :math:`\delta \ge 0`. The upper
    picture shows the density of one difference and of the mean of n. The lower one shows the mean
    of each repeat, with the interval of the t-test at 5 %. The numbers are exact: the probability
    of the right order, :math:`\Phi(\sqrt n\, \delta / \sigma)`, and that of a test which says so.
    In a live session the values can be read and set here.

    Attributes:
        effect: The true difference δ, in nats, from 0 to 2.
        spread: The standard deviation σ of the difference of one pair, in nats, from 0.1 to 2.
        seeds: How many pairs a repeat has: "1", "2", "3", "5", "10" or "20".
        draw: Which forty repeats are shown, from 0 to 20.

    Raises:
        TypeError: A value has the wrong type.
        ValueError: A number lies outside its range, or there is no such number of seeds.

    Example:
        >>> figure = SeedsExplorable(effect=0.5)
        >>> figure.seeds = "10"
        >>> figure
        SeedsExplorable(effect=0.5, spread=0.5, seeds='10', draw=0)
    """

    effect = Real(0.0, 2.0).tag(sync=True)
    spread = Real(0.1, 2.0).tag(sync=True)
    seeds = Choice("1", "2", "3", "5", "10", "20").tag(sync=True)
    draw = Count(20).tag(sync=True)

    def __init__(
        self, *, effect: float = 0.3, spread: float = 0.5, seeds: str = "3", draw: int = 0
    ) -> None:
        super().__init__(effect=effect, spread=spread, seeds=seeds, draw=draw)
