"""The bridge: what a flow of bounded slope leaves between two modes."""

from __future__ import annotations

from nfbook.explorables.base import Choice, Count, Explorable, Real

__all__ = ["BridgeExplorable"]


class BridgeExplorable(Explorable, module="bridge"):
    r"""Two modes on the line, and a flow from noise to data whose slope is bounded.

    With the modes at :math:`\pm a`, their width s and K layers, each of which has a slope of at
    most 2, the data have the distribution function F of an even mixture of
    :math:`\mathcal{N}(\pm a, s^2)`, and the flow is

    .. math:: g(z) = \operatorname{sign}(z)
        \min\bigl(L \lvert z \rvert,\; F^{-1}(\Phi(\lvert z \rvert))\bigr), \qquad L = 2^K .

    It follows the exact map of the noise to the data wherever that is not too far to reach with the
    slope L, and its density there is that of the data. In the middle it is
    :math:`\varphi(x / L) / L`. The gap is where \|x\| is below :math:`a / 2`, and the figure
    compares its probability under the flow with the least that any map of this slope can have
    there. In a live session the values can be read and set here.

    Attributes:
        peaks: Their distance from zero, a, from 2 to 5.
        width: Their standard deviation, s, from 0.25 to 1.
        layers: The number of layers K, from 0 to 16.
        scale: How densities are drawn, "linear" or "logarithmic".

    Raises:
        TypeError: A value has the wrong type.
        ValueError: A number lies outside its range, or there is no such scale.

    Example:
        >>> figure = BridgeExplorable(layers=6)
        >>> figure.peaks = 4.0
        >>> figure
        BridgeExplorable(peaks=4.0, width=0.5, layers=6, scale='linear')
    """

    peaks = Real(2.0, 5.0).tag(sync=True)
    width = Real(0.25, 1.0).tag(sync=True)
    layers = Count(16).tag(sync=True)
    scale = Choice("linear", "logarithmic").tag(sync=True)

    def __init__(
        self,
        *,
        peaks: float = 3.0,
        width: float = 0.5,
        layers: int = 3,
        scale: str = "linear",
    ) -> None:
        super().__init__(peaks=peaks, width=width, layers=layers, scale=scale)
