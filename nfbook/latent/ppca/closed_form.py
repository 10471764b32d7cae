"""The closed form of probabilistic PCA, and where EM starts when there is none."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nfbook._checks import check_count, check_type
from nfbook.data.batches import Batches, moments
from nfbook.fitting import Fit, History, check_start_dtype
from nfbook.latent.ppca.statistics import PPCAStatistics

if TYPE_CHECKING:
    from nfbook.latent.ppca.model import PPCA

__all__ = [
    "Climber",
    "check_every_column",
    "check_latent_dim",
    "check_noise_left",
    "check_start",
    "check_varies",
    "closed_form",
    "exact_mean",
    "in_dtype",
    "no_noise_left",
    "observed_moments",
    "random_start",
]


# A noise variance, as a share of the data's variance, that leaves digits to factor matrices.
NEXT_TO_NO_NOISE = 1e-8


def check_noise_left(
    noise_variance: Tensor, loading: Tensor, dtype: torch.dtype, *, advice: str = ""
) -> None:
    r"""Refuse data that the latent dimensions explain to the last digit.

    Their likelihood has no maximum: it grows without limit as the noise variance goes to zero.

    Arguments:
        noise_variance: The variance :math:`\sigma^2`.
        loading: The matrix W, `(D, d)`.
        dtype: The dtype whose rounding says what vanishes beside the total variance.
        advice: What else may help.

    Raises:
        ValueError: The noise is no more than rounding.

    Example:
        >>> check_noise_left(torch.tensor(0.0), torch.ones(2, 1), torch.float32)
        Traceback (most recent call last):
        ...
        ValueError: x must have variance beyond its first 1 principal components, got none; choose
        a smaller latent_dim
    """
    total = loading.square().sum() + len(loading) * noise_variance
    if not bool(noise_variance > torch.finfo(dtype).eps * total):
        raise no_noise_left(loading.shape[1], advice)


def no_noise_left(latent_dim: int, advice: str = "") -> ValueError:
    """Return the error of `check_noise_left`.

    Example:
        >>> print(no_noise_left(2))
        x must have variance beyond its first 2 principal components, got none; choose a smaller
        latent_dim
    """
    return ValueError(
        f"x must have variance beyond its first {latent_dim} principal components, got none; "
        f"choose a smaller latent_dim{advice}"
    )


def in_dtype(
    kind: type[PPCA], parameters: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype
) -> PPCA:
    """Return the model with parameters found in float64, in the dtype of the data.

    Arguments:
        kind: The class of the model.
        parameters: Loading, mean and noise variance.
        dtype: The dtype.

    Raises:
        ValueError: There is no noise left, or the noise variance has no place in the dtype.

    Example:
        >>> from nfbook.latent import PPCA
        >>> tiny = torch.tensor(1e-60, dtype=torch.float64)
        >>> in_dtype(PPCA, (tiny.expand(2, 1), tiny.expand(2), tiny), torch.float32)
        Traceback (most recent call last):
        ...
        ValueError: x must have a variance within the range of torch.float32, got the noise variance
        1e-60
    """
    loading, mean, noise_variance = parameters
    check_noise_left(noise_variance, loading, dtype)
    smallest, largest = torch.finfo(dtype).tiny, torch.finfo(dtype).max
    if not smallest <= float(noise_variance) <= largest:
        raise ValueError(
            f"x must have a variance within the range of {dtype}, "
            f"got the noise variance {float(noise_variance):.3g}"
        )
    return kind(loading.to(dtype), mean.to(dtype), noise_variance.to(dtype))


def closed_form(kind: type[PPCA], x: Tensor | Iterable[Tensor], latent_dim: int) -> Fit[PPCA]:
    r"""Return the maximum likelihood model and the greatest log-likelihood.

    For a tensor the eigenvalues come from a singular value decomposition, without the covariance
    matrix, in which small ones lose half of their digits. A stream is run through once, and the
    matrix is all that is kept.

    Arguments:
        kind: The class of the model.
        x: Observations, `(n, D)`, or an iterable of such tensors.
        latent_dim: The number of latent dimensions d.

    Returns:
        The model, in the dtype of x, and a history with one entry.

    Raises:
        ValueError: As `PPCA.fit`.

    Example:
        >>> from nfbook.latent import PPCA
        >>> x = torch.tensor([[3.0, 1.0], [-3.0, 1.0], [3.0, -1.0], [-3.0, -1.0]])
        >>> closed_form(PPCA, x, 1).history
        History(0 iterations, bound -15.746 to -15.746, converged)
    """
    batches = Batches(x)
    check_latent_dim(latent_dim, batches.dim)
    if isinstance(x, Tensor):
        count, mean, eigenvalues, directions = _by_singular_values(x.to(torch.float64))
    else:
        known = moments(batches)
        count, mean = known.rows, known.mean
        check_varies(mean, known.covariance.diagonal())
        ascending, vectors = torch.linalg.eigh(known.covariance)
        # Never negative but for rounding.
        eigenvalues, directions = ascending.clamp(min=0).flip(0), vectors.mT.flip(0)
    if count < 2:
        raise ValueError(f"x must hold at least 2 observations, got {count}")
    check_varies(mean, eigenvalues @ directions.square())
    kept, dim = directions[:latent_dim], batches.dim
    noise_variance = eigenvalues[latent_dim:].sum() / (dim - latent_dim)
    # Never negative but for rounding: the mean of smaller eigenvalues is subtracted.
    scale = (eigenvalues[:latent_dim] - noise_variance).clamp(min=0).sqrt()
    largest = kept.gather(1, kept.abs().argmax(1, keepdim=True))
    loading = (kept * largest.sign()).mT * scale
    model = in_dtype(kind, (loading, mean, noise_variance), batches.dtype)
    log_det = eigenvalues[:latent_dim].log().sum() + (dim - latent_dim) * noise_variance.log()
    greatest = -count / 2 * (dim * math.log(2 * math.pi) + log_det + dim)
    return Fit(model, History(greatest.reshape(1), torch.empty(0).to(greatest), True))


def _by_singular_values(x: Tensor) -> tuple[int, Tensor, Tensor, Tensor]:
    """Return count, mean, and the covariance's eigenvalues with the eigenvectors in rows."""
    mean = exact_mean(x)
    # The triangular factor has the singular values and right vectors of the whole.
    triangle = torch.linalg.qr(x - mean, mode="r").R
    _, singular, directions = torch.linalg.svd(triangle, full_matrices=False)
    return len(x), mean, singular.square() / len(x), directions


def exact_mean(x: Tensor) -> Tensor:
    """Return the mean of each column, corrected by the mean of what is left.

    Far from the origin the first one is off by a rounding of its own size. That would be variance
    of a column that has none.

    Example:
        >>> exact_mean(torch.full((3, 1), 0.1)) == 0.1
        tensor([True])
    """
    mean = x.nanmean(0).nan_to_num(nan=0.0)
    return mean + (x - mean).nanmean(0).nan_to_num(nan=0.0)


def observed_moments(batches: Batches, latent_dim: int) -> tuple[Tensor, Tensor, Tensor, int]:
    r"""Return what a start needs to know of the entries that are there, in one pass, in float64.

    Batches are combined as in `nfbook.latent.batches.moments`.

    Arguments:
        batches: The data, in which NaN stands for a missing entry.
        latent_dim: The number of latent dimensions d.

    Returns:
        The number of entries in each column, their mean and their variance, `(D,)`, where a column
        without entries has mean and variance zero. Then the number of spare entries, :math:`\sum_i
        \max(o_i - d, 0)` for observations with :math:`o_i` entries: d of them may fix z, and only
        the others tell of the noise.

    Example:
        >>> x = torch.tensor([[1.0, torch.nan], [3.0, 5.0]])
        >>> count, mean, variance, spare = observed_moments(Batches(x, missing=True), 1)
        >>> count.tolist(), mean.tolist(), variance.tolist(), spare
        ([2.0, 1.0], [2.0, 5.0], [1.0, 0.0], 1)
    """
    count, mean, scatter = torch.zeros(3, batches.dim, dtype=torch.float64)
    spare = 0
    for x in batches:
        rows, observed = x.to(torch.float64), ~x.isnan()
        new = observed.sum(0)
        spare += int((observed.sum(1) - latent_dim).clamp(min=0).sum())
        here = exact_mean(rows)
        delta = here - mean
        share = new / (count + new).clamp(min=1)
        scatter = scatter + (rows - here).square().nansum(0) + count * share * delta.square()
        mean = mean + share * delta
        count = count + new
    return count, mean, scatter / count.clamp(min=1), spare


def random_start(
    kind: type[PPCA],
    batches: Batches,
    latent_dim: int,
    generator: torch.Generator,
    *,
    accelerate: bool = False,
) -> PPCA:
    r"""Return a model with the data's mean, their average variance as noise, and a random loading.

    Every element of W is drawn from :math:`\mathcal{N}(0, v)`, where v is the average variance of
    the columns. So the start moves and scales with the data. A start at
    :math:`\mathbf{W} = \mathbf{0}` would stay there: it is a saddle of the likelihood.

    For accelerated EM the start is one step further. From noise v the first step would damp all
    directions in which x varies by less, down to where EM hardly moves. So that step begins with
    next to no noise, which makes it a projection and a regression, and the noise variance comes
    from what is left, divided by the number of spare entries (see `observed_moments`).

    Arguments:
        kind: The class of the model.
        batches: The data, in which NaN stands for a missing entry.
        latent_dim: The number of latent dimensions d.
        generator: The source of randomness.
        accelerate: Whether this is for accelerated EM. The data are then run through twice.

    Returns:
        A model in float64.

    Raises:
        ValueError: x does not vary, has a column without entries, or leaves no noise.

    Example:
        >>> from nfbook.latent import PPCA
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
        >>> start = random_start(PPCA, Batches(x), 1, torch.Generator().manual_seed(0))
        >>> start.mean.tolist(), start.noise_variance.item()
        ([2.0, 4.0], 2.5)
    """
    count, mean, variance, spare = observed_moments(batches, latent_dim)
    check_every_column(count)
    check_varies(mean, variance)
    average = variance.mean()
    size = (batches.dim, latent_dim)
    loading = average.sqrt() * torch.randn(size, dtype=torch.float64, generator=generator)
    if not accelerate:
        return kind(loading, mean, average)
    first = Climber(kind(loading, mean, NEXT_TO_NO_NOISE * average), accelerate=True)
    found = first.m_step(reduce(add, (first.e_step(x) for x in batches))).model
    left = found.noise_variance * (count.sum() / spare) if spare else average
    return kind(found.loading, found.mean, left)


def check_latent_dim(latent_dim: int, dim: int) -> None:
    """Check that there is a dimension left for the noise: with d = D its variance is arbitrary.

    Example:
        >>> check_latent_dim(3, 3)
        Traceback (most recent call last):
        ...
        ValueError: latent_dim must be less than D = 3, got 3
    """
    check_count("latent_dim", latent_dim)
    if latent_dim >= dim:
        raise ValueError(f"latent_dim must be less than D = {dim}, got {latent_dim}")


def check_start(kind: type[PPCA], start: object, latent_dim: int, batches: Batches) -> None:
    """Check that a model to start from fits the data.

    Example:
        >>> from nfbook.latent import PPCA
        >>> check_start(PPCA, None, 1, Batches(torch.zeros(3, 2)))
        Traceback (most recent call last):
        ...
        TypeError: start must be a PPCA, got NoneType
    """
    check_type("start", start, kind, "a PPCA")
    assert isinstance(start, kind)
    wanted, got = (batches.dim, latent_dim), tuple(start.loading.shape)
    if got != wanted:
        raise ValueError(f"start must have D = {wanted[0]} and d = {wanted[1]}, got {got}")
    check_start_dtype(start.mean, batches.dtype)


def check_varies(mean: Tensor, variance: Tensor) -> None:
    """Check that there is something to explain, given mean and variance of each column, `(D,)`.

    Example:
        >>> check_varies(torch.ones(2), torch.zeros(2))
        Traceback (most recent call last):
        ...
        ValueError: x must vary, with a finite variance, got at most 0 in a column
    """
    # Equal numbers may differ from their mean by its rounding.
    rounding = 4 * torch.finfo(mean.dtype).eps * mean.abs()
    if not bool(variance.isfinite().all() and (variance.sqrt() > rounding).any()):
        # Where it overflows it may also be NaN, which is infinity times zero here.
        most = float(variance.nan_to_num(nan=math.inf, posinf=math.inf).max())
        raise ValueError(f"x must vary, with a finite variance, got at most {most:.3g} in a column")


def check_every_column(count: Tensor) -> None:
    """Check that every column has at least one entry, given their numbers, `(D,)`.

    Example:
        >>> check_every_column(torch.tensor([3, 0]))
        Traceback (most recent call last):
        ...
        ValueError: every column of x must have an entry that is not missing, got none in column
        1, counted from 0
    """
    empty = (count == 0).nonzero()
    if len(empty):
        raise ValueError(
            "every column of x must have an entry that is not missing, "
            f"got none in column {int(empty[0])}, counted from 0"
        )


class Climber:
    r"""A model as EM climbs with it: in float64 whatever the data, and with missing entries.

    Parameters that were rounded to float32 in every step would end the climb too early. Whether
    entries may be missing is for `Batches` to say; where none are, the E-step is the same.

    Plain EM finds the space that W spans much sooner than the scale of W: the larger the loading
    beside the noise, the less it changes in a step. **Parameter expansion** lets the prior be any
    :math:`\mathcal{N}(\boldsymbol{\alpha}, \boldsymbol{\Gamma})` in the M-step, where its maximum
    is the mean and covariance of z under q. The prior :math:`\mathcal{N}(\mathbf{0},
    \mathbf{I})` gives the same evidence with

    .. math:: \mathbf{W} \boldsymbol{\Gamma}^{1/2} \quad \text{for } \mathbf{W}, \qquad
        \boldsymbol{\mu} + \mathbf{W} \boldsymbol{\alpha} \quad \text{for } \boldsymbol{\mu},

    and the same bound when q is written for :math:`\boldsymbol{\Gamma}^{-1/2} (\mathbf{z} -
    \boldsymbol{\alpha})` in place of z. So the bound rises at least as far as in the plain M-step.

    Source: C. Liu, D. B. Rubin and Y. N. Wu, Parameter expansion to accelerate EM: the PX-EM
    algorithm, Biometrika 85 (1998), 755-770.

    Arguments:
        model: The model, in float64.
        accelerate: Whether the M-step expands the parameters.

    Example:
        >>> from nfbook.latent import PPCA
        >>> one = torch.ones((), dtype=torch.float64)
        >>> climber = Climber(PPCA(one.expand(2, 1), one.expand(2), one), accelerate=True)
        >>> climber.e_step(torch.zeros(3, 2)).count
        3
    """

    def __init__(self, model: PPCA, accelerate: bool, reached: Tensor | None = None) -> None:
        self.model = model
        self._accelerate = accelerate
        self._reached = reached

    def e_step(self, x: Tensor) -> PPCAStatistics:
        """Return the expected sufficient statistics."""
        return self.model.e_step(x.to(torch.float64), missing=True)

    def m_step(self, statistics: PPCAStatistics) -> Climber:
        """Return the model with the highest bound."""
        plain = self.model.m_step(statistics)
        reached = plain.bound(statistics)
        if not self._accelerate:
            return Climber(plain, False, reached)
        n, d = statistics.count, plain.latent_dim
        average = statistics.latent / n
        alpha, second = average[0, 1:], average[1:, 1:]
        root = torch.linalg.cholesky(second - alpha.outer(alpha))
        # E log N(z | alpha, Gamma) in place of E log N(z | 0, I), summed over the observations.
        log_det = 2 * root.diagonal().log().sum()
        reached = reached + n / 2 * (second.trace() - d - log_det)
        expanded = type(plain)(
            plain.loading @ root, plain.mean + plain.loading @ alpha, plain.noise_variance
        )
        return Climber(expanded, True, reached)

    def bound(self, statistics: PPCAStatistics) -> Tensor:
        """Return the bound after the E-step or, for the statistics of the model before, M-step."""
        if statistics.maker is self.model or self._reached is None:
            return self.model.bound(statistics)
        return self._reached
