"""The same loop in two processes, which share every batch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("workers.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, tuple[list[int], object]]:
    """For each experiment the exit statuses of the two processes, and what the first one found."""
    command = [sys.executable, "-W", "error::FutureWarning", SCRIPT, tmp_path_factory.mktemp("w")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    print(result.stderr)
    assert result.returncode == 0
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith('["')]
    return {name: (ends, what) for name, ends, what in lines}


def test_the_same_batch_gives_the_same_parameters(found):
    _, alone = found["alone"]
    ends, together = found["train"]
    assert ends == [0, 0]
    for name in ("weights", "loss"):
        one, other = (torch.tensor(each[name], dtype=torch.float64) for each in (alone, together))
        torch.testing.assert_close(other, one, atol=1e-6, rtol=0)


def test_a_signal_to_one_stops_both_and_the_run_goes_on_to_the_same_end(found):
    ends, what = found["go_on"]
    assert ends == [0, 0]
    assert what == {
        "same": True,
        "stopped": "stopped after step 6 of 12",
        "noise_alike": False,
    }


def test_a_batch_must_split_evenly(found):
    assert found["uneven"][1] == "a batch must split evenly among 2 processes, got 5 rows"


def test_a_loss_that_is_infinite_in_one_stops_both(found):
    ends, message = found["infinite"]
    assert ends == [0, 0]
    assert message.startswith("the loss is inf at step 3: all is finite in this process's part")
    assert message.count(",") == 3, "a half of the batch, four rows, is this process's"


def test_a_row_that_is_not_finite_is_looked_for_by_each_alone(found):
    """The one has it in its half, and the other goes back through the whole model."""
    ends, message = found["bad_row"]
    assert ends == [0, 0]
    assert message.startswith("the loss is nan at step 2: all is finite in this process's part")


def test_both_lose_patience_at_once(found):
    ends, validations = found["impatient"]
    assert ends == [0, 0]
    assert validations == [1, 2, 3]


def test_a_killed_worker_ends_the_run_and_leaves_a_checkpoint(found):
    ends, message = found["killed"]
    assert ends == [1, -9]
    assert message.startswith("WorkerLostError: process 0 of 2 has no answer from another one")
    ends, finished = found["finish"]
    assert ends == [0, 0]
    assert finished["first"] == 6
    weights = (torch.tensor(each["weights"]) for each in (finished, found["train"][1]))
    torch.testing.assert_close(*weights, atol=0, rtol=0)


def test_a_worker_that_hangs_ends_the_run(found):
    ends, message = found["silent"]
    assert ends == [1, -9]
    assert message.startswith("WorkerLostError")


def test_another_number_of_processes_is_refused(tmp_path):
    from torch import nn

    from nfbook.data.minibatches import Minibatches
    from nfbook.training import CheckpointError, Checkpoints, Trainer

    def make() -> Trainer:
        model = nn.Linear(1, 1)
        optimiser = torch.optim.SGD(model.parameters(), 0.1)
        data = Minibatches(torch.ones(4, 1), size=2)
        return Trainer(model, lambda model, x, step, generator: model(x).mean(), data, optimiser)

    checkpoints, trainer = Checkpoints(tmp_path), make()
    state = trainer.state_dict()
    random = {name: state[name] for name in ("generator", "global")}
    checkpoints.save(1, {**state, "workers": [random]})
    with pytest.raises(CheckpointError, match="one of 2 processes, and here are 1"):
        make().fit(2, checkpoints=checkpoints, progress=False)


def test_fabric_chooses_device_and_precision(tmp_path):
    from lightning_fabric import Fabric
    from torch import nn

    from nfbook.training import Trainer

    model = nn.Linear(1, 1)
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    fabric = Fabric(accelerator="cpu", devices=1)
    for named in ({"device": "auto"}, {"autocast": torch.bfloat16}):
        with pytest.raises(ValueError, match="device and autocast must be None with fabric"):
            Trainer(model, print, None, optimiser, fabric=fabric, **named)
