"""Which parameters a finding asks to change, and how: one table, by the finding's code.

Codes that are not in the table are about code, data, losses or learning rates: no plan mends them,
and their ``fix`` is advice.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from initium._repair.case import APART, Case, around
from initium._repair.entries import How, Step
from initium._report.records import Finding

__all__ = ["COPIES", "REMEDIES", "SUSPECTS", "steps_for"]

COPIES = frozenset({"IN704", "IN726"})
"""Findings of which the first that is named may stay."""
SUSPECTS = frozenset({"IN204", "IN501", "IN729", "IN803", "IN804"})
"""Findings that may name more than what has to change."""
LOGITS = 1.0
"""Std that attention's logits are brought to where they are too large."""

ALIKE = 1.5
"""Layers whose gains differ by a smaller factor do the same."""

TABLES = frozenset({"embedding", "position", "token"})

Remedy = Callable[[Finding, Case], Iterable[Step]]


def steps_for(findings: Iterable[Finding], case: Case) -> list[Step]:
    """What the findings above information ask for; of two for one parameter the first."""
    steps: dict[str, Step] = {}
    for finding in findings:
        remedy = REMEDIES.get(finding.code)
        if remedy is None or finding.severity == "info":
            continue
        for step in remedy(finding, case):
            steps.setdefault(step.name, step)
    return list(steps.values())


def _named(how: How) -> Remedy:
    """The parameters that are named."""

    def remedy(finding: Finding, case: Case) -> Iterable[Step]:
        return _steps(finding, how, case.parameters(finding.where))

    return remedy


def _steps(finding: Finding, how: How, names: Iterable[str]) -> list[Step]:
    return [Step(name, how, finding.code) for name in dict.fromkeys(names)]


def _run(finding: Finding, case: Case) -> Iterable[Step]:
    """The weights of the run, and those behind it that do the same; of one layer what led to it."""
    count = int(finding.numbers.get("layers", 0))
    run = case.matrices(finding.where[:count])
    if not run:
        return _led_to(finding, case)
    usual = statistics.median(_gain(name, case) for name in run)
    rest = [
        name
        for name in case.matrices(finding.where[count:])
        if usual / ALIKE < _gain(name, case) < usual * ALIKE
    ]
    return _steps(finding, "auto", [*run, *rest])


def _gain(name: str, case: Case) -> float:
    """By what a matrix multiplies the second moment."""
    return case.size(name) ** 2 * (case.view.parameters[name].fan_in or 1)


def _led_to(finding: Finding, case: Case) -> list[Step]:
    """The weights up to the place that is named that are out of line; else the one there."""
    last = case.before(finding.where[:1])
    names = [one.weight or "" for one in case.layers]
    until = names[: names.index(last[0]) + 1] if last and last[0] in names else names
    known = [one.name for name in until if (one := case.owner(name)) is not None]
    return _steps(finding, "like", case.out_of_line(known) or last)


def _constant(finding: Finding, case: Case) -> Iterable[Step]:
    """The zeros that nothing goes around; without any, what led to the constant."""
    count = int(finding.numbers.get("gates", 0))
    if not count:
        return _led_to(finding, case)
    return _zero(replace(finding, where=finding.where[:count]), case)


def _outlier(finding: Finding, case: Case) -> Iterable[Step]:
    names = [name for name in finding.where if name in case.view.parameters]
    return _steps(finding, "like", case.parameters(names))


def _shifted(finding: Finding, case: Case) -> Iterable[Step]:
    """The bias or weight that makes the mean; with a weight all that were drawn as it was."""
    named = case.parameters(finding.where[:1])
    if not named or not case.view.parameters[named[0]].is_matrix:
        return _steps(finding, "like", named)
    tilt = _tilt(named[0], case)
    alike = [
        one.name
        for one in case.view.owners
        if one.is_matrix
        and one.name in case.plan.entries
        and one.trainable
        and case.lopsided(one.name)
        and 1 / ALIKE < _tilt(one.name, case) / tilt < ALIKE
    ]
    return _steps(finding, "like", [*named, *alike])


def _tilt(name: str, case: Case) -> float:
    """The part of a weight's root mean square that is its mean."""
    return case.mean(name) / case.size(name) if case.size(name) else 1.0


def _growing(finding: Finding, case: Case) -> Iterable[Step]:
    """What is out of line in the branches; else all writers by one factor, so that a branch adds
    the L-th part of its stream."""
    writers = case.matrices(finding.where)
    branches = {around(name) for name in writers}
    inside = [
        one.name for one in case.view.owners if one.is_matrix and around(one.name) in branches
    ]
    wrong = [name for name in inside if _apart(name, case)]
    if wrong:
        return _steps(finding, "like", wrong)
    held = {one.name for name in finding.where if (one := case.owner(name))}
    ratios = [
        math.log(one.branch / one.before)
        for one in case.report.branches
        if (known := case.owner(one.weight)) is not None
        and known.name in held
        and 0.0 < one.before < math.inf
        and 0.0 < one.branch < math.inf
    ]
    if not ratios:
        return _steps(finding, "auto", writers)
    usual = math.exp(sum(ratios) / len(ratios))
    factor = float(f"{1 / math.sqrt(len(ratios) * usual):.3g}")
    return [Step(name, "scale", finding.code, factor) for name in writers]


def _apart(name: str, case: Case) -> bool:
    """Whether a size is far from the median of those with the same job, itself included."""
    usual = statistics.median(case.size(one) for one in [name, *case.peers(name)])
    return usual > 0.0 and not 1 / APART < case.size(name) / usual < APART


def _collapsed(finding: Finding, case: Case) -> Iterable[Step]:
    """What the named blocks write to their stream: what is far larger than auto's, else all."""
    inside = [
        one.name
        for one in case.view.owners
        if one.writes_residual and one.is_matrix and _within(one.name, finding.where)
    ]
    loud = [name for name in inside if 0.0 < APART * case.recipes.std(name) < case.size(name)]
    return _steps(finding, "auto", loud or inside)


def _within(name: str, places: Iterable[str]) -> bool:
    return any(name.startswith(f"{place}.") for place in places)


def _starved(finding: Finding, case: Case) -> Iterable[Step]:
    """The weights that are named; else those of the model that are most too small beside auto's."""
    named = case.parameters(name for name in finding.where if name in case.view.parameters)
    if named:
        return _steps(finding, "auto", case.out_of_line(named) or named)
    ratios = {
        one.name: case.size(one.name) / usual
        for one in case.view.owners
        if (one.is_matrix or one.role in TABLES)
        and one.name in case.plan.entries
        and (usual := case.recipes.std(one.name)) > 0.0
        and case.size(one.name) > 0.0
    }
    least = min(ratios.values(), default=1.0)
    small = [name for name, ratio in ratios.items() if ratio < ALIKE**2 * least]
    if least > 1 / APART:
        small = case.before(finding.where[:1])
    return _steps(finding, "auto", small)


def _zero(finding: Finding, case: Case) -> Iterable[Step]:
    """The named parameters that are zero themselves, and scales that are and close the path to
    those that are named: of norms, and those that a note beside it says to do so."""
    zeros = [name for name in case.parameters(finding.where) if case.size(name) == 0.0]
    gates = [
        name
        for one in case.report.findings
        if one.code == finding.code
        for name in case.parameters(one.where[: int(one.numbers.get("gates", 0))])
    ]
    norms = [one.name for one in case.view.owners if one.role == "norm_scale"]
    closed = dict.fromkeys([*zeros, *(norms if not zeros else ()), *(gates if not zeros else ())])
    return [
        Step(name, "one" if _is_scale(name, case) else "auto", finding.code)
        for name in closed
        if case.size(name) == 0.0 and (name in zeros or case.view.parameters[name].neutral != 0.0)
    ]


def _is_scale(name: str, case: Case) -> bool:
    """Whether a parameter multiplies, and is no norm's."""
    return case.view.parameters[name].role == "scale"


def _dead(finding: Finding, case: Case) -> Iterable[Step]:
    """The biases in front of the silent units; their weights, where those are out of line."""
    weights = case.before(finding.where) or case.parameters(finding.where)
    biases = [bias for name in weights if (bias := case.bias(name)) and case.size(bias) > 0.0]
    wrong = case.out_of_line(weights)
    lopsided = [bias for bias in biases if case.lopsided(bias)]
    if wrong or lopsided:
        return _steps(finding, "like", [*wrong, *lopsided])
    return _steps(finding, "auto", [*biases[:1], *weights[:1]])


def _saturated(finding: Finding, case: Case) -> Iterable[Step]:
    weights = case.before(finding.where)
    return _steps(finding, "like", case.out_of_line(weights) or weights)


def _peaked(finding: Finding, case: Case) -> Iterable[Step]:
    """Queries and keys: those out of line as their like, else all of them smaller."""
    names = [name for name in case.parameters(finding.where) if _is_query(name, case)]
    wrong = case.out_of_line(names)
    if wrong:
        return _steps(finding, "like", wrong)
    spread = max(finding.numbers.get("logit_std", 1.0), LOGITS)
    factor = float(f"{math.sqrt(LOGITS / spread):.3g}")
    return [Step(name, "scale", finding.code, factor, ("q", "k")) for name in names]


def _uniform(finding: Finding, case: Case) -> Iterable[Step]:
    """Queries and keys that are named."""
    names = case.parameters(finding.where)
    return _steps(finding, "like", [name for name in names if _is_query(name, case)])


def _is_query(name: str, case: Case) -> bool:
    return case.view.parameters[name].role in ("attn_q", "attn_k", "attn_qkv")


def _loss(finding: Finding, case: Case) -> Iterable[Step]:
    """The layer before the head, if that is named first; the head, or the table that it shares."""
    names = case.parameters(finding.where)
    wrong = case.out_of_line(names)
    return _steps(finding, "auto", wrong or names)


def _copies(finding: Finding, case: Case) -> Iterable[Step]:
    """All copies but the first, each with the size that it has."""
    return _steps(finding, "own", case.parameters(finding.where)[1:])


def _padding(finding: Finding, case: Case) -> Iterable[Step]:
    """The padding rows, and nothing else of their tables."""
    return _steps(finding, "padding", case.parameters(finding.where))


def _grown(finding: Finding, case: Case) -> Iterable[Step]:
    """The rows at the end of a table that are all alike."""
    rows = finding.numbers.get("rows", 0.0)
    return [Step(name, "rows", finding.code, rows) for name in case.parameters(finding.where)]


def _second(finding: Finding, case: Case) -> Iterable[Step]:
    """Of each pair of biases the second."""
    return _steps(finding, "zero", case.parameters(finding.where)[1::2])


REMEDIES: Mapping[str, Remedy] = {
    "IN101": _named("like"),
    "IN201": _run,
    "IN202": _run,
    "IN203": _constant,
    "IN204": _outlier,
    "IN205": _shifted,
    "IN206": _growing,
    "IN207": _collapsed,
    "IN208": _starved,
    "IN209": _named("auto"),
    "IN301": _run,
    "IN302": _run,
    "IN303": _zero,
    "IN401": _dead,
    "IN402": _saturated,
    "IN403": _named("like"),
    "IN404": _peaked,
    "IN405": _uniform,
    "IN501": _loss,
    "IN601": _named("plan"),
    "IN602": _named("plan"),
    "IN701": _named("like"),
    "IN704": _copies,
    "IN711": _named("like"),
    "IN712": _named("zero"),
    "IN721": _named("auto"),
    "IN722": _named("auto"),
    "IN723": _named("auto"),
    "IN724": _named("auto"),
    "IN725": _named("auto"),
    "IN726": _copies,
    "IN727": _named("auto"),
    "IN728": _padding,
    "IN729": _loss,
    "IN730": _named("like"),
    "IN731": _named("like"),
    "IN732": _second,
    "IN733": _named("auto"),
    "IN734": _grown,
    "IN801": _zero,
    "IN803": _named("auto"),
    "IN804": _named("auto"),
}
"""What is changed for a finding. "like": as its peers, else as auto has it; "own": drawn anew with
its own size; "plan": what is planned already, applied again."""
