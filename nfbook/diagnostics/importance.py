"""Whether importance weights can be trusted: the shape of their upper tail."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from nfbook._checks import check_count, check_log_values

__all__ = ["SmoothedWeights", "pareto_k", "pareto_k_threshold", "pareto_smooth"]

# Five weights are the fewest to which a tail is fitted, and a fifth of all are taken for it.
FEWEST = 25


class SmoothedWeights(NamedTuple):
    r"""Importance weights with a smoothed tail.

    Attributes:
        log_w: The logarithms of the smoothed weights, `(K, *)`, on the scale of the raw ones.
        pareto_k: The estimate :math:`\hat k` of the tail's shape, `(*)`.

    Example:
        >>> smoothed = pareto_smooth(torch.linspace(-1, 1, 100))
        >>> smoothed.log_w.shape, smoothed.pareto_k.shape
        (torch.Size([100]), torch.Size([]))
    """

    log_w: Tensor
    pareto_k: Tensor


def pareto_k(log_w: Tensor) -> Tensor:
    r"""Return the estimated shape :math:`\hat k` of the tail of importance weights.

    The M largest weights, beyond the largest of the others, follow nearly a generalised Pareto
    distribution, whose moments exist up to order :math:`1 / k`:

    .. math:: p(w \mid u, \sigma, k) = \frac{1}{\sigma}
        \Bigl(1 + k \frac{w - u}{\sigma}\Bigr)^{-1/k - 1}, \qquad w \ge u.

    With :math:`k < 1/2` the weights have a finite variance, and the central limit theorem holds
    for their mean. Beyond `pareto_k_threshold` the estimates of so many draws are not reliable.
    Like `effective_sample_size` it sees only the draws that were made.

    :math:`M = \lfloor \min(K / 5, 3 \sqrt K) \rfloor`. The fit is the quasi-Bayesian one of Zhang
    and Stephens, and shrinks towards 1/2 as if ten more weights said so.

    Source: J. Zhang and M. A. Stephens, A new and efficient estimation method for the generalized
    Pareto distribution, Technometrics 51 (2009), 316-325; A. Vehtari, D. Simpson, A. Gelman, Y. Yao
    and J. Gabry, Pareto smoothed importance sampling, Journal of Machine Learning Research 25
    (2024), 72.

    Arguments:
        log_w: Logarithms of importance weights, `(K, *)`, with K at least 25.

    Returns:
        One value for each column, `(*)`. Where more than a quarter of the M weights are equal to
        the largest of the others, no such distribution fits. The value is then minus infinity if
        no weight is more than 1 % larger, as at the exact posterior, where all are equal but for
        rounding; and else plus infinity, as where hardly any weight is above zero.

    Raises:
        TypeError: log_w is not a floating-point tensor.
        ValueError: There are fewer than 25 draws, log_w holds NaN or plus infinity, or all weights
            of one column are zero.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> u = torch.rand(1000, 3, generator=generator)
        >>> k = pareto_k(-torch.tensor([0.0, 0.5, 1.5]) * u.log())  # of the weights u^-k
        >>> k < pareto_k_threshold(1000)
        tensor([ True,  True, False])
    """
    return pareto_smooth(log_w).pareto_k


def pareto_k_threshold(num_draws: int) -> float:
    r"""Return the value of :math:`\hat k` beyond which so many weights are not reliable.

    .. math:: \min \Bigl(1 - \frac{1}{\log_{10} K},\; 0.7\Bigr)

    The draws needed grow like :math:`10^{1 / (1 - k)}`, and beyond 0.7 faster than anyone draws.

    Source: Vehtari et al. (2024).

    Arguments:
        num_draws: The number of weights K, at least 25.

    Raises:
        TypeError: num_draws is not an int.
        ValueError: It is less than 25.

    Example:
        >>> pareto_k_threshold(100), pareto_k_threshold(10_000)
        (0.5, 0.7)
    """
    check_count("num_draws", num_draws, minimum=FEWEST)
    return min(1 - 1 / math.log10(num_draws), 0.7)


@torch.no_grad()
def pareto_smooth(log_w: Tensor) -> SmoothedWeights:
    r"""Return the weights with their largest replaced by the quantiles of the tail fitted to them.

    The m-th smallest of the M largest weights becomes the quantile of the generalised Pareto
    distribution at :math:`(m - 1/2) / M`, though never more than the largest raw weight:

    .. math:: \omega_m \leftarrow \min \Bigl(u + \frac{\sigma}{\hat k}
        \Bigl[\Bigl(1 - \frac{m - 1/2}{M}\Bigr)^{-\hat k} - 1\Bigr],\; \max_k \omega_k\Bigr)

    The mean of the smoothed weights varies less than that of the raw ones. It is slightly biased
    instead, and where :math:`\hat k` is beyond `pareto_k_threshold`, badly so. `log_mean_exp` of
    them estimates the log-evidence, and `effective_sample_size` takes them, too.

    Source: Vehtari et al. (2024).

    Arguments:
        log_w: Logarithms of importance weights, `(K, *)`, with K at least 25.

    Raises:
        TypeError: log_w is not a floating-point tensor.
        ValueError: There are fewer than 25 draws, log_w holds NaN or plus infinity, or all weights
            of one column are zero.

    Example:
        >>> log_w = torch.randn(1000, generator=torch.Generator().manual_seed(0))
        >>> smoothed, k = pareto_smooth(log_w)
        >>> bool((smoothed <= log_w.max()).all())
        True
    """
    count = check_log_values("log_w", log_w, ("K", *getattr(log_w, "shape", ())[1:]))["K"]
    if count < FEWEST:
        raise ValueError(f"log_w must hold at least {FEWEST} draws, got {count}")
    top = log_w.amax(0)
    if bool(top.isneginf().any()):
        raise ValueError("log_w must hold a weight above zero in every column, got none")
    length = int(min(count / 5, 3 * math.sqrt(count)))
    # In float64, and in units of the largest weight, so that nothing overflows.
    tail, order = (log_w - top).to(torch.float64).topk(length + 1, dim=0)
    cutoff, tail, order = tail[-1].exp(), tail[:-1].flip(0).exp(), order[:-1].flip(0)
    k, sigma = _fit_generalised_pareto(tail - cutoff)
    level = (torch.arange(length, dtype=torch.float64, device=tail.device) + 0.5) / length
    log_above = (-level).log1p().reshape(-1, *[1] * k.ndim)
    quantiles = cutoff + sigma * torch.where(k == 0, -log_above, (-k * log_above).expm1() / k)
    # Without a tail the fit has no quantiles, and the weights stay as they are.
    smoothed = torch.where(k.isfinite(), quantiles, tail).clamp(max=1.0).log()
    log_smoothed = log_w.scatter(0, order, smoothed.to(log_w.dtype) + top)
    return SmoothedWeights(log_smoothed, k.to(log_w.dtype))


def _fit_generalised_pareto(excess: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the shape k and the scale sigma for sorted excesses over a threshold, `(M, *)`.

    With :math:`b = -k / \sigma` the most likely k is :math:`k(b) = \frac{1}{M} \sum_m
    \log (1 - b\, e_m)`, so the likelihood is a function of b alone. The estimate of b is its mean
    over a grid, weighted by that likelihood.
    """
    length, largest = len(excess), excess[-1]
    points = 30 + int(math.sqrt(length))
    quartile = excess[int(length / 4 + 0.5) - 1]

    def shape(b: Tensor) -> Tensor:
        return (-b * excess).log1p().mean(0)

    steps = [1 - math.sqrt(points / (i + 0.5)) for i in range(points)]
    grid = torch.stack([1 / largest + step / (3 * quartile) for step in steps])
    k = torch.stack([shape(b) for b in grid])
    log_likelihood = length * ((-grid / k).log() - k - 1)
    b = (log_likelihood.softmax(0) * grid).sum(0)
    k = shape(b)
    sigma = -k / b
    k = (length * k + 10 * 0.5) / (length + 10)
    # The largest weight is 1 here.
    without_fit = torch.where(largest < 0.01, -math.inf, math.inf).to(k)
    return torch.where(quartile > 0, k, without_fit), sigma
