"""Transforms of each coordinate by itself, and how their parameters come out of a network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from nfbook._checks import check_real
from nfbook.transforms.base import Transform

__all__ = ["Additive", "Affine", "Elementwise", "ScaleAndShift", "soft_bound"]


class Affine(Transform):
    r"""A shift and a positive scale for each coordinate.

    .. math:: y_i = e^{s_i} z_i + m_i, \qquad \log |\det J_t| = \sum_i s_i.

    Arguments:
        shift: m, `(*, D)`.
        log_scale: s, `(*, D)`; None for a shift alone.

    Example:
        >>> Affine(torch.ones(2), torch.full((2,), math.log(3)))(torch.ones(2))
        tensor([4., 4.])
    """

    def __init__(self, shift: Tensor, log_scale: Tensor | None = None) -> None:
        super().__init__()
        self.shift, self.log_scale = shift, log_scale

    def call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Scale, then shift."""
        if self.log_scale is None:
            y = z + self.shift
            return y, y.new_zeros(y.shape[:-1])
        y = torch.addcmul(self.shift, z, self.log_scale.exp())
        return y, self.log_scale.sum(-1).expand(y.shape[:-1])

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Shift back, then scale back."""
        if self.log_scale is None:
            z = y - self.shift
            return z, z.new_zeros(z.shape[:-1])
        z = (y - self.shift) * torch.exp(-self.log_scale)
        return z, -self.log_scale.sum(-1).expand(z.shape[:-1])


class Elementwise(Protocol):
    """How a coupling or autoregressive layer transforms a coordinate.

    It says how many numbers a network has to give for each coordinate, and makes a transform of
    them. Zeros must make the identity, so that a network whose last layer is zero does too.
    """

    @property
    def size(self) -> int:
        """The number of parameters P of one coordinate."""

    def __call__(self, raw: Tensor) -> Transform:
        """Return the transform of D coordinates with the parameters `(*, D, P)`, unconstrained."""


@dataclass(frozen=True)
class Additive:
    """A shift of each coordinate, as in NICE (Dinh, Krueger and Bengio, 2015).

    Example:
        >>> Additive()(torch.ones(3, 1))(torch.zeros(3))
        tensor([1., 1., 1.])
    """

    size: ClassVar[int] = 1

    def __call__(self, raw: Tensor) -> Affine:
        """Return the shift by the raw parameters."""
        return Affine(raw.squeeze(-1))


@dataclass(frozen=True)
class ScaleAndShift:
    r"""A scale and a shift of each coordinate, as in RealNVP, MAF and IAF.

    The log-scale is held between -S and S by `soft_bound`.

    Arguments:
        bound: The largest log-scale S, infinite for none. The default allows factors from 1/1000 to
            1000.

    Raises:
        TypeError: The bound is no number.
        ValueError: It is not positive.

    Example:
        >>> ScaleAndShift()(torch.zeros(3, 2))(torch.ones(3))
        tensor([1., 1., 1.])
    """

    bound: float = math.log(1000)

    size: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if self.bound != math.inf and check_real("bound", self.bound) <= 0:
            raise ValueError(f"bound must be positive, got {self.bound}")

    def __call__(self, raw: Tensor) -> Affine:
        """Return the affine map with the first number as shift and the second as raw log-scale."""
        shift, log_scale = raw.unbind(-1)
        return Affine(shift, soft_bound(log_scale, self.bound))


def soft_bound(value: Tensor, bound: Tensor | float) -> Tensor:
    r"""Return :math:`v / (1 + |v| / b)`, which lies between -b and b.

    Its slope is one at zero and never vanishes, so a parameter beyond what is useful still has a
    gradient.

    Example:
        >>> soft_bound(torch.tensor([0.0, 3.0, -1e6]), bound=3.0)
        tensor([ 0.0000,  1.5000, -3.0000])
    """
    return value / (1 + value.abs() / bound)
