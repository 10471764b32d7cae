"""The gap of an NF-VAE against the length of its flow.

The flow's parameters come from the encoder, or are the same for all observations. The model is
`nfbook.vae.Parabola`, which has nothing to train and whose evidence is known, so the whole gap is
the posterior's. The expectations are sums over a fine grid, not over draws.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from stopwatch import one_core
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from nfbook.cases import parabola_gaps
from nfbook.data.minibatches import Minibatches
from nfbook.flows import PlanarFlow
from nfbook.networks import Feedforward
from nfbook.plotting import COLORS, use_style
from nfbook.training import NegativeELBO, Trainer
from nfbook.vae import VAE, Parabola

TITLE = "The gap of an NF-VAE"
SETTINGS: dict[str, Any] = {
    "K": [0, 2, 4],
    "x": [-1.0, 1.0, 3.0, 5.0],
    "parameters": ["from the encoder", "the same for all x"],
    "observations": 5000,
    "hidden layers": "two of 32 units",
    "updates": 1000,
    "batch": 100,
    "learning rate": 1e-2,
    "largest gradient": 5.0,
    "observations in the mean gap": 100,
    "dtype": "float64",
}
SEEDS = range(4)
ALT = "Two lines against K from 0 to 4: one falls to a small gap, the other stays far above it."
UNITS = 32


def measure() -> dict[str, Any]:
    """Train each model from each seed, and return its gaps in nats."""
    fresh = Parabola()
    test = observe(fresh, SETTINGS["observations in the mean gap"], 1000)
    places = torch.tensor(SETTINGS["x"], dtype=torch.float64).unsqueeze(1)
    found: dict[str, Any] = {}
    with one_core():
        for shared, name in enumerate(SETTINGS["parameters"]):
            found[name] = {}
            for length in SETTINGS["K"]:
                if shared and not length:
                    found[name]["0"] = found["from the encoder"]["0"]
                    continue
                models = [train(length, bool(shared), seed) for seed in SEEDS]
                found[name][str(length)] = {
                    "gaps": [parabola_gaps(model, places).tolist() for model in models],
                    "mean": [float(parabola_gaps(model, test, 61).mean()) for model in models],
                }
    return found


def observe(model: Parabola, count: int, seed: int) -> Tensor:
    """Return observations drawn from the model."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(count, 2, generator=g, dtype=torch.float64)
    noise = torch.randn(count, 1, generator=g, dtype=torch.float64)
    return z[:, :1].square() + z[:, 1:] + model.noise * noise


def train(length: int, shared: bool, seed: int) -> VAE:
    """Return a model after training."""
    g = torch.Generator().manual_seed(seed)
    encoder = Feedforward(1, (UNITS, UNITS), generator=g)
    context = 0 if shared else UNITS
    flow = PlanarFlow(2, context, length, (), generator=g) if length else None
    vae = VAE(encoder, Parabola(), flow).double()
    optimiser = Adam(vae.parameters(), SETTINGS["learning rate"], fused=True)
    trainer = Trainer(
        vae,
        NegativeELBO(),
        Minibatches(
            observe(Parabola(), SETTINGS["observations"], seed), size=SETTINGS["batch"], seed=seed
        ),
        optimiser,
        schedule=CosineAnnealingLR(optimiser, SETTINGS["updates"]),
        clip=SETTINGS["largest gradient"],
        seed=seed,
    )
    trainer.fit(SETTINGS["updates"], progress=False)
    return vae.eval()


def table(result: dict[str, Any]) -> str:
    """One row a model: the mean gap, its spread over the seeds, and the gap at each x."""
    head = [f"x = {x:g}" for x in SETTINGS["x"]]
    rows = [
        "| parameters of the flow | K | mean gap | " + " | ".join(head) + " |",
        "|---|" + "---:|" * (2 + len(head)),
    ]
    for name, by_length in result.items():
        for length, found in by_length.items():
            means, gaps = torch.tensor(found["mean"]), torch.tensor(found["gaps"])
            each = " | ".join(f"{gap:.3f}" for gap in gaps.mean(0).tolist())
            rows.append(f"| {name} | {length} | {means.mean():.3f} ± {means.std():.3f} | {each} |")
    return (
        "\n".join(rows) + "\n\nNats, on average over the seeds; after ± the standard deviation "
        "between them. With K = 0 there is no flow, and both are the same model."
    )


def plot(result: dict[str, Any]) -> Figure:
    """The mean gap against K."""
    use_style()
    figure, ax = plt.subplots()
    looks = {"from the encoder": ("o-", "variational"), "the same for all x": ("s--", "estimate")}
    for name, (look, color) in looks.items():
        means = [sum(one["mean"]) / len(one["mean"]) for one in result[name].values()]
        ax.plot(SETTINGS["K"], means, look, color=COLORS[color], label=name)
    ax.set(xlabel="planar layers $K$", ylabel="mean gap (nats)", xticks=SETTINGS["K"])
    ax.legend()
    return figure
