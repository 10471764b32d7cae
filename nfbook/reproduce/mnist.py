"""Binarised MNIST: how the posterior's flow and its length change the bound.

Table 2 and figure 4 of D. J. Rezende and S. Mohamed, Variational inference with normalizing flows,
ICML (2015): 40 latent variables, networks with two layers of 400 units, batches of 100 images, and
a flow of K layers whose parameters come from the encoder.

Example:
    >>> [job.name for job in jobs()][:3]
    ['planar_0_seed_0', 'planar_80_seed_0', 'planar_10_seed_0']
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR

from nfbook.data.binarised_mnist import binarised_mnist
from nfbook.data.minibatches import Minibatches
from nfbook.data.splits import Splits
from nfbook.flows import NICE, Flow, PlanarFlow
from nfbook.networks import Feedforward
from nfbook.training import Checkpoints, NegativeELBO, Trainer, linear_annealing
from nfbook.vae import VAE, BernoulliDecoder

__all__ = [
    "PROTOCOLS",
    "QUICK",
    "TITLE",
    "Job",
    "Settings",
    "jobs",
    "load",
    "make_flow",
    "make_model",
    "make_optimiser",
    "negative_bound",
    "over_images",
    "run",
]

TITLE = "Binarised MNIST: the bound by posterior and length"


@dataclass(frozen=True)
class Settings:
    """All on which a run depends, beside the job."""

    protocol: str
    updates: int
    optimiser: str
    learning_rate: float
    decay: bool
    latent_dim: int = 40
    widths: tuple[int, ...] = (400, 400)
    batch: int = 100
    annealing_updates: int = 10_000
    every: int = 2_000
    validation_samples: int = 1
    importance_samples: int = 1_000
    train_images: int = 50_000
    validation_images: int = 10_000
    test_images: int = 10_000


PROTOCOLS = {
    # The same model and data, trained as one would today, and chosen on the validation images.
    "book": Settings("book", 100_000, "Adam", 1e-3, decay=True),
    "paper": Settings("paper", 500_000, "RMSprop", 1e-5, decay=False),
}
QUICK = replace(
    PROTOCOLS["book"],
    protocol="quick",
    annealing_updates=30,
    updates=60,
    widths=(32, 32),
    latent_dim=8,
    every=30,
    importance_samples=10,
    train_images=500,
    validation_images=200,
    test_images=50,
)


@dataclass(frozen=True)
class Job:
    """One model to train: a family of flows, the number of its layers, and a seed."""

    family: str
    length: int
    seed: int

    @property
    def name(self) -> str:
        """The name of the job's folder and of its result."""
        return f"{self.family}_{self.length}_seed_{self.seed}"


def jobs() -> list[Job]:
    """Return all jobs of a protocol, in the order of their worth."""
    models = [("planar", length) for length in (0, 80, 10, 40, 20)]
    models += [("nice", length) for length in (10, 80, 20, 40)]
    return [Job(*model, seed) for seed in (0, 1, 2) for model in models]


def make_flow(
    job: Job, features: int, context: int, generator: torch.Generator | None
) -> Flow | None:
    """Return the layers of the posterior, whose parameters come from the encoder's units."""
    if job.length == 0:
        return None
    if job.family == "planar":
        return PlanarFlow(features, context, job.length, (), generator=generator)
    return NICE(features, context, job.length, (50,), generator=generator)


def make_model(job: Job, settings: Settings, pixels: int = 784) -> VAE:
    """Return the untrained model of a job."""
    generator = torch.Generator().manual_seed(job.seed)
    widths = settings.widths
    encoder = Feedforward(pixels, widths, generator=generator)
    decoder = Feedforward(settings.latent_dim, widths, pixels, generator=generator)
    flow = make_flow(job, settings.latent_dim, widths[-1], generator)
    return VAE(encoder, BernoulliDecoder(decoder), flow)


def make_optimiser(model: nn.Module, settings: Settings) -> Optimizer:
    """Return the protocol's optimiser of all parameters."""
    if settings.optimiser == "Adam":
        return Adam(model.parameters(), settings.learning_rate, fused=True)
    return RMSprop(model.parameters(), settings.learning_rate, momentum=0.9)


def run(
    job: Job, settings: Settings, *, checkpoints: Checkpoints | None = None, progress: bool = True
) -> dict[str, Any]:
    """Train the model of a job, and evaluate the best parameters on the test images."""
    data = load(settings)
    model = make_model(job, settings, data.train.shape[-1])
    optimiser = make_optimiser(model, settings)
    schedule = CosineAnnealingLR(optimiser, settings.updates) if settings.decay else None
    trainer = Trainer(
        model,
        NegativeELBO(linear_annealing(0.01, settings.annealing_updates)),
        Minibatches(data.train, size=settings.batch, seed=job.seed),
        optimiser,
        schedule=schedule,
        seed=job.seed,
    )
    history = trainer.fit(
        settings.updates,
        validate=lambda _: {"validation": negative_bound(model, data.validation)},
        every=settings.every,
        checkpoints=checkpoints,
        progress=progress,
    )
    best_step = trainer.load_best()
    generator = torch.Generator().manual_seed(job.seed)
    found = model.eval().evaluate(
        data.test, settings.importance_samples, generator=generator, progress=progress
    )
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "best_step": best_step,
        "validation": min(history["validation"]),
        "negative_bound": over_images(-found.bound.value),
        "kl": over_images(found.kl.value),
        "negative_log_prob": over_images(-found.log_prob.value),
        "importance_error": found.log_prob.standard_error.square().mean().sqrt().item()
        / math.sqrt(len(data.test)),
        "effective_sample_size": found.effective_sample_size.mean().item(),
        "train_negative_bound": negative_bound(model, data.train[: len(data.test)]),
        "history": {name: history[name] for name in history.columns},
    }


def load(settings: Settings) -> Splits:
    """Return the images, as many as the settings ask for."""
    train, validation, test = binarised_mnist()
    return Splits(
        train[: settings.train_images],
        validation[: settings.validation_images],
        test[: settings.test_images],
    )


@torch.no_grad()
def negative_bound(vae: VAE, images: Tensor) -> float:
    """Return the mean of the negative bound over images, with one draw and fixed noise."""
    generator = torch.Generator().manual_seed(0)
    loss = NegativeELBO()
    total = sum(
        loss(vae, batch, generator=generator).item() * len(batch) for batch in images.split(500)
    )
    return total / len(images)


def over_images(values: Tensor) -> list[float]:
    """Return the mean over the images and its standard error."""
    return [values.mean().item(), values.std().item() / math.sqrt(len(values))]
