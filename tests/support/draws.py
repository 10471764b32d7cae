"""Random tensors of the tests: float64, and each one from a seed of its own.

With the environment's ``NFBOOK_TEST_SEED=1`` all seeds are other ones, and so are all draws. What a
test asserts has to hold for any of them.
"""

from __future__ import annotations

import os

import torch

OFFSET = int(os.environ.get("NFBOOK_TEST_SEED", "0"))


def seeded(seed: int = 0) -> torch.Generator:
    """Return a generator that starts at a seed, moved by the environment's."""
    return torch.Generator().manual_seed(seed + OFFSET)


def fixed(seed: int = 0) -> torch.Generator:
    """Return a generator whose seed the environment does not move.

    For a random example that has to be a good-natured one, and what is drawn with it is not.
    """
    return torch.Generator().manual_seed(seed)


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return standard Gaussian numbers."""
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def number(value: float) -> torch.Tensor:
    """Return a number as a tensor without dimensions."""
    return torch.tensor(value, dtype=torch.float64)
