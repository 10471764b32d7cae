"""Where EM starts: it ends at a local maximum, and the start decides which one that is."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from nfbook._checks import check_count, check_generator, check_tensor
from nfbook.data.batches import Batches, check_weights, subsample
from nfbook.sampling import source_device

__all__ = ["candidates", "k_means_plus_plus"]

# Rows that are looked at together in search of distinct ones.
ROWS = 1000


def k_means_plus_plus(
    x: Tensor,
    num_clusters: int,
    *,
    weights: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return observations that are far apart, as the first centres of clusters.

    The first centre is drawn uniformly from the observations. Each further one is drawn with a
    probability proportional to the squared distance from the nearest centre so far.

    Source: D. Arthur and S. Vassilvitskii, k-means++: the advantages of careful seeding, ACM-SIAM
    Symposium on Discrete Algorithms (2007), 1027-1035.

    Arguments:
        x: Observations, `(n, D)`, whose columns have comparable units.
        num_clusters: The number of centres K.
        weights: How often each observation counts, `(n,)`. They multiply the chances. Where they
            are given, the first centre takes another random number than where they are not, so
            weights of one and no weights give different centres for one seed.
        generator: The source of randomness, or None for torch's own.

    Returns:
        K different observations, `(K, D)`.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: x has fewer than K distinct rows, or a weight is negative.

    Example:
        >>> x = torch.tensor([[0.0], [0.0], [5.0]])
        >>> centres = k_means_plus_plus(x, 2, generator=torch.Generator().manual_seed(0))
        >>> centres.sort(0).values.tolist()
        [[0.0], [5.0]]
    """
    check_tensor("x", x, ("n", "D"))
    check_count("num_clusters", num_clusters)
    check_generator(generator)
    if weights is None:
        device = source_device(generator, x.device)
        first = int(torch.randint(len(x), (), generator=generator, device=device))
    else:
        check_weights(weights, x)
        first = _draw(weights, generator)
    centres = [x[first]]
    distances = _distances(x, x[first])
    if weights is not None:
        distances = torch.where(weights > 0, distances, 0.0)
    while len(centres) < num_clusters:
        if not bool((distances > 0).any()):
            raise ValueError(
                f"x must hold at least {num_clusters} distinct observations, got {len(centres)}"
            )
        # Relative to the largest, so that squares of small distances do not vanish in the sum.
        chances = (distances / distances.max()).square()
        chosen = _draw(chances if weights is None else chances * weights, generator)
        centres.append(x[chosen])
        distances = torch.minimum(distances, _distances(x, x[chosen]))
    return torch.stack(centres)


def candidates(
    batches: Batches,
    num_clusters: int,
    size: int,
    *,
    scale: Callable[[Tensor], Tensor] = lambda x: x,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return observations among which `k_means_plus_plus` finds centres, and their weights.

    They are a random sample. Where it has fewer than K distinct observations, all data are run
    through for more, and those come along.

    Arguments:
        batches: The data.
        num_clusters: The number of centres K.
        size: The size of the sample.
        scale: What turns observations into those to be returned.
        generator: The source of randomness, or None for torch's own.

    Example:
        >>> x = torch.zeros(1000, 1)
        >>> x[700] = 1.0
        >>> rows, _ = candidates(Batches(x), 2, 5)
        >>> rows.unique().tolist()
        [0.0, 1.0]
    """
    sample, weights = subsample(batches, size, generator=generator)
    sample = scale(sample)
    if len(_distinct(sample.split(ROWS), num_clusters)) >= num_clusters:
        return sample, weights
    rare = _distinct((scale(rows) for x in batches for rows in x.split(ROWS)), num_clusters)
    if weights is not None:
        weights = torch.cat([weights, weights.min().expand(len(rare))])
    return torch.cat([sample, rare]), weights


def _distinct(pieces: Iterable[Tensor], count: int) -> Tensor:
    """Return distinct rows: all that the pieces have, or at least so many of them."""
    found = torch.empty(0)
    for piece in pieces:
        found = (
            torch.cat([found.to(piece), piece]).unique(dim=0) if len(found) else piece.unique(dim=0)
        )
        if len(found) >= count:
            break
    return found


def _draw(chances: Tensor, generator: torch.Generator | None) -> int:
    """Draw an index with probabilities proportional to the chances."""
    cumulative = chances.to(torch.float64).cumsum(0)
    device = source_device(generator, chances.device)
    at = torch.rand((), dtype=torch.float64, generator=generator, device=device)
    # The first place whose cumulative chance is above: never one whose own chance is zero, and
    # there always is one, since the random number is below 1.
    return int(torch.searchsorted(cumulative, at.to(chances.device) * cumulative[-1], right=True))


def _distances(x: Tensor, centre: Tensor) -> Tensor:
    """Return the distance of each row from one of them, in float64.

    Each difference is measured in units of its largest element, whose square neither vanishes nor
    overflows.
    """
    off = x.to(torch.float64) - centre.to(torch.float64)
    units = off.abs().amax(1)
    scaled = off / units.clamp(min=torch.finfo(torch.float64).tiny).unsqueeze(1)
    distances = units * scaled.square().sum(1).sqrt()
    if not bool(distances.isfinite().all()):
        raise ValueError(
            "x must have finite distances between its rows, "
            f"got elements up to {float(x.abs().max()):g}"
        )
    return distances
