"""The comparison of outputs, as pytest runs it without more options, in a small notebook."""

from __future__ import annotations

import os
import subprocess
import sys
from xml.etree import ElementTree

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from conftest import ROOT

IMPORTS = """import time

import matplotlib.pyplot as plt

from nfbook.ledger import estimate
from nfbook.progress import progress_bar"""
ESTIMATE = """estimate("gap", {}, expected=0.12, within=0.01)"""
NUMBER = """print("exact", {})"""
FIGURE = """plt.plot([0, 1, {}])
plt.show()"""
FIT = """with progress_bar(3, "fit", show=True) as bar:
    for _ in range(3):
        time.sleep({})
        bar.update()"""


# A cell each: the code, its value when outputs are stored and when they are compared, and what
# the comparison says if it fails.
CASES = {
    "same": (NUMBER, 0.5, 0.5, None),
    "rounding": (ESTIMATE, 0.1234, 0.1187, None),
    "invisible": (FIGURE, 4, 4.000001, None),
    "wrong-estimate": (ESTIMATE, 0.1234, 0.2, "gap is 0.2, expected 0.12 ± 0.01"),
    "wrong-number": (NUMBER, 0.5, 0.6, "exact 0.6"),
    # A bar appears after two seconds, so only a slow machine shows what would be left of it.
    "slow-fit": (FIT, 0, 1.1, None),
    "stale-picture": (FIGURE, 4, 3, "picture 1 is stale"),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """Store a notebook's outputs, change its cells, and compare: the verdict and words on each."""
    folder = tmp_path_factory.mktemp("pages")
    stored = new_notebook(cells=[new_code_cell(IMPORTS)])
    stored.cells += [new_code_cell(code.format(value)) for code, value, _, _ in CASES.values()]
    NotebookClient(stored, kernel_name="python3").execute()
    for cell, (code, _, value, _) in zip(stored.cells[1:], CASES.values(), strict=True):
        cell.source = code.format(value)
    nbformat.write(stored, folder / "page.ipynb")
    (folder / "conftest.py").symlink_to(ROOT / "conftest.py")
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml")]
    command += ["-p", "no:cacheprovider", "-p", "no:xdist", f"--junit-xml={report}"]
    # As a reader's shell has it: only conftest.py says that no bar is drawn.
    shell = {key: value for key, value in os.environ.items() if key != "TQDM_DISABLE"}
    subprocess.run([*command, "--nbval", str(folder)], cwd=ROOT, env=shell, check=False)
    _, *cases = ElementTree.parse(report).iter("testcase")
    said = ["".join(case.itertext()) for case in cases]
    verdicts = ["failed" if case.find("failure") is not None else "passed" for case in cases]
    return dict(zip(CASES, zip(verdicts, said, strict=True), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_comparison(outcomes: dict[str, tuple[str, str]], name: str):
    *_, reason = CASES[name]
    verdict, said = outcomes[name]
    assert verdict == ("passed" if reason is None else "failed"), said
    assert reason is None or reason in said
