"""Autoregressive transforms: each coordinate is transformed as the ones before it say."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nfbook._checks import check_type
from nfbook.networks import BoundMaskedMLP, MaskedMLP, Snapshot
from nfbook.networks.masked import Steps
from nfbook.transforms.base import Transform
from nfbook.transforms.univariate import Univariate

__all__ = ["Autoregressive", "rows_in_order"]


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
        network: h, with as many outputs for each coordinate as ``univariate`` takes. Or what
            `MaskedMLP.bind` returned, which has its context.
        univariate: Makes the transform τ of the parameters.
        context: c, `(*, C)`; None for a network without.

    Raises:
        TypeError: ``network`` is not a MaskedMLP.
        ValueError: It has another number of outputs.

    Example:
        >>> from nfbook.transforms import ScaleAndShift
        >>> layer = Autoregressive(MaskedMLP(3, 2), ScaleAndShift())
        >>> z = torch.tensor([1.0, -2.0, 0.5])
        >>> torch.allclose(layer.inv(layer(z)), z, atol=1e-5)
        True
    """

    def __init__(
        self,
        network: MaskedMLP | BoundMaskedMLP | Snapshot,
        univariate: Univariate,
        context: Tensor | None = None,
    ) -> None:
        super().__init__()
        check_type("network", network, MaskedMLP | BoundMaskedMLP | Snapshot, "a MaskedMLP")
        bound = network.bind(context) if isinstance(network, MaskedMLP) else network
        made: Any = bound.module if isinstance(bound, Snapshot) else bound
        check_type("network", made, MaskedMLP | BoundMaskedMLP, "a MaskedMLP")
        if made.outputs != univariate.size:
            raise ValueError(
                f"network must have {univariate.size} outputs for each coordinate, "
                f"got {made.outputs}"
            )
        self.network: BoundMaskedMLP | Snapshot = bound
        self.order: Tensor = made.order
        self.univariate = univariate

    @property
    def features(self) -> int:
        """The number of coordinates D."""
        return len(self.order)

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Transform all coordinates at once."""
        return self.univariate(self.network(z)).call_and_ladj(z)

    def _inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Find one coordinate after the other."""
        if isinstance(self.network, Snapshot):
            return self._inverse_by_passes(y)
        steps = Steps(self.network, y)
        ladjs = []
        for y_i in rows_in_order(y, steps.batch, self.order):
            tau = self.univariate(steps.parameters().mT.unsqueeze(-2))
            z_i, ladj = tau.inverse_and_ladj(y_i.unsqueeze(-1))
            steps.append(z_i.squeeze(-1))
            ladjs.append(ladj)
        return steps.x(), torch.stack(ladjs).sum(0).reshape(steps.batch)

    def _inverse_by_passes(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Find one coordinate after the other, with a pass through the network for each."""
        # What is not known yet is not seen either, so it may be anything.
        z, place, ladjs = torch.zeros_like(y), self.order.argsort(), []
        for turn, index in enumerate(self.order.split(1)):
            raw = self.network(z).index_select(-2, index)
            z_i, ladj = self.univariate(raw).inverse_and_ladj(y.index_select(-1, index))
            z = torch.where(place == turn, z_i, z)
            ladjs.append(ladj)
        return z, torch.stack(ladjs).sum(0)


def rows_in_order(y: Tensor, batch: torch.Size, order: Tensor) -> tuple[Tensor, ...]:
    """Return the coordinates of all N points, `(N)` each, as they come in order.

    Example:
        >>> y = torch.tensor([[1.0, 2.0, 3.0]])
        >>> rows_in_order(y, torch.Size([1]), torch.tensor([2, 0, 1]))
        (tensor([3.]), tensor([1.]), tensor([2.]))
    """
    points = y.expand(*batch, -1).reshape(batch.numel(), len(order))
    return points.mT.index_select(0, order).unbind()
