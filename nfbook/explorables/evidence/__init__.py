"""The evidence: how the integral over a latent variable builds up, as z is dragged along."""

from __future__ import annotations

from nfbook.explorables.base import Choice, Explorable, Real

__all__ = ["EvidenceExplorable"]


class EvidenceExplorable(Explorable, module="evidence"):
    r"""The density of x as it builds up, while z moves from left to right.

    The latent variable is :math:`z \sim \mathcal{N}(0, 1)`, and :math:`x` given :math:`z` is
    :math:`\mathcal{N}(c(z), \sigma^2)`, with one of two curves :math:`c`. The figure shows the
    part of the evidence that all latent variables up to z contribute,

    .. math:: \int_{-\infty}^{z} p(x \mid z', \theta)\, p(z')\, dz',

    beside the whole, :math:`p(x \mid \theta)`.

    ==========  ======================  =============================================
    ``curve``   :math:`c(z)`            the evidence
    ==========  ======================  =============================================
    bent        :math:`3 \tanh 2z`      two peaks, unless the noise covers them
    straight    :math:`1.5\, z`         :math:`\mathcal{N}(0,\ 1.5^2 + \sigma^2)`
    ==========  ======================  =============================================

    In a live session the values can be read and set here.

    Attributes:
        curve: What the mean of x given z follows: "bent" or "straight".
        z: The latent variable up to which the integral runs, from -3 to 3.
        noise: The standard deviation :math:`\sigma` of x given z, from 0.2 to 1.5.

    Raises:
        TypeError: A value has the wrong type.
        ValueError: A number lies outside its range, or there is no such curve.

    Example:
        >>> figure = EvidenceExplorable(curve="straight", z=1.0)
        >>> figure.noise = 0.8
        >>> figure
        EvidenceExplorable(curve='straight', z=1.0, noise=0.8)
    """

    curve = Choice("bent", "straight").tag(sync=True)
    z = Real(-3.0, 3.0).tag(sync=True)
    noise = Real(0.2, 1.5).tag(sync=True)

    def __init__(self, *, curve: str = "bent", z: float = 0.2, noise: float = 0.5) -> None:
        super().__init__(curve=curve, z=z, noise=noise)
