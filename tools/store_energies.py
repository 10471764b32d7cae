"""Store the weights of the interactive figure that passes through trained planar flows.

    python tools/store_energies.py

They are those of the longest planar flows in the stored result ``energies``, of the first seed,
rounded to five digits: ``nfbook/data/energies_affine.csv`` has the scales and shifts with which
the flows begin, and ``nfbook/data/energies_planar.csv`` their layers. What is printed is the
divergence that the rounded flow leaves, by quadrature.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable

import torch

from nfbook.data import stored_result
from nfbook.explorables.scrub import DATA, ENERGIES, LENGTH, planar_flow
from nfbook.quadrature import grid
from nfbook.reproduce.energies import trained_flow
from nfbook.targets import TARGETS

HEADS = {
    "affine": ("energy", "log_scale1", "log_scale2", "shift1", "shift2"),
    "planar": ("energy", "layer", "w1", "w2", "u1", "u2", "b"),
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


@torch.no_grad()
def main() -> None:
    """Store all flows, and print what each of them leaves."""
    tables: dict[str, list[list[str]]] = {name: [] for name in HEADS}
    for number, energy in enumerate(ENERGIES, 1):
        for name, rows in rows_of(energy).items():
            tables[name] += [[f"{number}"] + [f"{value:.5g}" for value in row] for row in rows]
    for name, rows in tables.items():
        write(name, rows)
    corner = torch.full((2,), 6.0, dtype=torch.float64)
    z, weights = grid(-corner, corner, 301)
    log_base = -0.5 * z.square().sum(1) - torch.tensor(2 * torch.pi).log()
    for energy in ENERGIES:
        x, ladj = planar_flow(energy).call_and_ladj(z)
        log_ratio = log_base - ladj - TARGETS[energy]().log_prob(x)
        print(f"{energy}: {weights @ (log_base.exp() * log_ratio):.4f} nats")


if __name__ == "__main__":
    main()
