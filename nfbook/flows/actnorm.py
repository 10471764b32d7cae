"""ActNorm: an affine flow that starts from the mean and the scale of data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nfbook._checks import check_same_dtype, check_tensor
from nfbook.flows.affine import AffineFlow
from nfbook.transforms.base import Compose, Transform
from nfbook.transforms.data_units import DataUnits, mean_and_log_std

__all__ = ["ActNormFlow"]


class ActNormFlow(AffineFlow):
    r"""A trained scale and shift that start from data (Kingma and Dhariwal, 2018, section 3.1).

    .. math:: \mathbf{y} = \boldsymbol{\sigma} \odot (e^{\mathbf{s}} \odot \mathbf{z} + \mathbf{m})
        + \boldsymbol{\mu}.

    `start_from` sets :math:`\boldsymbol{\mu}` and :math:`\boldsymbol{\sigma}` to mean and standard
    deviation of a batch of y. The inverse, which a density flow evaluates, then standardises that
    batch. Afterwards they stay, and m and s are trained as usual, from zero on: a
    step of an optimiser means the same whatever the units of the data.

    The start is a call of its own, and not a side effect of the first `log_prob`. So `log_prob`
    changes nothing, in training as in evaluation; the first batch that happens to come does
    not decide; and copies, ``torch.func`` and ``torch.compile`` see a function. That
    it took place is a buffer, so a flow that is loaded has started already.

    As a layer between others it belongs in a `Chain`, whose `start_from` passes the data on.

    The arguments are those of `ParametricFlow`, with one layer unless more are asked for.

    Example:
        >>> x = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
        >>> flow = ActNormFlow(2)
        >>> flow.start_from(x)
        >>> flow().transform.inv(x).tolist()
        [[-1.0, 0.0], [1.0, 0.0]]
    """

    mean: Tensor
    log_std: Tensor
    started: Tensor

    def __init__(
        self,
        features: int,
        context: int = 0,
        length: int | None = None,
        hidden_features: Sequence[int] = (64, 64),
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(features, context, length, hidden_features, generator=generator)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("log_std", torch.zeros(features))
        # Not a bool, since torch's `AveragedModel` may average the buffers, too.
        self.register_buffer("started", torch.zeros(()))

    def start_from(self, x: Tensor) -> None:
        """Take mean and standard deviation from data, unless that was done before.

        A script that goes on from a stored flow may therefore call it again; nothing changes. To
        start once more on purpose, set ``flow.started.fill_(False)`` first.

        Arguments:
            x: Data as they come out of this layer, `(*, D)`. A constant coordinate, as in a batch
                of one, is only shifted: its scale is 1.

        Raises:
            TypeError: They are not a floating-point tensor of the flow's dtype.
            ValueError: They have another last dimension than D, are empty or not finite.
        """
        check_tensor("x", x, ("*", self.features))
        check_same_dtype(x=x, mean=self.mean)
        if self.started:
            return
        mean, log_std = mean_and_log_std(x)
        self.mean.copy_(mean)
        self.log_std.copy_(log_std)
        self.started.fill_(True)

    def transform(self, context: Tensor | None = None) -> Transform:
        """Return the trained layers, followed by the step to the data's units."""
        # Copies: a distribution stays as it is when the flow starts afterwards.
        units = DataUnits(self.mean.clone(), self.log_std.clone())
        return Compose([super().transform(context), units])
