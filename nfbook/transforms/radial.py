"""The radial layer, with its inverse in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from nfbook.transforms._parameters import check_parameters
from nfbook.transforms.base import Transform

__all__ = ["Radial", "shrinkage"]


class Radial(Transform):
    r"""A radial layer (Rezende and Mohamed, 2015, equation 14).

    .. math::
        t(\mathbf{z}) = \mathbf{z} + \beta\, h(\alpha, r)\, (\mathbf{z} - \mathbf{z}_0),
        \qquad h(\alpha, r) = \frac{1}{\alpha + r},
        \qquad r = \|\mathbf{z} - \mathbf{z}_0\|.

    Points move away from the centre if β is positive, and towards it if β is negative. The layer is
    invertible if α > 0 and β > -α. So the parameters are the logarithm of α and that of
    :math:`\rho = 1 + \beta / \alpha`, the slope at the centre, which may be any number above zero.
    With log ρ = 0 the layer is the identity.

    Measure lengths in units of α, so that s = r / α, and let :math:`n = 1 / (1 + s)`, which is one
    at the centre and falls to zero. Then the offset from the centre is multiplied by

    .. math:: a(s) = 1 + \beta\, h(\alpha, r) = 1 + (\rho - 1)\, n = (1 - n) + n \rho,

    and the derivative of its length is

    .. math:: \frac{\mathrm{d}\, s\, a(s)}{\mathrm{d} s} = 1 + (\rho - 1)\, n^2
        = (1 - n^2) + n^2 \rho.

    Both are weighted means of 1 and ρ, so they are positive and lose no digits. One direction is
    stretched by the second, the D - 1 orthogonal ones by the first:
    :math:`\det J_t = a^{D-1} \, \mathrm{d}(s a) / \mathrm{d} s`.

    The inverse looks for the s whose image is s' = s a(s). That is the quadratic equation
    :math:`s^2 + (\rho - s')\, s - s' = 0`, which has one positive root.

    Arguments:
        center: The point :math:`\mathbf{z}_0`, `(*, D)`.
        log_alpha: log α, `(*)`.
        log_slope: log ρ, `(*)`.

    Raises:
        TypeError: A parameter is not a floating-point tensor, or their dtypes differ.
        ValueError: Their sizes do not fit.

    Example:
        With ρ = 3, a point at the distance α is moved to 2α:

        >>> layer = Radial(torch.zeros(2), torch.tensor(0.0), torch.tensor(3.0).log())
        >>> y = layer(torch.tensor([0.6, 0.8]))
        >>> y, layer.inv(y)
        (tensor([1.2000, 1.6000]), tensor([0.6000, 0.8000]))
    """

    def __init__(self, center: Tensor, log_alpha: Tensor, log_slope: Tensor) -> None:
        super().__init__()
        check_parameters(center=(center, "D"), log_alpha=(log_alpha, ""), log_slope=(log_slope, ""))
        self.center, self.log_alpha, self.log_slope = center, log_alpha, log_slope

    @property
    def features(self) -> int:
        """The dimension D."""
        return self.center.shape[-1]

    @property
    def alpha(self) -> Tensor:
        """The distance α at which half of the stretch is left, `(*)`."""
        return self.log_alpha.exp()

    @property
    def beta(self) -> Tensor:
        """The strength β, `(*)`, which is above -α."""
        return self.alpha * torch.expm1(self.log_slope)

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Stretch the offset from the centre."""
        offset = z - self.center
        s = _length(offset) / self.alpha
        a, ladj = self._stretch(s, z.shape[-1])
        return self.center + a.unsqueeze(-1) * offset, ladj

    def _inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Solve the quadratic equation, then undo the stretch."""
        offset = y - self.center
        image = _length(offset) / self.alpha
        ratio = shrinkage(image, self.log_slope.exp())
        _, ladj = self._stretch(ratio * image, y.shape[-1])
        return self.center + ratio.unsqueeze(-1) * offset, -ladj

    def _stretch(self, s: Tensor, features: int) -> tuple[Tensor, Tensor]:
        """Return a(s), and the ladj."""
        rho = self.log_slope.exp()
        near = 1 / (1 + s)
        far = s * near
        a = far + near * rho
        along = far * (1 + near) + near.square() * rho
        return a, (features - 1) * a.log() + along.log()


def _length(offset: Tensor) -> Tensor:
    """Return the Euclidean norm, whose gradient at zero is taken to be zero.

    The largest entry of each vector is brought to one, so that no square overflows or vanishes.
    """
    largest = offset.detach().abs().amax(-1, keepdim=True)
    unit = torch.where(largest > 0, largest, 1)
    squared = (offset / unit).square().sum(-1)
    away = squared > 0
    # The square root never sees the zero, at which its derivative is infinite.
    return torch.where(away, torch.where(away, squared, 1).sqrt(), 0) * unit.squeeze(-1)


def shrinkage(image: Tensor, rho: Tensor) -> Tensor:
    r"""Return s / s' for the positive root s of :math:`s^2 + (\rho - s')\, s - s' = 0`.

    The product of both roots is -s'. So the positive one is

    .. math:: s = \frac{s' - \rho + w}{2} = \frac{2 s'}{\rho - s' + w},
        \qquad w = \sqrt{(s' - \rho)^2 + 4 s'},

    and the form is taken in which nothing cancels. The second one holds at the centre, too.

    Example:
        With ρ = 2 and s' = 2 the root is s = √2:

        >>> shrinkage(torch.tensor(2.0), torch.tensor(2.0)) * 2
        tensor(1.4142)
    """
    image, rho = torch.broadcast_tensors(image, rho)
    # In units of s' + ρ, so that no square overflows.
    unit = image + rho
    gap = (image - rho) / unit
    w = (gap.square() + 4 * (image / unit) / unit).sqrt()
    far = gap > 0
    total = unit * (w + torch.where(far, gap, -gap))
    return torch.where(far, total / (2 * torch.where(far, image, 1)), 2 / total)
