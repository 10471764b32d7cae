"""The command that runs an experiment: its jobs, one after the other or as an array.

Example:
    >>> main(["mnist", "--list", "--only", "planar_0_seed_0"])
    planar_0_seed_0
    0
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import importlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from nfbook.data.recorder import record
from nfbook.data.stored import RESULTS
from nfbook.training import Checkpoints, Interrupted

__all__ = ["EXPERIMENTS", "main"]

EXPERIMENTS = ("mnist", "cifar10", "energies")
RUNS = Path("runs")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status: 0, or 130 where it was interrupted."""
    options = _parser().parse_args(arguments)
    experiment = importlib.import_module(f"nfbook.reproduce.{options.experiment}")
    settings = experiment.QUICK if options.quick else experiment.PROTOCOLS[options.protocol]
    jobs = _chosen(experiment, options)
    if options.list:
        print("\n".join(job.name for job in jobs))
        return 0
    _keep_memory()
    torch.set_num_threads(options.threads)
    try:
        for number, job in enumerate(jobs, 1):
            if _is_done(options, job, settings):
                print(f"{job.name} is done already")
                continue
            print(f"{options.experiment}: {job.name}, {number} of {len(jobs)}", flush=True)
            _run(experiment, options, job, settings)
    except Interrupted as reason:
        print(f"\n{reason}; the same command goes on from there", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nfbook-reproduce",
        description="Run an experiment, or go on with it. A result is stored for each job.",
    )
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--protocol", default="book", help="which settings (default: book)")
    parser.add_argument("--quick", action="store_true", help="the same path in under a minute")
    parser.add_argument("--only", metavar="JOB", nargs="+", help="these jobs alone, by name")
    parser.add_argument("--task", metavar="i/n", help="the i-th of n parts of the jobs, from 1")
    parser.add_argument("--list", action="store_true", help="name the jobs and end")
    parser.add_argument("--results", type=Path, default=RESULTS / "runs", help="for results")
    parser.add_argument("--runs", type=Path, default=RUNS, help="for checkpoints (default: runs)")
    parser.add_argument("--threads", type=int, default=1, help="of one job (default: 1)")
    parser.add_argument("--no-progress", action="store_true", help="show no bars")
    return parser


def _chosen(experiment: ModuleType, options: argparse.Namespace) -> list[Any]:
    jobs: list[Any] = experiment.jobs()
    if options.only:
        jobs = [job for job in jobs if job.name in options.only]
    if options.task:
        part, parts = map(int, options.task.split("/"))
        jobs = jobs[part - 1 :: parts]
    return jobs


def _result_name(options: argparse.Namespace, job: Any, settings: Any) -> str:
    return f"{options.experiment}_{settings.protocol}_{job.name}"


def _is_done(options: argparse.Namespace, job: Any, settings: Any) -> bool:
    path = options.results / f"{_result_name(options, job, settings)}.json"
    if not path.exists():
        return False
    stored = json.loads(path.read_text(encoding="utf-8"))
    return bool(stored["settings"] == _plain(job, settings))


def _plain(job: Any, settings: Any) -> dict[str, Any]:
    both = {**dataclasses.asdict(job), **dataclasses.asdict(settings)}
    plain: dict[str, Any] = json.loads(json.dumps(both))
    return plain


def _run(experiment: ModuleType, options: argparse.Namespace, job: Any, settings: Any) -> None:
    name = _result_name(options, job, settings)
    options.results.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(options.runs / name)
    quick = " --quick" if options.quick else f" --protocol {options.protocol}"
    started = time.strftime("%Y-%m-%d")
    record(
        name,
        lambda: (
            experiment.run(job, settings, checkpoints=checkpoints, progress=not options.no_progress)
            | {"started": started}
        ),
        title=experiment.TITLE,
        command=f"python -m nfbook.reproduce {options.experiment}{quick} --only {job.name}",
        settings=_plain(job, settings),
        seeds=[job.seed],
        packages=["nfbook", "numpy", "torch"],
        folder=options.results,
    )


def _keep_memory() -> None:
    """Ask the C library to keep what was freed, instead of giving it back and asking again.

    A step of training allocates the same tensors every time. By default glibc returns the large
    ones to the system, which clears their pages before it lends them again: up to a fifth of a
    step. Elsewhere there is no such setting, and nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    mallopt(mmap_threshold, 2**25)
    mallopt(trim_threshold, 2**30)
    mallopt(top_pad, 2**26)
