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
    vae: VAE,
    data: Splits,
    importance_samples: int,
    seed: int,
    *,
    parts: int = 1,
    progress: bool = True,
) -> dict[str, Any]:
    r"""Return the means of a model's numbers over the test images, in nats, and their errors.

    Each error is the standard error of a mean over images. That of the importance sampling itself,
    for the same n images, stands apart, as ``importance_error``, :math:`\epsilon`. It says how far
    another seed would move the mean, and nothing of the bias: the logarithm of an average is too
    low on average, to first order by :math:`n \epsilon^2 / 2`, which more images do not lower.

    Arguments:
        vae: The model.
        data: The images.
        importance_samples: The number of draws for each image.
        seed: That of the draws.
        parts: How many rows in succession are parts of one image. Such rows are alike, so errors
            are taken over the means of images.
        progress: Whether to show a bar.

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
        "negative_bound": _over_images(-found.bound.value, parts),
        "kl": _over_images(found.kl.value, parts),
        "negative_log_prob": _over_images(-found.log_prob.value, parts),
        "importance_error": errors.square().mean().sqrt().item() / math.sqrt(len(errors)),
        "effective_sample_size": found.effective_sample_size.mean().item(),
        "train_negative_bound": negative_bound(vae, data.train[: len(data.test)]),
    }


def _over_images(values: Tensor, parts: int) -> list[float]:
    """Return the mean over the images, each in so many parts, and its standard error."""
    images = values.unflatten(0, (-1, parts)).mean(1)
    return [images.mean().item(), images.std().item() / math.sqrt(len(images))]
