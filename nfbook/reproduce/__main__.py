"""``python -m nfbook.reproduce NAME``, also installed as ``nfbook-reproduce``."""

from __future__ import annotations

import sys

from nfbook.reproduce.command import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
