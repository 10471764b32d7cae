"""The bridge between two modes that a flow leaves, as its layers grow in number."""

from __future__ import annotations

from statistics import median
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from nfbook.flows import Flow, RealNVP
from nfbook.latent import GaussianMixture
from nfbook.plotting import COLORS, use_style

TITLE = "The bridge that RealNVP leaves between two modes"
SETTINGS = {
    "peaks": 3.0,
    "width": 0.5,
    "gap": 1.5,
    "layers": [2, 4, 8, 16],
    "hidden layers": [32, 32],
    "steps": 500,
    "batch": 256,
    "learning rate": 0.005,
    "points": 400_000,
    "ball": 5.0,
    "picture": [[-5.0, 5.0, 81], [-2.5, 2.5, 41]],
    "dtype": "float64",
}
SEEDS = [0, 1, 2]
NORMAL = torch.distributions.Normal(
    torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
)
ALT = (
    "The probability of the gap against the number of layers on logarithmic axes, one dot a seed, "
    "above the bounds that follow from the largest slopes and above the probability that the data "
    "have there."
)


def measure() -> dict[str, Any]:
    """Train flows of every length with every seed."""
    torch.set_default_dtype(torch.float64)
    data = two_peaks()
    result: dict[str, Any] = {"flows": {}, "log-density": {}}
    for length in SETTINGS["layers"]:
        flows = [train(length, seed, data) for seed in SEEDS]
        result["flows"][str(length)] = [_measure(flow, data) for flow in flows]
        result["log-density"][str(length)] = _picture(flows[0])
    return result


def two_peaks() -> GaussianMixture:
    """Return two round peaks with equal weights on the first axis of the plane."""
    at, width = SETTINGS["peaks"], SETTINGS["width"]
    means = torch.tensor([[-at, 0.0], [at, 0.0]])
    return GaussianMixture(torch.full((2,), 0.5), means, (width**2 * torch.eye(2)).repeat(2, 1, 1))


def train(length: int, seed: int, data: GaussianMixture) -> Flow:
    """Return a flow that was trained on draws from the data's distribution."""
    generator = torch.Generator().manual_seed(seed)
    flow = RealNVP(2, 0, length, SETTINGS["hidden layers"], generator=generator)
    optimiser = torch.optim.Adam(flow.parameters(), lr=SETTINGS["learning rate"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, SETTINGS["steps"])
    for _ in range(SETTINGS["steps"]):
        x, _ = data.sample(SETTINGS["batch"], generator=generator)
        loss = -flow().log_prob(x).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return flow


def _measure(flow: Flow, data: GaussianMixture) -> dict[str, float]:
    generator = torch.Generator().manual_seed(1)
    transform = flow.transform()
    with torch.no_grad():
        z = torch.randn(SETTINGS["points"], 2, generator=generator)
        first = transform(z)[:, 0]
        x, _ = data.sample(SETTINGS["points"], generator=generator)
        gap = (data.log_prob(x) - flow().log_prob(x)).mean()
    left, right = (
        (first < -SETTINGS["gap"]).double().mean(),
        (first > SETTINGS["gap"]).double().mean(),
    )
    slope = largest_slope(flow)
    at = NORMAL.icdf(left) + 2 * SETTINGS["gap"] / slope
    return {
        "bridge": float(1 - left - right),
        "left": float(left),
        "slope": float(slope),
        "bound": float(NORMAL.cdf(at) - left),
        "KL divergence": float(gap),
    }


def _picture(flow: Flow) -> list[list[float]]:
    """Return the log-density on a grid, one list for each place on the first axis."""
    across, up = (torch.linspace(low, high, count) for low, high, count in SETTINGS["picture"])
    with torch.no_grad():
        log_q = flow().log_prob(torch.cartesian_prod(across, up)).reshape(len(across), len(up))
    return [[round(value, 2) for value in row] for row in log_q.tolist()]


def largest_slope(flow: Flow) -> Tensor:
    """Return the largest singular value of the Jacobian, on a fine grid over a ball of noise."""
    ball = SETTINGS["ball"]
    axis = torch.linspace(-ball, ball, 301)
    z = torch.cartesian_prod(axis, axis)
    z = z[z.norm(dim=1) <= ball].requires_grad_()
    x = flow.transform()(z)
    rows = [torch.autograd.grad(x[:, i].sum(), z, retain_graph=True)[0] for i in range(2)]
    return torch.linalg.matrix_norm(torch.stack(rows, 1), 2).max()


def table(result: dict[str, Any]) -> str:
    """Return the medians over seeds, one row a number of layers."""
    lines = [
        "| layers | bridge | at least | largest slope | KL divergence |",
        "|---" + "|---:" * 4 + "|",
    ]
    for length, seeds in result["flows"].items():
        cells = [
            f"{_middle(seeds, what):{form}}"
            for what, form in (
                ("bridge", ".2%"),
                ("bound", ".2%"),
                ("slope", ".1f"),
                ("KL divergence", ".3f"),
            )
        ]
        lines.append(f"| {length} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Medians over {len(SEEDS)} seeds. The bridge is the probability that a draw falls into "
        "the gap; the column beside it is the least that any map with such a slope can have there.",
    ]
    return "\n".join(lines)


def _middle(seeds: list[dict[str, float]], what: str) -> float:
    return median(one[what] for one in seeds)


def plot(result: dict[str, Any]) -> Figure:
    """Show the bridges of all seeds over the number of layers, and their bounds."""
    use_style()
    figure, ax = plt.subplots(figsize=(5.2, 3.2))
    looks = {"bridge": ("o", "variational"), "bound": ("v", "muted")}
    for what, (mark, color) in looks.items():
        for length, seeds in result["flows"].items():
            values = [one[what] for one in seeds]
            label = what if length == str(SETTINGS["layers"][0]) else None
            ax.loglog([int(length)] * len(values), values, mark, color=COLORS[color], label=label)
    ax.axhline(share_of_gap(), color=COLORS["truth"], lw=1, label="the data")
    ax.set(xlabel="layers", ylabel="probability of the gap")
    ax.set_xticks(SETTINGS["layers"], labels=[str(length) for length in SETTINGS["layers"]])
    ax.minorticks_off()
    figure.legend(loc="outside right center")
    return figure


def share_of_gap() -> float:
    """Return the probability of the gap under the data's distribution."""
    at, gap, width = SETTINGS["peaks"], SETTINGS["gap"], SETTINGS["width"]
    ends = torch.tensor([(gap - at) / width, (-gap - at) / width], dtype=torch.float64)
    upper, lower = NORMAL.cdf(ends)
    return float(upper - lower)
