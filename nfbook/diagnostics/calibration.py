"""Simulation-based calibration: whether the truth could be one of the posterior's draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nfbook._checks import check_fraction
from nfbook.diagnostics._check import Check
from nfbook.diagnostics._ranks import Posterior, joint_ranks
from nfbook.diagnostics.uniformity import ecdf_points
from nfbook.estimators import JointModel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Calibration", "simulation_based_calibration"]


@dataclass(frozen=True, eq=False, repr=False)
class Calibration(Check):
    r"""The ranks that simulation-based calibration found, and what they say.

    Attributes:
        nominal: Shares of the ranks, :math:`t_j`, `(P,)`.
        counts: How many of the ranks are less than :math:`t_j (L + 1)`, `(P, C)`.
        names: What the C columns are: the coordinates of z, then the log joint density.
        num_simulations: The number n of pairs of z and x.
        level: The probability of a false alarm, over all columns together.
        ranks: How many of the L draws lie below the truth, from 0 to L, `(n, C)`.
        num_draws: The number of draws L.

    Example:
        >>> from nfbook.latent import PPCA
        >>> model = PPCA(torch.ones(3, 1), torch.zeros(3), 1.0)
        >>> generator = torch.Generator().manual_seed(0)
        >>> simulation_based_calibration(model, model.posterior, 200, 19, generator=generator)
        Calibration(200 simulations, p-value 0.17: no evidence against)
    """

    ranks: Tensor
    num_draws: int

    def plot(self, ax: Axes | None = None) -> Axes:
        r"""Draw how far the ranks' empirical distribution functions are from the uniform one.

        The band holds all curves at once with probability 1 - level where the posterior is right.
        A curve that leaves it is in colour and named. It lies above the band on the left where
        too many of the true values are low among the draws. So it is above or below it
        throughout where the posterior's location is wrong; first above, then below where the
        posterior is too narrow; and first below, then above where it is too wide.

        Arguments:
            ax: The matplotlib axes to draw on, or None for new ones.
        """
        ax = self._draw(ax, self.nominal)
        ax.set(xlabel="rank of the truth, as a share", ylabel="share below, minus expected")
        return ax


def simulation_based_calibration(
    model: JointModel,
    posterior: Posterior,
    num_simulations: int = 1000,
    num_draws: int = 99,
    *,
    level: float = 0.05,
    generator: torch.Generator | None = None,
    progress: bool = True,
) -> Calibration:
    r"""Check a posterior, averaged over all x that the model makes.

    Where z and x come from the model, the truth z and a draw from the exact posterior of that x
    have the same distribution, given x. So

    .. math::
        \mathbf{z} \sim p(\mathbf{z}), \quad \mathbf{x} \sim p(\mathbf{x} \mid \mathbf{z}), \quad
        \mathbf{z}_1, \dots, \mathbf{z}_L \sim q(\mathbf{z} \mid \mathbf{x}), \qquad
        \#\{l : f(\mathbf{z}_l, \mathbf{x}) < f(\mathbf{z}, \mathbf{x})\}
        \sim \operatorname{Uniform}\{0, \dots, L\}

    for any function f, if q is exact. Here they are the coordinates of z and the log joint density
    :math:`\log p(\mathbf{x}, \mathbf{z})`. The latter catches what no coordinate shows, such as a
    wrong correlation, or a q that ignores x and is the prior.

    A test that is passed proves nothing: q may be wrong by less than so many simulations show, for
    another f, or only for rare x. The model is taken to be right; about real data it says nothing.

    Source: S. Talts, M. Betancourt, D. Simpson, A. Vehtari and A. Gelman, Validating Bayesian
    inference algorithms with simulation-based calibration, arXiv:1804.06788 (2018), theorem 1; for
    the log joint density, M. Modrák et al., Simulation-based calibration checking for Bayesian
    computation: the choice of test quantities shapes sensitivity, Bayesian Analysis 20 (2025),
    461-488; for the band, `UniformCounts`.

    Arguments:
        model: A `LatentVariableModel`, or any object with ``prior``, ``likelihood`` and
            ``log_joint``.
        posterior: The posterior to be checked: a function of observations, `(n, D)`, that returns
            one distribution over z for each, such as ``PPCA.posterior``.
        num_simulations: The number of pairs n of z and x.
        num_draws: The number of draws L for each pair.
        level: The probability of a false alarm, over all functions f together.
        generator: The source of randomness, or None for torch's own.
        progress: Whether to show a bar if it takes more than two seconds.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: A number is out of its range, the distribution has another shape, or a log
            density is NaN.

    Example:
        A posterior that is too narrow:

        >>> from torch.distributions import Independent, Normal
        >>> from nfbook.latent import PPCA
        >>> model = PPCA(torch.ones(3, 1), torch.zeros(3), 1.0)
        >>> def narrow(x):
        ...     exact = model.posterior(x)
        ...     return Independent(Normal(exact.mean, 0.5 * exact.stddev), 1)
        >>> generator = torch.Generator().manual_seed(0)
        >>> simulation_based_calibration(model, narrow, 500, 19, generator=generator).passed
        False
    """
    check_fraction("level", level)
    ranks, names = joint_ranks(
        model,
        posterior,
        num_simulations,
        num_draws,
        lambda x, z, log_q: model.log_joint(x, z),
        name="log joint",
        generator=generator,
        progress=progress,
        what="simulation-based calibration",
    )
    points = ecdf_points(num_draws)
    return Calibration(
        nominal=points.to(torch.float64) / (num_draws + 1),
        counts=torch.stack([(ranks < point).sum(0) for point in points]),
        names=names,
        num_simulations=num_simulations,
        level=level,
        ranks=ranks,
        num_draws=num_draws,
    )
