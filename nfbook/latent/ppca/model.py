"""Probabilistic principal component analysis: the linear-Gaussian model, exact throughout."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

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
from nfbook.data.batches import check_weights
from nfbook.fitting import Fit
from nfbook.latent.em import check_own
from nfbook.latent.model import LatentVariableModel
from nfbook.latent.ppca._algebra import (
    Observed,
    check_every_column,
    factor_of_m,
    in_dtype,
    no_noise_left,
)
from nfbook.sampling import gaussian_noise

__all__ = ["PPCA", "PPCAStatistics"]

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
        TypeError: A parameter is not a floating-point tensor, has half precision, or the dtypes
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
        noise_variance = scalar("noise_variance", noise_variance, loading)
        check_same_dtype(loading=loading, mean=mean, noise_variance=noise_variance)
        check_positive("noise_variance", noise_variance)
        self.loading = loading
        self.mean = mean
        self.noise_variance = noise_variance
        self._m_factor = self._checked(*factor_of_m(loading, noise_variance))
        self._posterior_factor = self._posterior_factor_of(self._m_factor)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(D={self.data_dim}, d={self.latent_dim})"

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
        here = self._observe(x, missing)
        m = here.solve(here.centred @ self.loading)
        residual = here.only(here.centred - m @ self.loading.mT)
        quadratic = residual.square().sum(-1) / self.noise_variance + m.square().sum(-1)
        log_det = (here.entries - self.latent_dim) * self.noise_variance.log() + here.log_det()
        log_prob: Tensor = -0.5 * (here.entries * math.log(2 * math.pi) + log_det + quadratic)
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
        here = self._observe(x, missing)
        mean = here.solve(here.centred @ self.loading)
        if not bool(mean.isfinite().all()):
            raise ValueError(
                f"x must be small enough for its posterior mean to be finite in {x.dtype}, "
                f"got elements up to {float(here.only(x).abs().max()):g}"
            )
        if here.observed is None:
            # One factor without batch dimensions: torch shares it among all observations.
            return MultivariateNormal(mean, scale_tril=self._posterior_factor)
        return MultivariateNormal(mean, scale_tril=self._posterior_factor_of(here.factor))

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
        here = self._observe(x, missing)
        self._check_q(x, q)
        # The trace of S M as a sum of squares, so that nothing cancels when the noise is small.
        if isinstance(q, MultivariateNormal):
            trace = (here.factor.mT @ q.scale_tril).square().sum((-2, -1))
        else:
            trace = (q.variance * here.factor.square().sum(-1)).sum(-1)
        residual = here.only(here.centred - q.mean @ self.loading.mT)
        quadratic = (residual.square().sum(-1) + trace) / self.noise_variance
        constant = here.entries * (2 * math.pi * self.noise_variance).log()
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

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw n latent variables from the prior, then one observation for each.

        Arguments:
            n: How many.
            generator: The source of randomness, or None for torch's own.

        Returns:
            Observations `(n, D)` and latent variables `(n, d)`.
        """
        check_count("n", n)
        check_generator(generator)
        z = gaussian_noise((n, self.latent_dim), self.mean, generator)
        noise = gaussian_noise((n, self.data_dim), self.mean, generator)
        return z @ self.loading.mT + self.mean + self.noise_variance.sqrt() * noise, z

    @torch.no_grad()
    def e_step(
        self, x: Tensor, *, missing: bool = False, weights: Tensor | None = None
    ) -> PPCAStatistics:
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
            weights: How often each observation counts in the sums, `(n,)`. None means once.

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
        self._check_x(x, missing, "n")
        exact = self.to(torch.float64)
        rows = max(1, PIECE // (self.data_dim + (self.latent_dim + 1) ** 2))
        pieces = torch.split(x, rows)
        shares: Iterable[Tensor | None] = [None] * len(pieces)
        if weights is not None:
            shares = torch.split(check_weights(weights, x).to(torch.float64), rows)
        return reduce(
            add,
            (
                exact._sums(piece.to(torch.float64), missing, share, self)
                for piece, share in zip(pieces, shares, strict=True)
            ),
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
            TypeError: The argument is no `PPCAStatistics`.
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
        new, old = self.to(torch.float64), maker.to(torch.float64)
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
            TypeError: The argument is no `PPCAStatistics`.
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
        check_own(self, statistics.maker)
        check_every_column(statistics.gram[:, 0, 0])
        old = self.to(torch.float64)
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

    @classmethod
    @torch.no_grad()
    def fit(
        cls,
        x: Tensor | Iterable[Tensor],
        latent_dim: int,
        *,
        method: str = "closed-form",
        **options: Any,
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

        ==========================  ===========================================================
        ``method``                  what does the work, and takes the options
        ==========================  ===========================================================
        "closed-form"               `nfbook.latent.ppca.closed_form.closed_form`
        "em"                        `nfbook.latent.ppca.em.em`, also with missing entries
        "stochastic-gradient-em"    `nfbook.latent.ppca.stochastic_em.stochastic_gradient_em`
        ==========================  ===========================================================

        Source: Tipping and Bishop (1999), equations 7 and 8.

        Arguments:
            x: Observations, `(n, D)`, or for the first two methods an iterable of batches of them
                that can be run through again and again.
            latent_dim: The number of latent dimensions d, from 1 to D - 1. With d = D the noise
                variance would be arbitrary.
            method: One of the three.
            options: The keyword arguments of that function. ``generator`` and ``progress`` may be
                given for all three; the closed form, which is found at once, needs neither.

        Returns:
            The model, in the dtype of x, and the history. All is computed in float64. The closed
            form has one entry, the greatest log-likelihood.

        Raises:
            TypeError: An argument has the wrong type, the method does not have it, or the start has
                another dtype than x.
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
        # The fits make models, so they import this module, which can import them only now.
        from nfbook.latent.ppca.closed_form import closed_form
        from nfbook.latent.ppca.em import em
        from nfbook.latent.ppca.stochastic_em import stochastic_gradient_em

        ways: dict[str, Callable[..., Fit[PPCA]]] = {
            "closed-form": closed_form,
            "em": em,
            "stochastic-gradient-em": stochastic_gradient_em,
        }
        if method not in ways:
            *others, last = (f'"{name}"' for name in ways)
            raise ValueError(f"method must be {', '.join(others)} or {last}, got {method!r}")
        function = ways[method]
        if method == "closed-form":
            if options.pop("missing", False):
                raise ValueError('missing entries have no closed form; use method="em"')
            if options.pop("start", None) is not None:
                raise ValueError('start must be None for the closed form; method="em" has one')
            generator = options.pop("generator", None)
            check_generator(generator)
            check_type("progress", options.pop("progress", True), bool, "True or False")
        known = inspect.signature(function).parameters.keys() - {"x", "latent_dim", "kind"}
        foreign = sorted(options.keys() - known)
        if foreign:
            raise TypeError(f'method "{method}" has no option {foreign[0]}')
        return function(x, latent_dim, kind=cls, **options)

    def to(self, dtype: torch.dtype) -> PPCA:
        """Return the model with its parameters in another dtype, or itself where it has that one.

        Raises:
            ValueError: The noise variance vanishes in the dtype, or has no place in it.

        Example:
            >>> PPCA(torch.ones(2, 1), torch.zeros(2), 1.0).to(torch.float64).mean.dtype
            torch.float64
        """
        if self.mean.dtype == dtype:
            return self
        return in_dtype(type(self), (self.loading, self.mean, self.noise_variance), dtype)

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

    def _observe(self, x: Tensor, missing: bool) -> Observed:
        """Return what is there of x, with the factor of M that belongs to it."""
        self.check_observations(x, missing)
        observed = ~x.isnan() if missing else None
        if observed is None or bool(observed.all()):
            return Observed(x - self.mean, None, self._m_factor)
        m_factor = self._checked(*factor_of_m(self.loading, self.noise_variance, observed))
        return Observed(torch.where(observed, x - self.mean, 0.0), observed, m_factor)

    def _sums(
        self, x: Tensor, missing: bool, weights: Tensor | None, maker: PPCA
    ) -> PPCAStatistics:
        """Return the statistics of a few observations, all in float64."""
        here = self._observe(x, missing)
        d, n = self.latent_dim, len(x) if weights is None else float(weights.sum())
        shares = x.new_ones(len(x)) if weights is None else weights
        m = here.solve(here.centred @ self.loading)
        one_m = torch.cat([torch.ones_like(m[:, :1]), m], dim=1)
        residual = here.only(here.centred - m @ self.loading.mT)
        covariance = self._covariance(here.factor)
        weighted = one_m if weights is None else shares.unsqueeze(1) * one_m
        latent = weighted.mT @ one_m
        if here.observed is None:
            entries: float = n * self.data_dim
            spread = n * covariance.unsqueeze(0)
            latent[1:, 1:] += spread[0]
            gram = latent.unsqueeze(0)
        else:
            # For each entry, the sum over the observations that have it.
            there = here.observed.to(x.dtype).mT
            there = there if weights is None else there * weights
            entries = float(there.sum())
            spread = (there @ covariance.flatten(1)).reshape(-1, d, d)
            latent[1:, 1:] += (shares @ covariance.flatten(1)).reshape(d, d)
            products = one_m.unsqueeze(2) * one_m.unsqueeze(1)
            gram = (there @ products.flatten(1)).reshape(-1, d + 1, d + 1)
            gram[:, 1:, 1:] += spread
        spread_loading = (spread @ self.loading.unsqueeze(-1)).squeeze(-1)
        cross = residual.mT @ weighted
        cross[:, 1:] -= spread_loading
        squares = shares @ residual.square().sum(1) + (self.loading * spread_loading).sum()
        if not bool(squares.isfinite() and latent.isfinite().all()):
            raise ValueError(
                f"x must be small enough for its square to be finite in {x.dtype}, "
                f"got elements up to {float(here.only(x).abs().max()):g}"
            )
        entropies = 0.5 * (d * (2 * math.pi * math.e * self.noise_variance).log() - here.log_det())
        return PPCAStatistics(
            maker,
            count=n,
            entries=entries,
            entropy=(shares * entropies).sum(),
            latent=latent,
            squares=squares,
            cross=cross,
            gram=gram,
        )

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


@dataclass(frozen=True, eq=False)
class PPCAStatistics:
    r"""Expected sufficient statistics of probabilistic PCA, sums over n observations in float64.

    With :math:`\tilde{\mathbf{z}} = (1, \mathbf{z})`, the maker's parameters and its residual
    :math:`\mathbf{e} = \mathbf{x} - \boldsymbol{\mu} - \mathbf{W} \mathbf{z}`, where expectations
    are over q and a missing entry of x has no residual. Near the solution the residuals are as
    small as the noise, so the sums keep their digits wherever the data lie.

    Statistics of one maker can be added. Their size does not depend on n.

    Attributes:
        maker: The model whose E-step made them.
        count: The number of observations n, or the sum of their weights.
        entries: The number of entries that are there, or the sum of their
            weights: n D without missing ones.
        entropy: :math:`\sum_i \mathrm{H}(q_i)`, in nats.
        latent: :math:`\sum_i \mathbb{E}\, \tilde{\mathbf{z}}_i \tilde{\mathbf{z}}_i^\top`,
            `(d + 1, d + 1)`.
        squares: :math:`\sum_i \mathbb{E} \lVert \mathbf{e}_i \rVert^2`.
        cross: :math:`\sum_i \mathbb{E}\, \mathbf{e}_i \tilde{\mathbf{z}}_i^\top`, `(D, d + 1)`.
        gram: The same sum for each entry of x, over the observations that have it,
            `(D, d + 1, d + 1)`, or `(1, d + 1, d + 1)` where nothing is missing.

    Example:
        >>> model = PPCA(torch.ones(2, 1), torch.zeros(2), 1.0)
        >>> both = model.e_step(torch.zeros(3, 2)) + model.e_step(torch.ones(1, 2))
        >>> both.count, both.cross.shape, both.gram.shape
        (4, torch.Size([2, 2]), torch.Size([1, 2, 2]))
    """

    maker: PPCA
    count: float
    entries: float
    entropy: Tensor
    latent: Tensor
    squares: Tensor
    cross: Tensor
    gram: Tensor

    def __add__(self, other: PPCAStatistics) -> PPCAStatistics:
        check_type("other", other, PPCAStatistics, "PPCAStatistics")
        if other.maker is not self.maker:
            raise ValueError("statistics must come from one model to be added, got two")
        return PPCAStatistics(
            self.maker,
            self.count + other.count,
            self.entries + other.entries,
            self.entropy + other.entropy,
            self.latent + other.latent,
            self.squares + other.squares,
            self.cross + other.cross,
            # One matrix for all entries of x stands for D equal ones.
            self.gram + other.gram,
        )
