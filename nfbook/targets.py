r"""The four energies of Rezende and Mohamed (2015), table 1, as densities on a square.

They are the two-dimensional posteriors of the paper's figure 3, with the features that a Gaussian
cannot have: two modes, a bend, a fork. `TARGETS` names them all.

Example:
    How far a Gaussian in the middle of the square is from the ring with two modes:

    >>> import torch
    >>> from nfbook.flows import AffineFlow, Transformed
    >>> from nfbook.objectives import reverse_kl
    >>> from nfbook.transforms import Box
    >>> q = Transformed(AffineFlow(2), Box(-4.0, 4.0))()
    >>> generator = torch.Generator().manual_seed(0)
    >>> value, error = reverse_kl(TARGETS["U1"](), q, 10_000, generator=generator)
    >>> bool(value > 1)
    True
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from nfbook._checks import check_callable, check_count, check_dense, check_generator, check_type
from nfbook.sampling import source_device

__all__ = ["TARGETS", "U1", "U2", "U3", "U4", "EnergyTarget"]


class EnergyTarget(Distribution, ABC):
    r"""A density on the square :math:`[-4, 4]^2` that an energy gives.

    .. math:: p(\mathbf{z}) = \frac{e^{-U(\mathbf{z})}}{Z}, \qquad
        Z = \int_{[-4, 4]^2} e^{-U(\mathbf{z})} \, d\mathbf{z},

    and zero outside. Without the square only `U1` would be a density: the others go on for ever
    along the first coordinate. `energy` is defined on all of the plane nevertheless.

    Since p is zero outside, :math:`\mathrm{KL}(q \,\|\, p)` is infinite for a q with any mass
    there, as of a flow on the plane. A flow gets the square as its support by a `Box` at its end.

    A target names its energy, the logarithm of Z, and a proposal that `sample` draws from.

    Arguments:
        like: A tensor with the dtype and the device of the draws.

    Raises:
        TypeError: ``like`` is not a tensor of floats.

    Example:
        >>> target = U2()
        >>> target.log_prob(torch.tensor([[1.0, 1.0], [5.0, 1.0]]))
        tensor([-2.0821,    -inf])
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    support = constraints.independent(constraints.interval(-4.0, 4.0), 1)
    #: Half of the square's side.
    bound: ClassVar[float] = 4.0
    #: The logarithm of Z.
    log_normaliser: ClassVar[float]

    def __init__(self, *, like: Tensor | None = None) -> None:
        self.like = torch.empty(()) if like is None else like
        check_type("like", self.like, Tensor, "a torch.Tensor")
        if not self.like.is_floating_point():
            raise TypeError(f"like must be a floating-point tensor, got {self.like.dtype}")
        super().__init__(torch.Size(), torch.Size([2]), validate_args=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def energy(self, z: Tensor) -> Tensor:
        r"""Return :math:`U(\mathbf{z})`, `(*)`, of points of the plane, `(*, 2)`.

        Raises:
            TypeError: The points are not a tensor of floats.
            ValueError: Their last dimension is not 2.
        """
        _check_points("z", z)
        return self._energy(z)

    @abstractmethod
    def _energy(self, z: Tensor) -> Tensor: ...

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Return :math:`\log p(\mathbf{z})`, `(*)`, of points `(*, 2)`: minus infinity outside.

        Raises:
            TypeError: The points are not a tensor of floats.
            ValueError: Their last dimension is not 2.
        """
        _check_points("value", value)
        inside = value.abs().amax(-1) <= self.bound
        # The middle stands in for points outside, so that no infinity enters a gradient.
        z = torch.where(inside.unsqueeze(-1), value, 0.0)
        outside = torch.where(value.isnan().any(-1), math.nan, -math.inf).to(value)
        return torch.where(inside, -self._energy(z) - self.log_normaliser, outside)

    def sample(self, sample_shape: Any = (), *, generator: torch.Generator | None = None) -> Tensor:
        """Draw, `(*sample_shape, 2)`, exactly, by rejection from each target's own proposal."""
        check_generator(generator)
        shape = torch.Size(sample_shape)
        like = self.like.new_empty(0, device=source_device(generator, self.like.device))
        pieces, missing = [like.view(0, 2)], shape.numel()
        while missing > 0:
            z, chance = self._propose(missing, like, generator)
            u = torch.rand(chance.shape, generator=generator, dtype=like.dtype, device=like.device)
            accepted = z[(u < chance) & (z.abs().amax(-1) <= self.bound)]
            pieces.append(accepted)
            missing -= len(accepted)
        return torch.cat(pieces).to(self.like.device).view(*shape, 2)

    @abstractmethod
    def _propose(
        self, count: int, like: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Return proposed points, `(count, 2)`, and the chance that each is taken, `(count,)`."""

    def integrate(self, function: Callable[[Tensor], Tensor], *, nodes: int = 256) -> Tensor:
        r"""Integrate a function over the square, by the Gauss-Legendre rule in both directions.

        With the density as a factor it gives expectations to many digits. The target's own, and
        smooth functions times it, are exact to 12 digits with the default number of nodes.

        Arguments:
            function: It takes the nodes, `(nodes**2, 2)` in float64, and returns a value for each,
                `(nodes**2, *)`.
            nodes: The number in each direction.

        Raises:
            TypeError: ``function`` cannot be called, or ``nodes`` is not an int.
            ValueError: ``nodes`` is not positive.

        Example:
            >>> target = U4()
            >>> target.integrate(lambda z: target.log_prob(z).exp())
            tensor(1.0000, dtype=torch.float64)
        """
        check_callable("function", function)
        check_count("nodes", nodes)
        x, weights = _gauss_legendre(nodes)
        x, weights = self.bound * x, self.bound * weights
        values = function(torch.cartesian_prod(x, x))
        integral: Tensor = torch.tensordot(weights.outer(weights).flatten(), values, dims=1)
        return integral

    @property
    def mean(self) -> Tensor:
        """The expectation of z, by quadrature."""
        return self._expectation(lambda z: z)

    @property
    def variance(self) -> Tensor:
        """The variances of both coordinates, by quadrature."""
        mean = self.mean.double().cpu()
        return self._expectation(lambda z: (z - mean).square())

    def _expectation(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        return self.integrate(lambda z: self.log_prob(z).exp().unsqueeze(-1) * function(z)).to(
            self.like
        )


class U1(EnergyTarget):
    r"""A ring with two modes, left and right.

    .. math:: U(\mathbf{z}) = \tfrac12 \Bigl(\frac{\|\mathbf{z}\| - 2}{0.4}\Bigr)^2 - \log \Bigl(
        e^{-\frac12 \left(\frac{z_1 - 2}{0.6}\right)^2}
        + e^{-\frac12 \left(\frac{z_1 + 2}{0.6}\right)^2} \Bigr).

    It could be normalised on the plane as well, where Z is larger by one part in 1e8. Draws are
    proposed from the second factor, a mixture of two Gaussians in :math:`z_1`, and uniformly in
    :math:`z_2`. The first factor is the chance to be taken: 27% of them are.

    Example:
        >>> U1().energy(torch.tensor([2.0, 0.4]))
        tensor(0.0049)
    """

    log_normaliser = 1.877501616798

    def _energy(self, z: Tensor) -> Tensor:
        z1 = z[..., 0]
        modes = torch.logaddexp(_gauss(z1, 2.0, 0.6), _gauss(z1, -2.0, 0.6))
        return -self._log_ring(z) - modes

    @staticmethod
    def _log_ring(z: Tensor) -> Tensor:
        return _gauss(z.norm(dim=-1), 2.0, 0.4)

    def _propose(
        self, count: int, like: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        side = torch.randint(2, (count,), generator=generator, device=like.device)
        noise, uniform = _noise(count, like, generator), _uniform(count, like, generator)
        z1 = (4 * side - 2) + 0.6 * noise
        z = torch.stack([z1, self.bound * uniform], -1)
        return z, self._log_ring(z).exp()


class _Ridges(EnergyTarget):
    r"""Ridges along the first coordinate: Gaussians in the second one, with equal heights.

    .. math:: e^{-U(\mathbf{z})} = \sum_k e^{-\frac12 ((z_2 - m_k(z_1)) / s_k)^2}

    On the strip :math:`|z_1| \le 4` the integral of ridge k is :math:`8 \sqrt{2 \pi} s_k`. So
    an exact draw is a ridge with a chance in proportion to its width, a uniform :math:`z_1` and a
    Gaussian :math:`z_2`, drawn again if it lies outside of the square.
    """

    widths: ClassVar[tuple[float, ...]]

    @abstractmethod
    def ridges(self, z1: Tensor) -> list[Tensor]:
        """Return the second coordinate of each ridge, `(*)`, at first coordinates `(*)`."""

    def _energy(self, z: Tensor) -> Tensor:
        z1, z2 = z.unbind(-1)
        ridges = zip(self.ridges(z1), self.widths, strict=True)
        return -torch.stack([_gauss(z2, m, s) for m, s in ridges]).logsumexp(0)

    def _propose(
        self, count: int, like: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        widths = like.new_tensor(self.widths)
        ridge = torch.multinomial(widths, count, replacement=True, generator=generator)
        z1 = self.bound * _uniform(count, like, generator)
        middle = torch.stack(self.ridges(z1)).gather(0, ridge.unsqueeze(0)).squeeze(0)
        z2 = middle + widths[ridge] * _noise(count, like, generator)
        return torch.stack([z1, z2], -1), torch.ones_like(z1)


class U2(_Ridges):
    r"""A wave.

    .. math:: U(\mathbf{z}) = \tfrac12 \Bigl(\frac{z_2 - w_1(z_1)}{0.4}\Bigr)^2, \qquad
        w_1(z_1) = \sin \frac{2 \pi z_1}{4}.

    Of the proposed draws (see `EnergyTarget.sample`) all but some 1e-14 are taken.

    Example:
        >>> U2().energy(torch.tensor([1.0, 1.4]))
        tensor(0.5000)
    """

    log_normaliser = 2.082089343010
    widths = (0.4,)

    def ridges(self, z1: Tensor) -> list[Tensor]:
        """Return the wave."""
        return [_wave(z1)]


class U3(_Ridges):
    r"""A wave that splits in two for a while.

    .. math:: U(\mathbf{z}) = -\log \Bigl(
        e^{-\frac12 \left(\frac{z_2 - w_1(z_1)}{0.35}\right)^2}
        + e^{-\frac12 \left(\frac{z_2 - w_1(z_1) + w_2(z_1)}{0.35}\right)^2} \Bigr), \qquad
        w_2(z_1) = 3 e^{-\frac12 \left(\frac{z_1 - 1}{0.6}\right)^2}.

    Of the proposed draws all but some 1e-10 are taken.

    Example:
        >>> U3().energy(torch.tensor([1.0, -2.0]))
        tensor(-0.)
    """

    log_normaliser = 2.641705130859
    widths = (0.35, 0.35)

    def ridges(self, z1: Tensor) -> list[Tensor]:
        """Return the wave, and its second branch below."""
        bump = 3 * _gauss(z1, 1.0, 0.6).exp()
        return [_wave(z1), _wave(z1) - bump]


class U4(_Ridges):
    r"""A wave that forks for good.

    .. math:: U(\mathbf{z}) = -\log \Bigl(
        e^{-\frac12 \left(\frac{z_2 - w_1(z_1)}{0.4}\right)^2}
        + e^{-\frac12 \left(\frac{z_2 - w_1(z_1) + w_3(z_1)}{0.35}\right)^2} \Bigr), \qquad
        w_3(z_1) = 3 \, \sigma\Bigl(\frac{z_1 - 1}{0.3}\Bigr).

    The lower branch touches the square's edge at :math:`z_1 = 3`, where half of it is cut off. Of
    the proposed draws 97% are taken.

    Example:
        >>> U4().energy(torch.tensor([3.0, -1.0]))
        tensor(-0.)
    """

    log_normaliser = 2.684567670243
    widths = (0.4, 0.35)

    def ridges(self, z1: Tensor) -> list[Tensor]:
        """Return the wave, and its second branch below."""
        step = 3 * torch.sigmoid((z1 - 1) / 0.3)
        return [_wave(z1), _wave(z1) - step]


TARGETS: dict[str, type[EnergyTarget]] = {"U1": U1, "U2": U2, "U3": U3, "U4": U4}


def _gauss(x: Tensor, middle: float | Tensor, width: float) -> Tensor:
    r"""Return :math:`-\frac12 ((x - m) / s)^2`, the logarithm of a Gaussian of height one."""
    return -0.5 * ((x - middle) / width).square()


def _wave(z1: Tensor) -> Tensor:
    return torch.sin(2 * math.pi * z1 / 4)


def _uniform(count: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return uniform numbers between -1 and 1."""
    unit = torch.rand(count, generator=generator, dtype=like.dtype, device=like.device)
    return 2 * unit - 1


def _noise(count: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(count, generator=generator, dtype=like.dtype, device=like.device)


def _gauss_legendre(nodes: int) -> tuple[Tensor, Tensor]:
    """Return the nodes and the weights on [-1, 1]: eigenvalues and first entries of eigenvectors.

    Source: G. H. Golub and J. H. Welsch, Calculation of Gauss quadrature rules (1969).

    Example:
        >>> x, weights = _gauss_legendre(3)
        >>> torch.allclose(weights @ x**4, torch.tensor(2 / 5).double())
        True
    """
    k = torch.arange(1, nodes, dtype=torch.float64)
    off_diagonal = k / (4 * k.square() - 1).sqrt()
    matrix = torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1)
    x, vectors = torch.linalg.eigh(matrix)
    return x, 2 * vectors[0].square()


def _check_points(name: str, z: object) -> None:
    check_type(name, z, Tensor, "a torch.Tensor")
    assert isinstance(z, Tensor)
    check_dense(name, z)
    if not z.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got {z.dtype}")
    if not z.shape or z.shape[-1] != 2:
        raise ValueError(f"{name} must have shape (*, 2), got {tuple(z.shape)}")
