"""A point and its way through a trained RealNVP, layer by layer, with a choice of masks."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from torch import Tensor

from nfbook.explorables.base import Choice, Explorable, Real
from nfbook.flows import RealNVP

__all__ = ["LENGTH", "MASKS", "UNITS", "CouplingExplorable", "new_flow", "trained_flow"]

LENGTH = 6
UNITS = 24
# The coordinate that stays in each layer, 1 or 2, by what the figure calls the mask.
MASKS: dict[str, tuple[int, ...]] = {
    "taking turns": (1, 2) * (LENGTH // 2),
    "x1 stays": (1,) * LENGTH,
    "x2 stays": (2,) * LENGTH,
}
WEIGHTS = Path(__file__).parents[2] / "data" / "moons_realnvp.csv"


def new_flow(mask: str, generator: torch.Generator | None = None) -> RealNVP:
    """Return the flow of a mask before it is trained, in double precision.

    Arguments:
        mask: A key of `MASKS`.
        generator: The source of the initial weights.

    Raises:
        ValueError: There is no such mask.

    Example:
        >>> round(new_flow("x1 stays")().log_prob(torch.zeros(2, dtype=torch.float64)).item(), 4)
        -1.8379
    """
    if mask not in MASKS:
        raise ValueError(f"mask must be one of {', '.join(map(repr, MASKS))}, got {mask!r}")
    stays = [torch.tensor([first == 1, first == 2]) for first in MASKS[mask]]
    return RealNVP(2, length=LENGTH, hidden_features=(UNITS,), mask=stays, generator=generator).to(
        torch.float64
    )


def trained_flow(mask: str = "taking turns") -> RealNVP:
    """Return the flow that the figure shows, trained on `nfbook.cases.two_moons`.

    ``tools/train_coupling.py`` trained it, by maximum likelihood.

    Arguments:
        mask: A key of `MASKS`.

    Raises:
        ValueError: There is no such mask.

    Example:
        >>> flow = trained_flow()
        >>> flow().log_prob(torch.zeros(5, 2, dtype=torch.float64)).shape
        torch.Size([5])
    """
    flow = new_flow(mask)
    with WEIGHTS.open(encoding="utf-8", newline="") as file:
        rows = [[float(number) for number in row] for row in list(csv.reader(file))[1:]]
    number = list(MASKS).index(mask)
    layers = [torch.tensor(row[2:], dtype=torch.float64) for row in rows if row[0] == number]
    for network, weights in zip(flow.conditioners, layers, strict=True):
        _assign(list(network.parameters()), weights)
    return flow


@torch.no_grad()
def _assign(parameters: list[torch.nn.Parameter], weights: Tensor) -> None:
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, values in zip(parameters, weights.split(sizes), strict=True):
        parameter.copy_(values.reshape(parameter.shape))


class CouplingExplorable(Explorable, module="coupling"):
    r"""One point, and a cloud, on their way from noise to data through a trained RealNVP.

    In each of the six layers one coordinate stays, and the other is scaled and shifted:

    .. math:: y_i = e^{s(z_j)} z_i + m(z_j), \qquad y_j = z_j.

    The masks say which one stays. "taking turns": the first in layers 1, 3 and 5, the second in the
    others. With "x1 stays" or "x2 stays" it is the same in all. Each of the three flows has been
    trained on the two moons of `nfbook.cases.two_moons`, by ``tools/train_coupling.py``.

    Attributes:
        mask: "taking turns", "x1 stays" or "x2 stays".
        z1: The point's first coordinate as noise, from -3 to 3.
        z2: Its second coordinate.
        layers: How many layers it has gone through, from 0 to 6. After a fraction f of one
            it has gone through one with f times the shift and the log-scale.

    Raises:
        TypeError: A value has the wrong type.
        ValueError: A number lies outside its range, or there is no such mask.

    Example:
        >>> figure = CouplingExplorable(layers=2)
        >>> figure.mask = "x1 stays"
        >>> figure.layers
        2.0
    """

    mask = Choice(*MASKS).tag(sync=True)
    z1 = Real(-3.0, 3.0).tag(sync=True)
    z2 = Real(-3.0, 3.0).tag(sync=True)
    layers = Real(0.0, float(LENGTH)).tag(sync=True)

    def __init__(
        self,
        *,
        mask: str = "taking turns",
        z1: float = 0.5,
        z2: float = 1.0,
        layers: float = LENGTH,
    ) -> None:
        super().__init__(mask=mask, z1=z1, z2=z2, layers=layers)
