r"""Training in several processes: more processors, more GPUs, more machines.

``pip install nfbook[scale]`` brings Lightning Fabric, and the same loop runs under it by one more
argument::

    from lightning_fabric import Fabric

    trainer = Trainer(model, loss, data, optimiser, fabric=Fabric(accelerator="cuda", devices=4))
    trainer.fit(100_000, checkpoints=Checkpoints(Path("runs/one")))

Every process runs the whole script, has the whole data, and takes its part of each batch, so the
size of `Minibatches` is that of all parts together, and has to be a multiple of their number. The
gradients are averaged: without random numbers in the loss the parameters are those of one process,
but for rounding. Each process draws noise of its own, so with random numbers they agree on average.
A loss without data, such as `ReverseKL`, has as many draws in each process as it is told.

The first process writes the checkpoints, with the random states of all. All of them read, so the
folder must be one that all machines see. A run goes on with the number of processes that it had.
If one of them dies, the others end with `WorkerLostError`, at once or after the timeout of
``DDPStrategy``, and starting all again goes on from the last checkpoint. Ctrl-C or SIGTERM in one
of them stops all, after the same step. What `validate` returns is averaged over the processes, so
that all agree on which parameters are the best, and on when to lose patience.

**Several GPUs of one machine.** ``python train.py`` is enough: Fabric starts the other processes.
Code with effects, such as writing results, belongs behind ``if fabric.global_rank == 0:``.

**Several machines, by torchrun.** With ``Fabric(accelerator="cuda", devices=4, num_nodes=2)``, run
on each machine, with n = 0 on the first one and 1 on the other::

    torchrun --nnodes=2 --nproc-per-node=4 --node-rank=n \\
        --master-addr=FIRST --master-port=29500 train.py

**Several machines, by Slurm.** Fabric takes the numbers from Slurm. A task is a process::

    #SBATCH --nodes=2
    #SBATCH --ntasks-per-node=4
    #SBATCH --gpus-per-node=4
    #SBATCH --signal=TERM@120
    srun python train.py

``--signal`` sends SIGTERM two minutes before the time is over, upon which the run leaves a
checkpoint and ends; the same job, submitted again, goes on.

**Options.** ``precision="bf16-mixed"`` trains in bfloat16, and ``precision="64-true"`` in double
precision, where Fabric would round the batches otherwise. If a loss leaves some parameters out, use
``strategy=DDPStrategy(find_unused_parameters=True)``; ``DDPStrategy(timeout=timedelta(minutes=2))``
says how long a process waits for another one. Strategies that shard a model are not supported.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nfbook.training._workers import Alone

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Together", "WorkerLostError"]


class WorkerLostError(RuntimeError):
    """Another process of the run has ended or does not answer."""


class Together(Alone):
    """One of several processes, under Lightning Fabric.

    Arguments:
        fabric: A ``lightning_fabric.Fabric``. It is launched, if it was not yet.

    Example:
        >>> from lightning_fabric import Fabric
        >>> one = Together(Fabric(accelerator="cpu", devices=1))
        >>> one.rank, one.count, one.part(torch.arange(4))
        (0, 1, tensor([0, 1, 2, 3]))
    """

    def __init__(self, fabric: Fabric) -> None:
        fabric.launch()
        super().__init__(fabric.device, None)
        self.fabric = fabric
        self.rank, self.count = fabric.global_rank, fabric.world_size

    def setup(self, module: nn.Module, optimiser: Optimizer) -> tuple[Any, Any]:
        """Start all processes from the first one's parameters, and average their gradients."""
        shared, wrapped = self.fabric.setup(module, optimiser)
        return shared, wrapped

    def autocast(self) -> AbstractContextManager[Any]:
        """Return Fabric's context, in which a loss is computed."""
        return self.fabric.autocast()

    def part(self, batch: Any) -> Any:
        """Return this process's part of a batch, on its device."""
        if not isinstance(batch, Tensor):
            return super().part(batch)
        if len(batch) % self.count:
            raise ValueError(
                f"a batch must split evenly among {self.count} processes, got {len(batch)} rows"
            )
        return super().part(batch.chunk(self.count)[self.rank])

    def mean(self, value: Tensor) -> float:
        """Return the mean of a number over all processes."""
        mean: Tensor = self._ask(self.fabric.all_reduce, value.detach(), reduce_op="mean")
        return mean.item()

    def agree(self, value: float) -> float:
        """Return the mean of a number over all processes, with all its digits."""
        return self.mean(torch.tensor(value, dtype=torch.float64, device=self.device))

    def any(self, flag: bool) -> bool:
        """Return whether a flag is up in one of them."""
        return self.mean(torch.tensor(float(flag), device=self.device)) > 0

    def backward(self, loss: Tensor) -> None:
        """Put the gradients of the mean loss into the parameters."""
        self._ask(self.fabric.backward, loss)

    def gather(self, values: Tensor) -> Tensor:
        """Return what each process has, whole numbers `(count, ...)`."""
        # As a sum in which each process has a row of its own: all_gather is for gradients too.
        everyone = values.new_zeros((self.count, *values.shape), dtype=torch.int32)
        everyone[self.rank] = values
        everyone = everyone.to(self.device)
        gathered: Tensor = self._ask(self.fabric.all_reduce, everyone, reduce_op="sum")
        return gathered.to(values)

    def _ask(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except RuntimeError as error:
            if self.count == 1:
                raise
            raise WorkerLostError(
                f"process {self.rank} of {self.count} has no answer from another one; "
                "start all of them again, and the run goes on from its last checkpoint"
            ) from error
