"""From whole numbers as pixels, or from rounded measurements, to vectors with a density."""

from __future__ import annotations

import torch
from torch import Tensor

from nfbook._checks import (
    check_count,
    check_generator,
    check_positive,
    check_real,
    check_same_dtype,
    check_tensor,
    check_type,
)
from nfbook.transforms.bounded import Box

__all__ = ["dequantise", "dequantise_table", "pixel_box", "quantise", "within_cell"]

# How many machine epsilons lie between the edge of a cell and the nearest point that is drawn in
# it. From x to its logit and back, at most one epsilon is lost for an alpha up to 1/4.
ROUNDINGS = 8


def dequantise(
    k: Tensor,
    levels: int = 256,
    *,
    dtype: torch.dtype | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Return :math:`x = (k + u) / 256` with noise u that is uniform on [0, 1).

    A density of whole numbers grows without bound where it puts a spike on each. With the noise it
    cannot: the average of :math:`\log p(x)` over u, less :math:`\log 256` for each of the numbers
    since a cell is 1/256 wide, is a lower bound on the logarithm of the probability that the
    density gives to the whole cell (Theis, van den Oord and Bethge, 2016, section 3.1).

    Arguments:
        k: Whole numbers from 0 to ``levels`` - 1, of any shape.
        levels: How many there are.
        dtype: That of x; torch's default one if None.
        generator: The source of the noise; torch's global one if None.

    Returns:
        Numbers strictly between 0 and 1, of the same shape. `quantise` gives back k exactly, before
        and after `pixel_box`.

    Raises:
        TypeError: k is not a tensor of integers.
        ValueError: k is empty, an element lies outside of its range, or ``levels`` are too many for
            the dtype.

    Example:
        >>> k = torch.tensor([0, 3, 255])
        >>> x = dequantise(k, generator=torch.Generator().manual_seed(0))
        >>> (256 * x).floor()
        tensor([  0.,   3., 255.])
    """
    check_type("k", k, Tensor, "a torch.Tensor")
    check_count("levels", levels, minimum=2)
    check_generator(generator)
    if k.is_floating_point() or k.is_complex() or k.dtype == torch.bool:
        raise TypeError(f"k must hold integers, got {k.dtype}")
    if k.numel() == 0:
        raise ValueError(f"k must not be empty, got shape {tuple(k.shape)}")
    # As Python numbers: in uint8, 256 is 0.
    least, most = int(k.min()), int(k.max())
    if least < 0 or most >= levels:
        raise ValueError(f"k must lie between 0 and {levels - 1}, got {least} to {most}")
    dtype = torch.get_default_dtype() if dtype is None else dtype
    u = torch.rand(k.shape, generator=generator, dtype=dtype, device=k.device)
    return within_cell(k, u, levels)


def within_cell(k: Tensor, u: Tensor, levels: int = 256) -> Tensor:
    r"""Return :math:`(k + u) / 256` for given noise, with the dtype of u.

    Rounding must not carry a point over the edge of its cell. It would: in float32,
    :math:`255 + (1 - 2^{-24})` is 256. So u is first moved to the middle of one of many equal parts
    of [0, 1). In float32 there are 2048 parts for 256 levels, in float64 2⁴⁰.

    Example:
        >>> within_cell(torch.tensor([0, 3]), torch.tensor([0.5, 0.5]), levels=4) * 4
        tensor([0.5000, 3.5000])
    """
    parts = _parts(levels, u.dtype)
    if parts < 1:
        raise ValueError(f"levels must be few enough to be told apart in {u.dtype}, got {levels}")
    return (k + _middle(u, parts)) / levels


def _parts(cells: float, dtype: torch.dtype) -> int:
    """Return into how many parts each one of so many cells can be cut."""
    return int(1 / (2 * ROUNDINGS * torch.finfo(dtype).eps * cells))


def _middle(u: Tensor, parts: int) -> Tensor:
    return ((u * parts).floor().clamp(max=parts - 1) + 0.5) / parts


def dequantise_table(
    x: Tensor, spacing: Tensor, *, generator: torch.Generator | None = None
) -> Tensor:
    r"""Return rounded measurements with noise over the cells that were rounded to them.

    .. math:: y_i = x_i + s_i \, (u_i - \tfrac{1}{2}), \qquad u_i \sim \mathcal{U}[0, 1).

    Without the noise a density can grow without bound, as for pixels, see `dequantise`. Here the
    columns keep their units, and a cell has the volume :math:`\prod_i s_i`. So

    .. math:: \mathbb{E}_u \log p(\mathbf{y}) + \sum_i \log s_i

    is a lower bound on the logarithm of the probability of the row as it was written down.

    Arguments:
        x: Rows on a grid, `(n, D)`.
        spacing: The distance of neighbouring values in each column, :math:`s`, `(D,)`.
        generator: The source of the noise; torch's global one if None.

    Returns:
        The rows with noise, `(n, D)`, each closer to its own grid point than to any other.

    Raises:
        TypeError: An argument is not a floating-point tensor, or their dtypes differ.
        ValueError: The shapes do not fit, an element is not finite, a spacing is not positive, or
            the dtype cannot tell the cells of a column apart.

    Example:
        >>> x, spacing = torch.tensor([[3.0, 0.5]]), torch.tensor([1.0, 0.1])
        >>> y = dequantise_table(x, spacing, generator=torch.Generator().manual_seed(0))
        >>> torch.allclose((y / spacing).round() * spacing, x)
        True
    """
    sizes = check_tensor("x", x, ("n", "D"))
    check_tensor("spacing", spacing, (sizes["D"],))
    check_same_dtype(x=x, spacing=spacing)
    check_positive("spacing", spacing)
    check_generator(generator)
    # Rounding, too, depends on how many cells away from zero a value is.
    farthest = float((x.abs() / spacing).max())
    parts = _parts(farthest + 1, x.dtype)
    if parts < 1:
        raise ValueError(
            f"spacing must be wide enough for the cells to be told apart in {x.dtype}, "
            f"got {farthest:.3g} of them between zero and x"
        )
    u = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    return x + spacing * (_middle(u, parts) - 0.5)


def quantise(x: Tensor, levels: int = 256) -> Tensor:
    r"""Return :math:`\lfloor 256 x \rfloor`, the inverse of `dequantise`, as int64.

    A sample a little outside of [0, 1] goes to the nearest level.

    Raises:
        TypeError: x is not a floating-point tensor.
        ValueError: x is empty, an element is not finite, or there are fewer than 2 levels.

    Example:
        >>> quantise(torch.tensor([-0.001, 0.5, 1.0]))
        tensor([  0, 128, 255])
    """
    check_tensor("x", x, ("*",))
    check_count("levels", levels, minimum=2)
    return (x * levels).floor().clamp(0, levels - 1).to(torch.int64)


def pixel_box(alpha: float = 0.05) -> Box:
    r"""Return the transform whose inverse is the logit of dequantised pixels.

    .. math:: \mathbf{y} = \operatorname{logit}\bigl(\alpha + (1 - 2 \alpha) \mathbf{x}\bigr),
        \qquad \mathbf{x} = \frac{\sigma(\mathbf{y}) - \alpha}{1 - 2 \alpha}.

    A flow on all vectors y cannot give a density on [0, 1] as it is, and
    the logit of a black pixel would be far away. The step is that of Dinh, Sohl-Dickstein and
    Bengio (2017, section 4.1), in the form of Papamakarios, Pavlakou and Murray (2017). Solved for
    x it is a `Box` that reaches beyond [0, 1] by :math:`\alpha / (1 - 2 \alpha)`.

    ``Transformed(flow, pixel_box())`` is a density of x. Its `log_prob` includes the
    log-determinant of the logit, so it is what `bits_per_dimension` takes.

    Arguments:
        alpha: From 0 to 1/4; near 1/2 the pixels would lose their last digits. Papers use 0.05, or
            1e-6 for MNIST.

    Raises:
        TypeError: It is not a number.
        ValueError: It lies outside of its range.

    Example:
        >>> box = pixel_box(0.05)
        >>> x = torch.tensor([0.25])
        >>> torch.allclose(box.inv(x), torch.logit(0.05 + 0.9 * x))
        True
    """
    if not 0 <= check_real("alpha", alpha) <= 0.25:
        raise ValueError(f"alpha must lie between 0 and 0.25, got {alpha}")
    return Box(0.0, 1.0, margin=alpha / (1 - 2 * alpha))
