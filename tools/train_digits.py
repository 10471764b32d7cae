"""Train the model of the interactive figure on the VAE, and store it.

    python tools/train_digits.py

A VAE with two latent variables is fitted to the training part of the digits, black and white. The
divergence from the prior gets its full weight over the first fifth of the updates, and the
parameters with the best bound on the validation part are kept. The weights are rounded to four
decimals and stored as ``digits_encoder.csv`` and ``digits_decoder.csv`` in ``nfbook/data/``, one
row for each parameter; ``digits_map.csv`` holds the label and the mean of q of each test digit. It
takes a minute. Another processor rounds otherwise, so its weights differ.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import torch
from torch.nn import Parameter
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from nfbook.data import split_digits
from nfbook.data.minibatches import Minibatches
from nfbook.explorables.digit import DATA, black_and_white, new_vae, trained_vae
from nfbook.training import NegativeELBO, Trainer, linear_annealing, negative_bound
from nfbook.vae import VAE

UPDATES = 6000
BATCH = 100
STEP_SIZE = 3e-3


def train() -> VAE:
    """Return the model after training."""
    images, _ = split_digits()
    data, rest = black_and_white(images.train), black_and_white(images.validation)
    vae = new_vae(torch.Generator().manual_seed(0))
    optimiser = Adam(vae.parameters(), STEP_SIZE)
    trainer = Trainer(
        vae,
        NegativeELBO(warm_up=linear_annealing(0.01, UPDATES // 5)),
        Minibatches(data, size=BATCH),
        optimiser,
        schedule=CosineAnnealingLR(optimiser, UPDATES),
    )
    trainer.fit(
        UPDATES,
        validate=lambda model: {"validation": negative_bound(model, rest)},
        every=UPDATES // 40,
        progress=False,
    )
    trainer.load_best()
    return vae


def store(path: Path, parameters: Iterable[Parameter]) -> None:
    """Write one row for each parameter: its number, then its elements."""
    rows = [
        [f"{k}", *(f"{value:.4f}" for value in parameter.detach().flatten())]
        for k, parameter in enumerate(parameters)
    ]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["parameter", "values"], *rows])


def main() -> None:
    """Train, store, and print what the stored model is worth."""
    torch.set_num_threads(1)
    vae = train()
    store(DATA / "digits_decoder.csv", vae.decoder.parameters())
    store(DATA / "digits_encoder.csv", [*vae.encoder.parameters(), *vae.gaussian.parameters()])
    vae = trained_vae()
    images, labels = split_digits()
    test = black_and_white(images.test)
    means = vae.latent_means(test).tolist()
    rows = [
        [f"{label}", *(f"{z:.3f}" for z in mean)]
        for label, mean in zip(labels.test.tolist(), means, strict=True)
    ]
    with (DATA / "digits_map.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["label", "z1", "z2"], *rows])
    generator = torch.Generator().manual_seed(0)
    found = vae.evaluate(test, 1000, generator=generator, progress=False)
    print(f"test bound {found.bound.value.mean():.3f}, KL {found.kl.value.mean():.3f}")
    print(f"log-likelihood {found.log_prob.value.mean():.3f} nats")


if __name__ == "__main__":
    main()
