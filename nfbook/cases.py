"""Random models and data that several pages use to check their equations, and a search.

A generator makes each model, so `verify` and its relatives can draw as many as they need.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal

from nfbook._checks import check_count, check_generator, check_positive, check_real
from nfbook.bayes import GaussianMean, LinearRegression
from nfbook.latent import PPCA, GaussianMixture
from nfbook.quadrature import grid

__all__ = [
    "data_and_gaussian",
    "data_and_ppca",
    "factors_of_mixture",
    "line_and_point",
    "line_model_and_data",
    "maximise",
    "mixture_and_data",
    "mixture_and_point",
    "parabola_gaps",
    "ppca_and_data",
    "ppca_and_proposal",
    "ppca_and_typical",
    "ppca_and_width",
    "random_bound_case",
    "random_coin",
    "random_data",
    "random_gaussian",
    "random_gaussian_mean",
    "random_inference",
    "random_mixture",
    "random_peaks",
    "random_ppca",
    "random_regression",
    "two_gaussians",
    "two_moons",
]


def random_mixture(
    generator: torch.Generator, count: int = 3, dim: int = 2, *, variety: float = 1.0
) -> GaussianMixture:
    r"""Return a mixture of Gaussians that overlap, none of them round.

    With matrices A and vectors **a**, **b** of standard Gaussian numbers and the variety v,

    .. math:: \boldsymbol{\pi} = \operatorname{softmax}(v \mathbf{b}), \qquad
        \boldsymbol{\mu}_k = 2\, \mathbf{a}_k, \qquad
        \boldsymbol{\Sigma}_k = v^2 \mathbf{A}_k \mathbf{A}_k^\top + \tfrac12 \mathbf{I}.

    Arguments:
        generator: The source of the numbers.
        count: The number of components K.
        dim: The dimension D.
        variety: How much weights and covariances vary, v.

    Example:
        >>> random_mixture(torch.Generator().manual_seed(0)).means.shape
        torch.Size([3, 2])
    """
    check_generator(generator)
    factors = variety * torch.randn(count, dim, dim, generator=generator)
    return GaussianMixture(
        (variety * torch.randn(count, generator=generator)).softmax(0),
        2 * torch.randn(count, dim, generator=generator),
        factors @ factors.mT + 0.5 * torch.eye(dim),
    )


def random_ppca(
    generator: torch.Generator, dim: int = 5, latent_dim: int = 2, *, least: float = 0.2
) -> PPCA:
    r"""Return a model of probabilistic PCA with standard Gaussian numbers as loading and mean.

    Its noise variance is uniform between ``least`` and ``least + 1``.

    Arguments:
        generator: The source of the numbers.
        dim: The dimension D of the data.
        latent_dim: The dimension d of the latent variable.
        least: The least noise variance.

    Example:
        >>> random_ppca(torch.Generator().manual_seed(0)).loading.shape
        torch.Size([5, 2])
    """
    check_generator(generator)
    return PPCA(
        torch.randn(dim, latent_dim, generator=generator),
        torch.randn(dim, generator=generator),
        least + torch.rand((), generator=generator),
    )


def random_coin(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    r"""Return the :math:`a, b` of a Beta prior, uniform in [1, 5], and a record of tosses.

    The record has 1 to 20 tosses, as zeros and ones, of a coin with a uniform probability of ones.

    Arguments:
        generator: The source of the numbers.

    Example:
        >>> a, b, tosses = random_coin(torch.Generator().manual_seed(0))
        >>> bool(((tosses == 0) | (tosses == 1)).all())
        True
    """
    check_generator(generator)
    a, b = 1 + 4 * torch.rand(2, generator=generator)
    n = int(torch.randint(1, 21, (), generator=generator))
    chance = torch.rand((), generator=generator)
    return a, b, (torch.rand(n, generator=generator) < chance).to(a.dtype)


def random_gaussian_mean(generator: torch.Generator) -> tuple[GaussianMean, torch.Tensor]:
    """Return a model of a Gaussian mean, and 1 to 12 observations.

    The prior mean is a standard Gaussian number, both variances are powers of e with one.

    Arguments:
        generator: The source of the numbers.

    Example:
        >>> model, data = random_gaussian_mean(torch.Generator().manual_seed(0))
        >>> model.posterior(data).batch_shape
        torch.Size([])
    """
    check_generator(generator)
    mean, log_prior, log_noise = torch.randn(3, generator=generator)
    n = int(torch.randint(1, 13, (), generator=generator))
    model = GaussianMean(mean, (0.5 * log_prior).exp(), (0.5 * log_noise).exp())
    return model, 2 * torch.randn(n, generator=generator)


def random_regression(
    generator: torch.Generator,
) -> tuple[LinearRegression, torch.Tensor, torch.Tensor]:
    """Return a regression with three weights, a design matrix of 2 to 9 rows, and the targets.

    Design and targets are standard Gaussian numbers, and the variances uniform in [0.2, 1.2].

    Arguments:
        generator: The source of the numbers.

    Example:
        >>> model, design, targets = random_regression(torch.Generator().manual_seed(0))
        >>> len(design) == len(targets), design.shape[1]
        (True, 3)
    """
    check_generator(generator)
    n = int(torch.randint(2, 10, (), generator=generator))
    variances = 0.2 + torch.rand(4, generator=generator)
    model = LinearRegression(variances[:3], variances[3])
    return model, torch.randn(n, 3, generator=generator), torch.randn(n, generator=generator)


def random_gaussian(generator: torch.Generator, dim: int = 2) -> MultivariateNormal:
    r"""Return a Gaussian with correlated coordinates, whose variances are at least 0.3.

    Arguments:
        generator: The source of the numbers.
        dim: The dimension.

    Example:
        >>> random_gaussian(torch.Generator().manual_seed(0)).mean.shape
        torch.Size([2])
    """
    check_generator(generator)
    factor = torch.randn(dim, dim, generator=generator)
    covariance = factor @ factor.mT + 0.3 * torch.eye(dim)
    return MultivariateNormal(torch.randn(dim, generator=generator), covariance)


def random_inference(
    generator: torch.Generator, dim: int = 3
) -> tuple[PPCA, Tensor, Normal, Normal]:
    r"""Return a model with one latent number, an observation, a q and the posterior.

    The mean of q is about half a standard deviation from that of the posterior, and its width
    differs by about a third.

    Arguments:
        generator: The source of the numbers.
        dim: The dimension D of the observation.

    Returns:
        A `PPCA` with d = 1, an observation drawn from it, `(D,)`, a Gaussian q, and the exact
        posterior as a Gaussian on the line.

    Example:
        >>> model, x, q, posterior = random_inference(torch.Generator().manual_seed(0))
        >>> torch.allclose(posterior.mean, model.posterior(x).mean[0])
        True
    """
    model = random_ppca(generator, dim, 1)
    x = model.sample(1, generator=generator)[0][0]
    exact = model.posterior(x)
    mean, stddev = exact.mean[0], exact.stddev[0]
    shift, width = torch.randn(2, generator=generator)
    q = Normal(mean + 0.5 * shift * stddev, (0.3 * width).exp() * stddev)
    return model, x, q, Normal(mean, stddev)


def random_peaks(generator: torch.Generator, count: int = 3) -> tuple[MixtureSameFamily, Normal]:
    r"""Return a mixture of Gaussians on the line, which may have several peaks, and a Gaussian.

    Arguments:
        generator: The source of the numbers.
        count: The number of components.

    Example:
        >>> p, q = random_peaks(torch.Generator().manual_seed(0))
        >>> p.mixture_distribution.probs.shape, q.batch_shape
        (torch.Size([3]), torch.Size([]))
    """
    check_generator(generator)
    weights = (0.5 * torch.randn(count, generator=generator)).softmax(0)
    parts = Normal(
        2 * torch.randn(count, generator=generator), 0.4 + torch.rand(count, generator=generator)
    )
    mean, log_scale = 0.5 * torch.randn(2, generator=generator)
    return MixtureSameFamily(Categorical(weights), parts), Normal(mean, 1.5 * log_scale.exp())


def two_gaussians(generator: torch.Generator) -> tuple[Normal, Normal]:
    """Return two Gaussians on the line, with standard deviations between 0.5 and 1.5.

    Example:
        >>> q, p = two_gaussians(torch.Generator().manual_seed(0))
        >>> bool(q.mean == p.mean)
        False
    """
    check_generator(generator)
    means = torch.randn(2, generator=generator)
    scales = 0.5 + torch.rand(2, generator=generator)
    return Normal(means[0], scales[0]), Normal(means[1], scales[1])


def data_and_gaussian(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return 20 points in the plane, and mean and covariance of a Gaussian near their best one.

    Example:
        >>> data, mean, covariance = data_and_gaussian(torch.Generator().manual_seed(0))
        >>> data.shape, mean.shape, covariance.shape
        (torch.Size([20, 2]), torch.Size([2]), torch.Size([2, 2]))
    """
    check_generator(generator)
    data = torch.randn(20, 2, generator=generator) @ torch.randn(2, 2, generator=generator)
    mean = data.mean(0) + 0.02 * torch.randn(2, generator=generator)
    factor = torch.eye(2) + 0.01 * torch.randn(2, 2, generator=generator)
    return data, mean, factor @ data.T.cov(correction=0) @ factor.T


def line_and_point(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Return w, b and σ of a line with noise, :math:`x \sim \mathcal{N}(wz + b, \sigma^2)`, and x.

    Example:
        >>> w, b, sigma, x = line_and_point(torch.Generator().manual_seed(0))
        >>> bool(sigma > 0.3)
        True
    """
    check_generator(generator)
    w, b, x = torch.randn(3, generator=generator)
    return w, b, 0.3 + torch.rand((), generator=generator), x


def mixture_and_data(generator: torch.Generator) -> tuple[GaussianMixture, Tensor]:
    """Return a mixture of three Gaussians in the plane, and four draws from it.

    Example:
        >>> mixture, data = mixture_and_data(torch.Generator().manual_seed(0))
        >>> len(mixture.weights), data.shape
        (3, torch.Size([4, 2]))
    """
    mixture = random_mixture(generator)
    return mixture, mixture.sample(4, generator=generator)[0]


def mixture_and_point(generator: torch.Generator) -> tuple[GaussianMixture, Tensor]:
    """Return a mixture of four Gaussians in the plane, and one draw from it.

    Example:
        >>> mixture, x = mixture_and_point(torch.Generator().manual_seed(0))
        >>> len(mixture.weights), x.shape
        (4, torch.Size([2]))
    """
    mixture = random_mixture(generator, 4)
    return mixture, mixture.sample(1, generator=generator)[0][0]


def ppca_and_data(
    generator: torch.Generator, dim: int = 5, latent_dim: int = 2
) -> tuple[PPCA, Tensor, Tensor]:
    """Return a model of probabilistic PCA, a draw x from it, and a z that has nothing to do with x.

    Example:
        >>> model, x, z = ppca_and_data(torch.Generator().manual_seed(0))
        >>> x.shape, z.shape
        (torch.Size([5]), torch.Size([2]))
    """
    model = random_ppca(generator, dim, latent_dim)
    x, _ = model.sample(1, generator=generator)
    return model, x[0], torch.randn(latent_dim, generator=generator)


def line_model_and_data(generator: torch.Generator) -> tuple[PPCA, Tensor, Tensor]:
    """Return `ppca_and_data` with a line in space, so that z is a single number.

    Example:
        >>> model, x, z = line_model_and_data(torch.Generator().manual_seed(0))
        >>> x.shape, z.shape
        (torch.Size([3]), torch.Size([1]))
    """
    return ppca_and_data(generator, dim=3, latent_dim=1)


def data_and_ppca(generator: torch.Generator) -> tuple[Tensor, PPCA]:
    """Return 40 points in four dimensions, and a model near their best one with d = 2.

    Example:
        >>> data, rival = data_and_ppca(torch.Generator().manual_seed(0))
        >>> bool(rival.log_prob(data).sum() < PPCA.fit(data, 2).model.log_prob(data).sum())
        True
    """
    check_generator(generator)
    data = torch.randn(40, 4, generator=generator) @ torch.randn(4, 4, generator=generator)
    best = PPCA.fit(data, 2).model
    loading = best.loading + 0.05 * torch.randn(4, 2, generator=generator)
    mean = best.mean + 0.05 * torch.randn(4, generator=generator)
    noise = best.noise_variance * (0.1 * torch.randn((), generator=generator)).exp()
    return data, PPCA(loading, mean, noise)


def ppca_and_typical(generator: torch.Generator) -> tuple[PPCA, Tensor, Tensor]:
    r"""Return a model with d = 2, an x that is typical for it, and both ratios of signal to noise.

    In the direction of each left singular vector of **W**, x lies one standard deviation of the
    evidence from the mean; in all others anywhere.

    Example:
        >>> model, x, ratios = ppca_and_typical(torch.Generator().manual_seed(0))
        >>> x.shape, ratios.shape
        (torch.Size([5]), torch.Size([2]))
    """
    model, x, _ = ppca_and_data(generator)
    vectors, singular, _ = torch.linalg.svd(model.loading, full_matrices=False)
    ratios = singular.square() / model.noise_variance
    signs = 2 * torch.randint(0, 2, (2,), generator=generator) - 1
    typical = signs * (model.noise_variance * (1 + ratios)).sqrt()
    off = x - model.mean
    return model, x + vectors @ (typical - vectors.T @ off), ratios


def ppca_and_width(generator: torch.Generator) -> tuple[PPCA, Tensor, Tensor, Tensor]:
    """Return `ppca_and_data`, and a factor between 0.8 and 1.8 for the width of a proposal.

    Example:
        >>> model, x, z, tau = ppca_and_width(torch.Generator().manual_seed(0))
        >>> bool(0.8 < tau < 1.8)
        True
    """
    model, x, z = ppca_and_data(generator)
    return model, x, z, 0.8 + torch.rand((), generator=generator)


def ppca_and_proposal(generator: torch.Generator) -> tuple[PPCA, Tensor, MultivariateNormal]:
    """Return a model with d = 1, a draw x from it, and a Gaussian q near the posterior.

    Example:
        >>> model, x, q = ppca_and_proposal(torch.Generator().manual_seed(0))
        >>> q.event_shape
        torch.Size([1])
    """
    model, x, shift = line_model_and_data(generator)
    posterior = model.posterior(x)
    width = 0.8 + 0.4 * torch.rand((), generator=generator)
    mean = posterior.mean + 0.2 * shift * posterior.stddev
    return model, x, MultivariateNormal(mean, scale_tril=width * posterior.scale_tril)


def random_bound_case(
    generator: torch.Generator, count: int = 2, n: int = 30
) -> tuple[GaussianMixture, Tensor, Tensor]:
    """Return a random mixture in the plane, data from it, and a table of responsibilities.

    The table has nothing to do with the mixture, so the bound that the three define has a gap.

    Arguments:
        generator: The source of the numbers.
        count: The number of components K.
        n: The number of observations.

    Returns:
        The mixture, the data with shape `(n, 2)`, and the table with shape `(n, K)`, whose rows
        sum to one.

    Example:
        >>> mixture, data, q = random_bound_case(torch.Generator().manual_seed(0), n=5)
        >>> data.shape, q.shape
        (torch.Size([5, 2]), torch.Size([5, 2]))
    """
    mixture = random_mixture(generator, count, variety=0.5)
    data = mixture.sample(n, generator=generator)[0]
    return mixture, data, torch.randn(n, count, generator=generator).softmax(1)


def random_data(generator: torch.Generator, n: int = 60, dim: int = 5) -> Tensor:
    """Return data with correlated columns: standard Gaussian numbers times a random matrix.

    Arguments:
        generator: The source of the numbers.
        n: The number of rows.
        dim: The number of columns D.

    Example:
        >>> random_data(torch.Generator().manual_seed(0)).shape
        torch.Size([60, 5])
    """
    check_generator(generator)
    mixing = torch.randn(dim, dim, generator=generator)
    return torch.randn(n, dim, generator=generator) @ mixing


def maximise(function: Callable[..., Tensor], *start: Tensor) -> list[Tensor]:
    """Return where a smooth function of tensors has a local maximum, found by gradients alone.

    L-BFGS climbs from ``start`` until the gradient is about 1e-10. It uses no theory of the
    function, which makes it a witness for a maximum that was derived.

    Arguments:
        function: Takes as many tensors as there are in ``start``, and returns a number.
        start: Where to begin; left unchanged.

    Example:
        >>> (top,) = maximise(lambda t: -((t - 3) ** 4).sum() - (t**2).sum(), torch.zeros(2))
        >>> (4 * (3 - top) ** 3 - 2 * top).abs().max() < 1e-6
        tensor(True)
    """
    free = [value.detach().clone().requires_grad_() for value in start]
    optimiser = torch.optim.LBFGS(
        free,
        max_iter=500,
        tolerance_grad=1e-10,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = -function(*free)
        value.backward()
        return value

    optimiser.step(loss)
    return [value.detach() for value in free]


@torch.no_grad()
def parabola_gaps(vae: Any, x: Tensor, points: int = 101) -> Tensor:
    r"""Return the gap of the bound of a `nfbook.vae.VAE` whose decoder is a `nfbook.vae.Parabola`.

    .. math:: \log p(x) - \mathbb{E}_{q_0(\mathbf{z}_0)} \Bigl[ \log p(x, \mathbf{z}_K)
        - \log q_0(\mathbf{z}_0 \mid x)
        + \sum_k \log |\det J_{f_k}(\mathbf{z}_{k-1})| \Bigr]

    The expectation is a sum over a grid of the noise, so nothing is drawn, and the evidence is
    exact.

    Arguments:
        vae: The model.
        x: Observations, `(n, 1)`.
        points: Nodes along each axis of the noise.

    Returns:
        The gaps, `(n,)`, in nats.

    Example:
        >>> from nfbook.networks import Feedforward
        >>> from nfbook.vae import VAE, Parabola
        >>> vae = VAE(Feedforward(1, (4,)), Parabola())
        >>> parabola_gaps(vae, torch.tensor([[1.0]]))  # the posterior is the prior still
        tensor([4.8773])
    """
    corner = torch.full((2,), 6.5, dtype=x.dtype)
    noise, weights = grid(-corner, corner, points)
    log_base = Normal(0.0, 1.0).log_prob(noise).sum(1)
    units = vae.encoder(x)
    z, ladj = vae.gaussian.transform(units).call_and_ladj(noise.unsqueeze(1).expand(-1, len(x), -1))
    if vae.flow is not None:
        layers = vae.flow.transform(units if vae.flow.context else None)
        z, more = layers.call_and_ladj(z)
        ladj = ladj + more
    log_ratio = vae.log_joint(x, z) - log_base.unsqueeze(1) + ladj
    gaps: Tensor = vae.decoder.log_evidence(x) - (weights * log_base.exp()) @ log_ratio
    return gaps


def factors_of_mixture(
    mixture: GaussianMixture, x: Tensor
) -> tuple[MixtureSameFamily, MixtureSameFamily]:
    r"""Return both factors of a mixture in the plane, :math:`p(x_1)` and :math:`p(x_2 \mid x_1)`.

    Given :math:`x_1`, a component is Gaussian, and has the weight of its responsibility:

    .. math:: b_k = \Sigma_{k12} / \Sigma_{k11}, \qquad
        \mathcal{N}\bigl(x_2 \mid \mu_{k2} + b_k (x_1 - \mu_{k1}),\
        \Sigma_{k22} - b_k \Sigma_{k12}\bigr).

    Arguments:
        mixture: The mixture, with D = 2.
        x: Values of the first coordinate, `(*)`.

    Returns:
        Two distributions on the line, the second one with batch shape `(*)`.

    Example:
        >>> mixture = random_mixture(torch.Generator().manual_seed(0))
        >>> first, second = factors_of_mixture(mixture, torch.zeros(5))
        >>> (first.log_prob(torch.zeros(5)) + second.log_prob(torch.ones(5)))[0].isclose(
        ...     mixture.log_prob(torch.tensor([[0.0, 1.0]]))[0])
        tensor(True)
    """
    means, covariances = mixture.means, mixture.covariances
    slope = covariances[:, 0, 1] / covariances[:, 0, 0]
    parts = Normal(means[:, 0], covariances[:, 0, 0].sqrt())
    given = Normal(
        means[:, 1] + slope * (x.unsqueeze(-1) - means[:, 0]),
        (covariances[:, 1, 1] - slope * covariances[:, 0, 1]).sqrt(),
    )
    shares = Categorical(logits=mixture.weights.log() + parts.log_prob(x.unsqueeze(-1)))
    return (
        MixtureSameFamily(Categorical(mixture.weights), parts),
        MixtureSameFamily(shares, given),
    )


def two_moons(count: int = 16, *, radius: float = 1.5, width: float = 0.2) -> GaussianMixture:
    r"""Return two half-moons in the plane, one within the other, whose density is known exactly.

    Each moon is a mixture of round Gaussians with equal weights on a half circle of radius r,

    .. math:: \boldsymbol{\mu}_{j} = \pm r \begin{pmatrix} \cos \alpha_j - \tfrac12 \\
        \sin \alpha_j - \tfrac14 \end{pmatrix}, \qquad
        \alpha_j = \pi\, \frac{j}{J - 1}, \qquad j = 0, \dots, J - 1,

    so together they are symmetric about the origin, where their mean lies.

    Arguments:
        count: The number of Gaussians in a moon, J.
        radius: r.
        width: The standard deviation of each Gaussian.

    Raises:
        TypeError: The count is not an int, or a length not a number.
        ValueError: There are fewer than two Gaussians, or a length is not positive.

    Example:
        >>> moons = two_moons()
        >>> moons.num_components, bool(moons.means.mean(0).abs().max() < 1e-6)
        (32, True)
    """
    check_count("count", count, minimum=2)
    check_positive("radius", torch.tensor(check_real("radius", radius)))
    check_positive("width", torch.tensor(check_real("width", width)))
    angle = math.pi * torch.linspace(0, 1, count)
    upper = radius * torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], -1)
    return GaussianMixture(
        torch.full((2 * count,), 0.5 / count),
        torch.cat([upper, -upper]),
        (width**2 * torch.eye(2)).repeat(2 * count, 1, 1),
    )
