"""Decoders: networks from a latent variable to a distribution of observations."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent

from nfbook._checks import check_count, check_type

__all__ = ["BernoulliDecoder", "Decoder"]


class Decoder(nn.Module, ABC):
    r"""A network whose outputs are the parameters of :math:`p(\mathbf{x} \mid \mathbf{z})`.

    Arguments:
        network: From z, `(*, d)`, to the parameters, `(*, P)`, with d as its ``in_features``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        check_type("network", network, nn.Module, "a torch.nn.Module")
        check_count("network.in_features", getattr(network, "in_features", None))
        self.network = network

    @property
    def in_features(self) -> int:
        """The size d of z."""
        size: int = self.network.in_features  # type: ignore[assignment]
        return size

    @abstractmethod
    def forward(self, z: Tensor) -> Distribution:
        """Return the likelihood of each z, `(*, d)`, over observations of size D."""


class BernoulliDecoder(Decoder):
    r"""Pixels that are black or white, independent given z.

    .. math:: p(\mathbf{x} \mid \mathbf{z}) = \prod_{i=1}^D \sigma(a_i)^{x_i}
        \bigl(1 - \sigma(a_i)\bigr)^{1 - x_i}, \qquad \mathbf{a} = \text{network}(\mathbf{z}).

    Example:
        >>> import torch
        >>> from nfbook.networks import Feedforward
        >>> decoder = BernoulliDecoder(Feedforward(2, (16,), 64))
        >>> decoder(torch.zeros(5, 2)).sample().shape
        torch.Size([5, 64])
    """

    def forward(self, z: Tensor) -> Distribution:
        """Return the likelihood of each z, `(*, d)`, over images `(D,)`."""
        return Independent(Bernoulli(logits=self.network(z), validate_args=False), 1)
