"""Expected coverage: how often the regions of a posterior hold the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from nfbook._checks import check_count, check_fraction
from nfbook.diagnostics._check import Check
from nfbook.diagnostics._ranks import Posterior, joint_ranks
from nfbook.diagnostics.uniformity import ecdf_points
from nfbook.estimators import JointModel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Coverage", "coverage"]


@dataclass(frozen=True, eq=False, repr=False)
class Coverage(Check):
    r"""How often regions of stated probability held the truth, and what that says.

    Attributes:
        nominal: The probabilities that the regions have by q, increasing, `(P,)`.
        counts: How often they held the truth, `(P, C)`.
        names: What the C columns are: the central intervals of the coordinates of z, then the
            regions of highest density.
        num_simulations: The number n of truths.
        level: The probability of a false alarm, over all columns together.

    Example:
        >>> from nfbook.latent import PPCA
        >>> model = PPCA(torch.ones(3, 1), torch.zeros(3), 1.0)
        >>> generator = torch.Generator().manual_seed(0)
        >>> found = coverage(model, model.posterior, 500, 9, generator=generator)
        >>> found.nominal
        tensor([0.2000, 0.4000, 0.6000, 0.8000], dtype=torch.float64)
        >>> bool((found.empirical - found.nominal[:, None]).abs().max() < 0.1)
        True
    """

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw empirical against nominal coverage, with the band.

        A curve that leaves the band is in colour and named. Below the diagonal q is overconfident:
        its regions are too small. Above it they are larger than need be.

        Arguments:
            ax: The matplotlib axes to draw on, or None for new ones.
        """
        ax = self._draw(ax, torch.zeros_like(self.nominal))
        ax.set(xlabel="nominal coverage", ylabel="empirical coverage")
        return ax


def coverage(
    model: JointModel,
    posterior: Posterior,
    num_simulations: int = 1000,
    num_draws: int = 199,
    *,
    level: float = 0.05,
    generator: torch.Generator | None = None,
    progress: bool = True,
) -> Coverage:
    r"""Compare the stated with the actual probability of a posterior's regions.

    .. math:: \mathbb{E}_{p(\mathbf{x}, \mathbf{z})} \bigl[ \mathbf{z} \in R_c(\mathbf{x}) \bigr]
        = c, \qquad \text{where} \quad
        \int_{R_c(\mathbf{x})} q(\mathbf{z} \mid \mathbf{x}) \,\mathrm{d}\mathbf{z} = c,

    holds for any regions of the exact posterior. Here they are the central interval of each
    coordinate, and the region where :math:`q(\mathbf{z} \mid \mathbf{x})` is highest. Both are
    estimated from L draws, and the coverage is exact all the same: the interval between the
    m-th smallest and the m-th largest of them has the coverage :math:`(L + 1 - 2 m) / (L + 1)`, and
    so has the region where q is higher than at the one of them where it is :math:`(L + 1 - 2 m)`-th
    highest.

    A smaller coverage than stated is overconfidence. Coverage does not tell a better posterior from
    a worse one: the prior, too, has the coverage that it states. `simulation_based_calibration`
    catches more.

    Source: J. Hermans, A. Delaunoy, F. Rozet, A. Wehenkel, V. Begy and G. Louppe, A trust
    crisis in simulation-based inference? Your posterior approximations can be unfaithful,
    Transactions on Machine Learning Research (2022); for the band, `UniformCounts`.

    Arguments:
        model: As in `simulation_based_calibration`.
        posterior: As there.
        num_simulations: The number of pairs n of z and x.
        num_draws: The number of draws L for each pair, at least 2.
        level: The probability of a false alarm, over all regions together.
        generator: The source of randomness, or None for torch's own.
        progress: Whether to show a bar if it takes more than two seconds.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: A number is out of its range, the distribution has another shape, or a log
            density is NaN.

    Example:
        The prior passes, though it knows nothing of x. One that is too narrow does not:

        >>> from torch.distributions import Independent, Normal
        >>> from nfbook.latent import PPCA
        >>> model = PPCA(torch.ones(3, 1), torch.zeros(3), 1.0)
        >>> generator = torch.Generator().manual_seed(0)
        >>> def prior(x):
        ...     return model.prior
        >>> def narrow(x):
        ...     exact = model.posterior(x)
        ...     return Independent(Normal(exact.mean, 0.5 * exact.stddev), 1)
        >>> for posterior in (prior, narrow):
        ...     coverage(model, posterior, 500, 9, generator=generator).passed
        True
        False
    """
    check_count("num_draws", num_draws, minimum=2)
    check_fraction("level", level)
    ranks, names = joint_ranks(
        model,
        posterior,
        num_simulations,
        num_draws,
        lambda x, z, log_q: log_q,
        name="highest density",
        generator=generator,
        progress=progress,
        what="coverage",
    )
    # How many draws lie outside of the smallest region with the truth: on each side, or altogether.
    sides = torch.minimum(ranks[:, :-1], num_draws - ranks[:, :-1])
    outside = torch.cat([2 * sides, ranks[:, -1:]], 1)
    left_out = 2 * ecdf_points(num_draws // 2).flip(0)
    counts = torch.stack([(outside >= number).sum(0) for number in left_out])
    nominal = 1 - left_out.to(torch.float64) / (num_draws + 1)
    return Coverage(nominal, counts, names, num_simulations, level)
