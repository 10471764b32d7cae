"""Checkpoints: the whole state of a training run in a file, whole or not there at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nfbook._checks import check_count, check_type
from nfbook._files import write_in_one_step

__all__ = ["CheckpointError", "Checkpoints", "check_fits", "load_state", "save_state"]

FORMAT = "nfbook checkpoint 1"


class CheckpointError(Exception):
    """A file is no checkpoint, or not one of this run."""


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state to a file, in one step: a reader finds the old file or the new one.

    It is a safetensors file. Whatever is not a tensor stands in its header, as JSON, and so does
    a checksum.

    Arguments:
        path: The file. Its folder must be there.
        state: Dictionaries and lists of tensors, numbers, strings, booleans and None, in one
            another. Keys are strings or ints.

    Raises:
        OSError: It cannot be written. What was there before is still there.
        TypeError: The path is none, or a value or a key is of another kind.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "state"
        ...     save_state(path, {"weights": torch.ones(2), "steps": [1, 2]})
        ...     load_state(path)
        {'weights': tensor([1., 1.]), 'steps': [1, 2]}
    """
    from safetensors.torch import save

    check_type("path", path, Path, "a pathlib.Path")
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_without_tensors(state, "", tensors), sort_keys=False)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": FORMAT, "state": text, "sha256": _digest(text, tensors)}
    # safetensors refuses tensors that share memory.
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    write_in_one_step(path, save(tensors, metadata))


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote. Nothing in the file is run.

    Raises:
        CheckpointError: The file is cut short, was changed, or is something else.
        FileNotFoundError: There is no such file.
        TypeError: The path is none.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "state"
        ...     save_state(path, {"weights": torch.ones(2), "best": None})
        ...     load_state(path)["weights"]
        tensor([1., 1.])
    """
    from safetensors import SafetensorError, safe_open

    check_type("path", path, Path, "a pathlib.Path")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT or not {"state", "sha256"} <= metadata.keys():
                raise CheckpointError(f"{path} is not a checkpoint of nfbook")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{path} is cut short or is not a checkpoint: {error}") from None
    if _digest(metadata["state"], tensors) != metadata["sha256"]:
        raise CheckpointError(f"{path} was changed after it was written")
    # Copies: what safe_open returns is the file itself, mapped into memory.
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    state: dict[str, Any] = _with_tensors(json.loads(metadata["state"]), tensors)
    return state


class Checkpoints:
    """The last checkpoints of a run, in a folder of its own.

    What a process that was killed had begun to write there is removed.

    Arguments:
        folder: Made if it is not there.
        keep: How many are kept. With two, the one before the last stands in for a damaged one.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: ``keep`` is not positive.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpoints = Checkpoints(Path(folder))
        ...     for step in (10, 20, 30):
        ...         checkpoints.save(step, {"step": step})
        ...     checkpoints.steps(), checkpoints.latest()
        ([20, 30], {'step': 30})
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        check_type("folder", folder, Path, "a pathlib.Path")
        check_count("keep", keep)
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.keep = folder, keep
        for part in folder.glob("step-*.part"):
            writer = re.fullmatch(r".*\.(\d+)\.part", part.name)
            if writer is None or not _is_another_running(int(writer[1])):
                part.unlink(missing_ok=True)

    def steps(self) -> list[int]:
        """Return the steps of which there are checkpoints, the last one last."""
        names = (re.fullmatch(r"step-(\d+)\.safetensors", p.name) for p in self.folder.iterdir())
        return sorted(int(match[1]) for match in names if match)

    def path(self, step: int) -> Path:
        """Return where the checkpoint of a step stands."""
        return self.folder / f"step-{step:09}.safetensors"

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint, then remove those that are too many."""
        save_state(self.path(step), state)
        for old in self.steps()[: -self.keep]:
            self.path(old).unlink(missing_ok=True)

    def latest(self) -> dict[str, Any] | None:
        """Return the last state that can be read, with a warning for each that cannot; or None.

        Raises:
            CheckpointError: There are checkpoints, and none of them can be read.
        """
        reasons = []
        for step in reversed(self.steps()):
            try:
                state = load_state(self.path(step))
            except CheckpointError as error:
                reasons.append(str(error))
                continue
            for reason in reasons:
                warnings.warn(f"{reason}; that of step {step} is taken", stacklevel=2)
            return state
        if reasons:
            raise CheckpointError("; ".join(reasons))
        return None


def check_fits(state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Check that a state can take the place of a trainer's own.

    Arguments:
        state: What a checkpoint holds.
        own: What the trainer's `Trainer.state_dict` returns now.

    Raises:
        CheckpointError: It is that of another model, optimiser or schedule, or no trainer's.

    Example:
        >>> own = {"model": {"weight": torch.zeros(2)}}
        >>> check_fits({"model": {"weight": torch.zeros(3)}}, own)
        Traceback (most recent call last):
        ...
        nfbook.training.checkpoints.CheckpointError: the checkpoint is one of another model: weight
        is (3,) of torch.float32 there and (2,) of torch.float32 here
    """
    for name in ("model", "optimiser", "schedule", "data", "average"):
        here, there = (each.get(name) is not None for each in (own, state))
        if here != there:
            raise CheckpointError(
                f"the checkpoint is one of a run with{'' if there else 'out'} {name}, "
                f"and here is {'one' if here else 'none'}"
            )
    missing = sorted(own.keys() - state.keys() - {"kinds", "global_cuda"})
    if missing:
        raise CheckpointError(f"the checkpoint is not one of a Trainer: it lacks {missing[0]}")
    ours, theirs = (_kinds(each["model"]) for each in (own, state))
    if ours != theirs:
        odd = next(name for name in [*ours, *theirs] if ours.get(name) != theirs.get(name))
        raise CheckpointError(
            f"the checkpoint is one of another model: {odd} is {theirs.get(odd)} there "
            f"and {ours.get(odd)} here"
        )
    # A checkpoint of before these were noted has none.
    kinds = state.get("kinds", own["kinds"])
    for name, kind in own["kinds"].items():
        if kinds[name] != kind:
            raise CheckpointError(
                f"the checkpoint is one of another {name}: {kinds[name]} there and {kind} here"
            )
    sizes, others = (
        [len(group["params"]) for group in each["optimiser"]["param_groups"]]
        for each in (own, state)
    )
    if sizes != others:
        raise CheckpointError(
            "the checkpoint is one of another optimiser: its groups have "
            f"{others} parameters there and {sizes} here"
        )
    # The state of a generator is of another length on another kind of device.
    if len(own["generator"]) != len(state["generator"]):
        raise CheckpointError("the checkpoint is one of a run on another kind of device")


def _kinds(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: f"{tuple(value.shape)} of {value.dtype}" for name, value in tensors.items()}


def _is_another_running(process: int) -> bool:
    """Return whether a process of this machine is running, and is not this one."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _without_tensors(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    """Return a value as JSON can hold it, with its tensors put into the dictionary."""
    if isinstance(value, Tensor):
        while where in tensors:  # as by the keys "a.b", and "b" within "a"
            where += "'"
        tensors[where] = value
        return {"tensor": where}
    if isinstance(value, Mapping):
        for key in value:
            check_type(f"every key of {where or 'state'}", key, str | int, "a str or an int")
        items = [
            [key, _without_tensors(one, f"{where}.{key}" if where else str(key), tensors)]
            for key, one in value.items()
        ]
        return {"items": items}
    if isinstance(value, list | tuple):
        return [_without_tensors(one, f"{where}.{k}", tensors) for k, one in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{where} must be a tensor or a plain value, got {type(value).__name__}")


def _with_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_with_tensors(one, tensors) for one in value]
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _with_tensors(one, tensors) for key, one in value["items"]}
    return value


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
