"""Patches of CIFAR-10: how the length of the posterior's flow changes the density.

Table 3 of D. J. Rezende and S. Mohamed, Variational inference with normalizing flows, ICML (2015):
patches of 8 by 8 pixels in three colours, 30 latent variables, a logit-normal likelihood, and
planar flows of length 0, 2, 5 and 10. The authors train on patches of all 50,000 training images
and report on the 10,000 test images. Here are the first 4,000 training images, split by image, see
`nfbook.data.cifar_patches`: the numbers can be compared in kind, and not one by one.

All are densities of pixels between 0 and 1, dequantised with uniform noise. The patches of an image
are alike, so the standard errors are those of means over images.

Example:
    >>> [job.name for job in jobs("book")][:4]
    ['planar_0_seed_0', 'planar_10_seed_0', 'planar_2_seed_0', 'planar_5_seed_0']
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from nfbook.data.cifar import cifar_patches
from nfbook.data.minibatches import Minibatches
from nfbook.data.scikit import split_digits
from nfbook.data.splits import Splits
from nfbook.flows import PlanarFlow
from nfbook.networks import Feedforward
from nfbook.reproduce.training import parameter_groups, train_and_evaluate
from nfbook.training import Checkpoints, NegativeELBO, Trainer, linear_annealing
from nfbook.transforms import DataUnits, dequantise
from nfbook.vae import VAE, LogitNormalDecoder, Standardised

__all__ = ["DATA", "PROTOCOLS", "TITLE", "Settings", "jobs", "make_model", "run"]

TITLE = "Patches of CIFAR-10: the density by length"
PROTOCOLS = ("book", "quick")
DATA = cifar_patches


@dataclass(frozen=True)
class Settings:
    """A job, and all on which it depends."""

    length: int
    seed: int
    protocol: str = "book"
    data: str = "cifar10"
    levels: int = 256
    updates: int = 100_000
    learning_rate: float = 1e-3
    flow_rate: float = 0.1  # as on MNIST
    annealing_updates: int = 2_000
    path_gradient: bool = True
    latent_dim: int = 30
    widths: tuple[int, ...] = (400, 400)
    batch: int = 100
    every: int = 2_000
    importance_samples: int = 1_000
    parts: int = 16

    @property
    def name(self) -> str:
        """The name of the job within its protocol."""
        return f"planar_{self.length}_seed_{self.seed}"


def jobs(protocol: str) -> list[Settings]:
    """Return the jobs of a protocol, in the order of their worth."""
    if protocol == "quick":
        quick = Settings(2, 0, "quick", "digits", 17, updates=60, every=30, annealing_updates=30)
        quick = replace(quick, widths=(32, 32), latent_dim=8, importance_samples=10, parts=1)
        return [quick, replace(quick, length=0)]
    return [Settings(length, seed) for seed in (0, 1, 2) for length in (0, 10, 2, 5)]


def make_model(job: Settings, units: DataUnits) -> VAE:
    """Return the untrained model of a job, for data with these units."""
    generator = torch.Generator().manual_seed(job.seed)
    d, dim = job.latent_dim, units.features
    encoder = Feedforward(dim, job.widths, generator=generator)
    decoder = Feedforward(d, job.widths, 2 * dim, generator=generator)
    flow = None
    if job.length:
        flow = PlanarFlow(d, job.widths[-1], job.length, (), generator=generator)
    return VAE(Standardised(encoder, units), LogitNormalDecoder(decoder), flow)


def run(
    job: Settings, *, checkpoints: Checkpoints | None = None, progress: bool = True
) -> dict[str, Any]:
    """Train the model of a job, and evaluate the best parameters on the test patches."""
    data = cifar_patches() if job.data == "cifar10" else split_digits()[0]
    # What is compared sees the same noise every time; training sees new noise in every batch.
    noise = torch.Generator().manual_seed(0)
    fixed = Splits(*(_dequantised(part, job, noise) for part in data))
    model = make_model(job, DataUnits.from_data(fixed.train))
    bound = NegativeELBO(
        linear_annealing(0.01, job.annealing_updates), path_gradient=job.path_gradient
    )

    def loss(
        model: nn.Module, patches: Tensor, step: int, generator: torch.Generator | None
    ) -> Tensor:
        return bound(model, _dequantised(patches, job, generator), step, generator)

    optimiser = Adam(parameter_groups(model, job.learning_rate, job.flow_rate), fused=True)
    trainer = Trainer(
        model,
        loss,
        Minibatches(data.train, size=job.batch, seed=job.seed),
        optimiser,
        schedule=CosineAnnealingLR(optimiser, job.updates),
        seed=job.seed,
    )
    return train_and_evaluate(
        trainer, job, fixed, parts=job.parts, checkpoints=checkpoints, progress=progress
    )


def _dequantised(patches: Tensor, job: Settings, generator: torch.Generator | None) -> Tensor:
    return dequantise(patches, job.levels, dtype=torch.float32, generator=generator)
