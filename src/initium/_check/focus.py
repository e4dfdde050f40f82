"""Findings on attention: peaked (IN404) or too uniform for a gradient (IN405)."""

from __future__ import annotations

from initium._check.chain import listed
from initium._check.facts import Facts
from initium._check.thresholds import (
    ATTENTION_KEYS,
    ENTROPY_ERROR,
    ENTROPY_WARNING,
    UNIFORM,
    UNSCALED,
)
from initium._report.records import AttentionRecord, Finding
from initium._types import ModelView

__all__ = ["find_peaked", "find_uniform"]

QUERY_ROLES = ("attn_q", "attn_k", "attn_qkv")


def find_peaked(facts: Facts, view: ModelView) -> list[Finding]:
    """Rows that look at one key each: the entropy is a small part of ln n, n the keys allowed."""
    found = [
        record
        for record in facts.attention
        if record.keys >= ATTENTION_KEYS and record.entropy < ENTROPY_WARNING
    ]
    if not found:
        return []
    worst = min(found, key=lambda record: record.entropy)
    weights = [name for record in found for name in _weights(record, view)]
    root = found[0]
    unscaled = root.scale is not None and root.scale > UNSCALED
    cause = (
        f". Its logits are multiplied by {root.scale:.3g}/sqrt(head_dim), where 1/sqrt(head_dim) "
        "keeps them of order one"
        if unscaled
        else ""
    )
    return [
        Finding(
            code="IN404",
            severity="error" if worst.entropy < ENTROPY_ERROR else "warning",
            title="peaked attention",
            where=tuple(dict.fromkeys([root.name, *weights, *(record.name for record in found)])),
            message=f"the attention of {root.name or 'the model'} has logits of std "
            f"{root.logit_std:.3g}: its rows put {root.peak:.0%} on one key, and their entropy is "
            f"{root.entropy:.1%} of that of a uniform row over the {'visible ' * root.causal}keys. "
            f"The softmax hands on hardly any gradient ({len(found)} attention(s) in all){cause}",
            fix="divide the logits by sqrt(head_dim)"
            if unscaled
            else f"make {listed(weights) or 'queries and keys'} smaller by a factor "
            f"{max(root.logit_std, 1.0) ** 0.5:.2g} each, so that the logits have std 1, or "
            "normalise queries and keys",
            numbers={
                "logit_std": root.logit_std,
                "entropy": root.entropy,
                "peak": root.peak,
                "attentions": len(found),
            },
        )
    ]


def find_uniform(facts: Facts, view: ModelView) -> list[Finding]:
    """Logits that differ by rounding only, although no matrix is zero by design."""
    found = [
        record
        for record in facts.attention
        if record.keys >= ATTENTION_KEYS and 0.0 < record.logit_std < UNIFORM
    ]
    if not found:
        return []
    root = found[0]
    weights = [name for record in found for name in _weights(record, view)]
    return [
        Finding(
            code="IN405",
            severity="warning",
            title="attention cannot tell keys apart",
            where=tuple(dict.fromkeys([root.name, *weights, *(record.name for record in found)])),
            message=f"the logits of {root.name or 'the model'} have std {root.logit_std:.2g}: the "
            "softmax is a plain mean, and queries and keys get a gradient smaller than that of the "
            f"values by the same factor ({len(found)} attention(s) in all). Variance 1/fan_in in "
            f"{listed(weights) or 'queries and keys'} gives logits of std 1",
            fix=f"larger weights in {listed(weights) or 'queries and keys'}: variance 1/fan_in",
            numbers={"logit_std": root.logit_std, "attentions": len(found)},
        )
    ]


def _weights(record: AttentionRecord, view: ModelView) -> list[str]:
    """The matrices of queries and keys inside the module that attends, or beside it."""
    scope = record.name
    while True:
        prefix = f"{scope}." if scope else ""
        names = [
            known.name
            for known in view.owners
            if known.role in QUERY_ROLES and known.name.startswith(prefix)
        ]
        if names or not scope:
            return names
        scope = scope.rpartition(".")[0]
