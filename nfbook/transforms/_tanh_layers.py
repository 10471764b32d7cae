"""The determinants of layers that move points by tanh: planar and Sylvester."""

from __future__ import annotations

import torch
from torch import Tensor


def slope_at_zero(a: Tensor) -> Tensor:
    r"""Return :math:`1 + m(a) = a + \sqrt{1 + a^2} = e^{\operatorname{asinh} a}`."""
    return a.asinh().exp()


def excess(a: Tensor) -> Tensor:
    r"""Return :math:`m(a) - a = a \cdot a / (1 + \sqrt{1 + a^2})`."""
    return a * (a / (1 + torch.hypot(a, torch.ones_like(a))))


def divisor(squared: Tensor) -> Tensor:
    """Return ‖w‖², and infinity where w is so short that û is u."""
    limits = torch.finfo(squared.dtype)
    # û is off from u by up to |u| ‖w‖ of its length. In float16 tiny / eps, 1/16, is too long.
    shortest = min(limits.tiny / limits.eps, limits.eps**2)
    return torch.where(squared > shortest, squared, torch.inf)


def sech2(x: Tensor) -> Tensor:
    r"""Return :math:`\operatorname{sech}^2 x = 1 - \tanh^2 x`, without that difference."""
    return 4 * torch.sigmoid(2 * x) * torch.sigmoid(-2 * x)


def determinant(x: Tensor, s: Tensor) -> Tensor:
    r"""Return :math:`\tanh^2 x + s \operatorname{sech}^2 x`."""
    return mean_slope(torch.tanh(x), sech2(x), s)


def mean_slope(h: Tensor, slope: Tensor, s: Tensor) -> Tensor:
    r"""Return :math:`h^2 + (1 - h^2) s`, as a sum of positive numbers that is 1 for s = 1."""
    return torch.where(s < 1, h.square() + slope * s, 1 + slope * (s - 1))
