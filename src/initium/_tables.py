"""Tables for a terminal, and names of repeated blocks folded into one line.

Covered: plain text at a given width, without colour codes (whoever wants colour renders the Rich
objects on a console of their own). Not covered: HTML, which the report's templates write.
"""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TYPE_CHECKING, Literal

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import initium._types

__all__ = [
    "Fold",
    "braces",
    "fold",
    "legend",
    "number",
    "render",
    "shape_text",
    "table",
    "view_table",
    "width_of",
]

NARROWEST = 80
WIDEST = 180
DOTTED = "name"
"""The header of the column that holds dotted names."""
NAME = 22
"""Columns that a name gets at least."""
TEXT = 12
"""Columns that are left, if possible, to each other column that may wrap."""


def width_of(width: int | None = None) -> int:
    """``width``, or that of the terminal, between 80 and 180 columns."""
    found = width if width is not None else shutil.get_terminal_size((100, 24)).columns
    return max(NARROWEST, min(WIDEST, found))


def render(*parts: RenderableType, width: int | None = None) -> str:
    """Rich objects as plain text: no colour codes, no trailing blanks."""
    out = io.StringIO()
    console = Console(
        file=out, width=width_of(width), color_system=None, force_terminal=False, highlight=False
    )
    for part in parts:
        console.print(part, markup=False)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().split("\n"))


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Sequence[str] = (),
    whole: Sequence[str] = (),
    width: int | None = None,
) -> Table:
    """A table with one header line; ``right`` columns are numbers, ``whole`` ones never wrap.

    Names in the column ``name`` break behind their dots where ``width`` is too narrow; a part that
    is longer than a line has its middle left out.
    """
    rows = [tuple(row) for row in rows]
    if DOTTED in columns:
        at = columns.index(DOTTED)
        room = _room(columns, rows, at, whole, width_of(width))
        rows = [(*row[:at], "\n".join(_broken(row[at], room)), *row[at + 1 :]) for row in rows]
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        made.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=column in whole or column == DOTTED,
            overflow="fold",
        )
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def _room(
    columns: Sequence[str], rows: Sequence[Sequence[str]], at: int, whole: Sequence[str], width: int
) -> int:
    """What names may take: all that others leave, else what their longest part needs."""
    cells = zip(columns, *rows, strict=True)
    widest = [max(len(line) for cell in column for line in cell.split("\n")) for column in cells]
    gaps = 2 * (len(columns) - 1)
    least = [
        size if column in whole else min(size, TEXT)
        for column, size in zip(columns, widest, strict=True)
    ]
    left = width - gaps - sum(widest) + widest[at]
    most = width - gaps - sum(least) + least[at]
    part = max((len(part) for row in rows for part in _parts(row[at])), default=0)
    return max(left, min(part, most), NAME)


def _parts(name: str) -> list[str]:
    """A dotted name cut behind its dots, but for those in braces.

    Example:
        >>> _parts("h.{0..11}.ln.weight")
        ['h.', '{0..11}.', 'ln.', 'weight']
    """
    return [part for part in re.findall(r"(?:\{[^}]*\}|[^.])*(?:\.|$)", name) if part]


def _broken(name: str, room: int) -> list[str]:
    """A dotted name in lines of at most ``room`` characters, broken behind dots."""
    lines = [""]
    for part in _parts(name):
        if len(part) > room:
            part = f"{part[: room // 2]}…{part[len(part) - (room - room // 2 - 1) :]}"
        if lines[-1] and len(lines[-1]) + len(part) > room:
            lines.append("")
        lines[-1] += part
    return lines


def legend(rows: Iterable[tuple[str, str]], justify: Literal["left", "right"] = "right") -> Table:
    """Notes: a narrow column of numbers or names, and text that wraps beside it."""
    made = Table.grid(padding=(0, 2))
    made.add_column(justify=justify)
    made.add_column()
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def number(value: float | None, digits: int = 3) -> str:
    """A number to ``digits`` significant digits; a dash for ``None``.

    Example:
        >>> number(0.0204), number(1.0), number(None)
        ('0.0204', '1', '-')
    """
    return "-" if value is None else f"{value:.{digits}g}"


def shape_text(shape: Sequence[int]) -> str:
    """A shape as ``768x3072``; a scalar as ``scalar``."""
    return "x".join(str(size) for size in shape) or "scalar"


@dataclass(frozen=True, slots=True)
class Fold:
    """Names that differ in their numbers only, as one pattern such as ``h.{0..11}.ln_1.weight``."""

    pattern: str
    names: tuple[str, ...]
    template: tuple[str | None, ...]
    values: tuple[tuple[int, ...], ...]


def fold(items: Iterable[tuple[str, Hashable]]) -> list[Fold]:
    """Fold dotted names that differ only in numeric parts and have equal keys, in order.

    A pattern stands for exactly its names: where the numbers do not fill their whole grid, only the
    last of them is folded.

    Example:
        >>> [f.pattern for f in fold([("h.0.w", 1), ("h.0.b", 2), ("h.1.w", 1), ("h.1.b", 2)])]
        ['h.{0..1}.w', 'h.{0..1}.b']
    """
    groups: dict[Hashable, list[tuple[str, tuple[int, ...]]]] = {}
    for name, key in items:
        template, values = _split(name)
        groups.setdefault((template, key), []).append((name, values))
    folds: list[Fold] = []
    for group, members in groups.items():
        template = group[0]  # type: ignore[index]
        folds.extend(_grids(template, members))
    return folds


def _split(name: str) -> tuple[tuple[str | None, ...], tuple[int, ...]]:
    parts = name.split(".")
    numeric = [part.isascii() and part.isdigit() and str(int(part)) == part for part in parts]
    template = tuple(None if is_n else part for part, is_n in zip(parts, numeric, strict=True))
    return template, tuple(int(part) for part, is_n in zip(parts, numeric, strict=True) if is_n)


def _grids(
    template: tuple[str | None, ...], members: list[tuple[str, tuple[int, ...]]]
) -> list[Fold]:
    values = tuple(
        tuple(sorted(set(column))) for column in zip(*(v for _, v in members), strict=True)
    )
    if len(members) == 1 or sorted(v for _, v in members) == sorted(product(*values)):
        return [_one(template, tuple(name for name, _ in members), values)]
    rows: dict[tuple[int, ...], list[tuple[str, tuple[int, ...]]]] = {}
    for name, found in members:
        rows.setdefault(found[:-1], []).append((name, found))
    return [fold_ for row in rows.values() for fold_ in _grids(template, row)]


def _one(
    template: tuple[str | None, ...], names: tuple[str, ...], values: tuple[tuple[int, ...], ...]
) -> Fold:
    remaining = iter(values)
    parts = [part if part is not None else braces(next(remaining)) for part in template]
    return Fold(".".join(parts), names, template, values)


def braces(values: tuple[int, ...]) -> str:
    """Numbers in the notation of a shell: ``{0..5}``, ``{0..10..2}``, ``{0,3}``."""
    if len(values) == 1:
        return str(values[0])
    runs: list[str] = []
    start = 0
    while start < len(values):
        stop = start + 1
        while stop < len(values) and values[stop] - values[stop - 1] == 1:
            stop += 1
        first, last = values[start], values[stop - 1]
        runs.append(f"{first}" if stop - start == 1 else f"{first}..{last}")
        start = stop
    steps = {after - before for before, after in pairwise(values)}
    if len(steps) == 1 and len(values) > 2 and steps != {1}:
        return f"{{{values[0]}..{values[-1]}..{steps.pop()}}}"
    return f"{{{','.join(runs)}}}"


def view_table(view: initium._types.ModelView, width: int | None = None) -> str:
    """A model view as a table: one line per distinct parameter, repeated blocks folded."""
    views = {parameter.name: parameter for parameter in view.owners}
    keyed = (
        (name, (one.shape, one.role, one.fan_in, one.fan_out, one.activation, one.writes_residual))
        for name, one in views.items()
    )
    rows = []
    for group in fold(keyed):
        one = views[group.names[0]]
        fans = f"{one.fan_in} -> {one.fan_out}" if one.fan_in is not None else ""
        then = one.activation or (f"residual, 1 of {one.branches}" if one.writes_residual else "")
        evidence = one.evidence.get("role")
        rows.append(
            (
                group.pattern,
                shape_text(one.shape),
                one.role,
                fans,
                then,
                evidence.rung if evidence else "",
            )
        )
    elements = sum(one.numel for one in views.values())
    whole_or_parts = "seen in parts" if view.problem else "seen in a trace"
    seen = whole_or_parts if view.traced else "from its structure alone"
    heading = f"{view.model}: {len(views)} parameters, {elements:,} elements, {seen}"
    notes = [*view.notes]
    notes += [
        f"{one.name} is tied to {one.tied_to}; its own role is {one.role}"
        for one in view.parameters.values()
        if one.tied_to
    ]
    whole = ("shape", "role", "fans", "known")
    body = table(("name", "shape", "role", "fans", "then", "known"), rows, whole=whole, width=width)
    return render(heading, "", body, *(["", *notes] if notes else []), width=width)
