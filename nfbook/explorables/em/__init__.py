"""EM on Old Faithful: two components, taken half a step at a time from dragged starts."""

from __future__ import annotations

from nfbook.explorables.base import Count, Explorable, Real

__all__ = ["EmExplorable"]


class EmExplorable(Explorable, module="em"):
    r"""A mixture of two Gaussians on the Old Faithful data, after so many half-steps of EM.

    Both components begin with weight 1/2 and with the covariance matrix of all data; their means
    are chosen. Before the first E-step q gives both components the probability 1/2. Odd half-steps
    are E-steps, even ones M-steps, with the floor of `nfbook.latent.GaussianMixture.fit`. The
    bound touches the log-likelihood after each E-step, and both climb:

    .. math::
        \mathcal{L}(q, \theta) \le \log p(\mathbf{X} \mid \theta).

    Attributes:
        first_eruption: The first component's mean duration at the start, in minutes, from 1 to 6.
        first_wait: Its mean wait until the next eruption, in minutes, from 40 to 100.
        second_eruption: The second component's mean duration.
        second_wait: Its mean wait.
        half_steps: The number of half-steps taken, from 0 to 80.

    Raises:
        TypeError: A value is not a number, or the count is not whole.
        ValueError: A value lies outside its range.

    Example:
        >>> figure = EmExplorable(half_steps=4)
        >>> figure.first_eruption = 2.0
        >>> figure.half_steps
        4
    """

    first_eruption = Real(1.0, 6.0).tag(sync=True)
    first_wait = Real(40.0, 100.0).tag(sync=True)
    second_eruption = Real(1.0, 6.0).tag(sync=True)
    second_wait = Real(40.0, 100.0).tag(sync=True)
    half_steps = Count(80).tag(sync=True)

    def __init__(
        self,
        *,
        first_eruption: float = 3.0,
        first_wait: float = 85.0,
        second_eruption: float = 3.5,
        second_wait: float = 60.0,
        half_steps: int = 0,
    ) -> None:
        super().__init__(
            first_eruption=first_eruption,
            first_wait=first_wait,
            second_eruption=second_eruption,
            second_wait=second_wait,
            half_steps=half_steps,
        )
