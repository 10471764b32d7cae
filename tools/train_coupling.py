"""Train the flows of the interactive figure on coupling layers, and store their weights.

    python tools/train_coupling.py

For each choice of masks a RealNVP is fitted to the two moons of ``nfbook.cases``, whose density is
known, from new draws in every step. The weights are rounded to four decimals and stored as
``nfbook/data/moons_realnvp.csv``; what is printed is the divergence that is left, by quadrature.
It takes two minutes. Another processor rounds otherwise, so its weights differ in later digits.
"""

from __future__ import annotations

import csv

import torch
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from nfbook.cases import two_moons
from nfbook.explorables.coupling import MASKS, WEIGHTS, new_flow, trained_flow
from nfbook.flows import RealNVP
from nfbook.quadrature import grid

UPDATES = 4000
BATCH = 512
STEP_SIZE = 1e-2
CLIP = 5.0


def train(mask: str) -> RealNVP:
    """Return the flow after training."""
    generator = torch.Generator().manual_seed(0)
    flow, moons = new_flow(mask, generator), two_moons()
    optimiser = Adam(flow.parameters(), STEP_SIZE)
    schedule = CosineAnnealingLR(optimiser, UPDATES)
    for _ in range(UPDATES):
        x, _ = moons.sample(BATCH, generator=generator)
        loss = -flow().log_prob(x).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), CLIP)
        optimiser.step()
        schedule.step()
    return flow


@torch.no_grad()
def divergence(flow: RealNVP) -> float:
    """Return the KL divergence of the two moons from the flow."""
    moons, corner = two_moons(), torch.full((2,), 4.0)
    x, weights = grid(-corner, corner, 321)
    log_pi = moons.log_prob(x)
    return float(weights @ (log_pi.exp() * (log_pi - flow().log_prob(x))))


def main() -> None:
    """Train all flows and store them."""
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    rows: list[list[str]] = []
    for number, mask in enumerate(MASKS):
        for layer, network in enumerate(train(mask).conditioners):
            weights = torch.cat([weight.detach().flatten() for weight in network.parameters()])
            rows.append([f"{number}", f"{layer}", *(f"{weight:.4f}" for weight in weights)])
    names = ["mask", "layer", *(f"w{k}" for k in range(len(rows[0]) - 2))]
    with WEIGHTS.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([names, *rows])
    for mask in MASKS:
        print(f"{mask}: {divergence(trained_flow(mask)):.3f} nats from the two moons")


if __name__ == "__main__":
    main()
