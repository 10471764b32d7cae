r"""Figure 3 of Rezende and Mohamed (2015): planar flows and NICE, fitted to four energies.

For each energy U and each flow q of K layers

.. math:: \mathrm{KL}(q \,\|\, p) = \mathbb{E}_q [\log q(\mathbf{z}) + U(\mathbf{z})] + \log Z

is lowered by stochastic gradients. While it falls, the energy is multiplied by a
:math:`\beta \le 1` that rises.

What was chosen here, and may differ from the paper:

*   Only U1 can be normalised on the plane. All four targets are cut to the square
    :math:`[-4, 4]^2` that the paper's figure shows, and all flows end with a `Box`, so that they
    have that square as their support. The divergence is then that from the normalised target, it
    is finite, and with :math:`\beta = 0` the optimum is the uniform distribution.
*   A diagonal affine map, which is trained too, comes before the layers of both families.
*   NICE's networks have one hidden layer, and its masks alternate.

`VARIANTS` are settings to compare with, some of which fail. Each changes one thing. The last three
are about the gradient: how many draws it is the mean of, and whether the score is left out.

Example:
    >>> len(jobs("book")), jobs("book")[0].name
    (228, 'U1_planar_2_seed_0')
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from nfbook.bayes import log_evidence_by_quadrature
from nfbook.flows import NICE, AffineFlow, Chain, Flow, PlanarFlow, Transformed
from nfbook.objectives import forward_kl, reverse_kl
from nfbook.targets import TARGETS, EnergyTarget
from nfbook.training import Checkpoints, ReverseKL, Trainer, constant, linear_annealing
from nfbook.transforms import Box, Transform

__all__ = [
    "PROTOCOLS",
    "TITLE",
    "VARIANTS",
    "Settings",
    "divergence",
    "jobs",
    "make_flow",
    "run",
    "tapered",
    "trained_flow",
]

TITLE = "Four energies in the plane: the divergence by flow and length"
PROTOCOLS = ("book", "quick")
VARIANTS: dict[str, dict[str, Any]] = {
    "no_annealing": {"annealed": 0.0},
    "no_affine_map": {"affine": False},
    "near_zero": {"planar_start": "near zero"},
    "centre": {"planar_start": "centre"},
    "plane": {"support": "plane"},
    "small_batch": {"batch": 32},
    "large_batch": {"batch": 4096},
    "path_gradient": {"path_gradient": True},
}


@dataclass(frozen=True)
class Settings:
    """A job, and all on which it depends.

    Attributes:
        target: The energy, by its name in `TARGETS`.
        family: The flow: "planar" or "nice".
        length: The number of layers.
        seed: The seed of the initial parameters and of all draws.
        variant: What is changed, by its name in `VARIANTS`; empty for nothing.
        protocol: "book" or "quick".
        updates: The optimiser's steps.
        batch: The draws in one step.
        path_gradient: Whether the gradient leaves the score out, see `ReverseKL`.
        step_size: That of Adam at the start. It falls to zero as half a cosine.
        first_beta: The factor of the energy at the start.
        annealed: In what share of the updates beta rises to 1, linearly. With 0 it is 1 throughout.
        affine: Whether a trained diagonal affine map comes before the layers.
        planar_start: How the planar layers start. "centre": random w, and b = 0, as `PlanarFlow`
            does; "spread": hyperplanes through random points, w with norm 2; "near zero": w and u
            with standard deviation 0.1, and b = 0.
        hidden: The widths of the hidden layers in NICE's networks.
        support: "square": a `Box` at the flow's end; "plane": none, and a target on the plane,
            whose energy outside of the square is raised by half the squared distance from it, in
            units of 0.5, coordinate by coordinate.
        draws: How many fresh draws the divergence is estimated with.
        every: How many updates lie between two points of the curve.
    """

    target: str
    family: str
    length: int
    seed: int
    variant: str = ""
    protocol: str = "book"
    updates: int = 10_000
    batch: int = 512
    path_gradient: bool = False
    step_size: float = 2e-2
    first_beta: float = 0.01
    annealed: float = 0.5
    affine: bool = True
    planar_start: str = "spread"
    hidden: tuple[int, ...] = (32,)
    support: str = "square"
    draws: int = 100_000
    every: int = 500

    @property
    def name(self) -> str:
        """The name of the job within its protocol."""
        model = f"{self.target}_{self.family}_{self.length}"
        return "_".join(filter(None, [model, self.variant, f"seed_{self.seed}"]))


def jobs(protocol: str) -> list[Settings]:
    """Return the jobs of a protocol: those of the figure, one seed first, then the variants'."""
    if protocol == "quick":
        quick = Settings("U1", "planar", 2, 0, protocol="quick", updates=10, batch=32)
        quick = replace(quick, draws=100, every=5)
        plane = replace(quick, variant="plane", **VARIANTS["plane"])
        return [quick, replace(quick, family="nice"), plane]
    figure = [
        Settings(target, family, length, seed)
        for seed, length, family, target in product(
            range(5), (2, 8, 32), ("planar", "nice"), TARGETS
        )
    ]
    gradients = ("small_batch", "large_batch", "path_gradient")
    variants = [
        *(("planar", 32, variant) for variant in VARIANTS if variant not in gradients),
        *(("planar", 8, variant) for variant in gradients),
        ("nice", 2, "no_annealing"),
    ]
    return figure + [
        Settings(target, family, length, seed, variant, **VARIANTS[variant])
        for seed, (family, length, variant), target in product(range(3), variants, TARGETS)
    ]


def run(
    job: Settings, *, checkpoints: Checkpoints | None = None, progress: bool = True
) -> dict[str, Any]:
    r"""Fit one flow to one target, and measure how far it is from it.

    Returns:
        What JSON can hold: the number of parameters; both divergences from fresh draws with their
        standard errors, :math:`\mathrm{KL}(q \,\|\, p)` as ``kl`` and
        :math:`\mathrm{KL}(p \,\|\, q)` as ``forward_kl``, which is missing on the plane, where
        there are no exact draws; in ``history`` the first of them while training went on; and of
        the first seed, with no variant, the ``weights`` that `trained_flow` reads.
    """
    generator = torch.Generator().manual_seed(job.seed)
    flow = make_flow(job, generator)
    target = TARGETS[job.target](like=torch.empty(0, dtype=torch.float64))
    exact = job.support == "square"
    log_p = target.log_prob if exact else tapered(target)
    rising = round(job.annealed * job.updates)
    annealing = linear_annealing(job.first_beta, rising) if rising else constant
    optimiser = Adam(flow.parameters(), job.step_size)
    trainer = Trainer(
        flow,
        ReverseKL(log_p, job.batch, annealing, path_gradient=job.path_gradient),
        None,
        optimiser,
        schedule=CosineAnnealingLR(optimiser, job.updates),
        seed=job.seed,
    )
    history = trainer.fit(
        job.updates,
        validate=lambda _: {"kl": divergence(flow, log_p)},
        every=job.every,
        checkpoints=checkpoints,
        progress=progress,
    )
    weights = parameters_to_vector(flow.parameters())
    result: dict[str, Any] = {"parameters": len(weights)}
    if job.seed == 0 and not job.variant:
        result["weights"] = " ".join(f"{weight:.7g}" for weight in weights.tolist())
    with torch.no_grad():
        q = flow.double()()
        found = {"kl": reverse_kl(log_p, q, job.draws, generator=generator)}
        if exact:
            found["forward_kl"] = forward_kl(target, q, job.draws // 10, generator=generator)
    for name, (value, error) in found.items():
        result[name] = [value.item(), error.item()]
    curve = [round(kl, 4) for kl in history["kl"]]
    return {**result, "history": {"step": history["step"], "kl": curve}}


def trained_flow(stored: dict[str, Any]) -> Flow:
    """Return a flow as it was when its training ended, in float64.

    Arguments:
        stored: A run of the merged result that has ``weights``.
    """
    job = Settings(**stored["settings"])
    flow = make_flow(job, torch.Generator().manual_seed(job.seed))
    weights = torch.tensor([float(weight) for weight in stored["result"]["weights"].split()])
    vector_to_parameters(weights, flow.parameters())
    return flow.double()


def divergence(flow: Flow, log_p: Callable[[Tensor], Tensor]) -> float:
    """Return the divergence from a target, with fixed noise."""
    generator = torch.Generator().manual_seed(0)
    return ReverseKL(log_p, samples=2000)(flow, generator=generator).item()


def make_flow(job: Settings, generator: torch.Generator | None = None) -> Flow:
    """Return the flow of a job before it is trained."""
    flow: Flow
    if job.family == "planar":
        flow = STARTS[job.planar_start](2, length=job.length, generator=generator)
    else:
        flow = NICE(2, length=job.length, hidden_features=job.hidden, generator=generator)
    if job.affine:
        flow = Chain(AffineFlow(2), flow)
    ending = ENDINGS[job.support]
    return flow if ending is None else Transformed(flow, ending)


class _SpreadPlanar(PlanarFlow):
    """Planar layers whose hyperplanes lie about where the noise is, in all directions."""

    def start(self, length: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Return w of norm 2, no u, and b for a hyperplane through a Gaussian point."""
        w, points = torch.empty(2, length, self.features).normal_(generator=generator)
        w = 2 * w / w.norm(dim=-1, keepdim=True)
        return {"w": w, "u": torch.zeros_like(w), "b": -(w * points).sum(-1)}


class _SmallPlanar(PlanarFlow):
    """Planar layers near zero, as networks start."""

    def start(self, length: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Return w and u with standard deviation 0.1, and no b."""
        w, u = 0.1 * torch.empty(2, length, self.features).normal_(generator=generator)
        return {"w": w, "u": u, "b": torch.zeros(length)}


STARTS: dict[str, type[PlanarFlow]] = {
    "centre": PlanarFlow,
    "spread": _SpreadPlanar,
    "near zero": _SmallPlanar,
}

# What brings a flow's draws into its support.
ENDINGS: dict[str, Transform | None] = {
    "square": Box(-EnergyTarget.bound, EnergyTarget.bound),
    "plane": None,
}


def tapered(target: EnergyTarget) -> Callable[[Tensor], Tensor]:
    r"""Return the log density on the plane of an energy with walls around the square."""

    def log_density(z: Tensor) -> Tensor:
        beyond = (z.abs() - target.bound).clamp(min=0) / 0.5
        return -target.energy(z) - 0.5 * beyond.square().sum(-1)

    corner = torch.full((2,), 2 * target.bound, dtype=torch.float64)
    log_z = log_evidence_by_quadrature(log_density, -corner, corner, points=401).item()
    return lambda z: log_density(z) - log_z
