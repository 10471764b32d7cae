"""The same flows of five libraries, trained the same way: how probable they make rows held out."""

from __future__ import annotations

import math
from itertools import product
from statistics import mean, stdev
from types import SimpleNamespace
from typing import Any

import torch
from peers import FAMILIES, LIBRARIES, PACKAGES, WIDTHS, Contestant, contestant
from stopwatch import one_core
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from nfbook.data import Minibatches
from nfbook.reproduce.tables import TABLES, Columns
from nfbook.training import Trainer, TrainingError

TITLE = "Rows held out, by library"
SEEDS = [0, 1, 2]
SETTINGS = {
    "tables": list(TABLES),
    "transforms": 5,
    "hidden layers": [*WIDTHS],
    "updates": 1000,
    "batch": 512,
    "step size": 1e-3,
    "clip": 5.0,
    "draws": 4,
}
PEERS = PACKAGES


def measure() -> dict[str, Any]:
    """Train each library's flow of each family on each table, once a seed."""
    with one_core():
        return {table: _measure(Columns(load())) for table, load in TABLES.items()}


def _measure(columns: Columns) -> dict[str, Any]:
    found: dict[str, Any] = {family: {} for family in FAMILIES}
    for family, library in product(FAMILIES, LIBRARIES):
        runs = [_held_out(columns, family, library, seed) for seed in SEEDS]
        one = contestant(library, family, columns.features, SETTINGS["transforms"])
        found[family][library] = {
            "parameters": one.count(columns.held_out("test")[0, :10].float()),
            "nats": runs,
        }
        print(f"  {family}, {library}: {found[family][library]}", flush=True)
    return found


def _held_out(columns: Columns, family: str, library: str, seed: int) -> float | None:
    """Return the mean over the test rows after training.

    None where a loss was not finite, which ends a training, or that mean.
    """
    one = contestant(library, family, columns.features, SETTINGS["transforms"], seed)
    optimiser = Adam(one.module.parameters(), SETTINGS["step size"])

    def loss(_: Any, rows: Tensor, step: int, generator: torch.Generator | None) -> Tensor:
        return -one.log_prob(columns.standardise(rows, generator).float()).mean()

    trainer = Trainer(
        one.module,
        loss,
        Minibatches(columns.parts["train"], size=SETTINGS["batch"], seed=seed),
        optimiser,
        schedule=CosineAnnealingLR(optimiser, SETTINGS["updates"]),
        clip=SETTINGS["clip"],
        seed=seed,
    )
    try:
        trainer.fit(SETTINGS["updates"], progress=False)
    except TrainingError:
        return None
    score, _ = columns.log_probability(_in_float32(one), "test", SETTINGS["draws"])
    return score if math.isfinite(score) else None


def _in_float32(one: Contestant) -> Any:
    return SimpleNamespace(log_prob=lambda x: one.log_prob(x.float()).double())


def table(result: dict[str, Any]) -> str:
    """One row a family and table, one column a library: mean and spread over the seeds."""
    lines = [
        "| | | " + " | ".join(LIBRARIES) + " |",
        "|---|---" + "|---:" * len(LIBRARIES) + "|",
    ]
    for name, families in result.items():
        for family, libraries in families.items():
            cells = " | ".join(_cell(one["nats"]) for one in libraries.values())
            lines.append(f"| {name} | {FAMILIES[family]} | {cells} |")
    lines += [
        "",
        f"Nats for a row held out, higher is better: the mean over {len(SEEDS)} seeds and the "
        "standard deviation between them. A run does not count where a loss in training or the "
        "mean was not finite, and then the number of the others is given. All are scored on the "
        "same rows.",
    ]
    return "\n".join(lines)


def _cell(nats: list[float | None]) -> str:
    ended = [value for value in nats if value is not None]
    if not ended:
        return "not finite"
    cell = f"{mean(ended):.2f}" + (f" ± {stdev(ended):.2f}" if len(ended) > 1 else "")
    return cell if len(ended) == len(nats) else f"{cell} ({len(ended)} of {len(nats)})"
