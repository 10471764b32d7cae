"""The ranks of the truth: what a posterior's faults look like, and which its own draws show."""

from __future__ import annotations

from nfbook.explorables.base import Explorable, Real

__all__ = ["RanksExplorable"]


class RanksExplorable(Explorable, module="ranks"):
    r"""A posterior that is known, and one that is shifted, widened or loses a mode.

    The exact posterior is a mixture of two Gaussians of width 1 with equal weights, at :math:`\pm
    a`, and q has the weights :math:`1 - w` and w, the width s and the shift :math:`\delta`:

    .. math:: p(z) = \tfrac12 \mathcal{N}(z \mid -a, 1) + \tfrac12 \mathcal{N}(z \mid a, 1), \qquad
        q(z) = (1 - w)\, \mathcal{N}(z \mid \delta - a, s^2)
        + w\, \mathcal{N}(z \mid \delta + a, s^2).

    The left picture shows both densities. The right one shows how probable each rank of the truth
    is among nine draws from q, which for an exact q is one in ten. Below stand the gap of the
    bound, the coverage of q's central 90 % interval, and what 1,000 draws from q say by their
    importance weights. All of it is computed, nothing is drawn. In a live session the values can be
    read and set here.

    Attributes:
        apart: Half of the distance between the components, a, from 0 to 3.
        shift: The shift :math:`\delta`, from -2 to 2.
        width: The width s, from 0.4 to 2.5.
        right: The weight w of the right component in q, from 0 to 1.

    Raises:
        TypeError: A value is no number.
        ValueError: A number lies outside its range.

    Example:
        >>> figure = RanksExplorable(width=0.5)
        >>> figure.right = 1.0
        >>> figure.values()
        {'apart': 2.0, 'shift': 0.0, 'width': 0.5, 'right': 1.0}
    """

    apart = Real(0.0, 3.0).tag(sync=True)
    shift = Real(-2.0, 2.0).tag(sync=True)
    width = Real(0.4, 2.5).tag(sync=True)
    right = Real(0.0, 1.0).tag(sync=True)

    def __init__(
        self, *, apart: float = 2.0, shift: float = 0.0, width: float = 1.0, right: float = 0.5
    ) -> None:
        super().__init__(apart=apart, shift=shift, width=width, right=right)
