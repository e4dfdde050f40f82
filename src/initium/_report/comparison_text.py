"""A comparison of two reports as text for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from initium._report.comparison import Change, Comparison, Side
from initium._report.records import Finding
from initium._report.terminal import terminal_width
from initium._report.words import listed, loss, number, plain, summary, verdict
from initium._tables import render, table

__all__ = ["comparison_text", "headline"]

ROWS = 20


def comparison_text(found: Comparison, width: int | None = None) -> str:
    """The verdict first, then findings, the loss, and the moments that changed most."""
    width = width or terminal_width()
    if not found:
        return render(headline(found), "no difference", width=width)
    parts: list[RenderableType] = [headline(found), Text(_facts(found), "dim")]
    if findings := list(_findings(found)):
        parts += ["", *findings]
    if said := _loss(found.loss):
        parts += ["", said]
    for title, changes, first in (
        ("layers", found.layers, "E[x²]"),
        ("parameters", found.parameters, "std"),
    ):
        if rows := _rows(changes):
            heads = ("name", first, "after", "times", "E[g²]", "after", "times")
            shown = table(heads, rows, right=heads[1:], whole=heads[1:], width=width)
            parts += ["", title, shown, *_left_out(changes, len(rows))]
    for label, names in (("only before", found.removed), ("only after", found.added)):
        if names:
            told = listed([name or "(model)" for name in names], most=5)
            parts += ["", plain(f"{label}: {told}")]
    return render(*parts, width=width)


def headline(found: Comparison) -> str:
    """Both verdicts in one line."""
    before, after = verdict(found.before), verdict(found.after)
    model = found.after.model
    if found.before.model != model:
        model = f"{found.before.model} -> {model}"
    return plain(f"{model}: {before if before == after else f'{before} -> {after}'}")


def _facts(found: Comparison) -> str:
    pairs = [
        (summary(found.before), summary(found.after)),
        (f"plan {found.before.plan or '–'}", f"plan {found.after.plan or '–'}"),
        (found.before.batch, found.after.batch),
    ]
    told = [old if old == new else f"{old} -> {new}" for old, new in pairs if old or new]
    return plain(" · ".join(told))


def _findings(found: Comparison) -> Iterator[str]:
    for label, findings in (("gone", found.gone), ("new", found.new)):
        for finding in findings:
            yield _finding(label, finding)
    for old, new in found.kept:
        changed = f" (was {old.severity})" if old.severity != new.severity else ""
        yield _finding("still", new) + changed


def _finding(label: str, finding: Finding) -> str:
    place = f" at {listed(finding.where, most=1)}" if any(finding.where[:1]) else ""
    said = f"{label:<6} {finding.severity} {finding.code}  {finding.title}{place}"
    return plain(said)


def _loss(side: Side) -> str:
    if side.before is None or side.after is None:
        return ""
    return f"first loss {loss(side.before)} -> {loss(side.after)}"


def _rows(changes: Sequence[Change]) -> list[tuple[str, ...]]:
    """Half of them those that changed most, the others spread over the model, in its order."""
    moved = [change for change in changes if change.changed]
    most = sorted(range(len(moved)), key=lambda at: -moved[at].size)[: ROWS // 2]
    spread = [at * (len(moved) - 1) // max(1, ROWS // 2 - 1) for at in range(ROWS // 2)]
    chosen = sorted({*most, *spread}) if len(moved) > ROWS else range(len(moved))
    return [
        (plain(change.name) or "(model)", *_side(change.forward), *_side(change.backward))
        for change in (moved[at] for at in chosen)
    ]


def _side(side: Side) -> tuple[str, str, str]:
    factor = number(side.factor) if side.changed else "="
    return number(side.before), number(side.after), factor


def _left_out(changes: Sequence[Change], shown: int) -> list[Text]:
    moved = sum(change.changed for change in changes)
    same = len(changes) - moved
    told = []
    if moved > shown:
        told.append(f"{moved - shown:,} more changed")
    if same:
        told.append(f"{same:,} within 5%")
    return [Text("; ".join(told), "dim")] if told else []
