"""The deep check as a whole: what it will cost, every measurement in turn, everything put back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from initium._check.chain import chain
from initium._check.deep.depth import convergence, correlations, ranks
from initium._check.deep.entry import find_entry
from initium._check.deep.findings import judge
from initium._check.deep.jacobian import EXACT, LANCZOS, PROBES, jacobian
from initium._check.deep.passes import Subject
from initium._check.deep.samples import SAMPLES, agreement, coupled
from initium._check.deep.seeds import REDRAWS, redraw
from initium._check.deep.steps import STEPS, MakeOptimizer, take_steps
from initium._check.facts import Facts
from initium._check.parameters import named_parameters
from initium._check.thresholds import PAIRS
from initium._model.state import preserved
from initium._plan import Plan
from initium._report.deep import Deep, DeepLayer
from initium._report.records import SEVERITIES, Finding
from initium.errors import InitiumError

__all__ = ["Announce", "cost", "look_deeper"]

Announce = Callable[[str], object]
Found = TypeVar("Found")

BROKEN = frozenset({"IN101", "IN102", "IN103"})
SKIPPED = frozenset({"attn_q", "attn_k"})
"""Queries and keys: what they hold is seen through a softmax, and not passed on."""


def cost(samples: int, plan: bool, coupled: bool = False) -> int:
    """Forward and backward passes of the batch, at most.

    A backward pass counts two thirds, a forward pass one third, J v four thirds. Passes of single
    samples count as a part of the batch, and as no less than a quarter: overheads stay.
    """
    share = 1.0 if coupled else max(0.25, 1 / samples)
    jacobians = max(2 * EXACT, (2 + 4) * LANCZOS + 2 * PROBES) / 3 + 1
    single = min(SAMPLES, samples) if samples > 1 else 0
    pairs = 1 + (len(PAIRS) + 1) / 3
    return round(STEPS + pairs + share * (jacobians + single) + (REDRAWS if plan else 0))


def look_deeper(
    subject: Subject,
    facts: Facts,
    findings: tuple[Finding, ...],
    plan: Plan | None,
    optimizer: MakeOptimizer | None,
    seconds: float,
    announce: Announce | None,
    written: Iterable[str] = (),
) -> tuple[Deep, tuple[Finding, ...]]:
    """Measure everything there is to measure; the findings with what follows, gravest first.

    Args:
        subject: the model, its batch and its loss.
        facts, findings: of the default check.
        plan: is drawn again under other seeds, if there is one.
        optimizer: makes the optimizer from the model; ``None``: Adam.
        seconds: what one pass took.
        announce: is told the cost before anything starts.
        written: parameters that a forward pass writes.
    """
    if any(finding.code in BROKEN and finding.severity == "error" for finding in findings):
        return Deep(notes=("nothing was measured: numbers are not finite",)), findings
    if announce is not None:
        passes = cost(subject.samples, plan is not None, coupled(subject.model))
        announce(
            f"deep check: about {passes} more passes and {passes * seconds:.1f} s at most "
            f"(the first one took {seconds:.2f} s)"
        )
    began = time.perf_counter()
    notes: list[str] = []
    every, held = tuple(named_parameters(subject.model)), tuple(written)

    def attempt(what: str, measure: Callable[[], Found]) -> Found | None:
        try:
            return measure()
        except InitiumError:
            raise
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            notes.append(f"{what} not measured: {lines[0]}")
            return None

    names = tuple(
        record.name
        for record in chain(facts, subject.view)
        if subject.view.parameters[record.weight or ""].role not in SKIPPED
    )
    entry = find_entry(subject, facts)
    found_pairs = found_jacobian = singles = steps = seeds = None
    with preserved(subject.model, clone=held):
        rank = attempt("effective rank", lambda: ranks(subject, names)) or {}
        if entry is None:
            notes.append("correlations and Jacobian not measured: nothing differentiable enters")
        else:
            found_jacobian = attempt("Jacobian", lambda: jacobian(subject, entry))
            if subject.samples > 1:
                found_pairs = attempt("pairs", lambda: correlations(subject, entry, names))
        if facts.differentiated and (reason := _inseparable(subject, facts)) is not None:
            notes.append(f"agreement of samples not measured: {reason}")
        elif facts.differentiated:
            singles = attempt("agreement of samples", lambda: agreement(subject))
    if facts.differentiated:
        with preserved(subject.model, clone=every):
            steps = attempt("steps", lambda: take_steps(subject, optimizer))
    if plan is not None:
        with preserved(subject.model, clone=every):
            seeds = attempt("seeds", lambda: redraw(subject, plan))
    pairs = found_pairs or {}
    scale, settled = convergence(pairs)
    deep = Deep(
        layers=tuple(
            replace(rank.get(name, DeepLayer(name=name)), correlations=pairs.get(name, ()))
            for name in names
        ),
        pairs=PAIRS if pairs else (),
        depth_scale=scale,
        fixed_point=settled,
        jacobian=found_jacobian,
        steps=steps,
        agreement=singles,
        seeds=seeds,
        seconds=time.perf_counter() - began,
        notes=tuple(notes),
    )
    found = [*findings, *judge(deep, facts, subject.view)]
    return deep, tuple(sorted(found, key=lambda f: (SEVERITIES.index(f.severity), f.code)))


def _inseparable(subject: Subject, facts: Facts) -> str | None:
    """Why single samples have no gradient of their own, if so."""
    if subject.samples == 1:
        return "the batch has one sample"
    if facts.loss.source == "random cotangent":
        return "without a loss all samples get the same cotangent"
    return "batch norm couples the samples" if coupled(subject.model) else None
