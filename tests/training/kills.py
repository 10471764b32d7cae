"""Kill a run again and again, start it again each time, and look at what it ends with.

    python tests/training/kills.py 100

One process imports torch and forks a child for each start. The child notes in shared memory what it
is doing, so that after its death one knows at which moment it was killed. Files are written slowly,
in pieces, since otherwise few kills would meet a checkpoint that is half written.
"""

from __future__ import annotations

import mmap
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from tqdm.auto import tqdm

from nfbook.data.minibatches import Minibatches
from nfbook.training import Checkpoints, Interrupted, Trainer, exponential_average, save_state

MOMENTS = (
    "starting",
    "reading a checkpoint",
    "making a step",
    "validating",
    "writing a checkpoint",
)
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STEPS, EVERY = 60, 6
OPEN = Path.open


class Board:
    """What a child is doing, and after which step, where its parent can read it."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 16)

    def note(self, moment: str) -> None:
        self.memory[:8] = struct.pack("q", MOMENTS.index(moment))

    def note_step(self, step: int) -> None:
        self.memory[8:16] = struct.pack("q", step)

    def read(self) -> tuple[str, int]:
        moment, step = struct.unpack("qq", self.memory[:16])
        return MOMENTS[moment], step


class SlowFile:
    """A file that is written in pieces, with a pause after each."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *reason):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, content: bytes) -> None:
        for start in range(0, len(content), len(content) // 8 + 1):
            self.file.write(content[start : start + len(content) // 8 + 1])
            self.file.flush()
            time.sleep(0.002)


def noisy_loss(model: nn.Module, x: Tensor, step: int, generator: torch.Generator) -> Tensor:
    """A loss that draws from the run's generator, of a model that draws from torch's."""
    noise = torch.randn(x.shape, generator=generator)
    return (model(x + noise) - x).square().mean()


def run(folder: Path, board: Board) -> None:
    """Train as far as one gets, and leave the end in a file."""
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 3))
    optimiser = torch.optim.Adam(model.parameters(), 0.01, fused=True)
    trainer = Trainer(
        model,
        noisy_loss,
        Minibatches(x, size=8, seed=0),
        optimiser,
        schedule=torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS),
        clip=1.0,
        average=exponential_average(model, 0.9),
    )
    watch(trainer, board)

    def validate(model: nn.Module) -> dict[str, float]:
        board.note("validating")
        time.sleep(0.004)
        value = (model(x) - x).square().mean().item()
        board.note("making a step")
        return {"validation": value}

    torch.manual_seed(random.getrandbits(32))  # what the program draws elsewhere
    board.note("reading a checkpoint")
    checkpoints = Checkpoints(folder)
    trainer.fit(STEPS, validate=validate, every=EVERY, checkpoints=checkpoints, progress=False)
    end = trainer.state_dict()
    end["running"] = end["running"][:2]
    end["history"] = [{k: v for k, v in row.items() if k != "seconds"} for row in end["history"]]
    save_state(folder / "end", end)


def watch(trainer: Trainer, board: Board) -> None:
    """Let a trainer note what it does."""
    update = trainer.update

    def noted_update() -> float:
        board.note("making a step")
        time.sleep(0.001)
        value = update()
        board.note_step(trainer.step)
        return value

    def slow_open(path: Path, mode: str = "r", *args, **named):
        if mode == "wb":
            board.note("writing a checkpoint")
            return SlowFile(OPEN(path, mode, *args, **named))
        return OPEN(path, mode, *args, **named)

    trainer.update, Path.open = noted_update, slow_open


def start(folder: Path, board: Board) -> int:
    """Fork a child that runs, and return its number."""
    board.note("starting")
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        random.seed(os.getpid())
        run(folder, board)
        status = 0
    except Interrupted:
        status = 130
    except KeyboardInterrupt:  # before or after the loop
        status = 131
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def read_end(folder: Path) -> dict[str, str]:
    """Return the end of a run: all that is no tensor, and a checksum of all that is."""
    with safe_open(folder / "end", "pt") as file:
        return file.metadata()


def end_of(child: int) -> int:
    """Wait for a child, and return its exit status, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill(count: int, seed: int = 0) -> tuple[Counter[tuple[str, str]], int, list[str]]:
    """Kill runs this number of times, and return when, how many runs ended, and what was wrong."""
    chance, board, faults = random.Random(seed), Board(), []
    moments: Counter[tuple[str, str]] = Counter()
    ended = 0
    with tempfile.TemporaryDirectory() as name:
        folders = Path(name)
        # Here, and not in a child, so that all that torch imports on the way is there after.
        run(folders / "first", board)
        began = time.perf_counter()
        assert end_of(start(folders / "whole", board)) == 0
        usual = time.perf_counter() - began
        wanted = read_end(folders / "whole")
        while moments.total() < count or (folders / "killed").exists():
            enough = moments.total() >= count  # the last run goes to its end
            child = start(folders / "killed", board)
            if not enough:
                time.sleep(chance.uniform(0, usual))
                number = chance.choice(SIGNALS)
                before, _ = board.read()
                os.kill(child, number)
            status = end_of(child)
            moment, step = board.read()
            if status == 0:  # it was faster than the signal
                if read_end(folders / "killed") != wanted:
                    faults.append(f"run {ended} ended otherwise")
                ended += 1
                shutil.rmtree(folders / "killed")
                continue
            if number != signal.SIGKILL:  # it went on to write a checkpoint
                moment = before
            moments[number.name, moment] += 1
            if status not in (130, 131, -number):
                faults.append(f"{number.name} while {moment}: status {status}")
            if status == 130 and max(Checkpoints(folders / "killed").steps()) != step:
                faults.append(f"{number.name} while {moment}: step {step} has no checkpoint")
    return moments, ended, faults


def main() -> int:
    torch.set_num_threads(1)
    # Its own lock is shared by forks, and stays closed if one is killed within.
    tqdm.set_lock(threading.RLock())
    moments, ended, faults = kill(int(sys.argv[1]), int((sys.argv[2:] or ["0"])[0]))
    names = [number.name for number in SIGNALS]
    print(f"{'killed while':22}", *(f"{name:>8}" for name in names))
    for moment in MOMENTS:
        print(f"{moment:22}", *(f"{moments[name, moment]:8}" for name in names))
    print(f"{moments.total()} kills, {ended} runs at their end, {len(faults)} faults")
    print("\n".join(faults), file=sys.stderr)
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
