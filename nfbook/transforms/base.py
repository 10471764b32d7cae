"""What a transform is: a bijection that also knows its log-determinant, in both directions."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions import transforms as torch_transforms

from nfbook._checks import check_type, check_vectors
from nfbook._equality import EqualByParts
from nfbook._precision import full_precision, is_autocast

__all__ = ["Compose", "Inverse", "Transform"]

Result = TypeVar("Result")


class Transform(EqualByParts, torch_transforms.Transform):
    r"""A bijection :math:`\mathbf{y} = t(\mathbf{z})` with given parameters, from base to target.

    It is a ``torch.distributions.Transform``: ``t(z)`` goes forward, ``t.inv`` is the inverse,
    ``t.log_abs_det_jacobian(z, y)`` is the logarithm of the determinant's absolute value, "ladj"
    for short. `call_and_ladj` and `inverse_and_ladj` compute value and ladj together, since they
    share most of their work. A family defines what these two call, ``_call_and_ladj`` and
    ``_inverse_and_ladj``, and `features`, if it is for vectors of one size only. Where a value
    alone costs less, it also defines ``_value`` and ``_inverse_value``. The points have been
    checked by then.

    Two transforms are equal if they are of the same class and have equal parameters, as in
    ``torch.distributions``. So ``t.inv == t.inv``, and ``t.inv.inv is t``.

    Shapes: a vector `z` is `(*, D)` and its ladj `(*)`. Parameters may have batch dimensions of
    their own, which are broadcast against those of `z`. The dtype is that of both; of two that
    differ torch takes the wider one. Within ``torch.autocast`` all is computed in full precision.

    Example:
        A family in a few lines, the shift by a constant:

        >>> import torch
        >>> class Shift(Transform):
        ...     def _call_and_ladj(self, z):
        ...         return z + 1, z.new_zeros(z.shape[:-1])
        ...     def _inverse_and_ladj(self, y):
        ...         return y - 1, y.new_zeros(y.shape[:-1])
        >>> Shift().inv(torch.ones(2))
        tensor([0., 0.])
    """

    bijective = True
    domain = constraints.real_vector
    codomain = constraints.real_vector

    # The inverse that is in use, kept weakly: it holds this transform. It is no attribute of the
    # instance's dictionary, which says what the transform is made of.
    __slots__ = ("_weak_inverse",)

    @property
    def features(self) -> int | None:
        """The size D of the vectors that it maps; None if it maps those of any size."""
        return None

    @property
    def cache_size(self) -> int:
        """How many values are kept for the way back: none, since a cache changes gradients."""
        return 0

    def call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return :math:`t(\mathbf{z})` and :math:`\log |\det J_t(\mathbf{z})|`.

        Raises:
            TypeError: The points are not a dense tensor of floating-point numbers.
            ValueError: Their last dimension is not D.
        """
        return self._at_points("z", z, self._call_and_ladj)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return :math:`t^{-1}(\mathbf{y})` and :math:`\log |\det J_{t^{-1}}(\mathbf{y})|`.

        Raises:
            TypeError: The points are not a dense tensor of floating-point numbers.
            ValueError: Their last dimension is not D.
        """
        return self._at_points("y", y, self._inverse_and_ladj)

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _value(self, z: Tensor) -> Tensor:
        return self._call_and_ladj(z)[0]

    def _inverse_value(self, y: Tensor) -> Tensor:
        return self._inverse_and_ladj(y)[0]

    def _at_points(self, name: str, points: Tensor, function: Callable[[Tensor], Result]) -> Result:
        """Return what a function gives in full precision, of points that are checked first."""
        self._check_points(name, points)
        if is_autocast(points):
            with full_precision(points):
                return function(points)
        return function(points)

    def _check_points(self, name: str, points: Tensor) -> None:
        if not check_vectors(name, points, self.features).is_floating_point():
            raise TypeError(
                f"{name} must be a floating-point tensor, got {points.dtype}; "
                "convert it first, for example with .to(torch.float64)"
            )

    @property
    def inv(self) -> Transform:
        """The inverse, a transform too: the same one as long as it is in use."""
        if torch.compiler.is_compiling():
            return Inverse(self)
        kept = getattr(self, "_weak_inverse", None)
        inverse: Transform | None = None if kept is None else kept()
        if inverse is None:
            inverse = Inverse(self)
            self._weak_inverse = weakref.ref(inverse)
        return inverse

    def log_abs_det_jacobian(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the ladj at z; y is its image, as torch's interface wants it."""
        return self.call_and_ladj(z)[1]

    def with_cache(self, cache_size: int = 1) -> Transform:
        """Return the transform itself: it keeps no cache, see `cache_size`."""
        return self

    # What ``t(z)`` and ``t.inv(y)`` call.

    def _call(self, z: Tensor) -> Tensor:
        return self._at_points("z", z, self._value)

    def _inverse(self, y: Tensor) -> Tensor:
        return self._at_points("y", y, self._inverse_value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Inverse(Transform):
    r"""The inverse of a transform: its two directions exchanged.

    Example:
        >>> import math, torch
        >>> from nfbook.transforms import Affine
        >>> double = Affine(torch.zeros(1), torch.full((1,), math.log(2)))
        >>> double.inv(torch.ones(1))
        tensor([0.5000])
        >>> double.inv.inv is double
        True
    """

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        check_type("transform", transform, Transform, "an nfbook Transform")
        self.transform = transform

    @property
    def domain(self) -> constraints.Constraint:  # type: ignore[override]
        """Where its arguments lie."""
        return self.transform.codomain

    @property
    def codomain(self) -> constraints.Constraint:  # type: ignore[override]
        """Where its values lie."""
        return self.transform.domain

    @property
    def inv(self) -> Transform:
        """The transform itself."""
        return self.transform

    @property
    def features(self) -> int | None:
        """That of the transform."""
        return self.transform.features

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Go back through the transform."""
        return self.transform.inverse_and_ladj(z)

    def _inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Go forward through the transform."""
        return self.transform.call_and_ladj(y)

    def _value(self, z: Tensor) -> Tensor:
        return self.transform._inverse(z)

    def _inverse_value(self, y: Tensor) -> Tensor:
        return self.transform._call(y)

    def __repr__(self) -> str:
        return f"{self.transform}.inv"


class Compose(Transform):
    r"""Several transforms, the first of the list applied first.

    .. math:: t = t_K \circ \dots \circ t_1, \qquad
        \log |\det J_t(\mathbf{z}_0)| = \sum_{k=1}^K \log |\det J_{t_k}(\mathbf{z}_{k-1})|.

    Example:
        >>> import math, torch
        >>> from nfbook.transforms import Affine
        >>> double = Affine(torch.zeros(1), torch.full((1,), math.log(2)))
        >>> Compose([double, double]).call_and_ladj(torch.ones(1))
        (tensor([4.]), tensor(1.3863))
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        super().__init__()
        self.transforms = tuple(transforms)
        if not self.transforms:
            raise ValueError("transforms must hold at least one transform, got none")
        for transform in self.transforms:
            check_type("every one of transforms", transform, Transform, "an nfbook Transform")

    @property
    def domain(self) -> constraints.Constraint:  # type: ignore[override]
        """That of the first."""
        return self.transforms[0].domain

    @property
    def codomain(self) -> constraints.Constraint:  # type: ignore[override]
        """That of the last."""
        return self.transforms[-1].codomain

    @property
    def features(self) -> int | None:
        """That of the first one that is for vectors of one size only."""
        sizes = (transform.features for transform in self.transforms)
        return next((size for size in sizes if size is not None), None)

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Go through all of them, from the first to the last."""
        first, *others = self.transforms
        z, ladj = first.call_and_ladj(z)
        for transform in others:
            z, more = transform.call_and_ladj(z)
            ladj = ladj + more
        return z, ladj

    def _inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Go back through all of them, from the last to the first."""
        *others, last = self.transforms
        y, ladj = last.inverse_and_ladj(y)
        for transform in reversed(others):
            y, more = transform.inverse_and_ladj(y)
            ladj = ladj + more
        return y, ladj

    def _value(self, z: Tensor) -> Tensor:
        for transform in self.transforms:
            z = transform._call(z)
        return z

    def _inverse_value(self, y: Tensor) -> Tensor:
        for transform in reversed(self.transforms):
            y = transform._inverse(y)
        return y

    def __repr__(self) -> str:
        return f"Compose({list(self.transforms)})"
