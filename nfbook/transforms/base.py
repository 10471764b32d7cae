"""What a transform is: a bijection that also knows its log-determinant, in both directions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.distributions import constraints
from torch.distributions import transforms as torch_transforms

from nfbook._checks import check_type

__all__ = ["Compose", "Inverse", "Transform"]


class Transform(torch_transforms.Transform):
    r"""A bijection :math:`\mathbf{y} = t(\mathbf{z})` with given parameters, from base to target.

    It is a ``torch.distributions.Transform``: ``t(z)`` goes forward, ``t.inv`` is the inverse,
    ``t.log_abs_det_jacobian(z, y)`` is the logarithm of the determinant's absolute value, "ladj"
    for short. A family defines the two methods below, which compute value and ladj together,
    since they share most of their work.

    Shapes: a vector `z` is `(*, D)` and its ladj `(*)`. Parameters may have batch dimensions of
    their own, which are broadcast against those of `z`. A dtype is never changed.

    Example:
        A family in a few lines, the shift by a constant:

        >>> import torch
        >>> class Shift(Transform):
        ...     def call_and_ladj(self, z):
        ...         return z + 1, z.new_zeros(z.shape[:-1])
        ...     def inverse_and_ladj(self, y):
        ...         return y - 1, y.new_zeros(y.shape[:-1])
        >>> Shift().inv(torch.ones(2))
        tensor([0., 0.])
    """

    bijective = True
    domain = constraints.real_vector
    codomain = constraints.real_vector

    def call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return :math:`t(\mathbf{z})` and :math:`\log |\det J_t(\mathbf{z})|`."""
        raise NotImplementedError

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return :math:`t^{-1}(\mathbf{y})` and :math:`\log |\det J_{t^{-1}}(\mathbf{y})|`."""
        raise NotImplementedError

    @property
    def inv(self) -> Transform:
        """The inverse, a transform too."""
        return Inverse(self)

    def log_abs_det_jacobian(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the ladj at z; y is its image, as torch's interface wants it."""
        return self.call_and_ladj(z)[1]

    def with_cache(self, cache_size: int = 1) -> Transform:
        """Return the transform itself: it keeps no cache, since one changes gradients."""
        return self

    def _call(self, z: Tensor) -> Tensor:
        return self.call_and_ladj(z)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        return self.inverse_and_ladj(y)[0]

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

    def call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Go back through the transform."""
        return self.transform.inverse_and_ladj(z)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Go forward through the transform."""
        return self.transform.call_and_ladj(y)

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

    def call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Go through all of them, from the first to the last."""
        first, *others = self.transforms
        z, ladj = first.call_and_ladj(z)
        for transform in others:
            z, more = transform.call_and_ladj(z)
            ladj = ladj + more
        return z, ladj

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Go back through all of them, from the last to the first."""
        *others, last = self.transforms
        y, ladj = last.inverse_and_ladj(y)
        for transform in reversed(others):
            y, more = transform.inverse_and_ladj(y)
            ladj = ladj + more
        return y, ladj

    def __repr__(self) -> str:
        return f"Compose({list(self.transforms)})"
