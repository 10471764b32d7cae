"""Old Faithful: 272 eruptions of a geyser, in two clear clusters."""

from __future__ import annotations

import csv

import torch
from torch import Tensor

from nfbook.data.files import find_file

__all__ = ["old_faithful"]

MD5 = "653bb6c1e72f8533673e93d093c0a9dd"


def old_faithful() -> Tensor:
    """Return 272 eruptions of the Old Faithful geyser in Yellowstone National Park.

    Returns:
        A float64 tensor of shape `(272, 2)`: the duration of an eruption and the waiting time
        until the next one, both in minutes.

    Raises:
        FileNotFoundError: The package was installed without its data file.
        ValueError: The data file has been changed.

    Source: W. Härdle, Smoothing Techniques with Implementation in S (1991), distributed with R
    as ``faithful``; A. Azzalini and A. W. Bowman, A look at some data on the Old Faithful
    geyser, Applied Statistics 39 (1990), 357-365, describe a longer record of the same geyser.

    Example:
        >>> old_faithful().shape
        torch.Size([272, 2])
        >>> old_faithful()[0].tolist()
        [3.6, 79.0]
    """
    path = find_file("old_faithful.csv", MD5, "It is part of nfbook: install the package again.")
    with path.open(encoding="utf-8", newline="") as file:
        rows = [
            (float(row["eruption_minutes"]), float(row["waiting_minutes"]))
            for row in csv.DictReader(file)
        ]
    return torch.tensor(rows, dtype=torch.float64)
