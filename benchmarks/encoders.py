"""A convolutional and two dense encoders of a VAE of digits: which infers better?

Each encoder has as many parameters as the others, up to one percent, with those of the linear map
from its units to q. Decoder, first weights of the decoder, batches and seeds are the same, so runs
are compared in pairs. There are two decoders: one that is trained with the encoder, and the stored
one of the latent plane, which stays as it is and whose evidence is an integral over the plane.

As a control each encoder is also trained with its inputs in another order, drawn anew for each
seed. The first weights of a dense layer are independent and have one distribution, so the order
does not change the distribution of any of its results. For the dense encoders the null hypothesis
of the control is therefore true.

The null hypotheses, stated before the runs, are that the two members of a pair may be exchanged.
They are tested by their mean difference, over all choices of signs. What is asked first is whether
convolutions change the inference gap. A difference counts if its p-value is below 0.05 divided by
the number of comparisons of that kind, which is four: two dense encoders, two decoders.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from image_loaders import paired
from stopwatch import compare, milliseconds, seconds_of_first_call, spread, take_turns
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from nfbook.data import split_digits
from nfbook.data.minibatches import Minibatches
from nfbook.explorables.digit import black_and_white, trained_vae
from nfbook.networks import ConvolutionalEncoder, Feedforward
from nfbook.quadrature import gauss_hermite, grid
from nfbook.training import NegativeELBO, Trainer, linear_annealing, negative_bound
from nfbook.vae import VAE, BernoulliDecoder

TITLE = "Encoders that see neighbouring pixels, and encoders that do not"
PIXELS, SIDE, UNITS = 64, 8, 50
STAGES = ((8, 2), (16, 2))
SETTINGS: dict[str, Any] = {
    "images": [1297, 250, 250],
    "pixels": PIXELS,
    "convolutions (channels, stride)": "(8, 2), (16, 2)",
    "units after them": UNITS,
    "three dense layers": [42, 42, UNITS],
    "one dense layer": 92,
    "latent coordinates with the trained decoder": 8,
    "its hidden units": 100,
    "latent coordinates with the fixed decoder": 2,
    "updates": 2000,
    "warm-up": 1000,
    "batch": 100,
    "step size": 0.003,
    "validated every": 100,
    "draws": 300,
    "nodes": 24,
    "level": 0.05,
    "dtype": "float32",
}
# Steps and warm-up were chosen by the validation bounds of the seeds 0 and 1.
SEEDS = range(2, 12)
ROUNDS = 7
COMPARISONS = 4
CONVOLUTIONAL = "convolutional"
ENCODERS: dict[str, Callable[[torch.Generator | None], nn.Module]] = {
    CONVOLUTIONAL: lambda g: ConvolutionalEncoder(
        (1, SIDE, SIDE), UNITS, STAGES, gated=False, generator=g
    ),
    "three dense layers": lambda g: Feedforward(
        PIXELS, SETTINGS["three dense layers"], generator=g
    ),
    "one dense layer": lambda g: Feedforward(PIXELS, [SETTINGS["one dense layer"]], generator=g),
}
DECODERS = ("trained", "fixed")
ORDERS = ("images", "shuffled")
COLUMNS = ("bound", "log-likelihood", "gap", "gap in training")


class Reordered(nn.Module):
    """A network that sees the pixels in another order."""

    order: Tensor

    def __init__(self, network: nn.Module, order: Tensor) -> None:
        super().__init__()
        self.network, self.in_features = network, len(order)
        self.out_features = network.out_features
        self.register_buffer("order", order)

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's units."""
        units: Tensor = self.network(x[..., self.order])
        return units


# ---- training ------------------------------------------------------------------------------------


def new_model(decoder: str, encoder: str, order: str, seed: int) -> VAE:
    """Return a model before it is trained. Its decoder depends on the seed alone."""
    first, second, third = (torch.Generator().manual_seed(3 * seed + k) for k in range(3))
    network = ENCODERS[encoder](second)
    if order == "shuffled":
        network = Reordered(network, torch.randperm(PIXELS, generator=third))
    if decoder == "fixed":
        return VAE(network, deepcopy(trained_vae().decoder).requires_grad_(False)).float()
    d, units = SETTINGS["latent coordinates with the trained decoder"], SETTINGS["its hidden units"]
    return VAE(network, BernoulliDecoder(Feedforward(d, (units,), PIXELS, generator=first))).float()


def new_trainer(model: VAE, images: Tensor, seed: int) -> Trainer:
    """Return what trains a model, as `nfbook.vae.fit_vae` does."""
    updates = SETTINGS["updates"]
    optimiser = Adam(
        [one for one in model.parameters() if one.requires_grad], SETTINGS["step size"], fused=True
    )
    return Trainer(
        model,
        NegativeELBO(warm_up=linear_annealing(0.01, SETTINGS["warm-up"])),
        Minibatches(images, size=SETTINGS["batch"], seed=seed),
        optimiser,
        schedule=CosineAnnealingLR(optimiser, updates),
        seed=seed,
    )


def train(decoder: str, encoder: str, order: str, seed: int) -> VAE:
    """Return a model as it was best on the validation set."""
    train, validation, _ = digits()
    model = new_model(decoder, encoder, order, seed)
    trainer = new_trainer(model, train, seed)
    trainer.fit(
        SETTINGS["updates"],
        validate=lambda model: {"validation": negative_bound(model, validation, seed)},
        every=SETTINGS["validated every"],
        progress=False,
    )
    trainer.load_best()
    return model.eval()


def digits() -> tuple[Tensor, Tensor, Tensor]:
    """Return black and white digits to train on, to choose by and to test with."""
    train, validation, test = (black_and_white(part).float() for part in split_digits()[0])
    return train, validation, test


def inference_parameters(model: VAE) -> int:
    """Return the number of parameters from x to q."""
    return sum(p.numel() for part in (model.encoder, model.gaussian) for p in part.parameters())


# ---- what is measured ----------------------------------------------------------------------------


class Plane:
    """The fixed decoder's evidence of some images, and the bounds of Gaussians, by quadrature."""

    def __init__(self, images: Tensor, points: int = 161) -> None:
        self.images, self.network = images, trained_vae().float().decoder.network
        corner = torch.tensor([6.0, 6.0])
        self.z, weights = grid(-corner, corner, points)
        logits = self.network(self.z)
        # Bernoulli: x times the logit, less log(1 + exp(logit)), over all pixels.
        log_joint = images @ logits.T - nn.functional.softplus(logits).sum(1)
        self.log_joint = log_joint + Normal(0.0, 1.0).log_prob(self.z).sum(1)
        self.shares = (self.log_joint + weights.log()).softmax(1)
        self.evidence = (self.log_joint + weights.log()).logsumexp(1)

    def bound(self, mean: Tensor, log_std: Tensor, points: int = SETTINGS["nodes"]) -> Tensor:
        """Return the bound of one Gaussian with independent coordinates for each image."""
        standard = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
        nodes, weights = gauss_hermite(standard, points)
        z = mean.unsqueeze(1) + log_std.exp().unsqueeze(1) * nodes
        logits = self.network(z)
        ink = (logits @ self.images.unsqueeze(2)).squeeze(2)
        reconstruction = (ink - nn.functional.softplus(logits).sum(2)) @ weights
        divergence = (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum(1) / 2
        return reconstruction - divergence

    def best_bound(self, steps: int = 300) -> Tensor:
        """Return the highest bound of each image, the better of two searches."""
        mean = self.shares @ self.z
        log_std = (self.shares @ self.z.square() - mean.square()).log() / 2
        mode = self.z[self.log_joint.argmax(1)]
        starts = ((mean, log_std), (mode, log_std - 0.7))
        first, second = (self._climbed(*start, steps) for start in starts)
        return torch.maximum(first, second)

    def _climbed(self, mean: Tensor, log_std: Tensor, steps: int) -> Tensor:
        free = [value.clone().requires_grad_() for value in (mean, log_std)]
        optimiser = Adam(free, 0.05)
        schedule = CosineAnnealingLR(optimiser, steps)
        for _ in range(steps):
            optimiser.zero_grad()
            (-self.bound(*free, points=12).sum()).backward()
            optimiser.step()
            schedule.step()
        with torch.no_grad():
            return self.bound(*free)


def scores(model: VAE, planes: tuple[Plane, Plane] | None) -> dict[str, float]:
    """Return the numbers of one model, in nats for each image.

    Arguments:
        model: The model.
        planes: Of the training images and of the test images, where the decoder is fixed.
    """
    train, _, test = digits()
    generator = torch.Generator().manual_seed(0)
    found: dict[str, float] = {}
    for k, (when, images) in enumerate((("in training", train), ("", test))):
        seen = model.evaluate(images, SETTINGS["draws"], generator=generator, progress=False)
        bound, evidence = seen.bound.value.mean(), seen.log_prob.value.mean()
        if planes is not None:
            found[f"by importance sampling {when}".strip()] = float(evidence)
            evidence = planes[k].evidence.mean()
            with torch.no_grad():
                q = model.posterior(images)
                assert isinstance(q, Independent)
                bound = planes[k].bound(q.base_dist.loc, q.base_dist.scale.log()).mean()
        for name, value in (
            ("bound", bound),
            ("log-likelihood", evidence),
            ("gap", evidence - bound),
        ):
            found[f"{name} {when}".strip()] = float(value)
    return found


def epochs() -> dict[str, list[float]]:
    """Return the seconds of an epoch with each encoder and the trained decoder, in turns."""
    images = digits()[0]
    updates = len(images) // SETTINGS["batch"]
    trainers = {
        name: new_trainer(new_model("trained", name, "images", 0), images, 0) for name in ENCODERS
    }

    def epoch(name: str) -> float:
        trainer = trainers[name]
        goal = trainer.step + updates
        return seconds_of_first_call(lambda: trainer.fit(goal, progress=False))

    return take_turns({name: lambda name=name: epoch(name) for name in ENCODERS}, ROUNDS)


def measure() -> dict[str, Any]:
    """Time an epoch, train each encoder from each seed, and compare them in pairs."""
    torch.set_num_threads(1)
    seconds = epochs()
    print("timed", flush=True)
    train_images, _, test = digits()
    planes = Plane(train_images), Plane(test)
    runs: dict[str, Any] = {}
    for decoder in DECODERS:
        known = planes if decoder == "fixed" else None
        for encoder in ENCODERS:
            for order in ORDERS:
                runs.setdefault(decoder, {}).setdefault(encoder, {})[order] = [
                    scores(train(decoder, encoder, order, seed), known) for seed in SEEDS
                ]
                print(decoder, encoder, order, flush=True)
    best = planes[1].best_bound()
    return {
        "parameters": {
            name: {
                "encoder": sum(p.numel() for p in make(None).parameters()),
                "from x to q": inference_parameters(new_model("trained", name, "images", 0)),
            }
            for name, make in ENCODERS.items()
        },
        **compare(seconds, CONVOLUTIONAL),
        "approximation gap": float((planes[1].evidence - best).mean()),
        "runs": runs,
        "against dense": {
            decoder: {
                name: {
                    what: compared(found[name]["images"], found[CONVOLUTIONAL]["images"], what)
                    for what in ("gap", "bound", "log-likelihood")
                }
                for name in ENCODERS
                if name != CONVOLUTIONAL
            }
            for decoder, found in runs.items()
        },
        "against shuffled": {
            decoder: {
                name: {
                    what: compared(found[name]["shuffled"], found[name]["images"], what)
                    for what in ("gap", "bound")
                }
                for name in ENCODERS
            }
            for decoder, found in runs.items()
        },
    }


def compared(
    one: list[dict[str, float]], other: list[dict[str, float]], what: str
) -> dict[str, float]:
    """Return the mean of the second less the first, its standard error, and the p-value."""
    return paired([b[what] - a[what] for a, b in zip(one, other, strict=True)])


def table(result: dict[str, Any]) -> str:
    """Sizes and times, then the numbers of each encoder, then the comparisons in pairs."""
    sizes = [
        f"| {name} | {number['encoder']:,} | {number['from x to q']:,} "
        f"| {milliseconds(result['seconds'][name])} |"
        for name, number in result["parameters"].items()
    ]
    rows = [
        f"| {decoder} | {name} | {order} | "
        + " | ".join(_mean_and_spread([one[what] for one in runs]) for what in COLUMNS)
        + f" | {_mean_and_spread([one['bound in training'] - one['bound'] for one in runs])} |"
        for decoder, found in result["runs"].items()
        for name, by_order in found.items()
        for order, runs in by_order.items()
    ]
    tests = [
        f"| {decoder} | convolutional less {name} | " + " | ".join(map(_cell, row.values())) + " |"
        for decoder, found in result["against dense"].items()
        for name, row in found.items()
    ]
    controls = [
        f"| {decoder} | {name} | " + " | ".join(map(_cell, row.values())) + " |"
        for decoder, found in result["against shuffled"].items()
        for name, row in found.items()
    ]
    return "\n".join(
        [
            "| encoder | parameters | with the map to q | an epoch |",
            "|---|---:|---:|---:|",
            *sizes,
            "",
            "Time of an epoch with the trained decoder, median over "
            f"{ROUNDS} rounds. That of the convolutional encoder over that of "
            + ", and over that of ".join(
                f"{name}: {spread(ratio)}" for name, ratio in result["ratio"].items()
            )
            + ".",
            "",
            "Nats for each test image, mean and standard deviation over the seeds. Where the "
            "decoder is trained, the log-likelihood is estimated by importance sampling; where it "
            "is fixed, it is an integral over the plane. The last two columns are about the "
            "training images.",
            "",
            "| decoder | encoder | pixels | bound | log-likelihood | gap | gap in training "
            "| bound in training less bound |",
            "|---|---|---|---:|---:|---:|---:|---:|",
            *rows,
            "",
            "With the fixed decoder the best Gaussian of each test image, found by a search of its "
            f"own, has a gap of {result['approximation gap']:.2f} nats.",
            "",
            "Differences in pairs, with their standard errors and p-values. Those of the gap count "
            f"below p = {SETTINGS['level'] / COMPARISONS:.4f}:",
            "",
            "| decoder | encoders | gap | bound | log-likelihood |",
            "|---|---|---:|---:|---:|",
            *tests,
            "",
            "The same for images less shuffled images:",
            "",
            "| decoder | encoder | gap | bound |",
            "|---|---|---:|---:|",
            *controls,
        ]
    )


def _mean_and_spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def _cell(row: dict[str, float]) -> str:
    """Return a difference, its standard error and its p-value."""
    if not row["standard error"]:
        return "the same"
    return f"{row['mean']:+.3f} ± {row['standard error']:.3f}, p = {row['p']:.3f}"
