"""The one training loop of the book: for flows, variational autoencoders, and all else."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

from nfbook._checks import check_callable, check_count, check_real, check_type
from nfbook.progress import progress_bar
from nfbook.training._randomness import OwnRandomness
from nfbook.training._signals import Interrupted, stop_between_steps
from nfbook.training._workers import Alone, LossOf
from nfbook.training.checkpoints import CheckpointError, Checkpoints, check_fits
from nfbook.training.finite import TrainingError, failure, gradient_norm
from nfbook.training.history import TrainingHistory
from nfbook.training.losses import Loss
from nfbook.training.scale import Together

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Trainer"]

Validate = Callable[[nn.Module], dict[str, float]]


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
        schedule: One of torch's learning-rate schedules, which takes a step after every update;
            ``ReduceLROnPlateau`` takes one after every validation.
        clip: The largest norm of the gradient; a longer one is scaled down to it. None for any.
        average: An average of the weights along the way, such as `exponential_average` makes; it
            is what is validated then, and what `load_best` loads.
        device: Where to train: "auto" for the accelerator if there is one, or a device of torch.
            None for where the model is.
        autocast: The dtype of matrix products, ``torch.bfloat16``; None for the parameters' own.
            In ``torch.float16`` small gradients would vanish.
        compiled: Whether ``torch.compile`` compiles the loss with all that it calls. The first
            steps take up to minutes then. Compiled code draws from torch's own generator, so the
            noise is another one, and still follows from the seed.
        fabric: A ``lightning_fabric.Fabric``, for several processes, see `nfbook.training.scale`.
            It chooses device and precision.
        seed: Of all random numbers of the steps: the loss's and those of dropout.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A number is out of its range, or two arguments exclude each other.

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
        average: AveragedModel | None = None,
        device: str | torch.device | None = None,
        autocast: torch.dtype | None = None,
        compiled: bool = False,
        fabric: Fabric | None = None,
        seed: int = 0,
    ) -> None:
        check_type("model", model, nn.Module, "a torch.nn.Module")
        check_callable("loss", loss)
        if data is not None:
            check_callable("data.__next__", getattr(data, "__next__", None))
        check_type("optimiser", optimiser, Optimizer, "a torch.optim.Optimizer")
        _check_trains(optimiser, model)
        check_type("schedule", schedule, LRScheduler | None, "a schedule of torch or None")
        # Some schedules of schedules name no optimiser of their own.
        if getattr(schedule, "optimizer", optimiser) is not optimiser:
            raise ValueError("schedule must be made for the optimiser, got one of another")
        check_type("average", average, AveragedModel | None, "an AveragedModel or None")
        if autocast not in (None, torch.bfloat16):
            raise ValueError(f"autocast must be torch.bfloat16 or None, got {autocast!r}")
        check_type("compiled", compiled, bool, "True or False")
        check_count("seed", seed, minimum=0)
        if clip is not None and not check_real("clip", clip) > 0:
            raise ValueError(f"clip must be above 0, got {clip}")
        if fabric is not None:
            check_callable("fabric.launch", getattr(fabric, "launch", None))
        if fabric is not None and (device is not None or autocast is not None):
            raise ValueError("device and autocast must be None with fabric, which chooses them")
        self.model, self.loss, self.data, self._compiled = model, loss, data, compiled
        self.optimiser, self.schedule, self.clip = optimiser, schedule, clip
        self.average = average
        self._workers = Alone(device, autocast) if fabric is None else Together(fabric)
        module: Any = LossOf(model, loss)
        module = torch.compile(module) if compiled else module
        self._loss, self._optimiser = self._workers.setup(module, optimiser)
        if average is not None:
            average.to(self._workers.device)
        self._random = OwnRandomness(seed, self._workers.rank, self._workers.device)
        self.step = 0
        self.history = TrainingHistory()
        self.best: dict[str, Any] = {"loss": None, "step": None, "model": None}
        self._sum, self._count, self._seconds = 0.0, 0, 0.0

    @property
    def generator(self) -> torch.Generator | None:
        """The source of the loss's random numbers; None for torch's own, as compiled code wants."""
        return None if self._compiled else self._random.generator

    def update(self) -> float:
        """Make one step, and return the loss before it.

        Raises:
            TrainingError: The loss or its gradient is not finite. The parameters are as before.
            TypeError: The loss is no tensor.
            ValueError: It has dimensions, or does not depend on what is trained, or the data are at
                their end.
        """
        batch = self._batch()
        before = self._random.state()
        self.optimiser.zero_grad()
        with self._workers.autocast():
            loss = self._loss(batch, self.step, self.generator)
        _check_loss(loss)
        value = self._workers.mean(loss)
        if not math.isfinite(value):
            raise self._failure(f"loss is {value}", batch, before)
        self._workers.backward(loss)
        norm = gradient_norm(self.model.parameters()).item()
        if not math.isfinite(norm):
            raise self._failure("gradient is not finite", batch, before)
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self._optimiser.step()
        if self.schedule is not None and not isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.step += 1
        return value

    def _batch(self) -> Any:
        if self.data is None:
            return None
        try:
            batch = next(self.data)
        except StopIteration:
            raise ValueError(
                f"data must be batches without end, got no more after step {self.step}"
            ) from None
        return self._workers.part(batch)

    def fit(
        self,
        steps: int,
        *,
        validate: Validate | None = None,
        every: int = 1000,
        patience: int | None = None,
        checkpoints: Checkpoints | None = None,
        progress: bool = True,
    ) -> TrainingHistory:
        """Train until this number of steps is done, those before this call included.

        A checkpoint that cannot be written, as on a full disk, is left out with a warning: the
        ones before it stand, and the next one is tried.

        Arguments:
            steps: The number of steps in all.
            validate: Called every so many steps, with the model or the average of its weights. It
                returns numbers for the history; by the one named "validation" the best parameters
                are chosen, the lower the better.
            every: How many steps lie between two rows of the history, and two checkpoints.
            patience: Training ends early after this number of validations in a row that were no
                better than the best one. None for never.
            checkpoints: Where to go on from, and where to leave the state.
            progress: Whether to show a bar.

        Returns:
            The history, with the mean loss since the row before, and the seconds until now.

        Raises:
            CheckpointError: The checkpoint is one of another run.
            TypeError: An argument has the wrong type, or there are checkpoints, and the data cannot
                say where they stand.
            ValueError: A number is out of its range, or there is nothing to be patient about.
            Interrupted: Ctrl-C, or a polite end from outside, has stopped it after a step.
            TrainingError: The loss or its gradient is not finite.
        """
        check_count("steps", steps)
        check_count("every", every)
        if patience is not None:
            check_count("patience", patience)
        if validate is not None or patience is not None:
            check_callable("validate", validate)
        check_type("checkpoints", checkpoints, Checkpoints | None, "Checkpoints or None")
        check_type("progress", progress, bool, "True or False")
        if checkpoints is not None and self.data is not None:
            for name in ("state_dict", "load_state_dict"):
                check_callable(f"data.{name}", getattr(self.data, name, None))
        first, name = self._workers.rank == 0, type(self.model).__name__
        with stop_between_steps() as stop:
            self._go_on_from(checkpoints)
            with (
                self._random.lent_to_torch(),
                progress_bar(steps, f"Training {name}", show=progress and first) as bar,
            ):
                bar.update(self.step)
                started, stopped = time.perf_counter() - self._seconds, False
                while self.step < steps and not stopped and not self._is_over(patience):
                    self._sum += self.update()
                    self._count += 1
                    bar.update()
                    due = self.step % every == 0 or self.step == steps
                    stopped = self._workers.any(stop.is_set())
                    self._seconds = time.perf_counter() - started
                    if due:
                        self._look(validate, patience)
                    if due or stopped:
                        self._save(checkpoints)
            if self._workers.any(stopped or stop.is_set()):
                raise Interrupted(f"stopped after step {self.step} of {steps}")
        return self.history

    def _look(self, validate: Validate | None, patience: int | None) -> None:
        """Add a row to the history, and keep the parameters if they are the best so far."""
        row: dict[str, Any] = {"step": self.step, "loss": self._sum / self._count}
        self._sum, self._count = 0.0, 0
        if validate is not None:
            model = self.model if self.average is None else self.average.module
            # Each module's own: a part that is frozen in evaluation mode stays so.
            modes = {module: module.training for module in model.modules()}
            model.eval()
            try:
                with torch.no_grad():
                    found = validate(model)
            finally:
                model.train(modes[model])  # which a model may have made its own
                for module, is_training in modes.items():
                    module.training = is_training
            row |= self._checked(found)
            if patience is not None and "validation" not in found:
                names = ", ".join(found) or "nothing"
                raise ValueError(
                    f"validate must return a number named 'validation' for patience, got {names}"
                )
            score = row.get("validation")
            least = math.inf if self.best["loss"] is None else self.best["loss"]
            if score is not None and score < least:
                copy = {name: value.clone() for name, value in model.state_dict().items()}
                self.best = {"loss": score, "step": self.step, "model": copy}
            if isinstance(self.schedule, ReduceLROnPlateau):
                self.schedule.step(row["loss"] if score is None else score)
        self.history.append(**row, seconds=round(self._seconds, 1))

    def _checked(self, found: object) -> dict[str, float]:
        """Return what `validate` has found, as the mean over all processes."""
        check_type("what validate returns", found, dict, "a dict of numbers")
        assert isinstance(found, dict)
        for name, value in found.items():
            check_type("every name of what validate returns", name, str, "a str")
            if name in ("step", "loss", "seconds"):
                raise ValueError(f"validate must not name a number {name!r}, which the loop does")
            check_type(f"the {name!r} of what validate returns", value, int | float, "a number")
        return {name: self._workers.agree(value) for name, value in found.items()}

    def _is_over(self, patience: int | None) -> bool:
        """Return whether the last validations were all no better than the best."""
        if patience is None:
            return False
        best, since = self.best["step"] or 0, 0
        # From the last row on, and no farther than needed: this is asked before every step.
        for row in reversed(self.history.rows):
            if row["step"] <= best or since == patience:
                break
            since += "validation" in row
        return since >= patience

    def _failure(self, what: str, batch: Any, before: Any) -> TrainingError:
        """Return the error that says where a number that is not finite comes from."""

        def run() -> Tensor:
            self._random.load(before)
            with self._workers.autocast(), torch.enable_grad():
                return self.loss(self.model, batch, self.step, self.generator)

        rows = getattr(self.data, "rows", None)
        rows = None if rows is None else self._workers.part(rows)
        return failure(f"the {what} at step {self.step}", self.model, batch, run, self.step, rows)

    def load_best(self) -> int:
        """Give the model the parameters with the lowest validation loss, and return their step."""
        if self.best["model"] is None:
            raise ValueError("there was no validation to choose the best parameters by")
        self.model.load_state_dict(self.best["model"])
        step: int = self.best["step"]
        return step

    def state_dict(self) -> dict[str, Any]:
        """Return all on which the rest of the run depends."""
        average = {} if self.average is None else {"average": self.average.state_dict()}
        kinds = {"optimiser": self.optimiser, "schedule": self.schedule}
        return {
            "step": self.step,
            "kinds": {name: type(one).__name__ for name, one in kinds.items()},
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "data": None if self.data is None else self.data.state_dict(),
            **self._random.state(),
            "history": self.history.rows,
            "best": self.best,
            "running": [self._sum, self._count, self._seconds],
            **average,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken.

        Raises:
            CheckpointError: It was taken from another model or another run. Nothing is loaded then.
        """
        check_fits(state, self.state_dict())
        if self.data is not None:
            try:
                self.data.load_state_dict(state["data"])
            except (KeyError, ValueError) as error:
                raise CheckpointError(f"the checkpoint is one of other data: {error}") from None
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self._random.load(state)
        self.step, self.best = state["step"], state["best"]
        self.history = TrainingHistory(state["history"])
        self._sum, self._count, self._seconds = state["running"]

    def _go_on_from(self, checkpoints: Checkpoints | None) -> None:
        state = None if checkpoints is None else checkpoints.latest()
        step = 0 if state is None else state["step"]
        if self._workers.mean(torch.tensor(float(step), device=self._workers.device)) != step:
            raise CheckpointError("checkpoints must be in one folder for all processes of a run")
        if state is not None:
            self.load_state_dict(self._random.own_of(state, self._workers))

    def _save(self, checkpoints: Checkpoints | None) -> None:
        if checkpoints is None:
            return
        state = self.state_dict() | self._random.of_others(self._workers)
        if self._workers.rank:
            return
        try:
            checkpoints.save(self.step, state)
        except OSError as error:
            last = max(checkpoints.steps(), default=None)
            warnings.warn(
                f"no checkpoint of step {self.step} could be written ({error}); "
                f"the last one there is of step {last}",
                stacklevel=3,
            )


def _check_loss(loss: object) -> None:
    check_type("what loss returns", loss, Tensor, "a torch.Tensor")
    assert isinstance(loss, Tensor)
    if loss.ndim:
        raise ValueError(
            f"loss must return a tensor without dimensions, got shape {tuple(loss.shape)}"
        )
    if not loss.requires_grad:
        raise ValueError("loss must depend on a parameter that is trained, and it does on none")


def _check_trains(optimiser: Optimizer, model: nn.Module) -> None:
    """Refuse an optimiser that leaves the model as it is, as one made for a copy of it does."""
    moved = {id(each) for group in optimiser.param_groups for each in group["params"]}
    own = list(model.parameters())
    if own and not any(id(each) in moved for each in own):
        raise ValueError(
            f"optimiser must be made for parameters of the model, {type(model).__name__}, "
            "got one that has none of them"
        )
