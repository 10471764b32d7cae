"""The command that runs an experiment: its jobs, one after the other or as an array.

Example:
    >>> main(["mnist", "--list", "--only", "planar_0_seed_0"])
    planar_0_seed_0
    0
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from nfbook._files import write_in_one_step
from nfbook.data.files import DamagedFileError
from nfbook.data.recorder import record
from nfbook.data.stored import RESULTS
from nfbook.training import CheckpointError, Checkpoints, TrainingError

__all__ = ["EXPERIMENTS", "main"]

EXPERIMENTS = {
    "mnist": "binarised MNIST: the bound by posterior and length (table 2, figure 4)",
    "cifar10": "patches of CIFAR-10: the density by length (table 3)",
    "energies": "four energies in the plane: the divergence by flow and length (figure 3)",
    "tables": "diamonds and weather: the probability of rows held out, by family of densities",
    "posteriors": "a posterior that is known, and small digits: the bound by family of posteriors",
}

# What a merged result holds of each job's.
KEPT = ("settings", "versions", "machine", "seconds", "result")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status.

    That is 0 when all is done, 1 where a file or a package is missing, a file is damaged or in the
    way or a loss is not finite, 2 for wrong arguments, and 130 where it was interrupted. Without
    arguments it says what there is.
    """
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(given or ["--help"])
    experiment = importlib.import_module(f"nfbook.reproduce.{options.experiment}")
    try:
        jobs = _chosen(experiment, options)
        if options.list:
            print("\n".join(job.name for job in jobs))
        elif options.merge:
            _merge(experiment, options)
        else:
            _keep_memory()
            torch.set_num_threads(options.threads)
            if options.download and (data := getattr(experiment, "DATA", None)):
                data(download=True, progress=not options.no_progress)
            for number, job in enumerate(jobs, 1):
                print(f"{options.experiment}: {job.name}, {number} of {len(jobs)}", flush=True)
                _run(experiment, options, job)
    except KeyboardInterrupt as reason:
        # Without a reason if it came before the training or after it, as in an evaluation.
        where = f"{reason}; the same command goes on from there"
        if not str(reason):
            where = "interrupted; the same command goes on from the last checkpoint"
        print(f"\n{where}", file=sys.stderr)
        return 130
    except (
        _ArgumentError,
        _ResultError,
        CheckpointError,
        DamagedFileError,
        TrainingError,
        ImportError,
        OSError,
    ) as error:
        # A data set that is missing names the argument of its function.
        message = str(error).replace("download=True", "--download")
        print(f"nfbook-reproduce: {message}", file=sys.stderr)
        return 2 if isinstance(error, _ArgumentError) else 1
    return 0


class _ArgumentError(Exception):
    """An argument that argparse could not refuse."""


class _ResultError(Exception):
    """A result or a checkpoint that is missing, or one of other settings."""


def _parser() -> argparse.ArgumentParser:
    names = "\n".join(f"  {name:10} {what}" for name, what in EXPERIMENTS.items())
    parser = argparse.ArgumentParser(
        prog="nfbook-reproduce",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Run an experiment, or go on with it where it was stopped.\n\n" + names,
        epilog="Each job leaves a result, a small file, and is not run again.",
    )
    parser.add_argument("experiment", choices=EXPERIMENTS, metavar="experiment")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--protocol", help="which list of jobs (default: book)")
    which.add_argument("--quick", action="store_true", help="the same path in under a minute")
    parser.add_argument(
        "--only", metavar="JOB", nargs="+", action="extend", help="these jobs alone, by name"
    )
    parser.add_argument("--task", metavar="I/N", help="the I-th of N parts of the jobs, from 1")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true", help="name the jobs, and end")
    instead.add_argument("--merge", action="store_true", help="join all results into one file")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder of the checkpoints (default: runs)"
    )
    parser.add_argument("--threads", type=_count, default=1, help="of one job (default: 1)")
    parser.add_argument("--download", action="store_true", help="get the data if they are missing")
    parser.add_argument("--no-progress", action="store_true", help="show no bars")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


def _chosen(experiment: ModuleType, options: argparse.Namespace) -> list[Any]:
    """Return the jobs that the arguments ask for, in their order."""
    protocol = "quick" if options.quick else options.protocol or "book"
    if protocol not in experiment.PROTOCOLS:
        known = ", ".join(experiment.PROTOCOLS)
        raise _ArgumentError(f"--protocol must be one of {known}, got {protocol!r}")
    if options.merge and (options.protocol or options.only or options.task):
        raise _ArgumentError(
            "--merge joins the results of all jobs: not with --protocol, --only or --task"
        )
    jobs: list[Any] = experiment.jobs(protocol)
    if options.only:
        names = {job.name for job in jobs}
        for name in options.only:
            if name not in names:
                known = ", ".join(sorted(names))
                raise _ArgumentError(f"--only must name jobs of {known}, got {name!r}")
        jobs = [job for job in jobs if job.name in options.only]
    if options.task:
        match = re.fullmatch(r"(\d+)/(\d+)", options.task)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise _ArgumentError(f"--task must be I/N with I from 1 to N, got {options.task!r}")
        jobs = jobs[int(match[1]) - 1 :: int(match[2])]
    return jobs


def _run(experiment: ModuleType, options: argparse.Namespace, job: Any) -> None:
    """Run a job and store its result, unless it is there already."""
    folder = options.results / options.experiment
    name = _result_name(job)
    if _stored(folder / f"{name}.json", job) is not None:
        print("  done already")
        return
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(options.runs / options.experiment / name)
    _check_settings_of(checkpoints, job)
    started = time.strftime("%Y-%m-%d")

    def measure() -> dict[str, Any]:
        result = experiment.run(job, checkpoints=checkpoints, progress=not options.no_progress)
        return {**result, "dates": [started, time.strftime("%Y-%m-%d")]}

    which = "--quick" if options.quick else f"--protocol {job.protocol}"
    record(
        name,
        measure,
        title=experiment.TITLE,
        command=f"python -m nfbook.reproduce {options.experiment} {which} --only {job.name}",
        settings=_plain(asdict(job)),
        seeds=[job.seed],
        packages=["nfbook", "numpy", "torch"],
        folder=folder,
    )


def _merge(experiment: ModuleType, options: argparse.Namespace) -> None:
    """Join the results of all protocols but the quick one, and name what is missing."""
    folder = options.results / options.experiment
    runs, missing = [], []
    for protocol in experiment.PROTOCOLS:
        if protocol == "quick" and not options.quick:
            continue
        for job in experiment.jobs(protocol):
            stored = _stored(folder / f"{_result_name(job)}.json", job)
            if stored is None:
                missing.append(f"{protocol}: {job.name}")
            else:
                runs.append(stored)
    if not runs:
        raise _ResultError(f"there are no results in {folder}")
    record(
        options.experiment,
        lambda: {"runs": runs, "missing": missing},
        title=experiment.TITLE,
        command=f"python -m nfbook.reproduce {options.experiment} --merge",
        settings={"protocols": sorted({run["settings"]["protocol"] for run in runs})},
        seeds=sorted({run["settings"]["seed"] for run in runs}),
        packages=["nfbook", "numpy", "torch"],
        folder=options.results,
    )
    print(f"{len(runs)} results are joined, {len(missing)} are missing")


def _result_name(job: Any) -> str:
    """Return the name of a job's result, in letters that a result's name may have."""
    return re.sub(r"[^a-z0-9_]", "_", f"{job.protocol}_{job.name}".lower())


def _stored(path: Path, job: Any) -> dict[str, Any] | None:
    """Return what is kept of a job's result; None if there is none."""
    if not path.exists():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        kept = {key: stored[key] for key in KEPT}
        settings = dict(kept["settings"])
    except (KeyError, TypeError, ValueError):
        raise _ResultError(
            f"{path} is not a result of an experiment; move it away to run the job anew"
        ) from None
    _refuse_other(f"{path} is a result", settings, job)
    return kept


def _check_settings_of(checkpoints: Checkpoints, job: Any) -> None:
    """Note the job's settings beside its checkpoints, or see that they are those noted before."""
    # A checkpoint alone knows the model, and not what else of the job has been changed since.
    path = checkpoints.folder / "settings.json"
    if path.exists():
        try:
            settings = dict(json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, ValueError):
            raise _ResultError(
                f"{path} does not hold the settings of the checkpoints beside it; "
                f"move {checkpoints.folder} away to run the job anew"
            ) from None
        _refuse_other(f"{checkpoints.folder} holds checkpoints", settings, job)
    else:
        write_in_one_step(path, f"{json.dumps(asdict(job), indent=1)}\n".encode())


def _refuse_other(what: str, theirs: dict[str, Any], job: Any) -> None:
    ours = _plain(asdict(job))
    # A setting that came later had its default, which is what was done before.
    defaults = {each.name: each.default for each in fields(job) if each.default is not MISSING}
    theirs = _plain(defaults) | theirs
    for key in sorted(theirs.keys() | ours.keys()):
        if theirs.get(key) != ours.get(key):
            raise _ResultError(
                f"{what} of other settings: {key} is {theirs.get(key)!r} there and "
                f"{ours.get(key)!r} here; move it away to run the job anew"
            )


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings as JSON gives them back."""
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


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
