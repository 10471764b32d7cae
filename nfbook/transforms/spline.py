"""Monotone rational-quadratic splines."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from nfbook._checks import check_type
from nfbook.transforms.base import Transform
from nfbook.transforms.elementwise import soft_bound

__all__ = ["RationalQuadratic", "evaluate", "knots", "solve_bin"]

# How much of the range of log-slopes the bins use, on either side. With 1/2 a derivative between
# two extreme bins would have no choice left, and its parameter no gradient.
SHARE = 0.48


class RationalQuadratic(Transform):
    r"""A monotone rational-quadratic spline of each coordinate (Durkan et al., 2019, section 3.1).

    The knots :math:`(x_k, y_k)`, k = 0, ..., K, go from :math:`(-B, -B)` to :math:`(B, B)`. Between
    two of them let :math:`s = (y_{k+1} - y_k) / (x_{k+1} - x_k)` be the bin's mean slope,
    :math:`a = d_k / s` and :math:`b = d_{k+1} / s` the derivatives at its ends, relative to that,
    and :math:`p = (z - x_k) / (x_{k+1} - x_k)` and :math:`q = 1 - p` the place of z. Then

    .. math::
        y = y_k + (y_{k+1} - y_k)\, \frac{p\,(p + aq)}{p\,(p + aq) + q\,(q + bp)},
        \qquad
        \frac{\mathrm{d}y}{\mathrm{d}z} = s\,
        \frac{q\,(p + aq) + p\,(q + bp)}{\bigl(p\,(p + aq) + q\,(q + bp)\bigr)^2}.

    This is the paper's formula divided by s, with p + q put in for 1, so that there are only sums
    of positive numbers: nothing cancels. Outside of [-B, B] the spline is the identity, and its
    derivatives at both ends are one.

    For the inverse let :math:`\eta = (y - y_k) / (y_{k+1} - y_k)`. The odds u = p / q solve

    .. math::
        \frac{\eta}{1 - \eta} = \frac{u\,(u + a)}{1 + bu},
        \quad\text{so}\quad
        (1 - \eta)\, u^2 + \beta u - \eta = 0
        \quad\text{with}\quad \beta = a\,(1 - \eta) - b\,\eta.

    The discriminant :math:`r^2 = \beta^2 + 4 \eta (1 - \eta)` is positive. The two ways to write
    the root say that p : q = (r - β) : 2(1 - η) and p : q = 2η : (r + β). Equal ratios are that of
    the sums too, which has no small denominator:

    .. math:: p - q = \frac{(1 + b)\,\eta - (1 + a)(1 - \eta)}{1 + r}.

    All slopes lie between λ and 1/λ, see `knots`. So an error ε in y moves the inverse by ε/λ at
    most: in float32, with B = 5 and λ = 1e-3, by some 5e-4.

    Arguments:
        raw: The parameters of each coordinate, `(*, D, 3K - 1)`, any numbers, see `knots`.
        bound: The end B.
        slope: The smallest slope λ.

    Raises:
        TypeError: The parameters are no floating-point tensor.
        ValueError: Their number for each coordinate is not 3K - 1, with K at least 2.

    Example:
        >>> spline = RationalQuadratic(torch.randn(2, 23), bound=5.0, slope=1e-3)
        >>> y = spline(torch.tensor([0.5, 7.0]))
        >>> y[1], torch.allclose(spline.inv(y), torch.tensor([0.5, 7.0]), atol=1e-4)
        (tensor(7.), True)
    """

    def __init__(self, raw: Tensor, bound: float, slope: float) -> None:
        super().__init__()
        check_type("raw", raw, Tensor, "a torch.Tensor")
        if not raw.is_floating_point():
            raise TypeError(f"raw must be a floating-point tensor, got {raw.dtype}")
        if raw.dim() < 2 or raw.shape[-1] < 5 or raw.shape[-1] % 3 != 2:
            raise ValueError(
                f"raw must have shape (*, D, 3 K - 1) with K at least 2, got {tuple(raw.shape)}"
            )
        self.raw, self.bound, self.slope = raw, bound, slope

    @property
    def features(self) -> int | None:
        """The number of coordinates D; None if all of them share one set of parameters."""
        return self.raw.shape[-2] if self.raw.shape[-2] > 1 else None

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Find each coordinate's bin, and evaluate the formula."""
        x, y, d = knots(self.raw, self.slope)
        at = (z / self.bound).clamp(-1, 1)
        (x0, x1), (y0, y1), (d0, d1) = _ends_of_bin(at, x, (x, y, d))
        p = (at - x0) / (x1 - x0)
        s = (y1 - y0) / (x1 - x0)
        below, above, log_slope = evaluate(p, 1 - p, s, d0 / s, d1 / s)
        return self._identity_outside(z, y0 + (y1 - y0) * below / (below + above), log_slope)

    def _inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Find each coordinate's bin, and solve the quadratic equation."""
        x, table, d = knots(self.raw, self.slope)
        at = (y / self.bound).clamp(-1, 1)
        (x0, x1), (y0, y1), (d0, d1) = _ends_of_bin(at, table, (x, table, d))
        s = (y1 - y0) / (x1 - x0)
        p, q = solve_bin((at - y0) / (y1 - y0), d0 / s, d1 / s)
        _, _, log_slope = evaluate(p, q, s, d0 / s, d1 / s)
        return self._identity_outside(y, x0 + (x1 - x0) * p, -log_slope)

    def _identity_outside(self, z: Tensor, y: Tensor, ladj: Tensor) -> tuple[Tensor, Tensor]:
        outside = z.abs() > self.bound
        return torch.where(outside, z, self.bound * y), torch.where(outside, 0, ladj).sum(-1)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(bound={self.bound}, slope={self.slope})"


def knots(raw: Tensor, slope: float) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return the knots x and y, in units of B, and the derivatives there, `(*, K + 1)` each.

    K parameters ω are for the widths of the bins, K more, σ, for how much steeper one bin is than
    another, and K - 1 for the derivatives at the inner knots. With ρ the `soft_bound`,

    .. math::
        \text{widths} = 2 \operatorname{softmax} \rho(\omega), \qquad
        \text{heights} = 2 \operatorname{softmax} \bigl(\rho(\omega) + \rho(\sigma)\bigr).

    In a bin with mean slope s, and derivatives d and d' at its ends, all slopes lie between the
    smallest and the largest of d, d', s²/d and s²/d'. So they lie between λ and 1/λ, if first
    :math:`|\log s| \le \tfrac12 \log(1/\lambda)` in every bin, and if second the derivative between
    two bins with s and s' has

    .. math:: \bigl|\log d - \tfrac12 (\log s + \log s')\bigr|
        \le \log(1/\lambda) - 2 \max(|\log s|, |\log s'|).

    Arguments:
        raw: `(*, 3K - 1)`; zeros give knots of the identity.
        slope: λ.

    Example:
        >>> x, y, derivatives = knots(torch.zeros(5), slope=1e-3)
        >>> x, derivatives
        (tensor([-1.,  0.,  1.]), tensor([1., 1., 1.]))
    """
    bins = (raw.shape[-1] + 1) // 3
    limit = -math.log(slope)
    width, rise, bend = raw.split([bins, bins, bins - 1], dim=-1)
    # The mean of all slopes is one, so each is between exp(-2ρ) and exp(2ρ).
    width, rise = soft_bound(width, SHARE * limit / 2), soft_bound(rise, SHARE * limit / 2)
    log_width, log_height = width.log_softmax(-1), (width + rise).log_softmax(-1)
    log_s = log_height - log_width
    left, right = log_s[..., :-1], log_s[..., 1:]
    reach = limit - 2 * torch.maximum(left.abs(), right.abs())
    log_d = 0.5 * (left + right) + soft_bound(bend, reach)
    return _places(log_width.exp()), _places(log_height.exp()), functional.pad(log_d, (1, 1)).exp()


def _places(shares: Tensor) -> Tensor:
    """Return where the bins that share [-1, 1] begin and end, `(*, K + 1)`."""
    inner = 2 * shares[..., :-1].cumsum(-1) - 1
    return functional.pad(functional.pad(inner, (1, 0), value=-1.0), (0, 1), value=1.0)


def _ends_of_bin(
    at: Tensor, edges: Tensor, tables: tuple[Tensor, ...]
) -> list[tuple[Tensor, Tensor]]:
    """Return what each table says of the two ends of the bin in which a point lies."""
    k = (edges[..., 1:-1] <= at.unsqueeze(-1)).sum(-1, keepdim=True)
    wide = [table.expand(*k.shape[:-1], -1) for table in tables]
    return [(t.gather(-1, k).squeeze(-1), t.gather(-1, k + 1).squeeze(-1)) for t in wide]


def evaluate(
    p: Tensor, q: Tensor, s: Tensor, a: Tensor, b: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return p(p + aq) : q(q + bp), as which y divides its bin, and the log-slope.

    Example:
        >>> half, one = torch.tensor(0.5), torch.tensor(1.0)
        >>> below, above, log_slope = evaluate(half, half, one, one, one)
        >>> below / (below + above), log_slope
        (tensor(0.5000), tensor(0.))
    """
    u, v = p + a * q, q + b * p
    below, above = p * u, q * v
    return below, above, (s * (q * u + p * v) / (below + above).square()).log()


def solve_bin(eta: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return p and q of the point in the bin where a share η of the bin's height lies below y.

    Example:
        >>> one = torch.tensor(1.0)
        >>> solve_bin(torch.tensor(0.5), one, one)
        (tensor(0.5000), tensor(0.5000))
    """
    rest = 1 - eta
    beta = a * rest - b * eta
    r = torch.sqrt(beta.square() + 4 * eta * rest)
    difference = ((1 + b) * eta - (1 + a) * rest) / (1 + r)
    return 0.5 * (1 + difference), 0.5 * (1 - difference)
