"""The same images loaded with and without PIL: are they equal, what do they cost, does it matter?

The null hypothesis, stated before the runs: with which loader a network's training images were
read does not change the distribution of its accuracy on the test set. It is tested by the mean
difference of runs in pairs. Under the hypothesis each difference could as well have the other sign,
so all 2^n choices of signs are equally likely, and the p-value is the share of those whose mean is
at least as far from zero.
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
from stopwatch import compare, seconds_of_first_call, spread, take_turns
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Adam

from nfbook.data import digits, split_digits
from nfbook.data.minibatches import Minibatches
from nfbook.data.splits import fixed_order
from nfbook.networks import ConvolutionalEncoder

TITLE = "Images loaded with and without PIL"
SETTINGS: dict[str, Any] = {
    "images": 1797,
    "pixels": 64,
    "levels of grey": 17,
    "training images": 1297,
    "test images": 250,
    "convolutions (channels, stride)": "(8, 1), (16, 2)",
    "units": 32,
    "updates": 260,
    "batch": 100,
    "step size": 0.003,
    "dtype": "float32",
}
SEEDS = range(10)
ROUNDS = 7
STAGES = ((8, 1), (16, 2))
SIGNATURE = b"\x89PNG\r\n\x1a\n"


# ---- the loaders ---------------------------------------------------------------------------------


def with_pil(path: Path) -> np.ndarray:
    """Return the grey levels of a PNG file, `(height, width)`, by PIL."""
    with Image.open(path) as image:
        return np.asarray(image)


def without_pil(path: Path) -> np.ndarray:
    """Return the same by the file format's definition, for 8-bit grey levels, not interlaced."""
    content = path.read_bytes()
    if not content.startswith(SIGNATURE):
        raise ValueError(f"{path.name} is no PNG file")
    place, parts = len(SIGNATURE), []
    while place < len(content):
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        body = content[place + 8 : place + 8 + length]
        if kind == b"IHDR":
            width, height, *form = struct.unpack(">IIBBBBB", body)
            if form != [8, 0, 0, 0, 0]:
                raise ValueError(f"{path.name} must hold 8-bit grey levels, got {form}")
        elif kind == b"IDAT":
            parts.append(body)
        place += length + 12
    return _undo_filters(zlib.decompress(b"".join(parts)), width, height)


def _undo_filters(content: bytes, width: int, height: int) -> np.ndarray:
    """Return pixels of rows that each begin with the number of their filter."""
    rows = [bytearray(width)]
    for k in range(height):
        kind, *coded = content[k * (width + 1) : (k + 1) * (width + 1)]
        above, row = rows[-1], bytearray(width)
        for i, value in enumerate(coded):
            left, corner = (row[i - 1], above[i - 1]) if i else (0, 0)
            row[i] = (value + _predicted(kind, left, above[i], corner)) % 256
        rows.append(row)
    return np.frombuffer(b"".join(rows[1:]), dtype=np.uint8).reshape(height, width)


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


def save(folder: Path) -> list[Path]:
    """Write all digits as PNG files, with 15 grey levels a dot of ink."""
    paths = []
    for k, image in enumerate(digits()[0]):
        pixels = (15 * image).to(torch.uint8).reshape(8, 8).numpy()
        paths.append(folder / f"{k:04d}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def load(loader: Callable[[Path], np.ndarray], paths: list[Path]) -> Tensor:
    """Return all images, `(n, 64)`, from 0 to 1."""
    pixels = np.stack([loader(path) for path in paths])
    return torch.from_numpy(pixels).reshape(len(paths), -1).float() / 240


def _seconds(loader: Callable[[Path], np.ndarray], paths: list[Path]) -> float:
    """Return how long it takes to load an image."""
    return seconds_of_first_call(partial(load, loader, paths)) / len(paths)


# ---- the network ---------------------------------------------------------------------------------


def accuracy(images: Tensor, seed: int) -> float:
    """Return the share of test digits that a network recognises after training."""
    _, labels = split_digits()
    train, _, test = images[fixed_order(len(images))].split([1297, 250, 250])
    generator = torch.Generator().manual_seed(seed)
    encoder = ConvolutionalEncoder(
        (1, 8, 8), SETTINGS["units"], STAGES, gated=False, generator=generator
    )
    last = nn.Linear(SETTINGS["units"], 10)
    for parameter in last.parameters():
        nn.init.uniform_(parameter, -0.15, 0.15, generator=generator)
    network = nn.Sequential(encoder, last)
    optimiser = Adam(network.parameters(), SETTINGS["step size"])
    batches = Minibatches(train, labels.train, size=SETTINGS["batch"], seed=seed)
    for _ in range(SETTINGS["updates"]):
        x, label = next(batches)
        loss = cross_entropy(network(x), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return float((network(test).argmax(1) == labels.test).float().mean())


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
    with TemporaryDirectory() as folder:
        paths = save(Path(folder))
        images = {name: load(loader, paths) for name, loader in LOADERS.items()}
        pair = list(LOADERS)[:2]
        seconds = take_turns(
            {name: partial(_seconds, LOADERS[name], paths) for name in pair}, ROUNDS
        )
    found = {name: [accuracy(images[name], seed) for seed in SEEDS] for name in LOADERS}
    # What two people see who run the two notebooks once each: seeds of their own.
    found["with PIL, other seeds"] = [
        accuracy(images["with PIL"], seed + len(SEEDS)) for seed in SEEDS
    ]
    comparisons = {
        "the same seeds": ("with PIL", "without PIL"),
        "other seeds": ("with PIL, other seeds", "without PIL"),
        "the same seeds, dithered": ("with PIL", "dithered"),
    }
    return {
        "equal": bool(torch.equal(images["with PIL"], images["without PIL"])),
        "equal when dithered": bool(torch.equal(images["with PIL"], images["dithered"])),
        "pillow": PIL.__version__,
        **compare(seconds, "without PIL"),
        "accuracy": found,
        "comparisons": {name: _compared(found, *two) for name, two in comparisons.items()},
    }


def _compared(found: dict[str, list[float]], one: str, other: str) -> dict[str, float]:
    """Return the mean difference in percent, its standard error, and the p-value."""
    differences = [100 * (a - b) for a, b in zip(found[one], found[other], strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return {
        "mean": statistics.mean(differences),
        "standard error": error,
        "largest": max(map(abs, differences)),
        "p": signs_test(differences),
    }


def table(result: dict[str, Any]) -> str:
    """The cost of an image, and the accuracies in pairs."""
    equal = "equal, bit by bit" if result["equal"] else "not equal"
    costs = [
        f"| {name} | {1e6 * value['median']:.0f} µs |" for name, value in result["seconds"].items()
    ]
    means = [
        f"| {name} | {100 * statistics.mean(values):.2f} | {100 * statistics.stdev(values):.2f} |"
        for name, values in result["accuracy"].items()
    ]
    tests = [
        f"| {name} | {row['mean']:+.2f} ± {row['standard error']:.2f} | {row['p']:.3f} |"
        for name, row in result["comparisons"].items()
    ]
    return "\n".join(
        [
            f"The images are {equal}. Time to load one, median over {ROUNDS} rounds, with "
            f"pillow {result['pillow']}:",
            "",
            "| loader | time |",
            "|---|---:|",
            *costs,
            "",
            "Time without PIL over that with it: "
            f"{spread(result['ratio']['with PIL'])}. Accuracy on the test set, in percent:",
            "",
            "| images | mean | standard deviation over seeds |",
            "|---|---:|---:|",
            *means,
            "",
            "Difference in pairs, in percent, with its standard error, and the p-value of the "
            "null hypothesis that the loader changes nothing:",
            "",
            "| pairs | difference | p |",
            "|---|---:|---:|",
            *tests,
        ]
    )
