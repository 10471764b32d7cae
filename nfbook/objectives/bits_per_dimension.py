"""The unit in which densities of images are reported."""

from __future__ import annotations

import math

from torch import Tensor

from nfbook._checks import check_count, check_type

__all__ = ["bits_per_dimension"]


def bits_per_dimension(log_prob: Tensor, features: int, levels: int = 256) -> Tensor:
    r"""Return the code length of an image, in bits for each of its D numbers.

    With L values of a pixel, as a rule 256,

    .. math:: - \frac{\log_2 p(\mathbf{x}) - D \log_2 L}{D}
        = - \frac{\log p(\mathbf{x})}{D \log 2} + \log_2 L.

    A cell of :math:`\mathbf{x} \in [0, 1]^D` has the volume :math:`L^{-D}`, so the density times
    that is about the probability of the whole numbers. With 256 values a uniform density needs 8
    bits.

    Arguments:
        log_prob: The log-density of the dequantised x in [0, 1], in nats, `(*)`. That of the logit
            y is another one.
        features: The dimension D.
        levels: The number L of values of a pixel.

    Returns:
        Bits for each dimension, `(*)`. Their mean over the noise is an upper bound on the code
        length of the best code for the whole numbers.

    Raises:
        TypeError: ``log_prob`` is not a tensor, or a count is not an int.
        ValueError: A count is too small.

    Example:
        >>> import torch
        >>> bits_per_dimension(torch.tensor(0.0), features=784)
        tensor(8.)
    """
    check_type("log_prob", log_prob, Tensor, "a torch.Tensor")
    check_count("features", features)
    check_count("levels", levels, minimum=2)
    return (math.log(levels) - log_prob / features) / math.log(2)
