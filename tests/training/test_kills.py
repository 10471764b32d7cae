"""A run that is killed at any moment and started again ends as one that never was, bit by bit."""

import os
import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("kills.py")
# More of them by hand: NFBOOK_KILLS=100 pytest -s tests/training/test_kills.py
KILLS = os.environ.get("NFBOOK_KILLS", "8")


def test_a_killed_run_goes_on_to_the_same_end():
    seed = os.environ.get("NFBOOK_TEST_SEED", "0")
    command = [sys.executable, SCRIPT, KILLS, seed]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    print(result.stdout, result.stderr)
    assert result.returncode == 0
    kills, ended, faults = map(int, re.findall(r"\d+", result.stdout.splitlines()[-1]))
    assert kills == int(KILLS)
    assert ended > 0
    assert faults == 0
