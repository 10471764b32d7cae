"""A field on the line: its particles, its density in time, and the same in K layers."""

from __future__ import annotations

from nfbook.explorables.base import Choice, Explorable, Real

__all__ = ["FieldExplorable"]


class FieldExplorable(Explorable, module="field"):
    r"""Particles and density of a continuous flow on the line, beside those of K layers.

    At time 0 the density is the standard Gaussian. The particles follow

    .. math:: \frac{\mathrm{d} z}{\mathrm{d} t} = v(z, t), \qquad
        \log p(z(t), t) = \log p(z(0), 0)
        - \int_0^t \frac{\partial v}{\partial z}(z(s), s) \,\mathrm{d} s,

    and the K layers are :math:`z_{k+1} = z_k + \frac1K v(z_k, \frac kK)`, with log-determinants in
    the place of the integral. One particle, which starts at ``start``, can be dragged.

    ==============  ====================================
    ``field``       velocity v(z, t)
    ==============  ====================================
    stretch         :math:`0.8 z`
    split           :math:`1.2 \tanh 2 z`
    gather          :math:`-1.2 \tanh 2 z`
    there and back  :math:`2.5 \cos(\pi t) \tanh 2 z`
    ==============  ====================================

    `nfbook.transforms.Continuous` computes the same for any field. In a live session the values
    can be read and set here.

    Attributes:
        field: The name of the field.
        layers: The number of layers K, as a word: "1", "2", "4" or "16".
        time: The time t that is shown, from 0 to 1.
        start: Where the marked particle is at time 0, from -2.5 to 2.5.

    Raises:
        TypeError: A value has the wrong type.
        ValueError: A number lies outside its range, or there is no such field or K.

    Example:
        >>> figure = FieldExplorable(field="gather", layers="2")
        >>> figure.time = 1.0
        >>> figure
        FieldExplorable(field='gather', layers='2', time=1.0, start=0.5)
    """

    field = Choice("stretch", "split", "gather", "there and back").tag(sync=True)
    layers = Choice("1", "2", "4", "16").tag(sync=True)
    time = Real(0.0, 1.0).tag(sync=True)
    start = Real(-2.5, 2.5).tag(sync=True)

    def __init__(
        self, *, field: str = "split", layers: str = "2", time: float = 0.6, start: float = 0.5
    ) -> None:
        super().__init__(field=field, layers=layers, time=time, start=start)
