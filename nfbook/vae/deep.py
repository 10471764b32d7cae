"""Several stochastic layers: the deep latent Gaussian model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from nfbook._checks import check_count, check_type
from nfbook.flows import Flow
from nfbook.networks import Snapshot
from nfbook.transforms.base import Transform
from nfbook.transforms.elementwise import Affine, soft_bound
from nfbook.vae.decoders import Decoder
from nfbook.vae.model import VAE

__all__ = ["DeepLatentGaussian", "HierarchicalGaussian", "Hierarchy"]

# The largest log-scale of a layer: scales lie between 1/1000 and 1000, as those of an AffineFlow.
LOG_SCALE = math.log(1000)


class Hierarchy(Transform):
    r"""From noise of L layers to their z, each Gaussian given the one above.

    .. math:: \mathbf{z}_L = \boldsymbol\xi_L, \qquad
        \mathbf{z}_l = \boldsymbol\mu_l(\mathbf{z}_{l+1})
            + \boldsymbol\sigma_l(\mathbf{z}_{l+1}) \odot \boldsymbol\xi_l, \qquad
        \log |\det J_t| = \sum_{l < L} \sum_i \log \sigma_{l, i}(\mathbf{z}_{l+1}).

    A vector holds the layers from :math:`\mathbf{z}_1`, next to x, to :math:`\mathbf{z}_L`. Forward
    goes down layer by layer. Backward, all of z is known, so no layer waits for another.

    Arguments:
        networks: That of :math:`\mathbf{z}_1` first: each from the layer above, `(*, d)`, to the
            means and then the raw log-scales of its own.
        sizes: The sizes of all L layers.

    Example:
        >>> hierarchy = Hierarchy([nn.Linear(2, 6)], [3, 2])
        >>> z = hierarchy(torch.ones(7, 5))
        >>> torch.allclose(hierarchy.inv(z), torch.ones(7, 5), atol=1e-5)
        True
    """

    def __init__(
        self, networks: Sequence[Callable[[Tensor], Tensor]], sizes: Sequence[int]
    ) -> None:
        super().__init__()
        self.networks, self.sizes = list(networks), list(sizes)

    @property
    def features(self) -> int:
        """The sum of the layers' sizes."""
        return sum(self.sizes)

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Go down from the highest layer."""
        *noise, above = z.split(self.sizes, dim=-1)
        layers, ladj = [above], z.new_zeros(z.shape[:-1])
        for network, xi in zip(reversed(self.networks), reversed(noise), strict=True):
            above, change = _conditional(network, above).call_and_ladj(xi)
            layers.insert(0, above)
            ladj = ladj + change
        return torch.cat(layers, dim=-1), ladj

    def _inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the noise of each layer, given those above."""
        layers = y.split(self.sizes, dim=-1)
        parts = [
            _conditional(network, above).inverse_and_ladj(here)
            for network, (here, above) in zip(self.networks, pairwise(layers), strict=True)
        ]
        noise = torch.cat([*(xi for xi, _ in parts), layers[-1]], dim=-1)
        return noise, torch.stack([change for _, change in parts]).sum(0)


def _conditional(network: Callable[[Tensor], Tensor], above: Tensor) -> Affine:
    """Return the map from a layer's noise to its z, given the layer above."""
    mean, raw = network(above).chunk(2, dim=-1)
    return Affine(mean, soft_bound(raw, LOG_SCALE))


class HierarchicalGaussian(Flow):
    r"""The prior of a deep latent Gaussian model, over the concatenation of its layers.

    .. math:: p(\mathbf{z}_1, \dots, \mathbf{z}_L) = \mathcal{N}(\mathbf{z}_L \mid 0, \mathbf{I})
        \prod_{l=1}^{L-1} \mathcal{N}\bigl(\mathbf{z}_l \mid \boldsymbol\mu_l(\mathbf{z}_{l+1}),
            \operatorname{diag} \boldsymbol\sigma_l^2(\mathbf{z}_{l+1})\bigr)

    That is the standard Gaussian sent through a `Hierarchy`, so it is a flow like any other. Unlike
    the others, it starts where its networks start.

    Arguments:
        networks: For each layer but the highest, that of :math:`\mathbf{z}_1` first: from the
            layer above to the means and then the raw scales of its own, with ``in_features`` and
            ``out_features``.

    Raises:
        TypeError: A network is no module, or has no sizes.
        ValueError: There is none, an output cannot be halved, or a network does not take what the
            one above gives.

    Example:
        Three variables below two:

        >>> from nfbook.networks import Feedforward
        >>> prior = HierarchicalGaussian([Feedforward(2, (16,), 6)])
        >>> prior.sizes, prior().sample((7,)).shape
        ((3, 2), torch.Size([7, 5]))
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        check_type("networks", networks, list | tuple, "a list or tuple of torch.nn.Modules")
        if not networks:
            raise ValueError("networks must hold at least one; with one layer there is VAE")
        sizes = []
        for index, network in enumerate(networks):
            name = f"networks[{index}]"
            check_type(name, network, nn.Module, "a torch.nn.Module")
            outputs = getattr(network, "out_features", None)
            check_count(f"{name}.in_features", getattr(network, "in_features", None))
            check_count(f"{name}.out_features", outputs)
            assert isinstance(outputs, int)
            if outputs % 2:
                raise ValueError(
                    f"{name}.out_features must be even, means and then scales, got {outputs}"
                )
            sizes.append(outputs // 2)
        for index, (network, above) in enumerate(zip(networks, sizes[1:], strict=False)):
            if network.in_features != above:
                raise ValueError(
                    f"networks[{index}].in_features must be the size of the layer above, {above}, "
                    f"got {network.in_features}"
                )
        top = networks[-1].in_features
        assert isinstance(top, int)
        super().__init__(sum(sizes) + top)
        self.sizes = (*sizes, top)
        self.networks = nn.ModuleList(networks)

    def transform(self, context: Tensor | None = None) -> Hierarchy:
        """Return the map from noise to the layers."""
        return Hierarchy([Snapshot(network) for network in self.networks], self.sizes)


class DeepLatentGaussian(VAE):
    r"""A `VAE` with L stochastic layers, each Gaussian given the one above.

    .. math:: p(\mathbf{x}, \mathbf{z}_1, \dots, \mathbf{z}_L)
        = p(\mathbf{x} \mid \mathbf{z}_1)\, p(\mathbf{z}_L)
        \prod_{l=1}^{L-1} p(\mathbf{z}_l \mid \mathbf{z}_{l+1})

    Its z is the concatenation of all layers, from :math:`\mathbf{z}_1`, which alone the decoder
    sees, to :math:`\mathbf{z}_L`. So it is a model with one latent variable and a prior of its own,
    and all that takes a `VAE` takes it. One encoder gives the posterior of all layers at once, with
    independent coordinates given x; a flow over the whole z lets them depend on one another, as
    the true posterior's do.

    Sources: D. J. Rezende, S. Mohamed and D. Wierstra, Stochastic backpropagation and approximate
    inference in deep generative models, ICML (2014), section 2, where the posterior is that of the
    layers' noise; D. J. Rezende and S. Mohamed, Variational inference with normalizing flows, ICML
    (2015), algorithm 1, where it is that of z, with a flow, as here.

    Arguments:
        encoder: The network from x, `(*, D)`, to units, `(*, C)`, with C as its ``out_features``.
        decoder: The likelihood of each :math:`\mathbf{z}_1`.
        networks: Those of the `HierarchicalGaussian` prior, that of :math:`\mathbf{z}_1` first.
        flow: The posterior's layers, as in `VAE`, over the sum of the sizes; None for none.

    Raises:
        TypeError: A part has the wrong type.
        ValueError: The sizes of two parts do not fit.

    Example:
        Four variables below two:

        >>> from nfbook.networks import Feedforward
        >>> from nfbook.vae import BernoulliDecoder
        >>> model = DeepLatentGaussian(
        ...     Feedforward(64, (50,)),
        ...     BernoulliDecoder(Feedforward(4, (50,), 64)),
        ...     [Feedforward(2, (20,), 2 * 4)],
        ... )
        >>> x, z = model.sample(7)
        >>> [layer.shape[-1] for layer in model.layers_of(z)]
        [4, 2]
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: Decoder,
        networks: Sequence[nn.Module],
        flow: Flow | None = None,
    ) -> None:
        prior = HierarchicalGaussian(networks)
        self.sizes = prior.sizes
        super().__init__(encoder, decoder, flow, prior=prior)

    def layers_of(self, z: Tensor) -> tuple[Tensor, ...]:
        r"""Return :math:`\mathbf{z}_1` to :math:`\mathbf{z}_L`, `(*, d_l)` each, of z, `(*, d)`."""
        self._check_vectors("z", z, self.latent_dim)
        layers: tuple[Tensor, ...] = z.split(self.sizes, dim=-1)
        return layers

    def _latent_dim(self, decoder: Decoder, prior: Flow | None) -> int:
        lowest, *_ = self.sizes
        if decoder.in_features != lowest:
            raise ValueError(
                f"decoder must take the lowest layer, of size {lowest}, got {decoder.in_features}"
            )
        return sum(self.sizes)

    def _seen(self, z: Tensor) -> Tensor:
        return z[..., : self.sizes[0]]
