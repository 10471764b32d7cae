"""A variational autoencoder of given data in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from nfbook._checks import (
    check_count,
    check_fraction,
    check_generator,
    check_real,
    check_tensor,
    check_type,
)
from nfbook.data.minibatches import Minibatches
from nfbook.flows import FAMILIES, Flow
from nfbook.flows.base import ParametricFlow
from nfbook.networks import Feedforward
from nfbook.training import (
    NegativeELBO,
    Trainer,
    TrainingHistory,
    linear_annealing,
    negative_bound,
)
from nfbook.transforms import DataUnits, dequantise
from nfbook.vae._units import shift_and_scale
from nfbook.vae.decoders import BernoulliDecoder, Decoder, GaussianDecoder, LogitNormalDecoder
from nfbook.vae.model import VAE

__all__ = ["LIKELIHOODS", "Standardised", "fit_vae"]

LIKELIHOODS = ("bernoulli", "gaussian", "logit-normal")


class Standardised(nn.Module):
    r"""A network that sees data in units in which their mean is 0 and their variance 1.

    Arguments:
        network: From standardised data, `(*, D)`, to its outputs.
        units: The data's units.

    Raises:
        TypeError: The network is no module, or the units are none.
        ValueError: The units have no scale, or another size than the network's input.

    Example:
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> Standardised(nn.Identity(), DataUnits.from_data(x))(x)
        tensor([[-1.],
                [ 1.]])
    """

    shift: Tensor
    unit: Tensor

    def __init__(self, network: nn.Module, units: DataUnits) -> None:
        super().__init__()
        check_type("network", network, nn.Module, "a torch.nn.Module")
        shift, unit = shift_and_scale(units, getattr(network, "in_features", None))
        self.network = network
        self.register_buffer("shift", shift)
        self.register_buffer("unit", unit)

    @property
    def in_features(self) -> int:
        """The size D of the data."""
        return len(self.shift)

    @property
    def out_features(self) -> Any:
        """The size of the network's output."""
        return self.network.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's outputs for data in their own units, `(*, D)`."""
        result: Tensor = self.network((x - self.shift) / self.unit)
        return result


def fit_vae(
    x: Tensor,
    latent_dim: int = 8,
    *,
    flow: str | None = None,
    length: int = 8,
    likelihood: str | None = None,
    levels: int = 256,
    widths: Sequence[int] = (200,),
    updates: int = 1_000,
    batch: int = 100,
    learning_rate: float = 3e-3,
    validation: float = 0.1,
    generator: torch.Generator | None = None,
    progress: bool = True,
) -> tuple[VAE, TrainingHistory]:
    r"""Train a variational autoencoder, or with a flow the NF-VAE, on data.

    Encoder and decoder have hidden layers of the same widths. Adam's steps fall to zero along a
    cosine; the divergence from the prior gets its full weight over the first tenth of the updates.
    A part of the data is held back, and the parameters with the best bound for it are kept. Numbers
    that are neither 0 and 1 nor pixels are standardised inside the model, whose density is one of
    the data as they are. Whole numbers get new noise in each update, see `dequantise`: so give the
    model ``dequantise(x, levels)`` afterwards.

    Arguments:
        x: The data, `(n, D)`: floating-point numbers, or whole ones from 0 to ``levels`` - 1.
        latent_dim: The size d of z.
        flow: The posterior's family, a key of `nfbook.flows.FAMILIES`, whose parameters come from
            the encoder; None for a Gaussian with independent coordinates.
        length: The number of the flow's layers.
        likelihood: "bernoulli", "gaussian" or "logit-normal". None for the first where all of x is
            0 or 1, the last where x are whole numbers, else the second.
        levels: How many values a pixel has, where x are whole numbers.
        widths: The widths of the encoder's hidden layers, from x on, and the decoder's from x back.
        updates: The number of steps.
        batch: The number of observations in a step, or all where there are fewer.
        learning_rate: The length of the first step.
        validation: The share of the observations that is held back.
        generator: The source of all randomness, or None for torch's own.
        progress: Whether to show a bar.

    Returns:
        The model, and the history of the negative bound: "loss" in training, with the weight of
        the time, and "validation" for the part held back.

    Raises:
        TypeError: An argument has the wrong type, or x holds no numbers.
        ValueError: A number is out of its range, a name is unknown, or the likelihood does not go
            with the data.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = (torch.rand(200, 1, generator=generator) < 0.5).double().expand(200, 6)
        >>> model, history = fit_vae(x, 1, flow="planar", updates=300, generator=generator)
        >>> history["validation"][-1] < 2  # nats; of six coins they would be 4.16
        True
    """
    _check(x, latent_dim, likelihood, levels, updates, batch, learning_rate, validation, generator)
    x = x.detach()
    order = torch.randperm(len(x), generator=generator)
    held = min(max(1, round(validation * len(x))), len(x) - 1)
    train, rest = x[order[held:]], x[order[:held]]
    whole = not x.is_floating_point()
    if likelihood is None:
        binary = not whole and bool(((x == 0) | (x == 1)).all())
        likelihood = "bernoulli" if binary else "logit-normal" if whole else "gaussian"
    numbers = train
    if whole:
        rest, numbers = (dequantise(part, levels, generator=generator) for part in (rest, train))
    model = _make(
        numbers, latent_dim, flow, length, likelihood, widths=widths, generator=generator
    ).to(numbers)
    for part in (rest, numbers):
        model.check_observations(part)

    bound = NegativeELBO(warm_up=linear_annealing(0.01, max(1, updates // 10)))

    def loss(
        model: nn.Module, rows: Tensor, step: int, generator: torch.Generator | None
    ) -> Tensor:
        seen = dequantise(rows, levels, generator=generator) if whole else rows
        return bound(model, seen, step, generator)

    seed = int(torch.randint(2**31, (), generator=generator))
    optimiser = Adam(model.parameters(), learning_rate, fused=True)
    trainer = Trainer(
        model,
        loss,
        Minibatches(train, size=min(batch, len(train)), seed=seed),
        optimiser,
        schedule=CosineAnnealingLR(optimiser, updates),
        seed=seed,
    )
    history = trainer.fit(
        updates,
        validate=lambda model: {"validation": negative_bound(model, rest, seed)},
        every=max(1, updates // 20),
        progress=progress,
    )
    trainer.load_best()
    return model.eval(), history


def _check(
    x: Tensor,
    latent_dim: int,
    likelihood: str | None,
    levels: int,
    updates: int,
    batch: int,
    learning_rate: float,
    validation: float,
    generator: torch.Generator | None,
) -> None:
    check_type("x", x, Tensor, "a torch.Tensor")
    if x.dtype == torch.bool or x.is_complex():
        raise TypeError(
            f"x must hold floating-point or whole numbers, got {x.dtype}; convert true and false "
            "first, for example with .to(torch.float32)"
        )
    if x.is_floating_point():
        check_tensor("x", x, ("n", "D"))
    elif x.ndim != 2:
        raise ValueError(f"x must have shape (n, D), got {tuple(x.shape)}")
    elif not x.numel():
        raise ValueError(f"x must not be empty, got shape {tuple(x.shape)}")
    if len(x) < 2:
        raise ValueError(f"x must have at least 2 rows, one of them held back, got {len(x)}")
    for name, count in (("latent_dim", latent_dim), ("updates", updates), ("batch", batch)):
        check_count(name, count)
    if likelihood is not None and likelihood not in LIKELIHOODS:
        raise ValueError(
            f"likelihood must be one of {', '.join(LIKELIHOODS)} or None, got {likelihood!r}"
        )
    if likelihood == "bernoulli" and not x.is_floating_point():
        raise TypeError(
            f"x must be a floating-point tensor of 0 and 1 for bernoulli, got {x.dtype}; "
            "convert it first, for example with .to(torch.float32)"
        )
    check_count("levels", levels, minimum=2)
    if not x.is_floating_point() and not 0 <= int(x.min()) <= int(x.max()) < levels:
        raise ValueError(
            f"x must lie between 0 and levels - 1, {levels - 1}, "
            f"got {int(x.min())} to {int(x.max())}"
        )
    if check_real("learning_rate", learning_rate) <= 0:
        raise ValueError(f"learning_rate must be positive, got {learning_rate}")
    check_fraction("validation", validation)
    check_generator(generator)


def _make(
    x: Tensor,
    latent_dim: int,
    flow: str | None,
    length: int,
    likelihood: str,
    *,
    widths: Sequence[int],
    generator: torch.Generator | None,
) -> VAE:
    """Return the untrained model."""
    pixels = x.shape[-1]

    def back(outputs: int) -> Feedforward:
        return Feedforward(latent_dim, widths[::-1], outputs, generator=generator)

    encoder: nn.Module = Feedforward(pixels, widths, generator=generator)
    decoder: Decoder
    if likelihood == "bernoulli":
        decoder = BernoulliDecoder(back(pixels))
    elif likelihood == "logit-normal":
        decoder = LogitNormalDecoder(back(2 * pixels))
    else:
        units = DataUnits.from_data(x)
        encoder = Standardised(encoder, units)
        decoder = GaussianDecoder(back(pixels), units=units)
    return VAE(encoder, decoder, _flow(flow, latent_dim, length, widths[-1], generator))


def _flow(
    name: str | None,
    features: int,
    length: int,
    context: int,
    generator: torch.Generator | None,
) -> Flow | None:
    if name is None:
        return None
    family: Any = FAMILIES.get(name) if isinstance(name, str) else None
    if family is None:
        raise ValueError(f"flow must be one of {', '.join(FAMILIES)} or None, got {name!r}")
    # Where all parameters come from the encoder they are linear in its units.
    hidden = () if issubclass(family, ParametricFlow) else (64,)
    result: Flow = family(features, context, length, hidden, generator=generator)
    return result
