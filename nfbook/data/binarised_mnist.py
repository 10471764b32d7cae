"""MNIST with every pixel black or white, fixed once and for all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from nfbook.data.splits import Splits

__all__ = ["binarised_mnist"]


def binarised_mnist() -> Splits:
    """Return 50,000, 10,000 and 10,000 binary images of 784 pixels, zeros and ones in float32.

    Example:
        >>> train, validation, test = binarised_mnist()  # doctest: +SKIP
    """
    path = Path(os.environ["NFBOOK_DATA"]) / "binarized_mnist" / "binarized_mnist_packed.npz"
    with np.load(path) as packed:
        names = list(packed)
        parts = [torch.from_numpy(np.unpackbits(packed[name], axis=1)).float() for name in names]
    return Splits(*parts)
