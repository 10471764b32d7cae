"""The same images loaded with and without PIL: are they equal, what do they cost, does it matter?

The null hypothesis, stated before the runs: with which loader a network's training images were
read does not change the distribution of its accuracy on the test set. It is tested by the mean
difference of runs in pairs. Under the hypothesis each difference could as well have the other sign,
so all 2^n choices of signs are equally likely, and the p-value is the share of those whose mean is
at least as far from zero.

The images are digits of MNIST, which must have been downloaded before. The time is also taken for
two photographs in colour, which train nothing.
"""

from __future__ import annotations

import itertools
import math
import statistics
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from stopwatch import compare, milliseconds, seconds_of_first_call, spread, take_turns
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Adam

from nfbook.data import mnist
from nfbook.data.minibatches import Minibatches
from nfbook.networks import ConvolutionalEncoder

TITLE = "Images loaded with and without PIL"
SETTINGS: dict[str, Any] = {
    "training images": 10_000,
    "test images": 10_000,
    "pixels": "28 × 28",
    "levels of grey": 256,
    "photographs": 2,
    "pixels of a photograph": "427 × 640, in three colours",
    "convolutions (channels, stride)": "(8, 2), (16, 2)",
    "units": 32,
    "updates": 1000,
    "batch": 100,
    "step size": 0.003,
    "images timed": 1000,
    "dtype": "float32",
}
SEEDS = range(10)
ROUNDS = 7
SIDE = 28
STAGES = ((8, 2), (16, 2))
SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Numbers for each pixel, by the format's code for grey levels and for three colours.
CHANNELS = {0: 1, 2: 3}


# ---- the loaders ---------------------------------------------------------------------------------


def with_pil(path: Path) -> np.ndarray:
    """Return a PNG file's grey levels, `(height, width)`, or colours, with a last axis, by PIL."""
    with Image.open(path) as image:
        return np.asarray(image)


def without_pil(path: Path) -> np.ndarray:
    """Return the same by the format's definition, for 8-bit grey or colour, not interlaced."""
    content = path.read_bytes()
    if not content.startswith(SIGNATURE):
        raise ValueError(f"{path.name} is no PNG file")
    place, parts = len(SIGNATURE), []
    while place < len(content):
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        body = content[place + 8 : place + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", body)
            if depth != 8 or colour not in CHANNELS or any(rest):
                form = [depth, colour, *rest]
                raise ValueError(f"{path.name} must hold 8-bit grey levels or colours, got {form}")
        elif kind == b"IDAT":
            parts.append(body)
        place += length + 12
    channels = CHANNELS[colour]
    pixels = _undo_filters(zlib.decompress(b"".join(parts)), width * channels, height, channels)
    return pixels.reshape((height, width) if channels == 1 else (height, width, channels))


def _undo_filters(content: bytes, size: int, height: int, channels: int) -> np.ndarray:
    """Return the bytes of rows that each begin with the number of their filter."""
    rows = [bytearray(size)]
    for k in range(height):
        kind, *coded = content[k * (size + 1) : (k + 1) * (size + 1)]
        above, row = rows[-1], bytearray(size)
        for i, value in enumerate(coded):
            # What lies to the left belongs to the same colour of the pixel before.
            j = i - channels
            left, corner = (row[j], above[j]) if j >= 0 else (0, 0)
            row[i] = (value + _predicted(kind, left, above[i], corner)) % 256
        rows.append(row)
    return np.frombuffer(b"".join(rows[1:]), dtype=np.uint8)


def _predicted(kind: int, left: int, above: int, corner: int) -> int:
    """Return what a filter of PNG expects of a pixel."""
    if kind < 4:
        return (0, left, above, (left + above) // 2)[kind]
    guess = left + above - corner
    return min((left, above, corner), key=lambda pixel: abs(guess - pixel))


def dithered(path: Path) -> np.ndarray:
    """Return black and white pixels, by PIL's default for them: the control of the test."""
    with Image.open(path) as image:
        return 255 * np.asarray(image.convert("1")).astype(np.uint8)


LOADERS: dict[str, Callable[[Path], np.ndarray]] = {
    "with PIL": with_pil,
    "without PIL": without_pil,
    "dithered": dithered,
}


def save(folder: Path, images: np.ndarray) -> list[Path]:
    """Write images, `(n, height, width)` or with colours as a last axis, as PNG files."""
    folder.mkdir()
    paths = [folder / f"{k:05d}.png" for k in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def load(loader: Callable[[Path], np.ndarray], paths: list[Path]) -> Tensor:
    """Return all images, each in one row, from 0 to 1."""
    pixels = np.stack([loader(path) for path in paths])
    return torch.from_numpy(pixels).reshape(len(paths), -1).float() / 255


def timed(paths: list[Path]) -> dict[str, Any]:
    """Let both loaders take turns, and return their seconds for an image and the ratio."""

    def seconds(loader: Callable[[Path], np.ndarray]) -> float:
        return seconds_of_first_call(partial(load, loader, paths)) / len(paths)

    contestants = {name: partial(seconds, LOADERS[name]) for name in list(LOADERS)[:2]}
    return compare(take_turns(contestants, ROUNDS), "without PIL")


# ---- the network ---------------------------------------------------------------------------------


def accuracy(train: Tensor, test: Tensor, labels: tuple[Tensor, Tensor], seed: int) -> float:
    """Return the share of test digits that a network recognises after training."""
    generator = torch.Generator().manual_seed(seed)
    encoder = ConvolutionalEncoder(
        (1, SIDE, SIDE), SETTINGS["units"], STAGES, gated=False, generator=generator
    )
    last = nn.Linear(SETTINGS["units"], 10)
    for parameter in last.parameters():
        nn.init.uniform_(parameter, -0.15, 0.15, generator=generator)
    network = nn.Sequential(encoder, last)
    optimiser = Adam(network.parameters(), SETTINGS["step size"])
    batches = Minibatches(train, labels[0], size=SETTINGS["batch"], seed=seed)
    for _ in range(SETTINGS["updates"]):
        x, label = next(batches)
        loss = cross_entropy(network(x), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        found = torch.cat([network(piece).argmax(1) for piece in test.split(1000)])
        return float((found == labels[1]).double().mean())


def signs_test(differences: list[float]) -> float:
    """Return the p-value of differences in pairs, over all choices of their signs."""
    found = abs(sum(differences))
    sums = (
        abs(sum(sign * one for sign, one in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    )
    # A sum that is as large may come out lower by rounding.
    reached: int = sum(one >= found - 1e-12 for one in sums)
    return reached / int(2 ** len(differences))


# ---- the benchmark -------------------------------------------------------------------------------


def measure() -> dict[str, Any]:
    """Compare the images, let the loaders take turns, and train networks in pairs."""
    torch.set_num_threads(1)
    images, labels = mnist(progress=False)
    n = SETTINGS["training images"]
    digits = torch.cat([images.train[:n], images.test]).reshape(-1, SIDE, SIDE).numpy()
    wanted = labels.train[:n], labels.test
    with TemporaryDirectory() as folder:
        paths = save(Path(folder) / "digits", digits)
        loaded = {name: load(loader, paths) for name, loader in LOADERS.items()}
        times = timed(paths[: SETTINGS["images timed"]])
        photographs = save(Path(folder) / "photographs", np.stack(load_sample_images().images))
        both = [[loader(path) for path in photographs] for loader in (with_pil, without_pil)]
        times_of_photographs = timed(photographs)
    print("timed", flush=True)

    def score(name: str, seed: int) -> float:
        return accuracy(*loaded[name].split([n, len(digits) - n]), wanted, seed)

    found = {name: [score(name, seed) for seed in SEEDS] for name in LOADERS}
    # What two people see who run the two notebooks once each: seeds of their own.
    found["with PIL, other seeds"] = [score("with PIL", seed + len(SEEDS)) for seed in SEEDS]
    comparisons = {
        "the same seeds": ("with PIL", "without PIL"),
        "other seeds": ("with PIL, other seeds", "without PIL"),
        "the same seeds, dithered": ("with PIL", "dithered"),
    }
    return {
        "equal": bool(torch.equal(loaded["with PIL"], loaded["without PIL"])),
        "equal when dithered": bool(torch.equal(loaded["with PIL"], loaded["dithered"])),
        "pillow": PIL.__version__,
        **times,
        "photograph": {
            "equal": all(np.array_equal(a, b) for a, b in zip(*both, strict=True)),
            **times_of_photographs,
        },
        "accuracy": found,
        "comparisons": {name: _compared(found, *two) for name, two in comparisons.items()},
    }


def _compared(found: dict[str, list[float]], one: str, other: str) -> dict[str, float]:
    """Return how two groups of accuracies differ in pairs, in percent."""
    differences = [100 * (a - b) for a, b in zip(found[one], found[other], strict=True)]
    return {**paired(differences), "largest": max(map(abs, differences))}


def paired(differences: list[float]) -> dict[str, float]:
    """Return the mean of differences in pairs, its standard error, and the p-value."""
    return {
        "mean": statistics.mean(differences),
        "standard error": statistics.stdev(differences) / math.sqrt(len(differences)),
        "p": signs_test(differences),
    }


def table(result: dict[str, Any]) -> str:
    """The cost of an image, and the accuracies in pairs."""
    photograph = result["photograph"]
    equal, equal_photographs = (
        "equal, bit by bit" if one["equal"] else "not equal" for one in (result, photograph)
    )
    costs = [
        f"| {name} | {milliseconds(result['seconds'][name])} "
        f"| {milliseconds(photograph['seconds'][name])} |"
        for name in result["seconds"]
    ]
    over = (spread(one["ratio"]["with PIL"]) for one in (result, photograph))
    means = [
        f"| {name} | {100 * statistics.mean(values):.2f} | {100 * statistics.stdev(values):.2f} |"
        for name, values in result["accuracy"].items()
    ]
    tests = [
        f"| {name} | {row['mean']:+.2f} ± {row['standard error']:.2f} | {row['largest']:.2f} "
        f"| {row['p']:.3f} |"
        for name, row in result["comparisons"].items()
    ]
    return "\n".join(
        [
            f"The digits are {equal}, the photographs {equal_photographs}. Time to load one, "
            f"median over {ROUNDS} rounds, with pillow {result['pillow']}:",
            "",
            "| loader | digit | photograph |",
            "|---|---:|---:|",
            *costs,
            f"| time without PIL over that with it | {' | '.join(over)} |",
            "",
            "Accuracy on the test set, in percent:",
            "",
            "| images | mean | standard deviation over seeds |",
            "|---|---:|---:|",
            *means,
            "",
            "Difference in pairs, in percent, with its standard error, the largest of a pair, and "
            "the p-value of the null hypothesis that the loader changes nothing:",
            "",
            "| pairs | difference | largest | p |",
            "|---|---:|---:|---:|",
            *tests,
        ]
    )
