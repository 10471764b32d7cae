"""The closed form of probabilistic PCA: an eigendecomposition."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from nfbook.data.batches import Batches, moments
from nfbook.fitting import Fit, History
from nfbook.latent.ppca._algebra import (
    check_latent_dim,
    check_varies,
    exact_mean,
    in_dtype,
)
from nfbook.latent.ppca.model import PPCA

__all__ = ["closed_form"]


def closed_form(
    x: Tensor | Iterable[Tensor],
    latent_dim: int,
    *,
    weights: Tensor | Iterable[Tensor] | None = None,
    kind: type[PPCA] = PPCA,
) -> Fit[PPCA]:
    r"""Return the maximum likelihood model and the greatest log-likelihood.

    For a tensor the eigenvalues come from a singular value decomposition, without the covariance
    matrix, in which small ones lose half of their digits. A stream is run through once, and the
    matrix is all that is kept.

    Arguments:
        x: Observations, `(n, D)`, or an iterable of such tensors.
        latent_dim: The number of latent dimensions d, from 1 to D - 1.
        weights: How often each observation counts, `(n,)`, or one tensor for each batch of a
            stream. None means once.
        kind: The class of the model.

    Returns:
        The model, in the dtype of x, and a history with one entry.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: As `PPCA.fit`.

    Example:
        >>> x = torch.tensor([[3.0, 1.0], [-3.0, 1.0], [3.0, -1.0], [-3.0, -1.0]])
        >>> closed_form(x, 1).history
        History(0 iterations, bound -15.746 to -15.746, converged)
    """
    batches = Batches(x, weights=weights)
    check_latent_dim(latent_dim, batches.dim)
    rows: float
    if isinstance(x, Tensor):
        if weights is not None:
            assert isinstance(weights, Tensor)
            weights = weights.to(torch.float64)
        rows = len(x) if weights is None else int(weights.count_nonzero())
        count, mean, eigenvalues, directions = _by_singular_values(x.to(torch.float64), weights)
    else:
        known = moments(batches)
        rows, count, mean = known.rows, known.count, known.mean
        check_varies(mean, known.covariance.diagonal())
        ascending, vectors = torch.linalg.eigh(known.covariance)
        # Never negative but for rounding.
        eigenvalues, directions = ascending.clamp(min=0).flip(0), vectors.mT.flip(0)
    if rows < 2:
        raise ValueError(f"x must hold at least 2 observations, got {rows}")
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


def _by_singular_values(x: Tensor, weights: Tensor | None) -> tuple[float, Tensor, Tensor, Tensor]:
    """Return count, mean, and the covariance's eigenvalues with the eigenvectors in rows."""
    mean = exact_mean(x, weights)
    centred = x - mean if weights is None else weights.sqrt().unsqueeze(-1) * (x - mean)
    count = len(x) if weights is None else float(weights.sum())
    # The triangular factor has the singular values and right vectors of the whole.
    triangle = torch.linalg.qr(centred, mode="r").R
    _, singular, directions = torch.linalg.svd(triangle, full_matrices=False)
    return count, mean, singular.square() / count, directions
