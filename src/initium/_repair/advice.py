"""What is left to do by hand, where no plan helps: the frozen weight, the buffer or the code."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from initium._repair.case import Case
from initium._repair.remedies import REMEDIES
from initium._report.records import Finding
from initium._report.words import listed, number

__all__ = ["advice"]

FORWARD = frozenset({"IN201", "IN202"})
"""Findings of the signal; those of the gradient may lie in the backward pass alone."""
CODE = 8.0
"""By more than this no activation multiplies a second moment that a layer puts out."""
HOLDERS = frozenset({"Sequential", "ModuleList", "ModuleDict"})
"""Modules without code of their own."""


def advice(case: Case, tried: bool) -> list[Finding]:
    """The findings that are left, each with what to change by hand.

    Args:
        case: the model under the plan that is the repair.
        tried: whether ``auto`` was checked for all of it, to no avail.
    """
    left = [finding for finding in case.report.findings if finding.severity != "info"]
    if case.fixed:
        told = [f"{name} ({what})" for name, what in case.fixed.items()]
        fix = f"change by hand what a repair does not make up for elsewhere: {listed(told)}"
        return [
            replace(one, where=(*case.fixed, *one.where), fix=fix) if one.code < "IN6" else one
            for one in left
        ]
    vain = [tried and one.code in REMEDIES and "initium.initialize(" in one.fix for one in left]
    return [
        replace(one, fix=_code(one, case)) if is_vain else one
        for one, is_vain in zip(left, vain, strict=True)
    ]


def _code(finding: Finding, case: Case) -> str:
    """Which code to look into, where a finding advises a recipe that has not helped."""
    types = list(dict.fromkeys(_types(finding, case))) or [case.report.model]
    said = f"change the forward code of {listed(types)}: no start of the weights mends this"
    factors = dict(_factors(finding, case)) if finding.code in FORWARD else {}
    if not factors:
        return f"{said}. Look for a factor, a detach, a hook or a custom autograd.Function"
    places, factor = max(factors.items(), key=lambda item: abs(math.log(item[1])))
    return f"{said}. Between {places} it multiplies the second moment by {number(factor)}"


def _types(finding: Finding, case: Case) -> Iterator[str]:
    """The innermost modules with code of their own around the places that are named."""
    records = case.report.layers
    for place in finding.where:
        parent = place
        while parent in records:
            parent = parent.rpartition(".")[0]
            if parent in records and records[parent].module_type not in HOLDERS:
                yield records[parent].module_type
                break
            if not parent:
                break


def _factors(finding: Finding, case: Case) -> Iterator[tuple[str, float]]:
    """What happens to a second moment between two layers of which the one reads the other and
    nothing else, without a norm between, where no activation does that."""
    wrote = {owner.name: one for one in case.layers if (owner := case.owner(one.weight or ""))}
    for after in case.layers:
        owner, read = case.owner(after.weight or ""), after.input_second_moment
        if owner is None or len(owner.reads) != 1 or owner.source in ("norm", "stream"):
            continue
        before = wrote.get(owner.reads[0])
        if before is None or before.order >= after.order:
            continue
        if read and before.second_moment and {before.name, after.name} & set(finding.where):
            factor = read / before.second_moment
            if math.isfinite(factor) and not 1 / CODE < factor < CODE:
                yield f"{before.name} and {after.name}", factor
