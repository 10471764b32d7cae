"""What the experiments with images report of a trained model."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nfbook.data.splits import Splits
from nfbook.training import negative_bound
from nfbook.vae import VAE

__all__ = ["evaluate"]


def evaluate(
    vae: VAE, data: Splits, importance_samples: int, seed: int, *, progress: bool = True
) -> dict[str, Any]:
    """Return the means of a model's numbers over the test images, in nats, and their errors.

    Each error is the standard error of a mean over images. That of the importance sampling itself,
    for the same images, stands apart: it is far smaller.

    Example:
        >>> from nfbook.networks import Feedforward
        >>> from nfbook.vae import BernoulliDecoder
        >>> vae = VAE(Feedforward(4, (8,)), BernoulliDecoder(Feedforward(2, (8,), 4)))
        >>> data = Splits(*torch.ones(3, 10, 4))
        >>> numbers = evaluate(vae, data, 5, seed=0)
        >>> numbers["negative_log_prob"][0] < numbers["negative_bound"][0]
        True
    """
    found = vae.eval().evaluate(
        data.test,
        importance_samples,
        generator=torch.Generator().manual_seed(seed),
        progress=progress,
    )
    errors = found.log_prob.standard_error
    return {
        "parameters": sum(p.numel() for p in vae.parameters()),
        "validation": negative_bound(vae, data.validation),
        "negative_bound": _over_images(-found.bound.value),
        "kl": _over_images(found.kl.value),
        "negative_log_prob": _over_images(-found.log_prob.value),
        "importance_error": errors.square().mean().sqrt().item() / math.sqrt(len(errors)),
        "effective_sample_size": found.effective_sample_size.mean().item(),
        "train_negative_bound": negative_bound(vae, data.train[: len(data.test)]),
    }


def _over_images(values: Tensor) -> list[float]:
    """Return the mean over the images and its standard error."""
    return [values.mean().item(), values.std().item() / math.sqrt(len(values))]
