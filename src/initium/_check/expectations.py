"""Findings on expectations: the first loss (IN501), and the plan of the weights (IN601)."""

from __future__ import annotations

import math

from initium._check.chain import listed
from initium._check.facts import Facts
from initium._check.thresholds import (
    HEAD_INPUT,
    LOSS_ERROR,
    LOSS_FRACTION,
    LOSS_NATS,
    PLAN_RELATIVE,
    PLAN_SIGMAS,
)
from initium._plan import Plan
from initium._report.records import Finding, LayerRecord, ParameterRecord
from initium._types import ModelView

__all__ = ["find_loss", "find_plan"]


def find_loss(facts: Facts, view: ModelView) -> list[Finding]:
    """A first cross-entropy far above ln C, explained by the spread of the logits; or far below."""
    loss = facts.loss
    if loss.value is None or loss.expected is None or loss.value - loss.value != 0.0:
        return []
    excess = loss.value - loss.expected
    limit = max(LOSS_NATS, LOSS_FRACTION * loss.expected)
    numbers = {"loss": loss.value, "expected": loss.expected}
    heads = [known.name for known in view.parameters.values() if known.role == "head"]
    tied = [known.name for known in view.owners if known.role == "embedding" and known.aliases]
    where = tuple(heads or tied or ["loss"])
    if excess > limit:
        spread = f"{loss.logit_std:.3g}" if loss.logit_std is not None else "unknown"
        cause, fix, place = _cause_of_loss(facts, view, where[0])
        return [
            Finding(
                code="IN501",
                severity="error" if loss.value > LOSS_ERROR * loss.expected else "warning",
                title="first loss too high",
                where=tuple(dict.fromkeys([*place, *where])),
                message=f"the first loss is {loss.value:.4g}; knowing nothing costs ln "
                f"{loss.classes} = {loss.expected:.4g}. The logits have std {spread}, where a "
                f"healthy start has less than 1{cause}",
                fix=fix,
                numbers=numbers,
            )
        ]
    if loss.value < 0.5 * loss.expected:
        return [
            Finding(
                code="IN501",
                severity="info",
                title="first loss below chance",
                where=where,
                message=f"the first loss is {loss.value:.4g}, far below ln {loss.classes} = "
                f"{loss.expected:.4g}: the weights are trained, or the targets can be read from "
                "the inputs",
                numbers=numbers,
            )
        ]
    return []


def _cause_of_loss(facts: Facts, view: ModelView, weight: str) -> tuple[str, str, tuple[str, ...]]:
    """Whether the head is too large, what it reads, or the table it shares; and the fix."""
    known = view.parameters.get(weight)
    weight = (known.tied_to if known is not None else None) or weight
    table = view.parameters.get(weight)
    tied = table is not None and table.is_tied
    smaller = "smaller weights in the head (and in the embedding, if they are tied)"
    held = facts.parameters.get(weight)
    if tied and held is not None:
        width = held.shape[-1]
        return (
            f": the head is the embedding table, whose rows of std {held.std:.3g} make logits of "
            f"std {held.std * math.sqrt(width):.3g} from a normalised input of width {width}",
            f"start the table with std 1/sqrt({width}) = {width**-0.5:.3g} or less, or divide the "
            "logits by sqrt(width)",
            (),
        )
    layers = sorted(facts.layers.values(), key=lambda record: record.order)
    head = next((record for record in reversed(layers) if record.weight == weight), None)
    head = head or next((record for record in reversed(layers) if record.weight is not None), None)
    if head is None or not head.gain or not head.input_second_moment:
        return "", smaller, ()
    if head.input_second_moment > HEAD_INPUT and head.gain < head.input_second_moment:
        return (
            f": the head itself multiplies the second moment by {head.gain:.2g}, but what it "
            f"reads has {head.input_second_moment:.2g} instead of about 1",
            "normalise what the head reads, or make the layers before it smaller",
            _before(layers, head),
        )
    factor = math.sqrt(1.0 / max(head.gain * head.input_second_moment, 1e-300))
    return (
        f": the head multiplies the second moment by {head.gain:.2g}",
        f"{smaller}: multiply them by {factor:.2g}",
        (),
    )


def _before(layers: list[LayerRecord], head: LayerRecord) -> tuple[str, ...]:
    """The last layer with a matrix before the head."""
    earlier = [r.name for r in layers if r.order < head.order and r.weight is not None]
    return tuple(earlier[-1:])


def find_plan(facts: Facts, view: ModelView, plan: Plan | None) -> list[Finding]:
    """Parameters whose mean or std differ from their plan by more than sampling noise."""
    if plan is None:
        return []
    found = []
    for name, record in facts.parameters.items():
        entry = plan.entries.get(name)
        if entry is None or record.nonfinite:
            continue
        moments = entry.spec.moments(record.shape)
        if moments.mean is None or moments.std is None:
            continue
        score = _score(record, moments.mean, moments.std, moments.kurtosis)
        if score > PLAN_SIGMAS:
            found.append((score, record, moments.mean, moments.std))
    if not found:
        return []
    found.sort(key=lambda item: -item[0])
    names = [record.name for _, record, _, _ in found]
    score, worst, mean, std = found[0]
    return [
        Finding(
            code="IN601",
            severity="error",
            title="weights contradict their plan",
            where=tuple(names),
            message=f"{worst.name} has mean {worst.mean:.4g} and std {worst.std:.4g}, planned are "
            f"{mean:.4g} and {std:.4g} ({worst.spec}); {len(found)} parameters in all: "
            f"{listed(names)}",
            fix="apply the plan after everything else that writes weights: plan.apply(model)",
            numbers={"parameters": len(found), "standard_errors": min(score, 1e9)},
        )
    ]


def _score(record: ParameterRecord, mean: float, std: float, kurtosis: float | None) -> float:
    """Standard errors between what is there and the plan, the larger of mean's and std's.

    For n independent elements the mean has standard error std/sqrt(n), and the std
    std sqrt((kurtosis - 1)/(4 n)). Differences within rounding count as none.
    """
    size = math.prod(record.shape)
    scale = max(std, abs(mean))
    if size == 0 or (scale == 0.0 and record.second_moment == 0.0):
        return 0.0
    off_mean, off_std = abs(record.mean - mean), abs(record.std - std)
    if std == 0.0:
        return math.inf if max(off_mean, off_std) > PLAN_RELATIVE * scale else 0.0
    kurtosis = 3.0 if kurtosis is None else kurtosis
    error = std * math.sqrt(max(kurtosis - 1.0, 0.1) / (4 * size))
    scores = [off_mean / (std / math.sqrt(size)) if off_mean > PLAN_RELATIVE * std else 0.0]
    scores.append(off_std / error if off_std > PLAN_RELATIVE * std else 0.0)
    return max(scores)
