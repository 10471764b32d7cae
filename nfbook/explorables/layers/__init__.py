"""A flow that widens and bends a Gaussian towards a posterior, layer by layer."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from torch import Tensor

from nfbook.explorables.base import Choice, Explorable, Real

__all__ = ["LENGTH", "OBSERVATIONS", "WEIGHTS", "LayersExplorable", "trained_layers"]

LENGTH = 4
# The observations, each with a flow of its own, by what the figure calls them.
OBSERVATIONS = {"−1": -1.0, "1": 1.0, "3": 3.0, "5": 5.0}
WEIGHTS = Path(__file__).parents[2] / "data" / "parabola_layers.csv"


def trained_layers(x: float) -> dict[str, Tensor]:
    r"""Return the flow of four planar layers that was fitted to the posterior of one observation.

    The model is `nfbook.vae.Parabola`, and q is the distribution of

    .. math:: \mathbf{z}_K = f_K \circ \dots \circ f_1(\boldsymbol\mu + \boldsymbol\sigma \odot
        \boldsymbol\varepsilon), \qquad \boldsymbol\varepsilon \sim \mathcal{N}(\mathbf{0},
        \mathbf{I}),

    with the layers of `nfbook.transforms.PlanarStack`. ``tools/train_layers.py`` raised its bound.

    Arguments:
        x: The observation: -1, 1, 3 or 5.

    Returns:
        "mean" and "log_std" of :math:`\mathbf{z}_0`, `(2,)`; "w" and "u", `(4, 2)`, and "b",
        `(4,)`, of the layers; all in double precision.

    Raises:
        ValueError: There is no flow for such an observation.

    Example:
        >>> trained_layers(5.0)["w"].shape
        torch.Size([4, 2])
    """
    if x not in OBSERVATIONS.values():
        known = ", ".join(f"{value:g}" for value in OBSERVATIONS.values())
        raise ValueError(f"x must be one of {known}, got {x!r}")
    with WEIGHTS.open(encoding="utf-8", newline="") as file:
        rows = [[float(number) for number in row] for row in list(csv.reader(file))[1:]]
    own = torch.tensor([row[2:] for row in rows if row[0] == x], dtype=torch.float64)
    start, layers = own[0], own[1:]
    return {
        "mean": start[:2],
        "log_std": start[2:4],
        "w": layers[:, :2],
        "u": layers[:, 2:4],
        "b": layers[:, 4],
    }


class LayersExplorable(Explorable, module="layers"):
    r"""A Gaussian on its way through four planar layers to a posterior, and the bound on the way.

    The posterior is that of `nfbook.vae.Parabola` for one observation x. The picture shows its
    density, and that of :math:`\mathbf{z}_k`, which has gone through k of the four layers of
    `trained_layers`. The bars show the bound of that density and its gap, whose sum is the
    log-evidence. The reader can make the Gaussian wider or narrower than it was trained to be, and
    change the vector u of the layer that came last. A fraction f of a layer is a layer with f
    times its û.

    Attributes:
        x: The observation, as a word: "−1", "1", "3" or "5".
        layers: The number k of layers, from 0 to 4; it need not be whole.
        width: What the trained standard deviations are multiplied by, from 0.4 to 2.5.
        across: What is added to the first coordinate of the last layer's u, from -2 to 2.
        up: What is added to its second coordinate.

    Raises:
        TypeError: A value has the wrong type.
        ValueError: A number lies outside its range, or there is no such observation.

    Example:
        >>> figure = LayersExplorable(layers=2)
        >>> figure.x = "3"
        >>> figure
        LayersExplorable(x='3', layers=2.0, width=1.0, across=0.0, up=0.0)
    """

    x = Choice(*OBSERVATIONS).tag(sync=True)
    layers = Real(0.0, float(LENGTH)).tag(sync=True)
    width = Real(0.4, 2.5).tag(sync=True)
    across = Real(-2.0, 2.0).tag(sync=True)
    up = Real(-2.0, 2.0).tag(sync=True)

    def __init__(
        self,
        *,
        x: str = "5",
        layers: float = LENGTH,
        width: float = 1.0,
        across: float = 0.0,
        up: float = 0.0,
    ) -> None:
        super().__init__(x=x, layers=layers, width=width, across=across, up=up)
