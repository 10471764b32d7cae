"""The notebooks in a real JupyterLab: references, boxes, numbers and folds as readers see them."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import nbformat
import pytest
import references
import run_notebooks
from pages import ROOT, Page, pages
from playwright.sync_api import Browser
from playwright.sync_api import Page as Tab

NOTEBOOKS = [page for page in pages() if page.is_notebook]
FACTS = (ROOT / "tests" / "support" / "lab.js").read_text(encoding="utf-8")
OPEN = "(path) => { jupyterapp.commands.execute('docmanager:open', {path}); }"
READY = """(path) => {
  const panel = [...jupyterapp.shell.widgets("main")].find((w) => w.context?.path === path);
  return panel?.context.isReady && panel.content.widgets.length > 1 && panel.sessionContext.isReady;
}"""
PATIENCE = 300_000  # milliseconds: JupyterLab needs ten seconds, and minutes on a busy machine

each_notebook = pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.path.stem)


def cells_of(path: Path) -> list[Any]:
    return list(nbformat.read(path, as_version=4).cells)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold the notebooks as `make notebooks` stores them."""
    folder = tmp_path_factory.mktemp("lab")
    book = references.read_book()
    for page in NOTEBOOKS:
        notebook = nbformat.read(page.path, as_version=4)
        run_notebooks.prepare_colab(notebook)
        run_notebooks.fold(notebook)
        references.rewrite(notebook, page.path.name, book)
        # JupyterLab brings the version up to date, where a page was stored by another Python.
        notebook.metadata.language_info.version = platform.python_version()
        nbformat.write(notebook, folder / page.path.name)
    return folder


@pytest.fixture(scope="module")
def lab(folder: Path, browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """Start JupyterLab, and open it in the browser."""
    home = tmp_path_factory.mktemp("home")
    own = ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    settings = ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    environment = {
        **os.environ,
        **{name: str(home / name.lower()) for name in (*own, *settings)},
        "PYTHONPATH": str(ROOT),
    }
    log = home / "log"
    options = [
        *("--no-browser", "--allow-root", "--port=0", "--ServerApp.ip=127.0.0.1"),
        *("--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"),
        "--LabApp.expose_app_in_browser=True",
    ]
    with log.open("w") as stream:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env=environment,
            stdout=stream,
            stderr=stream,
        )
    try:
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.set_default_timeout(PATIENCE)
        tab.goto(f"{address(log, server)}/lab", wait_until="commit")
        tab.wait_for_function("() => window.jupyterapp?.commands.hasCommand('docmanager:open')")
        tab.evaluate("() => jupyterapp.restored.then(() => null)")
        yield tab
        tab.close()
    finally:
        server.terminate()
        server.wait(60)


def address(log: Path, server: subprocess.Popen[bytes]) -> str:
    """Wait until JupyterLab answers, and return where."""
    started = time.monotonic()
    while server.poll() is None and time.monotonic() - started < PATIENCE / 1000:
        if found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text(encoding="utf-8")):
            try:
                urlopen(f"{found[0]}/api", timeout=60).close()
                return found[0]
            except URLError:
                pass
        time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text(encoding='utf-8')}")


@pytest.fixture(scope="module")
def opened(lab: Tab) -> Callable[[Page], dict[str, Any]]:
    """Open each page once, and return what JupyterLab makes of it."""
    known: dict[str, dict[str, Any]] = {}

    def open_(page: Page) -> dict[str, Any]:
        name = page.path.name
        if name not in known:
            lab.evaluate(OPEN, name)
            lab.wait_for_function(READY, arg=name)
            known[name] = lab.evaluate(FACTS, name)
        return known[name]

    return open_


@each_notebook
def test_every_reference_is_resolved(opened: Callable[[Page], dict[str, Any]], page: Page):
    facts = opened(page)
    assert facts["unresolved"] == []
    assert facts["lost"] == []
    targets = references.read_book().targets
    named = [(label, text) for label, text in facts["references"] if label in targets]
    assert named
    assert [(label, targets[label].text) for label, _ in named] == named


@each_notebook
def test_no_directive_and_no_error_is_shown(opened: Callable[[Page], dict[str, Any]], page: Page):
    facts = opened(page)
    assert facts["source"] == facts["directives"] == facts["errors"] == []


@each_notebook
def test_numbers_are_the_books(opened: Callable[[Page], dict[str, Any]], page: Page):
    facts, targets = opened(page), references.read_book().targets
    assert [f"({number})" for number in facts["numbers"]] == [
        targets[label].text for label in page.equations
    ]
    assert facts["boxes"]
    for label, number in facts["boxes"]:
        assert targets[label].text.endswith(f" {number}")


@each_notebook
def test_the_ledgers_lines_are_readable(opened: Callable[[Page], dict[str, Any]], page: Page):
    facts = opened(page)
    plain = [o.get("data", {}).get("text/plain", "") for cell in page.code for o in cell.outputs]
    assert len(facts["lines"]) == sum(text.startswith("✓ eq-") for text in plain) > 0
    for line in facts["lines"]:
        assert re.fullmatch(r"✓ eq-[a-z0-9-]+ \w.+", re.sub(r"<[^>]+>", "", line)), line


@each_notebook
def test_what_is_folded_in_the_page_is_folded_here(
    opened: Callable[[Page], dict[str, Any]], page: Page, folder: Path
):
    facts, cells = opened(page), cells_of(folder / page.path.name)
    assert facts["preparing"]
    solutions = [cell.id for cell in cells if cell.source.startswith("#### Solution")]
    assert set(solutions) <= set(facts["folded"])
    exercises = [cell.id for cell in cells if re.search(r"^### Exercise ", cell.source, re.M)]
    assert exercises
    assert not set(exercises) & set(facts["hidden"])
    after = [cells[cells.index(cell) + 1].id for cell in cells if cell.id in solutions]
    assert set(after) <= set(facts["hidden"])


@each_notebook
def test_opening_a_page_changes_nothing(opened: Callable[[Page], dict[str, Any]], page: Page):
    assert not opened(page)["changed"]


SHOW = """(path) => {
  const panel = [...jupyterapp.shell.widgets("main")].find((w) => w.context?.path === path);
  jupyterapp.shell.activateById(panel.id);
  return jupyterapp.shell.currentWidget === panel;
}"""
RUN = """async (ids) => {
  const {content} = jupyterapp.shell.currentWidget;
  for (const id of ids) {
    content.activeCellIndex = content.widgets.findIndex((cell) => cell.model.id === id);
    content.deselectAll();
    await jupyterapp.commands.execute("notebook:run-cell");
  }
}"""


@each_notebook
def test_interactive_figures_come_alive(
    opened: Callable[[Page], dict[str, Any]], page: Page, lab: Tab
):
    figures = [cell.id for cell in page.code if re.search(r"\w+Explorable\(", cell.source)]
    assert figures
    opened(page)
    lab.wait_for_function(SHOW, arg=page.path.name)  # cells run in the notebook that has the focus
    lab.evaluate(RUN, [page.code[1].id, *figures])
    live = lab.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-OutputArea-output [role=img]")
    live.first.wait_for()
    sliders = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-OutputArea-output input[type=range]"
    slider = lab.locator(sliders).first
    before = live.first.inner_html()
    slider.press("End")
    lab.wait_for_function(
        "([e, before]) => e.innerHTML !== before", arg=[live.first.element_handle(), before]
    )


RESULTS = """() => jupyterapp.shell.currentWidget.content.widgets
  .filter((cell) => cell.model.type === "code")
  .map(({model}) => [
    model.id,
    model.executionCount,
    model.outputs.toJSON().map((output) => output.output_type),
  ])"""


def test_a_chapter_runs_from_its_first_cell_to_its_last(
    opened: Callable[[Page], dict[str, Any]], lab: Tab
):
    page = NOTEBOOKS[0]
    opened(page)
    lab.wait_for_function(SHOW, arg=page.path.name)
    assert lab.evaluate("() => jupyterapp.commands.execute('notebook:run-all-cells')")
    results = lab.evaluate(RESULTS)
    assert [cell for cell, _, _ in results] == [cell.id for cell in page.code]
    assert [cell for cell, count, _ in results if not count] == []
    assert [cell for cell, _, kinds in results if "error" in kinds] == []
