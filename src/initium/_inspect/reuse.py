"""Weights that do different things at different uses: every job is named, and the role is plain.

A job is read off one use: what attention reads or writes, a feed-forward's first or last matrix, a
plain product, or the same matrix transposed. Queries, keys and values are one job. Where two jobs
other than plain products meet, no scheme fits both, and the role is ``linear``. Not covered: tables
that are looked up and make the output too, which are known as embeddings.
"""

from __future__ import annotations

from initium._inspect.attention import Attention
from initium._inspect.facts import Facts, pointwise
from initium._inspect.feedforward import activated_feeds
from initium._inspect.flow import Flow
from initium._inspect.residual import Streams
from initium._inspect.uses import Use

__all__ = ["name_jobs"]

PLAIN = "a product with a signal"
TRANSPOSED = "the transpose of itself"
CONFLICTING = frozenset(
    {"attn_q", "attn_k", "attn_v", "attn_qkv", "attn_out", "mlp_up", "mlp_gate", "mlp_gate_up"}
    | {"mlp_down"}
)


def name_jobs(
    flow: Flow, streams: Streams, attentions: list[Attention], facts: dict[str, Facts]
) -> None:
    """Say what else a matrix is used for; where that conflicts, call it ``linear``."""
    attended = {
        id(use): "queries, keys or values of an attention"
        for attention in attentions
        for operand in attention.operands
        for use in operand.weights
    }
    attended |= {
        id(use): "the output of an attention" for item in attentions for use in item.outputs
    }
    repeated = {
        name: uses
        for name, fact in facts.items()
        if fact.role in CONFLICTING | {"linear"} and len(uses := _products(flow, name)) > 1
    }
    fed = _fed(flow, streams) if repeated else {}
    for name, uses in repeated.items():
        jobs = [attended.get(id(use)) or fed.get(id(use)) or PLAIN for use in uses]
        distinct = list(
            dict.fromkeys([*jobs, *(TRANSPOSED for use in uses if _turned(use, uses[0]))])
        )
        if len(distinct) < 2:
            continue
        fact = facts[name]
        fact.why["uses"] = f"used for {' and for '.join(distinct)}"
        if len(set(distinct) - {PLAIN, TRANSPOSED}) > 1:
            fact.role, fact.blocks, fact.head_dim = "linear", (), None
            fact.why["role"] = fact.why["uses"]


def _products(flow: Flow, name: str) -> list[Use]:
    return [use for use in flow.uses.by_parameter[name] if use.kind == "matrix"]


def _turned(use: Use, first: Use) -> bool:
    """Whether a use contracts what another puts out."""
    if use.axes is None or first.axes is None or use.axes.inputs == use.axes.outputs:
        return False
    return (use.axes.inputs, use.axes.outputs) == (first.axes.outputs, first.axes.inputs)


def _fed(flow: Flow, streams: Streams) -> dict[int, str]:
    """The jobs of the uses that make feed-forward blocks."""
    found: dict[int, str] = {}
    for addition in streams.additions:
        for writer in addition.writers:
            if writer.kind != "matrix" or writer.data is None or not pointwise(writer):
                continue
            feeds = activated_feeds(flow, streams, writer.data)
            ups = [use for use, active in feeds if active and pointwise(use)]
            found |= {id(use): "the first matrix of a feed-forward" for use in ups}
            if ups:
                found[id(writer)] = "the last matrix of a feed-forward"
    return found
