"""Findings on numbers: non-finite weights and buffers (IN101), activations (IN102), gradients and
loss (IN103), and what the number format loses (IN104)."""

from __future__ import annotations

from initium._check.chain import listed
from initium._check.facts import BufferFacts, Facts
from initium._check.thresholds import HALF_LOST
from initium._check.words import also
from initium._report.records import Finding, LayerRecord
from initium._types import ModelView, Severity

__all__ = ["find_nonfinite", "find_out_of_range"]


def find_nonfinite(facts: Facts, view: ModelView) -> list[Finding]:
    """The first cause only: weights, else a buffer or the module that breaks, else the gradient or
    loss; and, where a pass in this mode does not read them, buffers that hold NaN."""
    for find in (_weights, _activations, _gradients):
        found = find(facts)
        if found is not None:
            return [found] if found.code == "IN101" else [found, *_unread(facts)]
    return _unread(facts)


def _weights(facts: Facts) -> Finding | None:
    bad = [record for record in facts.parameters.values() if record.nonfinite > 0]
    if not bad:
        return None
    share = bad[0].nonfinite
    names = [record.name for record in bad]
    return Finding(
        code="IN101",
        severity="error",
        title="non-finite weights",
        where=tuple(names),
        message=f"{_part(share)} of {bad[0].name} are NaN or infinite{also(names, 'parameter')}; "
        "every output that they reach is, too",
        fix=f"initialise {listed(names)}: memory from torch.empty or to_empty holds anything",
        numbers={"parameters": len(bad), "share": share},
    )


def _part(share: float) -> str:
    return "all elements" if share == 1.0 else f"{share:.3g} of the elements"


def _in_buffer(root: str, facts: Facts) -> Finding | None:
    """A buffer of the module that breaks, or of one inside it, which is not finite."""
    inside = f"{root}." if root else ""
    bad = {name: f for name, f in facts.buffers.items() if name.startswith(inside) and not f.zero}
    if not bad:
        return None
    return _buffers(bad, "error", f"the output of {root or 'the model'} is, too")


def _unread(facts: Facts) -> list[Finding]:
    """Buffers with NaN that broke nothing; infinities alone may be a mask."""
    bad = {name: fact for name, fact in facts.buffers.items() if fact.nan}
    said = "this pass does not read it, and a pass in another mode may"
    return [_buffers(bad, "warning", said)] if bad else []


def _buffers(bad: dict[str, BufferFacts], severity: Severity, said: str) -> Finding:
    names = list(bad)
    share = bad[names[0]].nan + bad[names[0]].infinite
    return Finding(
        code="IN101",
        severity=severity,
        title="non-finite buffer",
        where=tuple(names),
        message=f"{_part(share)} of {names[0]} are NaN or infinite{also(names, 'buffer')}; {said}",
        fix=f"rebuild {listed(names)}: initialising weights leaves buffers alone"
        + ("; reset_running_stats() does it" if "running_" in names[0] else ""),
        numbers={"buffers": len(bad), "share": share},
    )


def _activations(facts: Facts) -> Finding | None:
    bad = [record for record in facts.layers.values() if record.nonfinite > 0]
    if not bad:
        return None
    roots = [record for record in bad if facts.of(record.name).breaks]
    root = (roots or bad)[0]
    harmless = (
        not _bad_gradients(facts) and (facts.loss.value or 0.0) - (facts.loss.value or 0.0) == 0
    )
    if roots and not harmless and (held := _in_buffer(root.name, facts)) is not None:
        return held
    names = tuple(dict.fromkeys([root.name, *(record.name for record in bad)]))
    inputs = "although its inputs are finite" if roots else "and so is what it was given"
    return Finding(
        code="IN102",
        severity="info" if harmless else "error",
        title="non-finite activations",
        where=names,
        message=f"{root.nonfinite:.3g} of the output of {root.name or 'the model'} "
        f"({root.module_type}) is NaN or infinite, {inputs}"
        + ("; loss and gradients are finite, as with a mask of -inf" if harmless else ""),
        fix=""
        if harmless
        else f"look at {root.name or 'the model'}: add an epsilon, clamp, or compute that step in "
        "float32, against overflow, a division by zero, or the logarithm or root of a negative "
        "number",
        numbers={"share": root.nonfinite, "modules": len(bad)},
    )


def _bad_gradients(facts: Facts) -> list[str]:
    return [record.name for record in facts.parameters.values() if record.grad_nonfinite > 0]


def _gradients(facts: Facts) -> Finding | None:
    bad = _bad_gradients(facts)
    value = facts.loss.value
    broken_loss = value is not None and value - value != 0.0
    if not bad and not broken_loss:
        return None
    reached = [record for record in facts.layers.values() if record.grad_nonfinite > 0]
    last = max(reached, key=lambda record: record.order) if reached else None
    root = None if last is None else _behind(last, facts)
    if broken_loss:
        message = f"the first loss is {value}, although every activation is finite"
        fix = "look at the loss: a logarithm of zero, an empty mean, or an overflow"
    else:
        place = f", first in what follows {last.name}" if last is not None else ""
        message = f"the gradients of {listed(bad)} are NaN or infinite{place}; the loss is finite"
        fix = "look for a root or norm at zero, a 0/0, or an overflow there in the backward pass"
    first = [] if root is None or last is None else [root, last.name]
    where = tuple(dict.fromkeys([*first, *bad])) or ("",)
    return Finding(
        code="IN103",
        severity="error",
        title="non-finite loss" if broken_loss else "non-finite gradient",
        where=where,
        message=message,
        fix=fix,
        numbers={"parameters": len(bad)},
    )


def _behind(last: LayerRecord, facts: Facts) -> str:
    """The next module, whose own gradient is finite: it makes that of its input infinite."""
    after = [record for record in facts.layers.values() if record.order > last.order]
    following = min(after, key=lambda record: record.order, default=None)
    finite = following is not None and following.grad_second_moment is not None
    return following.name if following is not None and finite else last.name


def find_out_of_range(facts: Facts, view: ModelView) -> list[Finding]:
    """Gradients that the dtype in use flushes away; and, to know, activations that float16 could
    not hold."""
    found = []
    for record in facts.ranges:
        under = record.subnormal + record.lost
        if record.what == "gradients" and record.dtype in facts.dtypes and under > HALF_LOST:
            found.append(
                Finding(
                    code="IN104",
                    severity="warning",
                    title="gradients below the number format",
                    where=(record.worst,),
                    message=f"{under:.0%} of the gradients are below the smallest normal number of "
                    f"{record.dtype}, in which this model computes, most of them in "
                    f"{record.worst or 'the model'}",
                    fix="scale the loss (torch.amp.GradScaler), or compute in bfloat16",
                    numbers={"subnormal": record.subnormal, "lost": record.lost},
                )
            )
        elif record.what == "activations" and record.dtype == "float16" and record.overflow > 0:
            found.append(
                Finding(
                    code="IN104",
                    severity="info",
                    title="activations beyond float16",
                    where=(record.worst,),
                    message=f"{record.overflow:.2g} of the activations are beyond 65504, most of "
                    f"them in {record.worst or 'the model'}: float16 would overflow there",
                    numbers={"overflow": record.overflow},
                )
            )
    return found
