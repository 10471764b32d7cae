"""The planar layer."""

from __future__ import annotations

import torch
from torch import Tensor

from nfbook.transforms._parameters import check_parameters
from nfbook.transforms._tanh_layers import determinant, divisor, excess, slope_at_zero
from nfbook.transforms.base import Transform
from nfbook.transforms.roots import increasing_root

__all__ = ["Planar"]


class Planar(Transform):
    r"""A planar layer (Rezende and Mohamed, 2015, equation 10).

    .. math::
        t(\mathbf{z}) = \mathbf{z} + \hat{\mathbf{u}} \tanh(\mathbf{w}^\top \mathbf{z} + b),
        \qquad
        \hat{\mathbf{u}} = \mathbf{u} + \frac{m(a) - a}{\|\mathbf{w}\|^2}\, \mathbf{w},
        \qquad a = \mathbf{w}^\top \mathbf{u}.

    The layer is invertible if :math:`\mathbf{w}^\top \hat{\mathbf{u}} = m(a) > -1`. The paper takes
    :math:`m(a) = \log(1 + e^a) - 1`. Then u = 0 does not give the identity, û grows without bound
    as w goes to zero, and for a far below zero the layer is so nearly singular that rounding makes
    it so. Here

    .. math:: m(a) = a + \sqrt{1 + a^2} - 1, \qquad
        m(a) - a = \frac{a^2}{1 + \sqrt{1 + a^2}}, \qquad
        1 + m(a) = e^{\operatorname{asinh} a}.

    This is above -1 too, and comes near to it only like :math:`1 / (2 |a|)`. Near zero the
    difference from a is of second order, so û goes to u as w goes to zero, whatever the direction,
    and :math:`\|\hat{\mathbf{u}}\| \le 2 \|\mathbf{u}\|`. With u = 0 the layer is the identity, and
    with w = 0 a shift.

    With :math:`x = \mathbf{w}^\top \mathbf{z} + b` the determinant is a weighted mean, a sum of
    positive numbers,

    .. math:: \det J_t(\mathbf{z})
        = 1 + \mathbf{w}^\top \hat{\mathbf{u}} \operatorname{sech}^2 x
        = \tanh^2 x + \operatorname{sech}^2 x \, (1 + \mathbf{w}^\top \hat{\mathbf{u}}).

    The inverse needs one number, x. Multiplying by :math:`\mathbf{w}^\top` shows that it solves
    :math:`x + m(a) \tanh x = \mathbf{w}^\top \mathbf{y} + b`, whose left side increases.

    Arguments:
        w: `(*, D)`.
        u: `(*, D)`.
        b: `(*)`.

    Raises:
        TypeError: A parameter is not a floating-point tensor, or their dtypes differ.
        ValueError: Their sizes do not fit.

    Example:
        >>> layer = Planar(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.0]), torch.tensor(0.0))
        >>> y = layer(torch.tensor([0.3, 0.7]))
        >>> layer.inv(y)
        tensor([0.3000, 0.7000])
    """

    def __init__(self, w: Tensor, u: Tensor, b: Tensor) -> None:
        super().__init__()
        check_parameters(w=(w, "D"), u=(u, "D"), b=(b, ""))
        self.w, self.u, self.b = w, u, b

    @property
    def features(self) -> int:
        """The dimension D."""
        return self.w.shape[-1]

    @property
    def u_hat(self) -> Tensor:
        """The vector û, `(*, D)`, with which the layer is invertible."""
        a = (self.w * self.u).sum(-1, keepdim=True)
        squared = self.w.square().sum(-1, keepdim=True)
        return self.u + excess(a) / divisor(squared) * self.w

    @property
    def slope(self) -> Tensor:
        r"""The determinant where x = 0, :math:`1 + \mathbf{w}^\top \hat{\mathbf{u}}`."""
        return slope_at_zero((self.w * self.u).sum(-1))

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Move z along û."""
        x = (self.w * z).sum(-1) + self.b
        return z + self.u_hat * torch.tanh(x).unsqueeze(-1), determinant(x, self.slope).log()

    def _inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Solve for the number x, then undo the move."""
        s = self.slope
        target, s = torch.broadcast_tensors((self.w * y).sum(-1) + self.b, s)
        reach = (s - 1).abs().detach()
        x = increasing_root(
            lambda x: x + (s - 1) * torch.tanh(x) - target,
            lambda x: determinant(x, s),
            target.detach() - reach,
            target.detach() + reach,
        )
        return y - self.u_hat * torch.tanh(x).unsqueeze(-1), -determinant(x, s).log()
