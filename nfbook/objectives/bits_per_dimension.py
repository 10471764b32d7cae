"""The unit in which densities of images are reported."""

from __future__ import annotations

import math

from torch import Tensor

from nfbook._checks import check_count

__all__ = ["bits_per_dimension"]


def bits_per_dimension(log_prob: Tensor, features: int, levels: int = 256) -> Tensor:
    r"""Return the code length of an image, in bits for each of its D numbers.

    .. math:: - \frac{\log_2 p(\mathbf{x}) - D \log_2 256}{D}
        = - \frac{\log p(\mathbf{x})}{D \log 2} + 8.

    A cell of :math:`\mathbf{x} \in [0, 1]^D` has the volume :math:`256^{-D}`, so the density times
    that is about the probability of the whole numbers. A uniform density needs 8 bits.

    Arguments:
        log_prob: The log-density of the dequantised x in [0, 1], in nats, `(*)`. That of the logit
            y is another one.
        features: The dimension D.
        levels: The number of values of a pixel.

    Returns:
        Bits for each dimension, `(*)`. Their mean over the noise is an upper bound on the code
        length of the best code for the whole numbers.

    Example:
        >>> import torch
        >>> bits_per_dimension(torch.tensor(0.0), features=784)
        tensor(8.)
    """
    check_count("features", features)
    check_count("levels", levels, minimum=2)
    return (math.log(levels) - log_prob / features) / math.log(2)
