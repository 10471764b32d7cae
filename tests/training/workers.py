"""Two processes that train together, forked from one that has imported torch.

    python tests/training/workers.py FOLDER

Prints a line of JSON for each experiment: the exit statuses, and what the first process found.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import traceback
from datetime import timedelta
from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import nn

from nfbook.data.minibatches import Minibatches
from nfbook.training import Checkpoints, Interrupted, Trainer, TrainingError

STEPS = 12


def noisy_loss(model, batch, step, generator):
    """A loss whose noise belongs to the rows, so that it is the same in every split."""
    x, noise = batch
    return (model(x + noise) - x).square().mean()


def own_noise(model, batch, step, generator):
    """A loss that draws, so that each process has noise of its own."""
    x, _ = batch
    return noisy_loss(model, (x, torch.randn(x.shape, generator=generator)), step, generator)


def make(fabric, loss=noisy_loss, size: int = 8, **named) -> Trainer:
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(40, 3, generator=generator) for _ in range(2))
    # Each process begins elsewhere: Fabric gives all of them the first one's parameters.
    torch.manual_seed(fabric.global_rank if fabric is not None else 0)
    model = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 3))
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    return Trainer(
        model,
        loss,
        Minibatches(x, noise, size=size),
        optimiser,
        schedule=schedule,
        clip=0.5,
        fabric=fabric,
        **named,
    )


def weights(trainer: Trainer) -> list[float]:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()]).tolist()


def train(fabric, folder: Path):
    """The same parameters as one process."""
    trainer = make(fabric)
    validate = {"validate": lambda model: {"validation": 1.0}}
    history = trainer.fit(STEPS, every=4, progress=False, **validate)
    return {"weights": weights(trainer), "loss": history["loss"]}


def go_on(fabric, folder: Path):
    """Stopped by a signal to one of them, and started again."""

    def struck(model, batch, step, generator):
        if step == 5 and fabric.global_rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return own_noise(model, batch, step, generator)

    whole = make(fabric, own_noise)
    whole.fit(STEPS, progress=False)
    stopped = None
    try:
        make(fabric, struck).fit(STEPS, checkpoints=Checkpoints(folder), progress=False)
    except Interrupted as reason:
        stopped = str(reason)
    fabric.barrier()
    again = make(fabric, own_noise)
    again.fit(STEPS, checkpoints=Checkpoints(folder), progress=False)
    one, other = again._workers.gather(again.generator.get_state())
    return {
        "same": weights(again) == weights(whole),
        "stopped": stopped,
        "noise_alike": torch.equal(one, other),
    }


def uneven(fabric, folder: Path):
    try:
        make(fabric, size=5).fit(1, progress=False)
    except ValueError as error:
        return str(error)


def infinite(fabric, folder: Path):
    """One process has a loss that is not finite, and both stop."""

    def rare(model, batch, step, generator):
        loss = noisy_loss(model, batch, step, generator)
        return loss / 0 if step == 3 and fabric.global_rank == 1 else loss

    try:
        make(fabric, rare).fit(STEPS, progress=False)
    except RuntimeError as error:
        return str(error)


def bad_row(fabric, folder: Path):
    """A row of the second process's half of the third batch is not finite: both look for it."""
    trainer = make(fabric)
    ahead = Minibatches(trainer.data.x, size=8)
    for _ in range(3):
        next(ahead)
    trainer.data.x[ahead.rows[6]] = torch.nan
    message = None
    try:
        trainer.fit(STEPS, progress=False)
    except TrainingError as error:
        message = str(error)
    fabric.barrier()
    return message


def impatient(fabric, folder: Path):
    """Each process has validations of its own, and by the first one's alone it would go on."""
    trainer, seen = make(fabric), []

    def validate(model):
        seen.append(1 + len(seen) * (4 * fabric.global_rank - 1))
        return {"validation": float(seen[-1])}

    history = trainer.fit(STEPS, every=1, validate=validate, patience=2, progress=False)
    fabric.barrier()
    return history["validation"]


def killed(fabric, folder: Path):
    """The second process dies in the middle of a step."""

    def deadly(model, batch, step, generator):
        if step == 7 and fabric.global_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return noisy_loss(model, batch, step, generator)

    make(fabric, deadly).fit(STEPS, every=2, checkpoints=Checkpoints(folder), progress=False)


def finish(fabric, folder: Path):
    """Where the one before was killed."""
    trainer = make(fabric)
    first = Checkpoints(folder).steps()[-1]
    trainer.fit(STEPS, every=2, checkpoints=Checkpoints(folder), progress=False)
    return {"first": first, "weights": weights(trainer)}


def silent(fabric, folder: Path):
    """The second process hangs."""

    def hanging(model, batch, step, generator):
        if step == 3 and fabric.global_rank == 1:
            time.sleep(100)
        return noisy_loss(model, batch, step, generator)

    make(fabric, hanging).fit(STEPS, every=2, checkpoints=Checkpoints(folder), progress=False)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(rank: int, port: int, experiment, folder: Path) -> int:
    """Fork a process as torchrun starts it, and return its number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2",
            GROUP_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
            TORCHELASTIC_RUN_ID="test",
        )  # fmt: skip
        strategy = DDPStrategy(timeout=timedelta(seconds=5 if experiment is silent else 60))
        fabric = Fabric(accelerator="cpu", devices=2, strategy=strategy)
        found = experiment(fabric, folder)
        if rank == 0:
            (folder / "found.json").write_text(json.dumps(found))
        status = 0
    except BaseException as error:
        if rank == 0:
            (folder / "found.json").write_text(json.dumps(f"{type(error).__name__}: {error}"))
        if experiment not in (killed, silent):
            traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def end_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    torch.set_num_threads(1)
    base = Path(sys.argv[1])
    alone = train(None, base)  # and torch has imported what it needs for a step
    print(json.dumps(["alone", [0], alone]), flush=True)
    for experiment in (train, go_on, uneven, infinite, bad_row, impatient, killed, finish, silent):
        folder = base / (killed if experiment is finish else experiment).__name__
        folder.mkdir(exist_ok=True)
        port = free_port()
        children = [start(rank, port, experiment, folder) for rank in range(2)]
        ends = [end_of(children[0])]
        if experiment is silent:
            os.kill(children[1], signal.SIGKILL)
        ends.append(end_of(children[1]))
        found = json.loads((folder / "found.json").read_text())
        print(json.dumps([experiment.__name__, ends, found]), flush=True)


if __name__ == "__main__":
    main()
