"""The bound: a Gaussian q beside an exact posterior, and the gap between bound and evidence."""

from __future__ import annotations

from nfbook.explorables.base import Choice, Explorable, Real

__all__ = ["BoundExplorable"]


class BoundExplorable(Explorable, module="bound"):
    r"""The evidence lower bound of one observation, and its gap, as q moves.

    The latent variable is :math:`z \sim \mathcal{N}(0, 1)`, and :math:`x = 2` was observed, under
    one of two models. The figure shows
    :math:`q(z) = \mathcal{N}(z \mid m, s^2)` beside the posterior, and
    that entropy minus energy is the bound, and bound and gap add up to the log-evidence:

    .. math::
        \mathrm{H}(q) - \mathbb{E}_q [-\log p(x, z \mid \theta)] = \mathcal{L}(q, \theta)
        = \log p(x \mid \theta) - \mathrm{KL}\bigl(q(z) \,\|\, p(z \mid x, \theta)\bigr).

    =============  ========================================  ==================================
    ``posterior``  likelihood                                posterior
    =============  ========================================  ==================================
    one peak       :math:`\mathcal{N}(0.8 z + 0.5,\ 0.6^2)`  :math:`\mathcal{N}(1.2,\ 0.6^2)`
    two peaks      :math:`\mathcal{N}(z^2,\ 0.5^2)`          peaks near :math:`\pm\sqrt{2}`
    =============  ========================================  ==================================

    With one peak a Gaussian q closes the gap; with two peaks none does. The first model is
    ``PPCA(torch.tensor([[0.8]]), torch.tensor([0.5]), 0.36)`` of `nfbook.latent`. In a live
    session the values can be read and set here.

    Attributes:
        posterior: The model: "one peak" or "two peaks".
        mean: The mean :math:`m` of q, from -2.5 to 2.5.
        stddev: The standard deviation :math:`s` of q, from 0.1 to 1.5.

    Raises:
        TypeError: A value has the wrong type.
        ValueError: A number lies outside its range, or there is no such model.

    Example:
        >>> figure = BoundExplorable(posterior="two peaks", mean=-1.4)
        >>> figure.stddev = 0.2
        >>> figure
        BoundExplorable(posterior='two peaks', mean=-1.4, stddev=0.2)
    """

    posterior = Choice("one peak", "two peaks").tag(sync=True)
    mean = Real(-2.5, 2.5).tag(sync=True)
    stddev = Real(0.1, 1.5).tag(sync=True)

    def __init__(
        self, *, posterior: str = "one peak", mean: float = 0.0, stddev: float = 1.0
    ) -> None:
        super().__init__(posterior=posterior, mean=mean, stddev=stddev)
