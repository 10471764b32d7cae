"""The map between data in their own units and data with mean zero and variance one."""

from __future__ import annotations

import torch
from torch import Tensor

from nfbook._checks import check_tensor
from nfbook.transforms.elementwise import Affine

__all__ = ["DataUnits", "mean_and_log_std"]


class DataUnits(Affine):
    r"""An affine map whose inverse standardises data.

    .. math:: y_i = \sigma_i z_i + \mu_i, \qquad z_i = \frac{y_i - \mu_i}{\sigma_i}.

    The direction is that of all transforms, from base to target: z has mean 0 and variance 1, and y
    has the data's own units. ``Transformed(flow, DataUnits.from_data(x))`` is a density in those
    units, with a flow that only ever sees standardised data.

    Arguments:
        shift: :math:`\mu`, `(*, D)`.
        log_scale: :math:`\log \sigma`, `(*, D)`.

    Example:
        >>> x = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
        >>> DataUnits.from_data(x).inv(x)
        tensor([[-1.,  0.],
                [ 1.,  0.]])
    """

    @classmethod
    def from_data(cls, x: Tensor) -> DataUnits:
        r"""Return the transform with the data's mean and standard deviation.

        The variance is the mean of the squared deviations, without Bessel's correction, so each
        standardised column has mean square 1. A constant one, as in a single row, has no unit to
        read off: it gets :math:`\sigma_i = 1` and becomes zero.

        Arguments:
            x: The data, `(*, D)`; all dimensions but the last count observations.

        Raises:
            TypeError: x is not a floating-point tensor.
            ValueError: x is empty, or an element is not finite.
        """
        return cls(*mean_and_log_std(x))


def mean_and_log_std(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and log standard deviation of each column, see `DataUnits.from_data`.

    Example:
        >>> mean_and_log_std(torch.tensor([[1.0], [3.0]]))
        (tensor([2.]), tensor([0.]))
    """
    check_tensor("x", x, ("*", "D"))
    x = x.detach().reshape(-1, x.shape[-1])
    mean = x.mean(0)
    # Whether a column is constant is asked of the data: after rounding, the variance of a constant
    # is seldom 0. Deviations in units of the range neither under- nor overflow when squared.
    width = x.amax(0) - x.amin(0)
    varies = width > 0
    unit = torch.where(varies, width, 1)
    variance = ((x - mean) / unit).square().mean(0)
    log_std = torch.where(varies, 0.5 * variance.log() + unit.log(), 0)
    return torch.where(varies, mean, x[0]), log_std
