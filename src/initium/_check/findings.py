"""From measurements to findings: every family in turn, and the root instead of its consequences."""

from __future__ import annotations

from dataclasses import replace

from initium._check.expectations import find_loss, find_plan
from initium._check.facts import Facts
from initium._check.gradient import find_gradient_trend, find_never_used, find_zero_gradient
from initium._check.numerics import find_nonfinite
from initium._check.signal import find_signal
from initium._check.units import find_dead, find_duplicates, find_saturated
from initium._plan import Plan
from initium._report.records import SEVERITIES, Finding
from initium._types import ModelView

__all__ = ["draw"]


def draw(facts: Facts, view: ModelView, plan: Plan | None = None) -> tuple[Finding, ...]:
    """All findings, gravest first.

    What follows from another finding is left out: everything from non-finite numbers, except an
    explosion that led to them; everything from weights that stay zero or units that stay equal;
    dead and saturated units, gradients and the first loss from a signal that vanishes or explodes.
    """
    broken = find_nonfinite(facts, view)
    planned = find_plan(facts, view, plan)
    if any(finding.severity == "error" for finding in broken):
        if broken[0].code != "IN101" and (exploded := _explosion(facts, view)):
            broken = exploded
        return _sorted([*broken, *planned])
    zero = find_zero_gradient(facts, view)
    unused = find_never_used(facts, view)
    deadlock = [f for f in zero if f.severity == "error" and f.numbers.get("all_zero")]
    if deadlock:
        return _sorted([*broken, *deadlock, *unused, *planned])
    copies = find_duplicates(facts, view)
    if any(finding.severity == "error" for finding in copies):
        return _sorted([*broken, *copies, *unused, *planned])
    signal = find_signal(facts, view)
    if signal and signal[0].code == "IN203":
        dead_first = [f for f in find_dead(facts, view) if f.severity == "error"]
        signal = dead_first or signal
    found = [*broken, *unused, *planned, *copies, *signal, *_frozen(facts)]
    if any(finding.severity != "info" for finding in signal):
        root = _as_grave(signal, find_loss(facts, view))
        rest = [f for f in found if f not in signal]
        return _sorted([*rest, *root, *(f for f in zero if f.severity == "info")])
    dead = find_dead(facts, view)
    found += [*dead, *find_saturated(facts, view), *find_loss(facts, view)]
    if not dead:
        found += zero
    return _sorted([*found, *find_gradient_trend(facts, view)])


def _as_grave(roots: list[Finding], consequences: list[Finding]) -> list[Finding]:
    """The roots, each at least as grave as what follows from it."""
    worst = min((SEVERITIES.index(f.severity) for f in consequences), default=len(SEVERITIES))
    return [
        replace(root, severity=SEVERITIES[min(SEVERITIES.index(root.severity), worst)])
        for root in roots
    ]


def _frozen(facts: Facts) -> list[Finding]:
    if not facts.parameters or any(record.trainable for record in facts.parameters.values()):
        return []
    return [
        Finding(
            code="IN305",
            severity="warning",
            title="nothing to train",
            where=tuple(facts.parameters)[:1],
            message=f"none of the {len(facts.parameters)} parameters asks for a gradient",
            fix="model.requires_grad_(True), or unfreeze what is to be trained",
        )
    ]


def _explosion(facts: Facts, view: ModelView) -> list[Finding]:
    return [finding for finding in find_signal(facts, view) if finding.code == "IN202"]


def _sorted(findings: list[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), f.code)))
