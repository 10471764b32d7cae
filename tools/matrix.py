"""Run all that trains or draws as other processors, numbers of threads and draws would have it.

    python tools/matrix.py [threads=1 aten=default seed=1 ...]

What is asserted after training, or after many random draws, must not depend on how a processor
rounds. Each setting below makes PyTorch, MKL and oneDNN compute as on another one; ``lowest`` is
all of them together. ``seed=1`` adds 1 to each seed of the tests, so that they draw other numbers;
the notebooks, whose numbers are printed, keep theirs and are left out. What this processor cannot
do is named and passed over. Without arguments all settings are run, and ``own`` is this machine as
it is. The exit status is 1 if a setting failed.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent

# What trains, or asserts something about draws. The notebooks are run as they are published.
TRAINING = (
    "nfbook",
    "tests/flows/test_continuous.py",
    "tests/flows/test_flow_contract.py",
    "tests/flows/test_matching.py",
    "tests/latent",
    "book",
)

LOWEST = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
}
SETTINGS: dict[str, dict[str, str]] = {
    "own": {},
    "aten=default": {"ATEN_CPU_CAPABILITY": "default"},
    "aten=avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "aten=avx512": {"ATEN_CPU_CAPABILITY": "avx512"},
    "mkl=SSE4_2": {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "mkl=AVX2": {"MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "onednn=SSE41": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    "onednn=AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    **{f"threads={count}": {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count} for count in "124"},
    "lowest": LOWEST,
    **{f"seed={number}": {"NFBOOK_TEST_SEED": number} for number in "123"},
}
# Instructions, from the oldest; each processor has all up to its own.
LEVELS = ("DEFAULT", "AVX2", "AVX512")


def missing(setting: dict[str, str], capability: str, machine: str) -> str | None:
    """Return what a setting needs and this processor lacks, or None."""
    if machine.lower() not in {"x86_64", "amd64"} and setting.keys() & LOWEST.keys():
        return f"an x86 processor, this one is {machine}"
    has = LEVELS.index(capability) if capability in LEVELS else 0
    for value in setting.values():
        if value.upper() in LEVELS and LEVELS.index(value.upper()) > has:
            return value.upper()
    return None


def run(setting: dict[str, str], tests: tuple[str, ...]) -> tuple[str, float]:
    """Run the tests under a setting; return pytest's last line and the seconds it took."""
    # One thread unless the setting says otherwise, as `make test` has it.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **setting}
    workers = max(1, min(4, (os.cpu_count() or 1) // int(environment["OMP_NUM_THREADS"])))
    command = [sys.executable, "-m", "pytest", "-q", "--nbval", "-n", str(workers)]
    if "NFBOOK_TEST_SEED" in setting:
        tests = tuple(name for name in tests if name != "book")
    command += ["--dist", "loadscope", "-p", "no:cacheprovider", *tests]
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        print(done.stdout, flush=True)
    last = (done.stdout.strip().splitlines() or [""])[-1].strip("= ")
    return ("passed" if done.returncode == 0 else "FAILED") + f": {last}", seconds


def main(names: list[str], tests: tuple[str, ...] = TRAINING) -> int:
    """Run the settings named, or all of them, and print the table."""
    unknown = [name for name in names if name not in SETTINGS]
    if unknown:
        print(f"SETTINGS must be among {', '.join(SETTINGS)}, got {unknown[0]}", file=sys.stderr)
        return 2
    rows, failed = [], False
    for name in names or SETTINGS:
        lacks = missing(SETTINGS[name], torch.backends.cpu.get_cpu_capability(), platform.machine())
        if lacks:
            rows.append(f"| {name} | not run: it needs {lacks} | |")
        else:
            result, seconds = run(SETTINGS[name], tests)
            rows.append(f"| {name} | {result} | {seconds:.0f} s |")
            failed |= not result.startswith("passed")
        print(rows[-1], flush=True)
    print("\n| setting | result | time |\n|---|---|---:|", *rows, sep="\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
