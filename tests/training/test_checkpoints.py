"""Checkpoints: whole or not there, never run, and never taken for another run's."""

import errno
import os
import random
import resource
import subprocess
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from draws import OFFSET, rand
from torch import nn

from nfbook.data.minibatches import Minibatches
from nfbook.training import (
    CheckpointError,
    Checkpoints,
    Trainer,
    exponential_average,
    load_state,
    save_state,
)

STATE = {
    "step": 3,
    "weights": {0: torch.arange(6.0).view(2, 3), "mask": torch.tensor([True, False])},
    "list": [1, 2.5, None, "text", True, torch.tensor(7)],
    "extremes": [1e300, float("inf"), -0.0, 2**70],
}


def loss(model, x, step, generator):
    return (model(x) - 1).square().mean()


def step_lr(optimiser):
    return torch.optim.lr_scheduler.StepLR(optimiser, 5)


def exponential_lr(optimiser):
    return torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.9)


def in_two_groups(parameters, rate):
    return torch.optim.Adam([{"params": each} for each in parameters], rate)


def make(
    width: int = 4, *, kind=torch.optim.Adam, size: int = 5, schedule=None, average=False
) -> Trainer:
    model = nn.Linear(3, width)
    optimiser = kind(model.parameters(), 0.01)
    decay = schedule(optimiser) if schedule else None
    mean = exponential_average(model) if average else None
    data = Minibatches(rand(20, 3).float(), size=size)
    return Trainer(model, loss, data, optimiser, schedule=decay, average=mean)


# ---- one file ----------------------------------------------------------------------------------


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)


def test_a_state_comes_back_as_it_was(tmp_path):
    save_state(tmp_path / "state", STATE)
    assert same(load_state(tmp_path / "state"), STATE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.uint8])
def test_every_dtype_and_shared_memory_and_strides(tmp_path, dtype):
    base = torch.arange(12).to(dtype).view(3, 4)
    state = {"a": base, "b": base.T, "c": base[0], "empty": base[:0], "number": base.sum()}
    save_state(tmp_path / "state", state)
    assert same(load_state(tmp_path / "state"), state)


def test_tensors_whose_names_would_be_the_same_are_kept_apart(tmp_path):
    one, two, three = torch.ones(1), torch.zeros(2), torch.arange(3)
    state = {"a.b": one, "a": {"b": two, "b'": three}, 1: one, "1": two}
    save_state(tmp_path / "state", state)
    assert same(load_state(tmp_path / "state"), state)


def test_what_is_no_plain_value_is_refused_and_the_old_file_stays(tmp_path):
    save_state(tmp_path / "state", STATE)
    with pytest.raises(TypeError, match=r"a\.b must be a tensor or a plain value, got Linear"):
        save_state(tmp_path / "state", {"a": {"b": nn.Linear(1, 1)}})
    with pytest.raises(TypeError, match="every key of a must be a str or an int, got tuple"):
        save_state(tmp_path / "state", {"a": {(1, 2): 3}})
    assert load_state(tmp_path / "state")["step"] == 3


def test_a_file_that_is_cut_short_is_named(tmp_path):
    path = tmp_path / "state"
    save_state(path, STATE)
    whole = path.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, *range(101, len(whole), 37), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=str(path)):
            load_state(path)


def test_no_changed_bit_goes_unnoticed(tmp_path):
    path = tmp_path / "state"
    save_state(path, STATE)
    whole = path.read_bytes()
    chance = random.Random(OFFSET)
    for _ in range(400):
        place = chance.randrange(len(whole) * 8)
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match=str(path)):
            load_state(path)


def test_a_foreign_file_is_no_checkpoint_and_nothing_in_it_is_run(tmp_path):
    from safetensors.torch import save

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "run"),))

    path = tmp_path / "state"
    torch.save({"a": Trap()}, path)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_state(path)
    assert not (tmp_path / "run").exists()
    for metadata in (None, {"format": "nfbook checkpoint 1"}, {"format": "nfbook checkpoint 2"}):
        path.write_bytes(save({"a": torch.ones(2)}, metadata))
        with pytest.raises(CheckpointError, match="not a checkpoint of nfbook"):
            load_state(path)
    with pytest.raises(FileNotFoundError):
        load_state(tmp_path / "none")


# ---- a folder of them --------------------------------------------------------------------------


def test_the_last_good_one_is_taken(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() is None
    for step in (1, 2, 3):
        checkpoints.save(step, {"step": step})
    assert checkpoints.steps() == [2, 3]
    checkpoints.path(3).write_bytes(checkpoints.path(3).read_bytes()[:-1])
    with pytest.warns(UserWarning, match="step-000000003.*; that of step 2 is taken"):
        assert checkpoints.latest() == {"step": 2}
    checkpoints.path(2).write_bytes(b"")
    with (
        warnings.catch_warnings(action="error"),
        pytest.raises(CheckpointError, match=r"step-000000003.*; .*step-000000002"),
    ):
        checkpoints.latest()


def test_what_was_begun_is_cleaned_up(tmp_path):
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    dead = [tmp_path / f"step-000000001.safetensors.{n}.part" for n in (child, os.getpid())]
    others = [tmp_path / f"step-000000001.safetensors.{os.getppid()}.part", tmp_path / "my.part"]
    for path in dead + others:
        path.write_text("half")
    Checkpoints(tmp_path)
    assert not any(path.exists() for path in dead)
    assert all(path.exists() for path in others), "of a process that runs, and of somebody else"


def test_bad_arguments(tmp_path):
    with pytest.raises(TypeError, match=r"folder must be a pathlib\.Path, got str"):
        Checkpoints(str(tmp_path))
    for function in (load_state, lambda path: save_state(path, STATE)):
        with pytest.raises(TypeError, match=r"path must be a pathlib\.Path, got str"):
            function(str(tmp_path / "state"))
    with pytest.raises(ValueError, match="keep must be at least 1"):
        Checkpoints(tmp_path, 0)


# ---- another run's -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"width": 5}, r"another model: weight is \(5, 3\) of torch.float32 there and \(4, 3\)"),
        ({"kind": torch.optim.RMSprop}, "another optimiser: RMSprop there and Adam here"),
        ({"kind": torch.optim.RAdam}, "another optimiser: RAdam there and Adam here"),
        ({"kind": in_two_groups}, r"groups have \[1, 1\] parameters there and \[2\] here"),
        ({"size": 4}, "other data: .*size"),
        ({"schedule": step_lr}, "a run with schedule, and here is none"),
        ({"average": True}, "a run with average, and here is none"),
    ],
)
def test_another_runs_checkpoint_is_refused_and_changes_nothing(tmp_path, other, message):
    make(**other).fit(2, checkpoints=Checkpoints(tmp_path), progress=False)
    trainer = make()
    before = trainer.model.weight.clone()
    with pytest.raises(CheckpointError, match=message):
        trainer.fit(4, checkpoints=Checkpoints(tmp_path), progress=False)
    assert torch.equal(trainer.model.weight, before)
    assert trainer.step == trainer.data.position == 0


def test_what_is_no_trainers_is_refused(tmp_path):
    Checkpoints(tmp_path).save(1, {"step": 1})
    with pytest.raises(CheckpointError, match="without model"):
        make().fit(2, checkpoints=Checkpoints(tmp_path), progress=False)
    state = make().state_dict()
    del state["best"]
    with pytest.raises(CheckpointError, match="it lacks best"):
        make().load_state_dict(state)


def test_another_schedule_is_refused():
    """Its numbers are among those of the checkpoint, and would be taken."""
    state = make(schedule=step_lr).state_dict()
    with pytest.raises(CheckpointError, match="another schedule: StepLR there and ExponentialLR"):
        make(schedule=exponential_lr).load_state_dict(state)


def test_a_checkpoint_of_before_kinds_were_noted_is_taken():
    state = make().state_dict()
    del state["kinds"]
    make().load_state_dict(state)


def test_another_device_has_other_random_numbers():
    state = make().state_dict() | {"generator": torch.zeros(16, dtype=torch.uint8)}
    with pytest.raises(CheckpointError, match="a run on another kind of device"):
        make().load_state_dict(state)


def test_another_dtype_is_another_model():
    trainer = make()
    state = trainer.state_dict()
    trainer.model.double()
    with pytest.raises(CheckpointError, match=r"float32 there and .*float64 here"):
        trainer.load_state_dict(state)


# ---- a full disk -------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path):
    """Mount a disk of 64 KiB where that is allowed; else let writing fail as on one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if mounted:
        try:
            yield
        finally:
            subprocess.run(["umount", str(folder)], check=True)
        return

    def full(file: int) -> None:
        used = sum(path.stat().st_size for path in folder.iterdir())
        if used > 2**16:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        yield


def test_a_full_disk_loses_nothing(tmp_path):
    folder = tmp_path / "disk"
    with small_disk(folder):
        checkpoints = Checkpoints(folder)
        trainer = make(200)
        trainer.fit(2, checkpoints=checkpoints, progress=False)
        assert checkpoints.steps() == [2]
        room = 2**16 - checkpoints.path(2).stat().st_size
        (folder / "other").write_bytes(bytes(room - 8192))
        with pytest.warns(UserWarning, match=r"step 4 could be written .*No space.* of step 2"):
            trainer.fit(4, checkpoints=checkpoints, progress=False)
        assert trainer.step == 4, "the training itself goes on"
        assert sorted(path.name for path in folder.iterdir()) == ["other", checkpoints.path(2).name]
        assert checkpoints.latest()["step"] == 2
        (folder / "other").unlink()
        again = make(200)
        again.fit(4, checkpoints=checkpoints, progress=False)
        assert torch.equal(again.model.weight, trainer.model.weight)


def test_no_larger_file_than_allowed_is_a_full_disk_too(tmp_path):
    """The error of a quota, which the system raises in the middle of a write."""
    path = tmp_path / "state"
    save_state(path, {"a": 1})
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, usual[1]))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            save_state(path, {"a": torch.ones(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert load_state(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]
