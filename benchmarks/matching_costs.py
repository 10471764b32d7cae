"""What training a continuous flow costs, by likelihood and by flow matching."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from stopwatch import compare, milliseconds, one_core, spread, take_turns
from torch import Tensor

from nfbook.flows import CNF
from nfbook.objectives import flow_matching_loss

TITLE = "Likelihood and flow matching"
# Both have equally many evaluations of the velocity in a turn.
COUNTS = {"likelihood": 15, "matching": 180}
STEPS = 3
EVALUATIONS = 4 * STEPS
SETTINGS = {
    "D": [2, 8, 32],
    "batch": 256,
    "hidden layers": [32, 32],
    "Runge-Kutta steps": STEPS,
    **{f"updates by {name}": count for name, count in COUNTS.items()},
    "dtype": "float64",
    "cores": 1,
}
ROUNDS = 11


def measure() -> dict[str, Any]:
    """Let both objectives take turns, for each dimension."""
    losses = {"likelihood": likelihood, "matching": matching}
    result = {}
    with one_core():
        for dim in SETTINGS["D"]:
            turns = {
                name: partial(seconds_per_update, training(dim, loss), count)
                for (name, loss), count in zip(losses.items(), COUNTS.values(), strict=True)
            }
            result[str(dim)] = compare(take_turns(turns, ROUNDS), "matching", over_own=True)
    return result


def seconds_per_update(update: Callable[[], None], count: int) -> float:
    """Return the processor's time for an update, as the mean over some.

    With one thread it is the time of the update, less what other processes take meanwhile.
    """
    started = time.process_time()
    for _ in range(count):
        update()
    return (time.process_time() - started) / count


def likelihood(flow: CNF, x: Tensor, generator: torch.Generator) -> Tensor:
    """Return the loss of maximum likelihood, with the exact trace."""
    return -flow().log_prob(x)


def matching(flow: CNF, x: Tensor, generator: torch.Generator) -> Tensor:
    """Return the loss of flow matching."""
    return flow_matching_loss(flow, x, generator=generator)


def training(dim: int, loss: Callable[..., Tensor]) -> Callable[[], None]:
    """Return an update: fresh points around three centres, the gradient, a step of Adam."""
    generator = torch.Generator().manual_seed(0)
    widths = SETTINGS["hidden layers"]
    flow = CNF(dim, hidden_features=widths, steps=STEPS, generator=generator).double()
    optimiser = torch.optim.Adam(flow.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, ROUNDS * max(COUNTS.values()))
    batch = SETTINGS["batch"]
    centres = torch.randn(3, dim, dtype=torch.float64, generator=generator)

    def update() -> None:
        which = torch.randint(3, (batch,), generator=generator)
        noise = torch.randn(batch, dim, dtype=torch.float64, generator=generator)
        value = loss(flow, 2 * centres[which] + 0.5 * noise, generator).mean()
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()

    return update


def table(result: dict[str, Any]) -> str:
    """One row a dimension: both times, and their ratio, for an update and for an evaluation."""
    heads = ["D", "likelihood", "matching", "likelihood over matching", "of one evaluation"]
    lines = [f"| {' | '.join(heads)} |", "|---:" * len(heads) + "|"]
    for dim, row in result.items():
        times = [milliseconds(row["seconds"][name]) for name in COUNTS]
        ratio = row["ratio"]["likelihood"]
        each = f"{ratio['median'] / EVALUATIONS:.2f}"
        lines.append(f"| {' | '.join([dim, *times, spread(ratio), each])} |")
    lines += [
        "",
        f"Processor time of an update, the median over {ROUNDS} rounds, and the ratio of the two "
        f"with its quartiles. An update by likelihood evaluates the velocity {EVALUATIONS} times, "
        "with its trace, and one by matching once, without it. So the last column is the ratio "
        "of two trainings with equally many evaluations.",
    ]
    return "\n".join(lines)
