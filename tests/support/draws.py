"""Random tensors of the tests: float64, and each one from a seed of its own."""

from __future__ import annotations

import torch


def seeded(seed: int = 0) -> torch.Generator:
    """Return a generator that starts at a seed."""
    return torch.Generator().manual_seed(seed)


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return standard Gaussian numbers."""
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def number(value: float) -> torch.Tensor:
    """Return a number as a tensor without dimensions."""
    return torch.tensor(value, dtype=torch.float64)
