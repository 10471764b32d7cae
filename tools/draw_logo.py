"""Draw the book's logo: the contours of a Gaussian, bent by an invertible map.

    python tools/draw_logo.py

The map is (z1, z2) -> (z1, z2 + a z1^2 - b). It moves every point along its own vertical line,
so it is invertible, and its Jacobian determinant is 1.
"""

from __future__ import annotations

import math
from pathlib import Path

STATIC = Path(__file__).resolve().parent.parent / "book" / "_static"

# Okabe and Ito's blue, sky blue, green and orange, from the outermost contour to the mode.
RINGS = ((2.0, "#0072B2"), (1.5, "#56B4E9"), (1.0, "#009E73"), (0.5, "#E69F00"))


def bend(z1: float, z2: float) -> tuple[float, float]:
    """Return the image of a point."""
    return z1, z2 + 0.6 * z1**2 - 0.5


def ring(radius: float, points: int = 96) -> str:
    """Return the image of a circle as an SVG path."""
    corners = []
    for i in range(points):
        angle = 2 * math.pi * i / points
        x, y = bend(radius * math.cos(angle), 0.62 * radius * math.sin(angle))
        corners.append(f"{50 + 23 * x:.2f},{56 - 23 * y:.2f}")
    return "M" + "L".join(corners) + "Z"


def mark() -> str:
    """Return the logo's rings."""
    return "\n".join(f'  <path d="{ring(radius)}" fill="{color}"/>' for radius, color in RINGS)


def svg(width: int, height: int, content: str) -> str:
    """Return a whole SVG file."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="nfbook: the contours of a Gaussian, bent by a flow">\n{content}\n</svg>\n'
    )


def word(text: str, x: float, y: float, size: float) -> str:
    """Return a text's outline, bold, as an SVG path that no font of the reader's can change."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    outline = TextPath(
        (0, 0), text, size=size, prop=FontProperties(family="STIXGeneral", weight="bold")
    )
    commands = {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}
    parts = []
    for points, code in outline.iter_segments(simplify=False, curves=True):
        pairs = [] if code == 79 else points.reshape(-1, 2)
        parts.append(commands[int(code)] + " ".join(f"{x + a:.2f},{y - b:.2f}" for a, b in pairs))
    return f'  <path d="{"".join(parts)}" fill="#5a87b5"/>'


def draw() -> dict[str, str]:
    """Return the logo's files: the sidebar's, with the name, and the favicon."""
    # Between f and b the face has no room of its own.
    name = f"{word('nf', 108, 66, 54)}\n{word('book', 161, 66, 54)}"
    return {
        "logo.svg": svg(276, 100, f"{mark()}\n{name}"),
        "favicon.svg": svg(100, 100, mark()),
    }


if __name__ == "__main__":
    for file, text in draw().items():
        (STATIC / file).write_text(text, encoding="utf-8")
