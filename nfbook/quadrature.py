r"""Integrals of smooth functions in one or two dimensions, as sums over nodes.

Each rule returns nodes :math:`z_k` and weights :math:`v_k`, so that an integral is one product::

    nodes, weights = grid(0.0, 1.0, points=101)
    integral = weights @ f(nodes)

`grid` and `around_gaussian` integrate a function :math:`f` itself, `gauss_hermite` its expectation
under a Gaussian. All three take every combination of one-dimensional nodes, and so :math:`N^d` of
them in `d` dimensions: they serve as the truth beside an approximation where `d` is one, two or
three, and nowhere else.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from nfbook._checks import (
    check_count,
    check_positive,
    check_real,
    check_same_dtype,
    check_tensor,
    check_type,
)

__all__ = ["around_gaussian", "gauss_hermite", "grid"]

# A larger product of nodes would fill the memory before anything is computed with it.
MAX_NODES = 2**24


def grid(low: float | Tensor, high: float | Tensor, points: int) -> tuple[Tensor, Tensor]:
    r"""Return the nodes and weights of the trapezoidal rule on an interval or a box.

    .. math::
        \int_{\text{box}} f(z)\, dz \approx \sum_k v_k\, f(z_k), \qquad
        v_k = \prod_j \Delta_j \cdot \tfrac12^{\,\text{number of ends that } z_k \text{ lies at}}

    The nodes of an axis are equally spaced, by :math:`\Delta_j`, and include both ends. For a
    density that has all but vanished at the ends, the error falls faster than any power of the
    spacing; elsewhere it falls with its square.

    Arguments:
        low: The lower end, or the lower corner with shape `(d,)`.
        high: The upper end or corner, above ``low`` in every axis.
        points: The number of nodes along an axis, at least two.

    Returns:
        The nodes, with shape `(points,)` on an interval and `(points**d, d)` on a box, and their
        weights, with shape `(points,)` or `(points**d,)`.

    Raises:
        TypeError: The dtypes of the corners differ.
        ValueError: One end is a number and the other a corner; the box is empty, or has more than
            :math:`2^{24}` nodes.

    Example:
        >>> x, weights = grid(0.0, 1.0, points=1001)
        >>> weights @ x**2
        tensor(0.3333)
        >>> corner = torch.tensor([-8.0, -8.0])
        >>> z, weights = grid(corner, -corner, points=33)
        >>> weights @ torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1).exp()
        tensor(1.0000)
    """
    if not (isinstance(low, Tensor) or isinstance(high, Tensor)):
        start, end = (torch.tensor([check_real(*one)]) for one in (("low", low), ("high", high)))
        nodes, weights = grid(start, end, points)
        return nodes[:, 0], weights
    low, high = torch.as_tensor(low), torch.as_tensor(high)
    d = check_tensor("low", low, ("d",))["d"]
    check_tensor("high", high, (d,))
    check_same_dtype(low=low, high=high)
    if not bool((low < high).all()):
        raise ValueError(f"low must be below high in every axis, got {low} and {high}")
    check_count("points", points, minimum=2)
    axis = torch.linspace(0, 1, points, dtype=low.dtype)
    share = torch.full_like(axis, 1 / (points - 1))
    share[[0, -1]] /= 2
    nodes, weights = _product(axis, share, d)
    return low + (high - low) * nodes, weights * (high - low).prod()


def around_gaussian(
    gaussian: Distribution, points: int = 181, *, width: float = 9.0
) -> tuple[Tensor, Tensor]:
    r"""Return the nodes and weights of the trapezoidal rule, laid around a Gaussian.

    .. math::
        \int f(z)\, dz \approx \sum_k v_k\, f(z_k), \qquad z_k = m + L\, e_k,
        \qquad v_k = \Delta^d \det L, \qquad L L^\top = \Sigma

    where the :math:`e_k` are the nodes of a `grid` from ``-width`` to ``width`` along every axis,
    with the spacing :math:`\Delta`. It suits any smooth integrand whose mass lies within ``width``
    standard deviations of the Gaussian, and whose features are wide against :math:`\Delta` of
    them: a tenth, as the defaults stand.

    Arguments:
        gaussian: A single Gaussian: `Normal`, `Independent` of it, or `MultivariateNormal`.
        points: The number of nodes along an axis, at least two.
        width: Where the grid ends, in standard deviations.

    Returns:
        The nodes, with shape `(points,)` for a `Normal` and `(points**d, d)` otherwise, and their
        weights. Both are differentiable with respect to the parameters of the Gaussian.

    Raises:
        TypeError: ``gaussian`` is another distribution.
        ValueError: It is a batch of them, or there are more than :math:`2^{24}` nodes.

    Example:
        >>> q = torch.distributions.Normal(1.0, 2.0)
        >>> z, weights = around_gaussian(q)
        >>> weights @ (q.log_prob(z).exp() * z**2)
        tensor(5.)
    """
    mean, factor = _mean_and_factor(gaussian)
    width = check_real("width", width)
    check_positive("width", torch.tensor(width))
    corner = torch.full_like(mean, width)
    steps, weights = grid(-corner, corner, points)
    return _carry(gaussian, steps), weights * factor.diagonal().prod()


def gauss_hermite(gaussian: Distribution, points: int = 16) -> tuple[Tensor, Tensor]:
    r"""Return nodes and weights for expectations under a Gaussian.

    .. math:: \mathbb{E}_{q(z)}\, f(z) \approx \sum_k v_k\, f(z_k), \qquad \sum_k v_k = 1

    With N nodes along an axis the rule is exact for polynomials of degree up to :math:`2N - 1` in
    each coordinate. The nodes of the standard Gaussian are the eigenvalues of the symmetric matrix
    with the off-diagonal :math:`1, \sqrt{2}, \dots, \sqrt{N - 1}`, and the weights are the squares
    of the first elements of its eigenvectors (Golub and Welsch, *Calculation of Gauss quadrature
    rules*, 1969).

    Arguments:
        gaussian: A single Gaussian: `Normal`, `Independent` of it, or `MultivariateNormal`.
        points: The number of nodes along an axis, N.

    Returns:
        The nodes, with shape `(points,)` for a `Normal` and `(points**d, d)` otherwise, and their
        weights. The nodes are differentiable with respect to the parameters of the Gaussian.

    Raises:
        TypeError: ``gaussian`` is another distribution.
        ValueError: It is a batch of them, or there are more than :math:`2^{24}` nodes.

    Example:
        >>> z, weights = gauss_hermite(torch.distributions.Normal(1.0, 2.0), points=3)
        >>> weights @ z**4  # 3 s⁴ + 6 m² s² + m⁴
        tensor(73.0000)
    """
    mean, _ = _mean_and_factor(gaussian)
    check_count("points", points)
    off = torch.arange(1, points, dtype=torch.float64).sqrt().diag(1)
    places, vectors = torch.linalg.eigh(off + off.mT)
    nodes, weights = _product(places.to(mean.dtype), vectors[0].square().to(mean.dtype), len(mean))
    return _carry(gaussian, nodes), weights


def _product(axis: Tensor, weights: Tensor, d: int) -> tuple[Tensor, Tensor]:
    """Return every combination of d one-dimensional nodes, and the products of their weights."""
    if len(axis) ** d > MAX_NODES:
        raise ValueError(f"{len(axis)}^{d} nodes are more than {MAX_NODES}")
    # For d = 1, torch leaves out the last dimension.
    nodes = torch.cartesian_prod(*[axis] * d).reshape(-1, d)
    return nodes, torch.cartesian_prod(*[weights] * d).reshape(-1, d).prod(1)


def _mean_and_factor(gaussian: Distribution) -> tuple[Tensor, Tensor]:
    """Return the mean and a lower triangular square root of the covariance of a Gaussian."""
    wanted = "a Normal, an Independent of it or a MultivariateNormal"
    base = gaussian.base_dist if isinstance(gaussian, Independent) else gaussian
    check_type("gaussian", base, Normal | MultivariateNormal, wanted)
    if gaussian.batch_shape or len(gaussian.event_shape) > 1:
        raise ValueError(
            f"gaussian must be a single one, got batch shape {tuple(gaussian.batch_shape)} "
            f"and event shape {tuple(gaussian.event_shape)}"
        )
    if isinstance(gaussian, MultivariateNormal):
        return gaussian.mean, gaussian.scale_tril
    return gaussian.mean.reshape(-1), gaussian.stddev.reshape(-1).diag()


def _carry(gaussian: Distribution, noise: Tensor) -> Tensor:
    """Carry nodes of the standard Gaussian to those of another."""
    mean, factor = _mean_and_factor(gaussian)
    nodes = mean + noise @ factor.mT
    return nodes if gaussian.event_shape else nodes[:, 0]
