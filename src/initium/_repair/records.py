"""What a repair is, as data: the plan, what it changes and why, what is left to do by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from initium._plain import plain, saved_json
from initium._plan import Plan
from initium._report.records import Finding, Report
from initium._report.words import count, listed, summary, verdict
from initium._report.words import plain as printable
from initium._tables import fold, legend, render, table

__all__ = ["OWN", "Change", "Repair"]

SHOWN = 8
"""Rows of changes that a terminal shows."""
OWN = "own, rms "
"""What the model's own code made is told by its size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One parameter that starts otherwise.

    Attributes:
        parameter: its canonical name.
        before: its spec so far; of what the model's own code made, the std in words.
        after: its new spec.
        code: the finding that asked for it.
        reason: why this spec, as a sentence.
    """

    parameter: str
    before: str
    after: str
    code: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Repair:
    """What :func:`initium.repair` found: a plan, and a real check of the model under it.

    Attributes:
        plan: what was given, or the model as its own code made it (``keep``), with the changes.
        changed: the parameters that the plan starts otherwise, in the order of the model.
        advice: findings that are left, of which each says in ``fix`` what to change by hand.
        before: the check before.
        report: the check of the model under ``plan``.
        notes: what a reader has to know besides, as sentences.
    """

    plan: Plan
    changed: tuple[Change, ...]
    advice: tuple[Finding, ...]
    before: Report
    report: Report
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the model is fit to train under the plan: no errors."""
        return self.report.ok

    @property
    def kept(self) -> int:
        """Parameters that stay as they were."""
        return self._parameters - len(self.changed)

    @property
    def _parameters(self) -> int:
        return sum(entry.role != "buffer" for entry in self.plan.entries.values())

    def to_dict(self) -> dict[str, object]:
        """Everything but the plan and the first report, as plain data."""
        return {
            "initium": "repair",
            "version": 1,
            "model": self.report.model,
            "ok": self.ok,
            "parameters": self._parameters,
            "kept": self.kept,
            "changed": plain(self.changed),
            "advice": plain(self.advice),
            "notes": list(self.notes),
            "findings": plain(self.report.findings),
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """That as JSON text; also written to ``path``, at once or not at all."""
        return saved_json(self.to_dict(), path)

    def __str__(self) -> str:
        return _text(self)


def _text(made: Repair, width: int | None = None) -> str:
    if not made.changed:
        heading = "repair: nothing that a plan can change"
        if made.before.worst() in (None, "info"):
            heading = "repair: nothing to do"
        parts: list[object] = [heading]
    else:
        parts = [
            f"repair: {len(made.changed)} of {made._parameters} parameters changed, "
            f"{made.kept} kept",
            "",
        ]
        rows, reasons, more = _rows(made.changed)
        columns = ("", "name", "before", "after", "for")
        parts.append(table(columns, rows, right=("",), whole=("", "for"), width=width))
        if more:
            parts.append(f"and {count(more, 'more parameter')}, as the plan says")
        parts += ["", legend(reasons), ""]
        parts.append(f"before: {summary(made.before)}, {verdict(made.before)}")
        parts.append(f" after: {summary(made.report)}, {verdict(made.report)}")
    if made.advice:
        parts += [
            "",
            "By hand:",
            legend((one.code, f"{one.title}{_places(one)}: {one.fix}") for one in made.advice),
        ]
    if made.notes:
        parts += ["", *made.notes]
    return printable(render(*parts, width=width))  # type: ignore[arg-type]


def _places(finding: Finding) -> str:
    """`` at a, b and 3 more``; nothing where a finding names no place."""
    names = [name or "the output" for name in finding.where]
    return f" at {listed(names)}" if names else ""


def _rows(changed: Sequence[Change]) -> tuple[list[tuple[str, ...]], list[tuple[str, str]], int]:
    """Rows of distinct changes, the reasons that they refer to by number, and how many are left."""
    held = {one.parameter: one for one in changed}
    folds = fold((one.parameter, (_kind(one), one.after, one.code, one.reason)) for one in changed)
    numbers: dict[str, int] = {}
    rows: list[tuple[str, ...]] = []
    for one in folds[:SHOWN]:
        first = held[one.names[0]]
        note = numbers.setdefault(first.reason, len(numbers) + 1)
        before = _span([held[name].before for name in one.names])
        rows.append((str(note), one.pattern, before, first.after, first.code))
    reasons = [(str(number), reason) for reason, number in numbers.items()]
    return rows, reasons, sum(len(one.names) for one in folds[SHOWN:])


def _kind(one: Change) -> str:
    return OWN if one.before.startswith(OWN) else one.before


def _span(told: Sequence[str]) -> str:
    """``own, rms 0.071..0.074`` of several."""
    if len(set(told)) == 1 or not told[0].startswith(OWN):
        return told[0]
    sizes = sorted((text.removeprefix(OWN) for text in told), key=float)
    return f"{OWN}{sizes[0]}..{sizes[-1]}"
