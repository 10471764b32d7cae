"""How a coupling or autoregressive layer transforms one coordinate: the choices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from nfbook._checks import check_count, check_real
from nfbook.transforms.base import Transform
from nfbook.transforms.elementwise import Affine, soft_bound
from nfbook.transforms.fast.spline import FusedRationalQuadratic
from nfbook.transforms.spline import RationalQuadratic

__all__ = ["Additive", "ScaleAndShift", "Spline", "Univariate"]


class Univariate(Protocol):
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
        >>> import torch
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
        TypeError: The bound is not a number.
        ValueError: It is not positive.

    Example:
        >>> import torch
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


@dataclass(frozen=True)
class Spline:
    r"""A rational-quadratic spline of each coordinate, see `RationalQuadratic`.

    Zeros as parameters make the identity.

    Arguments:
        bins: The number of bins K, at least 2.
        bound: The end B: a spline maps [-B, B] onto itself, and is the identity outside.
        slope: The smallest slope λ, between 1e-6 and 1. The largest is 1/λ. In float32 an error of
            rounding grows by up to 1/λ.

    Raises:
        TypeError: An argument is not a number.
        ValueError: One lies outside of its range.

    Example:
        >>> import torch
        >>> spline = Spline(bins=4)
        >>> spline.size
        11
        >>> spline(torch.zeros(2, 11))(torch.tensor([0.3, -7.0]))
        tensor([ 0.3000, -7.0000])
    """

    bins: int = 8
    bound: float = 5.0
    slope: float = 1e-3

    def __post_init__(self) -> None:
        check_count("bins", self.bins, minimum=2)
        if check_real("bound", self.bound) <= 0:
            raise ValueError(f"bound must be positive, got {self.bound}")
        if not 1e-6 <= check_real("slope", self.slope) < 1:
            raise ValueError(f"slope must be at least 1e-6 and below 1, got {self.slope}")

    @property
    def size(self) -> int:
        """The number of parameters of one coordinate."""
        return 3 * self.bins - 1

    def __call__(self, raw: Tensor) -> RationalQuadratic:
        """Return the spline with these parameters, `(*, D, 3K - 1)`."""
        return FusedRationalQuadratic(raw, self.bound, self.slope)
