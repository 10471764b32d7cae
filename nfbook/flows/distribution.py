"""The distribution that a flow makes, and the Gaussian that it starts from."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from nfbook._checks import check_count, check_generator, check_type, check_vectors
from nfbook.sampling import draw
from nfbook.transforms.base import Compose, Transform

__all__ = ["FlowDistribution", "StandardNormal"]

# How many numbers `sample` sends through a transform at once.
PIECE = 65_536


class StandardNormal(Distribution):
    r"""The Gaussian :math:`\mathcal{N}(\mathbf{0}, \mathbf{I})`, the base of every flow.

    Arguments:
        features: The dimension D.
        batch_shape: How many of them, all alike.
        like: A tensor with the dtype and the device of the draws.

    Example:
        >>> StandardNormal(2).log_prob(torch.zeros(2))
        tensor(-1.8379)
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        features: int,
        batch_shape: torch.Size | tuple[int, ...] = (),
        *,
        like: Tensor | None = None,
    ) -> None:
        check_count("features", features)
        self.like = torch.empty(()) if like is None else like
        super().__init__(torch.Size(batch_shape), torch.Size([features]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> StandardNormal:
        """Return the same with another batch shape, to which the present one expands."""
        shape = torch.Size(batch_shape)
        if not _expands(self.batch_shape, shape):
            raise ValueError(
                "batch_shape must be one to which the present one expands, "
                f"got {tuple(shape)} from {tuple(self.batch_shape)}"
            )
        return StandardNormal(self.event_shape[0], shape, like=self.like)

    def __repr__(self) -> str:
        return f"StandardNormal({self.event_shape[0]}, {tuple(self.batch_shape)})"

    def rsample(
        self, sample_shape: Any = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw, `(*sample_shape, *batch_shape, D)`."""
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        like = self.like
        if generator is None:
            # Without the argument: torch.compile knows no generator for sizes that may change.
            return torch.randn(shape, dtype=like.dtype, device=like.device)
        check_generator(generator)
        return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Return :math:`-\tfrac12 \|\mathbf{z}\|^2 - \tfrac{D}{2} \log 2 \pi`.

        Raises:
            TypeError: The value is no dense tensor.
            ValueError: It has another size than D.
        """
        check_vectors("value", value, self.event_shape[0])
        constant = 0.5 * self.event_shape[0] * math.log(2 * math.pi)
        log_density = -0.5 * value.square().sum(-1) - constant
        return log_density.expand(torch.broadcast_shapes(log_density.shape, self.batch_shape))

    @property
    def mean(self) -> Tensor:
        """Zero."""
        return self.like.new_zeros(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """One."""
        return self.like.new_ones(self.batch_shape + self.event_shape)

    def entropy(self) -> Tensor:
        r"""Return :math:`\tfrac{D}{2} (1 + \log 2 \pi)`."""
        value = 0.5 * self.event_shape[0] * (1 + math.log(2 * math.pi))
        return self.like.new_full(self.batch_shape, value)


def _expands(shape: torch.Size, wider: torch.Size) -> bool:
    """Return whether a shape expands to another: ones grow, and new dimensions come first.

    Example:
        >>> _expands(torch.Size([1, 3]), torch.Size([5, 4, 3]))
        True
    """
    sizes = zip(reversed(shape), reversed(wider), strict=False)
    return len(shape) <= len(wider) and all(a in (1, b) for a, b in sizes)


class FlowDistribution(Distribution):
    r"""The distribution of :math:`\mathbf{y} = t(\mathbf{z})` for a z of the base distribution.

    .. math:: \log p(\mathbf{y}) = \log p_0\bigl(t^{-1}(\mathbf{y})\bigr)
        + \log |\det J_{t^{-1}}(\mathbf{y})|
        = \log p_0(\mathbf{z}) - \log |\det J_t(\mathbf{z})|.

    The first form takes the inverse direction and serves `log_prob`; the second takes the forward
    direction and serves `rsample_and_log_prob`, which needs no inverse.

    Where t maps onto a bounded set, the density outside of it is zero: `log_prob` is minus
    infinity there.

    Mean and variance have no closed form, so they raise an error that says how to estimate them.

    Arguments:
        base: The distribution of z, with event shape `(D,)`.
        transform: The bijection t. If its parameters have batch dimensions, the base is expanded
            to them, so that each set of parameters gets noise of its own.
        check: Whether to look for such batch dimensions, which takes one evaluation of t. A flow
            knows them already.

    Raises:
        TypeError: The base is not a distribution, or the transform is not nfbook's.
        ValueError: The base has another event shape, or a batch shape that does not fit the
            transform's.

    Example:
        >>> from nfbook.transforms import Affine
        >>> double = Affine(torch.zeros(2), torch.full((2,), math.log(2)))
        >>> y, log_prob = FlowDistribution(StandardNormal(2), double).rsample_and_log_prob((5,))
        >>> y.shape, log_prob.shape
        (torch.Size([5, 2]), torch.Size([5]))
        >>> FlowDistribution(StandardNormal(2), Affine(torch.zeros(3, 2))).batch_shape
        torch.Size([3])
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    def __init__(self, base: Distribution, transform: Transform, *, check: bool = True) -> None:
        check_type("base", base, Distribution, "a torch Distribution")
        check_type("transform", transform, Transform, "an nfbook Transform")
        if len(base.event_shape) != 1:
            raise ValueError(f"base must have event shape (D,), got {tuple(base.event_shape)}")
        if check:
            base = _with_batch_of(transform, base)
        self.base, self.transform = base, transform
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws have gradients, as those of the base have or have not."""
        return self.base.has_rsample

    @property
    def support(self) -> constraints.Constraint:
        """Where the density is positive."""
        return self.transform.codomain

    def expand(self, batch_shape: Any, _instance: Any = None) -> FlowDistribution:
        """Return the same with another batch shape, to which the present one expands."""
        base = self.base.expand(torch.Size(batch_shape))
        return FlowDistribution(base, self.transform, check=False)

    @property
    def mean(self) -> Tensor:
        """Not known in closed form.

        Raises:
            NotImplementedError: Always; it says how to estimate the mean.
        """
        raise NotImplementedError(_no_closed_form("mean"))

    @property
    def variance(self) -> Tensor:
        """Not known in closed form.

        Raises:
            NotImplementedError: Always; it says how to estimate the variance.
        """
        raise NotImplementedError(_no_closed_form("variance", "var"))

    def entropy(self) -> Tensor:
        """Not known in closed form.

        Raises:
            NotImplementedError: Always; it says how to estimate the entropy.
        """
        raise NotImplementedError(
            "a flow's distribution has no entropy in closed form; "
            "estimate it from draws, as -q.rsample_and_log_prob((10_000,))[1].mean(0) does"
        )

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Return :math:`\log p(\mathbf{y})`, `(*)`, of points `(*, D)`.

        Raises:
            TypeError: The points are not a tensor, or have another dtype than the flow.
            ValueError: Their last dimension is not D, or the others do not fit the batch shape.
        """
        y = self._points(value)
        # torch cannot check a support without points.
        if self.support is constraints.real_vector or not y.numel():
            return self._log_prob_inside(y)
        inside = self.support.check(y)
        # Any point of the support stands in for those outside, so that no NaN enters a gradient.
        # The last transform alone has this support, and costs less than all of them.
        last = self.transform
        while isinstance(last, Compose):
            last = last.transforms[-1]
        some = last(torch.zeros_like(y)).detach()
        log_prob = self._log_prob_inside(torch.where(inside.unsqueeze(-1), y, some))
        outside = torch.where(y.isnan().any(-1), math.nan, -math.inf).to(log_prob)
        return torch.where(inside, log_prob, outside)

    def rsample(
        self, sample_shape: Any = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw, `(*sample_shape, *batch_shape, D)`, with gradients for the parameters.

        Raises:
            NotImplementedError: The base has no ``rsample``.
        """
        y: Tensor = self.transform(self._noise(sample_shape, generator))
        return y

    def sample(self, sample_shape: Any = (), *, generator: torch.Generator | None = None) -> Tensor:
        """Draw, `(*sample_shape, *batch_shape, D)`, without gradients.

        However many are drawn, the memory beyond theirs is bounded: the noise is drawn at once, and
        goes through the transform in pieces of at most 65,536 numbers, or of one draw of the whole
        batch where that has more.
        """
        with torch.no_grad():
            z = self._noise(sample_shape, generator, reparametrised=self.has_rsample)
            if torch.compiler.is_compiling() or z.numel() <= PIECE:
                y: Tensor = self.transform(z)
                return y
            one = self.batch_shape + self.event_shape
            flat = z.reshape(-1, *one)
            pieces = [self.transform(piece) for piece in flat.split(max(PIECE // one.numel(), 1))]
            return torch.cat(pieces).view(z.shape)

    def rsample_and_log_prob(
        self, sample_shape: Any = (), *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw, and return the draws' log-densities, `(*sample_shape, *batch_shape)`, too.

        Raises:
            NotImplementedError: The base has no ``rsample``.
        """
        z = self._noise(sample_shape, generator)
        y, ladj = self.transform.call_and_ladj(z)
        return y, self.base.log_prob(z) - ladj

    def _noise(
        self,
        sample_shape: Any,
        generator: torch.Generator | None,
        *,
        reparametrised: bool = True,
    ) -> Tensor:
        shape = torch.Size(sample_shape)
        if reparametrised and not self.has_rsample:
            name = type(self.base).__name__
            raise NotImplementedError(f"base must have rsample to draw with gradients, got {name}")
        if isinstance(self.base, StandardNormal):
            return self.base.rsample(shape, generator=generator)
        if generator is None or not shape.numel():
            return self.base.rsample(shape) if reparametrised else self.base.sample(shape)
        return draw(self.base, shape, generator=generator, reparametrised=reparametrised)

    def _points(self, y: Tensor) -> Tensor:
        features = self.event_shape[0]
        check_vectors("value", y, features)
        dtype = getattr(self.base, "like", y).dtype
        if y.dtype != dtype:
            raise TypeError(f"value must have the flow's dtype, {dtype}, got {y.dtype}")
        try:
            shape = torch.broadcast_shapes(y.shape[:-1], self.batch_shape)
        except RuntimeError:
            raise ValueError(
                f"value must have shape (*, {features}) with * to fit the batch shape "
                f"{tuple(self.batch_shape)}, got {tuple(y.shape)}"
            ) from None
        return y.expand(*shape, features)

    def _log_prob_inside(self, y: Tensor) -> Tensor:
        # No map has a value at infinity, where a density is zero. Another point stands in for it.
        far = y.isinf().any(-1)
        z, ladj = self.transform.inverse_and_ladj(y.masked_fill(far.unsqueeze(-1), 1.0))
        return (self.base.log_prob(z) + ladj).masked_fill(far, -math.inf)

    def __repr__(self) -> str:
        return f"FlowDistribution({self.base}, {self.transform})"


def _with_batch_of(transform: Transform, base: Distribution) -> Distribution:
    """Return the base, expanded to the batch dimensions of the transform's parameters."""
    like = _like(base)
    with torch.no_grad():
        shape = transform(like.new_zeros(base.event_shape)).shape[:-1]
    try:
        batch_shape = torch.broadcast_shapes(base.batch_shape, shape)
    except RuntimeError:
        raise ValueError(
            f"base must have a batch shape that fits the transform's, {tuple(shape)}, "
            f"got {tuple(base.batch_shape)}"
        ) from None
    return base if batch_shape == base.batch_shape else base.expand(batch_shape)


def _like(base: Distribution) -> Tensor:
    """Return a tensor with the dtype and the device of a distribution's draws."""
    while isinstance(base, FlowDistribution):
        base = base.base
    return base.like if isinstance(base, StandardNormal) else base.mean


def _no_closed_form(name: str, method: str | None = None) -> str:
    return (
        f"a flow's distribution has no {name} in closed form; "
        f"estimate it from draws, as q.sample((10_000,)).{method or name}(0) does"
    )
