"""What changed between two reports: verdict, findings, first loss, moments side by side.

Findings are the same where they have the same code and share a place. Layers and parameters are
compared by name; those that only one report has are listed apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from initium._plain import as_json
from initium._report.reading import load_report
from initium._report.records import Finding, Report

__all__ = ["Comparison", "Side", "compare_reports"]

NOTED = 1.05
"""A factor from which a moment counts as changed."""


@dataclass(frozen=True, slots=True)
class Side:
    """One number of one place in both reports; ``None`` where a report does not have it."""

    before: float | None
    after: float | None

    @property
    def factor(self) -> float | None:
        """after / before; ``None`` where that says nothing."""
        both = self.before is not None and self.after is not None
        if not both or not self.before or not math.isfinite(self.before + (self.after or 0.0)):
            return None
        return (self.after or 0.0) / self.before

    @property
    def changed(self) -> bool:
        """Whether the two differ by more than 5%."""
        if self.factor is None:
            return _kind(self.before) != _kind(self.after)
        return not 1 / NOTED <= self.factor <= NOTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One layer or parameter: ``forward`` E[x^2] or std, ``backward`` E[g^2]."""

    name: str
    forward: Side
    backward: Side

    @property
    def changed(self) -> bool:
        """Whether either differs by more than 5%."""
        return self.forward.changed or self.backward.changed

    @property
    def size(self) -> float:
        """How far it moved, in powers of ten, for sorting; infinite where a value came or went."""
        return max(_moved(self.forward), _moved(self.backward))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two reports side by side. ``print(comparison)`` shows it; false where nothing changed.

    Attributes:
        before, after: the reports.
        gone, new: findings that only the one or the other has.
        kept: findings that both have, as (before, after).
        layers, parameters: those that both have, in the order of ``after``.
        removed, added: names of layers and parameters that only the one or the other has.
    """

    before: Report
    after: Report
    gone: tuple[Finding, ...]
    new: tuple[Finding, ...]
    kept: tuple[tuple[Finding, Finding], ...]
    layers: tuple[Change, ...]
    parameters: tuple[Change, ...]
    removed: tuple[str, ...]
    added: tuple[str, ...]

    def __bool__(self) -> bool:
        moved = any(change.changed for change in (*self.layers, *self.parameters))
        graver = any(old.severity != new.severity for old, new in self.kept)
        lists = (self.gone, self.new, self.removed, self.added)
        return moved or graver or any(lists) or self.loss.changed

    @property
    def loss(self) -> Side:
        """The first losses."""
        return Side(self.before.loss.value, self.after.loss.value)

    def to_json(self) -> str:
        """What changed, as JSON text; the reports themselves are left out."""
        data = {
            "initium": "comparison",
            "schema": 1,
            "before": {"model": self.before.model, "plan": self.before.plan, "ok": self.before.ok},
            "after": {"model": self.after.model, "plan": self.after.plan, "ok": self.after.ok},
            "loss": self.loss,
            "gone": self.gone,
            "new": self.new,
            "kept": self.kept,
            "layers": [change for change in self.layers if change.changed],
            "parameters": [change for change in self.parameters if change.changed],
            "removed": self.removed,
            "added": self.added,
        }
        return as_json(data)

    def to_html(self, path: str | Path) -> Path:
        """Write the comparison as one HTML file that needs no network; returns its path."""
        from initium._files import write_text
        from initium._report.comparison_page import render_comparison

        return write_text(path, render_comparison(self))

    def __str__(self) -> str:
        from initium._report.comparison_text import comparison_text

        return comparison_text(self)

    def _repr_html_(self) -> str:
        from initium._report.comparison_page import render_comparison
        from initium._report.html import framed

        return framed("initium comparison", render_comparison(self))


def compare_reports(before: Report | str | Path, after: Report | str | Path) -> Comparison:
    """What changed from one check to another.

    Args:
        before, after: reports, or paths of files that ``Report.to_json`` wrote.

    Raises:
        InputError: a file is missing, is no report, or is of another version.

    Example:
        >>> import initium, torch
        >>> net, batch = torch.nn.Linear(8, 8), torch.randn(16, 8)
        >>> before = initium.check(net, batch)
        >>> _ = net.weight.data.mul_(2)
        >>> found = compare_reports(before, initium.check(net, batch))
        >>> [(one.name, round(one.forward.factor, 3)) for one in found.parameters if one.changed]
        [('weight', 2.0)]
    """
    before, after = (
        report if isinstance(report, Report) else load_report(report) for report in (before, after)
    )
    gone, new, kept = _matched(before.findings, after.findings)
    layers = sorted(after.layers.values(), key=lambda layer: layer.order)
    names = [[*report.layers, *report.parameters] for report in (before, after)]
    return Comparison(
        before=before,
        after=after,
        gone=gone,
        new=new,
        kept=kept,
        layers=tuple(
            Change(
                name=new.name,
                forward=Side(old.second_moment, new.second_moment),
                backward=Side(old.grad_second_moment, new.grad_second_moment),
            )
            for new in layers
            if (old := before.layers.get(new.name)) is not None
        ),
        parameters=tuple(
            Change(
                name=new.name,
                forward=Side(held.std, new.std),
                backward=Side(held.grad_second_moment, new.grad_second_moment),
            )
            for new in after.parameters.values()
            if (held := before.parameters.get(new.name)) is not None
        ),
        removed=_without(names[0], names[1]),
        added=_without(names[1], names[0]),
    )


Matched = tuple[tuple[Finding, ...], tuple[Finding, ...], tuple[tuple[Finding, Finding], ...]]


def _matched(before: Sequence[Finding], after: Sequence[Finding]) -> Matched:
    """Gone, new, and pairs; a finding is paired with the one it shares most places with."""
    left = list(after)
    gone, kept = [], []
    for old in before:
        alike = [new for new in left if new.code == old.code and _near(old, new)]
        if not alike:
            gone.append(old)
            continue
        best = max(alike, key=lambda new: len({*old.where} & {*new.where}))
        left = [new for new in left if new is not best]
        kept.append((old, best))
    return tuple(gone), tuple(left), tuple(kept)


def _near(old: Finding, new: Finding) -> bool:
    return not {*old.where}.isdisjoint(new.where) or not (old.where or new.where)


def _without(names: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    held = set(others)
    return tuple(name for name in dict.fromkeys(names) if name not in held)


def _kind(value: float | None) -> str:
    """What a file tells apart, which has ``null`` for all that is not finite."""
    if value is None or not math.isfinite(value):
        return "none"
    return "number" if value else "zero"


def _moved(side: Side) -> float:
    if side.factor is None or side.factor <= 0:
        return math.inf if side.changed else 0.0
    return abs(math.log10(side.factor))
