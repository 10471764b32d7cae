"""Probabilistic principal component analysis: the linear-Gaussian model, exact throughout."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import reduce
from operator import add

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from nfbook._checks import (
    check_count,
    check_generator,
    check_positive,
    check_precision,
    check_same_dtype,
    check_tensor,
    check_type,
    scalar,
)
from nfbook.data.batches import Batches
from nfbook.fitting import Fit, check_stopping, robbins_monro
from nfbook.latent.em import run_em
from nfbook.latent.model import LatentVariableModel
from nfbook.latent.ppca.closed_form import (
    Climber,
    check_every_column,
    check_latent_dim,
    check_start,
    closed_form,
    in_dtype,
    no_noise_left,
    random_start,
)
from nfbook.latent.ppca.observed import Seen, factor_of_m
from nfbook.latent.ppca.statistics import PPCAStatistics
from nfbook.latent.ppca.stochastic_em import ascend, check_stochastic, climb_stochastically

__all__ = ["PPCA"]

# Numbers that an E-step holds at a time, so that they stay in the processor's cache.
PIECE = 2**18


class PPCA(LatentVariableModel):
    r"""Probabilistic principal component analysis.

    .. math::
        p(\mathbf{z}) = \mathcal{N}(\mathbf{0}, \mathbf{I}), \qquad
        p(\mathbf{x} \mid \mathbf{z}) = \mathcal{N}(\mathbf{W} \mathbf{z} + \boldsymbol{\mu},
        \sigma^2 \mathbf{I}).

    Everything goes through :math:`\mathbf{M} = \mathbf{W}^\top \mathbf{W} + \sigma^2 \mathbf{I}`,
    which is `d` by `d`: one observation costs :math:`O(D d)` once M is factored, and no matrix of
    the data's size is ever made. Every quantity is differentiable in the parameters.

    Where ``missing=True`` is given, NaN in x stands for a missing entry. An observation is then
    what is there of it, and :math:`\mathbf{W}`, :math:`\boldsymbol{\mu}`, M and D are those of its
    own entries. That is exact, too: the evidence of a part of x is the same model with fewer rows
    of W.

    Source: M. E. Tipping and C. M. Bishop, Probabilistic principal component analysis, Journal of
    the Royal Statistical Society B 61 (1999), 611-622.

    Arguments:
        loading: The matrix W, `(D, d)`, in the units of the data.
        mean: The mean of the observations, `(D,)`.
        noise_variance: The variance :math:`\sigma^2`, positive, in squared units of the data.

    Raises:
        TypeError: A parameter is no floating-point tensor, has half precision, or the dtypes
            differ.
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
        check_precision("loading", loading)
        noise_variance = scalar("noise_variance", noise_variance)
        check_same_dtype(loading=loading, mean=mean, noise_variance=noise_variance)
        check_positive("noise_variance", noise_variance)
        self.loading = loading
        self.mean = mean
        self.noise_variance = noise_variance
        self._m_factor = self._checked(*factor_of_m(loading, noise_variance))
        self._posterior_factor = self._posterior_factor_of(self._m_factor)

    @property
    def data_dim(self) -> int:
        """The number of dimensions D of an observation."""
        return self.loading.shape[0]

    @property
    def latent_dim(self) -> int:
        """The number of dimensions d of the latent variable."""
        return self.loading.shape[1]

    @property
    def num_parameters(self) -> int:
        r"""The number of free parameters, :math:`D d - d (d - 1) / 2 + D + 1`.

        A rotation of z, which has :math:`d (d - 1) / 2` degrees of freedom, changes nothing. With
        d = D - 1 there are as many as a full Gaussian has, and with more latent dimensions there
        are no more.
        """
        d = min(self.latent_dim, self.data_dim - 1)
        return self.data_dim * d - d * (d - 1) // 2 + self.data_dim + 1

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

    def log_prob(self, x: Tensor, *, missing: bool = False) -> Tensor:
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
            missing: Whether NaN stands for a missing entry. An observation's value is then the
                log-evidence of the entries that are there, and zero if there are none.

        Returns:
            One value for each observation, `(*)`.
        """
        seen = self._see(x, missing)
        m = seen.solve(seen.centred @ self.loading)
        residual = seen.only(seen.centred - m @ self.loading.mT)
        quadratic = residual.square().sum(-1) / self.noise_variance + m.square().sum(-1)
        log_det = (seen.entries - self.latent_dim) * self.noise_variance.log() + seen.log_det()
        log_prob: Tensor = -0.5 * (seen.entries * math.log(2 * math.pi) + log_det + quadratic)
        return log_prob

    def posterior(self, x: Tensor, *, missing: bool = False) -> MultivariateNormal:
        r"""Return the exact posterior.

        .. math:: p(\mathbf{z} \mid \mathbf{x}) = \mathcal{N}\bigl(\mathbf{M}^{-1} \mathbf{W}^\top
            (\mathbf{x} - \boldsymbol{\mu}),\; \sigma^2 \mathbf{M}^{-1}\bigr).

        Its covariance matrix is the same for every x with no entry missing.

        Arguments:
            x: Observations, `(*, D)`.
            missing: Whether NaN stands for a missing entry. Where all are, it is the prior.

        Returns:
            A Gaussian over `(d,)` with batch shape `(*)`.

        Raises:
            ValueError: An x is so far away that the mean overflows.
        """
        seen = self._see(x, missing)
        mean = seen.solve(seen.centred @ self.loading)
        if not bool(mean.isfinite().all()):
            raise ValueError(
                f"x must be near enough for its posterior mean to be finite in {x.dtype}, "
                f"got elements up to {float(seen.only(x).abs().max()):g}"
            )
        if seen.observed is None:
            # One factor without batch dimensions: torch shares it among all observations.
            return MultivariateNormal(mean, scale_tril=self._posterior_factor)
        return MultivariateNormal(mean, scale_tril=self._posterior_factor_of(seen.factor))

    def elbo(self, x: Tensor, q: Distribution, *, missing: bool = False) -> Tensor:
        r"""Return the exact evidence lower bound for any Gaussian q, in closed form.

        For :math:`q(\mathbf{z}) = \mathcal{N}(\mathbf{m}, \mathbf{S})` it is energy plus entropy,

        .. math::
            \mathcal{L}(q, \theta) = -\tfrac12 \Bigl( D \log 2 \pi \sigma^2 + d \log 2 \pi
            + \sigma^{-2} \lVert \mathbf{x} - \boldsymbol{\mu} - \mathbf{W} \mathbf{m} \rVert^2
            + \lVert \mathbf{m} \rVert^2 + \sigma^{-2} \operatorname{tr} \mathbf{S} \mathbf{M}
            \Bigr) + \mathrm{H}(q).

        It is differentiable in the parameters of q, too.

        Arguments:
            x: Observations, `(*, D)`.
            q: A `MultivariateNormal` over `(d,)`, or an `Independent` `Normal` for one with a
                diagonal covariance matrix, with batch shape `(*)`.
            missing: Whether NaN stands for a missing entry.

        Returns:
            One value for each observation, `(*)`, at most ``log_prob(x)``.

        Raises:
            TypeError: q is no Gaussian of these two kinds, or has another dtype.
            ValueError: q has another batch shape or another number of dimensions.

        Example:
            >>> model = PPCA(torch.ones(2, 1), torch.zeros(2), 1.0)
            >>> x = torch.zeros(2)
            >>> torch.allclose(model.elbo(x, model.posterior(x)), model.log_prob(x))
            True
            >>> bool(model.elbo(x, model.prior) < model.log_prob(x))
            True
        """
        seen = self._see(x, missing)
        self._check_q(x, q)
        # The trace of S M as a sum of squares, so that nothing cancels when the noise is small.
        if isinstance(q, MultivariateNormal):
            trace = (seen.factor.mT @ q.scale_tril).square().sum((-2, -1))
        else:
            trace = (q.variance * seen.factor.square().sum(-1)).sum(-1)
        residual = seen.only(seen.centred - q.mean @ self.loading.mT)
        quadratic = (residual.square().sum(-1) + trace) / self.noise_variance
        constant = seen.entries * (2 * math.pi * self.noise_variance).log()
        constant = constant + self.latent_dim * math.log(2 * math.pi)
        energy = -0.5 * (constant + quadratic + q.mean.square().sum(-1))
        elbo: Tensor = energy + q.entropy()
        return elbo

    def impute(self, x: Tensor) -> Tensor:
        r"""Return x with its missing entries replaced by their conditional means.

        .. math:: \mathbb{E}[\mathbf{x} \mid \text{the entries that are there}]
            = \mathbf{W}\, \mathbb{E}[\mathbf{z} \mid \text{the same}] + \boldsymbol{\mu}

        Arguments:
            x: Observations, `(*, D)`, in which NaN stands for a missing entry.

        Returns:
            Observations, `(*, D)`. Entries that are there stay as they are.

        Example:
            >>> model = PPCA(torch.ones(2, 1), torch.zeros(2), 1.0)
            >>> model.impute(torch.tensor([4.0, torch.nan]))
            tensor([4., 2.])
        """
        mean = self.posterior(x, missing=True).mean
        return torch.where(x.isnan(), mean @ self.loading.mT + self.mean, x)

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

    @torch.no_grad()
    def e_step(self, x: Tensor, *, missing: bool = False) -> PPCAStatistics:
        r"""Return the expected sufficient statistics under the posteriors of z.

        Those posteriors are the q that makes the bound equal to the log-likelihood. Where nothing
        is missing all have the covariance matrix :math:`\mathbf{S} = \sigma^2 \mathbf{M}^{-1}`,
        and with the means :math:`\mathbf{m}_i` and the residuals :math:`\mathbf{r}_i =
        \mathbf{x}_i - \boldsymbol{\mu} - \mathbf{W} \mathbf{m}_i` the sums are

        .. math::
            \sum_i \mathbb{E}\, \mathbf{z}_i \mathbf{z}_i^\top
            &= \sum_i \mathbf{m}_i \mathbf{m}_i^\top + n \mathbf{S}, \\
            \sum_i \mathbb{E} (\mathbf{x}_i - \boldsymbol{\mu} - \mathbf{W} \mathbf{z}_i)
            \mathbf{z}_i^\top
            &= \sum_i \mathbf{r}_i \mathbf{m}_i^\top - n \mathbf{W} \mathbf{S}, \\
            \sum_i \mathbb{E} \lVert \mathbf{x}_i - \boldsymbol{\mu} - \mathbf{W} \mathbf{z}_i
            \rVert^2
            &= \sum_i \lVert \mathbf{r}_i \rVert^2 + n \operatorname{tr} \mathbf{W} \mathbf{S}
            \mathbf{W}^\top.

        Arguments:
            x: Observations, `(n, D)`. The memory used does not grow with n.
            missing: Whether NaN stands for a missing entry. Each observation then has a covariance
                matrix of its own, and each entry sums over the observations that have it.

        Raises:
            TypeError: x has another dtype than the parameters.
            ValueError: The shape does not fit, an element is infinite, or NaN and not missing, or
                an x is so far away that its square overflows.

        Example:
            >>> model = PPCA(torch.ones(2, 1), torch.zeros(2), 1.0)
            >>> statistics = model.e_step(torch.tensor([[1.0, 2.0], [3.0, 3.0]]))
            >>> statistics.latent  # the means 1 and 2 of z, each with variance 1/3
            tensor([[2.0000, 3.0000],
                    [3.0000, 5.6667]], dtype=torch.float64)
        """
        self.check_observations(x, missing)
        if x.ndim != 2:
            raise ValueError(f"x must have shape (n, {self.data_dim}), got {tuple(x.shape)}")
        exact = self._in_double()
        rows = max(1, PIECE // (self.data_dim + (self.latent_dim + 1) ** 2))
        pieces = torch.split(x, rows)
        return reduce(
            add, (exact._sums(piece.to(torch.float64), missing, self) for piece in pieces)
        )

    def bound(self, statistics: PPCAStatistics) -> Tensor:
        r"""Return the bound of this model for the q behind the statistics, in nats.

        .. math:: \mathcal{L}(q, \theta) = -\tfrac12 \Bigl( n D \log 2 \pi \sigma^2 + n d \log 2 \pi
            + \sigma^{-2} \sum_i \mathbb{E} \lVert \mathbf{x}_i - \boldsymbol{\mu} - \mathbf{W}
            \mathbf{z}_i \rVert^2 + \sum_i \mathbb{E} \lVert \mathbf{z}_i \rVert^2 \Bigr)
            + \mathrm{H}(q)

        This is ``elbo(x, q).sum()`` without another look at the data. For the model whose E-step
        it was, it is the log-likelihood. It is differentiable in the parameters.

        Arguments:
            statistics: What ``e_step`` returned, of this model or of another one with the same D
                and d.

        Returns:
            The sum over all observations, a float64 tensor without dimensions.

        Raises:
            TypeError: The statistics are none.
            ValueError: They belong to a model of another size.

        Example:
            >>> model = PPCA(torch.ones(2, 1), torch.zeros(2), 1.0)
            >>> x = torch.tensor([[1.0, 2.0], [3.0, 3.0]])
            >>> torch.allclose(model.bound(model.e_step(x)), model.log_prob(x).sum().double())
            True
        """
        check_type("statistics", statistics, PPCAStatistics, "PPCAStatistics")
        maker = statistics.maker
        if self.loading.shape != maker.loading.shape:
            raise ValueError(
                f"statistics must come from a model with loading {tuple(self.loading.shape)}, "
                f"got {tuple(maker.loading.shape)}"
            )
        new, old = self._in_double(), maker._in_double()
        change = torch.cat([(new.mean - old.mean).unsqueeze(-1), new.loading - old.loading], dim=1)
        # The residual of this model is the maker's less this change applied to (1, z).
        squares = (
            statistics.squares
            - 2 * (change * statistics.cross).sum()
            + (change.unsqueeze(-2) @ statistics.gram @ change.unsqueeze(-1)).sum()
        )
        constant = statistics.entries * (2 * math.pi * new.noise_variance).log()
        constant = constant + statistics.count * self.latent_dim * math.log(2 * math.pi)
        norms = statistics.latent.diagonal()[1:].sum()
        energy = -0.5 * (constant + squares / new.noise_variance + norms)
        bound: Tensor = energy + statistics.entropy
        return bound

    @torch.no_grad()
    def m_step(self, statistics: PPCAStatistics) -> PPCA:
        r"""Return the model with the highest bound for the q behind the statistics.

        It maximises over all parameters together: W and :math:`\boldsymbol{\mu}` by the linear
        regression of x on :math:`\tilde{\mathbf{z}} = (1, \mathbf{z})`, then the noise variance by
        the mean square of what is left,

        .. math::
            \begin{pmatrix} \boldsymbol{\mu} & \mathbf{W} \end{pmatrix}
            &= \Bigl( \sum_i \mathbf{x}_i\, \mathbb{E} \tilde{\mathbf{z}}_i^\top \Bigr)
            \Bigl( \sum_i \mathbb{E}\, \tilde{\mathbf{z}}_i \tilde{\mathbf{z}}_i^\top
            \Bigr)^{-1}, \\
            \sigma^2 &= \frac{1}{n D} \sum_i \mathbb{E} \lVert \mathbf{x}_i - \boldsymbol{\mu}
            - \mathbf{W} \mathbf{z}_i \rVert^2.

        With missing entries every row of W and its mean are a regression over the observations
        that have that entry, and n D is the number of entries that are there.

        Source: C. M. Bishop, Pattern Recognition and Machine Learning (2006), equations 12.56 and
        12.57, which keep the mean at that of the data; A. Ilin and T. Raiko, Practical approaches
        to principal component analysis in the presence of missing values, Journal of Machine
        Learning Research 11 (2010), 1957-2000.

        Arguments:
            statistics: What ``e_step`` of this very model returned.

        Raises:
            TypeError: The statistics are none.
            ValueError: They come from another model, no observation has a certain entry, or the
                noise variance collapses: the latent dimensions explain all of x.

        Example:
            >>> x = torch.tensor([[3.0, 1.0], [-3.0, 1.0], [3.0, -1.0], [-3.0, -1.0]])
            >>> model = PPCA(torch.tensor([[1.0], [0.0]]), torch.zeros(2), 1.0)
            >>> for _ in range(50):
            ...     model = model.m_step(model.e_step(x))
            >>> model.noise_variance.round(decimals=2), model.loading.square().round(decimals=2)
            (tensor(1.), tensor([[8.],
                    [0.]]))
        """
        check_type("statistics", statistics, PPCAStatistics, "PPCAStatistics")
        if statistics.maker is not self:
            raise ValueError(
                "statistics must come from this model's own e_step, got those of another model"
            )
        check_every_column(statistics.gram[:, 0, 0])
        old = self._in_double()
        factor, failed = torch.linalg.cholesky_ex(statistics.gram)
        if bool(failed.any()):
            # The posterior covariances in it are proportional to the noise variance.
            raise no_noise_left(self.latent_dim)
        # The regression of the maker's residuals, so that small changes keep their digits.
        change = torch.cholesky_solve(statistics.cross.unsqueeze(-1), factor).squeeze(-1)
        squares = statistics.squares - (change * statistics.cross).sum()
        noise_variance = squares / statistics.entries
        mean, loading = old.mean + change[:, 0], old.loading + change[:, 1:]
        return in_dtype(type(self), (loading, mean, noise_variance), self.mean.dtype)

    @torch.no_grad()
    def stochastic_step(
        self, x: Tensor, step_size: float, generator: torch.Generator, *, missing: bool = False
    ) -> PPCA:
        r"""Return the model after an E'-step and an M'-step: one draw, one step uphill.

        For each of the B observations one latent variable is drawn,
        :math:`\hat{\mathbf{z}}_j \sim p(\mathbf{z} \mid \mathbf{x}_j, \theta)`. Then the parameters
        take a step along the average gradient of the log joint density,

        .. math:: \theta' = \theta + \kappa\, \mathbf{F}^{-1} \frac1B \sum_{j=1}^B \nabla_\theta
            \log p(\mathbf{x}_j, \hat{\mathbf{z}}_j \mid \theta).

        By Fisher's identity its expectation is the gradient of :math:`\log p(\mathbf{x}_j \mid
        \theta)`. The matrix F is the Fisher information of x and z together. It is diagonal,
        :math:`\sigma^{-2}` for every element of W and :math:`\boldsymbol{\mu}` and
        :math:`D / 2 \sigma^4` for :math:`\sigma^2`, so with the residuals :math:`\mathbf{e}_j =
        \mathbf{x}_j - \boldsymbol{\mu} - \mathbf{W} \hat{\mathbf{z}}_j` the step is

        .. math::
            \mathbf{W}' &= \mathbf{W} + \frac{\kappa}{B} \sum_j \mathbf{e}_j
            \hat{\mathbf{z}}_j^\top, \qquad
            \boldsymbol{\mu}' = \boldsymbol{\mu} + \frac{\kappa}{B} \sum_j \mathbf{e}_j, \\
            \sigma'^2 &= (1 - \kappa)\, \sigma^2 + \frac{\kappa}{B} \sum_j \frac1D \lVert
            \mathbf{e}_j \rVert^2.

        Thanks to F the step sizes are plain numbers, whatever the units of the data are, and the
        variance stays positive.

        Source: D. M. Titterington, Recursive parameter estimation using incomplete data, Journal
        of the Royal Statistical Society B 46 (1984), 257-267, for the use of F.

        Arguments:
            x: Observations, `(B, D)`.
            step_size: The step size :math:`\kappa`, above 0 and at most 1.
            generator: The source of randomness.
            missing: Whether NaN stands for a missing entry. It then adds nothing to any sum, and
                keeps its part of :math:`\sigma^2` as it was.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: The step size is out of its range, the shape does not fit, an x is so far
                away that squares overflow, or the noise variance vanishes.

        Example:
            >>> model = PPCA(torch.zeros(2, 1), torch.zeros(2), 1.0)
            >>> x = torch.tensor([[1.0, 3.0]])
            >>> model.stochastic_step(x, 0.5, torch.Generator().manual_seed(0)).mean
            tensor([0.5000, 1.5000])
        """
        check_generator("generator", generator)
        self.check_observations(x, missing)
        if x.ndim != 2:
            raise ValueError(f"x must have shape (B, {self.data_dim}), got {tuple(x.shape)}")
        observed = ~x.isnan() if missing else None
        parameters = (self.loading, self.mean, self.noise_variance)
        return type(self)(*ascend(parameters, x, observed, step_size, generator))

    @classmethod
    @torch.no_grad()
    def fit(
        cls,
        x: Tensor | Iterable[Tensor],
        latent_dim: int,
        *,
        method: str = "closed-form",
        start: PPCA | None = None,
        missing: bool = False,
        tolerance: float = 1e-6,
        max_iterations: int = 1000,
        accelerate: bool = True,
        step_size: Callable[[int], float] | float | None = None,
        batch_size: int = 64,
        num_steps: int = 10_000,
        average: bool = True,
        generator: torch.Generator | None = None,
        progress: bool = True,
    ) -> Fit[PPCA]:
        r"""Return the maximum likelihood model of n observations, and how it was reached.

        The closed form is

        .. math::
            \sigma^2 = \frac{1}{D - d} \sum_{j > d} \lambda_j, \qquad
            \mathbf{W} = \mathbf{U}_d (\boldsymbol{\Lambda}_d - \sigma^2 \mathbf{I})^{1/2}.

        Here :math:`\lambda_1 \ge \lambda_2 \ge \dots` are the eigenvalues of the covariance matrix
        of the data, divided by n and not by n - 1, and :math:`\mathbf{U}_d` holds the first d
        eigenvectors. W is determined up to a rotation of z; here no rotation is applied, and the
        largest element of every column is positive.

        EM ("em") climbs to the same log-likelihood. It needs no covariance matrix, and it is the
        way when entries are missing. All maxima are equally high, so there is no need for
        restarts. Its steps are ``e_step`` and ``m_step``, the latter accelerated by parameter
        expansion: what plain EM needs hundreds of iterations for, or thousands where the columns
        of x have different units, then takes tens. How soon it ends still depends on how far apart
        the eigenvalues d and d + 1 are. The default tolerance typically ends within 1e-5 nats per
        observation of the top, ``tolerance=1e-11`` within 1e-6 nats for thousands of observations
        together.

        Stochastic EM ("stochastic-em") repeats ``stochastic_step`` on observations drawn uniformly,
        with replacement. With constant step sizes it hovers below the top, by about
        :math:`\kappa p / 4 B` nats per observation for p parameters, B observations in a step and
        data that follow the model. With sizes :math:`\kappa_t` that satisfy
        :math:`\sum_t \kappa_t = \infty` and :math:`\sum_t \kappa_t^2 < \infty` it ends at the
        top. The average of the parameters over the last steps is closer to it than the last ones
        are.

        Source: Tipping and Bishop (1999), equations 7 and 8; C. Liu, D. B. Rubin and Y. N. Wu,
        Parameter expansion to accelerate EM: the PX-EM algorithm, Biometrika 85 (1998), 755-770;
        B. T. Polyak and A. B. Juditsky, Acceleration of stochastic approximation by averaging, SIAM
        Journal on Control and Optimization 30 (1992), 838-855.

        Arguments:
            x: Observations, `(n, D)`, or an iterable of batches of them that can be run through
                again and again; no more than two batches are in memory at a time. Stochastic EM
                needs all of them at hand, since it draws them at random.
            latent_dim: The number of latent dimensions d, from 1 to D - 1. With d = D the noise
                variance would be arbitrary.
            method: "closed-form", "em" or "stochastic-em".
            start: A model to start from. Without it the start has the data's mean, a random loading
                and the average variance of the columns as noise; where EM is accelerated, it is one
                step further. The closed form has no start. For EM its loading must not be zero:
                EM would stay there.
            missing: Whether NaN stands for a missing entry. The closed form has no answer then.
            tolerance: EM stops when an iteration gains no more than this, in nats per observation.
            max_iterations: The largest number of iterations of EM.
            accelerate: Whether EM expands the parameters. Plain EM without it has ``m_step`` alone.
            step_size: For stochastic EM, the step sizes :math:`0 < \kappa_t \le 1`: a function of
                t = 0, 1, ... or a number for constant ones. Without it
                ``robbins_monro(first=0.5, flat=100, power=0.7)``.
            batch_size: For stochastic EM, how many observations a step draws.
            num_steps: For stochastic EM, the number of steps.
            average: For stochastic EM, whether the result is the average of the parameters over
                the second half of the steps, or the last ones.
            generator: The source of randomness, required for a random start and for stochastic EM.
            progress: Whether a run of more than two seconds shows how far it is.

        Returns:
            The model, in the dtype of x, and the history. All is computed in float64. The closed
            form has one entry, the greatest log-likelihood. For accelerated EM the bound after an
            M-step is that of the expanded model. Stochastic EM has the exact log-likelihood at the
            start, about once in every n draws (200 times at most), and of the result; it has
            converged if the last change was no more than the tolerance.

        Raises:
            TypeError: An argument has the wrong type, or the start another dtype than x.
            ValueError: An argument is out of its range; there are too few observations or
                dimensions; a column has no entry; or no variance is left for the noise, as
                happens when x has no more than latent_dim + 1 distinct rows.

        Example:
            >>> x = torch.tensor([[3.0, 1.0], [-3.0, 1.0], [3.0, -1.0], [-3.0, -1.0]])
            >>> model, history = PPCA.fit(x, latent_dim=1)
            >>> model.noise_variance
            tensor(1.)
            >>> history
            History(0 iterations, bound -15.746 to -15.746, converged)
            >>> generator = torch.Generator().manual_seed(0)
            >>> model, history = PPCA.fit(x, 1, method="em", generator=generator)
            >>> round(float(history.after_e_step[-1]), 4)
            -15.746
        """
        check_type("missing", missing, bool, "True or False")
        check_stopping(tolerance, max_iterations)
        check_type("accelerate", accelerate, bool, "True or False")
        check_stochastic(step_size, batch_size, num_steps, average)
        if generator is not None:
            check_generator("generator", generator)
        check_type("progress", progress, bool, "True or False")
        if method == "closed-form":
            if missing:
                raise ValueError('missing entries have no closed form; use method="em"')
            if start is not None:
                raise ValueError('start must be None for the closed form; method="em" has one')
            return closed_form(cls, x, latent_dim)
        if method not in ("em", "stochastic-em"):
            raise ValueError(
                f'method must be "closed-form", "em" or "stochastic-em", got {method!r}'
            )
        batches = Batches(x, missing=missing)
        check_latent_dim(latent_dim, batches.dim)
        if start is None:
            check_generator("generator", generator)
            assert generator is not None
            accelerate = accelerate and method == "em"
            start = random_start(cls, batches, latent_dim, generator, accelerate=accelerate)
        else:
            check_start(cls, start, latent_dim, batches)
            if method == "em" and not bool(start.loading.any()):
                raise ValueError(
                    "start must have a loading that is not zero, where EM stays, got zero"
                )
        if method == "em":
            found, history = run_em(
                Climber(start._in_double(), accelerate),
                batches,
                tolerance=tolerance,
                max_iterations=max_iterations,
                progress=progress,
                what="EM",
            )
            model = found.model
        else:
            model, history = climb_stochastically(
                start._in_double(),
                x,
                step_size=robbins_monro() if step_size is None else step_size,
                batch_size=batch_size,
                num_steps=num_steps,
                average=average,
                tolerance=tolerance,
                generator=generator,
                progress=progress,
            )
        return Fit(model._to(batches.dtype), history)

    def _to(self, dtype: torch.dtype) -> PPCA:
        if self.mean.dtype == dtype:
            return self
        return in_dtype(type(self), (self.loading, self.mean, self.noise_variance), dtype)

    def _in_double(self) -> PPCA:
        return self._to(torch.float64)

    def _covariance(self, m_factor: Tensor) -> Tensor:
        """Return the posterior covariance matrices, sigma^2 M^-1."""
        return self.noise_variance * torch.cholesky_inverse(m_factor)

    def _posterior_factor_of(self, m_factor: Tensor) -> Tensor:
        return self._checked(*torch.linalg.cholesky_ex(self._covariance(m_factor)))

    def _checked(self, factor: Tensor, failed: Tensor) -> Tensor:
        """Return the Cholesky factor of M or of a posterior covariance matrix if there is one."""
        if bool(failed.any()) or not bool(factor.isfinite().all()):
            raise ValueError(
                "noise_variance must not vanish beside the loading in its dtype "
                f"{self.loading.dtype}, got {float(self.noise_variance)}"
            )
        return factor

    def _see(self, x: Tensor, missing: bool) -> Seen:
        """Return what is there of x, with the factor of M that belongs to it."""
        self.check_observations(x, missing)
        observed = ~x.isnan() if missing else None
        if observed is None or bool(observed.all()):
            return Seen(x - self.mean, None, self._m_factor)
        m_factor = self._checked(*factor_of_m(self.loading, self.noise_variance, observed))
        return Seen(torch.where(observed, x - self.mean, 0.0), observed, m_factor)

    def _sums(self, x: Tensor, missing: bool, maker: PPCA) -> PPCAStatistics:
        """Return the statistics of a few observations, all in float64."""
        seen = self._see(x, missing)
        n, d = len(x), self.latent_dim
        m = seen.solve(seen.centred @ self.loading)
        one_m = torch.cat([torch.ones_like(m[:, :1]), m], dim=1)
        residual = seen.only(seen.centred - m @ self.loading.mT)
        covariance = self._covariance(seen.factor)
        latent = one_m.mT @ one_m
        if seen.observed is None:
            latent[1:, 1:] += n * covariance
            gram = latent.unsqueeze(0)
            spread = n * covariance.unsqueeze(0)
        else:
            latent[1:, 1:] += covariance.sum(0)
            # For each entry, the sum over the observations that have it.
            there = seen.observed.to(x.dtype).mT
            spread = (there @ covariance.flatten(1)).reshape(-1, d, d)
            products = one_m.unsqueeze(2) * one_m.unsqueeze(1)
            gram = (there @ products.flatten(1)).reshape(-1, d + 1, d + 1)
            gram[:, 1:, 1:] += spread
        spread_loading = (spread @ self.loading.unsqueeze(-1)).squeeze(-1)
        cross = residual.mT @ one_m
        cross[:, 1:] -= spread_loading
        squares = residual.square().sum() + (self.loading * spread_loading).sum()
        if not bool(squares.isfinite() and latent.isfinite().all()):
            raise ValueError(
                f"x must be near enough for its square to be finite in {x.dtype}, "
                f"got elements up to {float(seen.only(x).abs().max()):g}"
            )
        entropies = 0.5 * (d * (2 * math.pi * math.e * self.noise_variance).log() - seen.log_det())
        return PPCAStatistics(
            maker,
            count=n,
            entries=x.numel() if seen.observed is None else int(seen.observed.sum()),
            entropy=n * entropies if seen.observed is None else entropies.sum(),
            latent=latent,
            squares=squares,
            cross=cross,
            gram=gram,
        )

    def check_observations(self, x: Tensor, missing: bool = False) -> None:
        """Check that x, `(*, D)`, are finite, or NaN where entries may be missing."""
        check_type("missing", missing, bool, "True or False")
        if missing and isinstance(x, Tensor) and x.is_floating_point():
            # In place of a missing entry any number will do for the other checks.
            x = torch.where(x.isnan(), 0.0, x)
        super().check_observations(x)

    def _parameter(self) -> Tensor:
        return self.mean

    def _check_q(self, x: Tensor, q: Distribution) -> None:
        diagonal = isinstance(q, Independent) and isinstance(q.base_dist, Normal)
        if not diagonal and not isinstance(q, MultivariateNormal):
            kind = type(q).__name__
            if isinstance(q, Independent):
                kind += f" of {type(q.base_dist).__name__}"
            raise TypeError(
                "q must be a MultivariateNormal or an Independent Normal of torch.distributions, "
                f"got {kind}"
            )
        if q.event_shape != (self.latent_dim,):
            raise ValueError(
                f"q must have event shape ({self.latent_dim},), got {tuple(q.event_shape)}"
            )
        if q.batch_shape != x.shape[:-1]:
            raise ValueError(
                f"q must have the batch shape of x, {tuple(x.shape[:-1])}, "
                f"got {tuple(q.batch_shape)}; make it explicit with q.expand"
            )
        check_same_dtype(q=q.mean, parameters=self.mean)

    def _check_z(self, z: Tensor) -> Tensor:
        check_tensor("z", z, ("*", self.latent_dim))
        check_same_dtype(z=z, parameters=self.mean)
        return z
