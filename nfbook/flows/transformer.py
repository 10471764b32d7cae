"""The transformer flow: autoregressive layers whose network is a causal transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from nfbook._checks import check_count, check_generator
from nfbook.flows.base import Flow
from nfbook.networks import CausalTransformer
from nfbook.transforms.base import Compose, Transform
from nfbook.transforms.patches import PatchAutoregressive
from nfbook.transforms.permutation import Permutation
from nfbook.transforms.univariate import ScaleAndShift

__all__ = ["TransformerFlow"]


class TransformerFlow(Flow):
    r"""K affine autoregressive layers of patches, with transformers (Zhai et al., 2024, TarFlow).

    From data to noise each layer shifts and scales a patch, as the patches before it say:

    .. math:: \mathbf{z}_t = e^{\mathbf{s}_t} \odot \mathbf{y}_t + \mathbf{m}_t, \qquad
        (\mathbf{m}_t, \mathbf{s}_t) = h_t(\mathbf{y}_1, \dots, \mathbf{y}_{t-1}, \mathbf{c}).

    Every second layer takes the patches from the last to the first. `log_prob` takes one pass
    through each network. Sampling takes one turn for each patch, and all turns together take the
    arithmetic of about one pass. The paper makes the layers of images much larger, adds noise to
    its data, and takes it from the samples; the layers are the same.

    Arguments:
        features: The dimension D.
        context: The size of the context; 0 for none.
        length: The number of layers K.
        hidden_features: For each block of a network the width of its perceptron, see
            `CausalTransformer`.
        patch: The number of coordinates of a patch; the D of them are cut in succession.
        width: The size of a token.
        heads: The number of heads of attention.
        bound: The largest log-scale of a layer.
        generator: The source of the initial weights.

    Raises:
        TypeError: A number is not an int.
        ValueError: A number is too small, patches do not fill the vector, or heads the width.

    Example:
        >>> flow = TransformerFlow(6, length=2, patch=3, generator=torch.Generator().manual_seed(0))
        >>> flow().log_prob(torch.zeros(5, 6))[0]
        tensor(-5.5136, grad_fn=<SelectBackward0>)
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        length: int = 4,
        hidden_features: Sequence[int] = (64, 64),
        *,
        patch: int = 1,
        width: int = 32,
        heads: int = 4,
        bound: float = 3.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(features, context)
        check_count("length", length)
        check_generator(generator)
        self.univariate = ScaleAndShift(bound)
        self.patch = patch
        self.networks = nn.ModuleList(
            CausalTransformer(
                features,
                self.univariate.size,
                hidden_features,
                context=context,
                patch=patch,
                width=width,
                heads=heads,
                zero=True,
                generator=generator,
            )
            for _ in range(length)
        )

    def transform(self, context: torch.Tensor | None = None) -> Transform:
        """Return the layers, each from data to noise inverted, with reversals between them."""
        places = torch.arange(self.features, device=self.like.device)
        last_first = places.unflatten(0, (-1, self.patch)).flip(0).flatten()
        layers: list[Transform] = []
        for network in self.networks:
            layer = PatchAutoregressive(
                cast("CausalTransformer", network), self.univariate, context
            )
            layers += [layer.inv, Permutation(last_first, check=False)]
        return Compose(layers[:-1])
