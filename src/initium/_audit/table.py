"""An audit as text: the verdict, the findings, and one line for each kind of tensor."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from initium._audit.records import Audit, TensorAudit
from initium._report.records import SEVERITIES, Finding
from initium._report.words import count
from initium._tables import fold, number, render, shape_text, table, width_of

__all__ = ["audit_table"]

SHOWN = 3


def audit_table(audit: Audit, width: int | None = None) -> str:
    """The audit as plain text; names of repeated blocks are folded into one line."""
    keyed = ((name, _key(one)) for name, one in audit.tensors.items())
    rows = []
    for group in fold(keyed):
        one = audit.tensors[group.names[0]]
        stds = [audit.tensors[name].std for name in group.names]
        unwritten = f"{one.unwritten:,}" if one.unwritten else ""
        rows.append((group.pattern, shape_text(one.shape), unwritten, _range(stds), _writes(one)))
    columns = ("name", "shape", "unwritten", "std", "written by")
    body = table(columns, rows, right=("unwritten", "std"), whole=columns[1:4], width=width)
    columns_of_text = width_of(width)
    parts = [_heading(audit)]
    for finding in audit.findings:
        parts += ["", *_told(finding, columns_of_text)]
    notes = [line for note in audit.notes for line in textwrap.wrap(note, columns_of_text)]
    return render(*parts, "", body, *(["", *notes] if notes else []), width=width)


def _heading(audit: Audit) -> str:
    found = [finding.severity for finding in audit.findings]
    counts = [
        f"{found.count(severity)} info"
        if severity == "info"
        else count(found.count(severity), severity)
        for severity in SEVERITIES
        if severity in found
    ]
    said = ", ".join(counts) or "nothing found"
    return f"{audit.model}: {said}, in {count(audit.runs, 'run')} of the init code"


def _told(finding: Finding, width: int) -> Iterator[str]:
    yield f"{finding.severity} {finding.code}  {finding.title}"
    more = f" and {len(finding.where) - SHOWN:,} more" if len(finding.where) > SHOWN else ""
    for label, text in (
        ("where", ", ".join(finding.where[:SHOWN]) + more),
        ("what", finding.message),
        ("fix", finding.fix),
    ):
        if text:
            yield textwrap.fill(
                text,
                width,
                initial_indent=f"{label:>7} ",
                subsequent_indent=" " * 8,
                break_on_hyphens=False,
            )


def _key(one: TensorAudit) -> tuple[object, ...]:
    return one.shape, one.unwritten, _writes(one)


def _writes(one: TensorAudit) -> str:
    """The initialisers in order, without what only finishes the one before it."""
    by = [write.by for write in one.writes if write.kind != "change"]
    distinct = [name for index, name in enumerate(by) if index == 0 or name != by[index - 1]]
    more = f" (+{len(distinct) - SHOWN})" if len(distinct) > SHOWN else ""
    return ", ".join(distinct[:SHOWN]) + more


def _range(stds: list[float | None]) -> str:
    known = [std for std in stds if std is not None]
    if not known:
        return "-"
    low, high = number(min(known)), number(max(known))
    return low if low == high else f"{low}..{high}"
