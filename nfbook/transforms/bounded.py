"""Bijections from all vectors onto those within bounds: a box, or the positive ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from nfbook._checks import check_real, check_tensor
from nfbook.transforms.base import Transform

__all__ = ["Box", "Exp", "Softplus"]


class Box(Transform):
    r"""The sigmoid of each coordinate, scaled onto an interval.

    .. math::
        y_i = a_i + (b_i - a_i) \, \sigma(z_i), \qquad
        z_i = \log (y_i - a_i) - \log (b_i - y_i), \qquad
        \log |\det J_t| = \sum_i \log \frac{(y_i - a_i)(b_i - y_i)}{b_i - a_i}.

    Both directions measure y from the end that is nearer, where the distance has all its digits.
    Computed as the logit of :math:`(y_i - a_i)/(b_i - a_i)`, z would lose them towards b.

    In floats a large z reaches the end itself. The codomain is therefore the closed box, and the
    inverse takes an end for a point within rounding of it. A point outside has no preimage:
    its ladj is minus infinity, so that a density vanishes there.

    Arguments:
        low: The lower ends, a number or `(*, D)`.
        high: The upper ends, a number or `(*, D)`.
        margin: How far the image reaches beyond both, so that :math:`a_i` is low minus the margin
            and :math:`b_i` is high plus it. It keeps data that touch low or high away from
            infinity, and may be far smaller than the rounding of low and high. Data that crowd an
            end need one: within rounding of it a density cannot be resolved.
        check: Whether to look at the ends. A flow that keeps a box looked at them before, and
            ``torch.compile`` cannot.

    Raises:
        TypeError: An end is neither a number nor a floating-point tensor.
        ValueError: It is not finite, low is not below high, their shapes do not fit each other, or
            the margin is negative.

    Example:
        >>> box = Box(-1.0, torch.tensor([1.0, 3.0]))
        >>> box(torch.zeros(2))
        tensor([0., 1.])
        >>> box.codomain.check(torch.tensor([[0.5, 2.5], [2.5, 0.5]]))
        tensor([ True, False])
    """

    def __init__(
        self,
        low: float | Tensor,
        high: float | Tensor,
        *,
        margin: float = 0.0,
        check: bool = True,
    ) -> None:
        super().__init__()
        self.low, self.high, self.margin = low, high, margin
        if check:
            self._check()

    def _check(self) -> None:
        low, high, margin = self.low, self.high, self.margin
        for name, end in (("low", low), ("high", high)):
            if isinstance(end, Tensor):
                check_tensor(name, end, ("*",))
            else:
                check_real(name, end, "a number or a torch.Tensor")
        if isinstance(low, Tensor) and isinstance(high, Tensor):
            try:
                torch.broadcast_shapes(low.shape, high.shape)
            except RuntimeError:
                raise ValueError(
                    f"high must have a shape that fits low's, {tuple(low.shape)}, "
                    f"got {tuple(high.shape)}"
                ) from None
        if not bool((torch.as_tensor(low) < torch.as_tensor(high)).all()):
            raise ValueError(f"low must be below high, got {low} and {high}")
        if check_real("margin", margin) < 0:
            raise ValueError(f"margin must not be negative, got {margin}")

    @property
    def features(self) -> int | None:
        """The dimension D; None if both ends are numbers."""
        ends = (self.low, self.high)
        sizes = [end.shape[-1] for end in ends if isinstance(end, Tensor) and end.dim()]
        return max(sizes) if sizes else None

    @property
    def codomain(self) -> constraints.Constraint:  # type: ignore[override]
        """The closed box."""
        return constraints.independent(constraints.interval(*self._ends), 1)

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Go into the box."""
        low, high, a, b = self._tensors(z)
        width = high - low + 2 * self.margin
        log_left, log_right = logsigmoid(z), logsigmoid(-z)
        from_low = low + (width * log_left.exp() - self.margin)
        from_high = high - (width * log_right.exp() - self.margin)
        # Rounding could still carry a point over the end, and out of its own distribution.
        y = torch.where(z < 0, from_low, from_high).clamp(a, b)
        return y, (log_left + log_right + width.log()).sum(-1)

    def _inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Go back to all vectors."""
        low, high, a, b = self._tensors(y)
        width = high - low + 2 * self.margin
        log_left = (y - low + self.margin).clamp(min=_rounding(a)).log()
        log_right = (high - y + self.margin).clamp(min=_rounding(b)).log()
        ladj = (width.log() - log_left - log_right).sum(-1)
        return log_left - log_right, _where_inside(self.codomain, y, ladj)

    @property
    def _ends(self) -> tuple[float | Tensor, float | Tensor]:
        """The ends of the image, a and b."""
        return self.low - self.margin, self.high + self.margin

    def _tensors(self, like: Tensor) -> tuple[Tensor, ...]:
        """Return low, high, a and b with the dtype and on the device of another tensor."""
        return tuple(
            end.to(like) if isinstance(end, Tensor) else like.new_full((), end)
            for end in (self.low, self.high, *self._ends)
        )


class Exp(Transform):
    r"""The exponential of each coordinate, onto the positive numbers.

    .. math:: y_i = e^{z_i}, \qquad \log |\det J_t| = \sum_i z_i.

    With a Gaussian z, y has heavy tails, and its mean exceeds its median by far. With `Softplus`
    the tail is that of a Gaussian, and the mean exceeds the median by less.

    Example:
        >>> Exp().inv(torch.ones(2))
        tensor([0., 0.])
    """

    codomain = constraints.independent(constraints.nonnegative, 1)

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Take the exponential."""
        return z.exp(), z.sum(-1)

    def _inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Take the logarithm; zero stands for the smallest normal number."""
        z = y.clamp(min=torch.finfo(y.dtype).tiny).log()
        return z, _where_inside(self.codomain, y, -z.sum(-1))


class Softplus(Transform):
    r"""The softplus of each coordinate, onto the positive numbers.

    .. math::
        y_i = \log(1 + e^{z_i}), \qquad
        z_i = y_i + \log(1 - e^{-y_i}), \qquad
        \log |\det J_t| = \sum_i \log \sigma(z_i) = \sum_i \log(1 - e^{-y_i}).

    It is :math:`e^z` far to the left and z far to the right.

    Example:
        >>> Softplus()(torch.tensor([0.0, 100.0]))
        tensor([  0.6931, 100.0000])
    """

    codomain = constraints.independent(constraints.nonnegative, 1)

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Take the softplus."""
        return -logsigmoid(-z), logsigmoid(z).sum(-1)

    def _inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Solve for z; zero stands for the smallest normal number."""
        positive = y.clamp(min=torch.finfo(y.dtype).tiny)
        log_slope = torch.log(-torch.expm1(-positive))
        return positive + log_slope, _where_inside(self.codomain, y, -log_slope.sum(-1))


def _rounding(end: Tensor) -> Tensor:
    """Return a quarter of the distance between an end of a box and the next float."""
    limits = torch.finfo(end.dtype)
    return (end.abs() * (limits.eps / 4)).clamp(min=limits.tiny)


def _where_inside(constraint: constraints.Constraint, y: Tensor, ladj: Tensor) -> Tensor:
    """Return the ladj where y fulfils the constraint, and minus infinity elsewhere."""
    inside: Tensor = constraint.check(y) if y.numel() else ladj > 0
    return torch.where(inside, ladj, -torch.inf)
