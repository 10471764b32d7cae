"""Autoregressive transforms: each coordinate is transformed as the ones before it say."""

from __future__ import annotations

import torch
from torch import Tensor

from nfbook._checks import check_type
from nfbook.networks import MaskedMLP
from nfbook.networks.masked import Steps
from nfbook.transforms.base import Transform
from nfbook.transforms.univariate import Univariate

__all__ = ["Autoregressive"]


class Autoregressive(Transform):
    r"""An autoregressive transform (Kingma et al., 2016; Papamakarios et al., 2017).

    .. math:: y_i = \tau\bigl(z_i;\, h_i(z_1, \dots, z_{i-1}, \mathbf{c})\bigr),
        \qquad i = 1, \dots, D,

    in the order of the masked network that gives the parameters h. The Jacobian is triangular in
    that order, so its determinant is the product of the diagonal:

    .. math:: \log |\det J_t(\mathbf{z})|
        = \sum_i \log \left| \frac{\partial \tau(z_i; h_i)}{\partial z_i} \right|.

    Forward, all z are known, and one pass through the network gives all h. Back, the coordinates
    are found one by one, since each needs those before it: the network is evaluated in D `Steps`,
    which together cost the arithmetic of one pass. Both directions have derivatives of any order.

    Arguments:
        network: h, with as many outputs for each coordinate as ``univariate`` takes.
        univariate: Makes the transform τ of the parameters.
        context: c, `(*, C)`; None for a network without.

    Raises:
        TypeError: ``network`` is no MaskedMLP.
        ValueError: It has another number of outputs.

    Example:
        >>> from nfbook.transforms import ScaleAndShift
        >>> layer = Autoregressive(MaskedMLP(3, 2), ScaleAndShift())
        >>> z = torch.tensor([1.0, -2.0, 0.5])
        >>> torch.allclose(layer.inv(layer(z)), z, atol=1e-5)
        True
    """

    def __init__(
        self, network: MaskedMLP, univariate: Univariate, context: Tensor | None = None
    ) -> None:
        super().__init__()
        check_type("network", network, MaskedMLP, "a MaskedMLP")
        if network.outputs != univariate.size:
            raise ValueError(
                f"network must have {univariate.size} outputs for each coordinate, "
                f"got {network.outputs}"
            )
        self.network, self.univariate, self.context = network, univariate, context

    def call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Transform all coordinates at once."""
        return self.univariate(self.network(z, self.context)).call_and_ladj(z)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Find one coordinate after the other."""
        steps = Steps(self.network, y, self.context)
        ladjs = []
        for y_i in rows_in_order(y, steps.batch, self.network.order):
            tau = self.univariate(steps.parameters().mT.unsqueeze(-2))
            z_i, ladj = tau.inverse_and_ladj(y_i.unsqueeze(-1))
            steps.append(z_i.squeeze(-1))
            ladjs.append(ladj)
        return steps.x(), torch.stack(ladjs).sum(0).reshape(steps.batch)


def rows_in_order(y: Tensor, batch: torch.Size, order: Tensor) -> tuple[Tensor, ...]:
    """Return the coordinates of all N points, `(N)` each, as they come in order."""
    points = y.expand(*batch, -1).reshape(batch.numel(), len(order))
    return points.mT.index_select(0, order).unbind()
