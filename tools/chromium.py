"""Find the Chromium that the site's tests drive, or fetch one.

    python tools/chromium.py

The variable CHROMIUM names one; otherwise a browser of the system is taken, or Playwright's own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")

FAILED = """
The site's tests need Chromium or Chrome: none was found, and Playwright could not fetch one.
Install one, for example with  apt install chromium  on Debian and Ubuntu, or name one:
  make CHROMIUM=/path/to/chrome test
"""


def find() -> str | None:
    """Return the path of a browser on this machine, or None.

    Raises:
        FileNotFoundError: CHROMIUM is set and names no program.
    """
    if named := os.environ.get("CHROMIUM"):
        if path := shutil.which(named):
            return path
        raise FileNotFoundError(f"CHROMIUM must name a browser, got {named!r}, which is no program")
    if path := next(filter(None, map(shutil.which, NAMES)), None):
        return path
    return str(MAC) if MAC.exists() else find_playwright()


def find_playwright() -> str | None:
    """Return the path of the browser that Playwright fetched, or None."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def main() -> int:
    """Print where the browser is; fetch Playwright's if there is none."""
    try:
        path = find()
        if path is None:
            print("No Chromium here: fetching Playwright's, once.", flush=True)
            subprocess.call([sys.executable, "-m", "playwright", "install", "chromium"])
            path = find_playwright()
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    if path is None:
        print(FAILED, file=sys.stderr)
        return 1
    print(f"The site is tested with {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
