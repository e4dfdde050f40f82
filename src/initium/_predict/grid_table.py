"""A grid of sizes as text: a line per size, what breaks where, the exponents."""

from __future__ import annotations

import math

from rich.console import RenderableType

from initium._predict.grid import Exponent, Grid, GridPoint
from initium._tables import legend, number, render, table

__all__ = ["grid_table"]

NAMES = {
    "output": "E[x^2] of the output",
    "last_block": "E[x^2] of the last block",
    "gradient_ratio": "gradient, first / last",
}


def grid_table(grid: Grid, width: int | None = None) -> str:
    """The table, the sizes at which a start breaks, and the exponents."""
    sizes = [
        name
        for name in ("width", "depth")
        if any(getattr(point, name) is not None for point in grid.points)
    ]
    columns = (*sizes, "output", "within", "q", "chi", "gradient", "1-c", "xi", "first loss")
    rows = [
        (*(str(getattr(point, name)) for name in sizes), *_cells(point)) for point in grid.points
    ]
    count = len(grid.points)
    sized = f"{count} size{'' if count == 1 else 's'}"
    blocks = f"{grid.series} to {grid.series}" if grid.series else "block to block"
    parts: list[RenderableType] = [
        f"{grid.model} under {grid.plan}: {sized}, {_by(grid.draws)}",
        "",
        table(columns, rows, right=columns, whole=columns, width=width),
        "",
        legend(
            (
                ("output", "E[x^2] behind the last module; 95% of starts within this factor"),
                ("q", f"factor of E[x^2] from {blocks}, fitted"),
                ("chi", "factor of the gradient's sum of squares per block, on its way back"),
                ("gradient", "its sum of squares at the first block over that at the last"),
                ("1-c", "factor per block of the distance between inputs; xi = -1 / ln of it"),
            )
        ),
        "",
    ]
    for point in grid.points:
        said = [point.problem] if point.problem else point.breaks
        parts += [f"{_size(point, sizes)}: {line}" for line in said]
    if grid.exponents:
        parts += [*([""] if parts[-1] else []), _exponents(grid.exponents, width)]
    return render(*parts, width=width)


def _by(draws: int) -> str:
    return f"{draws} draws each" if draws else "closed forms alone"


def _cells(point: GridPoint) -> tuple[str, ...]:
    band = point.output_band
    within = math.sqrt(band.high / band.low) if band and band.low > 0 else None
    return (
        number(point.output),
        number(within, 2),
        number(point.growth),
        number(point.chi),
        number(point.gradient_ratio),
        number(point.closer),
        number(point.correlation_depth),
        number(point.loss, 4),
    )


def _size(point: GridPoint, sizes: list[str]) -> str:
    return ", ".join(f"{name} {getattr(point, name)}" for name in sizes)


def _exponents(exponents: tuple[Exponent, ...], width: int | None) -> RenderableType:
    rows = []
    for one in exponents:
        other = "depth" if one.along == "width" else "width"
        fixed = f"{other} {one.at}" if one.at is not None else ""
        within = "-"
        if one.low is not None and one.high is not None:
            within = f"{one.low:+.2f} .. {one.high:+.2f}"
        rows.append((NAMES[one.of], one.along, fixed, f"{one.value:+.2f}", within))
    columns = ("goes as", "a power of", "at", "exponent", "95%")
    return table(columns, rows, right=("exponent", "95%"), whole=columns[1:], width=width)
