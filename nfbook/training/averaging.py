"""The average of the weights along the way, which often does better than the last ones."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nfbook._checks import check_fraction, check_type

__all__ = ["exponential_average"]


def exponential_average(model: nn.Module, decay: float = 0.999) -> AveragedModel:
    r"""Return an average of a model's weights that forgets.

    .. math:: \bar\theta_1 = \theta_1, \qquad
        \bar\theta_t = \rho\, \bar\theta_{t-1} + (1 - \rho)\, \theta_t.

    It is torch's own object, to be handed to `Trainer`; ``AveragedModel(model)`` is the plain mean
    of all steps. Buffers, which are no weights, are those of the last step.

    Source: B. T. Polyak and A. B. Juditsky, Acceleration of stochastic approximation by averaging,
    SIAM Journal on Control and Optimization 30 (1992), for the plain mean.

    Arguments:
        model: The model that is trained.
        decay: The factor :math:`\rho`: about :math:`1 / (1 - \rho)` steps are averaged.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The decay is not between 0 and 1.

    Example:
        >>> import torch
        >>> model = nn.Linear(1, 1, bias=False)
        >>> average = exponential_average(model, decay=0.75)
        >>> for weight in (0.0, 1.0, 1.0):
        ...     _ = nn.init.constant_(model.weight, weight)
        ...     average.update_parameters(model)
        >>> average.module.weight.item()
        0.4375
    """
    check_type("model", model, nn.Module, "a torch.nn.Module")
    check_fraction("decay", decay)
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
