"""Autoregressive transforms whose steps are patches: each is transformed as those before it say."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from nfbook._checks import check_type
from nfbook.networks import CausalTransformer, Memory, Snapshot
from nfbook.transforms.base import Transform
from nfbook.transforms.univariate import Univariate

__all__ = ["PatchAutoregressive"]


class PatchAutoregressive(Transform):
    r"""An autoregressive transform patch by patch, with a causal transformer (Zhai et al., 2024).

    .. math:: \mathbf{y}_t = \tau\bigl(\mathbf{z}_t;\,
        h_t(\mathbf{z}_1, \dots, \mathbf{z}_{t-1}, \mathbf{c})\bigr), \qquad t = 1, \dots, T,

    where τ acts on each coordinate of a patch by itself. The Jacobian is triangular, since no
    coordinate sees another one of its own patch, so its determinant is the product of the diagonal:

    .. math:: \log |\det J_t(\mathbf{z})|
        = \sum_i \log \left| \frac{\partial \tau(z_i; h_i)}{\partial z_i} \right|.

    Forward, one pass through the network gives all parameters. Back, each patch needs those before
    it, so there are T turns. The keys and values of patches that are known stay what they are, and
    a `Memory` keeps them, so that each turn evaluates the network for one patch.

    Arguments:
        network: h, with as many outputs for each coordinate as ``univariate`` takes. Or what
            `CausalTransformer.bind` returned, which has its context.
        univariate: Makes the transform τ of the parameters.
        context: c, `(*, C)`; None for a network without.

    Raises:
        TypeError: ``network`` is not a CausalTransformer.
        ValueError: It has another number of outputs.

    Example:
        >>> from nfbook.transforms import ScaleAndShift
        >>> layer = PatchAutoregressive(CausalTransformer(4, 2, patch=2), ScaleAndShift())
        >>> z = torch.tensor([1.0, -2.0, 0.5, 3.0])
        >>> torch.allclose(layer.inv(layer(z)), z, atol=1e-5)
        True
    """

    def __init__(
        self,
        network: CausalTransformer | Snapshot,
        univariate: Univariate,
        context: Tensor | None = None,
    ) -> None:
        super().__init__()
        bound = network.bind(context) if isinstance(network, CausalTransformer) else network
        made: Any = bound.module if isinstance(bound, Snapshot) else bound
        check_type("network", made, CausalTransformer, "a CausalTransformer")
        if made.outputs != univariate.size:
            raise ValueError(
                f"network must have {univariate.size} outputs for each coordinate, "
                f"got {made.outputs}"
            )
        self.network: Snapshot = bound
        self.patch: int = made.patch
        self.size: int = made.features
        self.univariate = univariate

    @property
    def features(self) -> int:
        """The number of coordinates D."""
        return self.size

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Transform all patches at once."""
        return self.univariate(self.network(z)).call_and_ladj(z)

    def _inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Find one patch after the other."""
        # What is not known yet is not seen either, so it may be anything.
        patches, known = y.split(self.patch, -1), torch.zeros_like(y)
        memory = Memory(cast("CausalTransformer", self.network.module))
        found: list[Tensor] = []
        ladjs = []
        for y_t in patches:
            raw = self.network(known, memory=memory)
            z_t, ladj = self.univariate(raw).inverse_and_ladj(y_t)
            found.append(z_t)
            ladjs.append(ladj)
            ahead = [torch.zeros_like(z_t)] * (len(patches) - len(found))
            known = torch.cat([*found, *ahead], -1)
        return known, torch.stack(ladjs).sum(0)
