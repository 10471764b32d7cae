"""Compares a stored picture with one drawn again.

nbval passes over pictures, so a figure could go stale unseen. Bytes cannot be compared: another
processor rounds differently, and another build of the font library shades a letter's edge
differently. So both pictures are averaged over small blocks, which forgives an edge and keeps a
line, a label or a colour, and the share of blocks that differ visibly must be tiny.
"""

from __future__ import annotations

from base64 import b64decode
from io import BytesIO

import nbval.plugin
import numpy as np
from PIL import Image

BLOCK = 8  # pixels, at 160 to the inch: a twentieth of an inch
VISIBLE = 0.1  # of the range from black to white, in any of the three colours
SHARE = 3e-4  # of all blocks: two or three in a figure of the usual size
RESIZED = 0.02  # the labels' width may move a figure's edge by this much


def load(png: bytes) -> Image.Image:
    """Read a picture, on white."""
    picture = Image.open(BytesIO(png)).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")


def blocks(picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Average a picture over blocks, after bringing it to the given size in blocks."""
    small = picture.resize(size, Image.Resampling.BOX)
    return np.asarray(small, dtype=float) / 255


def difference(stored: bytes, fresh: bytes) -> str | None:
    """Return in words how two pictures differ, or None."""
    old, new = load(stored), load(fresh)
    for a, b in zip(old.size, new.size, strict=True):
        if abs(a - b) > RESIZED * a:
            return f"the stored picture has {old.size} pixels, the new one {new.size}"
    size = (max(1, old.width // BLOCK), max(1, old.height // BLOCK))
    visible = np.abs(blocks(old, size) - blocks(new, size)).max(axis=-1) > VISIBLE
    if visible.mean() > SHARE:
        rows, columns = np.nonzero(visible)
        return (
            f"{visible.sum()} of {visible.size} blocks differ visibly, "
            f"between ({columns.min() * BLOCK}, {rows.min() * BLOCK}) and "
            f"({(columns.max() + 1) * BLOCK}, {(rows.max() + 1) * BLOCK}) pixels"
        )
    return None


def png_outputs(outputs: list) -> list[bytes]:
    """Return the pictures among a cell's outputs."""
    found = [output.get("data", {}).get("image/png") for output in outputs]
    return [b64decode(data) for data in found if data]


compare_without_pictures = nbval.plugin.IPyNbCell.compare_outputs


def compare_outputs(
    cell: nbval.plugin.IPyNbCell, test: list, ref: list, skip_compare: tuple | None = None
) -> bool:
    """Compare what nbval compares, then the pictures; takes the place of nbval's method."""
    if not compare_without_pictures(cell, test, ref, skip_compare):
        return False
    fresh, stored = png_outputs(test), png_outputs(ref)
    if len(fresh) != len(stored):
        cell.comparison_traceback.append(
            f"the page stores {len(stored)} pictures, the cell draws {len(fresh)}"
        )
        return False
    for number, pair in enumerate(zip(stored, fresh, strict=True), start=1):
        if problem := difference(*pair):
            cell.comparison_traceback.append(
                f"picture {number} is stale: {problem}; run `make notebooks` and look at it"
            )
            return False
    return True
