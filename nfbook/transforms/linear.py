"""Linear maps given by their factors, so that determinant and inverse cost next to nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from nfbook._checks import check_precision
from nfbook.transforms._algebra import product, triangular_solve
from nfbook.transforms._parameters import check_parameters
from nfbook.transforms.base import Transform
from nfbook.transforms.householder import Householder
from nfbook.transforms.permutation import Permutation

__all__ = ["PLU", "QR"]


class PLU(Transform):
    r"""An affine map whose matrix is a product of a permutation and two triangular matrices.

    .. math:: t(\mathbf{z}) = \mathbf{P} \mathbf{L} \mathbf{U} \mathbf{z} + \mathbf{b},
        \qquad \log |\det J_t| = \sum_i s_i.

    L is lower triangular with ones on its diagonal, U upper triangular with the diagonal
    :math:`e^{s_i} > 0`. So the map is invertible whatever the parameters, its determinant takes D
    additions, and its inverse two triangular solves in place of a matrix's inverse. The
    parametrisation is that of Glow (Kingma and Dhariwal, 2018, section 3.2).

    Both factors come in one matrix, as the routines for the LU decomposition store them: L below
    the diagonal, s on it, and U above it. A matrix of zeros is the identity.

    Arguments:
        weights: L, s and U, `(*, D, D)`.
        shift: b, `(*, D)`.
        permutation: P, which is not trained; None for the identity.

    Raises:
        TypeError: A parameter is not a tensor of single or double precision, or the dtypes differ.
        ValueError: Their sizes do not fit.

    Example:
        >>> weights = torch.tensor([[0.0, 2.0], [3.0, 0.0]])
        >>> layer = PLU(weights, torch.zeros(2), Permutation.reversal(2))
        >>> layer.matrix
        tensor([[3., 7.],
                [1., 2.]])
        >>> layer.inv(torch.tensor([7.0, 2.0]))
        tensor([0., 1.])
    """

    def __init__(
        self, weights: Tensor, shift: Tensor, permutation: Permutation | None = None
    ) -> None:
        super().__init__()
        check_parameters(weights=(weights, "DD"), shift=(shift, "D"))
        check_precision("weights", weights)
        self.weights, self.shift, self.permutation = weights, shift, permutation

    @property
    def features(self) -> int:
        """The dimension D."""
        return self.weights.shape[-1]

    @property
    def matrix(self) -> Tensor:
        """The matrix P L U, `(*, D, D)`. The transform never forms it."""
        matrix = _unit_lower(self.weights) @ _upper(self.weights)
        # P moves the rows, so it acts on each column.
        return matrix if self.permutation is None else self.permutation(matrix.mT).mT

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Multiply by U, L and P, then shift."""
        y = product(_unit_lower(self.weights), product(_upper(self.weights), z))
        if self.permutation is not None:
            y = self.permutation(y)
        return y + self.shift, _log_det(self.weights).expand(y.shape[:-1])

    def _inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Shift back, put into the old order, then solve with L and U."""
        z = y - self.shift
        if self.permutation is not None:
            z = self.permutation.inv(z)
        z = triangular_solve(_unit_lower(self.weights), z, is_upper=False)
        z = triangular_solve(_upper(self.weights), z, is_upper=True)
        return z, -_log_det(self.weights).expand(z.shape[:-1])


class QR(Transform):
    r"""An affine map whose matrix is a product of an orthogonal and a triangular matrix.

    .. math:: t(\mathbf{z}) = \mathbf{Q} \mathbf{R} \mathbf{z} + \mathbf{b},
        \qquad \log |\det J_t| = \sum_i s_i.

    R is upper triangular with the diagonal :math:`e^{s_i} > 0`. Q is a product of Householder
    reflections, :math:`\mathbf{Q} = \mathbf{H}_1 \cdots \mathbf{H}_{D-1}`, so
    :math:`|\det \mathbf{Q}| = 1` and the inverse of Q is its transpose: the same reflections in the
    opposite order. Only R is solved for.

    Householder's method finds these factors of a given matrix A. :math:`\mathbf{H}_1` clears the
    first column below the diagonal, :math:`\mathbf{H}_2` the second and leaves the first row
    alone, and so on, until :math:`\mathbf{H}_{D-1} \cdots \mathbf{H}_1 \mathbf{A} = \mathbf{R}`. So
    the first k - 1 entries of the vector :math:`\mathbf{v}_k` are 0, and since its length does not
    matter, the next can be 1. The vectors then fill just the part of a square matrix that R
    leaves free, and none of them can vanish.

    Every invertible matrix can be had, up to the signs of its columns, and so every Gaussian.

    Arguments:
        weights: The vectors' other entries below the diagonal, one vector a column; s on the
            diagonal, and R above it, `(*, D, D)`.
        shift: b, `(*, D)`.

    Raises:
        TypeError: A parameter is not a tensor of single or double precision, or the dtypes differ.
        ValueError: Their sizes do not fit.

    Example:
        >>> layer = QR(torch.tensor([[0.0, 2.0], [1.0, 0.0]]), torch.zeros(2))
        >>> layer.matrix
        tensor([[ 0., -1.],
                [-1., -2.]])
        >>> layer.inv(torch.tensor([-1.0, -3.0]))
        tensor([1., 1.])
    """

    def __init__(self, weights: Tensor, shift: Tensor) -> None:
        super().__init__()
        check_parameters(weights=(weights, "DD"), shift=(shift, "D"))
        check_precision("weights", weights)
        self.weights, self.shift = weights, shift

    @property
    def features(self) -> int:
        """The dimension D."""
        return self.weights.shape[-1]

    @property
    def matrix(self) -> Tensor:
        """The matrix Q R, `(*, D, D)`. The transform never forms it."""
        return self.reflections.matrix.mT @ _upper(self.weights)

    @property
    def reflections(self) -> Householder:
        r"""The reflections, :math:`\mathbf{H}_1` first: together they are the inverse of Q."""
        # The last column has nothing below the diagonal to be cleared.
        return Householder(_unit_lower(self.weights).mT[..., :-1, :])

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Multiply by R, reflect, then shift."""
        y = self.reflections.inv(product(_upper(self.weights), z)) + self.shift
        return y, _log_det(self.weights).expand(y.shape[:-1])

    def _inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Shift back, reflect in the opposite order, then solve with R."""
        z = triangular_solve(_upper(self.weights), self.reflections(y - self.shift), is_upper=True)
        return z, -_log_det(self.weights).expand(z.shape[:-1])


def _unit_lower(weights: Tensor) -> Tensor:
    """Return what stands below the diagonal, with ones on the diagonal."""
    identity = torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device)
    return weights.tril(-1) + identity


def _upper(weights: Tensor) -> Tensor:
    """Return what stands above the diagonal, with the diagonal's exponential."""
    return weights.triu(1) + torch.diag_embed(weights.diagonal(dim1=-2, dim2=-1).exp())


def _log_det(weights: Tensor) -> Tensor:
    """Return the logarithm of the determinant of `_upper`, the sum of the diagonal."""
    return weights.diagonal(dim1=-2, dim2=-1).sum(-1)
