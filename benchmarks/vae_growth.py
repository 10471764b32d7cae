"""How time and memory of a training step of the NF-VAE grow with each of its sizes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from peers import PlanarContestant, clear
from stopwatch import (
    compare,
    exponent,
    milliseconds,
    one_core,
    peak_memory,
    seconds_per_call,
    take_turns,
)
from torch import nn
from torch.nn import functional
from vae_peers import LEARNING_RATE, PIXELS, images, linear, plain

from nfbook.plotting import use_style
from nfbook.reproduce.mnist import Settings, make_model
from nfbook.training import NegativeELBO
from nfbook.transforms import PlanarStack

TITLE = "Time and memory of a step of the NF-VAE against its sizes"
# The sizes of the model, and those that one of them at a time takes instead.
BASE = {"K": 40, "batch": 100, "D": 40, "N": 400, "L": 2}
AXES = {
    "K": [10, 20, 40, 80, 160],
    "batch": [25, 50, 100, 200, 400],
    "D": [10, 20, 40, 80, 160],
    "N": [100, 200, 400, 800, 1600],
    "L": [1, 2, 4, 8],
}
SETTINGS = {
    "pixels": PIXELS,
    **{f"{axis} (else {BASE[axis]})": sizes for axis, sizes in AXES.items()},
    "dtype": "float32",
    "cores": 1,
}
ROUNDS = 5
MEANINGS = {
    "K": "planar layers K",
    "batch": "batch",
    "D": "latent dimension D",
    "N": "hidden units N",
    "L": "hidden layers L",
}
STEP, NETWORKS, MAP, LAYERS = "whole step", "encoder and decoder", "linear map", "planar layers"
LOOKS = {STEP: ("C0", "o"), NETWORKS: ("#8C8C8C", "s"), MAP: ("C2", "^"), LAYERS: ("C1", "D")}
# Memory is measured against these.
HELD = ("K", "batch", "D")
ALT = (
    "Five plots with logarithmic axes, one for each size of the model: time against that size, one "
    "line for the whole step and one for each of its parts."
)


def measure() -> dict[str, Any]:
    """Time the step and its parts, and find the peak of its memory, at every size."""
    with one_core():
        seconds = {
            axis: [_seconds(tuple((BASE | {axis: size}).values())) for size in sizes]
            for axis, sizes in AXES.items()
        }
        bytes_held = {
            axis: {
                name: [_memory(tuple((BASE | {axis: size} | more).values())) for size in AXES[axis]]
                for name, more in ((STEP, {}), ("without a flow", {"K": 0}))
            }
            for axis in HELD
        }
    return {
        "seconds": {
            axis: {part: [row[part] for row in rows] for part in (STEP, NETWORKS, MAP, LAYERS)}
            for axis, rows in seconds.items()
        },
        "bytes": bytes_held,
    }


# The base is a point of every axis.
@cache
def _seconds(sizes: tuple[int, ...]) -> dict[str, dict[str, float]]:
    runs = {name: partial(seconds_per_call, make(*sizes)) for name, make in PARTS.items()}
    found: dict[str, dict[str, float]] = compare(take_turns(runs, ROUNDS), own=STEP)["seconds"]
    return found


@cache
def _memory(sizes: tuple[int, ...]) -> int:
    """Return what a step adds at its peak to the model, the optimiser's state and the images."""
    length, batch, *others = sizes
    setup = (
        "import torch, vae_growth\n"
        "torch.set_num_threads(1)\n"
        f"step = vae_growth.update({length}, {batch}, *{others})\n"
        "step(1)"
    )
    with _memory_given_back():
        return peak_memory(setup, "step()")[0]


@contextmanager
def _memory_given_back() -> Iterator[None]:
    """Let processes that start within the block give back each large piece when it is free.

    What the C library keeps of the setup would hide what the work needs.
    """
    name = "MALLOC_MMAP_THRESHOLD_"
    before = os.environ.get(name)
    os.environ[name] = "65536"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def update(length: int, batch: int, dim: int, width: int, depth: int) -> Callable[..., None]:
    """Return a step of training: the loss, its gradient, and Adam."""
    model = make_model(Settings("planar", length, 0, latent_dim=dim, widths=(width,) * depth))
    optimiser = torch.optim.Adam(model.parameters(), LEARNING_RATE, fused=True)
    loss, x = NegativeELBO(), images(batch)

    def step(count: int = batch) -> None:
        loss(model, x[:count]).backward()
        optimiser.step()
        # Gradients are held within a step alone, so that they count as what it needs.
        optimiser.zero_grad()

    return step


def networks(length: int, batch: int, dim: int, width: int, depth: int) -> Callable[[], None]:
    """Return both passes through encoder and decoder."""
    model = make_model(Settings("planar", 0, 0, latent_dim=dim, widths=(width,) * depth))
    encoder, decoder = plain(model.encoder), plain(model.decoder.network)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    x, z = images(batch), torch.randn(batch, dim, requires_grad=True)
    gradient = torch.randn(batch, width)

    def passes() -> None:
        clear([*parameters, z])
        loss = functional.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
        torch.autograd.backward([encoder(x), loss], [gradient, torch.ones(())])

    return passes


def linear_map(length: int, batch: int, dim: int, width: int, depth: int) -> Callable[[], None]:
    """Return both passes through the map from the encoder's units to all parameters."""
    outputs = 2 * dim + length * (2 * dim + 1)
    layer: nn.Linear = linear(torch.randn(outputs, width), torch.zeros(outputs))
    units = torch.randn(batch, width, requires_grad=True)
    gradient = torch.randn(batch, outputs)

    def passes() -> None:
        clear([*layer.parameters(), units])
        layer(units).backward(gradient)

    return passes


def layers(length: int, batch: int, dim: int, width: int, depth: int) -> Callable[[], None]:
    """Return both passes through the planar layers, whose parameters are given."""
    g = torch.Generator().manual_seed(0)
    w, u = (0.3 * torch.randn(batch, length, dim, generator=g).requires_grad_() for _ in "wu")
    b = torch.randn(batch, length, generator=g)
    parameters = [value.detach().requires_grad_() for value in (w, u, b)]
    z = torch.randn(batch, dim, generator=g).requires_grad_()
    stack = PlanarContestant(lambda z: PlanarStack(*parameters).call_and_ladj(z), parameters)
    return lambda: stack.step(z)


PARTS: dict[str, Callable[..., Callable[[], None]]] = {
    STEP: update,
    NETWORKS: networks,
    MAP: linear_map,
    LAYERS: layers,
}


def multiplications(length: int, batch: int, dim: int, width: int, depth: int) -> dict[str, int]:
    """Return how many each part of a step takes, in one pass forward."""
    return {
        NETWORKS: batch * ((2 * PIXELS + dim) * width + 2 * (depth - 1) * width**2),
        MAP: batch * width * (2 * dim + length * (2 * dim + 1)),
        LAYERS: batch * length * dim,
    }


def counted_exponents(axis: str) -> dict[str, float]:
    """Return the exponents that the numbers of multiplications have, over the sizes of an axis."""
    counts = [multiplications(*(BASE | {axis: size}).values()) for size in AXES[axis]]
    return {part: exponent(AXES[axis], [one[part] for one in counts]) for part in counts[0]}


def table(result: dict[str, Any]) -> str:
    """One table a size of the model, with the fitted exponents, and one for memory."""
    blocks = [
        "Median time of a whole update, and of both passes through each of its parts alone, with "
        "the exponent fitted over all sizes, and that of the number of multiplications:"
    ]
    for axis, parts in result["seconds"].items():
        rows, counts = {}, counted_exponents(axis)
        for part, seconds in parts.items():
            fitted = exponent(AXES[axis], [one["median"] for one in seconds])
            counted = f"{counts[part]:.2f}" if part in counts else "–"
            rows[part] = [*map(milliseconds, seconds), f"{fitted:.2f}", counted]
        blocks.append(_table(axis, [*_heads(axis), "exponent", "counted"], rows))
    blocks.append(
        "What an update adds at its peak to the model, the optimiser's state and the images, "
        "gradients included:"
    )
    for axis, kinds in result["bytes"].items():
        rows = {
            name: [*(f"{held / 1e6:.1f} MB" for held in values), _exponent(axis, values)]
            for name, values in kinds.items()
        }
        flow = [a - b for a, b in zip(*kinds.values(), strict=True)]
        rows["difference"] = [*(f"{held / 1e6:.1f} MB" for held in flow), _exponent(axis, flow)]
        blocks.append(_table(axis, [*_heads(axis), "exponent"], rows))
    return "\n\n".join(blocks)


def _exponent(axis: str, values: list[int]) -> str:
    return f"{exponent(AXES[axis], values):.2f}" if min(values) > 0 else "–"


def _heads(axis: str) -> list[str]:
    return [f"{axis} = {size:,}" for size in AXES[axis]]


def _table(axis: str, heads: list[str], rows: dict[str, list[str]]) -> str:
    lines = [
        f"| {MEANINGS[axis]} | {' | '.join(heads)} |",
        "|---" + "|---:" * len(heads) + "|",
    ]
    lines += [f"| {name} | {' | '.join(row)} |" for name, row in rows.items()]
    return "\n".join(lines)


def plot(result: dict[str, Any]) -> Figure:
    """Time against each size, on logarithmic axes."""
    use_style()
    figure, grid = plt.subplots(2, 3, figsize=(9, 5.5), sharey=True)
    *axes, last = grid.flat
    for ax, (axis, parts) in zip(axes, result["seconds"].items(), strict=True):
        for part, seconds in parts.items():
            color, marker = LOOKS[part]
            medians = [1e3 * one["median"] for one in seconds]
            ax.loglog(AXES[axis], medians, color=color, marker=marker, label=part)
        ax.set_xticks(AXES[axis], map(str, AXES[axis]))
        ax.minorticks_off()
        ax.set_xlabel(MEANINGS[axis])
    ticks = [0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500]
    low, high = axes[0].get_ylim()
    axes[0].set_yticks([tick for tick in ticks if low <= tick <= high])
    for ax in grid[:, 0]:
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set_ylabel("milliseconds")
    last.axis("off")
    last.legend(*axes[0].get_legend_handles_labels(), loc="center")
    return figure
