"""Linear flows: Gaussians with any covariance, by factors of their matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nfbook._checks import check_count
from nfbook.flows.base import Flow
from nfbook.networks import ConditionalParameters
from nfbook.transforms.base import Compose, Transform
from nfbook.transforms.linear import PLU, QR
from nfbook.transforms.permutation import Permutation
from nfbook.transforms.univariate import ScaleAndShift

__all__ = ["PLUFlow", "QRFlow"]


class LinearFlow(Flow):
    r"""What the linear flows share: for each layer a square matrix of numbers, and a shift.

    The matrix's diagonal holds log-scales. They are bounded as in `ScaleAndShift`, so that of U or
    R lies between 1/1000 and 1000. A layer can be ill-conditioned all the same, as Gaussians can:
    the relative error of an inverse grows with the condition number.
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        length: int = 1,
        hidden_features: Sequence[int] = (64, 64),
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(features, context)
        check_count("length", length)
        self.scale_and_shift = ScaleAndShift()
        start = {
            "weights": torch.zeros(length, features, features),
            "shift": torch.zeros(length, features),
        }
        self.parameters_of = ConditionalParameters(
            start, context, hidden_features, generator=generator
        )

    def layers(self, context: Tensor | None) -> list[tuple[Tensor, Tensor]]:
        """Return weights and shift of each layer."""
        parameters = self.parameters_of(context)
        weights = parameters["weights"]
        diagonal = weights.diagonal(dim1=-2, dim2=-1)
        affine = self.scale_and_shift(torch.stack([parameters["shift"], diagonal], dim=-1))
        weights = weights.diagonal_scatter(affine.log_scale, dim1=-2, dim2=-1)
        return list(zip(weights.unbind(-3), affine.shift.unbind(-2), strict=True))


class PLUFlow(LinearFlow):
    r"""K layers :math:`\mathbf{P} \mathbf{L} \mathbf{U} \mathbf{z} + \mathbf{b}`, see `PLU`.

    One layer is a Gaussian with any mean and covariance that the bounds on U's diagonal allow.
    As a layer between others, in a `Chain`, it mixes the coordinates, for a coupling that treats
    them in two groups (Kingma and Dhariwal, 2018). Each P is drawn once and kept in a buffer. At
    the start the layers are their P.

    Arguments:
        features: The dimension D.
        context: The size of the context that gives L, U and b; 0 for free ones.
        length: The number of layers K. Several are again one affine map, with more parameters.
        hidden_features: The widths of the network from context to parameters.
        generator: The source of the permutations and of the network's initial weights.

    Example:
        >>> flow = PLUFlow(3, generator=torch.Generator().manual_seed(0))
        >>> flow().log_prob(torch.zeros(3))
        tensor(-2.7568, grad_fn=<AddBackward0>)
    """

    permutations: Tensor

    def __init__(
        self,
        features: int,
        context: int = 0,
        length: int = 1,
        hidden_features: Sequence[int] = (64, 64),
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(features, context, length, hidden_features, generator=generator)
        orders = [Permutation.random(features, generator).order for _ in range(length)]
        self.register_buffer("permutations", torch.stack(orders))

    def transform(self, context: Tensor | None = None) -> Transform:
        """Return the layers, one after the other."""
        orders = self.permutations.unbind()
        return Compose(
            [
                PLU(weights, shift, Permutation(order, check=False))
                for (weights, shift), order in zip(self.layers(context), orders, strict=True)
            ]
        )


class QRFlow(LinearFlow):
    r"""K layers :math:`\mathbf{Q} \mathbf{R} \mathbf{z} + \mathbf{b}`, see `QR`.

    One layer is a Gaussian with any mean and covariance that the bounds on R's diagonal allow.
    At the start each layer only changes the signs of the coordinates.

    Arguments:
        features: The dimension D.
        context: The size of the context that gives Q, R and b; 0 for free ones.
        length: The number of layers K. Several are again one affine map, with more parameters.
        hidden_features: The widths of the network from context to parameters.
        generator: The source of the network's initial weights.

    Example:
        >>> flow = QRFlow(3, length=2)
        >>> flow().rsample((5,)).shape
        torch.Size([5, 3])
    """

    def transform(self, context: Tensor | None = None) -> Transform:
        """Return the layers, one after the other."""
        return Compose([QR(weights, shift) for weights, shift in self.layers(context)])
