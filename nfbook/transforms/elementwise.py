"""An affine transform of each coordinate by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from nfbook.transforms._parameters import check_parameters
from nfbook.transforms.base import Transform

__all__ = ["Affine", "soft_bound"]


class Affine(Transform):
    r"""A shift and a positive scale for each coordinate.

    .. math:: y_i = e^{s_i} z_i + m_i, \qquad \log |\det J_t| = \sum_i s_i.

    Arguments:
        shift: m, `(*, D)`.
        log_scale: s, `(*, D)`; None for a shift alone.

    Raises:
        TypeError: A parameter is not a floating-point tensor, or their dtypes differ.
        ValueError: Their sizes do not fit.

    Example:
        >>> import math
        >>> Affine(torch.ones(2), torch.full((2,), math.log(3)))(torch.ones(2))
        tensor([4., 4.])
    """

    def __init__(self, shift: Tensor, log_scale: Tensor | None = None) -> None:
        super().__init__()
        if log_scale is None:
            check_parameters(shift=(shift, "D"))
        else:
            check_parameters(shift=(shift, "D"), log_scale=(log_scale, "D"))
        self.shift, self.log_scale = shift, log_scale

    @property
    def features(self) -> int:
        """The dimension D."""
        return self.shift.shape[-1]

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Scale, then shift."""
        if self.log_scale is None:
            y = z + self.shift
            return y, y.new_zeros(y.shape[:-1])
        y = torch.addcmul(self.shift, z, self.log_scale.exp())
        return y, self.log_scale.sum(-1).expand(y.shape[:-1])

    def _inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Shift back, then scale back."""
        if self.log_scale is None:
            z = y - self.shift
            return z, z.new_zeros(z.shape[:-1])
        z = (y - self.shift) * torch.exp(-self.log_scale)
        return z, -self.log_scale.sum(-1).expand(z.shape[:-1])


def soft_bound(value: Tensor, bound: Tensor | float) -> Tensor:
    r"""Return :math:`v / (1 + |v| / b)`, which lies between -b and b.

    Its slope is one at zero and never vanishes, so a parameter beyond what is useful still has a
    gradient.

    Example:
        >>> soft_bound(torch.tensor([0.0, 3.0, -1e6]), bound=3.0)
        tensor([ 0.0000,  1.5000, -3.0000])
    """
    return value / (1 + value.abs() / bound)
