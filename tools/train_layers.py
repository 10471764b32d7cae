"""Fit the flows of the interactive figure on the NF-VAE, and store their parameters.

    python tools/train_layers.py

For each observation, a Gaussian with independent coordinates and four planar layers are fitted to
the posterior of ``nfbook.vae.Parabola``. The expectations over the Gaussian are sums over a fine
grid, so nothing is drawn. What is raised is the bound, and with a small weight the bounds after
fewer layers too, so that what happens on the way can be looked at.

From most starts a fit for one of the larger observations ends at one of the two peaks. So the flow
for 3 begins with that for -1, which is taken along while the observation grows in small steps. The
peaks for 5 hardly touch, and its flow begins with layers that already part the Gaussian into two
arms. That fit stops early: with more steps the layers become so steep that the grid no longer sees
all of them. The parameters are rounded to four decimals and stored as
``nfbook/data/parabola_layers.csv``; what is printed is the gap after each layer, on a finer grid.
It takes about a minute on one free core.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributions import Normal

from nfbook.explorables.layers import OBSERVATIONS, WEIGHTS, trained_layers
from nfbook.quadrature import grid
from nfbook.transforms import Planar
from nfbook.vae import Parabola

# The steps of L-BFGS, the weight of the bounds after fewer layers, and the grid's points on a side:
# on the way, for an observation that is stored, and for the one whose fit begins with two arms.
WAY, LAST, ARMS = (220, 0.02, 65), (600, 0.003, 65), (150, 0.001, 81)
STEP = 0.5  # between the observations on the way
# Where the first fit starts: layers that pull left and right apart, that lift the
# middle, and that do little.
START = {
    "mean": [0.0, -0.5],
    "log_std": [-0.5, -0.7],
    "w": [[2.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.3, 1.0]],
    "u": [[1.0, 0.0], [0.0, 1.5], [0.0, -1.5], [0.1, 0.1]],
    "b": [0.0, 1.5, -1.5, 0.2],
}
# Where the fit with two arms starts: two layers that part left from right, and one for each arm,
# which is centred at z_1 = -2 or 2 and tilts it.
TWO_ARMS = {
    "mean": [0.0, -1.0],
    "log_std": [-0.8, -0.8],
    "w": [[8.0, 0.0], [3.0, 0.0], [2.0, 0.0], [2.0, 0.0]],
    "u": [[0.5, 0.0], [0.3, 0.0], [0.0, 2.0], [0.0, -2.0]],
    "b": [0.0, 0.0, 4.0, -4.0],
}


def noise(points: int, reach: float = 5.5) -> tuple[Tensor, Tensor, Tensor]:
    """Return a grid of the plane, the standard Gaussian's weights on it, and its log density."""
    corner = torch.full((2,), reach)
    e, weights = grid(-corner, corner, points)
    log_base = Normal(0.0, 1.0).log_prob(e).sum(1)
    return e, weights * log_base.exp(), log_base


def bounds(x: float, flow: dict[str, Tensor], points: int) -> Tensor:
    """Return the bound after 0, 1, ..., K layers, `(K + 1,)`."""
    model, (e, chance, log_q) = Parabola(), noise(points)
    z = flow["mean"] + flow["log_std"].exp() * e
    log_q = log_q - flow["log_std"].sum()

    def bound() -> Tensor:
        log_joint = Normal(0.0, 1.0).log_prob(z).sum(1) + model(z).log_prob(torch.tensor([x]))
        value: Tensor = chance @ (log_joint - log_q)
        return value

    found = [bound()]
    for w, u, b in zip(flow["w"], flow["u"], flow["b"], strict=True):
        z, ladj = Planar(w, u, b).call_and_ladj(z)
        log_q = log_q - ladj
        found.append(bound())
    return torch.stack(found)


def train(
    x: float, start: dict[str, Tensor], iterations: int, share: float, points: int
) -> dict[str, Tensor]:
    """Return the flow that L-BFGS finds."""
    flow = {name: value.clone() for name, value in start.items()}
    free = [value.requires_grad_() for value in flow.values()]
    optimiser = torch.optim.LBFGS(
        free, max_iter=iterations, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        *before, last = bounds(x, flow, points)
        value = -last - share * torch.stack(before).sum()
        value.backward()
        return value

    optimiser.step(loss)
    return {name: value.detach() for name, value in flow.items()}


def fits() -> Iterator[tuple[float, dict[str, Tensor]]]:
    """Yield each observation with its flow."""
    *smaller, largest = sorted(OBSERVATIONS.values())
    x, flow = smaller[0], {name: torch.tensor(value) for name, value in START.items()}
    while x <= smaller[-1]:
        flow = train(x, flow, *WAY)
        if x in smaller:
            yield x, train(x, flow, *LAST)
        x += STEP
    arms = {name: torch.tensor(value) for name, value in TWO_ARMS.items()}
    yield largest, train(largest, arms, *ARMS)


def main() -> None:
    """Train all flows and store them."""
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    rows = [["x", "layer", "a1", "a2", "c1", "c2", "b"]]
    for x, flow in fits():
        start = torch.cat([flow["mean"], flow["log_std"], torch.zeros(1)])
        layers = torch.cat([flow["w"], flow["u"], flow["b"].unsqueeze(1)], 1)
        for number, row in enumerate([start, *layers]):
            rows.append([f"{x:g}", f"{number}", *(f"{value:.4f}" for value in row)])
    with WEIGHTS.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    for x in OBSERVATIONS.values():
        evidence = Parabola().log_evidence(torch.tensor([x]))
        gaps = evidence - bounds(x, trained_layers(x), 201)
        print(f"x = {x:g}: gaps " + ", ".join(f"{gap:.4f}" for gap in gaps))


if __name__ == "__main__":
    main()
