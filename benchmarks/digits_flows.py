"""Densities of handwritten digits: a transformer flow beside flows with as many parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from statistics import mean, stdev
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from nfbook.data import split_digits
from nfbook.flows import MAF, Flow, RealNVP, TransformerFlow
from nfbook.objectives import bits_per_dimension
from nfbook.plotting import draw_images, use_style
from nfbook.transforms import Compose, DataUnits, dequantise, pixel_box, quantise

TITLE = "Flows of handwritten digits with equally many parameters"
# What each family is made with, so that the numbers of parameters agree within two percent.
MODELS: dict[str, tuple[Callable[..., Flow], dict[str, Any]]] = {
    "transformer": (TransformerFlow, {"length": 4, "hidden_features": [64, 64], "patch": 4}),
    "maf": (MAF, {"length": 4, "hidden_features": [68, 68]}),
    "realnvp": (RealNVP, {"length": 8, "hidden_features": [58, 58]}),
}
LEVELS, PIXELS, SIDE, PATCH = 17, 64, 8, 2
SETTINGS = {
    "images": [1297, 250, 250],
    "levels": LEVELS,
    "alpha": 0.05,
    "patch": [PATCH, PATCH],
    **{name: options for name, (_, options) in MODELS.items()},
    "steps": 600,
    "batch": 64,
    "learning rate": 0.002,
    "validated every": 50,
    "draws of the noise": 4,
    "dtype": "float32",
}
SEEDS = [0, 1, 2]
GAUSSIAN = "gaussian"
SHOWN = 10
ALT = "Ten digits of the test set, and ten that each flow drew with the first seed."


def measure() -> dict[str, Any]:
    """Train every family with every seed, and ask what it gives to images that are no digits."""
    cut = patches_first()
    digits = {part: images[:, cut] for part, images in split_digits()[0]._asdict().items()}
    units = pixel_units(digits["train"])
    sets = strange(digits)
    result: dict[str, Any] = {"bits of the images": {}, "parameters": {}, "samples": {}}
    result["test"] = digits["test"][:SHOWN, cut.argsort()].tolist()
    gaussian = fit_gaussian(digits["train"], units)
    result["bits of the images"][GAUSSIAN] = [scores(gaussian, units, sets)]
    result["parameters"][GAUSSIAN] = PIXELS * (PIXELS + 3) // 2
    for name in MODELS:
        flows = [train(name, seed, digits, units) for seed in SEEDS]
        result["parameters"][name] = count(flows[0])
        result["bits of the images"][name] = [
            scores(lambda y, flow=flow: flow().log_prob(y), units, sets) for flow in flows
        ]
        with torch.no_grad():
            drawn = flows[0]().sample((SHOWN,), generator=torch.Generator().manual_seed(1))
        result["samples"][name] = quantise(units(drawn), LEVELS)[:, cut.argsort()].tolist()
    return result


def patches_first() -> Tensor:
    """Return the order of pixels in which squares of four follow each other, row by row."""
    places = torch.arange(PIXELS).reshape(SIDE // PATCH, PATCH, SIDE // PATCH, PATCH)
    return places.transpose(1, 2).flatten()


def pixel_units(images: Tensor) -> Compose:
    """Return the map from standardised logits to pixels in [0, 1]."""
    box = pixel_box(SETTINGS["alpha"])
    noisy = dequantise(images, LEVELS, generator=torch.Generator().manual_seed(0))
    return Compose([DataUnits.from_data(box.inv(noisy)), box])


def strange(digits: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the test images, and images made of them that nobody wrote."""
    test = digits["test"]
    back = patches_first().argsort()
    turned = test[:, back].unflatten(1, (SIDE, SIDE)).mT.flatten(1)[:, patches_first()]
    order = torch.randperm(PIXELS, generator=torch.Generator().manual_seed(0))
    middle = digits["train"].double().mean(0).round().to(torch.uint8)
    return {
        "test": test,
        "half the ink": test // 2,
        "two at once": (test.int() + test.roll(1, 0).int()).div(2, rounding_mode="floor").byte(),
        "transposed": turned,
        "pixels in another order": test[:, order],
        "mean image": middle.expand(len(test), -1),
        "blank": torch.zeros_like(test),
    }


def fit_gaussian(images: Tensor, units: Compose) -> Callable[[Tensor], Tensor]:
    """Return the log-density of a Gaussian with the mean and covariance of noisy images."""
    generator = torch.Generator().manual_seed(1)
    noisy = [dequantise(images, LEVELS, generator=generator) for _ in range(20)]
    y = units.inv(torch.cat(noisy)).double()
    gaussian = MultivariateNormal(y.mean(0), y.T.cov(correction=0))
    return lambda y: gaussian.log_prob(y.double()).float()


def train(name: str, seed: int, digits: dict[str, Tensor], units: Compose) -> Flow:
    """Train a flow by maximum likelihood, and return it as it was best on the validation set."""
    generator = torch.Generator().manual_seed(seed)
    family, options = MODELS[name]
    flow = family(PIXELS, generator=generator, **options)
    optimiser = torch.optim.Adam(flow.parameters(), lr=SETTINGS["learning rate"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, SETTINGS["steps"])
    best, state = math.inf, {}
    for step in range(1, SETTINGS["steps"] + 1):
        rows = torch.randint(len(digits["train"]), (SETTINGS["batch"],), generator=generator)
        x = dequantise(digits["train"][rows], LEVELS, generator=generator)
        loss = -flow().log_prob(units.inv(x)).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(flow.parameters(), 10.0)
        optimiser.step()
        schedule.step()
        if step % SETTINGS["validated every"] == 0:
            bits = scores(lambda y: flow().log_prob(y), units, {"": digits["validation"]})[""]
            if bits < best:
                best, state = bits, deepcopy(flow.state_dict())
    flow.load_state_dict(state)
    return flow


@torch.no_grad()
def scores(
    log_prob: Callable[[Tensor], Tensor], units: Compose, sets: dict[str, Tensor]
) -> dict[str, float]:
    """Return the mean bits for each dimension of some sets of images, over draws of the noise."""
    found = {}
    for what, images in sets.items():
        generator = torch.Generator().manual_seed(2)
        total = 0.0
        for _ in range(SETTINGS["draws of the noise"]):
            x = dequantise(images, LEVELS, generator=generator)
            y, ladj = units.inv.call_and_ladj(x)
            total += float(bits_per_dimension(log_prob(y) + ladj, PIXELS, LEVELS).mean())
        found[what] = total / SETTINGS["draws of the noise"]
    return found


def count(flow: Flow) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in flow.parameters())


def table(result: dict[str, Any]) -> str:
    """Bits for each pixel, mean and standard deviation over seeds: one row a set of images."""
    names = list(result["parameters"])
    lines = [f"| | {' | '.join(names)} |", "|---" + "|---:" * len(names) + "|"]
    sizes = [f"{result['parameters'][name]:,}" for name in names]
    lines.append(f"| parameters | {' | '.join(sizes)} |")
    for what in result["bits of the images"][GAUSSIAN][0]:
        cells = [
            _mean_and_spread([one[what] for one in result["bits of the images"][name]])
            for name in names
        ]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    lines += [
        "",
        "Bits for each pixel, where uniform images need "
        f"{math.log2(LEVELS):.2f}: mean and standard deviation over {len(SEEDS)} seeds, but one "
        "Gaussian. Each flow is taken as it was best on the validation set.",
    ]
    return "\n".join(lines)


def _mean_and_spread(values: list[float]) -> str:
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def plot(result: dict[str, Any]) -> Figure:
    """Show digits of the test set, and those that each flow drew."""
    use_style()
    rows = {"test set": result["test"], **result["samples"]}
    figure, axes = plt.subplots(len(rows), 1, figsize=(6, 0.75 * len(rows)))
    for ax, (name, images) in zip(axes, rows.items(), strict=True):
        draw_images(ax, torch.tensor(images, dtype=torch.float64), columns=SHOWN)
        ax.text(-2, SIDE / 2, name, ha="right", va="center")
    return figure
