"""The edge of chaos as SVG: a line, layers as points, two axes; colours for light and dark."""

from __future__ import annotations

import math
from html import escape
from itertools import pairwise

from initium._scheme.edge import Edge, EdgePoint
from initium._tables import number

__all__ = ["edge_svg"]

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 24, 56
TICKS = 6
STYLE = """<style>
.edge { --ground: #faf9f6; --text: #1d2025; --muted: #646a73; --line: #e5e2db; --moment: #2b6cb8;
  --gradient: #b8571d; background: var(--ground); }
@media (prefers-color-scheme: dark) { .edge { --ground: #131519; --text: #e6e4df; --muted: #9aa1ab;
  --line: #2d3138; --moment: #78b0f2; --gradient: #eda36a; } }
</style>"""


def edge_svg(edge: Edge, *, alone: bool = False) -> str:
    """The plane of C_W and C_b; ``alone`` brings its own colours, as a file without a page needs.

    Example:
        >>> from initium._scheme.edge import edge_of_chaos
        >>> edge_svg(edge_of_chaos("tanh")).startswith("<svg")
        True
    """
    across, up = edge.span()

    def x(weight: float) -> float:
        return LEFT + weight / across * (WIDTH - LEFT - RIGHT)

    def y(bias: float) -> float:
        return HEIGHT - BOTTOM - bias / up * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="edge" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{escape(edge.legend)}" '
        'font-family="system-ui, sans-serif" font-size="13">'
    ]
    parts += [STYLE] if alone else []
    for weight in _ticks(across):
        parts.append(_rule(x(weight), y(0), x(weight), y(up)))
        parts.append(_label(x(weight), y(0) + 20, number(weight), "middle"))
    for bias in _ticks(up):
        parts.append(_rule(x(0), y(bias), x(across), y(bias)))
        parts.append(_label(x(0) - 10, y(bias) + 4, number(bias), "end"))
    parts.append(_label(x(across), y(0) + 42, "C_W = n E[W²]", "end"))
    parts.append(_label(x(0), y(up) - 9, "C_b = E[b²]", "start"))
    path = "".join(
        f"{'L' if at else 'M'}{x(weight):.1f} {y(bias):.1f}"
        for at, (weight, bias) in enumerate(_inside(edge.line, across, up))
    )
    if path:
        parts.append(
            f'<path d="{path}" style="fill: none; stroke: var(--moment); stroke-width: 2.25px"/>'
        )
    for point in edge.points:
        parts += _mark(point, x(point.weight), y(point.bias))
    return "".join((*parts, "</svg>"))


def _inside(
    line: tuple[tuple[float, float], ...], across: float, up: float
) -> list[tuple[float, float]]:
    """The line as far as it lies in the picture, cut where it leaves at the top or on the right."""
    found = [place for place in line[:1] if place[0] <= across and place[1] <= up]
    for (before, low), (after, high) in pairwise(line):
        if low > up or before > across:
            break
        share = 1.0
        if high > up:
            share = 0.0 if math.isinf(high) else (up - low) / (high - low)
        if after > across:
            share = min(share, (across - before) / (after - before))
        top = up if math.isinf(high) else low + share * (high - low)
        found.append((before + share * (after - before), top))
    return found


def _ticks(most: float) -> list[float]:
    """From zero in round steps, at most ``TICKS`` of them.

    Example:
        >>> _ticks(3.17)
        [0.0, 1.0, 2.0, 3.0]
    """
    unit = 10.0 ** math.floor(math.log10(most / TICKS))
    step = next(unit * times for times in (1, 2, 5, 10) if most / (unit * times) <= TICKS)
    return [round(step * at, 12) for at in range(int(most / step + 1e-9) + 1)]


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {place} style="stroke: var(--line)"/>'


def _label(x: float, y: float, text: str, anchor: str, colour: str = "muted") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} style="fill: var(--{colour})">{escape(text)}</text>'


def _mark(point: EdgePoint, x: float, y: float) -> list[str]:
    depth = "" if point.depth is None else f", xi {number(point.depth)}"
    said = f"{point.name}: chi {number(point.chi, 4)}, {point.phase}{depth}"
    right = x > WIDTH * 0.7
    shown = point.name if len(point.name) <= 40 else f"{point.name[:38]}…"
    return [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" style="fill: var(--gradient)">'
        f"<title>{escape(said)}</title></circle>",
        _label(x - 10 if right else x + 10, y - 8, shown, "end" if right else "start", "text"),
    ]
