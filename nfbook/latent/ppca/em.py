"""EM for probabilistic PCA, accelerated by parameter expansion."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from nfbook._checks import check_generator, check_type
from nfbook.data.batches import Batches, moments
from nfbook.fitting import Fit, check_start_dtype, check_stopping
from nfbook.latent.em import run_em
from nfbook.latent.ppca._algebra import check_latent_dim, check_varies
from nfbook.latent.ppca.model import PPCA, PPCAStatistics
from nfbook.sampling import gaussian_noise

__all__ = [
    "ExpandedPPCA",
    "check_start",
    "em",
    "random_start",
]

# A noise variance, as a share of the data's variance, that leaves digits to factor matrices.
NEXT_TO_NO_NOISE = 1e-8


def em(
    x: Tensor | Iterable[Tensor],
    latent_dim: int,
    *,
    start: PPCA | None = None,
    weights: Tensor | Iterable[Tensor] | None = None,
    missing: bool = False,
    tolerance: float = 1e-6,
    max_iterations: int = 1000,
    accelerate: bool = True,
    generator: torch.Generator | None = None,
    progress: bool = True,
    kind: type[PPCA] = PPCA,
) -> Fit[PPCA]:
    r"""Fit by EM, which needs no covariance matrix and is the way when entries are missing.

    It rises to the same log-likelihood as the closed form. All maxima are equally high, so there
    is no need for restarts. Its steps are ``e_step`` and ``m_step``, the latter accelerated by
    parameter expansion (see `ExpandedPPCA`): what plain EM needs hundreds of iterations for, or
    thousands where the columns of x have different units, then takes tens. How soon it ends still
    depends on how far apart the eigenvalues d and d + 1 are. The default tolerance typically ends
    within 1e-5 nats per observation of the top, ``tolerance=1e-11`` within 1e-6 nats for thousands
    of observations together.

    Source: C. Liu, D. B. Rubin and Y. N. Wu, Parameter expansion to accelerate EM: the PX-EM
    algorithm, Biometrika 85 (1998), 755-770.

    Arguments:
        x: Observations, `(n, D)`, or an iterable of batches of them that can be run through again
            and again; no more than two batches are in memory at a time.
        latent_dim: The number of latent dimensions d, from 1 to D - 1.
        start: A model to start from, whose loading must not be zero: EM would stay there. Without
            it the start is `random_start`.
        weights: How often each observation counts, `(n,)`, or one tensor for each batch of a
            stream. None means once.
        missing: Whether NaN stands for a missing entry.
        tolerance: EM stops when an iteration gains no more than this, in nats per observation.
        max_iterations: The largest number of iterations.
        accelerate: Whether EM expands the parameters. Plain EM without it has ``m_step`` alone.
        generator: The source of randomness for a random start, or None for torch's own.
        progress: Whether a run of more than two seconds shows how far it is.
        kind: The class of the model.

    Returns:
        The model, in the dtype of x, and the history. All is computed in float64. For accelerated
        EM the bound after an M-step is that of the expanded model.

    Raises:
        TypeError: An argument has the wrong type, or the start another dtype than x.
        ValueError: As `PPCA.fit`.

    Example:
        >>> x = torch.tensor([[3.0, 1.0], [-3.0, 1.0], [3.0, -1.0], [-3.0, -1.0]])
        >>> model, history = em(x, 1, generator=torch.Generator().manual_seed(0))
        >>> round(float(history.after_e_step[-1]), 4)
        -15.746
    """
    check_type("missing", missing, bool, "True or False")
    check_stopping(tolerance, max_iterations)
    check_type("accelerate", accelerate, bool, "True or False")
    check_type("progress", progress, bool, "True or False")
    check_generator(generator)
    batches = Batches(x, missing=missing, weights=weights)
    check_latent_dim(latent_dim, batches.dim)
    if start is None:
        start = random_start(kind, batches, latent_dim, accelerate=accelerate, generator=generator)
    else:
        check_start(kind, start, latent_dim, batches)
        if not bool(start.loading.any()):
            raise ValueError("start must have a loading that is not zero, where EM stays, got zero")
    found, history = run_em(
        ExpandedPPCA(start.to(torch.float64), accelerate),
        batches,
        tolerance=tolerance,
        max_iterations=max_iterations,
        progress=progress,
        what="EM",
    )
    model: PPCA = found.model.to(batches.dtype)
    return Fit(model, history)


class ExpandedPPCA:
    r"""A model as EM fits it: in float64 whatever the data, and with missing entries.

    Parameters that were rounded to float32 in every step would end the fit too early. Whether
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
        >>> one = torch.ones((), dtype=torch.float64)
        >>> expanded = ExpandedPPCA(PPCA(one.expand(2, 1), one.expand(2), one), accelerate=True)
        >>> expanded.e_step(torch.zeros(3, 2)).count
        3
    """

    def __init__(self, model: PPCA, accelerate: bool, reached: Tensor | None = None) -> None:
        self.model = model
        self._accelerate = accelerate
        self._reached = reached

    def e_step(self, x: Tensor, *, weights: Tensor | None = None) -> PPCAStatistics:
        """Return the expected sufficient statistics of a batch, in float64 whatever its dtype."""
        if weights is not None:
            weights = weights.to(torch.float64)
        return self.model.e_step(x.to(torch.float64), missing=True, weights=weights)

    def m_step(self, statistics: PPCAStatistics) -> ExpandedPPCA:
        """Return the model with the highest bound."""
        plain = self.model.m_step(statistics)
        reached = plain.bound(statistics)
        if not self._accelerate:
            return ExpandedPPCA(plain, False, reached)
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
        return ExpandedPPCA(expanded, True, reached)

    def bound(self, statistics: PPCAStatistics) -> Tensor:
        """Return the bound after the E-step or, for the statistics of the model before, M-step."""
        if statistics.maker is self.model or self._reached is None:
            return self.model.bound(statistics)
        return self._reached


def random_start(
    kind: type[PPCA],
    batches: Batches,
    latent_dim: int,
    *,
    accelerate: bool = False,
    generator: torch.Generator | None = None,
) -> PPCA:
    r"""Return a model with the data's mean, their average variance as noise, and a random loading.

    Every element of W is drawn from :math:`\mathcal{N}(0, v)`, where v is the average variance of
    the columns. So the start moves and scales with the data. A start at
    :math:`\mathbf{W} = \mathbf{0}` would stay there: it is a saddle of the likelihood.

    For accelerated EM the start is one step further. From noise v the first step would damp all
    directions in which x varies by less, down to where EM hardly moves. So that step begins with
    next to no noise, which makes it a projection and a regression, and the noise variance comes
    from what is left, divided by the number of spare entries (those beyond d of an observation).

    Arguments:
        kind: The class of the model.
        batches: The data, in which NaN stands for a missing entry.
        latent_dim: The number of latent dimensions d.
        accelerate: Whether this is for accelerated EM. The data are then run through twice.
        generator: The source of randomness, or None for torch's own.

    Returns:
        A model in float64.

    Raises:
        ValueError: x does not vary, has a column without entries, or leaves no noise.

    Example:
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
        >>> start = random_start(PPCA, Batches(x), 1)
        >>> start.mean.tolist(), start.noise_variance.item()
        ([2.0, 4.0], 2.5)
    """
    known = moments(batches, diagonal=True)
    check_varies(known.mean, known.covariance)
    average = known.covariance.mean()
    loading = average.sqrt() * gaussian_noise((batches.dim, latent_dim), known.mean, generator)
    if not accelerate:
        return kind(loading, known.mean, average)
    first = ExpandedPPCA(kind(loading, known.mean, NEXT_TO_NO_NOISE * average), accelerate=True)
    statistics, spare = None, 0.0
    for x, weights in batches.weighted():
        part = first.e_step(x, weights=weights)
        statistics = part if statistics is None else statistics + part
        # Of an observation's entries d may fix z, and only the others tell of the noise.
        spares = ((~x.isnan()).sum(1) - latent_dim).clamp(min=0).to(torch.float64)
        spare += float(spares.sum() if weights is None else weights.to(spares) @ spares)
    assert statistics is not None
    found = first.m_step(statistics).model
    left = found.noise_variance * (statistics.entries / spare) if spare else average
    return kind(found.loading, found.mean, left)


def check_start(kind: type[PPCA], start: object, latent_dim: int, batches: Batches) -> None:
    """Check that a model to start from fits the data.

    Example:
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
