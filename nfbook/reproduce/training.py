"""What a job of the experiments with images does, once it has a model, a loss and data."""

from __future__ import annotations

from typing import Any, Protocol

from nfbook.data.splits import Splits
from nfbook.reproduce.evaluation import evaluate
from nfbook.training import Checkpoints, Trainer, TrainingError, negative_bound
from nfbook.vae import VAE

__all__ = ["Job", "parameter_groups", "train_and_evaluate"]


class Job(Protocol):
    """The settings that training and evaluation look at."""

    @property
    def updates(self) -> int:
        """The optimiser's steps."""

    @property
    def every(self) -> int:
        """How many of them lie between two looks at the validation images."""

    @property
    def importance_samples(self) -> int:
        """The number of draws for each test image."""

    @property
    def seed(self) -> int:
        """The seed of these draws."""


def parameter_groups(model: VAE, learning_rate: float, flow_rate: float) -> list[dict[str, Any]]:
    """Return the parameters for an optimiser, those of the posterior's flow at a rate of their own.

    Arguments:
        model: The VAE.
        learning_rate: The rate of all but the flow's.
        flow_rate: The rate of the flow's, as a multiple of the other. There may be none.

    Example:
        >>> import torch
        >>> from nfbook.flows import PlanarFlow
        >>> from nfbook.networks import Feedforward
        >>> from nfbook.vae import BernoulliDecoder
        >>> networks = Feedforward(4, (8,)), BernoulliDecoder(Feedforward(2, (8,), 4))
        >>> vae = VAE(*networks, PlanarFlow(2, 8, 3, ()))
        >>> optimiser = torch.optim.Adam(parameter_groups(vae, 1e-2, 0.5))
        >>> [group["lr"] for group in optimiser.param_groups]
        [0.01, 0.005]
    """
    named = list(model.named_parameters())
    others = [parameter for name, parameter in named if not name.startswith("flow.")]
    flow = [parameter for name, parameter in named if name.startswith("flow.")]
    return [
        {"params": others, "lr": learning_rate},
        {"params": flow, "lr": learning_rate * flow_rate},
    ]


def train_and_evaluate(
    trainer: Trainer,
    job: Job,
    data: Splits,
    *,
    parts: int = 1,
    checkpoints: Checkpoints | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train a VAE, and evaluate the parameters with the best bound on the validation images.

    Arguments:
        trainer: Of the model, the loss and what it is trained on.
        job: The settings.
        data: The images as models are compared on them, with the same noise every time.
        parts: How many rows in succession are parts of one image, as for `evaluate`.
        checkpoints: Where to go on from, and where to leave the state.
        progress: Whether to show a bar.

    Returns:
        What JSON can hold: the step with the best bound, the numbers of `evaluate`, and the
        training's history by column. A training that a loss or a gradient ended which was not
        finite has ``failure`` and ``failed_step`` in the place of the step and the numbers: with
        the same seed it would end there again.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from nfbook.data.minibatches import Minibatches
        >>> from nfbook.networks import Feedforward
        >>> from nfbook.training import NegativeELBO
        >>> from nfbook.vae import BernoulliDecoder
        >>> job = SimpleNamespace(updates=2, every=1, importance_samples=5, seed=0)
        >>> data = Splits(*torch.ones(3, 10, 4))
        >>> vae = VAE(Feedforward(4, (8,)), BernoulliDecoder(Feedforward(2, (8,), 4)))
        >>> optimiser = torch.optim.Adam(vae.parameters())
        >>> trainer = Trainer(vae, NegativeELBO(), Minibatches(data.train, size=5), optimiser)
        >>> train_and_evaluate(trainer, job, data)["history"]["step"]
        [1, 2]
    """
    try:
        trainer.fit(
            job.updates,
            validate=lambda vae: {"validation": negative_bound(vae, data.validation)},
            every=job.every,
            checkpoints=checkpoints,
            progress=progress,
        )
    except TrainingError as error:
        found = {"failure": str(error).partition(":")[0], "failed_step": error.step}
    else:
        best_step, vae = trainer.load_best(), trainer.model
        assert isinstance(vae, VAE)
        numbers = evaluate(
            vae, data, job.importance_samples, job.seed, parts=parts, progress=progress
        )
        found = {"best_step": best_step, **numbers}
    history = {name: trainer.history[name] for name in trainer.history.columns}
    return {**found, "history": history}
