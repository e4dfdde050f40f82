"""Findings on depth: a residual stream that multiplies (IN206), tokens that become alike (IN207),
and norms that work on next to nothing (IN208)."""

from __future__ import annotations

import math

from initium._check.chain import listed
from initium._check.facts import Facts
from initium._check.thresholds import (
    COLLAPSE_APART,
    COLLAPSE_ERROR,
    COLLAPSE_START,
    COLLAPSE_WARNING,
    GROWTH_ERROR,
    RUN,
    STARVED,
    STARVED_TABLE,
    STREAM_HALF,
)
from initium._check.trend import fit
from initium._report.records import BranchRecord, Finding, LayerRecord
from initium._types import ModelView, Severity

__all__ = ["find_collapse", "find_starved_norms", "find_stream_growth"]


def find_stream_growth(facts: Facts, view: ModelView) -> list[Finding]:
    """Streams that grow geometrically: over the second half of their branches far more than the
    factor two of a sum of equal ones."""
    streams: dict[int, list[BranchRecord]] = {}
    for branch in facts.branches:
        streams.setdefault(branch.stream, []).append(branch)
    found = []
    for branches in streams.values():
        if len(branches) <= RUN or not branches[0].before:
            continue
        half = branches[len(branches) // 2 :]
        growth = _ratio(half[-1].after, half[0].before)
        trend = fit([branches[0].before, *(branch.after for branch in branches)])
        if growth < STREAM_HALF or trend.low <= 1.0:
            continue
        total = _ratio(branches[-1].after, branches[0].before)
        writers = list(dict.fromkeys(branch.weight for branch in branches))
        factor = 1 / math.sqrt(len(branches))
        found.append(
            Finding(
                code="IN206",
                severity="error" if total > GROWTH_ERROR else "warning",
                title="the residual stream multiplies",
                where=tuple(writers),
                message=f"{len(branches)} branches take the stream's second moment from "
                f"{branches[0].before:.2g} to {branches[-1].after:.2g}: {trend.factor:.2g} per "
                f"branch (95% interval {trend.low:.2g} to {trend.high:.2g}), where equal branches "
                f"add. Over the second half it grows {growth:.2g}-fold instead of twofold. The "
                f"branches end in {listed(writers)}",
                fix=f"multiply the std of these {len(writers)} matrices by 1/sqrt(branches) = "
                f'{factor:.3g}, as initium.initialize(model, "auto") does, or normalise the input '
                "of each branch",
                numbers={
                    "branches": len(branches),
                    "factor": trend.factor,
                    "low": trend.low,
                    "high": trend.high,
                    "second_half": growth,
                    "total": total,
                },
            )
        )
    return found


def _ratio(after: float, before: float) -> float:
    return after / before if before and after - after == 0.0 else math.inf


def find_collapse(facts: Facts, view: ModelView) -> list[Finding]:
    """Tokens of one sample that end up parallel although they started apart.

    Not where samples have become as much alike: then a constant that is added to all of them, such
    as a bias, is larger than the signal, and no attention has averaged them. And not where tokens
    are apart behind the last block: equal tokens stay equal under every map of single tokens and
    under attention, so what was alike there was a branch, and the stream beside it was not.
    """
    ordered = sorted(facts.layers.values(), key=lambda record: record.order)
    seen = [record for record in ordered if record.token_cosine is not None]
    blocks = _blocks(seen, facts)
    if not blocks or _is_apart_behind(blocks[-1], seen):
        return []
    start = 1.0 - (seen[0].token_cosine or 0.0)
    left = [(record, 1.0 - (record.token_cosine or 0.0)) for record in blocks]
    end = left[-1][1]
    if start < COLLAPSE_START or end > COLLAPSE_WARNING or _is_shifted(blocks[-1], end):
        return []
    first = next((i for i, (_, value) in enumerate(left) if value < start / 10), len(left) - 1)
    names = [record.name for record, _ in left[first:]]
    severity: Severity = "error" if end < COLLAPSE_ERROR else "warning"
    trend = fit([max(value, 1e-16) for _, value in left])
    return [
        Finding(
            code="IN207",
            severity=severity,
            title="tokens become alike",
            where=tuple(names),
            message=f"the mean cosine between two tokens of a sample rises from {1 - start:.3g} to "
            f"{1 - end:.6g} at {blocks[-1].name}: attention averages tokens, and nothing keeps "
            f"them apart (1 - cosine: {trend})",
            fix="keep the tokens' own part: a shortcut around every attention, normalised inputs "
            "of the branches (pre-norm), and branches scaled by 1/sqrt(branches)",
            numbers={"start": 1 - start, "end": 1 - end, "blocks": len(blocks)},
        )
    ]


def _is_apart_behind(last: LayerRecord, seen: list[LayerRecord]) -> bool:
    return any(
        1.0 - (record.token_cosine or 0.0) > COLLAPSE_WARNING
        for record in seen
        if record.order > last.order and record.shape == last.shape and record.weight is None
    )


def _is_shifted(record: LayerRecord, end: float) -> bool:
    if record.signal is None:
        return False
    return record.signal < COLLAPSE_APART * end * record.second_moment


def _blocks(seen: list[LayerRecord], facts: Facts) -> list[LayerRecord]:
    """The outermost repeated modules around an attention, one behind the other.

    Not branches: what they return is added to the stream outside them, and may well be alike.
    """
    around = [
        record
        for record in seen
        if record.name.rpartition(".")[2].isdigit()
        and any(f"{place.name}.".startswith(record.name + ".") for place in facts.attention)
        and not facts.of(record.name).branch
    ]
    names = {record.name for record in around}
    return [
        record
        for record in around
        if not any(record.name.startswith(name + ".") for name in names if name != record.name)
    ]


def find_starved_norms(facts: Facts, view: ModelView) -> list[Finding]:
    """Norms whose input is far smaller than the epsilon under their root: they do not normalise.

    x / sqrt(q + eps) has second moment q / (q + eps), with q at most the input's second moment.
    Information behind an embedding: a tiny table before a norm is a known start (RWKV), which the
    first steps leave at once.
    """
    starved = [
        (record, epsilon)
        for record in facts.layers.values()
        if (epsilon := facts.of(record.name).epsilon) is not None
        and 0.0 < (record.input_second_moment or 0.0) < STARVED * epsilon
    ]
    if not starved:
        return []
    starved.sort(key=lambda item: item[0].order)
    root, epsilon = starved[0]
    names = [record.name for record, _ in starved]
    second = root.input_second_moment or 0.0
    tables = _tables_before(root, facts, view)
    sources = tables or _matrix_before(root, STARVED * epsilon, facts)
    return [
        Finding(
            code="IN208",
            severity="info" if tables and second > STARVED_TABLE else "warning",
            title="a norm works on next to nothing",
            where=(*sources, *names),
            message=f"the input of {root.name} has second moment {second:.2g}, far below the "
            f"epsilon {epsilon:.2g} that the norm adds to it: its output has "
            f"{second / (second + epsilon):.2g} instead of 1, and the gradient is multiplied by up "
            f"to {1 / math.sqrt(epsilon):.2g} ({len(names)} norm(s) in all)",
            fix=f"larger values in {listed(sources)}, or a smaller eps"
            if sources
            else "larger weights before it, or a smaller eps",
            numbers={"second_moment": second, "epsilon": epsilon, "norms": len(names)},
        )
    ]


def _tables_before(norm: LayerRecord, facts: Facts, view: ModelView) -> list[str]:
    """The tables whose rows, and nothing else, make up what a norm reads; largest first."""
    before = [r for r in facts.layers.values() if r.order < norm.order and r.weight is not None]
    roles = {view.parameters[record.weight or ""].role for record in before}
    held = [
        record
        for record in facts.parameters.values()
        if record.role in ("embedding", "position", "token") and record.second_moment > 0.0
    ]
    held.sort(key=lambda record: (record.role != "embedding", -record.second_moment))
    return [record.name for record in held] if held and not roles else []


def _matrix_before(norm: LayerRecord, enough: float, facts: Facts) -> list[str]:
    """The matrix that makes what a norm reads too small: what it reads itself is large enough."""
    seen: set[str] = set()
    record: LayerRecord | None = norm
    while record is not None and record.name not in seen:
        seen.add(record.name)
        small = (record.input_second_moment or 0.0) < enough
        if record.weight is not None and not small:
            return [record.weight]
        record = facts.layers.get(facts.of(record.name).producer or "") if small else None
    return []
