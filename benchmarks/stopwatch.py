"""Time and memory, measured so that a busy machine harms both sides alike.

Contestants take turns: one run of each, then the next round. What is compared is the ratio within
a round, so whatever slows the machine down for a while slows both.
"""

from __future__ import annotations

import gc
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent


def take_turns(
    contestants: Mapping[str, Callable[[], float | None]], rounds: int
) -> dict[str, list[float]]:
    """Run every contestant once a round, and return its seconds, round by round.

    A contestant may return the seconds that count, for example those per iteration; otherwise the
    whole call counts. One round before the first is not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    # What the libraries themselves keep is not looked through again before each turn.
    gc.collect()
    gc.freeze()
    for turn in range(rounds + 1):
        for name, run in contestants.items():
            gc.collect()
            started = time.perf_counter()
            own = run()
            elapsed = time.perf_counter() - started
            if turn > 0:
                seconds[name].append(elapsed if own is None else own)
    gc.unfreeze()
    return seconds


def seconds_per_iteration(run: Callable[[int], object], iterations: int) -> float:
    """Return the time that each iteration after the first adds to ``run(iterations)``."""
    started = time.perf_counter()
    run(1)
    middle = time.perf_counter()
    run(1 + iterations)
    return (time.perf_counter() - middle - (middle - started)) / iterations


def seconds_of_first_call(run: Callable[[], object]) -> float:
    """Return the time of one call, with all that happens only once, such as compilation."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def seconds_per_call(run: Callable[[], object], at_least: float = 0.05) -> float:
    """Return the median time of a call, over some seconds, after one that is not counted."""
    run()
    times: list[float] = []
    while sum(times) < at_least or not times:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def processor_seconds(run: Callable[[], object], at_least: float = 0.02) -> float:
    """Return the processor's time for a call, the least over calls of `at_least` seconds together.

    With one thread it is the time of the call, less what other processes take meanwhile.
    """
    times: list[float] = []
    while sum(times) < at_least:
        started = time.process_time()
        run()
        times.append(time.process_time() - started)
    return min(times)


# Matrix products on two threads, without end. They report that they are under way.
LOAD = """
import torch
torch.set_num_threads(2)
matrix = torch.randn(700, 700)
matrix @ matrix
print("under way", flush=True)
while True:
    matrix @ matrix
"""


@contextmanager
def busy_machine() -> Iterator[None]:
    """Keep two threads of a second process busy for as long as the block runs."""
    load = subprocess.Popen([sys.executable, "-c", LOAD], stdout=subprocess.PIPE, text=True)
    try:
        assert load.stdout is not None
        if load.stdout.readline() != "under way\n":
            raise RuntimeError("the second process did not start")
        yield
        if load.poll() is not None:
            raise RuntimeError("the second process ended before the measurement did")
    finally:
        load.kill()
        load.communicate()


@contextmanager
def one_core() -> Iterator[None]:
    """Keep to one core of the machine, with the processes that start within the block.

    Where a process cannot be kept to a core, torch at least has one thread.
    """
    threads, before = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    if cores:
        os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        del os.environ["OMP_NUM_THREADS"]
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before
        if cores:
            os.sched_setaffinity(0, cores)


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return median, smallest and largest value, and the quartiles."""
    lower, median, upper = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    ends = {"min": min(values), "max": max(values)}
    return {"median": median, **ends, "lower": lower, "upper": upper}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Return median and spread of the ratios of each round."""
    return summary([a / b for a, b in zip(ours, theirs, strict=True)])


def compare(
    seconds: Mapping[str, Sequence[float]], own: str = "nfbook", *, over_own: bool = False
) -> dict[str, Any]:
    """Return each contestant's seconds, and the ratios of one's own to those of each other.

    With ``over_own`` they are the ratios of each other's seconds to one's own.
    """

    def ratio(values: Sequence[float]) -> dict[str, float]:
        return ratios(values, seconds[own]) if over_own else ratios(seconds[own], values)

    return {
        "seconds": {name: summary(values) for name, values in seconds.items()},
        "ratio": {name: ratio(values) for name, values in seconds.items() if name != own},
    }


def milliseconds(seconds: Mapping[str, float]) -> str:
    """Return a median as tables show it, with three digits."""
    value = 1e3 * seconds["median"]
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f} ms"


def spread(values: Mapping[str, float]) -> str:
    """Return a median with its quartiles as tables show it."""
    median, lower, upper = (_three_digits(values[name]) for name in ("median", "lower", "upper"))
    return f"{median} ({lower}–{upper})"


def _three_digits(ratio: float) -> str:
    """Return a ratio with two decimals, or with one from ten on."""
    return f"{ratio:.2f}" if ratio < 9.995 else f"{ratio:.1f}"


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Return the slope of time against size on logarithmic axes, by least squares."""
    x, y = ([math.log(v) for v in values] for values in (sizes, seconds))
    return statistics.linear_regression(x, y).slope


# Linux keeps the peak of a process's memory, and forgets it when told so.
PROBE = """
import sys
sys.path.insert(0, {here!r})
def _held(field):
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(field))
    return int(line.split()[1]) * 1024
{setup}
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
_before = _held("VmRSS")
{work}
print(_held("VmHWM") - _before, _held("VmHWM"))
"""


def peak_memory(setup: str, work: str) -> tuple[int, int]:
    """Run code in a fresh process; return what ``work`` added at its peak, and the peak, in bytes.

    Arguments:
        setup: What is not counted: imports, data, a small run that warms up.
        work: What is.
    """
    if not Path("/proc/self/clear_refs").exists():
        raise RuntimeError("peak_memory needs Linux, whose /proc tells the peak of a process")
    code = PROBE.format(here=str(HERE), setup=setup, work=work)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    added, peak = done.stdout.split()[-2:]
    return int(added), int(peak)
