"""The edge of chaos of plain layers z -> W phi(z) + b: where order ends, and where layers lie.

In the plane of C_W = n E[W^2] and C_b = E[b^2] (sigma_w^2 and sigma_b^2 of Schoenholz et al.) the
line chi = 1 parts the ordered phase, in which inputs become alike and gradients vanish, from the
chaotic one, in which inputs part and gradients grow. Not covered: norms, residual streams, gates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from initium._scheme.meanfield import Kernel, kernel
from initium._tables import fold, number, render, table

__all__ = ["Edge", "EdgePoint", "edge_of_chaos"]

VERSION = 1
FAR = 10
"""A line that starts so many times further than the layers lie is left outside the picture."""
NEAR = 0.01
"""Within this of 1, chi is called critical."""
SETTLED = 1e-12
STEPS = 100
VARIANCES = [10 ** (exponent / 10) for exponent in range(-40, 31)]
"""Second moments q at which the critical line is computed: 1e-4 to 1e3."""
LEAST, MOST = 1e-12, 1e12
COLUMNS, ROWS = 56, 15


@dataclass(frozen=True, slots=True)
class EdgePoint:
    """Layers of one kind in the plane.

    ``q`` is where their second moment settles (0 or ``inf`` if it does not), ``chi`` the factor of
    a gradient per layer there, ``depth`` the correlation depth xi: ``inf`` on the line, ``None``
    where q does not settle.
    """

    name: str
    weight: float
    bias: float
    q: float
    chi: float
    phase: Literal["ordered", "critical", "chaotic"]
    depth: float | None


@dataclass(frozen=True, slots=True)
class Edge:
    """The line chi = 1 of an activation as points (C_W, C_b), and layers beside it.

    ``print(edge)`` draws it, :meth:`to_svg` gives a picture.
    """

    activation: str
    line: tuple[tuple[float, float], ...]
    points: tuple[EdgePoint, ...] = ()

    def to_json(self) -> str:
        """Everything, as JSON text; what is not finite is null."""
        from initium._plain import as_json

        return as_json(self, {"initium": "edge", "version": VERSION})

    def to_svg(self) -> str:
        """The plane as an SVG file of its own, for light and dark."""
        from initium._scheme.edge_plot import edge_svg

        return edge_svg(self, alone=True)

    def span(self) -> tuple[float, float]:
        """How far C_W and C_b reach in a picture: all points, and the line around them."""
        weights = [point.weight for point in self.points if math.isfinite(point.weight)]
        biases = [point.bias for point in self.points if math.isfinite(point.bias)]
        most, start = 1.25 * max(weights, default=0.0), self.line[0][0] if self.line else 1.0
        far = most > 0 and start > FAR * most
        return max(most, 0.0 if far else 2 * start), max(1.25 * max(biases, default=0.0), 0.5)

    @property
    def legend(self) -> str:
        """What the picture shows, in one line."""
        what = f"edge of chaos of {self.activation}"
        if not self.line:
            return f"{what}: chi is below 1 wherever q settles"
        if self.line[0][0] > self.span()[0]:
            return (
                f"{what}: chi = 1 only beyond C_W = {number(self.line[0][0])}, all here is ordered"
            )
        return f"{what}: chi = 1 on the line, ordered to its left, chaotic to its right"

    def __str__(self) -> str:
        return _drawn(self)


def edge_of_chaos(activation: str, layers: Mapping[str, tuple[float, float]] | None = None) -> Edge:
    """The critical line of an activation, and on which side of it layers lie.

    Formulas: at a settled q the gradient's second moment changes per layer by
    chi = C_W E[phi'(sqrt(q) u)^2], u ~ N(0, 1). So chi = 1 at C_W = 1 / E[phi'^2], and q is settled
    if C_b = q - C_W E[phi(sqrt(q) u)^2]: the line, as q runs. Where phi(a z) = a phi(z), chi does
    not depend on q and the line is upright.

    Args:
        activation: as text, such as ``"tanh"`` or ``"leaky_relu(0.2)"``.
        layers: (C_W, C_b) by name.

    Raises:
        RecipeError: an unknown activation.

    Example:
        >>> edge = edge_of_chaos("tanh", {"orthogonal": (1.0, 0.0), "wide": (4.0, 0.0)})
        >>> [(point.name, point.phase) for point in edge.points]
        [('orthogonal', 'critical'), ('wide', 'chaotic')]

    Source: Poole et al. 2016, arXiv:1606.05340; Schoenholz et al. 2017, arXiv:1611.01232.

    Known divergence: infinite width. Of several fixed points, that reached from q = 1 is taken.
    """
    phi = kernel(activation)
    groups: dict[tuple[float, float], list[str]] = {}
    for name, place in (layers or {}).items():
        groups.setdefault(place, []).append(name)
    points = [
        _point(phi, ", ".join(one.pattern for one in fold((name, 0) for name in names)), *place)
        for place, names in groups.items()
    ]
    return Edge(activation, _line(phi), tuple(points))


def _line(phi: Kernel) -> tuple[tuple[float, float], ...]:
    slopes = [phi.slope(q) for q in VARIANCES]
    if max(slopes) - min(slopes) < 1e-9 * max(slopes):
        return (1 / slopes[0], 0.0), (1 / slopes[0], math.inf)
    found = [
        (1 / slope, q - phi.second(q) / slope)
        for q, slope in zip(VARIANCES, slopes, strict=True)
        if slope > 0
    ]
    return tuple((weight, max(bias, 0.0)) for weight, bias in found if bias > -1e-9)


def _point(phi: Kernel, name: str, weight: float, bias: float) -> EdgePoint:
    q, settled = _settled(lambda at: weight * phi.second(at) + bias, 1.0)
    chi = weight * phi.slope(min(max(q, LEAST), MOST))
    phase: Literal["ordered", "critical", "chaotic"] = "critical"
    if abs(chi - 1) > NEAR:
        phase = "ordered" if chi < 1 else "chaotic"
    depth = None
    if abs(chi - 1) < 1e-6 or (phase == "critical" and not settled):
        depth = math.inf
    elif settled and 0 < q < math.inf:
        depth = _depth(phi, weight, bias, q, chi)
    return EdgePoint(name, weight, bias, q, chi, phase, depth)


def _depth(phi: Kernel, weight: float, bias: float, q: float, chi: float) -> float:
    """xi = -1 / ln of the factor by which c - c* shrinks, at the c* that is reached from 1/2."""

    def after(c: float) -> float:
        return min((weight * phi.covariance(q, q, c) + bias) / q, 1.0)

    c, _ = _settled(after, 0.5)
    rate = chi if c > 1 - 1e-7 else weight * phi.slope_covariance(q, q, c)
    return -1 / math.log(rate) if 0 < rate < 1 else math.inf


def _settled(step: Callable[[float], float], start: float) -> tuple[float, bool]:
    """Where x -> step(x) settles, and whether it does; 0 or ``inf`` where x falls or grows forever.

    Two steps at a time, and where they shrink by a factor the sum of all further ones (Aitken).
    """
    x = start
    for _ in range(STEPS):
        first = step(x)
        if abs(first - x) <= SETTLED * x:
            return first, True
        second = step(first)
        if second < LEAST:
            return 0.0, True
        if not second < MOST:
            return math.inf, True
        shrinks = (second - first) / (first - x)
        x = second
        if 0 < shrinks < 1:
            x = max(first + (second - first) / (1 - shrinks), LEAST)
    return x, False


def _drawn(edge: Edge) -> str:
    """The plane in characters: the line as dots, layers as letters, with a table of them."""
    across, up = edge.span()
    rows = [[" "] * COLUMNS for _ in range(ROWS)]

    def put(weight: float, bias: float, mark: str) -> None:
        column, row = round(weight / across * (COLUMNS - 1)), round(bias / up * (ROWS - 1))
        if 0 <= column < COLUMNS and 0 <= row < ROWS:
            rows[ROWS - 1 - row][column] = mark

    for weight, bias in _dense(edge.line, up):
        put(weight, bias, "·")
    marks = [chr(ord("A") + at % 26) for at in range(len(edge.points))]
    for mark, point in zip(marks, edge.points, strict=True):
        put(point.weight, point.bias, mark)
    top, left = f"C_b {number(up, 2)}", 10
    lines = [f"{top if at == 0 else '0' if at == ROWS - 1 else '':>{left}} │{''.join(row)}"
             for at, row in enumerate(rows)]  # fmt: skip
    axis = f"{'':>{left}} └{'─' * COLUMNS}"
    end = f"C_W {number(across, 3)}"
    scale = f"{'':>{left}}  0{end:>{COLUMNS - 1}}"
    picture = "\n".join(line.rstrip() for line in (edge.legend, "", *lines, axis, scale))
    if not edge.points:
        return picture
    cells = [
        (
            mark,
            one.name,
            number(one.weight, 4),
            number(one.bias, 4),
            number(one.q),
            number(one.chi, 4),
            number(one.depth),
            one.phase,
        )
        for mark, one in zip(marks, edge.points, strict=True)
    ]
    columns = ("", "name", "C_W", "C_b", "q", "chi", "xi", "phase")
    body = table(columns, cells, right=columns[2:7], whole=columns[2:])
    return f"{picture}\n\n{render(body)}"


def _dense(
    line: tuple[tuple[float, float], ...], up: float, steps: int = 40
) -> list[tuple[float, float]]:
    """Points close together along the line, up to ``up``."""
    found = list(line[:1])
    for (before, low), (after, high) in pairwise(line):
        if low > up:
            break
        high = min(high, 2 * up)
        found += [
            (before + (after - before) * step / steps, low + (high - low) * step / steps)
            for step in range(1, steps + 1)
        ]
    return found
