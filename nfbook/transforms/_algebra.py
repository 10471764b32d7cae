"""Products and triangular solves with batches of matrices, broadcast as transforms need them."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def product(matrix: Tensor, z: Tensor) -> Tensor:
    """Return the matrix times each vector, with batch dimensions broadcast.

    For einsum, the vectors that share a matrix are one factor of one matrix product; matmul would
    copy the matrix for each of them.
    """
    result: Tensor = torch.einsum("...ij,...j->...i", matrix, z)
    return result


def triangular_solve(matrix: Tensor, y: Tensor, *, is_upper: bool) -> Tensor:
    """Return the z with which a triangular matrix gives y, with batch dimensions broadcast."""
    features = y.shape[-1]
    shape = torch.broadcast_shapes(matrix.shape[:-2], y.shape[:-1])
    # The vectors that share a matrix are the columns of one right side.
    leading = len(shape) - (matrix.dim() - 2)
    many, own = math.prod(shape[:leading]), shape[leading:]
    right = y.expand(*shape, features).reshape(many, *own, features).movedim(0, -1)
    matrices = matrix.expand(*own, features, features)
    z: Tensor = torch.linalg.solve_triangular(matrices, right, upper=is_upper)
    return z.movedim(-1, 0).reshape(*shape, features)


def diagonal(matrix: Tensor) -> Tensor:
    """Return the diagonals of matrices `(*, M, M)`, `(*, M)`."""
    return matrix.diagonal(dim1=-2, dim2=-1)
