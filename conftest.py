"""What every run of pytest shares, from wherever it starts.

It stands at the root so that ``pytest --nbval book/em.ipynb`` compares as ``make test`` does: with
pictures, with what `estimate` checks masked, and without progress bars. The tests also take pages,
built site and browser from here.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import chromium
import matplotlib
import nbval.plugin
import pages
import pytest
import serve
import torch
from draws import OFFSET
from pictures import compare_outputs
from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).resolve().parent
SANITIZE = ROOT / "tests" / "support" / "nbval_sanitize.cfg"

nbval.plugin.IPyNbCell.compare_outputs = compare_outputs

# The notebooks' kernels inherit this: a progress bar would stay in the output that is compared.
os.environ["TQDM_DISABLE"] = "1"

# Plots of doctests and tests need no screen. Set here and not in the environment, since the
# notebooks' kernels inherit that, and choose their own backend.
matplotlib.use("agg")


def pytest_configure(config: pytest.Config) -> None:
    """Give nbval the settings that the book's pages are compared with, unless others are named."""
    option = config.option
    option.nbval_sanitize_with = option.nbval_sanitize_with or str(SANITIZE)
    option.nbval_current_env = option.nbval_current_env or not option.nbval_kernel_name


@pytest.fixture(autouse=True)
def seeded_draws() -> None:
    """Let what a test draws without a generator be the same in every run and every order."""
    torch.manual_seed(OFFSET)


@dataclass(frozen=True)
class Site:
    """The built book: its folder, and its address on a server of this machine."""

    folder: Path
    url: str

    @property
    def pages(self) -> list[str]:
        """The addresses of all pages, relative to the site's root."""
        paths = (p.relative_to(self.folder) for p in self.folder.glob("**/*.html"))
        return sorted(path.as_posix() for path in paths if path.parts[0] != "_static")


@pytest.fixture(scope="session")
def book() -> list[pages.Page]:
    """The pages' sources, in the book's order."""
    return pages.pages()


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """Serve the built book on a free port."""
    folder = ROOT / "_build" / "html"
    if not (folder / "index.html").exists():
        pytest.fail(f"there is no built book in {folder}; run `make book` first")
    handler = partial(serve.Handler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Site(folder, f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Start headless Chromium."""
    executable = chromium.find()
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=executable,
            args=[
                "--no-sandbox",  # a container's root user has none
                "--disable-gpu",
                "--disable-background-networking",
                # The network is cut: no name resolves but this machine's.
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            ],
        )
        yield started
        started.close()
