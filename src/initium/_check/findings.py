"""From measurements to findings: every family in turn, and the root instead of its consequences."""

from __future__ import annotations

from dataclasses import replace

from initium._check.batch import find_batch, find_raw_inputs
from initium._check.departures import find_departures
from initium._check.expectations import find_loss
from initium._check.facts import Facts
from initium._check.focus import find_peaked, find_uniform
from initium._check.gradient import find_gradient_trend, find_never_used, find_zero_gradient
from initium._check.numerics import find_nonfinite, find_out_of_range
from initium._check.peers import (
    find_hidden_scale,
    find_mean_shift,
    find_norm_scales,
    find_outliers,
)
from initium._check.planned import find_plan
from initium._check.scales import find_scales
from initium._check.signal import find_signal
from initium._check.stream import find_collapse, find_starved_norms, find_stream_growth
from initium._check.units import find_dead, find_duplicates, find_saturated
from initium._check.values import judged, roots_of_zeros
from initium._plan import Plan
from initium._predict.records import Prediction
from initium._report.records import SEVERITIES, Finding
from initium._types import ModelView

__all__ = ["draw"]


def draw(
    facts: Facts,
    view: ModelView,
    plan: Plan | None = None,
    prediction: Prediction | None = None,
) -> tuple[Finding, ...]:
    """All findings, gravest first; what departs from a prediction is added to the rest."""
    found = _draw(facts, view, plan)
    if prediction is None or any(finding.code.startswith("IN1") for finding in found):
        return found
    return _sorted([*found, *find_departures(facts.layers, facts.parameters, prediction)])


def _draw(facts: Facts, view: ModelView, plan: Plan | None) -> tuple[Finding, ...]:
    """All findings of the measurement itself.

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
    values = judged(facts, view)
    deadlock = [f for f in zero if f.severity == "error" and f.numbers.get("all_zero")]
    if deadlock:
        return _sorted([*broken, *roots_of_zeros(deadlock, values), *unused, *planned])
    copies = find_duplicates(facts, view)
    stuck = {name for finding in copies for name in finding.where}
    copies += [f for f in values if f.code == "IN403" and not set(f.where) <= stuck]
    values = [finding for finding in values if finding.code != "IN403"]
    if any(finding.severity == "error" for finding in copies):
        return _sorted([*broken, *copies, *values, *unused, *planned])
    signal = find_signal(facts, view)
    if signal and signal[0].code == "IN203":
        silent = [*find_saturated(facts, view), *find_dead(facts, view)]
        grave = [finding for finding in silent if finding.severity == "error"]
        signal = [f for f in grave if _reached(f, facts) <= _reached(signal[0], facts)][
            :1
        ] or signal
    roots = _roots(signal, facts, view)
    shifted = {name for f in roots if f.code == "IN205" for name in f.where}
    values = [f for f in values if f.code != "IN205" or not set(f.where) <= shifted]
    found = [*broken, *values, *unused, *planned, *copies, *_frozen(facts)]
    found += find_batch(facts, view)
    outside = find_out_of_range(facts, view)
    if any(finding.code == "IN104" for finding in zero):
        outside = [finding for finding in outside if finding.severity == "info"]
    if any(finding.severity != "info" for finding in roots):
        felt = (find_loss, find_peaked, find_saturated, find_dead)
        roots = _as_grave(roots, [*signal, *(f for find in felt for f in find(facts, view))])
        notes = [f for f in zero if f.severity == "info" or f.numbers.get("gates")]
        return _sorted([*found, *roots, *notes])
    found += outside
    dead = find_dead(facts, view)
    collapsed = find_collapse(facts, view)
    found += collapsed or find_uniform(facts, view)
    for find in (find_saturated, find_peaked, find_loss, _hidden):
        found += find(facts, view)
    return _sorted(
        [*found, *roots, *dead, *([] if dead else zero), *find_gradient_trend(facts, view)]
    )


def _reached(finding: Finding, facts: Facts) -> int:
    """When the first of the modules that a finding names was done."""
    orders = [facts.layers[name].order for name in finding.where if name in facts.layers]
    return min(orders, default=0)


def _roots(signal: list[Finding], facts: Facts, view: ModelView) -> list[Finding]:
    """Where a signal that vanishes or explodes comes from: the inputs, the scale of a norm, a norm
    without an input, one layer, the sums of a residual stream; otherwise the run of layers itself.

    One layer explains a value out of all bounds, and not a run of many that each lose or gain.
    """
    raw = find_raw_inputs(facts, view)
    scales = find_norm_scales(facts, view)
    if scales:
        return [*raw, *scales]
    starved = find_starved_norms(facts, view)
    explains = any(finding.severity != "info" for finding in starved)
    killed = any(finding.severity == "error" for finding in find_dead(facts, view))
    shifted = find_mean_shift(facts, view) if not (explains or killed) else []
    outliers = _outliers(facts, view) if not (explains or shifted) else []
    streams = find_stream_growth(facts, view) if not (starved or outliers) else []
    run = any("factor" in finding.numbers for finding in signal)
    exploding = any(finding.code == "IN202" for finding in signal)
    explained = (
        bool(shifted) or (bool(outliers or raw) and not run) or (bool(streams) and exploding)
    )
    return [*raw, *starved, *shifted, *outliers, *streams, *([] if explained else signal)]


def _outliers(facts: Facts, view: ModelView) -> list[Finding]:
    """Matrices far from their like, and those of a scale that no scheme has."""
    apart = find_outliers(facts, view)
    named = {name for finding in apart for name in finding.where}
    scales = [finding for finding in find_scales(facts, view) if finding.code == "IN204"]
    return [*apart, *(finding for finding in scales if not set(finding.where) <= named)]


def _hidden(facts: Facts, view: ModelView) -> list[Finding]:
    """Scales that a norm hides: of single matrices, else of all that stand beside one."""
    single = [finding for finding in find_scales(facts, view) if finding.code == "IN209"]
    return single or find_hidden_scale(facts, view)


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


SAID = {"IN733": frozenset({"IN205", "IN401"})}
"""Findings that say the same again of parameters that another finding has named."""


def _sorted(findings: list[Finding]) -> tuple[Finding, ...]:
    """Gravest first, without what another one says already."""
    for code, others in SAID.items():
        named = {name for f in findings if f.code in others for name in f.where}
        findings = [f for f in findings if f.code != code or not set(f.where) <= named]
    return tuple(sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), f.code)))
