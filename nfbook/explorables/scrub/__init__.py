"""Trained planar flows, one for each of the four energies, passed through layer by layer."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from nfbook.explorables.base import Choice, Count, Explorable
from nfbook.transforms import Affine, Box, Compose, PlanarStack

__all__ = ["DATA", "ENERGIES", "LENGTH", "ScrubExplorable", "planar_flow"]

ENERGIES = ("U1", "U2", "U3", "U4")
LENGTH = 32
DATA = Path(__file__).parents[2] / "data"


def planar_flow(energy: str, layers: int = LENGTH) -> Compose:
    """Return what the figure shows: the first layers of a trained flow, and the `Box` at its end.

    Arguments:
        energy: The energy that it was trained for, one of `ENERGIES`.
        layers: How many of the planar layers, from 0 to `LENGTH`.

    Raises:
        ValueError: There is no such energy.

    Example:
        >>> planar_flow("U1", 5)
        Compose([Affine(), PlanarStack(), Box()])
        >>> planar_flow("U1", 0)
        Compose([Affine(), Box()])
    """
    if energy not in ENERGIES:
        raise ValueError(f"energy must be one of {', '.join(map(repr, ENERGIES))}, got {energy!r}")
    (affine,), planar = (_rows(name, energy) for name in ("affine", "planar"))
    start = Affine(affine[2:], affine[:2])
    w, u, b = planar[:layers, 1:].split([2, 2, 1], dim=1)
    stack = [PlanarStack(w, u, b.squeeze(1))] if layers else []
    return Compose([start, *stack, Box(-4.0, 4.0)])


def _rows(name: str, energy: str) -> torch.Tensor:
    """Return the rows of one energy in a table of weights."""
    with (DATA / f"energies_{name}.csv").open(encoding="utf-8", newline="") as file:
        rows = [[float(number) for number in row] for row in list(csv.reader(file))[1:]]
    number = ENERGIES.index(energy) + 1
    return torch.tensor([row[1:] for row in rows if row[0] == number], dtype=torch.float64)


class ScrubExplorable(Explorable, module="scrub"):
    r"""Points and density of a planar flow of 32 layers after the first k of them.

    The flows are those of the first seed in the stored result ``energies``, which
    ``python -m nfbook.reproduce energies`` makes: a scale and a shift of each coordinate, 32 planar
    layers, and a `Box` onto the square :math:`[-4, 4]^2` on which the targets live. After k layers
    the figure applies the `Box` at once. Its left picture shows where the flow takes points of the
    base, the density there, and contours of the target; the right one shows
    :math:`\mathrm{KL}(q_k \,\|\, p)` for every k. In a live session the values can be read and set
    here.

    The weights are those of ``nfbook/data/energies_affine.csv`` and ``energies_planar.csv``, with
    five digits, and the divergences those of ``energies_divergences.csv``, by quadrature. The
    command ``python tools/store_energies.py`` writes all three.

    Attributes:
        energy: The energy, by its name in `nfbook.targets.TARGETS`.
        layers: The number k of layers, from 0 to 32.

    Raises:
        TypeError: A value has the wrong type.
        ValueError: There is no such energy, or the number lies outside its range.

    Example:
        >>> figure = ScrubExplorable(energy="U3")
        >>> figure.layers = 32
        >>> figure
        ScrubExplorable(energy='U3', layers=32)
    """

    energy = Choice(*ENERGIES).tag(sync=True)
    layers = Count(LENGTH).tag(sync=True)

    def __init__(self, *, energy: str = "U1", layers: int = 0) -> None:
        super().__init__(energy=energy, layers=layers)
