"""Writing a file so that a reader finds the old one or the new one, and never half of it."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["write_in_one_step"]


def write_in_one_step(path: Path, content: bytes) -> None:
    """Write a file beside the old one, and put it in its place when all of it is on the disk.

    Raises:
        OSError: It cannot be written. What was there before is still there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "numbers"
        ...     write_in_one_step(path, b"1 2 3")
        ...     path.read_text(), len(list(Path(folder).iterdir()))
        ('1 2 3', 1)
    """
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
