"""The planar layer: a grid and a density that it bends, folds, and no longer folds with û."""

from __future__ import annotations

from nfbook.explorables.base import Choice, Explorable, Real

__all__ = ["PlanarExplorable"]


class PlanarExplorable(Explorable, module="planar"):
    r"""A planar layer in the plane, as its two vectors and its offset move.

    The layer is :math:`f(\mathbf{z}) = \mathbf{z} + \mathbf{v} \tanh(\mathbf{w}^\top \mathbf{z} +
    b)`, where v is u itself or the û of `nfbook.transforms.Planar`, and the base is
    :math:`\mathcal{N}(\mathbf{0}, \mathbf{I})`. The left picture shows the images of a square
    grid's lines and the density of the images of the base. Where several points have the same
    image, the density is the sum over all of them. The right picture shows what the layer does to
    the one number on which it depends, :math:`\mathbf{w}^\top \mathbf{z}`. With u, and
    :math:`\mathbf{w}^\top \mathbf{u} < -1`, this curve falls somewhere, and the layer folds the
    plane. In a live session the values can be read and set here.

    Attributes:
        w1: The first entry of w, from -3 to 3.
        w2: The second entry of w, from -3 to 3.
        u1: The first entry of u, from -3 to 3.
        u2: The second entry of u, from -3 to 3.
        b: The offset, from -3 to 3.
        vector: What the layer uses for v: "u" or "û".

    Raises:
        TypeError: A value has the wrong type.
        ValueError: A number lies outside its range, or there is no such vector.

    Example:
        >>> figure = PlanarExplorable(w1=2.0, u1=-1.0)
        >>> figure.vector = "û"
        >>> figure.values()["vector"]
        'û'
    """

    w1 = Real(-3.0, 3.0).tag(sync=True)
    w2 = Real(-3.0, 3.0).tag(sync=True)
    u1 = Real(-3.0, 3.0).tag(sync=True)
    u2 = Real(-3.0, 3.0).tag(sync=True)
    b = Real(-3.0, 3.0).tag(sync=True)
    vector = Choice("u", "û").tag(sync=True)

    def __init__(
        self,
        *,
        w1: float = 2.0,
        w2: float = 0.0,
        u1: float = 1.0,
        u2: float = 1.0,
        b: float = 0.0,
        vector: str = "u",
    ) -> None:
        super().__init__(w1=w1, w2=w2, u1=u1, u2=u2, b=b, vector=vector)
