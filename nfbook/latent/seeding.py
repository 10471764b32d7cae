"""Where EM starts: it climbs to the nearest top, so the start decides which one that is."""

from __future__ import annotations

import torch
from torch import Tensor

from nfbook._checks import check_count, check_generator, check_tensor

__all__ = ["k_means_plus_plus"]


def k_means_plus_plus(x: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
    """Return observations that are far apart, as the first centres of clusters.

    The first centre is drawn uniformly from the observations. Each further one is drawn with a
    probability proportional to the squared distance from the nearest centre so far.

    Source: D. Arthur and S. Vassilvitskii, k-means++: the advantages of careful seeding, ACM-SIAM
    Symposium on Discrete Algorithms (2007), 1027-1035.

    Arguments:
        x: Observations, `(n, D)`, whose columns have comparable units.
        num_clusters: The number of centres K.
        generator: The source of randomness.

    Returns:
        K different observations, `(K, D)`.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: x has fewer than K distinct rows.

    Example:
        >>> x = torch.tensor([[0.0], [0.0], [5.0]])
        >>> centres = k_means_plus_plus(x, 2, torch.Generator().manual_seed(0))
        >>> centres.sort(0).values.tolist()
        [[0.0], [5.0]]
    """
    check_tensor("x", x, ("n", "D"))
    check_count("num_clusters", num_clusters)
    check_generator("generator", generator)
    first = int(torch.randint(len(x), (), generator=generator))
    centres = [x[first]]
    distances = _distances(x, x[first])
    while len(centres) < num_clusters:
        if not bool((distances > 0).any()):
            raise ValueError(
                f"x must hold at least {num_clusters} distinct observations, got {len(centres)}"
            )
        # Relative to the largest, so that squares of small distances do not vanish in the sum.
        chances = (distances / distances.max()).square().cumsum(0)
        at = torch.rand((), dtype=torch.float64, generator=generator) * chances[-1]
        # The first place whose cumulative chance is above: never one whose own chance is zero, and
        # there always is one, since the random number is below 1.
        chosen = int(torch.searchsorted(chances, at, right=True))
        centres.append(x[chosen])
        distances = torch.minimum(distances, _distances(x, x[chosen]))
    return torch.stack(centres)


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
