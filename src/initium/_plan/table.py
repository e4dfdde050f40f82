"""A plan as a table for a terminal: one line per distinct entry, repeated blocks folded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from rich.console import RenderableType

from initium._plan.plan import Entry, Plan
from initium._tables import fold, legend, number, render, shape_text, table, width_of
from initium.spec import Blocks, Part, Spec, Value

__all__ = ["plan_table", "rate_text", "spec_lines", "spec_text"]

ROOM_FOR_REASONS = 130
ROOM_FOR_SPECS = 24


def plan_table(plan: Plan, width: int | None = None) -> str:
    """The plan at ``width`` columns; below 130, the reasons stand as numbered notes beneath."""
    wide = width_of(width) >= ROOM_FOR_REASONS
    digits = 4 if wide else 3
    notes: dict[str, int] = {}
    rows = []
    for group in fold((name, _key(entry)) for name, entry in plan.entries.items()):
        entry = plan.entries[group.names[0]]
        note = notes.setdefault(entry.reason, len(notes) + 1)
        rows.append(
            (
                group.pattern,
                shape_text(entry.shape),
                entry.role,
                "\n".join(spec_lines(entry.spec, digits))
                + (f"  {rate_text(entry.lr)}" if entry.lr != 1 else ""),
                number(entry.std),
                entry.reason if wide else str(note),
            )
        )
    right = ("std",) if wide else ("std", "why")
    longest = max((len(line) for row in rows for line in row[3].split("\n")), default=0)
    short = longest <= ROOM_FOR_SPECS
    whole = ("shape", "role", "std", *(("spec",) if short else ()))
    columns = ("name", "shape", "role", "spec", "std", "why")
    body = table(columns, rows, right=right, whole=whole, width=width)
    parts: list[RenderableType] = [_heading(plan), "", body]
    if not wide:
        parts += ["", legend((str(index), reason) for reason, index in notes.items())]
    ties = [
        f"{', '.join(aliases)} {'is' if len(aliases) == 1 else 'are'} tied to {owner}"
        for owner, aliases in plan.ties.items()
    ]
    if ties:
        parts += ["", *ties]
    if plan.notes:
        parts += ["", *(f"Note: {note}" for note in plan.notes)]
    if plan.needs:
        parts += ["", "Outside the weights this recipe needs:"]
        parts.append(legend((("-", str(need)) for need in plan.needs), justify="left"))
    return render(*parts, width=width)


def spec_text(spec: Spec, digits: int = 4) -> str:
    """A spec for people: few digits, blocks with their places, no stored data.

    Example:
        >>> from initium.spec import Normal
        >>> spec_text(Normal(0.0255155181539914))
        'normal(0.02552)'
    """
    return ", ".join(spec_lines(spec, digits))


def spec_lines(spec: Spec, digits: int = 4) -> list[str]:
    """The same, with a line for each run of equal blocks and its place as an index.

    Example:
        >>> from initium.spec import Blocks, Constant, Normal, Part
        >>> halves = (Part(0, 0, 8, Normal(0.1)), Part(0, 8, 8, Constant(0.0)))
        >>> spec_lines(Blocks(halves))
        ['[0:8] normal(0.1)', '[8:16] constant(0)']
    """
    if isinstance(spec, Value):
        return [f"value({shape_text(spec.shape)})"]
    if not isinstance(spec, Blocks):
        short = re.sub(
            r"\d+\.\d+(e[+-]?\d+)?", lambda found: f"{float(found[0]):.{digits}g}", str(spec)
        )
        return [short]
    parts = sorted(spec.parts, key=lambda part: part.start)
    told = [(spec_text(part.spec, digits), part) for part in parts]
    runs = [[part for _, part in run] for _, run in groupby(told, key=lambda pair: pair[0])]
    lines = []
    for run in runs:
        text = spec_text(run[0].spec, digits)
        count = sum(part.count if part.stacked else 1 for part in run)
        several = f"{count} x {text}" if count > 1 else text
        lines.append(several if len(runs) == 1 else f"{_place(run)} {several}")
    return lines


def _place(run: Sequence[Part]) -> str:
    """Where a run of blocks lies, as an index: ``[0:8]``, ``[:, 8:16]``, ``[0:4, 12:16, ...]``."""
    first, last = run[0], run[-1]
    if first.count > 1:
        again = first.start + first.stride
        slices = f"{first.start}:{first.start + first.size}, {again}:{again + first.size}, ..."
    else:
        slices = f"{first.start}:{last.start + last.size}"
    return f"[{':, ' * first.axis}{slices}]"


def rate_text(rate: float) -> str:
    """The multiplier of a learning rate, as tables tell it."""
    return f"lr x{number(rate)}"


def _key(entry: Entry) -> tuple[object, ...]:
    return entry.spec, entry.shape, entry.role, entry.reason, entry.lr


def _heading(plan: Plan) -> str:
    kept = sum(entry.kept for entry in plan.entries.values())
    told = f"{plan.model or 'model'}: recipe {plan.recipe}, seed {plan.seed}"
    told += f", {len(plan.entries)} tensors"
    return f"{told}, {kept} of them kept as they are" if kept else told
