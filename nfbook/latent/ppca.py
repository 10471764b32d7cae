"""Probabilistic principal component analysis: the linear-Gaussian model, exact throughout."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from nfbook._checks import (
    check_count,
    check_generator,
    check_positive,
    check_same_dtype,
    check_tensor,
    scalar,
)
from nfbook.latent.model import LatentVariableModel

__all__ = ["PPCA"]


class PPCA(LatentVariableModel):
    r"""Probabilistic principal component analysis.

    .. math::
        p(\mathbf{z}) = \mathcal{N}(\mathbf{0}, \mathbf{I}), \qquad
        p(\mathbf{x} \mid \mathbf{z}) = \mathcal{N}(\mathbf{W} \mathbf{z} + \boldsymbol{\mu},
        \sigma^2 \mathbf{I}).

    Everything goes through :math:`\mathbf{M} = \mathbf{W}^\top \mathbf{W} + \sigma^2 \mathbf{I}`,
    which is `d` by `d`: one observation costs :math:`O(D d)` once M is factored, and no matrix of
    the data's size is ever made. Every quantity is differentiable in the parameters.

    Source: M. E. Tipping and C. M. Bishop, Probabilistic principal component analysis, Journal of
    the Royal Statistical Society B 61 (1999), 611-622.

    Arguments:
        loading: The matrix W, `(D, d)`, in the units of the data.
        mean: The mean of the observations, `(D,)`.
        noise_variance: The variance :math:`\sigma^2`, positive, in squared units of the data.

    Raises:
        TypeError: A parameter is no floating-point tensor, or the dtypes differ.
        ValueError: A shape does not fit, an element is NaN or infinite, or the variance is not
            positive.

    Example:
        >>> model = PPCA(torch.tensor([[2.0], [0.0]]), torch.zeros(2), 1.0)
        >>> model.posterior(torch.tensor([5.0, 3.0])).mean
        tensor([2.])
    """

    def __init__(self, loading: Tensor, mean: Tensor, noise_variance: Tensor | float) -> None:
        dim = check_tensor("loading", loading, ("D", "d"))["D"]
        check_tensor("mean", mean, (dim,))
        if not isinstance(noise_variance, Tensor):
            noise_variance = scalar("noise_variance", noise_variance)
        check_tensor("noise_variance", noise_variance, ())
        check_same_dtype(loading=loading, mean=mean, noise_variance=noise_variance)
        check_positive("noise_variance", noise_variance)
        self.loading = loading
        self.mean = mean
        self.noise_variance = noise_variance
        identity = torch.eye(loading.shape[1], dtype=loading.dtype, device=loading.device)
        m = loading.mT @ loading + noise_variance * identity
        self._m_cholesky, failed = torch.linalg.cholesky_ex(m)
        if not bool(failed):
            covariance = noise_variance * torch.cholesky_inverse(self._m_cholesky)
            self._posterior_cholesky, failed = torch.linalg.cholesky_ex(covariance)
        if bool(failed) or not bool(self._posterior_cholesky.isfinite().all()):
            raise ValueError(
                "noise_variance must not vanish beside the loading in its dtype "
                f"{loading.dtype}, got {float(noise_variance)}"
            )

    @property
    def data_dim(self) -> int:
        """The number of dimensions D of an observation."""
        return self.loading.shape[0]

    @property
    def latent_dim(self) -> int:
        """The number of dimensions d of the latent variable."""
        return self.loading.shape[1]

    @property
    def prior(self) -> Independent[Normal]:
        r"""The prior :math:`\mathcal{N}(\mathbf{0}, \mathbf{I})`."""
        zero = torch.zeros(self.latent_dim, dtype=self.mean.dtype, device=self.mean.device)
        return Independent(Normal(zero, torch.ones_like(zero)), 1)

    def likelihood(self, z: Tensor) -> Independent[Normal]:
        r"""Return the distribution of the observation that belongs to each z.

        .. math:: p(\mathbf{x} \mid \mathbf{z}, \theta) = \mathcal{N}(\mathbf{W} \mathbf{z} +
            \boldsymbol{\mu}, \sigma^2 \mathbf{I})

        Arguments:
            z: Latent variables, `(*, d)`.
        """
        centre = self._check_z(z) @ self.loading.mT + self.mean
        return Independent(Normal(centre, self.noise_variance.sqrt().expand_as(centre)), 1)

    def log_prob(self, x: Tensor) -> Tensor:
        r"""Return the exact log-evidence.

        .. math:: \log p(\mathbf{x} \mid \theta) = \log \mathcal{N}(\mathbf{x} \mid
            \boldsymbol{\mu}, \mathbf{C}), \qquad
            \mathbf{C} = \mathbf{W} \mathbf{W}^\top + \sigma^2 \mathbf{I}

        With :math:`\mathbf{m} = \mathbf{M}^{-1} \mathbf{W}^\top (\mathbf{x} - \boldsymbol{\mu})`,
        the posterior mean, the exponent and the determinant are

        .. math::
            (\mathbf{x} - \boldsymbol{\mu})^\top \mathbf{C}^{-1} (\mathbf{x} - \boldsymbol{\mu})
            &= \sigma^{-2} \lVert \mathbf{x} - \boldsymbol{\mu} - \mathbf{W} \mathbf{m} \rVert^2
            + \lVert \mathbf{m} \rVert^2, \\
            \log \det \mathbf{C} &= (D - d) \log \sigma^2 + \log \det \mathbf{M}.

        The first line adds squares only, so that nothing cancels when the noise is small.

        Arguments:
            x: Observations, `(*, D)`.

        Returns:
            One value for each observation, `(*)`.
        """
        self._check_x(x)
        centred = x - self.mean
        m = self._posterior_mean(x)
        residual = centred - m @ self.loading.mT
        quadratic = residual.square().sum(-1) / self.noise_variance + m.square().sum(-1)
        log_det = (
            self.data_dim - self.latent_dim
        ) * self.noise_variance.log() + 2 * self._m_cholesky.diagonal().log().sum()
        log_prob: Tensor = -0.5 * (self.data_dim * math.log(2 * math.pi) + log_det + quadratic)
        return log_prob

    def posterior(self, x: Tensor) -> MultivariateNormal:
        r"""Return the exact posterior.

        .. math:: p(\mathbf{z} \mid \mathbf{x}) = \mathcal{N}\bigl(\mathbf{M}^{-1} \mathbf{W}^\top
            (\mathbf{x} - \boldsymbol{\mu}),\; \sigma^2 \mathbf{M}^{-1}\bigr).

        Its covariance matrix is the same for every x.

        Arguments:
            x: Observations, `(*, D)`.

        Returns:
            A Gaussian over `(d,)` with batch shape `(*)`.

        Raises:
            ValueError: An x is so far away that the mean overflows.
        """
        self._check_x(x)
        mean = self._posterior_mean(x)
        if not bool(mean.isfinite().all()):
            raise ValueError(
                f"x must be near enough for its posterior mean to be finite in {x.dtype}, "
                f"got elements up to {float(x.abs().max()):g}"
            )
        # One factor without batch dimensions: torch shares it among all observations.
        return MultivariateNormal(mean, scale_tril=self._posterior_cholesky)

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw n latent variables from the prior, then one observation for each.

        Returns:
            Observations `(n, D)` and latent variables `(n, d)`.
        """
        check_count("n", n)
        check_generator("generator", generator)
        dtype = self.mean.dtype
        z = torch.randn(n, self.latent_dim, dtype=dtype, generator=generator)
        noise = torch.randn(n, self.data_dim, dtype=dtype, generator=generator)
        return z @ self.loading.mT + self.mean + self.noise_variance.sqrt() * noise, z

    @classmethod
    def fit(cls, x: Tensor, latent_dim: int) -> PPCA:
        r"""Return the maximum likelihood model of n observations, in closed form.

        .. math::
            \sigma^2 = \frac{1}{D - d} \sum_{j > d} \lambda_j, \qquad
            \mathbf{W} = \mathbf{U}_d (\boldsymbol{\Lambda}_d - \sigma^2 \mathbf{I})^{1/2}.

        Here :math:`\lambda_1 \ge \lambda_2 \ge \dots` are the eigenvalues of the covariance matrix
        of the data, divided by n and not by n - 1, and :math:`\mathbf{U}_d` holds the first d
        eigenvectors. W is determined up to a rotation of z; here no rotation is applied, and the
        largest element of every column is positive.

        Source: Tipping and Bishop (1999), equations 7 and 8.

        Arguments:
            x: Observations, `(n, D)`, at least two of them.
            latent_dim: The number of latent dimensions d, from 1 to D - 1.

        Raises:
            TypeError: x is no floating-point tensor, or latent_dim no int.
            ValueError: There are too few observations or dimensions, or no variance is left for
                the noise, as happens when x has no more than latent_dim + 1 distinct rows.

        Example:
            >>> x = torch.tensor([[3.0, 1.0], [-3.0, 1.0], [3.0, -1.0], [-3.0, -1.0]])
            >>> PPCA.fit(x, latent_dim=1).noise_variance
            tensor(1.)
        """
        sizes = check_tensor("x", x, ("n", "D"))
        n, dim = sizes["n"], sizes["D"]
        check_count("latent_dim", latent_dim)
        if n < 2:
            raise ValueError(f"x must hold at least 2 observations, got {n}")
        if latent_dim >= dim:
            raise ValueError(f"latent_dim must be less than D = {dim}, got {latent_dim}")
        mean = x.mean(0)
        # The eigenvalues of the covariance matrix, without forming it.
        _, singular, directions = torch.linalg.svd(x - mean, full_matrices=False)
        eigenvalues = singular.square() / n
        noise_variance = eigenvalues[latent_dim:].sum() / (dim - latent_dim)
        if not noise_variance > torch.finfo(x.dtype).eps * eigenvalues.sum():
            raise ValueError(
                f"x must have variance beyond its first {latent_dim} principal components, "
                f"got none; choose a smaller latent_dim"
            )
        # Never negative but for rounding: the mean of smaller eigenvalues is subtracted.
        scale = (eigenvalues[:latent_dim] - noise_variance).clamp(min=0).sqrt()
        kept = directions[:latent_dim]
        largest = kept.gather(1, kept.abs().argmax(1, keepdim=True))
        return cls((kept * largest.sign()).mT * scale, mean, noise_variance)

    def _posterior_mean(self, x: Tensor) -> Tensor:
        projected = (x - self.mean) @ self.loading
        return torch.cholesky_solve(projected.unsqueeze(-1), self._m_cholesky).squeeze(-1)

    def _parameter(self) -> Tensor:
        return self.mean

    def _check_z(self, z: Tensor) -> Tensor:
        check_tensor("z", z, ("*", self.latent_dim))
        check_same_dtype(z=z, parameters=self.mean)
        return z
