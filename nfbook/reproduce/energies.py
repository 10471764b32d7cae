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

`VARIANTS` are settings to compare with, some of which fail. Each changes one thing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from nfbook._checks import check_type
from nfbook.bayes import log_evidence_by_quadrature
from nfbook.flows import NICE, AffineFlow, Chain, Flow, PlanarFlow, Transformed
from nfbook.objectives import forward_kl, reverse_kl
from nfbook.progress import progress_bar
from nfbook.targets import TARGETS, EnergyTarget
from nfbook.transforms import Box, Transform

__all__ = ["QUICK", "SETTINGS", "VARIANTS", "Job", "Settings", "jobs", "make_flow", "run"]


@dataclass(frozen=True)
class Settings:
    """All that the numbers depend on.

    Attributes:
        targets: The energies, by their names in `TARGETS`.
        families: The flows: "planar" or "nice".
        lengths: The numbers of layers.
        seeds: How many runs of each, from seed 0 on.
        updates: The optimiser's steps in a run.
        batch: The draws in one step.
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
        points: How many points of the curve are kept.
        variant_family: The flow that the variants are tried with.
        variant_length: Its number of layers.
        variant_seeds: How many runs of each variant.

    Example:
        >>> Settings(updates=100).batch == Settings().batch
        True
    """

    targets: tuple[str, ...] = ("U1", "U2", "U3", "U4")
    families: tuple[str, ...] = ("planar", "nice")
    lengths: tuple[int, ...] = (2, 8, 32)
    seeds: int = 5
    updates: int = 10_000
    batch: int = 512
    step_size: float = 2e-2
    first_beta: float = 0.01
    annealed: float = 0.5
    affine: bool = True
    planar_start: str = "spread"
    hidden: tuple[int, ...] = (32,)
    support: str = "square"
    draws: int = 100_000
    points: int = 200
    variant_family: str = "planar"
    variant_length: int = 32
    variant_seeds: int = 3


SETTINGS = Settings()
# The same path in seconds.
QUICK = replace(
    SETTINGS,
    lengths=(2,),
    seeds=1,
    updates=10,
    batch=32,
    draws=100,
    points=5,
    variant_length=2,
    variant_seeds=1,
)

VARIANTS: dict[str, dict[str, Any]] = {
    "no annealing": {"annealed": 0.0},
    "no affine map": {"affine": False},
    "start near zero": {"planar_start": "near zero"},
    "start in the centre": {"planar_start": "centre"},
    "on the plane": {"support": "plane"},
}


@dataclass(frozen=True)
class Job:
    """One run, independent of all others.

    Attributes:
        target: The energy, by its name in `TARGETS`.
        family: "planar" or "nice".
        length: The number of layers.
        seed: The seed of the initial parameters and of all draws.
        variant: The settings that it has in place of the usual ones, by their name in `VARIANTS`;
            empty for the usual ones.

    Example:
        >>> Job("U1", "planar", 8, 0).name
        'U1-planar-8-0'
    """

    target: str
    family: str
    length: int
    seed: int
    variant: str = ""

    @property
    def name(self) -> str:
        """A name that no other job of the experiment has, fit for a file."""
        parts = (self.target, self.family, self.length, self.seed, *self.variant.split())
        return "-".join(map(str, parts))


def jobs(settings: Settings = SETTINGS) -> list[Job]:
    """Return all runs: those of the figure, then those of the variants.

    Example:
        >>> len(jobs())
        180
    """
    check_type("settings", settings, Settings, "Settings of the energies")
    s = settings
    figure = product(s.targets, s.families, s.lengths, range(s.seeds))
    variants = product(VARIANTS, s.targets, range(s.variant_seeds))
    return [Job(*each) for each in figure] + [
        Job(target, s.variant_family, s.variant_length, seed, variant)
        for variant, target, seed in variants
    ]


def run(job: Job, settings: Settings = SETTINGS, *, progress: bool = False) -> dict[str, Any]:
    r"""Fit one flow to one target and measure how far it is from it.

    Arguments:
        job: What to run.
        settings: How to run it.
        progress: Whether to show a bar.

    Returns:
        What JSON can hold: the job, the number of parameters, both divergences from fresh draws
        with their standard errors, :math:`\mathrm{KL}(q \,\|\, p)` as ``kl`` and
        :math:`\mathrm{KL}(p \,\|\, q)` as ``forward_kl`` (None on the plane, where there are no
        exact draws), and ``curve``: the first one during training, averaged between the updates
        that it names.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: There is no target, family or variant of that name.

    Example:
        >>> result = run(Job("U1", "nice", 2, seed=0), QUICK)
        >>> len(result["curve"]["kl"])
        5
    """
    check_type("job", job, Job, "a Job of the energies")
    check_type("settings", settings, Settings, "Settings of the energies")
    if job.variant:
        settings = replace(settings, **_named("variant", job.variant, VARIANTS))
    generator = torch.Generator().manual_seed(job.seed)
    flow = make_flow(job, settings, generator)
    target = _named("target", job.target, TARGETS)(like=torch.empty(0, dtype=torch.float64))
    exact = settings.support == "square"
    log_p = target.log_prob if exact else _tapered(target)
    curve = _train(flow, log_p, settings, generator, progress=progress)
    result = asdict(job) | {"parameters": sum(p.numel() for p in flow.parameters())}
    with torch.no_grad():
        q = flow.double()()
        kl = {"kl": reverse_kl(log_p, q, settings.draws, generator=generator)}
        if exact:
            kl["forward_kl"] = forward_kl(target, q, settings.draws // 10, generator=generator)
    for name, (value, error) in kl.items():
        result |= {name: value.item(), f"{name}_error": error.item()}
    return result | {"curve": curve}


def make_flow(job: Job, settings: Settings, generator: torch.Generator | None = None) -> Flow:
    """Return the flow of a job before it is trained.

    Arguments:
        job: What to make: its family and its length count.
        settings: How: its affine map, its initial parameters, its support.
        generator: The source of the initial parameters.

    Raises:
        ValueError: There is no family or start of that name.

    Example:
        >>> flow = make_flow(Job("U1", "planar", 8, 0), SETTINGS)
        >>> flow().support.check(torch.tensor([[4.0, 0.0], [4.1, 0.0]]))
        tensor([ True, False])
    """
    flow: Flow = _named("family", job.family, FAMILIES)(job.length, settings, generator)
    if settings.affine:
        flow = Chain(AffineFlow(2), flow)
    ending = _named("support", settings.support, ENDINGS)
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

FAMILIES: dict[str, Callable[[int, Settings, torch.Generator | None], Flow]] = {
    "planar": lambda length, settings, generator: _named("start", settings.planar_start, STARTS)(
        2, length=length, generator=generator
    ),
    "nice": lambda length, settings, generator: NICE(
        2, length=length, hidden_features=settings.hidden, generator=generator
    ),
}

# What brings a flow's draws into its support.
ENDINGS: dict[str, Transform | None] = {
    "square": Box(-EnergyTarget.bound, EnergyTarget.bound),
    "plane": None,
}


def _train(
    flow: Flow,
    log_p: Callable[[Tensor], Tensor],
    settings: Settings,
    generator: torch.Generator,
    *,
    progress: bool,
) -> dict[str, list[float]]:
    """Lower the divergence, in place, and return its curve."""
    s = settings
    optimiser = torch.optim.Adam(flow.parameters(), lr=s.step_size)
    values = torch.empty(s.updates)
    with progress_bar(s.updates, "updates", show=progress) as bar:
        for i in range(s.updates):
            done = i / s.updates
            beta = _between(s.first_beta, 1.0, done / s.annealed) if s.annealed else 1.0
            for group in optimiser.param_groups:
                group["lr"] = s.step_size * _half_cosine(done)
            z, log_q = flow().rsample_and_log_prob((s.batch,), generator=generator)
            log_density = log_p(z)
            loss = (log_q - beta * log_density).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            values[i] = (log_q - log_density).detach().mean()
            bar.update()
    pieces = values.tensor_split(min(s.points, s.updates))
    ends = torch.tensor([len(piece) for piece in pieces]).cumsum(0)
    return {"update": ends.tolist(), "kl": [piece.mean().item() for piece in pieces]}


def _between(first: float, last: float, done: float) -> float:
    return first + (last - first) * min(done, 1.0)


def _half_cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))


def _tapered(target: EnergyTarget) -> Callable[[Tensor], Tensor]:
    r"""Return the log density on the plane of an energy with walls around the square."""

    def log_density(z: Tensor) -> Tensor:
        beyond = (z.abs() - target.bound).clamp(min=0) / 0.5
        return -target.energy(z) - 0.5 * beyond.square().sum(-1)

    corner = torch.full((2,), 2 * target.bound, dtype=torch.float64)
    log_z = log_evidence_by_quadrature(log_density, -corner, corner, points=401).item()
    return lambda z: log_density(z) - log_z


def _named(what: str, name: str, among: dict[str, Any]) -> Any:
    """Return what a name stands for, or say which names there are."""
    if name not in among:
        raise ValueError(f"{what} must be one of {', '.join(among)}, got {name!r}")
    return among[name]
