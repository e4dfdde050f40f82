"""A plan as a table for a terminal: one line per distinct entry, repeated blocks folded."""

from __future__ import annotations

import re
from itertools import groupby

from rich.console import RenderableType

from initium._plan.plan import Entry, Plan
from initium._tables import fold, legend, number, render, shape_text, table, width_of
from initium.spec import Blocks, Spec, Value

__all__ = ["plan_table", "spec_text"]

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
                spec_text(entry.spec, digits)
                + (f"  lr x{number(entry.lr)}" if entry.lr != 1 else ""),
                number(entry.std),
                entry.reason if wide else str(note),
            )
        )
    right = ("std",) if wide else ("std", "why")
    short = max((len(row[3]) for row in rows), default=0) <= ROOM_FOR_SPECS
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
    if plan.needs:
        parts += ["", "Outside the weights this recipe needs:"]
        parts.append(legend((("-", str(need)) for need in plan.needs), justify="left"))
    return render(*parts, width=width)


def spec_text(spec: Spec, digits: int = 4) -> str:
    """A spec for people: few digits, blocks as ``2 x normal(0.2) + constant(0)``, no stored data.

    Example:
        >>> from initium.spec import Normal
        >>> spec_text(Normal(0.0255155181539914))
        'normal(0.02552)'
    """
    if isinstance(spec, Value):
        return f"value({shape_text(spec.shape)})"
    if isinstance(spec, Blocks):
        runs = [(text, len(list(same))) for text, same in groupby(_parts(spec, digits))]
        return " + ".join(f"{count} x {text}" if count > 1 else text for text, count in runs)
    return re.sub(r"\d+\.\d+(e[+-]?\d+)?", lambda found: f"{float(found[0]):.{digits}g}", str(spec))


def _parts(spec: Blocks, digits: int) -> list[str]:
    return [
        spec_text(part.spec, digits) for part in sorted(spec.parts, key=lambda part: part.start)
    ]


def _key(entry: Entry) -> tuple[object, ...]:
    return entry.spec, entry.shape, entry.role, entry.reason, entry.lr


def _heading(plan: Plan) -> str:
    kept = sum(entry.kept for entry in plan.entries.values())
    told = f"{plan.model or 'model'}: recipe {plan.recipe}, seed {plan.seed}"
    told += f", {len(plan.entries)} tensors"
    return f"{told}, {kept} of them kept as they are" if kept else told
