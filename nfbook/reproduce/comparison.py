"""Published numbers, and the stored results that are set beside them.

A page that compares must say what is missing. So `stored_runs` finds whatever results there are,
and `missing_jobs` what an experiment still lacks; both follow its list of jobs, and a result of
other settings counts for neither.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from statistics import mean, stdev
from typing import Any

from nfbook._checks import check_type
from nfbook.data.stored import RESULTS
from nfbook.reproduce.command import EXPERIMENTS

__all__ = ["LATER", "PAPER", "REPRODUCTIONS", "cell", "missing_jobs", "stored_runs"]

# Rezende and Mohamed (2015), as a public note quotes it: table 2 (the bound on -log p(x), binarised
# MNIST) by the flow's length, and table 3 (-log p(x), CIFAR-10). The number of runs is not given.
PAPER: dict[str, dict[int, float]] = {
    "planar": {0: 89.9, 10: 87.5, 20: 86.5, 40: 85.7, 80: 85.1},
    "nice": {10: 88.6, 20: 87.9, 40: 87.3, 80: 87.2},
    "cifar10": {0: -293.7, 10: -320.7},
}

# Two public reproductions of table 2, read in their repositories. By length: the negative bound,
# and -log p(x) by importance sampling, on the test images.
REPRODUCTIONS: dict[str, dict[str, Any]] = {
    # andrehuang, normalizing-flows-reproduce: fixed images, ReLU networks, the authors' optimiser
    # and annealing, no constraint on u, 5,000 importance samples; NICE for 500 epochs, half as many
    # as the planar flows.
    "A": {
        "runs": "1 to 4",
        "planar": {
            "negative_bound": {0: 98.14, 10: 93.48, 20: 92.28, 40: 91.34, 80: 90.86},
            "negative_log_prob": {0: 92.58, 10: 88.95, 20: 88.09, 40: 87.45, 80: 87.09},
        },
        "nice": {
            "negative_bound": {10: 94.53, 20: 93.41, 40: 92.49, 80: 91.86},
            "negative_log_prob": {10: 89.96, 20: 89.07, 40: 88.41, 80: 87.96},
        },
    },
    # bbyiringiro, Advanced-Topics-in-Machine-Learning-ATML_HT22--Flows: images binarised anew for
    # each batch, those of the test too, maxout networks, constrained u, 200 importance samples.
    "B": {
        "runs": "not given",
        "planar": {
            "negative_bound": {0: 96.99, 10: 93.97, 20: 93.02, 40: 92.47, 80: 92.21},
            "negative_log_prob": {0: 92.39, 10: 89.95, 20: 89.32, 40: 88.92, 80: 88.74},
        },
    },
}

# The negative bound on MNIST and what its table prints behind ±: Grathwohl et al. (2019), table 3,
# which takes its first four rows from van den Berg et al. (2018).
LATER: dict[str, tuple[float, float]] = {
    "no flow": (86.55, 0.06),
    "planar": (86.06, 0.31),
    "IAF": (84.20, 0.17),
    "Sylvester": (83.32, 0.06),
    "FFJORD": (82.82, 0.01),
}


def stored_runs(experiment: str) -> dict[Any, dict[str, Any]]:
    """Return the stored results of an experiment's jobs, those of the quick protocol left out.

    Arguments:
        experiment: The experiment's name, as in ``nfbook-reproduce NAME``.

    Returns:
        By job, in the order of the lists of jobs: ``settings``, ``result``, ``seconds``,
        ``machine`` and ``versions``. Each result is a file in the folder of the experiment, or
        part of the file into which ``--merge`` has joined them.

    Raises:
        TypeError: experiment is not a string.
        ValueError: There is no such experiment.

    Example:
        >>> len(stored_runs("energies"))
        228
    """
    module = _module(experiment)
    merged = RESULTS / f"{experiment}.json"
    found = _read(merged)["result"]["runs"] if merged.exists() else []
    found += [_read(path) for path in sorted((RESULTS / experiment).glob("*.json"))]
    by_job = {}
    for run in found:
        settings = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in run["settings"].items()
        }
        by_job[module.Settings(**settings)] = run
    return {job: by_job[job] for job in _jobs(module) if job in by_job}


def missing_jobs(experiment: str) -> list[Any]:
    """Return the jobs of an experiment without a stored result, in the order of their worth.

    Those of the quick protocol are left out.

    Example:
        >>> missing_jobs("energies")
        []
    """
    stored = stored_runs(experiment)
    return [job for job in _jobs(_module(experiment)) if job not in stored]


def cell(values: Sequence[float], digits: int = 2) -> str:
    """Return a table's cell: the mean, the standard deviation over seeds, and how many there are.

    Example:
        >>> cell([1.0, 2.0, 3.0]), cell([1.0]), cell([])
        ('2.00 ± 1.00 (3)', '1.00 (1)', '–')
    """
    if not values:
        return "–"
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread} ({len(values)})"


def _module(experiment: str) -> Any:
    check_type("experiment", experiment, str, "a str")
    if experiment not in EXPERIMENTS:
        raise ValueError(f"experiment must be one of {', '.join(EXPERIMENTS)}, got {experiment!r}")
    return import_module(f"nfbook.reproduce.{experiment}")


def _jobs(module: Any) -> list[Any]:
    protocols = [protocol for protocol in module.PROTOCOLS if protocol != "quick"]
    return [job for protocol in protocols for job in module.jobs(protocol)]


def _read(path: Any) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return read
