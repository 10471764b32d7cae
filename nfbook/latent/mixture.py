"""The mixture of Gaussians: a latent variable with K values, and sums for integrals."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Categorical, MultivariateNormal

from nfbook._checks import (
    check_count,
    check_generator,
    check_positive,
    check_same_dtype,
    check_tensor,
)
from nfbook.latent.model import LatentVariableModel

__all__ = ["GaussianMixture"]


class GaussianMixture(LatentVariableModel):
    r"""A mixture of K Gaussians.

    .. math::
        p(z = k) &= w_k, \\
        p(\mathbf{x} \mid z = k) &= \mathcal{N}(\mathbf{x} \mid \boldsymbol{\mu}_k,
        \boldsymbol{\Sigma}_k).

    The latent variable is the index of a component, from 0 to K - 1. Every quantity is
    differentiable in the parameters.

    Source: C. M. Bishop, Pattern Recognition and Machine Learning (2006), section 9.2.

    Arguments:
        weights: The mixing weights, `(K,)`, positive and with sum 1.
        means: The components' means, `(K, D)`, in the units of the data.
        covariances: Their covariance matrices, `(K, D, D)`, symmetric and positive definite.

    Raises:
        TypeError: A parameter is no floating-point tensor, or the dtypes differ.
        ValueError: A shape does not fit, the weights are not positive with sum 1, or a covariance
            matrix is not symmetric and positive definite.

    Example:
        >>> eye = torch.eye(2).expand(2, 2, 2)
        >>> mixture = GaussianMixture(
        ...     torch.tensor([0.25, 0.75]), torch.tensor([[0.0, 0.0], [4.0, 0.0]]), eye
        ... )
        >>> mixture.posterior(torch.tensor([2.0, 0.0])).probs
        tensor([0.2500, 0.7500])
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        count = check_tensor("weights", weights, ("K",))["K"]
        dim = check_tensor("means", means, (count, "D"))["D"]
        check_tensor("covariances", covariances, (count, dim, dim))
        check_same_dtype(weights=weights, means=means, covariances=covariances)
        check_positive("weights", weights)
        total = float(weights.detach().sum())
        # Rounding of a softmax is far below this, a forgotten weight far above.
        if abs(total - 1) > 100 * torch.finfo(weights.dtype).eps:
            raise ValueError(f"weights must have sum 1, got {total}")
        self.weights = weights
        self.means = means
        self.covariances = covariances
        self._cholesky = _cholesky_of(covariances)

    @property
    def data_dim(self) -> int:
        """The number of dimensions D of an observation."""
        return self.means.shape[-1]

    @property
    def prior(self) -> Categorical:
        r"""The prior :math:`p(z = k) = w_k`."""
        return Categorical(logits=self.weights.log())

    def likelihood(self, z: Tensor) -> MultivariateNormal:
        r"""Return the Gaussian of each component index in z, with batch shape `(*)`."""
        z = self._check_z(z)
        return MultivariateNormal(self.means[z], scale_tril=self._cholesky[z])

    def component_log_prob(self, x: Tensor) -> Tensor:
        r"""Return the log density of each component.

        .. math:: \log \mathcal{N}(\mathbf{x} \mid \boldsymbol{\mu}_k, \boldsymbol{\Sigma}_k)

        With the Cholesky factor :math:`\boldsymbol{\Sigma}_k = \mathbf{L}_k \mathbf{L}_k^\top`
        the exponent is half the squared length of
        :math:`\mathbf{L}_k^{-1} (\mathbf{x} - \boldsymbol{\mu}_k)`, a triangular solve.

        Arguments:
            x: Observations, `(*, D)`.

        Returns:
            One value for each component, `(*, K)`.
        """
        self._check_x(x)
        rows = x.reshape(-1, self.data_dim)
        centred = (rows - self.means.unsqueeze(1)).mT  # (K, D, rows)
        white = torch.linalg.solve_triangular(self._cholesky, centred, upper=False)
        half_log_det = self._cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1, keepdim=True)
        constant = 0.5 * self.data_dim * math.log(2 * math.pi)
        log_prob: Tensor = -0.5 * white.square().sum(-2) - half_log_det - constant
        return log_prob.mT.reshape(*x.shape[:-1], len(self.weights))

    def log_prob(self, x: Tensor) -> Tensor:
        r"""Return the exact log-evidence.

        .. math:: \log p(\mathbf{x} \mid \theta) = \log \sum_k
            w_k\, \mathcal{N}(\mathbf{x} \mid \boldsymbol{\mu}_k, \boldsymbol{\Sigma}_k).

        Arguments:
            x: Observations, `(*, D)`.

        Returns:
            One value for each observation, `(*)`.
        """
        return torch.logsumexp(self.weights.log() + self.component_log_prob(x), dim=-1)

    def posterior(self, x: Tensor) -> Categorical:
        r"""Return the posterior of the index; its ``probs`` are the responsibilities.

        .. math:: r_k(\mathbf{x}) = \frac{w_k\, \mathcal{N}(\mathbf{x} \mid \boldsymbol{\mu}_k,
            \boldsymbol{\Sigma}_k)}{\sum_j w_j\, \mathcal{N}(\mathbf{x} \mid \boldsymbol{\mu}_j,
            \boldsymbol{\Sigma}_j)}.

        Arguments:
            x: Observations, `(*, D)`.

        Returns:
            A distribution over the indices with batch shape `(*)`.

        Raises:
            ValueError: An x is so far away that its log density is not finite in its dtype.
        """
        log_joint = self.weights.log() + self.component_log_prob(x)
        if not bool(log_joint.logsumexp(-1).isfinite().all()):
            raise ValueError(
                f"x must be near enough for its log density to be finite in {x.dtype}, "
                f"got elements up to {float(x.abs().max()):g}"
            )
        return Categorical(logits=log_joint)

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw n component indices, then one observation from each component drawn.

        Returns:
            Observations `(n, D)` and the indices `(n,)` of their components.
        """
        check_count("n", n)
        check_generator("generator", generator)
        z = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.data_dim, dtype=self.means.dtype, generator=generator)
        x = self.means[z] + (self._cholesky[z] @ noise.unsqueeze(-1)).squeeze(-1)
        return x, z

    def _parameter(self) -> Tensor:
        return self.means

    def _check_z(self, z: Tensor) -> Tensor:
        if not isinstance(z, Tensor):
            raise TypeError(f"z must be a torch.Tensor, got {type(z).__name__}")
        if z.dtype != torch.int64:
            raise TypeError(f"z must hold component indices of dtype torch.int64, got {z.dtype}")
        if z.numel() == 0:
            raise ValueError(f"z must not be empty, got shape {tuple(z.shape)}")
        count = len(self.weights)
        wrong = z[(z < 0) | (z >= count)]
        if wrong.numel():
            raise ValueError(f"z must lie between 0 and {count - 1}, got {int(wrong.flatten()[0])}")
        return z


def _cholesky_of(covariances: Tensor) -> Tensor:
    """Return the lower Cholesky factors of covariance matrices `(K, D, D)`, all of them checked."""
    values = covariances.detach()
    # Symmetric up to the rounding of a product such as L L^T.
    allowed = 100 * torch.finfo(values.dtype).eps * values.abs().amax((1, 2))
    skew = ((values - values.mT).abs().amax((1, 2)) > allowed).nonzero()
    if len(skew):
        k = int(skew[0])
        raise ValueError(f"covariances[{k}] must be symmetric, got {values[k].tolist()}")
    factors: Tensor
    factors, failed = torch.linalg.cholesky_ex(covariances)
    if bool(failed.any()):
        k = int(failed.nonzero()[0])
        smallest = float(torch.linalg.eigvalsh(values[k]).min())
        raise ValueError(
            f"covariances[{k}] must be positive definite, got the eigenvalue {smallest:.3g}"
        )
    return factors
