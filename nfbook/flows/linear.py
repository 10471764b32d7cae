"""Linear flows: Gaussians with any covariance, by factors of their matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nfbook.flows.base import ParametricFlow
from nfbook.transforms.base import Compose, Transform
from nfbook.transforms.linear import PLU, QR
from nfbook.transforms.permutation import Permutation
from nfbook.transforms.univariate import ScaleAndShift

__all__ = ["LinearFlow", "PLUFlow", "QRFlow"]


class LinearFlow(ParametricFlow):
    r"""What the linear flows share: for each layer a square matrix of numbers, and a shift.

    The matrix's diagonal holds log-scales. They are bounded as in `ScaleAndShift`, so that of U or
    R lies between 1/1000 and 1000. A layer can be ill-conditioned all the same, as Gaussians can:
    the relative error of an inverse grows with the condition number.
    """

    default_length = 1
    scale_and_shift = ScaleAndShift()

    def start(self, length: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Return factors that are the identity, and no shift."""
        return {
            "weights": torch.zeros(length, self.features, self.features),
            "shift": torch.zeros(length, self.features),
        }

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

    The arguments are those of `ParametricFlow`, with one layer unless more are asked for.

    Example:
        >>> flow = PLUFlow(3, generator=torch.Generator().manual_seed(0))
        >>> flow().log_prob(torch.zeros(3)).detach()
        tensor(-2.7568)
    """

    permutations: Tensor

    def __init__(
        self,
        features: int,
        context: int = 0,
        length: int | None = None,
        hidden_features: Sequence[int] = (64, 64),
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(features, context, length, hidden_features, generator=generator)
        orders = [torch.randperm(features, generator=generator) for _ in range(self.length)]
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

    The arguments are those of `ParametricFlow`, with one layer unless more are asked for.

    Example:
        >>> flow = QRFlow(3, length=2)
        >>> flow().rsample((5,)).shape
        torch.Size([5, 3])
    """

    def transform(self, context: Tensor | None = None) -> Transform:
        """Return the layers, one after the other."""
        return Compose([QR(weights, shift) for weights, shift in self.layers(context)])
