"""The one training loop of the book: for flows, variational autoencoders, and all else."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from nfbook._checks import check_callable, check_count, check_real, check_type
from nfbook.progress import progress_bar
from nfbook.training.checkpoints import CheckpointError, Checkpoints
from nfbook.training.history import TrainingHistory
from nfbook.training.losses import Loss

__all__ = ["Interrupted", "Trainer", "TrainingError"]


class TrainingError(RuntimeError):
    """A loss that is not a finite number."""


class Interrupted(KeyboardInterrupt):
    """Training was stopped from outside, between two steps and with a checkpoint."""


class Trainer:
    r"""Minimises a loss over batches.

    One step is what every loop of the field does: a loss of the next batch, its gradient, and a
    step of the optimiser. Around it stand what a long run needs: a history, a choice of the best
    parameters by a validation loss, and checkpoints from which a run that was stopped goes on to
    the same end, bit by bit.

    Arguments:
        model: What is trained.
        loss: ``loss(model, batch, step, generator)``, see `nfbook.training.losses`.
        data: Batches without end, as `Minibatches`; None where the loss needs no data.
        optimiser: One of torch's, made for the model's parameters.
        schedule: One of torch's learning-rate schedules, which takes a step after every update.
        clip: The largest norm of the gradient; a longer one is scaled down to it. None for any.
        seed: Of all random numbers of the steps: the loss's and those of dropout.

    Example:
        >>> from nfbook.data.minibatches import Minibatches
        >>> from nfbook.flows import AffineFlow
        >>> from nfbook.training import MaximumLikelihood
        >>> x = 3 + 2 * torch.randn(1000, 1, generator=torch.Generator().manual_seed(0))
        >>> flow = AffineFlow(1)
        >>> optimiser = torch.optim.Adam(flow.parameters(), 0.05)
        >>> trainer = Trainer(flow, MaximumLikelihood(), Minibatches(x, size=100), optimiser)
        >>> history = trainer.fit(300)
        >>> bool(abs(flow().sample((10_000,)).mean() - 3) < 0.2)
        True
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        data: Any,
        optimiser: Optimizer,
        *,
        schedule: LRScheduler | None = None,
        clip: float | None = None,
        seed: int = 0,
    ) -> None:
        check_type("model", model, nn.Module, "a torch.nn.Module")
        check_callable("loss", loss)
        check_type("optimiser", optimiser, Optimizer, "a torch.optim.Optimizer")
        check_count("seed", seed, minimum=0)
        if clip is not None and not check_real("clip", clip) > 0:
            raise ValueError(f"clip must be above 0, got {clip}")
        self.model, self.loss, self.data = model, loss, data
        self.optimiser, self.schedule, self.clip = optimiser, schedule, clip
        self.generator = torch.Generator().manual_seed(seed)
        # What draws without a generator of its own, as dropout does, starts here too.
        self.global_state = torch.Generator().manual_seed(seed + 1).get_state()
        self.step = 0
        self.history = TrainingHistory()
        self.best: dict[str, Any] = {"loss": None, "step": None, "model": None}
        self._sum, self._count, self._seconds = 0.0, 0, 0.0

    def update(self) -> float:
        """Make one step, and return the loss before it."""
        batch = None if self.data is None else next(self.data)
        self.optimiser.zero_grad()
        loss = self.loss(self.model, batch, self.step, self.generator)
        value = loss.item()
        if not abs(value) < float("inf"):
            raise TrainingError(f"the loss of step {self.step} is {value}")
        loss.backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimiser.step()
        if self.schedule is not None:
            self.schedule.step()
        self.step += 1
        return value

    def fit(
        self,
        steps: int,
        *,
        validate: Callable[[nn.Module], dict[str, float]] | None = None,
        every: int = 1000,
        checkpoints: Checkpoints | None = None,
        progress: bool = True,
    ) -> TrainingHistory:
        """Train until this number of steps is done, those before this call included.

        Arguments:
            steps: The number of steps in all.
            validate: Called every so many steps. It returns numbers for the history; by the one
                named "validation" the best parameters are chosen, the lower the better.
            every: How many steps lie between two rows of the history, and two checkpoints.
            checkpoints: Where to go on from, and where to leave the state.
            progress: Whether to show a bar.

        Returns:
            The history, with the mean loss since the row before, and the seconds until now.

        Raises:
            CheckpointError: The checkpoint is one of another run.
            Interrupted: Ctrl-C, or a polite end from outside, has stopped it after a step.
            TrainingError: The loss is NaN or infinite.
        """
        check_count("steps", steps)
        check_count("every", every)
        state = None if checkpoints is None else checkpoints.latest()
        if state is not None:
            self.load_state_dict(state)
        name = type(self.model).__name__
        with (
            _own_global_randomness(self),
            _stop_between_steps() as stop,
            progress_bar(steps, f"Training {name}", show=progress) as bar,
        ):
            bar.update(self.step)
            started = time.perf_counter() - self._seconds
            while self.step < steps:
                self._sum += self.update()
                self._count += 1
                bar.update()
                if self.step % every == 0 or self.step == steps:
                    self._seconds = time.perf_counter() - started
                    self._look(validate)
                    self._seconds = time.perf_counter() - started
                    self._save(checkpoints)
                if stop.is_set() and self.step < steps:
                    self._seconds = time.perf_counter() - started
                    self._save(checkpoints)
                    raise Interrupted(f"stopped after step {self.step} of {steps}")
        return self.history

    def _look(self, validate: Callable[[nn.Module], dict[str, float]] | None) -> None:
        """Add a row to the history, and keep the parameters if they are the best so far."""
        row: dict[str, Any] = {"step": self.step, "loss": self._sum / self._count}
        self._sum, self._count = 0.0, 0
        if validate is not None:
            was_training = self.model.training
            self.model.eval()
            with torch.no_grad():
                row |= validate(self.model)
            self.model.train(was_training)
            score = row.get("validation")
            if score is not None and (self.best["loss"] is None or score < self.best["loss"]):
                copy = {name: value.clone() for name, value in self.model.state_dict().items()}
                self.best = {"loss": score, "step": self.step, "model": copy}
        self.history.append(**row, seconds=round(self._seconds, 1))

    def _save(self, checkpoints: Checkpoints | None) -> None:
        if checkpoints is not None:
            self.global_state = torch.get_rng_state()
            checkpoints.save(self.step, self.state_dict())

    def load_best(self) -> int:
        """Give the model the parameters with the lowest validation loss, and return their step."""
        if self.best["model"] is None:
            raise ValueError("there was no validation to choose the best parameters by")
        self.model.load_state_dict(self.best["model"])
        step: int = self.best["step"]
        return step

    def state_dict(self) -> dict[str, Any]:
        """Return all on which the rest of the run depends."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "data": None if self.data is None else self.data.state_dict(),
            "generator": self.generator.get_state(),
            "global": self.global_state,
            "history": self.history.rows,
            "best": self.best,
            "running": [self._sum, self._count, self._seconds],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken.

        Raises:
            CheckpointError: It was taken from another model or another run.
        """
        own = {name: tuple(value.shape) for name, value in self.model.state_dict().items()}
        theirs = {name: tuple(value.shape) for name, value in state["model"].items()}
        if own != theirs:
            odd = sorted(name for name in own | theirs if own.get(name) != theirs.get(name))[0]
            raise CheckpointError(
                f"the checkpoint is one of another model: {odd} has shape {theirs.get(odd)} there "
                f"and {own.get(odd)} here"
            )
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        if self.data is not None:
            self.data.load_state_dict(state["data"])
        self.generator.set_state(state["generator"])
        self.global_state = state["global"]
        self.step, self.best = state["step"], state["best"]
        self.history = TrainingHistory(state["history"])
        self._sum, self._count, self._seconds = state["running"]


@contextmanager
def _own_global_randomness(trainer: Trainer) -> Iterator[None]:
    """Lend the run torch's global generator, in the run's own state, and put it back after."""
    before = torch.get_rng_state()
    torch.set_rng_state(trainer.global_state)
    try:
        yield
    finally:
        trainer.global_state = torch.get_rng_state()
        torch.set_rng_state(before)


@contextmanager
def _stop_between_steps() -> Iterator[threading.Event]:
    """Turn Ctrl-C and SIGTERM into an event; the second Ctrl-C stops at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {each: signal.signal(each, ask) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
