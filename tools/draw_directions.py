"""Draw the notation page's picture of a flow's two directions.

python tools/draw_directions.py
"""

from __future__ import annotations

from pathlib import Path

STATIC = Path(__file__).resolve().parent.parent / "book" / "_static"

FONT = 'font-family="system-ui, sans-serif"'
CODE = 'font-family="ui-monospace, monospace"'


def box(x: int, title: str, line: str) -> str:
    """Return a labelled box."""
    return (
        f'  <rect x="{x}" y="60" width="170" height="90" rx="10" fill="none" stroke="#333" '
        f'stroke-width="2"/>\n'
        f'  <text x="{x + 85}" y="98" {FONT} font-size="20" font-weight="600" '
        f'text-anchor="middle">{title}</text>\n'
        f'  <text x="{x + 85}" y="128" {FONT} font-size="16" text-anchor="middle">{line}</text>'
    )


def arrow(start: int, end: int, y: int, color: str) -> str:
    """Return a horizontal arrow."""
    tip = 12 if end > start else -12
    return (
        f'  <path d="M{start} {y}H{end - tip}" stroke="{color}" stroke-width="3" fill="none"/>\n'
        f'  <path d="M{end} {y}l{-tip} -7v14z" fill="{color}"/>'
    )


def words(y: int, maths: str, code: str) -> str:
    """Return an arrow's two names, in the mathematics and in code."""
    return (
        f'  <text x="320" y="{y}" {FONT} font-size="17" text-anchor="middle">'
        f'<tspan font-style="italic">{maths}</tspan>'
        f'<tspan dx="14" {CODE} font-size="15">{code}</tspan></text>'
    )


def draw() -> str:
    """Return the picture as SVG."""
    parts = [
        box(10, "base", "noise, z"),
        box(460, "target", "data, x"),
        arrow(190, 450, 88, "#0072B2"),
        words(74, "g", "y = t(z)"),
        arrow(450, 190, 122, "#D55E00"),
        words(148, "f", "z = t.inv(y)"),
    ]
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 40 640 130">\n{body}\n</svg>\n'


if __name__ == "__main__":
    (STATIC / "directions.svg").write_text(draw(), encoding="utf-8")
