"""A product of Householder reflections: an orthogonal map that costs a few inner products."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from nfbook._checks import check_precision
from nfbook._precision import full_precision
from nfbook.transforms._parameters import check_parameters
from nfbook.transforms.base import Transform

__all__ = ["Householder"]


class Householder(Transform):
    r"""K reflections, the first vector's applied first.

    .. math:: t(\mathbf{z}) = \mathbf{Q} \mathbf{z} = \mathbf{H}_K \cdots \mathbf{H}_1 \mathbf{z},
        \qquad
        \mathbf{H}_k = \mathbf{I} - 2 \frac{\mathbf{v}_k \mathbf{v}_k^\top}{\|\mathbf{v}_k\|^2}.

    A reflection changes the sign of the part along v and keeps what is orthogonal to v. It
    preserves lengths and volume and is its own inverse, so the inverse of the product is the same
    reflections in the opposite order. A vector of zeros has no direction; it stands for the
    identity.

    Reflecting z takes O(KD) operations, and no matrix is formed. Every orthogonal matrix
    is a product of at most D reflections. Up to the signs of its columns, D - 1 are enough.

    Arguments:
        vectors: The normals v of the mirrors, of any length, `(*, K, D)`; with none the map is the
            identity.

    Raises:
        TypeError: ``vectors`` is not a floating-point tensor.
        ValueError: They have another shape.

    Example:
        The mirror orthogonal to (1, -1) exchanges the coordinates:

        >>> swap = Householder(torch.tensor([[1.0, -1.0]]))
        >>> swap(torch.tensor([3.0, 5.0]))
        tensor([5., 3.])
        >>> swap.matrix
        tensor([[0., 1.],
                [1., 0.]])
    """

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        check_parameters(vectors=(vectors, "kD"))
        self.vectors = vectors

    @property
    def features(self) -> int:
        """The dimension D."""
        return self.vectors.shape[-1]

    @property
    def matrix(self) -> Tensor:
        """The matrix Q, `(*, D, D)`."""
        return self.columns(self.vectors.shape[-1])

    def columns(self, count: int) -> Tensor:
        r"""Return the first columns of Q, `(*, D, count)`.

        For many vectors it pays to know the inner products of the v beforehand, as in a
        `PlanarStack`. With :math:`\tau_k = 2 / \|\mathbf{v}_k\|^2` the numbers
        :math:`x_k = \mathbf{v}_k^\top \mathbf{z}_{k-1}` solve a triangular system:

        .. math:: x_k + \sum_{j < k} (\mathbf{v}_k^\top \mathbf{v}_j)\, \tau_j x_j
                = \mathbf{v}_k^\top \mathbf{z}_0,
            \qquad \mathbf{z}_K = \mathbf{z}_0 - \sum_{k=1}^K \mathbf{v}_k \tau_k x_k.
        """
        check_precision("vectors", self.vectors)
        with full_precision(self.vectors):
            v, scaled = self._mirrors()
            system = torch.tril(v @ scaled.mT, -1)
            start = v[..., :count]
            x = torch.linalg.solve_triangular(system, start, upper=False, unitriangular=True)
            first = torch.eye(v.shape[-1], count, dtype=v.dtype, device=v.device)
            columns: Tensor = first - scaled.mT @ x
        return columns

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Reflect at each mirror."""
        return self._reflect(z, range(self.vectors.shape[-2]))

    def _inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Reflect at each mirror, from the last to the first."""
        return self._reflect(y, reversed(range(self.vectors.shape[-2])))

    def _reflect(self, z: Tensor, order: Iterable[int]) -> tuple[Tensor, Tensor]:
        v, scaled = self._mirrors()
        for k in order:
            along = (v[..., k, :] * z).sum(-1, keepdim=True)
            z = z - scaled[..., k, :] * along
        return z, z.new_zeros(z.shape[:-1])

    def _mirrors(self) -> tuple[Tensor, Tensor]:
        r"""Return the vectors, and :math:`2 \mathbf{v} / \|\mathbf{v}\|^2`, both zero for v = 0.

        The largest entry of each vector is brought to one, so that no square overflows or
        vanishes. That factor cancels out, and so do its derivatives: it counts as a constant.
        """
        largest = self.vectors.detach().abs().amax(-1, keepdim=True)
        v = self.vectors / torch.where(largest > 0, largest, 1)
        squared = v.square().sum(-1, keepdim=True)
        return v, 2 * v / torch.where(squared > 0, squared, 1)
