"""Pairs drawn from a model, and where the truth ranks among draws from an approximate posterior."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution

from nfbook._checks import (
    check_callable,
    check_count,
    check_distribution,
    check_log_values,
    check_tensor,
)
from nfbook.estimators import JointModel, check_joint_model, check_proposal, likelihood_of
from nfbook.progress import progress_bar
from nfbook.sampling import draw, draw_and_log_prob, log_density, source_device

# How many numbers are drawn at a time.
PIECE = 2**20

Posterior = Callable[[Tensor], Distribution]


@torch.no_grad()
def joint_ranks(
    model: JointModel,
    posterior: Posterior,
    num_simulations: int,
    num_draws: int,
    score: Callable[[Tensor, Tensor, Tensor], Tensor],
    *,
    name: str,
    generator: torch.Generator | None,
    progress: bool,
    what: str,
) -> tuple[Tensor, tuple[str, ...]]:
    """Return how many draws lie below the truth, in each coordinate of z and in a score.

    Arguments:
        model: Where x and the true z come from.
        posterior: Gives the distribution that the draws come from, for each x.
        num_simulations: The number of pairs n.
        num_draws: The number of draws L for each pair.
        score: Gives one number for each z, of x, z and log q(z).
        name: What messages and pictures call the score.
        generator: The source of randomness, or None for torch's own.
        progress: Whether to show a bar if it takes more than two seconds.
        what: What the bar is called.

    Returns:
        Ranks from 0 to L, `(n, C)`, and the names of their columns.
    """
    check_callable("posterior", posterior)
    check_count("num_simulations", num_simulations)
    check_count("num_draws", num_draws)
    x, z = _observe(model, num_simulations, generator)
    check_joint_model(model, x)
    events = model.prior.event_shape.numel()
    rows = max(1, PIECE // (num_draws * (x.shape[1] + events)))
    pieces = list(zip(x.split(rows), z.split(rows), strict=True))
    ranks = []
    with progress_bar(len(pieces), what, show=progress) as bar:
        for one_x, true_z in pieces:
            q = posterior(one_x)
            check_proposal(model, one_x, q, "posterior(x)")
            missing = one_x.shape[: 1 - len(q.batch_shape)]
            draws, log_q = draw_and_log_prob(q, (num_draws, *missing), generator=generator)
            true_log_q = log_density(q, true_z)
            truth = _statistics(one_x, true_z.unsqueeze(0), true_log_q.unsqueeze(0), score, name)
            drawn = _statistics(one_x, draws, log_q, score, name)
            ranks.append(_rank(truth, drawn, generator))
            bar.update()
    coordinates = ["z"] if not model.prior.event_shape else [f"z_{i + 1}" for i in range(events)]
    return torch.cat(ranks).cpu(), (*coordinates, name)


def _observe(model: JointModel, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Draw n pairs of x and z from the model."""
    check_distribution("model.prior", getattr(model, "prior", None))
    check_callable("model.likelihood", getattr(model, "likelihood", None))
    z = draw(model.prior, (n,), generator=generator)
    x = draw(likelihood_of(model, z), generator=generator)
    check_tensor("a draw of the likelihood", x, (n, "D"))
    return x, z


def _statistics(
    x: Tensor,
    z: Tensor,
    log_q: Tensor,
    score: Callable[[Tensor, Tensor, Tensor], Tensor],
    name: str,
) -> Tensor:
    """Return the coordinates of z and the score, `(L, n, C)`, in float64."""
    shape = z.shape[:2]
    value = score(x, z, log_q)
    check_log_values(f"the {name}", value, shape)
    coordinates = z.reshape(*shape, -1).to(torch.float64)
    return torch.cat([coordinates, value.unsqueeze(-1).to(torch.float64)], -1)


def _rank(truth: Tensor, draws: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return how many draws lie below the truth, where ties, as of a discrete z, go by chance."""
    below, equal = (draws < truth).sum(0), (draws == truth).sum(0)
    where = source_device(generator, draws.device)
    chance = torch.rand(below.shape, generator=generator, dtype=torch.float64, device=where)
    return below + (chance.to(draws.device) * (equal + 1)).long()
