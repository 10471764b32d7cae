"""The mixture of Gaussians: a latent variable with K values, and sums for integrals."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import repeat

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, MultivariateNormal

from nfbook._checks import (
    check_count,
    check_generator,
    check_positive,
    check_precision,
    check_real,
    check_same_dtype,
    check_tensor,
    check_type,
)
from nfbook.data.batches import (
    Batches,
    Moments,
    check_range,
    check_weights,
    moments,
)
from nfbook.fitting import Fit, best, check_start_dtype, check_stopping
from nfbook.latent.covariance import structure_called
from nfbook.latent.em import check_own, run_em
from nfbook.latent.model import LatentVariableModel
from nfbook.latent.seeding import candidates, k_means_plus_plus
from nfbook.sampling import gaussian_noise, source_device

__all__ = ["GaussianMixture", "MixtureStatistics"]

# Numbers in one piece of an array `(K, D, rows)`: few enough for the processor's cache.
PIECE = 2**18
# Numbers in one piece of an array `(K, rows, D, D)`: many enough that patterns of gaps repeat.
MATRICES = 2**20
# Observations among which the start of a fit is sought.
SAMPLE = 20_000
# A column is constant where it deviates by less than this, relative to its mean: means are rounded
# too, and smaller deviations would be lost in that.
ROUNDING = 8 * torch.finfo(torch.float64).eps


@dataclass(frozen=True, eq=False)
class MixtureStatistics:
    r"""Sums over n observations, each one shared out among the components by q.

    With weights of the observations, each one counts as often as its weight says. Where entries
    are missing, the sums are expected ones, and the entropy is also that of the missing entries
    given the index.

    They are taken in the white coordinates of the model that made them,
    :math:`\mathbf{y}_{ki} = \mathbf{L}_k^{-1} (\mathbf{x}_i - \boldsymbol{\mu}_k)` with
    :math:`\boldsymbol{\Sigma}_k = \mathbf{L}_k \mathbf{L}_k^\top`, and in float64.

    Attributes:
        maker: The model that made them.
        count: The number of observations n, or the sum of their weights.
        entropy: :math:`\mathrm{H}(q) = -\sum_{ik} q_{ik} \log q_{ik}`, without dimensions.
        sizes: :math:`N_k = \sum_i q_{ik}`, `(K,)`.
        shifts: :math:`\sum_i q_{ik} \mathbf{y}_{ki}`, `(K, D)`.
        scatter: :math:`\sum_i q_{ik} \mathbf{y}_{ki} \mathbf{y}_{ki}^\top`, in the shape of the
            model's covariances: the sum of all components where they are tied, only the diagonals
            or traces where there is no more to a covariance.

    Example:
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> model = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
        >>> statistics = model.e_step(x[:1]) + model.e_step(x[1:])
        >>> statistics.count, statistics.shifts
        (2, tensor([[4.]], dtype=torch.float64))
    """

    maker: GaussianMixture
    count: float
    entropy: Tensor
    sizes: Tensor
    shifts: Tensor
    scatter: Tensor

    def scatter_about(self, points: Tensor) -> Tensor:
        r"""Return the scatter about other points than the maker's means.

        .. math:: \sum_i q_{ik} (\mathbf{y}_{ki} - \mathbf{u}_k) (\mathbf{y}_{ki} -
            \mathbf{u}_k)^\top

        Arguments:
            points: The points :math:`\mathbf{u}_k` in white coordinates, `(K, D)`.
        """
        products = self.maker._covariances.products
        shifts, u = self.shifts.unsqueeze(-1), points.unsqueeze(-1)
        sizes = self.sizes[:, None, None]
        return self.scatter - products(shifts, u) - products(u, shifts) + products(sizes * u, u)

    def __add__(self, other: MixtureStatistics) -> MixtureStatistics:
        check_type("other", other, MixtureStatistics, "a MixtureStatistics")
        if other.maker is not self.maker:
            raise ValueError("statistics must come from one model to be added, got two")
        return MixtureStatistics(
            self.maker,
            self.count + other.count,
            self.entropy + other.entropy,
            self.sizes + other.sizes,
            self.shifts + other.shifts,
            self.scatter + other.scatter,
        )


class GaussianMixture(LatentVariableModel):
    r"""A mixture of K Gaussians.

    .. math::
        p(z = k) &= w_k, \\
        p(\mathbf{x} \mid z = k) &= \mathcal{N}(\mathbf{x} \mid \boldsymbol{\mu}_k,
        \boldsymbol{\Sigma}_k).

    The latent variable is the index of a component, from 0 to K - 1. Every quantity is
    differentiable in the parameters.

    Where ``missing=True`` is given, NaN in x stands for a missing entry. An observation is then
    only its other entries: every Gaussian is replaced by its marginal over these.

    Source: C. M. Bishop, Pattern Recognition and Machine Learning (2006), section 9.2.

    Arguments:
        weights: The mixing weights, `(K,)`, positive and with sum 1.
        means: The components' means, `(K, D)`, in the units of the data.
        covariances: Their covariance matrices, symmetric and positive definite. The shape depends
            on the structure.
        structure: What the covariance matrices have in common: "full" is one for each component,
            `(K, D, D)`; "tied" one for all, `(D, D)`; "diagonal" variances without correlations,
            `(K, D)`; "spherical" one variance in all directions, `(K,)`.

    Raises:
        TypeError: A parameter is not a floating-point tensor, has half precision, or the dtypes
            differ.
        ValueError: A shape does not fit, the weights are not positive with sum 1, or a covariance
            matrix is not symmetric and positive definite.

    Example:
        >>> mixture = GaussianMixture(
        ...     torch.tensor([0.25, 0.75]),
        ...     torch.tensor([[0.0, 0.0], [4.0, 0.0]]),
        ...     torch.eye(2),
        ...     structure="tied",
        ... )
        >>> mixture.posterior(torch.tensor([2.0, 0.0])).probs
        tensor([0.2500, 0.7500])
    """

    def __init__(
        self, weights: Tensor, means: Tensor, covariances: Tensor, *, structure: str = "full"
    ) -> None:
        count = check_tensor("weights", weights, ("K",))["K"]
        dim = check_tensor("means", means, (count, "D"))["D"]
        check_precision("means", means)
        self._covariances = structure_called(structure).of(covariances, count, dim)
        check_same_dtype(weights=weights, means=means, covariances=covariances)
        check_positive("weights", weights)
        total = float(weights.detach().sum())
        # Rounding of a softmax is far below this, a forgotten weight far above.
        if abs(total - 1) > 100 * torch.finfo(weights.dtype).eps:
            raise ValueError(f"weights must have sum 1, got {total}")
        self.weights = weights
        self.means = means
        self.covariances = covariances
        self.structure = structure

    def __repr__(self) -> str:
        sizes = f"K={self.num_components}, D={self.data_dim}"
        return f"{type(self).__name__}({sizes}, structure={self.structure!r})"

    @property
    def num_components(self) -> int:
        """The number of components K."""
        return self.means.shape[0]

    @property
    def data_dim(self) -> int:
        """The number of dimensions D of an observation."""
        return self.means.shape[1]

    @property
    def num_parameters(self) -> int:
        r"""The number of free parameters, as information criteria count them.

        There are K - 1 weights, K D means, and for the covariances :math:`K D (D + 1) / 2` (full),
        :math:`D (D + 1) / 2` (tied), K D (diagonal) or K (spherical).
        """
        count, dim = self.num_components, self.data_dim
        return count - 1 + count * dim + self._covariances.num_parameters(count, dim)

    @property
    def prior(self) -> Categorical:
        r"""The prior :math:`p(z = k) = w_k`."""
        return Categorical(logits=self.weights.log())

    def likelihood(self, z: Tensor) -> MultivariateNormal:
        r"""Return the Gaussian of each component index in z, with batch shape `(*)`."""
        z = self._check_z(z)
        return MultivariateNormal(self.means[z], scale_tril=self._triangles[z])

    def component_log_prob(self, x: Tensor, *, missing: bool = False) -> Tensor:
        r"""Return the log density of each component.

        .. math:: \log \mathcal{N}(\mathbf{x} \mid \boldsymbol{\mu}_k, \boldsymbol{\Sigma}_k)

        With :math:`\boldsymbol{\Sigma}_k = \mathbf{L}_k \mathbf{L}_k^\top`, the exponent is half
        the squared length of :math:`\mathbf{L}_k^{-1} (\mathbf{x} - \boldsymbol{\mu}_k)`.

        Arguments:
            x: Observations, `(*, D)`.
            missing: Whether NaN stands for a missing entry.

        Returns:
            One value for each component, `(*, K)`.
        """
        self.check_observations(x, missing)
        components = _Components(self, x.dtype)
        rows = x.reshape(-1, self.data_dim)
        log_prob = [components.log_prob(piece, missing) for piece in self._pieces(rows)]
        return torch.cat(log_prob, dim=1).mT.reshape(*x.shape[:-1], self.num_components)

    def log_prob(self, x: Tensor, *, missing: bool = False) -> Tensor:
        r"""Return the exact log-evidence.

        .. math:: \log p(\mathbf{x} \mid \theta) = \log \sum_k
            w_k\, \mathcal{N}(\mathbf{x} \mid \boldsymbol{\mu}_k, \boldsymbol{\Sigma}_k).

        Arguments:
            x: Observations, `(*, D)`.
            missing: Whether NaN stands for a missing entry. Without any entry the value is 0.

        Returns:
            One value for each observation, `(*)`.

        Example:
            >>> means = torch.tensor([[0.0, 0.0], [0.0, 9.0]])
            >>> eye = torch.eye(2).expand(2, 2, 2)
            >>> mixture = GaussianMixture(torch.tensor([0.5, 0.5]), means, eye)
            >>> mixture.log_prob(torch.tensor([0.0, torch.nan]), missing=True)
            tensor(-0.9189)
        """
        log_joint = self.weights.log() + self.component_log_prob(x, missing=missing)
        return torch.logsumexp(log_joint, dim=-1)

    def posterior(self, x: Tensor, *, missing: bool = False) -> Categorical:
        r"""Return the posterior of the index; its ``probs`` are the responsibilities.

        .. math:: r_k(\mathbf{x}) = \frac{w_k\, \mathcal{N}(\mathbf{x} \mid \boldsymbol{\mu}_k,
            \boldsymbol{\Sigma}_k)}{\sum_j w_j\, \mathcal{N}(\mathbf{x} \mid \boldsymbol{\mu}_j,
            \boldsymbol{\Sigma}_j)}.

        Arguments:
            x: Observations, `(*, D)`.
            missing: Whether NaN stands for a missing entry. Without any entry it is the prior.

        Returns:
            A distribution over the indices with batch shape `(*)`.

        Raises:
            ValueError: An x is so far away that its log density is not finite in its dtype.
        """
        log_joint = self.weights.log() + self.component_log_prob(x, missing=missing)
        _check_near(x, log_joint.logsumexp(-1))
        return Categorical(logits=log_joint)

    def elbo(self, x: Tensor, q: Distribution, *, missing: bool = False) -> Tensor:
        r"""Return the exact evidence lower bound, a sum over the K indices.

        .. math:: \mathcal{L}(q, \theta) = \sum_k q_k \bigl[\log w_k + \log
            \mathcal{N}(\mathbf{x} \mid \boldsymbol{\mu}_k, \boldsymbol{\Sigma}_k)
            - \log q_k\bigr], \qquad 0 \log 0 = 0.

        Arguments:
            x: Observations, `(*, D)`.
            q: One distribution over the K indices for each observation, with batch shape `(*)`.
            missing: Whether NaN stands for a missing entry.

        Returns:
            One value for each observation, `(*)`, at most ``log_prob(x)``.

        Raises:
            TypeError: q is not a Categorical, or has another dtype.
            ValueError: q has another batch shape than x, or another number of indices.

        Example:
            >>> eye = torch.eye(2).expand(2, 2, 2)
            >>> mixture = GaussianMixture(torch.tensor([0.5, 0.5]), torch.zeros(2, 2), eye)
            >>> x = torch.zeros(2)
            >>> mixture.log_prob(x), mixture.elbo(x, mixture.posterior(x))
            (tensor(-1.8379), tensor(-1.8379))
            >>> mixture.elbo(x, Categorical(torch.tensor([1.0, 0.0])))
            tensor(-2.5310)
        """
        probs = self._check_q(x, q, missing).probs
        possible = probs > 0
        log_q = torch.where(possible, probs, 1.0).log()
        log_joint = self.weights.log() + self.component_log_prob(x, missing=missing)
        # Where q is zero the logarithms are left out, so that their gradients are no NaN either.
        return (probs * torch.where(possible, log_joint - log_q, 0.0)).sum(-1)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw n component indices, then one observation from each component drawn.

        Arguments:
            n: The number of draws.
            generator: The source of randomness, or None for torch's own.

        Returns:
            Observations `(n, D)` and the indices `(n,)` of their components.

        Example:
            >>> eye = torch.eye(2).expand(2, 2, 2)
            >>> mixture = GaussianMixture(torch.tensor([0.5, 0.5]), torch.zeros(2, 2), eye)
            >>> x, z = mixture.sample(5, generator=torch.Generator().manual_seed(0))
            >>> x.shape, z.shape
            (torch.Size([5, 2]), torch.Size([5]))
        """
        check_count("n", n)
        check_generator(generator)
        weights = self.weights.to(source_device(generator, self.weights.device))
        z = torch.multinomial(weights, n, replacement=True, generator=generator)
        z = z.to(self.means.device)
        noise = gaussian_noise((n, self.data_dim), self.means, generator)
        x = self.means[z]
        for k, triangle in enumerate(self._triangles):
            mine = z == k
            x[mine] += noise[mine] @ triangle.mT
        return x, z

    @torch.no_grad()
    def e_step(
        self,
        x: Tensor,
        q: Distribution | None = None,
        *,
        weights: Tensor | None = None,
        missing: bool = False,
    ) -> MixtureStatistics:
        r"""Share out each observation among the components, and return the sums that count.

        Without q the shares are the responsibilities :math:`q_{ik} = r_k(\mathbf{x}_i)`: the q
        that makes the bound equal to the log-likelihood.

        Missing entries are latent variables as well. Each one's distribution is the conditional
        one of its component, given the entries that are there.

        Arguments:
            x: Observations, `(n, D)`. The memory used does not grow with n.
            q: Other shares: one distribution over the K indices for each observation.
            weights: How often each observation counts, `(n,)`.
            missing: Whether NaN stands for a missing entry.

        Raises:
            TypeError: x or the weights have another dtype than the parameters, or q is no
                Categorical.
            ValueError: A shape does not fit, an element is NaN or infinite, an x is so far away
                that its log density is not finite, or a weight is negative.

        Example:
            >>> eye = torch.eye(2).expand(2, 2, 2)
            >>> means = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
            >>> mixture = GaussianMixture(torch.tensor([0.5, 0.5]), means, eye)
            >>> x = torch.tensor([[0.0, 1.0], [0.0, 2.0], [9.0, 0.0]])
            >>> mixture.e_step(x).sizes
            tensor([1.0000, 2.0000], dtype=torch.float64)
        """
        self._check_x(x, missing, "n")
        given = repeat(None) if q is None else self._pieces(self._check_q(x, q, missing).probs)
        counts = repeat(None) if weights is None else self._pieces(check_weights(weights, x))
        here = _Components(self, torch.float64)
        tiny = torch.finfo(torch.float64).tiny
        entropy = torch.zeros_like(here.log_weights[0])
        sizes, shifts = torch.zeros_like(here.log_weights), torch.zeros_like(here.means)
        scatter = torch.zeros_like(self.covariances, dtype=torch.float64)
        for piece, share, w in zip(self._pieces(x), given, counts, strict=False):
            for view in here.views(piece.to(torch.float64), missing):
                y = view.white
                if share is None:
                    r = (here.log_weights.unsqueeze(-1) + view.log_prob).softmax(0)
                else:
                    r = share[view.rows].mT.to(torch.float64)
                # A share of zero adds nothing, and 0 times a finite logarithm is 0.
                surprise = r.clamp(min=tiny).log()
                if w is not None:
                    r = r * w[view.rows].to(torch.float64)
                shared = r.unsqueeze(1) * y
                entropy -= (r * surprise).sum()
                sizes += r.sum(1)
                shifts += shared.sum(2)
                scatter += here.covariances.products(shared, y)
                if view.hidden is not None:
                    scatter += here.covariances.products(*view.hidden.columns(r))
                    entropy += view.hidden.entropy(r)
        _check_near(x, scatter)
        count = len(x) if weights is None else float(weights.sum(dtype=torch.float64))
        return MixtureStatistics(self, count, entropy, sizes, shifts, scatter)

    def bound(self, statistics: MixtureStatistics) -> Tensor:
        r"""Return the bound of this model for the q behind the statistics, in nats.

        .. math:: \mathcal{L}(q, \theta) = \sum_k N_k \bigl[\log w_k - \tfrac12 \log \det (2 \pi
            \boldsymbol{\Sigma}_k)\bigr] - \tfrac12 \sum_{ik} q_{ik} (\mathbf{x}_i -
            \boldsymbol{\mu}_k)^\top \boldsymbol{\Sigma}_k^{-1} (\mathbf{x}_i -
            \boldsymbol{\mu}_k) + \mathrm{H}(q)

        This is ``elbo(x, q).sum()``, without another look at the data. For the model that made
        the statistics by its own E-step it is the log-likelihood.

        Arguments:
            statistics: What an ``e_step`` returned, of this model or of another one with the same
                structure, K and D.

        Returns:
            A float64 tensor without dimensions, differentiable in the parameters.

        Raises:
            TypeError: Its argument is not a MixtureStatistics.
            ValueError: The maker of the statistics has another structure or shape.

        Example:
            >>> x = torch.tensor([[0.0], [1.0], [5.0]])
            >>> start = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
            >>> statistics = start.e_step(x)
            >>> start.bound(statistics), start.m_step(statistics).bound(statistics)
            (tensor(-15.7568, dtype=torch.float64), tensor(-6.5675, dtype=torch.float64))
        """
        check_type("statistics", statistics, MixtureStatistics, "a MixtureStatistics")
        maker = statistics.maker
        if (maker.structure, maker.means.shape) != (self.structure, self.means.shape):
            raise ValueError(
                "statistics must come from a mixture with the same structure, K and D, "
                f"{self.structure} and {tuple(self.means.shape)}, "
                f"got {maker.structure} and {tuple(maker.means.shape)}"
            )
        old, new = _Components(maker, torch.float64), _Components(self, torch.float64)
        moves = old.covariances.whiten((new.means - old.means).unsqueeze(-1)).squeeze(-1)
        squares = new.covariances.squares(statistics.scatter_about(moves), old.covariances)
        log_heights = new.log_weights - new.log_normaliser
        return (statistics.sizes * log_heights).sum() - 0.5 * squares + statistics.entropy

    @torch.no_grad()
    def m_step(self, statistics: MixtureStatistics, floor: Tensor | None = None) -> GaussianMixture:
        r"""Return the mixture with the highest bound for the q behind the statistics.

        .. math:: w_k = \frac{N_k}{n}, \qquad
            \boldsymbol{\mu}_k = \frac{1}{N_k} \sum_i q_{ik} \mathbf{x}_i, \qquad
            \boldsymbol{\Sigma}_k = \frac{1}{N_k} \sum_i q_{ik} (\mathbf{x}_i -
            \boldsymbol{\mu}_k) (\mathbf{x}_i - \boldsymbol{\mu}_k)^\top

        Tied covariances are the mean of these, with weights :math:`w_k`; diagonal ones are their
        diagonals, spherical ones the means of the diagonals. A component without observations, up
        to rounding, keeps its mean and covariance.

        With a floor, the maximum is taken over the covariances with
        :math:`\boldsymbol{\Sigma}_k \succeq \operatorname{diag}(\text{floor})`, that is, no
        direction has less variance than the floor has there. So the bound still rises from any
        mixture that the floor allows.

        Source: C. M. Bishop, Pattern Recognition and Machine Learning (2006), equations 9.24 to
        9.26.

        Arguments:
            statistics: What ``e_step`` of this very model returned.
            floor: Variances, `(D,)`, positive. Spherical covariances use their mean.

        Raises:
            TypeError: An argument has the wrong type or dtype.
            ValueError: The statistics come from another model, the floor has the wrong shape or
                is not positive, or a component has collapsed: without a floor, its covariance
                matrix is singular.

        Example:
            >>> x = torch.tensor([[0.0], [1.0], [5.0]])
            >>> start = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
            >>> fitted = start.m_step(start.e_step(x))
            >>> fitted.means, fitted.covariances
            (tensor([[2.]]), tensor([[[4.6667]]]))
        """
        check_type("statistics", statistics, MixtureStatistics, "a MixtureStatistics")
        check_own(self, statistics.maker)
        self._check_floor(floor)
        old = _Components(self, torch.float64)
        empty = statistics.sizes <= torch.finfo(torch.float64).eps * statistics.count
        sizes = statistics.sizes.masked_fill(empty, 0.0)
        moves = (statistics.shifts / sizes.unsqueeze(-1)).masked_fill(empty.unsqueeze(-1), 0.0)
        covariances = old.covariances.maximiser(statistics.scatter_about(moves), sizes)
        means = old.means + (old.covariances.triangles @ moves.unsqueeze(-1)).squeeze(-1)
        weights = statistics.sizes / statistics.sizes.sum()
        return _mixture(weights, means, covariances, self.structure, self.means.dtype, floor)

    @classmethod
    @torch.no_grad()
    def fit(
        cls,
        x: Tensor | Iterable[Tensor],
        num_components: int,
        *,
        structure: str = "full",
        start: GaussianMixture | None = None,
        restarts: int = 5,
        floor: float = 1e-6,
        tolerance: float = 1e-6,
        max_iterations: int = 1000,
        weights: Tensor | Iterable[Tensor] | None = None,
        missing: bool = False,
        generator: torch.Generator | None = None,
        progress: bool = True,
    ) -> Fit[GaussianMixture]:
        r"""Return a mixture of high likelihood, found by EM, and the history of the fit.

        EM ends at a local maximum, and which one depends on the start. So it starts several times
        from centres that are far apart (k-means++, with the columns in units of their standard
        deviations), and the best end is kept.

        The likelihood has no highest value: it grows without limit when a component collapses onto
        a single observation. The floor keeps all variances away from zero. Where the best end has
        such a component all the same, a warning says so.

        A constant column has no scale. Its variance ends at ``floor`` times the mean variance of
        the columns that vary, or higher where its mean is so large that rounding would show.

        The result does not depend on the units of the columns: it follows when they change. For
        spherical covariances that holds for a change that all columns share.

        Source: A. P. Dempster, N. M. Laird and D. B. Rubin, Maximum likelihood from incomplete
        data via the EM algorithm, Journal of the Royal Statistical Society B 39 (1977), 1-38.

        Arguments:
            x: Observations, `(n, D)`, or an iterable of batches of them that can be run through
                again and again; no more than two batches are in memory at a time.
            num_components: The number of components K.
            structure: "full", "tied", "diagonal" or "spherical", as in the class.
            start: A mixture to start from. Its covariances are raised to the floor. There are no
                restarts then, and no randomness.
            restarts: How many random starts there are.
            floor: The smallest variance of a component in any direction, as a fraction of the
                variance of the data: with standard deviations as units. Zero is no floor.
            tolerance: Stop when an iteration gains no more than this, in nats per observation.
            max_iterations: The largest number of iterations from each start.
            weights: How often each observation counts, `(n,)`: a weight of 2 is the observation
                twice, 0 its absence. Where x is an iterable of batches, an iterable of the weights
                of each batch.
            missing: Whether NaN stands for a missing entry. The fit maximises the likelihood of
                the entries that are there, which is right where it does not depend on the missing
                values which ones are missing.
            generator: The source of randomness, or None for torch's own.
            progress: Whether a run of more than two seconds shows how far it is.

        Returns:
            The mixture, in the dtype of x, and the history of the best run. All is computed in
            float64. A covariance matrix that has no Cholesky factor in float32 is raised to where
            it has one.

        Raises:
            TypeError: An argument has the wrong type, or the start another dtype than x.
            ValueError: A number is out of range, x has a variance beyond the range of its dtype,
                fewer than K distinct observations, or no two different ones, a weight is negative,
                the start does not fit, or, with too low a floor, a component has collapsed.

        Warns:
            UserWarning: A component lies on a single point, line or plane, with a variance at the
                floor in a direction in which the data vary.

        Example:
            >>> from nfbook.data import old_faithful
            >>> mixture, history = GaussianMixture.fit(
            ...     old_faithful(), 2, generator=torch.Generator().manual_seed(0)
            ... )
            >>> history.converged, round(float(history.after_e_step[-1]), 2)
            (True, -1130.26)
        """
        check_count("num_components", num_components)
        structure_called(structure)
        check_count("restarts", restarts)
        check_stopping(tolerance, max_iterations)
        if check_real("floor", floor) < 0:
            raise ValueError(f"floor must be at least 0, got {floor}")
        check_type("missing", missing, bool, "True or False")
        batches = Batches(x, missing=missing, weights=weights)
        dtype = batches.dtype
        batches = batches.in_float64()
        overall = _spread(batches)
        check_range(overall.covariance, dtype)
        lowest = floor * overall.covariance if floor > 0 else None

        def e_step(
            model: GaussianMixture, x: Tensor, weights: Tensor | None = None
        ) -> MixtureStatistics:
            return model.e_step(x, weights=weights, missing=missing)

        def m_step(model: GaussianMixture, statistics: MixtureStatistics) -> GaussianMixture:
            return _not_collapsed(model.m_step(statistics, lowest), overall)

        check_generator(generator)
        if start is None:
            units = overall.covariance.sqrt()
            scaled, counts = candidates(
                batches,
                num_components,
                SAMPLE,
                scale=lambda x: ((x - overall.mean) / units).nan_to_num(nan=0.0),
                generator=generator,
            )
            starts = [
                _random_start(scaled, counts, overall, num_components, structure, generator)
                for _ in range(restarts)
            ]
        else:
            _check_start(start, num_components, batches.dim, structure, dtype)
            exact = _Components(start, torch.float64)
            starts = [(exact.log_weights.softmax(0), exact.means, exact.covariances.values)]
        fits = [
            run_em(
                _mixture(*parameters, structure, floor=lowest),
                batches,
                tolerance=tolerance,
                max_iterations=max_iterations,
                e_step=e_step,
                m_step=m_step,
                progress=progress,
                what=f"EM, start {i + 1} of {len(starts)}",
            )
            for i, parameters in enumerate(starts)
        ]
        found, history = best(fits)
        check_range(found._triangles.square().sum(-1), dtype)
        covariances = found.covariances
        if lowest is not None:
            _warn_of_the_floor(found, lowest)
            covariances = structure_called(structure).factorable(covariances, dtype)
        model = _mixture(found.weights, found.means, covariances, structure, dtype)
        return Fit(model, history)

    @property
    def _triangles(self) -> Tensor:
        return self._covariances.triangles.expand(self.num_components, -1, -1)

    def _pieces(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Cut so that the white coordinates of a piece fit into the processor's cache."""
        return torch.split(rows, max(1, PIECE // self.means.numel()))

    def _parameter(self) -> Tensor:
        return self.means

    def _check_q(self, x: Tensor, q: Distribution, missing: bool) -> Categorical:
        self.check_observations(x, missing)
        if not isinstance(q, Categorical):
            raise TypeError(f"q must be a torch.distributions.Categorical, got {type(q).__name__}")
        if q.probs.shape != (*x.shape[:-1], len(self.weights)):
            raise ValueError(
                f"q must have batch shape {tuple(x.shape[:-1])} and {len(self.weights)} "
                f"indices, got {tuple(q.batch_shape)} and {q.probs.shape[-1]}"
            )
        check_same_dtype(q=q.probs, parameters=self.means)
        return q

    def _check_floor(self, floor: Tensor | None) -> None:
        if floor is not None:
            check_tensor("floor", floor, (self.data_dim,))
            check_positive("floor", floor)
            check_same_dtype(floor=floor, parameters=self.means)

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


@dataclass(frozen=True)
class _Hidden:
    """What is missing of some observations, given what is there, for each pattern of gaps.

    Attributes:
        which: The pattern of each observation, `(m,)`.
        roots: A square root of the covariance matrix of the white coordinates for each component
            and pattern, `(K, P, D, D)` or `(1, P, D, D)`.
        entropies: The entropies of the missing entries, `(K, P)` or `(1, P)`.
    """

    which: Tensor
    roots: Tensor
    entropies: Tensor

    def columns(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Return columns whose products are the sum of the covariance matrices.

        Arguments:
            shares: How often each observation counts for each component, `(K, m)`.
        """
        shared = self._of_patterns(shares)[..., None, None] * self.roots
        return _side_by_side(shared), _side_by_side(self.roots)

    def entropy(self, shares: Tensor) -> Tensor:
        """Return the sum of the entropies."""
        return (self._of_patterns(shares) * self.entropies).sum()

    def _of_patterns(self, shares: Tensor) -> Tensor:
        """Return the sum of the shares for each pattern, `(K, P)`."""
        sums = shares.new_zeros(len(shares), self.entropies.shape[1])
        return sums.index_add(1, self.which, shares)


def _side_by_side(matrices: Tensor) -> Tensor:
    """Return matrices `(K, P, D, D)` as one row of matrices for each k, `(K, D, P D)`."""
    return matrices.transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class _View:
    """Some observations as each component sees them.

    Attributes:
        rows: Which observations they are, an index.
        white: Their white coordinates, `(K, D, m)`, or the expected ones.
        log_prob: The log densities of the entries that are there, `(K, m)`.
        hidden: What is missing, or None where nothing is.
    """

    rows: Tensor | slice
    white: Tensor
    log_prob: Tensor
    hidden: _Hidden | None = None


class _Components:
    """The parameters in one dtype, and observations as each component sees them."""

    def __init__(self, mixture: GaussianMixture, dtype: torch.dtype) -> None:
        self.log_weights = mixture.weights.to(dtype).log()
        self.means = mixture.means.to(dtype)
        self.covariances = mixture._covariances.to(dtype)
        constant = 0.5 * mixture.data_dim * math.log(2 * math.pi)
        self.log_normaliser = self.covariances.half_log_det + constant
        # Subtracted from observations and means before all else: so data far from the origin keep
        # their digits. It makes no other difference.
        self._centre = self.means.detach().mean(0)
        self._white_means = self.covariances.whiten((self.means - self._centre).unsqueeze(-1))
        # To whiten x once and then to subtract is several times as fast as to whiten each
        # difference, but loses as many digits as the white means have before the point.
        widest = float(self._white_means.detach().abs().max())
        self._near = widest < torch.finfo(dtype).eps ** -0.5 / 32

    def whiten(self, x: Tensor) -> Tensor:
        r"""Return :math:`\mathbf{L}_k^{-1} (\mathbf{x} - \boldsymbol{\mu}_k)`, `(K, D, m)`."""
        if self._near:
            return self.covariances.whiten((x - self._centre).mT) - self._white_means
        return self.covariances.whiten(x.mT - self.means.unsqueeze(-1))

    def log_prob(self, x: Tensor, missing: bool) -> Tensor:
        """Return the log densities `(K, m)` of observations `(m, D)`."""
        views = list(self.views(x, missing))
        if len(views) == 1:
            return views[0].log_prob
        order = torch.cat([torch.arange(len(x), device=x.device)[view.rows] for view in views])
        return torch.cat([view.log_prob for view in views], dim=1)[:, order.argsort()]

    def views(self, x: Tensor, missing: bool) -> Iterator[_View]:
        """Yield all observations `(m, D)`, first the complete ones, then pieces of the others."""
        there = ~x.isnan()
        if not missing or bool(there.all()):
            yield self._complete(x, slice(None))
            return
        complete = there.all(1)
        if bool(complete.any()):
            rows = complete.nonzero().squeeze(1)
            yield self._complete(x[rows], rows)
        # A matrix for each component and observation.
        size = max(1, MATRICES // (self.means.numel() * x.shape[1]))
        for rows in (~complete).nonzero().squeeze(1).split(size):
            yield self._incomplete(x[rows], rows, there[rows])

    def _complete(self, x: Tensor, rows: Tensor | slice) -> _View:
        y = self.whiten(x)
        log_prob = -0.5 * y.square().sum(1) - self.log_normaliser.unsqueeze(-1)
        return _View(rows, y, log_prob)

    def _incomplete(self, x: Tensor, rows: Tensor, there: Tensor) -> _View:
        r"""Look at observations that have only some of their entries.

        Let :math:`\mathbf{P}` be the permutation that puts the entries that are there first, and
        :math:`\mathbf{L}^\top \mathbf{P}^\top = \mathbf{Q} \mathbf{R}`, a QR factorisation. Then
        :math:`\mathbf{P} (\mathbf{x} - \boldsymbol{\mu}) = \mathbf{R}^\top \mathbf{v}` with
        :math:`\mathbf{v} = \mathbf{Q}^\top \mathbf{y}`, which is standard normal as y is. The
        matrix :math:`\mathbf{R}^\top` is triangular, so the entries that are there fix the first
        elements of v and leave the others as they were: with :math:`\mathbf{Q}_o` and
        :math:`\mathbf{Q}_m` for the columns of both kinds, y has the mean :math:`\mathbf{Q}_o
        \mathbf{v}_o` and the covariance matrix :math:`\mathbf{Q}_m \mathbf{Q}_m^\top`. No product
        :math:`\mathbf{L} \mathbf{L}^\top` is factored, in which small variances would be rounded
        away.
        """
        patterns, which = there.unique(dim=0, return_inverse=True)
        order = patterns.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
        known = patterns.gather(1, order)
        q, r = torch.linalg.qr(self.covariances.triangles[:, order].mT)
        scales = r.diagonal(dim1=-2, dim2=-1).abs().log() + 0.5 * math.log(2 * math.pi)
        entropies = torch.where(known, 0.0, scales + 0.5).sum(-1)
        differences = (x - self.means.unsqueeze(1)).gather(
            2, order[which].expand(len(self.means), -1, -1)
        )
        known_here = known[which].unsqueeze(-1)
        column = torch.where(known_here, differences.unsqueeze(-1), 0.0)
        v = torch.linalg.solve_triangular(r.mT[:, which], column, upper=False)
        v = torch.where(known_here, v, 0.0)
        log_normaliser = torch.where(known, scales, 0.0).sum(-1)[:, which]
        log_prob = -0.5 * v.square().sum((2, 3)) - log_normaliser
        white = (q[:, which] @ v).squeeze(-1).mT
        roots = torch.where(known.unsqueeze(1), 0.0, q)
        return _View(rows, white, log_prob, _Hidden(which, roots, entropies))


def _mixture(
    weights: Tensor,
    means: Tensor,
    covariances: Tensor,
    structure: str,
    dtype: torch.dtype = torch.float64,
    floor: Tensor | None = None,
) -> GaussianMixture:
    """Return the mixture with parameters found in float64, after they were raised to a floor."""
    if floor is not None:
        kind = structure_called(structure)
        covariances = kind.factorable(kind.lift(covariances, floor.to(torch.float64)), dtype)
    # A component that nothing belongs to keeps the smallest weight that has a logarithm.
    weights = weights.to(dtype).clamp(min=torch.finfo(dtype).tiny)
    try:
        return GaussianMixture(weights, means.to(dtype), covariances.to(dtype), structure=structure)
    except ValueError as error:
        raise ValueError(
            f"floor must be high enough, but the variance of a component fell too far: {error}"
        ) from error


def _not_collapsed(mixture: GaussianMixture, overall: Moments) -> GaussianMixture:
    """Refuse a variance that is rounding beside that of the data: its likelihood means nothing."""
    least = torch.finfo(torch.float64).eps * overall.covariance
    lifted = mixture._covariances.lift(mixture.covariances, least)
    if not torch.equal(lifted, mixture.covariances):
        raise ValueError(
            "floor must be high enough: the variance of a component fell below "
            f"{torch.finfo(torch.float64).eps:.1e} of the data's variance"
        )
    return mixture


def _warn_of_the_floor(mixture: GaussianMixture, floor: Tensor) -> None:
    """Say which components have no variance but that of the floor where the data have some."""
    kind = structure_called(mixture.structure)
    here = kind.at_floor(mixture.covariances, floor, mixture.num_components)
    of_data = kind.at_floor(kind.alike(_covariance(mixture), 1), floor, 1)
    low = (here > of_data).nonzero().flatten()
    if len(low):
        which = ", ".join(map(str, low.tolist()))
        warnings.warn(
            f"variances of these components are at the floor: {which}. So each one lies on a "
            "single point, or on a line or plane, or at least on a cluster that is thinner than "
            "the floor. The likelihood depends on the floor then, and is no reason to prefer this "
            "fit: take fewer components, or another start or floor",
            stacklevel=4,
        )


def _covariance(mixture: GaussianMixture) -> Tensor:
    """Return the covariance matrix of the whole mixture, `(D, D)`."""
    w, triangles = mixture.weights[:, None, None], mixture._triangles
    off = (mixture.means - mixture.weights @ mixture.means).unsqueeze(-1)
    return (w * (triangles @ triangles.mT + off @ off.mT)).sum(0)


def _random_start(
    scaled: Tensor,
    counts: Tensor | None,
    overall: Moments,
    num_components: int,
    structure: str,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights and means of clusters around distant observations, and covariances.

    All components start with the covariance within the clusters. With its own one, a cluster of
    few observations would start collapsed.

    Arguments:
        scaled: Observations less the mean of the data, in units of the standard deviations. A
            missing entry is zero there, the mean of its column.
        counts: How often each one counts, or None for once.
        overall: The moments of the data.
        num_components: The number of components.
        structure: That of the mixture.
        generator: The source of randomness, or None for torch's own.
    """
    units = overall.covariance.sqrt()
    centres = k_means_plus_plus(scaled, num_components, weights=counts, generator=generator)
    exact = "donot_use_mm_for_euclid_dist"  # so each centre is nearest to itself
    nearest = torch.cdist(scaled, centres, compute_mode=exact).argmin(1)
    w = torch.ones_like(scaled[:, 0]) if counts is None else counts
    sizes = torch.zeros_like(centres[:, 0]).index_add(0, nearest, w)
    totals = torch.zeros_like(centres).index_add(0, nearest, w.unsqueeze(1) * scaled)
    means = totals / sizes.unsqueeze(-1)
    within = (scaled - means[nearest]) * units
    covariance = (w.unsqueeze(1) * within).mT @ within / w.sum()
    covariances = structure_called(structure).alike(covariance, num_components)
    return sizes / w.sum(), overall.mean + units * means, covariances


def _spread(batches: Batches) -> Moments:
    """Return mean and variance of each column, and for a constant one a variance in its place."""
    overall = moments(batches, diagonal=True)
    deviations = overall.covariance.sqrt()
    wrong = (~deviations.isfinite()).nonzero()
    if len(wrong):
        j = int(wrong[0])
        raise ValueError(
            "x must have a finite variance in every column, got the standard deviation "
            f"{float(deviations[j]):.3g} about the mean {float(overall.mean[j]):.3g} in column {j}"
        )
    rounding = ROUNDING * overall.mean.abs()
    constant = deviations <= rounding
    if bool(constant.all()):
        got = "a single row" if overall.rows == 1 else f"{overall.rows} rows that are all"
        raise ValueError(
            "x must vary in at least one column, by more than rounding and with a variance that "
            f"does not vanish, got {got} near {_short(overall.mean)}"
        )
    instead = overall.covariance[~constant].mean()
    # Far above the rounding of this column, also after the floor's factor.
    instead = torch.maximum(instead, (1e4 * rounding).square())
    return replace(overall, covariance=torch.where(constant, instead, overall.covariance))


def _short(point: Tensor) -> str:
    """Return the first coordinates of a point, for an error."""
    numbers = [f"{float(number):.3g}" for number in point[:3]]
    return f"({', '.join(numbers)}{', ...' if len(point) > 3 else ''})"


def _check_near(x: Tensor, values: Tensor) -> None:
    """Refuse observations so far away that what was computed from them is not finite."""
    if not bool(values.isfinite().all()):
        raise ValueError(
            f"x must be small enough for its log density to be finite in {x.dtype}, "
            f"got elements up to {float(x.abs().nan_to_num(nan=0.0).max()):g}"
        )


def _check_start(
    start: GaussianMixture, num_components: int, dim: int, structure: str, dtype: torch.dtype
) -> None:
    check_type("start", start, GaussianMixture, "a GaussianMixture")
    got = (start.structure, start.num_components, start.data_dim)
    if got != (structure, num_components, dim):
        raise ValueError(
            f"start must have structure {structure}, K = {num_components} and D = {dim}, "
            "got {}, {} and {}".format(*got)
        )
    check_start_dtype(start.means, dtype)
