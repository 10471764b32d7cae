"""The matrix: a linear flow in the plane by its factors, the square's image and the ellipse."""

from __future__ import annotations

from nfbook.explorables.base import Choice, Explorable, Real

__all__ = ["MatrixExplorable"]


class MatrixExplorable(Explorable, module="matrix"):
    r"""What a two-by-two matrix does to the unit square and to the standard normal density.

    The matrix is a rotation and two triangular factors. The rotation comes last or first:

    .. math::
        \mathbf{A} = \mathbf{Q} \mathbf{L} \mathbf{U} \quad \text{or} \quad
        \mathbf{A} = \mathbf{L} \mathbf{U} \mathbf{Q}, \qquad
        \mathbf{L} = \begin{pmatrix} 1 & 0 \\ l & 1 \end{pmatrix}, \qquad
        \mathbf{U} = \begin{pmatrix} e^{s_1} & u \\ 0 & e^{s_2} \end{pmatrix}.

    Without the rotation it is an LU decomposition, the matrix of `nfbook.transforms.PLU`; with
    :math:`l = 0` and the rotation last it is a QR decomposition. The figure shows the base and the
    density of :math:`\mathbf{x} = \mathbf{A} \mathbf{z}`, the area of the square's image beside
    :math:`|\det \mathbf{A}| = e^{s_1 + s_2}`, and how ill-conditioned the matrix is. In a live
    session the values can be read and set here.

    Attributes:
        rotation: Whether the rotation comes "last" or "first".
        angle: The angle of the rotation in degrees, from -180 to 180.
        lower: The entry l of L, from -1 to 1.
        first: The logarithm :math:`s_1` of U's first diagonal entry, from -0.7 to 0.7.
        second: The logarithm :math:`s_2` of U's second diagonal entry, from -0.7 to 0.7.
        upper: The entry u of U, from -1 to 1.

    Raises:
        TypeError: A value has the wrong type.
        ValueError: A number lies outside its range, or there is no such word.

    Example:
        >>> figure = MatrixExplorable(angle=45.0, lower=0.0)
        >>> figure.upper = 0.5
        >>> figure.rotation, figure.angle, figure.upper
        ('last', 45.0, 0.5)
    """

    rotation = Choice("last", "first").tag(sync=True)
    angle = Real(-180.0, 180.0).tag(sync=True)
    lower = Real(-1.0, 1.0).tag(sync=True)
    first = Real(-0.7, 0.7).tag(sync=True)
    second = Real(-0.7, 0.7).tag(sync=True)
    upper = Real(-1.0, 1.0).tag(sync=True)

    def __init__(
        self,
        *,
        rotation: str = "last",
        angle: float = 20.0,
        lower: float = 0.3,
        first: float = 0.4,
        second: float = -0.2,
        upper: float = 0.5,
    ) -> None:
        super().__init__(
            rotation=rotation, angle=angle, lower=lower, first=first, second=second, upper=upper
        )
