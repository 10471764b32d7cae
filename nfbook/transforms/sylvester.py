"""The Sylvester layer: planar layers that act together, along orthonormal directions."""

from __future__ import annotations

import torch
from torch import Tensor

from nfbook._checks import check_precision
from nfbook._precision import full_precision
from nfbook.transforms._algebra import diagonal, product
from nfbook.transforms._parameters import check_parameters
from nfbook.transforms._tanh_layers import determinant
from nfbook.transforms.base import Transform
from nfbook.transforms.roots import increasing_root

__all__ = ["Sylvester", "orthonormal_columns"]


class Sylvester(Transform):
    r"""A Sylvester layer (van den Berg, Hasenclever, Tomczak and Welling, 2018).

    .. math:: t(\mathbf{z}) = \mathbf{z} + \mathbf{Q} \hat{\mathbf{R}}
        \tanh(\tilde{\mathbf{R}} \mathbf{Q}^\top \mathbf{z} + \mathbf{b})

    Q has M orthonormal columns, and both R are upper triangular. A planar layer moves z along one
    direction; this one moves it along M.

    The determinant of the D × D Jacobian is one of size M, by Sylvester's identity
    :math:`\det(\mathbf{I}_D + \mathbf{A} \mathbf{B}) = \det(\mathbf{I}_M + \mathbf{B} \mathbf{A})`
    with :math:`\mathbf{A} = \mathbf{Q} \hat{\mathbf{R}}`. Since :math:`\mathbf{Q}^\top \mathbf{Q} =
    \mathbf{I}`, what remains is triangular. With h the values of tanh,

    .. math:: \det J_t(\mathbf{z})
        = \det\bigl(\mathbf{I}_M + \operatorname{diag}(1 - \mathbf{h}^2)\,
            \tilde{\mathbf{R}} \hat{\mathbf{R}}\bigr)
        = \prod_{i=1}^M \bigl(1 + (1 - h_i^2)\, \hat{r}_{ii} \tilde{r}_{ii}\bigr).

    The layer is invertible if every :math:`\hat{r}_{ii} \tilde{r}_{ii} > -1`. So the diagonal of R
    is changed, as u is in a planar layer:

    .. math:: \hat{r}_{ii} = r_{ii} \frac{1 + s_i}{1 + \sqrt{1 + c_i^2}},
        \qquad s_i = c_i + \sqrt{1 + c_i^2} = e^{\operatorname{asinh} c_i},
        \qquad c_i = r_{ii} \tilde{r}_{ii}.

    Then :math:`1 + \hat{r}_{ii} \tilde{r}_{ii} = s_i > 0`, as in `Planar`. This is smooth, divides
    by nothing that could be zero, and :math:`|\hat{r}_{ii}| \le 2 |r_{ii}|`. With R = 0 the layer
    is the identity.

    The inverse finds :math:`\mathbf{v} = \mathbf{Q}^\top \mathbf{z}` from
    :math:`\mathbf{Q}^\top \mathbf{y} = \mathbf{v} + \hat{\mathbf{R}} \tanh(\tilde{\mathbf{R}}
    \mathbf{v} + \mathbf{b})`. Row i of it holds only :math:`v_i, \dots, v_M`. From the last row to
    the first, each one is an equation for one number, and its left side increases.

    Arguments:
        q: Q, whose columns have to be orthonormal, `(*, D, M)`.
        r: R, `(*, M, M)`. What stands below the diagonal is not looked at.
        r_tilde: :math:`\tilde{\mathbf{R}}`, `(*, M, M)`. What stands below the diagonal is not
            looked at.
        b: `(*, M)`.

    Raises:
        TypeError: A parameter is not a tensor of single or double precision, or the dtypes differ.
        ValueError: Their sizes do not fit.

    Example:
        >>> q = orthonormal_columns(torch.randn(3, 2))
        >>> layer = Sylvester(q, torch.randn(2, 2), torch.randn(2, 2), torch.randn(2))
        >>> y = layer(torch.ones(3))
        >>> torch.allclose(layer.inv(y), torch.ones(3), atol=1e-4)
        True
    """

    def __init__(self, q: Tensor, r: Tensor, r_tilde: Tensor, b: Tensor) -> None:
        super().__init__()
        check_parameters(q=(q, "DM"), r=(r, "MM"), r_tilde=(r_tilde, "MM"), b=(b, "M"))
        check_precision("q", q)
        self.q, self.r, self.r_tilde, self.b = q, r, r_tilde, b

    @property
    def features(self) -> int:
        """The dimension D."""
        return self.q.shape[-2]

    @property
    def r_hat(self) -> Tensor:
        """The matrix with which the layer is invertible, `(*, M, M)`."""
        c, r = self._products(), diagonal(self.r)
        r_hat = r * (1 + self.slopes) / (1 + torch.hypot(c, torch.ones_like(c)))
        return self.r.triu(1) + torch.diag_embed(r_hat)

    @property
    def slopes(self) -> Tensor:
        r"""What each factor of the determinant is where h = 0, s = 1 + r̂ r̃, `(*, M)`."""
        return self._products().asinh().exp()

    def _products(self) -> Tensor:
        return diagonal(self.r) * diagonal(self.r_tilde)

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Move z along the columns of Q."""
        x = product(self.r_tilde.triu(), product(self.q.mT, z)) + self.b
        y = z + product(self.q, product(self.r_hat, torch.tanh(x)))
        return y, determinant(x, self.slopes).log().sum(-1)

    def _inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Solve for the numbers v, from the last to the first, then undo the move."""
        r, r_tilde, slopes = self.r_hat, self.r_tilde, self.slopes
        # What is left of each row when the terms that are known by now have gone to the other side.
        left, inside, slopes = torch.broadcast_tensors(product(self.q.mT, y), self.b, slopes)
        xs = []
        for i in reversed(range(left.shape[-1])):
            v = _root(
                left[..., i], r[..., i, i], r_tilde[..., i, i], inside[..., i], slopes[..., i]
            )
            x = r_tilde[..., i, i] * v + inside[..., i]
            xs.append(x)
            left = left - r[..., i] * torch.tanh(x).unsqueeze(-1)
            inside = inside + r_tilde[..., i] * v.unsqueeze(-1)
        x = torch.stack(xs[::-1], -1)
        return y - product(self.q, product(r, torch.tanh(x))), -determinant(x, slopes).log().sum(-1)


def _root(target: Tensor, r: Tensor, r_tilde: Tensor, b: Tensor, s: Tensor) -> Tensor:
    r"""Return the v with :math:`v + r \tanh(\tilde{r} v + b)` at the target; s is 1 + r r̃."""
    reach = r.detach().abs()
    return increasing_root(
        lambda v: v + r * torch.tanh(r_tilde * v + b) - target,
        lambda v: determinant(r_tilde * v + b, s),
        target.detach() - reach,
        target.detach() + reach,
    )


def orthonormal_columns(raw: Tensor) -> Tensor:
    r"""Return a matrix with orthonormal columns, smooth in its unconstrained parameters.

    The Cayley transform takes a skew-symmetric matrix S to the orthogonal matrix
    :math:`(\mathbf{I} + \mathbf{S}) (\mathbf{I} - \mathbf{S})^{-1}`. If S has the first columns
    :math:`(\mathbf{A}, \mathbf{B})`, their negative transposes as first rows, and zeros
    elsewhere, then the first M columns of the result need only an M × M system:

    .. math:: \mathbf{Q}
        = 2 \begin{pmatrix} \mathbf{I} \\ \mathbf{B} \end{pmatrix} \mathbf{G}^{-1}
          - \begin{pmatrix} \mathbf{I} \\ \mathbf{0} \end{pmatrix},
        \qquad \mathbf{G} = \mathbf{I} + \mathbf{B}^\top \mathbf{B} - \mathbf{A},
        \quad \mathbf{A}^\top = -\mathbf{A}.

    As A is skew-symmetric, :math:`\mathbf{x}^\top \mathbf{G} \mathbf{x} \ge \|\mathbf{x}\|^2`. So G
    can always be inverted, and the derivatives of Q are bounded, whatever the parameters. Those of
    a QR or polar decomposition are not: they grow without bound near matrices that lack full rank,
    and zero is one. Up to the signs of its columns, every Q can be reached. (For some choice
    of signs, I plus the upper part of Q can be inverted: the mean of its determinant over all signs
    is one.)

    In exact arithmetic Q is orthonormal. A step of :math:`\mathbf{Q} \leftarrow \tfrac12 \mathbf{Q}
    (3 \mathbf{I} - \mathbf{Q}^\top \mathbf{Q})`, which squares the distance from it, removes the
    rounding errors of the system. The paper finds its Q by many such steps from a start for which
    they converge.

    Arguments:
        raw: `(*, D, M)` with D ≥ M. Of asinh(raw), A is the upper part minus its transpose, and B
            is the lower part. Zeros give the first columns of the identity.

    Returns:
        Q, `(*, D, M)`.

    Raises:
        TypeError: The parameters are not a tensor of single or double precision.
        ValueError: They have more columns than rows.

    Example:
        >>> q = orthonormal_columns(torch.randn(5, 2, dtype=torch.float64))
        >>> bool(torch.dist(q.mT @ q, torch.eye(2)) < 1e-14)
        True
    """
    sizes = check_parameters(raw=(raw, "DM"))
    if sizes["D"] < sizes["M"]:
        raise ValueError(f"raw must have shape (*, D, M) with D >= M, got {tuple(raw.shape)}")
    check_precision("raw", raw)
    with full_precision(raw):
        return _orthonormal_columns(raw)


def _orthonormal_columns(raw: Tensor) -> Tensor:
    features, columns = raw.shape[-2:]
    # G holds squares, so rounding errors grow with them; asinh keeps any parameter small enough.
    raw = raw.asinh()
    upper, lower = raw[..., :columns, :], raw[..., columns:, :]
    one = torch.eye(columns, dtype=raw.dtype, device=raw.device)
    g = one + lower.mT @ lower - (upper - upper.mT)
    both = torch.cat([one.expand_as(upper), lower], -2)
    first = torch.eye(features, columns, dtype=raw.dtype, device=raw.device)
    q: Tensor = 2 * torch.linalg.solve(g, both, left=False) - first
    return q @ (1.5 * one - 0.5 * q.mT @ q)
