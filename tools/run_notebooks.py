"""Run notebooks from a fresh kernel, store their outputs, and measure how long each one takes.

    python tools/run_notebooks.py [book/bayes.ipynb ...]

Without arguments every notebook under ``book/`` is run. The times go to ``book/run_times.json``
and into the line "Runs in about ... s" of each page. Each notebook also gets the cell that prepares
Colab, folds the code that its tags say is not there to be read, and shows numbers and links where
authors write directives and roles (``tools/references.py``).
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import sys
import time
from importlib.metadata import version
from pathlib import Path

import nbformat
import references
import yaml
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
TIMES = BOOK / "run_times.json"
# Overwrites the line that shows progress on a terminal.
PASSING = "\r\x1b[K" if sys.stdout.isatty() else ""
# Whose code is folded, by the cell's tag, and what the page calls it. A solution is folded already
# where it stands in the page.
FOLDED = {
    "setup": "the imports and helpers",
    "figure": "the code of the figure",
    "check": "the check",
    "solution": "",
}
RUN_LINE = re.compile(r"Runs in about \S+ s")


def run(path: Path) -> float:
    """Execute one notebook in its folder, store it, and return the seconds it took."""
    notebook = nbformat.read(path, as_version=4)
    prepare_colab(notebook)
    fold(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    done = 0

    def progress(cell: nbformat.NotebookNode, cell_index: int) -> None:
        nonlocal done
        done += 1
        if sys.stdout.isatty():
            print(f"\r{path.name}: cell {done} of {len(cells)}", end="", flush=True)

    # A bar would stay in the stored output, with the time it took.
    os.environ["TQDM_DISABLE"] = "1"
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_execute=progress,
        record_timing=False,
        coalesce_streams=True,
        # The widgets' own state would freeze a live session's ids into the page.
        store_widget_state=False,
    )
    started = time.perf_counter()
    client.execute()
    seconds = time.perf_counter() - started
    tidy(notebook)
    set_run_line(notebook, seconds)
    nbformat.write(notebook, path)
    print(f"{PASSING}{path.name}: {len(cells)} cells in {seconds:.1f} s", flush=True)
    return seconds


def repository_url() -> str:
    """Return the repository's address, from its one setting."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    return config["repository"]["url"]


def setup_source() -> str:
    """Return the code of the first cell, which the static page leaves out."""
    return f"""import sys

if "google.colab" in sys.modules:  # Colab has torch, but not this book's package
    from google.colab import output

    package = "nfbook[notebook] @ git+{repository_url()}"
    get_ipython().run_line_magic("pip", f'install --quiet "{{package}}"')
    output.enable_custom_widget_manager()"""


def prepare_colab(notebook: nbformat.NotebookNode) -> None:
    """Put the set-up cell before the first code cell, or bring it up to date."""
    position = next(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    if "google.colab" in notebook.cells[position].source:
        del notebook.cells[position]
    cell = nbformat.v4.new_code_cell(
        setup_source(),
        id="set-up",
        metadata={"tags": ["remove-cell"], "jupyter": {"source_hidden": True}, "cellView": "form"},
    )
    notebook.cells.insert(position, cell)


def fold(notebook: nbformat.NotebookNode) -> None:
    """Fold code by its cell's tag: in the page, in JupyterLab and in Colab."""
    for cell in notebook.cells:
        tags = [tag for tag in cell.metadata.get("tags", []) if tag != "hide-input"]
        if cell.cell_type != "code" or "remove-cell" in tags:
            continue
        kind = next((tag for tag in tags if tag in FOLDED), None)
        mystnb = cell.metadata.get("mystnb", {})
        for key in ("code_prompt_show", "code_prompt_hide"):
            mystnb.pop(key, None)
        if kind is None:
            cell.metadata.pop("jupyter", None)
            cell.metadata.pop("cellView", None)
        else:
            cell.metadata["jupyter"] = {"source_hidden": True}
            cell.metadata["cellView"] = "form"
        if kind and FOLDED[kind]:
            tags.append("hide-input")
            mystnb["code_prompt_show"] = f"Show {FOLDED[kind]}"
            mystnb["code_prompt_hide"] = f"Hide {FOLDED[kind]}"
        for key, value in (("tags", tags), ("mystnb", mystnb)):
            if value:
                cell.metadata[key] = value
            else:
                cell.metadata.pop(key, None)


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Keep what a page needs, and the kernel as JupyterLab would write it.

    JupyterLab marks a notebook as changed when it opens, if the kernel is described otherwise.
    """
    kernel = KernelSpecManager().get_kernel_spec("python3")
    notebook.metadata = {
        "kernelspec": {
            "display_name": kernel.display_name,
            "language": kernel.language,
            "name": "python3",
        },
        "language_info": notebook.metadata["language_info"],
        **{k: v for k, v in notebook.metadata.items() if k in {"mystnb", "myst", "nfbook"}},
    }
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type in {"display_data", "execute_result"}:
                # A widget's id names an object of a kernel that is gone.
                output.data.pop("application/vnd.jupyter.widget-view+json", None)


def rounded(seconds: float) -> int:
    """Return a time for print: up to the next 5 s, so that it is stable and never too low."""
    # Of what is stored, which has one decimal.
    return 5 * math.ceil(round(seconds, 1) / 5)


def set_run_line(notebook: nbformat.NotebookNode, seconds: float) -> None:
    """Write the measured time into the page's opening box."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = RUN_LINE.sub(f"Runs in about {rounded(seconds)} s", cell.source)


def main(arguments: list[str]) -> int:
    """Run the notebooks named, or all of them, and store the times of those that ran."""
    paths = [Path(a).resolve() for a in arguments] or sorted(BOOK.glob("**/*.ipynb"))
    paths = [path for path in paths if ".ipynb_checkpoints" not in path.parts]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        print(f"no such notebook: {missing[0]}", file=sys.stderr)
        return 2
    times = json.loads(TIMES.read_text(encoding="utf-8")) if TIMES.exists() else {}
    for path in paths:
        try:
            seconds = run(path)
        except CellExecutionError as error:
            print(f"\n{path.name} failed and is left as it was:\n{error}", file=sys.stderr)
            return 1
        torch = version("torch").partition("+")[0]
        times[path.relative_to(BOOK).as_posix()] = {
            "seconds": round(seconds, 1),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "versions": f"Python {platform.python_version()}, torch {torch}",
        }
    kept = {name: run for name, run in sorted(times.items()) if (BOOK / name).exists()}
    TIMES.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    # All pages: what one of them numbers, the others refer to.
    return references.main([])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
