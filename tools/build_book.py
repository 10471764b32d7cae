"""Build the HTML book, warnings being errors, unless the one that stands is up to date.

    python tools/build_book.py [--links]

With ``--links`` nothing is built, and the links that leave the book are followed.

Every build starts from nothing. Sphinx keeps the pages that it has read, and a second, incremental
build no longer reports the warnings of the first, so it would pass where the first one failed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "_build"
INDEX = BUILD / "html" / "index.html"
STAMP = BUILD / "nfbook-built"
# Whatever a page is made of; the package too, since pages and extensions import it.
SOURCES = (
    "_config.yml",
    "_toc.yml",
    "constraints.txt",
    "pyproject.toml",
    "benchmarks/results",
    "book",
    "nfbook",
    "tools",
)
DERIVED = {"__pycache__", ".ipynb_checkpoints"}


def fingerprint(root: Path = ROOT) -> str:
    """Return a hash over names and contents of all sources, so that a deleted file counts too."""
    digest = hashlib.sha256()
    for source in SOURCES:
        top = root / source
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and not DERIVED.intersection(path.parts):
                digest.update(f"{path.relative_to(root).as_posix()}\n".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def is_current() -> bool:
    """Say whether the book that stands was built, without a warning, from the sources of now."""
    return INDEX.exists() and STAMP.exists() and STAMP.read_text().strip() == fingerprint()


def jupyter_book(*arguments: str) -> int:
    """Run Jupyter Book on the sources and return its exit status."""
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(ROOT), *arguments]
    # The extension takes the figures' scripts from nfbook, which a static book does not install.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.call(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL)


def build() -> int:
    """Build from nothing; return the exit status, and leave the stamp if it is 0."""
    state = fingerprint()
    shutil.rmtree(BUILD, ignore_errors=True)
    started = time.perf_counter()
    status = jupyter_book("-W", "-n", "--keep-going")
    if status == 0 and INDEX.exists():
        STAMP.write_text(state + "\n")
        print(f"\nBuilt in {time.perf_counter() - started:.0f} s.")
        return 0
    print("\nThe book was not built: each warning above counts as an error.", file=sys.stderr)
    return status or 1


def main(arguments: Sequence[str] = ()) -> int:
    """Build if need be, and say where to open the book; or follow its links."""
    if "--links" in arguments:
        return jupyter_book("--builder", "linkcheck")
    if is_current():
        print("The book is up to date.")
    elif (status := build()) != 0:
        return status
    print(f"Open  {INDEX.as_uri()}")
    print(f"  or  {INDEX.relative_to(ROOT)} from this folder")
    print("  or  type  make serve  and read it at the address it prints")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
