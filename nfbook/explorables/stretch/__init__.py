"""The stretch: a map of the plane, and what it does to areas and to a density."""

from __future__ import annotations

from nfbook.explorables.base import Explorable, Real

__all__ = ["StretchExplorable"]


class StretchExplorable(Explorable, module="stretch"):
    r"""A standard Gaussian in the plane, its image under a map, and a small square in both.

    The map from noise to data and its Jacobian determinant are

    .. math::
        g(\mathbf{z}) = \begin{pmatrix} 2^{a z_2} z_1 + b z_2^2 \\ z_2 \end{pmatrix},
        \qquad \det J_g(\mathbf{z}) = 2^{a z_2} .

    The figure tints both planes by their densities,
    :math:`p_{\mathbf{x}}(g(\mathbf{z})) = p_{\mathbf{z}}(\mathbf{z}) / \det J_g(\mathbf{z})`,
    and compares the area of a square around **z** with that of its image. In a live session the
    values can be read and set here.

    Attributes:
        stretch: The exponent :math:`a`, from -0.5 to 0.5.
        bend: The coefficient :math:`b`, from -0.5 to 0.5.
        across: The first coordinate of the square's centre, from -1.5 to 1.5.
        up: The second coordinate of its centre, from -2 to 2.
        side: The side of the square, from 0.1 to 1.

    Raises:
        TypeError: A value is not a number.
        ValueError: A number lies outside its range.

    Example:
        >>> figure = StretchExplorable(stretch=0.5, bend=0.0)
        >>> figure.up = 2.0
        >>> figure
        StretchExplorable(stretch=0.5, bend=0.0, across=0.5, up=2.0, side=0.5)
    """

    stretch = Real(-0.5, 0.5).tag(sync=True)
    bend = Real(-0.5, 0.5).tag(sync=True)
    across = Real(-1.5, 1.5).tag(sync=True)
    up = Real(-2.0, 2.0).tag(sync=True)
    side = Real(0.1, 1.0).tag(sync=True)

    def __init__(
        self,
        *,
        stretch: float = 0.4,
        bend: float = 0.4,
        across: float = 0.5,
        up: float = 1.0,
        side: float = 0.5,
    ) -> None:
        super().__init__(stretch=stretch, bend=bend, across=across, up=up, side=side)
