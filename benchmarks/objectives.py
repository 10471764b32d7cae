"""What an objective costs beyond drawing from its flow, and what asking for densities would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from stopwatch import compare, milliseconds, seconds_per_call, spread, take_turns
from torch import Tensor
from torch.distributions import Independent, Normal

from nfbook.flows import IAF, FlowDistribution, OrthogonalSylvesterFlow, PlanarFlow
from nfbook.latent import PPCA
from nfbook.objectives import elbo, importance_weighted_bound, reverse_kl

TITLE = "Objectives with a flow as posterior"
SETTINGS = {"D": 16, "draws": 256, "transforms": 5, "dtype": "float32"}
ROUNDS = 31
FAMILIES = {"planar": PlanarFlow, "IAF": IAF, "Sylvester": OrthogonalSylvesterFlow}
BARE = "drawing alone"
WITH_MODEL = "with the model's density"
DENSITY = "draw, then log_prob"


def measure() -> dict[str, Any]:
    """Let all ways of one family take turns, forward and backward."""
    return {
        family: compare(
            take_turns(
                {
                    name: lambda step=step: seconds_per_call(step)
                    for name, step in steps(family).items()
                },
                ROUNDS,
            ),
            own=BARE,
            over_own=True,
        )
        for family in FAMILIES
    }


def steps(family: str) -> dict[str, Callable[[], None]]:
    """Return the forward and the backward pass of each objective, and of what it is set beside."""
    g = torch.Generator().manual_seed(0)
    dim, count = SETTINGS["D"], SETTINGS["draws"]
    flow = FAMILIES[family](dim, length=SETTINGS["transforms"], generator=g)
    with torch.no_grad():
        # A flow starts at the identity, and the way back through it would be too short.
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=g))
    model = PPCA(torch.randn(2 * dim, dim, generator=g), torch.zeros(2 * dim), 1.0)
    x = torch.randn(2 * dim, generator=g)
    target = Independent(Normal(torch.zeros(dim), 2.0), 1)

    def bare(q: FlowDistribution) -> Tensor:
        z, log_q = q.rsample_and_log_prob((count,), generator=g)
        return log_q.mean() + z.mean()

    def with_model(q: FlowDistribution) -> Tensor:
        z, log_q = q.rsample_and_log_prob((count,), generator=g)
        return (log_q - model.log_joint(x.expand(count, -1), z)).mean()

    def by_density(q: FlowDistribution) -> Tensor:
        z = q.rsample((count,), generator=g)
        return (q.log_prob(z) - target.log_prob(z)).mean()

    losses: dict[str, Callable[[FlowDistribution], Tensor]] = {
        BARE: bare,
        WITH_MODEL: with_model,
        "elbo": lambda q: -elbo(model, x, q, count, generator=g).value,
        "importance_weighted_bound": lambda q: (
            -importance_weighted_bound(model, x, q, count, generator=g).value
        ),
        "reverse_kl": lambda q: reverse_kl(target, q, count, generator=g).value,
        DENSITY: by_density,
    }
    parameters = list(flow.parameters())

    def step(loss: Callable[[FlowDistribution], Tensor]) -> None:
        for parameter in parameters:
            parameter.grad = None
        loss(flow()).backward()

    return {name: lambda loss=loss: step(loss) for name, loss in losses.items()}


def table(result: dict[str, Any]) -> str:
    """The times, and below them their ratios to drawing alone, one row a way of computing."""
    seconds = {family: row["seconds"] for family, row in result.items()}
    ratios = {family: row["ratio"] for family, row in result.items()}
    return (
        "Median time of a forward and a backward pass:\n\n"
        f"{_table(seconds, milliseconds)}\n\n"
        f"Its ratio to that of {BARE}, with its quartiles over {ROUNDS} rounds:\n\n"
        f"{_table(ratios, spread)}"
    )


def _table(values: dict[str, dict[str, Any]], text: Callable[[Any], str]) -> str:
    lines = [f"| | {' | '.join(values)} |", "|---" + "|---:" * len(values) + "|"]
    for name in next(iter(values.values())):
        lines.append(f"| {name} | {' | '.join(text(row[name]) for row in values.values())} |")
    return "\n".join(lines)
