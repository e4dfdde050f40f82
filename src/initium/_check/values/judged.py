"""What a check makes of findings on values: it has seen a pass of the model, and no init code.

What it measured itself decides: a zero that gets a gradient is no dead end, the first loss says
whether a head is too wide, a padding row matters where the batch is padded. What may be chance, and
what is usual in its library, is information. So is a matrix of one sign, or of equal units, that is
a factor of another one: variances, gates and scores of single weights.
"""

from __future__ import annotations

from dataclasses import replace

from initium._check.facts import Facts
from initium._check.thresholds import ALIGNED, FANS_BY_CHANCE
from initium._report.records import Finding
from initium._types import ModelView, ParameterView, Severity

__all__ = ["judged", "roots_of_zeros"]

ZEROS = frozenset({"IN727", "IN731"})
"""Findings of zeros that wait for one another."""
FLAT = 10 * ALIGNED
"""Inputs whose channels have mean zero, as behind a norm, leave 1/4 of weights from 0 to a."""


def judged(facts: Facts, view: ModelView) -> list[Finding]:
    """The findings on values, each as grave as the measurement allows."""
    return [
        replace(finding, severity=severity)
        for finding in facts.values
        if (severity := _severity(finding, facts, view)) is not None
    ]


def _severity(finding: Finding, facts: Facts, view: ModelView) -> Severity | None:
    """``None`` where the measurement contradicts it."""
    if finding.severity == "error" and finding.code in ZEROS:
        slopes = [facts.parameters[name].grad_second_moment for name in finding.where]
        return "error" if not any(slopes) else None
    if finding.severity == "warning" and finding.code in ("IN205", "IN403"):
        matrices = [known for name in finding.where if (known := view.parameters[name]).is_matrix]
        aside = [_is_factor(known, facts, view) or _is_reshaped(known, facts) for known in matrices]
        return "info" if aside and all(aside) else "warning"
    if finding.code == "IN729":
        return None if facts.loss.expected is not None else finding.severity
    if finding.code == "IN728":
        rows = {known.padding_row for known in map(view.parameters.get, finding.where) if known}
        padded = not facts.inferred and bool(rows & facts.batch.tokens)
        return "warning" if padded else "info"
    if finding.numbers.get("chance", 0.0) > FANS_BY_CHANCE:
        return "info"
    return finding.severity


def _is_factor(known: ParameterView, facts: Facts, view: ModelView) -> bool:
    """Whether its module applies another matrix of its shape and role to the same input."""
    record = facts.layers.get(known.module)
    first = view.parameters.get(record.weight or "") if record is not None else None
    if first is None or first is known or known.torch_type or known.role.startswith("recurrent"):
        return False
    return (first.role, first.shape, first.reads) == (known.role, known.shape, known.reads)


def _is_reshaped(known: ParameterView, facts: Facts) -> bool:
    """Whether a product is so much smaller than the values that a function maps them first."""
    record = facts.layers.get(known.module)
    if record is None or record.weight != known.name or known.torch_type or record.gain is None:
        return False
    if any(name.startswith(f"{known.module}.") for name in facts.layers):
        return False
    power = (known.fan_in or 1) * facts.parameters[known.name].second_moment
    return record.gain * FLAT < power


def roots_of_zeros(deadlock: list[Finding], values: list[Finding]) -> list[Finding]:
    """All of them: those that say why weights stay zero, or else the one that says they do."""
    roots = [finding for finding in values if finding.code in ZEROS and finding.severity == "error"]
    named = {name for finding in roots for name in finding.where}
    zeros = {name for f in deadlock for name in f.where[: int(f.numbers.get("all_zero", 0))]}
    if zeros <= named:
        return values
    return [*deadlock, *(finding for finding in values if finding not in roots)]
