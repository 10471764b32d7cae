r"""Conjugate models: Bayes' theorem with every integral done on paper.

Three models, each with a prior that keeps its form when data arrive:

====================  ======================================  ========================
`BetaBernoulli`       tosses of a coin                        its probability of heads
`GaussianMean`        numbers with known noise variance       their mean
`LinearRegression`    targets, linear in known features       the weights
====================  ======================================  ========================

All three answer the same questions by the same names: ``prior``, ``log_likelihood``, ``posterior``,
``map``, ``mle``, ``log_evidence`` and ``predictive``. `log_evidence_by_quadrature` answers one of
them for any model, at a cost that grows exponentially with the number of parameters.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Beta, Distribution, MultivariateNormal, Normal

from nfbook._checks import (
    check_callable,
    check_count,
    check_log_values,
    check_positive,
    check_same_dtype,
    check_tensor,
    check_zero_one,
    scalar,
)

__all__ = [
    "BetaBernoulli",
    "ConjugateModel",
    "GaussianMean",
    "LinearRegression",
    "log_evidence_by_quadrature",
]

Data = TypeVar("Data")


class ConjugateModel(ABC, Generic[Data]):
    r"""A prior :math:`p(\theta)` and a likelihood :math:`p(X \mid \theta)` that fit together.

    Every method that takes data checks them, and refuses a data type other than the prior's.
    """

    @property
    @abstractmethod
    def prior(self) -> Distribution:
        r"""The distribution :math:`p(\theta)` of the parameters before any data."""

    @abstractmethod
    def log_likelihood(self, theta: Tensor, data: Data) -> Tensor:
        r"""Return :math:`\log p(X \mid \theta)` for each of many parameters."""

    @abstractmethod
    def posterior(self, data: Data) -> Distribution:
        r"""Return :math:`p(\theta \mid X)`."""

    @abstractmethod
    def map(self, data: Data) -> Tensor:
        r"""Return the posterior's mode, :math:`\arg\max_\theta p(\theta \mid X)`."""

    @abstractmethod
    def mle(self, data: Data) -> Tensor:
        r"""Return the likelihood's mode, :math:`\arg\max_\theta p(X \mid \theta)`."""

    @abstractmethod
    def log_evidence(self, data: Data) -> Tensor:
        r"""Return :math:`\log p(X) = \log \int p(X \mid \theta)\, p(\theta)\, d\theta`."""

    def log_joint(self, theta: Tensor, data: Data) -> Tensor:
        r"""Return :math:`\log p(X, \theta) = \log p(X \mid \theta) + \log p(\theta)`.

        It is the logarithm of the posterior density, up to the evidence.

        Example:
            >>> coin, tosses = BetaBernoulli(1.0, 1.0), torch.tensor([1.0, 0.0, 1.0])
            >>> coin.log_joint(torch.tensor([0.25, 0.5]), tosses).exp()
            tensor([0.0469, 0.1250])
        """
        # The likelihood checks theta, so that the prior is not asked about an impossible one.
        log_likelihood = self.log_likelihood(theta, data)
        return log_likelihood + self.prior.log_prob(theta)


class BetaBernoulli(ConjugateModel[Tensor]):
    r"""A coin with an unknown probability θ of heads, and a Beta prior on it.

    .. math::
        p(\theta) = \mathrm{Beta}(\theta \mid a, b), \qquad
        p(x_i \mid \theta) = \theta^{x_i} (1 - \theta)^{1 - x_i}

    The data are tosses of shape `(n,)`, 1 for heads and 0 for tails. With h heads and t tails the
    posterior is :math:`\mathrm{Beta}(a + h, b + t)` (Gelman et al., Bayesian Data Analysis, third
    edition, 2013, section 2.4).

    Arguments:
        a: The prior's weight of heads, positive.
        b: The prior's weight of tails, positive.

    Raises:
        TypeError: ``a`` or ``b`` is not a number, or both are tensors of different types.
        ValueError: ``a`` or ``b`` is not positive and finite, or too large for :math:`B(a, b)`.

    Example:
        >>> coin = BetaBernoulli(2.0, 2.0)
        >>> tosses = torch.tensor([1.0, 1.0, 0.0, 1.0])
        >>> posterior = coin.posterior(tosses)
        >>> posterior.concentration1, posterior.concentration0
        (tensor(5.), tensor(3.))
        >>> coin.map(tosses), coin.mle(tosses), coin.predictive(tosses).mean
        (tensor(0.6667), tensor(0.7500), tensor(0.6250))
    """

    def __init__(self, a: float | Tensor, b: float | Tensor) -> None:
        self.a, self.b = scalar("a", a), scalar("b", b)
        check_positive("a", self.a)
        check_positive("b", self.b)
        check_same_dtype(a=self.a, b=self.b)
        if not bool(_log_beta(self.a, self.b).isfinite()):
            raise ValueError(
                f"a and b must be small enough for B(a, b) in {self.a.dtype}, "
                f"got {float(self.a)} and {float(self.b)}"
            )

    @property
    def prior(self) -> Beta:
        r"""The distribution :math:`\mathrm{Beta}(a, b)`."""
        return Beta(self.a, self.b)

    def log_likelihood(self, theta: Tensor, data: Tensor) -> Tensor:
        r"""Return :math:`h \log\theta + t \log(1 - \theta)`, where :math:`0 \log 0 = 0`.

        Arguments:
            theta: Probabilities of heads, with shape `(*,)`.
            data: Tosses, with shape `(n,)`.
        """
        heads, tails = self._count(data)
        check_tensor("theta", theta, theta.shape if isinstance(theta, Tensor) else ())
        check_same_dtype(theta=theta, a=self.a)
        if not bool(((theta >= 0) & (theta <= 1)).all()):
            raise ValueError(
                f"theta must lie in [0, 1], got {float(theta.min())} to {float(theta.max())}"
            )
        return torch.xlogy(heads, theta) + torch.xlogy(tails, 1 - theta)

    def posterior(self, data: Tensor) -> Beta:
        r"""Return :math:`\mathrm{Beta}(a + h, b + t)`."""
        heads, tails = self._count(data)
        return Beta(self.a + heads, self.b + tails)

    def map(self, data: Tensor) -> Tensor:
        r"""Return :math:`(a + h - 1) / (a + b + n - 2)`, with shape `()`.

        Raises:
            ValueError: The posterior density grows without bound at 0 or at 1, as it does when
                :math:`a + h < 1` or :math:`b + t < 1`, and so has no mode.
        """
        heads, tails = self._count(data)
        for edge, letters, weight in (
            (0, "a + heads", self.a + heads),
            (1, "b + tails", self.b + tails),
        ):
            if weight < 1:
                raise ValueError(
                    f"the posterior has no mode: its density grows without bound at {edge}, since "
                    f"{letters} = {float(weight):g} is below 1"
                )
        return (self.a + heads - 1) / (self.a + self.b + heads + tails - 2)

    def mle(self, data: Tensor) -> Tensor:
        r"""Return the share of heads :math:`h / n`, with shape `()`."""
        heads, tails = self._count(data)
        return heads / (heads + tails)

    def log_evidence(self, data: Tensor) -> Tensor:
        r"""Return :math:`\log B(a + h, b + t) - \log B(a, b)`, with shape `()`.

        It is the probability of the sequence, order included: no binomial coefficient.
        """
        heads, tails = self._count(data)
        return _log_beta(self.a + heads, self.b + tails) - _log_beta(self.a, self.b)

    def predictive(self, data: Tensor) -> Bernoulli:
        r"""Return the next toss, a Bernoulli of probability :math:`(a + h) / (a + b + n)`."""
        heads, tails = self._count(data)
        return Bernoulli((self.a + heads) / (self.a + self.b + heads + tails))

    def _count(self, data: Tensor) -> tuple[Tensor, Tensor]:
        """Return the number of heads and of tails."""
        check_tensor("data", data, ("n",))
        check_zero_one("data", data)
        check_same_dtype(data=data, a=self.a)
        return data.sum(), (1 - data).sum()


def _log_beta(a: Tensor, b: Tensor) -> Tensor:
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)


def _check_range(held: bool, prior_variance: Tensor, noise_variance: Tensor) -> None:
    """Refuse variances for which a result overflowed its data type, or lost its digits."""
    if not held:
        raise ValueError(
            "prior_variance and noise_variance must not be so small or so far apart that the "
            f"result for these data is beyond {noise_variance.dtype}, "
            f"got {prior_variance.tolist()} and {noise_variance.tolist()}"
        )


def _log_normal(difference: Tensor, variance: Tensor) -> Tensor:
    return -0.5 * (torch.log(2 * math.pi * variance) + difference.square() / variance)


class GaussianMean(ConjugateModel[Tensor]):
    r"""Numbers that scatter around an unknown mean θ with known variance.

    .. math::
        p(\theta) = \mathcal{N}(\theta \mid m_0, s_0^2), \qquad
        p(x_i \mid \theta) = \mathcal{N}(x_i \mid \theta, \sigma^2)

    The data have shape `(n,)`. Precisions add up in the posterior
    :math:`\mathcal{N}(\theta \mid m_n, s_n^2)`:

    .. math::
        \frac{1}{s_n^2} = \frac{1}{s_0^2} + \frac{n}{\sigma^2}, \qquad
        m_n = s_n^2 \Bigl( \frac{m_0}{s_0^2} + \frac{n \bar{x}}{\sigma^2} \Bigr)

    (Bishop, Pattern Recognition and Machine Learning, 2006, equations 2.141 and 2.142).

    Arguments:
        prior_mean: :math:`m_0`, in the unit of the data.
        prior_variance: :math:`s_0^2`, positive, in that unit squared.
        noise_variance: :math:`\sigma^2`, positive, in that unit squared.

    Raises:
        TypeError: An argument is not a number, or they are tensors of different types.
        ValueError: A variance is not positive, or an argument is not finite.

    Example:
        >>> model = GaussianMean(prior_mean=0.0, prior_variance=1.0, noise_variance=4.0)
        >>> x = torch.tensor([1.0, 3.0, 2.0, 2.0])
        >>> model.posterior(x)
        Normal(loc: 1.0, scale: 0.7071067690849304)
        >>> model.mle(x)
        tensor(2.)
    """

    def __init__(
        self,
        prior_mean: float | Tensor,
        prior_variance: float | Tensor,
        noise_variance: float | Tensor,
    ) -> None:
        self.prior_mean = scalar("prior_mean", prior_mean)
        self.prior_variance = scalar("prior_variance", prior_variance)
        self.noise_variance = scalar("noise_variance", noise_variance)
        check_positive("prior_variance", self.prior_variance)
        check_positive("noise_variance", self.noise_variance)
        check_same_dtype(
            prior_mean=self.prior_mean,
            prior_variance=self.prior_variance,
            noise_variance=self.noise_variance,
        )

    @property
    def prior(self) -> Normal:
        r"""The distribution :math:`\mathcal{N}(m_0, s_0^2)`."""
        return Normal(self.prior_mean, self.prior_variance.sqrt())

    def log_likelihood(self, theta: Tensor, data: Tensor) -> Tensor:
        r"""Return :math:`\sum_i \log \mathcal{N}(x_i \mid \theta, \sigma^2)`.

        Arguments:
            theta: Means, with shape `(*,)`.
            data: Numbers, with shape `(n,)`.
        """
        self._check(data)
        check_tensor("theta", theta, theta.shape if isinstance(theta, Tensor) else ())
        check_same_dtype(theta=theta, data=data)
        return _log_normal(data - theta[..., None], self.noise_variance).sum(dim=-1)

    def posterior(self, data: Tensor) -> Normal:
        r"""Return :math:`\mathcal{N}(m_n, s_n^2)`.

        Raises:
            ValueError: A variance is so small that a precision overflows.
        """
        self._check(data)
        precision = 1 / self.prior_variance + len(data) / self.noise_variance
        weighted = self.prior_mean / self.prior_variance + data.sum() / self.noise_variance
        mean, scale = weighted / precision, precision.rsqrt()
        held = bool(mean.isfinite() & (scale > 0))
        _check_range(held, self.prior_variance, self.noise_variance)
        return Normal(mean, scale)

    def map(self, data: Tensor) -> Tensor:
        r"""Return :math:`m_n`, with shape `()`: a Gaussian's mode is its mean."""
        return self.posterior(data).mean

    def mle(self, data: Tensor) -> Tensor:
        r"""Return the average :math:`\bar{x}`, with shape `()`."""
        self._check(data)
        return data.mean()

    def log_evidence(self, data: Tensor) -> Tensor:
        r"""Return the logarithm of the evidence, with shape `()`.

        .. math::
            \log p(X) = -\tfrac{n}{2} \log 2\pi\sigma^2
              - \tfrac12 \log\Bigl(1 + \frac{n s_0^2}{\sigma^2}\Bigr)
              - \frac{\sum_i (x_i - \bar{x})^2}{2\sigma^2}
              - \frac{(\bar{x} - m_0)^2}{2(s_0^2 + \sigma^2 / n)}
        """
        self._check(data)
        n, mean = len(data), data.mean()
        log_evidence = (
            -0.5 * n * torch.log(2 * math.pi * self.noise_variance)
            - 0.5 * torch.log1p(n * self.prior_variance / self.noise_variance)
            - 0.5 * (data - mean).square().sum() / self.noise_variance
            - 0.5 * (mean - self.prior_mean) ** 2 / (self.prior_variance + self.noise_variance / n)
        )
        _check_range(bool(log_evidence.isfinite()), self.prior_variance, self.noise_variance)
        return log_evidence

    def predictive(self, data: Tensor) -> Normal:
        r"""Return the next number, :math:`\mathcal{N}(m_n, s_n^2 + \sigma^2)`."""
        posterior = self.posterior(data)
        return Normal(posterior.mean, (posterior.variance + self.noise_variance).sqrt())

    def _check(self, data: Tensor) -> None:
        check_tensor("data", data, ("n",))
        check_same_dtype(data=data, prior_mean=self.prior_mean)


class LinearRegression(ConjugateModel[tuple[Tensor, Tensor]]):
    r"""Targets that are linear in known features, with known noise variance.

    .. math::
        p(\mathbf{w}) = \mathcal{N}(\mathbf{w} \mid \mathbf{0}, \mathbf{S}_0), \qquad
        p(\mathbf{y} \mid \mathbf{w}) =
          \mathcal{N}(\mathbf{y} \mid \Phi \mathbf{w}, \sigma^2 \mathbf{I}), \qquad
        \mathbf{S}_0 = \mathrm{diag}(s_1^2, \dots, s_D^2)

    The data are a pair: the design matrix Φ of shape `(n, D)`, one row of features per
    observation, and the targets of shape `(n,)`. The features are known, so that every density
    is conditional on them. The posterior is Gaussian,

    .. math::
        p(\mathbf{w} \mid \mathbf{y}) = \mathcal{N}(\mathbf{w} \mid \mathbf{m}, \mathbf{A}^{-1}),
        \qquad \mathbf{A} = \mathbf{S}_0^{-1} + \Phi^\top \Phi / \sigma^2, \qquad
        \mathbf{A} \mathbf{m} = \Phi^\top \mathbf{y} / \sigma^2

    (Bishop, Pattern Recognition and Machine Learning, 2006, equations 3.50 and 3.51).

    Arguments:
        prior_variance: :math:`s_j^2` of each weight, positive, with shape `(D,)`. A wide one
            leaves its weight free, as is usual for an intercept.
        noise_variance: :math:`\sigma^2`, positive, in the unit of the targets squared.

    Raises:
        TypeError: An argument has the wrong type, or the two differ in data type.
        ValueError: A variance is not positive and finite, or has the wrong shape.

    Example:
        >>> model = LinearRegression(torch.tensor([4.0, 4.0]), noise_variance=1.0)
        >>> design = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
        >>> targets = torch.tensor([0.0, 1.0, 2.0])
        >>> model.map((design, targets))
        tensor([0.0930, 0.8992])
        >>> model.predictive((design, targets), torch.tensor([[1.0, 3.0]])).mean
        tensor([2.7907])
    """

    def __init__(self, prior_variance: Tensor, noise_variance: float | Tensor) -> None:
        check_tensor("prior_variance", prior_variance, ("D",))
        check_positive("prior_variance", prior_variance)
        self.prior_variance = prior_variance
        self.noise_variance = scalar("noise_variance", noise_variance, prior_variance)
        check_positive("noise_variance", self.noise_variance)
        check_same_dtype(prior_variance=prior_variance, noise_variance=self.noise_variance)

    @property
    def prior(self) -> MultivariateNormal:
        r"""The distribution :math:`\mathcal{N}(\mathbf{0}, \mathbf{S}_0)`."""
        return MultivariateNormal(
            torch.zeros_like(self.prior_variance), scale_tril=self.prior_variance.sqrt().diag()
        )

    def log_likelihood(self, theta: Tensor, data: tuple[Tensor, Tensor]) -> Tensor:
        r"""Return :math:`\log \mathcal{N}(\mathbf{y} \mid \Phi \mathbf{w}, \sigma^2 \mathbf{I})`.

        Arguments:
            theta: Weights, with shape `(*, D)`.
            data: The design matrix and the targets.
        """
        design, targets = self._check(data)
        check_tensor("theta", theta, ("*", design.shape[1]))
        check_same_dtype(theta=theta, design=design)
        return _log_normal(targets - theta @ design.mT, self.noise_variance).sum(dim=-1)

    def posterior(self, data: tuple[Tensor, Tensor]) -> MultivariateNormal:
        r"""Return :math:`\mathcal{N}(\mathbf{m}, \mathbf{A}^{-1})`.

        Raises:
            ValueError: The variances are so small, or so far apart, that :math:`\mathbf{A}` is
                singular or infinite in its data type.
        """
        precision, _, mean = self._solve(data)
        return MultivariateNormal(mean, precision_matrix=precision)

    def map(self, data: tuple[Tensor, Tensor]) -> Tensor:
        r"""Return :math:`\mathbf{m}`, with shape `(D,)`: a Gaussian's mode is its mean."""
        return self._solve(data)[2]

    def mle(self, data: tuple[Tensor, Tensor]) -> Tensor:
        r"""Return the least-squares solution :math:`\hat{\mathbf{w}}`, with shape `(D,)`.

        Raises:
            ValueError: The columns of the design matrix are linearly dependent, so that many
                weights fit equally well. (The MAP estimate exists nevertheless.)
        """
        design, targets = self._check(data)
        rank = int(torch.linalg.matrix_rank(design))
        if rank < design.shape[1]:
            raise ValueError(
                "the maximum likelihood estimate is not unique: the design matrix has "
                f"{design.shape[1]} columns, of which {rank} are linearly independent"
            )
        q, r = torch.linalg.qr(design)
        weights: Tensor = torch.linalg.solve_triangular(r, (q.mT @ targets)[:, None], upper=True)
        return weights[:, 0]

    def log_evidence(self, data: tuple[Tensor, Tensor]) -> Tensor:
        r"""Return the logarithm of the evidence, with shape `()`.

        .. math::
            \log p(\mathbf{y}) = \log \mathcal{N}(\mathbf{y} \mid \mathbf{0},
              \sigma^2 \mathbf{I} + \Phi \mathbf{S}_0 \Phi^\top)
              = \log p(\mathbf{y} \mid \mathbf{m}) + \log p(\mathbf{m})
              + \tfrac{D}{2} \log 2\pi - \tfrac12 \log\det \mathbf{A}

        The second form is the one computed. It needs a D by D matrix where the first needs an n by
        n one, and its first term is the fit of the best weights, the rest the `log_occam_factor`
        (MacKay, Bayesian Interpolation, Neural Computation 4, 1992, section 3).
        """
        mean = self.map(data)
        log_evidence = self.log_likelihood(mean, data) + self.log_occam_factor(data)
        _check_range(bool(log_evidence.isfinite()), self.prior_variance, self.noise_variance)
        return log_evidence

    def log_occam_factor(self, data: tuple[Tensor, Tensor]) -> Tensor:
        r"""Return what the evidence charges for the freedom of the weights, with shape `()`.

        .. math::
            \log p(\mathbf{m}) + \tfrac{D}{2} \log 2\pi - \tfrac12 \log\det \mathbf{A}
        """
        _, cholesky, mean = self._solve(data)
        return (
            -0.5 * (mean**2 / self.prior_variance).sum()
            - 0.5 * self.prior_variance.log().sum()
            - cholesky.diagonal().log().sum()
        )

    def predictive(self, data: tuple[Tensor, Tensor], inputs: Tensor) -> Normal:
        r"""Return the target at new features, one Gaussian a row.

        .. math::
            p(y_* \mid \boldsymbol\phi_*, \mathbf{y}) = \mathcal{N}\bigl(y_* \mid
              \boldsymbol\phi_*^\top \mathbf{m},\;
              \sigma^2 + \boldsymbol\phi_*^\top \mathbf{A}^{-1} \boldsymbol\phi_*\bigr)

        Targets at two inputs share the weights and so are correlated; these are their marginals.

        Arguments:
            data: The design matrix and the targets.
            inputs: New rows of features, with shape `(m, D)`.

        Returns:
            A Normal of batch shape `(m,)`.
        """
        _, cholesky, mean = self._solve(data)
        check_tensor("inputs", inputs, ("m", len(mean)))
        check_same_dtype(inputs=inputs, prior_variance=self.prior_variance)
        half = torch.linalg.solve_triangular(cholesky, inputs.mT, upper=False)
        return Normal(inputs @ mean, (self.noise_variance + half.square().sum(dim=0)).sqrt())

    def _solve(self, data: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the posterior's precision A, its lower Cholesky factor, and its mean."""
        design, targets = self._check(data)
        precision = (1 / self.prior_variance).diag() + design.mT @ design / self.noise_variance
        cholesky, failed = torch.linalg.cholesky_ex(precision)
        # The posterior factors the matrix from its other end.
        _, failed_too = torch.linalg.cholesky_ex(precision.flip(0, 1))
        moment = design.mT @ targets / self.noise_variance
        mean = torch.cholesky_solve(moment[:, None], cholesky)[:, 0]
        finite = bool(precision.isfinite().all() & mean.isfinite().all())
        held = finite and not bool(failed | failed_too)
        _check_range(held, self.prior_variance, self.noise_variance)
        return precision, cholesky, mean

    def _check(self, data: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        if not isinstance(data, tuple) or len(data) != 2:
            came = f"{len(data)} elements" if isinstance(data, tuple) else type(data).__name__
            raise TypeError(f"data must be a pair (design matrix, targets), got {came}")
        design, targets = data
        size = check_tensor("design", design, ("n", len(self.prior_variance)))
        check_tensor("targets", targets, (size["n"],))
        check_same_dtype(design=design, targets=targets, prior_variance=self.prior_variance)
        return design, targets


# Points evaluated at once: a few megabytes, whatever the size of the grid.
BLOCK = 8192


def log_evidence_by_quadrature(
    log_joint: Callable[[Tensor], Tensor],
    lower: Tensor,
    upper: Tensor,
    points: int,
    *,
    max_points: int = 2**24,
) -> Tensor:
    r"""Integrate a density over a box with the trapezoidal rule along every axis.

    .. math::
        \log \int p(X, \theta)\, d\theta \approx
          \log \sum_{k_1 = 1}^{N} \cdots \sum_{k_d = 1}^{N}
          w_{k_1} \cdots w_{k_d}\; p(X, \theta_{k_1 \dots k_d})

    The N points of an axis are equally spaced from ``lower`` to ``upper``; a weight is the
    spacing, halved at both ends. The sum runs over :math:`N^d` points, in blocks, as a
    log-sum-exp: the density itself may be far below the smallest floating-point number.

    Arguments:
        log_joint: Returns the logarithm of the density, with shape `(m,)`, at `m` points given
            with shape `(m, d)`.
        lower: The box's lower corner, with shape `(d,)`.
        upper: Its upper corner, with shape `(d,)`, above ``lower`` in every axis.
        points: N, the points per axis, at least two.
        max_points: The largest grid that is tried.

    Returns:
        The logarithm of the integral, with shape `()`.

    Raises:
        TypeError: The corners are not floating-point tensors, or differ in dtype; or
            ``log_joint`` is not a function, or returns anything but tensors of that dtype.
        ValueError: The box is empty, the grid has more than ``max_points`` points, or
            ``log_joint`` returns another shape, NaN or plus infinity.

    Example:
        >>> normal = torch.distributions.Normal(0.0, 1.0)
        >>> box = torch.tensor([-6.0, -6.0])
        >>> def log_density(z):
        ...     return normal.log_prob(z).sum(dim=-1)
        >>> log_evidence_by_quadrature(log_density, box, -box, points=20).abs() < 1e-6
        tensor(True)
        >>> log_evidence_by_quadrature(log_density, box, -box, points=10_000)
        Traceback (most recent call last):
        ...
        ValueError: a grid of 10000^2 = 1e+08 points (8e+08 bytes) is larger than
        max_points = 16777216
    """
    check_callable("log_joint", log_joint)
    d = check_tensor("lower", lower, ("d",))["d"]
    check_tensor("upper", upper, (d,))
    check_same_dtype(lower=lower, upper=upper)
    check_count("points", points, minimum=2)
    check_count("max_points", max_points)
    if not bool((lower < upper).all()):
        raise ValueError(f"lower must be below upper in every axis, got {lower} and {upper}")
    check_tensor("upper - lower", upper - lower, (d,))
    total = points**d
    if total > max_points:
        size = total * d * lower.element_size()
        # Beyond the largest float, Python cannot write an int in this form.
        printable = size <= sys.float_info.max
        came = f"{points}^{d}" + (
            f" = {total:.3g} points ({size:.3g} bytes)" if printable else " points"
        )
        raise ValueError(f"a grid of {came} is larger than max_points = {max_points}")
    spacing = (upper - lower) / (points - 1)
    log_weights = torch.zeros(points, dtype=lower.dtype)
    log_weights[[0, -1]] = -math.log(2)
    place = points ** torch.arange(d)
    parts = []
    for start in range(0, total, BLOCK):
        # A point's number, written in base N, holds its place along every axis.
        index = torch.arange(start, min(start + BLOCK, total))[:, None] // place % points
        values = log_joint(lower + index * spacing)
        check_log_values("log_joint's result", values, (len(index),))
        check_same_dtype(**{"log_joint's result": values, "lower": lower})
        parts.append(torch.logsumexp(values + log_weights[index].sum(dim=1), dim=0))
    return torch.logsumexp(torch.stack(parts), dim=0) + spacing.log().sum()
