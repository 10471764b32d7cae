"""What every latent variable model of the book can do."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.distributions import Distribution

from nfbook._checks import check_same_dtype, check_tensor

__all__ = ["LatentVariableModel"]


class LatentVariableModel(ABC):
    r"""A joint density of an observation and its latent variable.

    .. math:: p(\mathbf{x}, \mathbf{z} \mid \theta)
        = p(\mathbf{x} \mid \mathbf{z}, \theta)\, p(\mathbf{z}).

    The evidence :math:`p(\mathbf{x} \mid \theta)` and posterior
    :math:`p(\mathbf{z} \mid \mathbf{x}, \theta)` are known in
    closed form.

    Shapes: observations `x` are `(*, D)`. Latent variables `z` have the batch dimensions of `x`,
    possibly with further ones in front of them, so that several z can be held against each x:
    `(..., *, d)` when z is continuous, `(..., *)` and integer when z is an index.
    """

    @property
    @abstractmethod
    def data_dim(self) -> int:
        """The number of dimensions D of an observation."""

    @property
    @abstractmethod
    def prior(self) -> Distribution:
        r"""The prior :math:`p(\mathbf{z})` of one latent variable."""

    @abstractmethod
    def likelihood(self, z: Tensor) -> Distribution:
        r"""Return :math:`p(\mathbf{x} \mid \mathbf{z}, \theta)` as a distribution over x."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        r"""Return the exact log-evidence :math:`\log p(\mathbf{x} \mid \theta)`, shape `(*)`."""

    @abstractmethod
    def posterior(self, x: Tensor) -> Distribution:
        r"""Return the exact posterior :math:`p(\mathbf{z} \mid \mathbf{x}, \theta)`."""

    @abstractmethod
    def elbo(self, x: Tensor, q: Distribution) -> Tensor:
        r"""Return the exact evidence lower bound for any q, not only the posterior.

        .. math:: \mathcal{L}(q, \theta) = \mathbb{E}_{q(\mathbf{z})} \bigl[
            \log p(\mathbf{x}, \mathbf{z} \mid \theta) - \log q(\mathbf{z}) \bigr]

        Arguments:
            x: Observations, `(*, D)`.
            q: One distribution over z for each observation, with batch shape `(*)`.

        Returns:
            One value for each observation, `(*)`, at most ``log_prob(x)``.
        """

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw n latent variables from the prior, then one observation for each.

        Returns:
            The observations `(n, D)`, then the latent variables that they came from.
        """

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        r"""Return :math:`\log p(\mathbf{x} \mid \mathbf{z}, \theta) + \log p(\mathbf{z})`.

        Arguments:
            x: Observations, `(*, D)`.
            z: Latent variables, with the batch dimensions of x last: `(..., *, d)` or `(..., *)`.

        Returns:
            One value for each z, shape `(..., *)`.

        Raises:
            TypeError: Either one has the wrong dtype.
            ValueError: A shape does not fit, or an element is NaN or infinite.
        """
        self.check_observations(x)
        prior = self.prior.log_prob(self._check_z(z))
        _check_batches(x.shape[:-1], prior.shape)
        log_joint: Tensor = prior + self.likelihood(z).log_prob(x)
        return log_joint

    def check_observations(self, x: Tensor) -> None:
        """Check that x, `(*, D)`, are finite and have the D and the dtype of the model."""
        check_tensor("x", x, ("*", self.data_dim))
        check_same_dtype(x=x, parameters=self._parameter())

    @abstractmethod
    def _parameter(self) -> Tensor:
        """Return any parameter of the model, whose dtype is the model's."""

    @abstractmethod
    def _check_z(self, z: Tensor) -> Tensor:
        """Refuse a tensor that is no batch of latent variables of this model."""


def _check_batches(x_batch: torch.Size, z_batch: torch.Size) -> None:
    count = len(x_batch)
    if len(z_batch) < count or z_batch[len(z_batch) - count :] != x_batch:
        raise ValueError(
            f"z must have the batch dimensions of x, {tuple(x_batch)}, as its last batch "
            f"dimensions, got {tuple(z_batch)}; make a dimension of size 1 explicit with expand"
        )
