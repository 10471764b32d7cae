"""K-means: the EM algorithm with a q that may not doubt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor
from torch.distributions import Distribution

from nfbook._checks import (
    check_count,
    check_generator,
    check_positive,
    check_real,
    check_same_dtype,
    check_tensor,
    check_type,
    scalar,
)
from nfbook.data.batches import Batches, check_range, check_weights, moments
from nfbook.fitting import Fit, best, check_start_dtype, check_stopping
from nfbook.latent.em import check_own, run_em
from nfbook.latent.mixture import GaussianMixture, MixtureStatistics
from nfbook.latent.seeding import candidates, k_means_plus_plus

__all__ = ["ClusterStatistics", "KMeans"]

# Numbers in one piece of the observations and their costs: few enough for the processor's cache.
PIECE = 2**19
# Observations in one piece, at most.
ROWS = 2**13
# Up to so many clusters a product with a matrix of zeros and ones is the fastest way to add up.
FEW = 32
# Observations among which the start of a fit is sought, at least.
SAMPLE = 20_000


@dataclass(frozen=True, eq=False)
class ClusterStatistics(MixtureStatistics):
    r"""Sums over the observations of each cluster, and what an empty cluster can use.

    Attributes:
        farthest: The observation farthest from the mean that it was assigned to, `(D,)`. It is
            looked for while a cluster is empty, and is None if none was.
        reach: Half its squared distance from that mean, in squared units of the data.

    Example:
        >>> model = KMeans(torch.tensor([[0.0], [9.0]]), torch.tensor(1.0))
        >>> model.e_step(torch.tensor([[-1.0], [0.5], [2.0]])).farthest
        tensor([2.], dtype=torch.float64)
    """

    farthest: Tensor | None = None
    reach: float = -1.0

    def __add__(self, other: MixtureStatistics) -> MixtureStatistics:
        total = super().__add__(other)
        if not isinstance(other, ClusterStatistics):
            return total
        far = max(self, other, key=lambda statistics: statistics.reach)
        return ClusterStatistics(**vars(total), farthest=far.farthest, reach=far.reach)


class KMeans(GaussianMixture):
    r"""K-means as a mixture of Gaussians, fitted by hard EM.

    All K weights are equal, and so are all variances, in all directions:

    .. math::
        p(z = k) = \frac1K, \qquad
        p(\mathbf{x} \mid z = k) = \mathcal{N}(\mathbf{x} \mid \boldsymbol{\mu}_k,
        \sigma^2 \mathbf{I}).

    In hard EM the distribution q of each index is a point mass: all of it lies at one
    :math:`z_i`. A point mass has no entropy, so the bound is

    .. math::
        \mathcal{L}(q, \theta)
        &= \sum_i \bigl[ \log \tfrac1K + \log \mathcal{N}(\mathbf{x}_i \mid
        \boldsymbol{\mu}_{z_i}, \sigma^2 \mathbf{I}) \bigr] \\
        &= - n \log K - \frac{n D}{2} \log (2 \pi \sigma^2) - \frac{1}{2 \sigma^2} \sum_i \lVert
        \mathbf{x}_i - \boldsymbol{\mu}_{z_i} \rVert^2.

    The last sum is the distortion. The assignments :math:`z_i` and the means occur nowhere else,
    so whatever the variance is, the E-step assigns each observation to its nearest mean, and the
    M-step makes each mean the average of its observations. Both lower the distortion as far as
    they can: this is k-means. The variance follows, :math:`\sigma^2 = \text{distortion} / (n D)`.

    As a mixture it has ``log_prob``, ``posterior``, ``elbo`` and ``sample``, all of them exact.
    The bound lies below the log-likelihood, and does not touch it as that of soft EM does. When
    the variance goes to zero, the responsibilities become the point masses.

    Source: S. P. Lloyd, Least squares quantization in PCM, IEEE Transactions on Information
    Theory 28 (1982), 129-137. Hard EM: G. Celeux and G. Govaert, A classification EM algorithm for
    clustering and two stochastic versions, Computational Statistics & Data Analysis 14 (1992),
    315-332.

    Arguments:
        means: The means of the clusters, `(K, D)`, in the units of the data.
        variance: The variance :math:`\sigma^2`, positive, in squared units of the data.

    Raises:
        TypeError: A parameter is not a floating-point tensor, has half precision, or the dtypes
            differ.
        ValueError: A shape does not fit, an element is NaN or infinite, or the variance is not
            positive.

    Example:
        >>> model = KMeans(torch.tensor([[0.0, 0.0], [4.0, 0.0]]), 1.0)
        >>> x = torch.tensor([[1.5, 3.0], [2.5, -1.0]])
        >>> model.assign(x)
        tensor([0, 1])
        >>> model.posterior(x).probs
        tensor([[0.8808, 0.1192],
                [0.1192, 0.8808]])
    """

    def __init__(self, means: Tensor, variance: Tensor | float) -> None:
        count = check_tensor("means", means, ("K", "D"))["K"]
        variance = scalar("variance", variance, means)
        check_same_dtype(means=means, variance=variance)
        check_positive("variance", variance)
        weights = torch.full((count,), 1 / count, dtype=means.dtype, device=means.device)
        super().__init__(weights, means, variance.expand(count), structure="spherical")
        self.variance = variance

    def __repr__(self) -> str:
        return f"{type(self).__name__}(K={self.num_components}, D={self.data_dim})"

    @property
    def num_parameters(self) -> int:
        """The number of free parameters: K D means and one variance."""
        return self.means.numel() + 1

    def assign(self, x: Tensor) -> Tensor:
        r"""Return the index of the nearest mean, the lowest one where several are equally near.

        .. math:: z_i = \operatorname*{argmin}_k \lVert \mathbf{x}_i - \boldsymbol{\mu}_k \rVert^2

        The squares are expanded, so that one matrix product does the work. That rounds otherwise
        than a sum of squared differences does: where two squared distances differ by less than
        about :math:`10^{-15}` of the squared distance from the middle of the means, rounding
        decides.

        Arguments:
            x: Observations, `(*, D)`.

        Returns:
            Indices of dtype torch.int64, `(*)`.

        Raises:
            TypeError: x has another dtype than the means.
            ValueError: A shape does not fit, an element is NaN or infinite, or squared distances
                overflow, so that it cannot be told which mean is nearest.

        Example:
            >>> KMeans(torch.tensor([[0.0], [2.0]]), 1.0).assign(torch.tensor([[1.0], [1.5]]))
            tensor([0, 1])
        """
        self.check_observations(x)
        rows = x.detach().reshape(-1, self.data_dim)
        clusters = _Clusters(self.means, len(rows))
        costs, nearest = zip(*map(clusters.nearest, clusters.pieces(rows)), strict=True)
        for cost in costs:
            _check_near(x, cost)
        return torch.cat(nearest).reshape(x.shape[:-1])

    def distortion(self, x: Tensor) -> Tensor:
        r"""Return the sum of the squared distances from the nearest means.

        .. math:: \sum_i \min_k \lVert \mathbf{x}_i - \boldsymbol{\mu}_k \rVert^2

        Arguments:
            x: Observations, `(*, D)`.

        Returns:
            A float64 tensor without dimensions, in squared units of the data.

        Raises:
            TypeError: x has another dtype than the means.
            ValueError: A shape does not fit, an element is NaN or infinite, or an x is so far away
                that its squared distance is not finite.

        Example:
            >>> KMeans(torch.tensor([[0.0], [2.0]]), 1.0).distortion(torch.tensor([[1.0], [4.0]]))
            tensor(5., dtype=torch.float64)
        """
        nearest = torch.split(self.assign(x).flatten(), ROWS)
        rows = torch.split(x.detach().reshape(-1, self.data_dim), ROWS)
        means = self.means.detach().to(torch.float64)
        squares = [(y - means[z]).square().sum() for y, z in zip(rows, nearest, strict=True)]
        distortion = torch.stack(squares).sum()
        _check_near(x, distortion)
        return distortion

    @torch.no_grad()
    def e_step(  # type: ignore[override]  # a distance needs all entries
        self, x: Tensor, q: Distribution | None = None, *, weights: Tensor | None = None
    ) -> MixtureStatistics:
        r"""Assign each observation to its nearest mean, and return the sums over the clusters.

        Arguments:
            x: Observations, `(n, D)`. The memory used does not grow with n.
            q: A distribution over the K indices for each observation, to be used in place of the
                best point masses. With ``posterior(x)`` this is the E-step of soft EM.
            weights: How often each observation counts, `(n,)`.

        Returns:
            The statistics, whose entropy is zero unless q is given.

        Raises:
            TypeError: x or the weights have another dtype than the means, or q is not a
                Categorical.
            ValueError: A shape does not fit, an element is NaN or infinite, an x is so far away
                that its squared distance is not finite, or a weight is negative.

        Example:
            >>> model = KMeans(torch.tensor([[0.0], [4.0]]), 1.0)
            >>> statistics = model.e_step(torch.tensor([[-1.0], [1.0], [3.0]]))
            >>> statistics.sizes
            tensor([2., 1.], dtype=torch.float64)
            >>> statistics.shifts  # from the mean, in standard deviations
            tensor([[ 0.],
                    [-1.]], dtype=torch.float64)
        """
        if q is not None:
            return super().e_step(x, q, weights=weights)
        self._check_x(x, False, "n")
        count: float = len(x)
        if weights is not None:
            # An observation of weight zero is not there: no empty cluster may go to it either.
            heavy = check_weights(weights, x) > 0
            count = float(weights.sum(dtype=torch.float64))
            x, weights = x[heavy], weights[heavy].to(torch.float64)
        clusters = _Clusters(self.means, len(x))
        farthest, reach = None, -1.0
        for y, w in zip(clusters.pieces(x), clusters.weights(weights), strict=False):
            halves = clusters.add(y, w)
            if bool((clusters.sizes == 0).any()) and float(halves.max()) > reach:
                reach = float(halves.max())
                farthest = y[halves.argmax()] + clusters.centre
        shifts = clusters.totals - clusters.sizes.unsqueeze(-1) * clusters.means
        # The squares about the centre, less those of the means about it.
        squares = 2 * clusters.halves - (clusters.means * (clusters.totals + shifts)).sum(1)
        _check_near(x, squares)
        variance = self.variance.to(torch.float64)
        return ClusterStatistics(
            self,
            count,
            torch.zeros_like(variance),
            clusters.sizes,
            shifts / variance.sqrt(),
            squares.clamp(min=0) / variance,
            farthest,
            reach,
        )

    @torch.no_grad()
    def m_step(self, statistics: MixtureStatistics, floor: Tensor | None = None) -> KMeans:
        r"""Return the averages of the clusters, and the variance about them.

        .. math:: \boldsymbol{\mu}_k = \frac{1}{N_k} \sum_{i: z_i = k} \mathbf{x}_i, \qquad
            \sigma^2 = \frac{1}{n D} \sum_i \lVert \mathbf{x}_i - \boldsymbol{\mu}_{z_i} \rVert^2

        The bound does not depend on the mean of an empty cluster, so any mean is as good as any
        other here, but not in the next E-step. So the first empty cluster goes to the observation
        farthest from its own mean, whose distance then vanishes. As long as there is such an
        observation, no cluster stays empty for good.

        Arguments:
            statistics: What ``e_step`` of this very model returned.
            floor: Variances, `(D,)`, positive. The variance is no less than their mean.

        Raises:
            TypeError: An argument has the wrong type or dtype.
            ValueError: The statistics come from another model, the floor has the wrong shape or is
                not positive, or, without a floor, every observation lies at its mean.

        Example:
            >>> model = KMeans(torch.tensor([[0.0], [4.0]]), 1.0)
            >>> better = model.m_step(model.e_step(torch.tensor([[-1.0], [2.0], [3.0]])))
            >>> better.means, better.variance
            (tensor([[0.5000],
                    [3.0000]]), tensor(1.5000))
        """
        check_type("statistics", statistics, MixtureStatistics, "a MixtureStatistics")
        check_own(self, statistics.maker)
        old_variance = self.variance.to(torch.float64)
        empty = statistics.sizes <= torch.finfo(torch.float64).eps * statistics.count
        moves = statistics.shifts / statistics.sizes.unsqueeze(-1)
        moves = moves.masked_fill(empty.unsqueeze(-1), 0.0)
        means = self.means.to(torch.float64) + old_variance.sqrt() * moves
        if isinstance(statistics, ClusterStatistics) and statistics.farthest is not None:
            means[empty.nonzero()[:1, 0]] = statistics.farthest
        within = statistics.scatter_about(moves).sum() / (statistics.count * self.data_dim)
        variance = old_variance * within
        self._check_floor(floor)
        if floor is not None:
            variance = torch.maximum(variance, floor.to(torch.float64).mean())
        elif not bool(variance.to(self.means.dtype) > 0):
            raise ValueError(
                "floor must be given where every observation lies at its mean, got None"
            )
        return KMeans(means.to(self.means.dtype), variance.to(self.means.dtype))

    @classmethod
    @torch.no_grad()
    def fit(  # type: ignore[override]  # a start is K means here, and there is no structure
        cls,
        x: Tensor | Iterable[Tensor],
        num_clusters: int,
        *,
        start: KMeans | None = None,
        restarts: int = 5,
        floor: float = 1e-6,
        max_iterations: int = 1000,
        weights: Tensor | Iterable[Tensor] | None = None,
        generator: torch.Generator | None = None,
        progress: bool = True,
    ) -> Fit[KMeans]:
        r"""Return clusters of low distortion, found by hard EM, and the history of the fit.

        There are finitely many assignments, and the bound rises from each one to the next. So
        after finitely many iterations no assignment changes any more, the bound stops rising, and
        the fit ends. What it has found is a local optimum, which depends on the start. So it starts
        several times from observations that are far apart (k-means++), and the best end is kept.

        The result follows when the data are shifted, rotated or measured in another unit. It does
        not follow when one column alone is: bring the columns to comparable units first.

        Arguments:
            x: Observations, `(n, D)`, or an iterable of batches of them that can be run through
                again and again.
            num_clusters: The number of clusters K.
            start: The clusters to start from. Their variance is raised to the floor. There are no
                restarts then, and no randomness.
            restarts: How many random starts there are. Their means are drawn from at most 20,000
                observations, or 20 for each cluster.
            floor: The smallest variance, as a fraction of the mean variance of the columns. It
                matters only where nearly all observations lie at their means.
            max_iterations: The largest number of iterations from each start.
            weights: How often each observation counts, `(n,)`: a weight of 2 is the observation
                twice, 0 its absence. Where x is an iterable of batches, an iterable of the weights
                of each batch.
            generator: The source of randomness, or None for torch's own.
            progress: Whether a run of more than two seconds shows how far it is.

        Returns:
            The model, in the dtype of x, and the history of the best run. All is computed in
            float64.

        Raises:
            TypeError: An argument has the wrong type, or the start another dtype than x.
            ValueError: A number is out of range, the start has another K or D, a weight is
                negative, or x has fewer than K distinct observations, only one, or a variance
                beyond the range of its dtype.

        Example:
            >>> x = torch.tensor([[0.0], [1.0], [10.0], [11.0], [12.0]])
            >>> model, history = KMeans.fit(x, 2, start=KMeans(x[:2], 1.0))
            >>> model.means
            tensor([[ 0.5000],
                    [11.0000]])
            >>> history.converged, model.distortion(x)
            (True, tensor(2.5000, dtype=torch.float64))
        """
        check_count("num_clusters", num_clusters)
        check_count("restarts", restarts)
        check_stopping(0, max_iterations)
        if check_real("floor", floor) <= 0:
            raise ValueError(f"floor must be positive, got {floor}")
        batches = Batches(x, weights=weights)
        dtype, batches = batches.dtype, batches.in_float64()
        overall = moments(batches, diagonal=True)
        if overall.rows < num_clusters:
            raise ValueError(
                f"x must hold at least {num_clusters} distinct observations, "
                f"got {overall.rows} in all"
            )
        variance = overall.covariance.mean()
        if variance == 0 and _all_equal(batches):
            raise ValueError("x must hold at least 2 distinct observations, got 1")
        check_range(variance, dtype)
        lowest = floor * variance.expand(batches.dim)
        check_generator(generator)
        if start is None:
            size = max(SAMPLE, 20 * num_clusters)
            sample, counts = candidates(batches, num_clusters, size, generator=generator)
            starts = [
                cls(
                    k_means_plus_plus(sample, num_clusters, weights=counts, generator=generator),
                    variance,
                )
                for _ in range(restarts)
            ]
        else:
            _check_start(start, num_clusters, batches.dim, dtype)
            raised = torch.maximum(start.variance.to(torch.float64), lowest.mean())
            starts = [cls(start.means.to(torch.float64), raised)]
        fits = [
            run_em(
                first,
                batches,
                tolerance=0.0,
                max_iterations=max_iterations,
                m_step=lambda model, statistics: model.m_step(statistics, lowest),
                progress=progress,
                what=f"k-means, start {i + 1} of {len(starts)}",
            )
            for i, first in enumerate(starts)
        ]
        model, history = best(fits)
        check_range(model.variance, dtype)
        return Fit(cls(model.means.to(dtype), model.variance.to(dtype)), history)


def _check_near(x: Tensor, values: Tensor) -> None:
    """Refuse observations so far away that what was computed from them is not finite."""
    if not bool(values.isfinite().all()):
        raise ValueError(
            "x must be small enough for its squared distances to be finite, "
            f"got elements up to {float(x.abs().max()):g}"
        )


def _check_start(start: KMeans, num_clusters: int, dim: int, dtype: torch.dtype) -> None:
    check_type("start", start, KMeans, "a KMeans")
    got = (start.num_components, start.data_dim)
    if got != (num_clusters, dim):
        raise ValueError(
            f"start must have K = {num_clusters} and D = {dim}, got {got[0]} and {got[1]}"
        )
    check_start_dtype(start.means, dtype)


def _all_equal(batches: Batches) -> bool:
    """Return whether there is only one observation, however often."""
    first = next(iter(batches))[:1]
    return all(bool((x == first).all()) for x in batches)


class _Clusters:
    r"""The clusters around K means, and the sums over their observations so far, in float64.

    Distances are compared, and observations added up, about a centre c. With
    :math:`\mathbf{y} = \mathbf{x} - \mathbf{c}` and :math:`\mathbf{m}_k = \boldsymbol{\mu}_k -
    \mathbf{c}`,

    .. math:: \tfrac12 \lVert \mathbf{x} - \boldsymbol{\mu}_k \rVert^2 = \tfrac12 \lVert \mathbf{y}
        \rVert^2 + \tfrac12 \lVert \mathbf{m}_k \rVert^2 - \mathbf{m}_k^\top \mathbf{y},

    one matrix product for all k and i. The first term is the same for all k: the rest, which
    decides, is called the cost.
    """

    def __init__(self, means: Tensor, rows: int) -> None:
        means = means.detach().to(torch.float64)
        count, dim = means.shape
        # The median and not the mean, since one mean may be an outlier far away from the others.
        centre = means.median(0).values
        near = bool(centre.norm() <= (means - centre).norm(dim=1).median())
        # Data around the origin lose no digits there, and need no subtraction.
        self.centre = torch.zeros_like(centre) if near else centre
        self.means = means - self.centre
        self.sizes = torch.zeros_like(means[:, 0])
        self.totals = torch.zeros_like(means)
        self.halves = torch.zeros_like(means[:, 0])
        self._offsets = 0.5 * self.means.square().sum(1)
        self._half = torch.full_like(means[0], 0.5)
        # Used again for every piece: fresh memory costs more time than the work done in it.
        self._rows = min(rows, ROWS, max(1, PIECE // (count + dim)))
        self._costs = means.new_empty(self._rows * count)
        self._squares = means.new_empty(self._rows, dim)
        self._centred = None if near else means.new_empty(self._rows, dim)

    def pieces(self, x: Tensor) -> Iterator[Tensor]:
        """Yield pieces of the rows of x less the centre, possibly each in the same memory."""
        for rows in torch.split(x, self._rows):
            if self._centred is None:
                yield rows.to(torch.float64)
            else:
                yield torch.sub(rows, self.centre, out=self._centred[: len(rows)])

    def weights(self, weights: Tensor | None) -> Iterable[Tensor | None]:
        """Return the weights of each piece, or as many None as are asked for."""
        return repeat(None) if weights is None else torch.split(weights, self._rows)

    def nearest(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the lowest cost of each y, and its index."""
        shape = (len(y), len(self.means))
        costs = self._costs[: shape[0] * shape[1]].view(shape)
        torch.addmm(self._offsets, y, self.means.mT, alpha=-1, out=costs)
        cost, index = costs.min(1)
        return cost, index

    def add(self, y: Tensor, weights: Tensor | None = None) -> Tensor:
        """Add each y to the sums of its cluster, and return half its squared distance."""
        halves = torch.square(y, out=self._squares[: len(y)]) @ self._half
        if len(self.means) <= FEW:
            costs = self._costs[: len(self.means) * len(y)].view(-1, len(y))
            torch.addmm(self._offsets[:, None], self.means, y.mT, alpha=-1, out=costs)
            cost = costs.amin(0)
            # One for the nearest mean, zero for all others: the point mass of each observation.
            q = costs.eq_(cost)
            sizes = q.sum(1)
            if bool(sizes.sum() == len(y)):
                if weights is not None:
                    sizes = q.mul_(weights).sum(1)
                self.sizes += sizes
                self.totals.addmm_(q, y)
                self.halves.addmv_(q, halves)
                return halves + cost
        # Many clusters, or several nearest means.
        cost, index = self.nearest(y)
        w = torch.ones_like(halves) if weights is None else weights
        self.sizes.index_add_(0, index, w)
        self.totals.index_add_(0, index, y if weights is None else y * w.unsqueeze(1))
        self.halves.index_add_(0, index, halves * w)
        return halves + cost
