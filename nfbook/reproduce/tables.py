r"""Two tables of measurements: how probable each family of densities makes the rows held out.

The rows are rounded measurements. With noise over the cells that were rounded to them they have a
density, and

.. math:: \mathbb{E}_u \log p(\mathbf{y}) + \sum_j \log s_j

is a lower bound on the logarithm of the probability of a row as it was written down, where
:math:`s_j` is the spacing of column j, see `dequantise_table`. It has no unit that a column could
be measured in, and higher is better.

A Gaussian and mixtures of Gaussians are fitted by EM, the number of components chosen on the
validation rows. The flows are trained by maximum likelihood, with new noise in every batch, and the
parameters that did best on the validation rows are kept. All see standardised columns.

Example:
    >>> [job.name for job in jobs("book")][:3]
    ['diamonds_gaussian_seed_0', 'diamonds_mixture_seed_0', 'diamonds_realnvp_seed_0']
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from nfbook.data import Minibatches, Splits, Table, diamonds, weather
from nfbook.estimators import grouped_mean
from nfbook.flows import CNF, MAF, Flow, NeuralSplineAutoregressive, NeuralSplineCoupling, RealNVP
from nfbook.latent import GaussianMixture
from nfbook.training import Checkpoints, MaximumLikelihood, Trainer
from nfbook.transforms import DataUnits, dequantise_table
from nfbook.transforms.data_units import mean_and_log_std

__all__ = [
    "FAMILIES",
    "PROTOCOLS",
    "TABLES",
    "TITLE",
    "Columns",
    "Density",
    "Settings",
    "jobs",
    "make_flow",
    "run",
]

TITLE = "Two tables: the probability of rows held out, by family of densities"
PROTOCOLS = ("book", "quick")
TABLES: dict[str, Callable[[], Table]] = {"diamonds": diamonds, "weather": weather}
FAMILIES: dict[str, Callable[..., Flow]] = {
    "realnvp": RealNVP,
    "maf": MAF,
    "spline_coupling": NeuralSplineCoupling,
    "spline_autoregressive": NeuralSplineAutoregressive,
    "cnf": CNF,
}


class Density(Protocol):
    """A distribution of torch, or a mixture that was fitted by EM."""

    def log_prob(self, x: Tensor, /) -> Tensor:
        """Return the log density at points, `(*, D)`."""


@dataclass(frozen=True)
class Settings:
    """A job, and all on which it depends.

    Attributes:
        table: The data, by its name in `TABLES`.
        model: "gaussian", "mixture", or a flow by its name in `FAMILIES`.
        seed: The seed of the start and of the noise while training.
        protocol: "book" or "quick".
        variant: What is changed: "small" or "long", or nothing.
        rows: How many rows of each part are used; all with None.
        components: The numbers of components that a mixture may have.
        length: The number of a flow's layers.
        hidden: The widths of the hidden layers in its networks.
        updates: The optimiser's steps.
        batch: The rows in one step.
        step_size: That of Adam at the start. It falls to zero as half a cosine.
        clip: The largest norm of a gradient.
        every: How many updates lie between two looks at the validation rows.
        draws: How often each row of a part held out is given noise.
    """

    table: str
    model: str
    seed: int
    protocol: str = "book"
    variant: str = ""
    rows: int | None = None
    components: tuple[int, ...] = (5, 10, 20, 40, 80)
    length: int = 6
    hidden: tuple[int, ...] = (128, 128)
    updates: int = 6_000
    batch: int = 512
    step_size: float = 1e-3
    clip: float = 5.0
    every: int = 250
    draws: int = 4

    @property
    def name(self) -> str:
        """The name of the job within its protocol."""
        model = f"{self.table}_{self.model}"
        return "_".join(filter(None, [model, self.variant, f"seed_{self.seed}"]))


def jobs(protocol: str) -> list[Settings]:
    """Return the jobs of a protocol: one seed of all models, then the others, then two changes."""
    models = ("gaussian", "mixture", *FAMILIES)
    if protocol == "quick":
        quick = Settings("diamonds", "gaussian", 0, "quick", rows=500, components=(2, 3), length=2)
        quick = replace(quick, hidden=(8,), updates=4, batch=50, every=2, draws=1)
        return [replace(quick, model=model) for model in models]
    every = [
        Settings(table, model, seed) for seed, table, model in product(range(3), TABLES, models)
    ]
    # It has one layer, which lasts as long as the solver needs, and a step takes so long that a
    # third of them must do.
    every = [replace(job, length=1, updates=2_000) if job.model == "cnf" else job for job in every]
    # Whether a flow has too many parameters for the rows, or too few updates.
    maf = [job for job in every if job.model == "maf"]
    small = [replace(job, variant="small", hidden=(32, 32)) for job in maf]
    return every + small + [replace(job, variant="long", updates=30_000) for job in maf]


def run(
    job: Settings, *, checkpoints: Checkpoints | None = None, progress: bool = True
) -> dict[str, Any]:
    """Fit one model to one table.

    Returns:
        What JSON can hold: the number of free parameters, and the mean over the rows held out with
        its standard error, as ``validation`` and ``test``; where the table has groups, also the
        size and the mean of each group of the test rows; of a mixture the number of components, of
        a flow the step with the best parameters and the training's history, where ``validation`` is
        a loss, minus that mean.
    """
    columns = Columns(TABLES[job.table](), job.rows)
    if job.model in FAMILIES:
        density, found = _trained(job, columns, checkpoints, progress)
    else:
        density, found = _by_em(job, columns, progress)
    for part in ("validation", "test"):
        sizes, means = columns.by_group(density, part, job.draws)
        found[part] = [one.item() for one in grouped_mean(sizes, means)]
    if columns.groups is not None:
        found["test_groups"] = {"sizes": sizes.tolist(), "means": means.tolist()}
    return found


class Columns:
    """A table as densities see it: with noise, and in standard units.

    Arguments:
        table: The table.
        rows: How many rows of each part are used; all with None.

    Attributes:
        log_cell: The logarithm of the volume of a row's cell, in standard units.
    """

    def __init__(self, table: Table, rows: int | None = None) -> None:
        self.spacing = table.spacing
        self.parts = _cut(table.rows, rows)
        self.groups = table.groups and _cut(table.groups, rows)
        mean, log_std = mean_and_log_std(self.parts["train"])
        self.units = DataUnits(mean, log_std)
        self.log_cell = float((table.spacing.log() - log_std).sum())

    @property
    def features(self) -> int:
        """The number of columns."""
        return len(self.spacing)

    def standardise(self, rows: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return rows with noise, in standard units, `(n, D)`, float64."""
        noisy: Tensor = self.units.inv(dequantise_table(rows, self.spacing, generator=generator))
        return noisy

    def held_out(self, part: str, draws: int = 1) -> Tensor:
        """Return a part with noise that is the same every time, `(draws, n, D)`."""
        generator = torch.Generator().manual_seed(0)
        rows = self.parts[part]
        return torch.stack([self.standardise(rows, generator) for _ in range(draws)])

    def log_probability(self, density: Density, part: str, draws: int) -> list[float]:
        """Return the mean of the bound over a part's rows, and its standard error over groups."""
        return [one.item() for one in grouped_mean(*self.by_group(density, part, draws))]

    @torch.no_grad()
    def by_group(self, density: Density, part: str, draws: int) -> tuple[Tensor, Tensor]:
        """Return how many rows each group of a part has, and the mean of the bound over them."""
        log_p = [density.log_prob(z) for z in self.held_out(part, draws)]
        each = torch.stack(log_p).mean(0) + self.log_cell
        if self.groups is None:
            return torch.ones_like(each), each
        _, group, sizes = self.groups[part].unique(return_inverse=True, return_counts=True)
        sums = torch.zeros(len(sizes), dtype=each.dtype).index_add(0, group, each)
        return sizes.to(each), sums / sizes


def _cut(parts: Splits, rows: int | None) -> dict[str, Tensor]:
    return {name: part[:rows] for name, part in parts._asdict().items()}


def make_flow(job: Settings, features: int) -> Flow:
    """Return the flow of a job before it is trained."""
    generator = torch.Generator().manual_seed(job.seed)
    return FAMILIES[job.model](features, 0, job.length, job.hidden, generator=generator)


def _trained(
    job: Settings, columns: Columns, checkpoints: Checkpoints | None, progress: bool
) -> tuple[Density, dict[str, Any]]:
    flow = make_flow(job, columns.features)
    likelihood = MaximumLikelihood()
    watched = columns.held_out("validation")[0].float()

    def loss(flow: nn.Module, rows: Tensor, step: int, generator: torch.Generator | None) -> Tensor:
        return likelihood(flow, columns.standardise(rows, generator).float(), step, generator)

    @torch.no_grad()
    def validate(flow: nn.Module) -> dict[str, float]:
        return {"validation": likelihood(flow, watched).item() - columns.log_cell}

    optimiser = Adam(flow.parameters(), job.step_size, fused=True)
    trainer = Trainer(
        flow,
        loss,
        Minibatches(columns.parts["train"], size=job.batch, seed=job.seed),
        optimiser,
        schedule=CosineAnnealingLR(optimiser, job.updates),
        clip=job.clip,
        seed=job.seed,
    )
    history = trainer.fit(
        job.updates, validate=validate, every=job.every, checkpoints=checkpoints, progress=progress
    )
    found = {
        "parameters": sum(p.numel() for p in flow.parameters()),
        "best_step": trainer.load_best(),
        "history": {name: history[name] for name in history.columns},
    }
    return trainer.model.double()(), found


def _by_em(job: Settings, columns: Columns, progress: bool) -> tuple[Density, dict[str, Any]]:
    generator = torch.Generator().manual_seed(job.seed)
    z = columns.standardise(columns.parts["train"], generator)
    watched = columns.held_out("validation")[0]
    fits = [
        GaussianMixture.fit(z, count, restarts=3, generator=generator, progress=progress).model
        for count in (job.components if job.model == "mixture" else (1,))
    ]
    best = max(fits, key=lambda mixture: mixture.log_prob(watched).mean().item())
    return best, {"parameters": best.num_parameters, "components": best.num_components}
