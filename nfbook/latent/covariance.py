r"""The covariance matrices of a mixture: four structures behind one interface.

Every structure keeps factors :math:`\boldsymbol{\Sigma}_k = \mathbf{L}_k \mathbf{L}_k^\top`. They
lead to *white* coordinates :math:`\mathbf{y} = \mathbf{L}_k^{-1} (\mathbf{x} -
\boldsymbol{\mu}_k)`, in which component k is the standard Gaussian. Sums over the data are taken
there, where all numbers have ordinary size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

import torch
from torch import Tensor

from nfbook._checks import check_positive, check_precision, check_tensor, check_type

__all__ = ["Covariances", "Diagonal", "Full", "Spherical", "Tied", "structure_called"]


class Covariances(ABC):
    r"""The covariance matrices of K components.

    Arguments:
        factor: The triangular matrices :math:`\mathbf{L}_k`, or only their diagonals where the
            structure has nothing else.
    """

    name: ClassVar[str]

    def __init__(self, factor: Tensor) -> None:
        self.factor = factor

    def to(self, dtype: torch.dtype) -> Self:
        """Return the same matrices in another dtype."""
        return type(self)(self.factor.to(dtype))

    @classmethod
    @abstractmethod
    def of(cls, values: Tensor, num_components: int, dim: int) -> Self:
        """Check the ``covariances`` of a model, and factor them."""

    @staticmethod
    @abstractmethod
    def alike(matrix: Tensor, num_components: int) -> Tensor:
        """Return the ``covariances`` of K components that all have one matrix `(D, D)`.

        Where the structure has no such matrix, it is the most likely one in its place.
        """

    @staticmethod
    @abstractmethod
    def num_parameters(num_components: int, dim: int) -> int:
        """Return how many free parameters the matrices have."""

    @property
    @abstractmethod
    def values(self) -> Tensor:
        """The ``covariances`` that have these factors."""

    @property
    @abstractmethod
    def triangles(self) -> Tensor:
        r"""The factors :math:`\mathbf{L}_k`, `(K, D, D)`, or `(1, D, D)` where they are equal."""

    @property
    @abstractmethod
    def half_log_det(self) -> Tensor:
        r""":math:`\tfrac12 \log \det \boldsymbol{\Sigma}_k`, `(K,)`, or `(1,)`."""

    @abstractmethod
    def whiten(self, v: Tensor) -> Tensor:
        r"""Return :math:`\mathbf{L}_k^{-1} \mathbf{v}` for columns v, `(D, m)` or `(K, D, m)`."""

    @abstractmethod
    def products(self, a: Tensor, b: Tensor) -> Tensor:
        r"""Return :math:`\sum_i \mathbf{a}_{ki} \mathbf{b}_{ki}^\top`, or what matters of it.

        Arguments:
            a: Columns, `(K, D, m)`.
            b: Columns, `(K, D, m)`.

        Returns:
            Sums over the m columns, in the shape of ``covariances``.
        """

    @abstractmethod
    def squares(self, scatter: Tensor, old: Self) -> Tensor:
        r"""Return the squared lengths of all observations in white coordinates, added up.

        .. math:: \sum_k \operatorname{tr}(\boldsymbol{\Sigma}_k^{-1} \mathbf{L}_k \mathbf{S}_k
            \mathbf{L}_k^\top)

        Arguments:
            scatter: The products :math:`\mathbf{S}_k` in the white coordinates of ``old``.
            old: The matrices that the factors :math:`\mathbf{L}_k` belong to.
        """

    @abstractmethod
    def maximiser(self, scatter: Tensor, sizes: Tensor) -> Tensor:
        r"""Return the ``covariances`` that maximise the expected log-likelihood.

        .. math:: -\frac12 \sum_k \bigl[ N_k \log \det \boldsymbol{\Sigma}_k + \operatorname{tr}
            (\boldsymbol{\Sigma}_k^{-1} \mathbf{L}_k \mathbf{S}_k \mathbf{L}_k^\top) \bigr].

        Arguments:
            scatter: The products :math:`\mathbf{S}_k` of all observations, about their means, in
                the white coordinates of these matrices.
            sizes: The numbers of observations :math:`N_k`, `(K,)`. Where it is zero, the matrix
                stays as it is.
        """

    @staticmethod
    @abstractmethod
    def at_floor(values: Tensor, floor: Tensor, num_components: int) -> Tensor:
        """Return in how many directions each component has no more variance than the floor.

        Arguments:
            values: The ``covariances``, none of them below the floor.
            floor: The diagonal of the floor, `(D,)`.
            num_components: The number of components K.

        Returns:
            Counts, `(K,)`: zero for all where they share one matrix.
        """

    @staticmethod
    @abstractmethod
    def lift(values: Tensor, floor: Tensor) -> Tensor:
        r"""Return the maximiser under the constraint that all variances reach a floor.

        .. math:: \boldsymbol{\Sigma}_k \succeq \mathbf{F}

        Arguments:
            values: The ``covariances`` that are the maximiser without it.
            floor: The diagonal of F, `(D,)`, or one for each matrix.
        """

    @classmethod
    def factorable(cls, values: Tensor, dtype: torch.dtype) -> Tensor:
        """Return ``covariances`` that have factors after they are rounded to a dtype, too.

        Variances need nothing for that.
        """
        return values


class Full(Covariances):
    r"""One matrix for each component: ``covariances`` is `(K, D, D)`, and so is ``factor``.

    Example:
        >>> full = Full.of(torch.diag(torch.tensor([4.0, 9.0])).unsqueeze(0), 1, 2)
        >>> full.whiten(torch.tensor([[2.0], [3.0]]))
        tensor([[[1.],
                 [1.]]])
    """

    name = "full"

    def __init__(self, factor: Tensor) -> None:
        super().__init__(factor)
        eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        self._inverse: Tensor = torch.linalg.solve_triangular(factor, eye, upper=False)

    @classmethod
    def of(cls, values: Tensor, num_components: int, dim: int) -> Self:
        """Check that the matrices are symmetric and positive definite."""
        check_tensor("covariances", values, (num_components, dim, dim))
        return cls(_cholesky_of(values, "covariances[{}]"))

    @staticmethod
    def alike(matrix: Tensor, num_components: int) -> Tensor:
        """Repeat the matrix."""
        return matrix.expand(num_components, -1, -1)

    @staticmethod
    def num_parameters(num_components: int, dim: int) -> int:
        """Return :math:`K D (D + 1) / 2`."""
        return num_components * dim * (dim + 1) // 2

    @property
    def values(self) -> Tensor:
        r""":math:`\mathbf{L}_k \mathbf{L}_k^\top`."""
        return self.factor @ self.factor.mT

    @property
    def triangles(self) -> Tensor:
        """The factors themselves."""
        return self.factor

    @property
    def half_log_det(self) -> Tensor:
        r""":math:`\sum_j \log L_{kjj}`."""
        half_log_det: Tensor = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return half_log_det

    def whiten(self, v: Tensor) -> Tensor:
        """Multiply by the inverse, which is much faster than to solve with the factor."""
        return self._inverse @ v

    def products(self, a: Tensor, b: Tensor) -> Tensor:
        """Return one matrix for each component."""
        return a @ b.mT

    def squares(self, scatter: Tensor, old: Self) -> Tensor:
        """Go from the old white coordinates to these ones, then take the traces."""
        change = self._inverse @ old.factor
        return (change @ scatter * change).sum()

    def maximiser(self, scatter: Tensor, sizes: Tensor) -> Tensor:
        r"""Return :math:`\mathbf{L}_k \mathbf{S}_k \mathbf{L}_k^\top / N_k`."""
        sizes = sizes[:, None, None]
        eye = torch.eye(scatter.shape[-1], dtype=scatter.dtype, device=scatter.device)
        white = torch.where(sizes > 0, scatter / sizes, eye)
        return _symmetric(self.factor @ white @ self.factor.mT)

    @staticmethod
    def at_floor(values: Tensor, floor: Tensor, num_components: int) -> Tensor:
        """Count the eigenvalues at 1, in units in which the floor is the identity matrix."""
        units = floor.sqrt().outer(floor.sqrt())
        eigenvalues = torch.linalg.eigvalsh(values / units)
        return _at(eigenvalues, torch.ones_like(floor)).sum(-1)

    @staticmethod
    def lift(values: Tensor, floor: Tensor) -> Tensor:
        r"""Clip the eigenvalues at 1, in units in which the floor is the identity matrix.

        Let :math:`\mathbf{A} = \mathbf{V} \operatorname{diag}(\mathbf{a}) \mathbf{V}^\top` be the
        given matrix in these units. Then :math:`\log \det \mathbf{P} - \operatorname{tr}
        (\mathbf{P} \mathbf{A})` is to be maximised over :math:`\mathbf{P} =
        \boldsymbol{\Sigma}^{-1} \preceq \mathbf{I}`. It is concave, and its gradient is
        :math:`\mathbf{P}^{-1} - \mathbf{A}`. At :math:`\mathbf{P}^{-1} = \mathbf{V}
        \operatorname{diag}(\max(\mathbf{a}, 1)) \mathbf{V}^\top` that is zero, but for the
        eigenvectors with a < 1. There the gradient points up, and P is at its limit.
        """
        units = (floor.sqrt().unsqueeze(-1) * floor.sqrt().unsqueeze(-2)).expand_as(values)
        scaled = values / units
        if not bool(scaled.isfinite().all()):
            raise ValueError(
                "floor must be high enough for variances in units of it to be finite, "
                f"got {float(floor.min()):.3g}"
            )
        eye = torch.eye(floor.shape[-1], dtype=floor.dtype, device=floor.device)
        low = torch.linalg.cholesky_ex(scaled - eye).info > 0
        eigenvalues, vectors = torch.linalg.eigh(scaled[low])
        clipped = vectors * eigenvalues.clamp(min=1).unsqueeze(-2) @ vectors.mT
        lifted = values.clone()
        lifted[low] = clipped * units[low]
        return lifted

    @classmethod
    def factorable(cls, values: Tensor, dtype: torch.dtype) -> Tensor:
        r"""Lift a matrix that has no factor in the dtype to a floor that its rounding cannot reach.

        A Cholesky factorisation does not depend on the units. In those in which all variances are
        1, rounding moves the eigenvalues by about :math:`D \epsilon`.
        """
        failed = torch.linalg.cholesky_ex(values.to(dtype)).info > 0
        if dtype == values.dtype or not bool(failed.any()):
            return values
        variances = values.diagonal(dim1=-2, dim2=-1)
        rounding = 4 * values.shape[-1] * torch.finfo(dtype).eps
        lifted = cls.lift(values, rounding * variances)
        return torch.where(failed[..., None, None], lifted, values)


class Tied(Full):
    r"""One matrix for all components: ``covariances`` is `(D, D)`, ``factor`` is `(1, D, D)`.

    Example:
        >>> Tied.of(torch.eye(3), 5, 3).half_log_det
        tensor([0.])
    """

    name = "tied"

    @classmethod
    def of(cls, values: Tensor, num_components: int, dim: int) -> Self:
        """Check that the matrix is symmetric and positive definite."""
        check_tensor("covariances", values, (dim, dim))
        return cls(_cholesky_of(values.unsqueeze(0), "covariances"))

    @staticmethod
    def alike(matrix: Tensor, num_components: int) -> Tensor:
        """Return the matrix itself."""
        return matrix

    @staticmethod
    def num_parameters(num_components: int, dim: int) -> int:
        """Return :math:`D (D + 1) / 2`."""
        return dim * (dim + 1) // 2

    @property
    def values(self) -> Tensor:
        r""":math:`\mathbf{L} \mathbf{L}^\top`."""
        return super().values.squeeze(0)

    def products(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the sum of the matrices of all components."""
        return (a @ b.mT).sum(0)

    @staticmethod
    def at_floor(values: Tensor, floor: Tensor, num_components: int) -> Tensor:
        """Count nothing: the matrix belongs to all."""
        return torch.zeros(num_components, dtype=torch.int64, device=values.device)

    def maximiser(self, scatter: Tensor, sizes: Tensor) -> Tensor:
        r"""Return :math:`\mathbf{L} \bigl(\sum_k \mathbf{S}_k\bigr) \mathbf{L}^\top / n`."""
        factor = self.triangles.squeeze(0)
        return _symmetric(factor @ (scatter / sizes.sum()) @ factor.mT)


class Diagonal(Covariances):
    r"""Variances without correlations: ``covariances`` is `(K, D)`, and so is ``factor``.

    Example:
        >>> Diagonal.of(torch.tensor([[4.0, 9.0]]), 1, 2).whiten(torch.tensor([[2.0], [3.0]]))
        tensor([[[1.],
                 [1.]]])
    """

    name = "diagonal"

    @classmethod
    def of(cls, values: Tensor, num_components: int, dim: int) -> Self:
        """Check that the variances are positive."""
        check_tensor("covariances", values, (num_components, dim))
        check_positive("covariances", values)
        return cls(values.sqrt())

    @staticmethod
    def alike(matrix: Tensor, num_components: int) -> Tensor:
        """Repeat the diagonal."""
        return matrix.diagonal().expand(num_components, -1)

    @staticmethod
    def num_parameters(num_components: int, dim: int) -> int:
        """Return :math:`K D`."""
        return num_components * dim

    @property
    def values(self) -> Tensor:
        r""":math:`\sigma_{kj}^2`."""
        return self.factor.square()

    @property
    def triangles(self) -> Tensor:
        """Diagonal matrices of the standard deviations."""
        return self.factor.diag_embed()

    @property
    def half_log_det(self) -> Tensor:
        r""":math:`\sum_j \log \sigma_{kj}`."""
        return self.factor.log().sum(-1)

    def whiten(self, v: Tensor) -> Tensor:
        """Divide by the standard deviations."""
        return v * self.factor.reciprocal().unsqueeze(-1)

    def products(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the diagonal of each component's matrix."""
        return (a * b).sum(-1)

    def squares(self, scatter: Tensor, old: Self) -> Tensor:
        """Go from the old units to these ones, then take the sum."""
        return ((old.factor / self.factor).square() * scatter).sum()

    def maximiser(self, scatter: Tensor, sizes: Tensor) -> Tensor:
        r"""Return :math:`\sigma_{kj}^2 S_{kjj} / N_k`."""
        sizes = sizes.unsqueeze(-1)
        return self.values * torch.where(sizes > 0, scatter / sizes, 1.0)

    @staticmethod
    def at_floor(values: Tensor, floor: Tensor, num_components: int) -> Tensor:
        """Compare the variances."""
        return _at(values, floor).sum(-1)

    @staticmethod
    def lift(values: Tensor, floor: Tensor) -> Tensor:
        r"""Return the larger one of variance and floor.

        As a function of v, :math:`-\log v - a / v` rises up to a and falls beyond.
        """
        return torch.maximum(values, floor)


class Spherical(Diagonal):
    r"""One variance in all directions: ``covariances`` is `(K,)`, ``factor`` is `(K, D)`.

    Example:
        >>> Spherical.of(torch.tensor([4.0]), 1, 2).whiten(torch.tensor([[2.0], [6.0]]))
        tensor([[[1.],
                 [3.]]])
    """

    name = "spherical"

    @classmethod
    def of(cls, values: Tensor, num_components: int, dim: int) -> Self:
        """Check that the variances are positive."""
        check_tensor("covariances", values, (num_components,))
        check_positive("covariances", values)
        return cls(values.sqrt().unsqueeze(-1).expand(-1, dim))

    @staticmethod
    def alike(matrix: Tensor, num_components: int) -> Tensor:
        """Repeat the mean of the diagonal."""
        return matrix.diagonal().mean().expand(num_components)

    @staticmethod
    def num_parameters(num_components: int, dim: int) -> int:
        """Return K."""
        return num_components

    @property
    def values(self) -> Tensor:
        r""":math:`\sigma_k^2`."""
        return super().values[:, 0]

    def products(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the trace of each component's matrix."""
        return (a * b).sum((-2, -1))

    def squares(self, scatter: Tensor, old: Self) -> Tensor:
        """Go from the old unit to this one, then take the sum."""
        return ((old.factor / self.factor)[:, 0].square() * scatter).sum()

    def maximiser(self, scatter: Tensor, sizes: Tensor) -> Tensor:
        r"""Return :math:`\sigma_k^2 \operatorname{tr} \mathbf{S}_k / (N_k D)`."""
        white = scatter / (sizes * self.factor.shape[-1])
        return self.values * torch.where(sizes > 0, white, 1.0)

    @staticmethod
    def at_floor(values: Tensor, floor: Tensor, num_components: int) -> Tensor:
        """Compare the variance, which is that of every direction, with the mean of the floor."""
        return len(floor) * _at(values, floor.mean())

    @staticmethod
    def lift(values: Tensor, floor: Tensor) -> Tensor:
        """Return the larger one of variance and mean floor."""
        return torch.maximum(values, floor.mean())


def structure_called(name: object) -> type[Covariances]:
    """Return the structure of a name.

    Example:
        >>> structure_called("round")
        Traceback (most recent call last):
        ...
        ValueError: structure must be one of full, tied, diagonal, spherical, got 'round'
    """
    check_type("structure", name, str, "a str")
    structures: list[type[Covariances]] = [Full, Tied, Diagonal, Spherical]
    for structure in structures:
        if structure.name == name:
            return structure
    names = ", ".join(structure.name for structure in structures)
    raise ValueError(f"structure must be one of {names}, got {name!r}")


def _at(variances: Tensor, floor: Tensor) -> Tensor:
    """Return which variances are no more than the floor, up to rounding."""
    return variances <= floor * (1 + 1e-6)


def _symmetric(values: Tensor) -> Tensor:
    """Remove what rounding leaves between a matrix and its transpose."""
    return (values + values.mT) / 2


def _cholesky_of(covariances: Tensor, name: str) -> Tensor:
    """Return the lower Cholesky factors of covariance matrices `(K, D, D)`, all of them checked."""
    check_precision("covariances", covariances)
    values = covariances.detach()
    # Symmetric up to the rounding of a product such as L L^T.
    allowed = 100 * torch.finfo(values.dtype).eps * values.abs().amax((1, 2))
    skew = ((values - values.mT).abs().amax((1, 2)) > allowed).nonzero()
    if len(skew):
        k = int(skew[0])
        raise ValueError(f"{name.format(k)} must be symmetric, got {values[k].tolist()}")
    factors: Tensor
    factors, failed = torch.linalg.cholesky_ex(covariances)
    if bool(failed.any()):
        k = int(failed.nonzero()[0])
        smallest = float(torch.linalg.eigvalsh(values[k]).min())
        raise ValueError(
            f"{name.format(k)} must be positive definite, got the eigenvalue {smallest:.3g}"
        )
    return factors
