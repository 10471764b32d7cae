"""Store the weights of the interactive figure that passes through trained planar flows.

    python tools/store_energies.py

They are those of the longest planar flows in the stored result ``energies``, of the first seed,
rounded to five digits: ``nfbook/data/energies_affine.csv`` has the scales and shifts with which
the flows begin, and ``nfbook/data/energies_planar.csv`` their layers. From these tables comes
``nfbook/data/energies_divergences.csv``, with the divergence from the target after each number of
layers, by quadrature.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable

import torch

from nfbook.data import stored_result
from nfbook.explorables.scrub import DATA, ENERGIES, LENGTH, planar_flow
from nfbook.quadrature import grid
from nfbook.reproduce.energies import trained_flow
from nfbook.targets import TARGETS
from nfbook.transforms import Planar

HEADS = {
    "affine": ("energy", "log_scale1", "log_scale2", "shift1", "shift2"),
    "planar": ("energy", "layer", "w1", "w2", "u1", "u2", "b"),
    "divergences": ("energy", *(f"after{layers}" for layers in range(LENGTH + 1))),
}


def rows_of(energy: str) -> dict[str, list[list[float]]]:
    """Return the rows of both tables, without their first columns."""
    wanted = {"target": energy, "family": "planar", "length": LENGTH, "seed": 0, "variant": ""}
    (run,) = (
        run
        for run in stored_result("energies")["result"]["runs"]
        if wanted.items() <= run["settings"].items()
    )
    affine, stack, _ = trained_flow(run)().transform.transforms
    layers = torch.cat([stack.w, stack.u, stack.b.unsqueeze(1)], 1)
    return {
        "affine": [torch.cat([affine.log_scale, affine.shift]).tolist()],
        "planar": [[k, *row] for k, row in enumerate(layers.tolist())],
    }


def write(name: str, rows: Iterable[list[str]]) -> None:
    """Write one table."""
    with (DATA / f"energies_{name}.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(HEADS[name])
        table.writerows(rows)


def divergences(energy: str) -> list[float]:
    """Return the divergences after each number of layers, of the flow that the tables hold."""
    corner = torch.full((2,), 6.5, dtype=torch.float64)
    noise, weights = grid(-corner, corner, 651)
    log_base = -0.5 * noise.square().sum(1) - math.log(2 * math.pi)
    target, (start, stack, box) = TARGETS[energy](), planar_flow(energy).transforms
    z, ladj = start.call_and_ladj(noise)
    found = []
    for k in range(LENGTH + 1):
        if k > 0:
            layer = Planar(stack.w[k - 1], stack.u[k - 1], stack.b[k - 1])
            z, more = layer.call_and_ladj(z)
            ladj = ladj + more
        x, last = box.call_and_ladj(z)
        log_ratio = log_base - ladj - last - target.log_prob(x)
        found.append(float(weights @ (log_base.exp() * log_ratio)))
    return found


@torch.no_grad()
def main() -> None:
    """Store all flows, and what each of them leaves."""
    found = [rows_of(energy) for energy in ENERGIES]
    for name in ("affine", "planar"):
        write(
            name,
            (
                [f"{number}"] + [f"{value:.5g}" for value in row]
                for number, tables in enumerate(found, 1)
                for row in tables[name]
            ),
        )
    left = {energy: divergences(energy) for energy in ENERGIES}
    write(
        "divergences",
        (
            [f"{number}"] + [f"{value:.5f}" for value in values]
            for number, values in enumerate(left.values(), 1)
        ),
    )
    for energy, values in left.items():
        print(f"{energy}: {values[-1]:.4f} nats")


if __name__ == "__main__":
    main()
