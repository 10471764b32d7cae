"""What every latent variable model of the book can do."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.distributions import Distribution

from nfbook._checks import check_same_dtype, check_tensor, check_type
from nfbook.data.batches import check_weights

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
    def num_parameters(self) -> int:
        """The number of free parameters, as information criteria count them."""

    @property
    @abstractmethod
    def prior(self) -> Distribution:
        r"""The prior :math:`p(\mathbf{z})` of one latent variable."""

    @abstractmethod
    def likelihood(self, z: Tensor) -> Distribution:
        r"""Return :math:`p(\mathbf{x} \mid \mathbf{z}, \theta)` as a distribution over x."""

    @abstractmethod
    def log_prob(self, x: Tensor, *, missing: bool = False) -> Tensor:
        r"""Return the exact log-evidence :math:`\log p(\mathbf{x} \mid \theta)`, shape `(*)`.

        Where entries may be missing, NaN stands for them, and it is that of the other entries.
        """

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
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw n latent variables from the prior, then one observation for each.

        Arguments:
            n: The number of draws.
            generator: The source of randomness, or None for torch's own.

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

    def bic(self, x: Tensor, *, weights: Tensor | None = None, missing: bool = False) -> Tensor:
        r"""Return the Bayesian information criterion; lower is better.

        .. math:: \text{BIC} = P \log n - 2 \log p(\mathbf{X} \mid \theta)

        Here P is ``num_parameters``. The criterion is derived for the most likely parameters for
        these data, which those that hard EM finds (`KMeans`) are not: at the most likely ones it
        would be lower.

        Source: G. Schwarz, Estimating the dimension of a model, Annals of Statistics 6 (1978),
        461-464.

        Arguments:
            x: The observations that the model was fitted to, `(n, D)`.
            weights: How often each observation counts, `(n,)`, as in the fit; n is their sum then.
            missing: Whether NaN stands for a missing entry.

        Returns:
            A float64 tensor without dimensions, in nats.

        Raises:
            TypeError: x or the weights have another dtype than the parameters.
            ValueError: A shape does not fit, an element is infinite, or NaN and not missing, or the
                weights are negative or all zero.
        """
        count, total = self._log_likelihood(x, weights, missing)
        return self.num_parameters * math.log(count) - 2 * total

    def aic(self, x: Tensor, *, weights: Tensor | None = None, missing: bool = False) -> Tensor:
        r"""Return Akaike's information criterion; lower is better.

        .. math:: \text{AIC} = 2 P - 2 \log p(\mathbf{X} \mid \theta)

        Source: H. Akaike, A new look at the statistical model identification, IEEE Transactions
        on Automatic Control 19 (1974), 716-723.

        Arguments:
            x: The observations that the model was fitted to, `(n, D)`.
            weights: How often each observation counts, `(n,)`, as in the fit; n is their sum then.
            missing: Whether NaN stands for a missing entry.

        Returns:
            A float64 tensor without dimensions, in nats.

        Raises:
            TypeError: x or the weights have another dtype than the parameters.
            ValueError: A shape does not fit, an element is infinite, or NaN and not missing, or the
                weights are negative or all zero.
        """
        _, total = self._log_likelihood(x, weights, missing)
        return 2 * self.num_parameters - 2 * total

    def check_observations(self, x: Tensor, missing: bool = False) -> None:
        """Check that x, `(*, D)`, are finite and have the D and the dtype of the model.

        Where entries may be missing, NaN stands for them.
        """
        self._check_x(x, missing, "*")

    def _check_x(self, x: Tensor, missing: bool, batch: str) -> None:
        check_type("missing", missing, bool, "True or False")
        check_tensor("x", x, (batch, self.data_dim), missing=missing)
        check_same_dtype(x=x, parameters=self._parameter())

    def _log_likelihood(
        self, x: Tensor, weights: Tensor | None, missing: bool
    ) -> tuple[float, Tensor]:
        """Return n, or the sum of the weights, and the log-likelihood, in float64."""
        self._check_x(x, missing, "n")
        log_prob = self.log_prob(x, missing=missing).to(torch.float64)
        if weights is None:
            return len(x), log_prob.sum()
        shares = check_weights(weights, x).to(torch.float64)
        return float(shares.sum()), shares @ log_prob

    @abstractmethod
    def _parameter(self) -> Tensor:
        """Return any parameter of the model: its dtype and device are the model's."""

    @abstractmethod
    def _check_z(self, z: Tensor) -> Tensor:
        """Refuse a tensor that is not a batch of latent variables of this model."""


def _check_batches(x_batch: torch.Size, z_batch: torch.Size) -> None:
    count = len(x_batch)
    if len(z_batch) < count or z_batch[len(z_batch) - count :] != x_batch:
        raise ValueError(
            f"z must have the batch dimensions of x, {tuple(x_batch)}, as its last batch "
            f"dimensions, got {tuple(z_batch)}; make a dimension of size 1 explicit with expand"
        )
