"""Findings on gradients: vanishing (IN301), exploding (IN302), zero (IN303), none (IN304); and all
so small that float16 has flushed them to zero (IN104)."""

from __future__ import annotations

import math
import re
from statistics import median

from initium._check.chain import (
    advice,
    around,
    chain,
    closed,
    constant,
    elements,
    in_the_middle,
    listed,
    multiplies,
    shuts,
)
from initium._check.facts import Facts
from initium._check.thresholds import (
    DECAY_ERROR,
    DECAY_WARNING,
    FORMATS,
    GROWTH_ERROR,
    GROWTH_WARNING,
    ZERO_GRADIENT_ERROR,
)
from initium._check.trend import decay, growth
from initium._check.words import also
from initium._report.records import Finding, LayerRecord, ParameterRecord
from initium._types import ModelView, Severity

__all__ = ["find_gradient_trend", "find_never_used", "find_zero_gradient", "unexplained"]

BLOCKS = 4
"""Blocks that a comparison of layers of one kind takes."""
BACKWARD = (
    ". Where the weights are as they should be, look for code that changes gradients on the way "
    "back: a custom autograd.Function, a backward hook"
)


def find_gradient_trend(facts: Facts, view: ModelView) -> list[Finding]:
    """A run of layers, from the head downward, over which the gradient shrinks or grows.

    Judged is the sum of squares over a sample's whole output, not the mean: it is what a linear map
    with the backward gain keeps, whatever the number of positions and channels. Queries and keys
    are left out: through a softmax that is nearly uniform hardly any gradient reaches them.
    """
    layers = [
        record
        for record in reversed(chain(facts, view))
        if record.grad_second_moment
        and view.parameters[record.weight or ""].role not in ("attn_q", "attn_k")
    ]
    values = [(record.name, _energy(record)) for record in layers]
    for code, word, trend, warning, error in (
        ("IN301", "vanishing", decay(values), DECAY_WARNING, DECAY_ERROR),
        ("IN302", "exploding", growth(values), GROWTH_WARNING, GROWTH_ERROR),
    ):
        if trend is None or abs(math.log(trend.change)) < abs(math.log(warning)):
            continue
        if trend.fit.low <= 1.0 <= trend.fit.high:
            continue
        grave = abs(math.log(trend.change)) > abs(math.log(error))
        severity: Severity = "error" if grave and not facts.fresh_norms else "warning"
        weights = [facts.layers[name].weight for name in trend.names]
        return [
            Finding(
                code=code,
                severity=severity,
                title=f"{word} gradient",
                where=trend.names + trend.rest,
                message=f"on the way back each of these {len(trend.names)} layers multiplies the "
                f"gradient's second moment by {trend.factor:.2g}, from {trend.before:.2g} to "
                f"{trend.after:.2g} (fitted: {trend.fit}), although the signal on the way forward "
                "keeps its size",
                fix=advice(view, weights) + BACKWARD,
                numbers={
                    "layers": len(trend.names),
                    "factor": trend.factor,
                    "factor_low": trend.fit.low,
                    "factor_high": trend.fit.high,
                    "change": trend.change,
                },
            )
        ]
    return _by_block(layers, facts, view)


def _by_block(layers: list[LayerRecord], facts: Facts, view: ModelView) -> list[Finding]:
    """Layers of one kind compared from block to block, where those of different kinds differ too
    much for a run: the median over kinds at every step, without the largest step."""
    kinds: dict[str, list[LayerRecord]] = {}
    for record in layers:
        kinds.setdefault(re.sub(r"\d+", "#", record.name), []).append(record)
    blocks = max(map(len, kinds.values()), default=0)
    alike = [found for found in kinds.values() if len(found) == blocks]
    if blocks < BLOCKS:
        return []
    logs = [[math.log(max(_energy(record), 1e-300)) for record in found] for found in alike]
    steps = [median(row[i + 1] - row[i] for row in logs) for i in range(blocks - 1)]
    sign = 1 if sum(steps) > 0 else -1
    steps = sorted(sign * step for step in steps)[:-1]
    limit, grave = (GROWTH_WARNING, GROWTH_ERROR) if sign > 0 else (DECAY_WARNING, DECAY_ERROR)
    if steps[0] <= 0 or sum(steps) < abs(math.log(limit)):
        return []
    names = [record.name for record in layers]
    word = "exploding" if sign > 0 else "vanishing"
    factor = math.exp(sign * min(sum(steps) / len(steps), 600.0))
    return [
        Finding(
            code="IN302" if sign > 0 else "IN301",
            severity="error" if sum(steps) > abs(math.log(grave)) else "warning",
            title=f"{word} gradient",
            where=tuple(names),
            message=f"on the way back each of these {blocks} blocks multiplies the gradient's "
            f"second moment by {factor:.2g}, compared layer by layer of one kind, although the "
            "signal on the way forward keeps its size",
            fix=advice(view, [facts.layers[name].weight for name in names]) + BACKWARD,
            numbers={
                "blocks": blocks,
                "factor": factor,
                "change": math.exp(sign * min(sum(steps), 690.0)),
            },
        )
    ]


def _energy(record: LayerRecord) -> float:
    return (record.grad_second_moment or 0.0) * math.prod(record.shape[1:])


def find_zero_gradient(facts: Facts, view: ModelView) -> list[Finding]:
    """Parameters whose gradient is exactly zero, by reason: deadlock, by design, or unexplained."""
    trained = [record for record in facts.parameters.values() if record.trainable]
    silent = _silent(facts)
    gates = closed(facts, view)
    waiting = [record for record in silent if _waits(record, gates, facts, view)]
    designed = [record for record in silent if record not in waiting and _idle(record, view)]
    rest = [record for record in silent if record not in waiting and record not in designed]
    found = []
    if waiting:
        found.append(_waiting(waiting, facts, view))
    if designed:
        found.append(_shift_invariant(designed))
    if rest:
        found.append(_flushed(rest, trained, facts) or _stuck(rest, trained, facts, view))
    return found


def unexplained(facts: Facts, view: ModelView) -> frozenset[str]:
    """Parameters with a gradient of exactly zero, of which it takes another pass to say why."""
    return frozenset(record.name for record in _silent(facts) if not _idle(record, view))


def _silent(facts: Facts) -> list[ParameterRecord]:
    records = facts.parameters.values()
    return [record for record in records if record.trainable and record.grad_second_moment == 0.0]


def _waits(
    record: ParameterRecord, gates: list[ParameterRecord], facts: Facts, view: ModelView
) -> bool:
    """Whether it was seen to get a gradient; from the structure, where that was not looked at."""
    if record.name in facts.opening.found:
        return True
    unseen = record.name in facts.opening.untested or _idle(record, view)
    return unseen and not shuts(record, view) and _opens(record, gates, view)


def _opens(record: ParameterRecord, gates: list[ParameterRecord], view: ModelView) -> bool:
    """Whether an all-zero factor that itself learns stands behind it, or in its block."""
    here = _order(record.name, view)
    for gate in gates:
        block = gate.name.rpartition(".")[0].rpartition(".")[0]
        there = _order(gate.name, view)
        if here is None or there is None or there >= here:
            return True
        if block and record.name.startswith(block + "."):
            return True
    return False


def _order(name: str, view: ModelView) -> int | None:
    known = view.parameters.get(name)
    return known.order if known is not None else None


def _idle(record: ParameterRecord, view: ModelView) -> bool:
    """A bias whose shift the softmax or the norm behind it takes out again."""
    known = view.parameters.get(record.name)
    if known is None or known.role != "bias":
        return False
    partner = view.parameters.get(known.partner or "")
    return known.norm_after or (
        partner is not None and (partner.role == "attn_k" or partner.norm_after)
    )


def _movers(waiting: list[ParameterRecord], facts: Facts, view: ModelView) -> list[ParameterRecord]:
    """The zeros that open the path: factors that stand behind it, else all that have moved."""
    moved = facts.opening.movers
    gates = [g for g in closed(facts, view) if g.name in moved or not moved]
    behind = [g for g in gates if any(_opens(record, [g], view) for record in waiting)]
    return behind or gates or [facts.parameters[name] for name in sorted(moved)]


def _waiting(waiting: list[ParameterRecord], facts: Facts, view: ModelView) -> Finding:
    gates, middle = _movers(waiting, facts, view), in_the_middle(facts, view)
    names = [gate.name for gate in gates]
    tried = not any(record.name in facts.opening.untested for record in waiting)
    opens = "opens at step 2" if tried else "may open at step 2, which no pass has tried"
    grave = bool(middle) and not constant(facts, view)
    message = (
        f"{len(waiting)} parameters have a gradient of exactly zero, because {listed(names)} start "
        f"at zero; these get a gradient, so the path {opens}"
    )
    if grave:
        message += f". {listed(middle)} start at zero as well, so that one layer after the other "
        message += "waits for the next"
    return Finding(
        code="IN303",
        severity="warning" if grave else "info",
        title="zero gradient at the first step",
        where=tuple(dict.fromkeys([*middle, *names, *(record.name for record in waiting)])),
        message=message,
        fix=around(middle, view) if grave else "",
        numbers={"parameters": len(waiting), "gates": len(gates)},
    )


def _shift_invariant(designed: list[ParameterRecord]) -> Finding:
    return Finding(
        code="IN303",
        severity="info",
        title="biases without effect",
        where=tuple(record.name for record in designed),
        message=f"the gradient of {len(designed)} biases is exactly zero: the softmax or norm "
        "behind them takes any shift out again",
        numbers={"parameters": len(designed)},
    )


def _flushed(
    rest: list[ParameterRecord], trained: list[ParameterRecord], facts: Facts
) -> Finding | None:
    """Where all gradients of a model in float16 are below its normal numbers, if not zero."""
    seen = [record.grad_second_moment for record in facts.layers.values()]
    small = all(value < FORMATS["float16"][1] ** 2 for value in seen if value is not None)
    if "float16" not in facts.dtypes or not small or all(r.second_moment == 0.0 for r in rest):
        return None
    share = elements(rest) / max(1, elements(trained))
    names = [record.name for record in rest]
    return Finding(
        code="IN104",
        severity="error" if share >= ZERO_GRADIENT_ERROR else "warning",
        title="gradients below the number format",
        where=tuple(names),
        message=f"{share:.0%} of the trainable elements have a gradient of exactly zero, and no "
        "gradient in the model is above the smallest normal number of float16, in which it "
        f"computes{also(names, 'parameter')}",
        fix="scale the loss (torch.amp.GradScaler), or compute in bfloat16",
        numbers={"parameters": len(rest), "share": share},
    )


def _stuck(
    rest: list[ParameterRecord],
    trained: list[ParameterRecord],
    facts: Facts,
    view: ModelView,
) -> Finding:
    share = elements(rest) / max(1, elements(trained))
    zeros = [record for record in rest if record.second_moment == 0.0 and multiplies(record, view)]
    weights = [record.name for record in zeros or rest if multiplies(record, view)]
    untested = {record.name for record in zeros} <= facts.opening.untested
    grave = share >= ZERO_GRADIENT_ERROR or (zeros and not untested)
    severity: Severity = "error" if grave else "warning"
    if facts.inferred and not zeros and severity == "warning":
        severity = "info"
    names = dict.fromkeys([*(r.name for r in zeros), *(r.name for r in rest)])
    message = f"{len(rest)} parameters ({share:.0%} of the trainable elements) have a gradient of "
    message += f"exactly zero, among them {listed(names)}"
    if zeros and untested:
        message += f"; {len(zeros)} of them are all zero themselves, and no pass has tried to move "
        message += "the zeros before them"
    elif zeros:
        message += (
            f"; {len(zeros)} of them are all zero themselves: zero weights pass on neither signal "
            "nor gradient, so they stay zero and all their units stay the same"
        )
    return Finding(
        code="IN303",
        severity=severity,
        title="zero weights never move" if zeros and not untested else "zero gradient",
        where=tuple(names),
        message=message,
        fix=advice(view, weights)
        if zeros
        else "see what stands between them and the loss: dead "
        "units, a detached tensor, or inputs that are always zero",
        numbers={"parameters": len(rest), "share": share, "all_zero": len(zeros)},
    )


def find_never_used(facts: Facts, view: ModelView) -> list[Finding]:
    """Trainable parameters that autograd never reached."""
    if not facts.differentiated:
        return []
    missed = [
        record.name
        for record in facts.parameters.values()
        if record.trainable and record.grad_second_moment is None
    ]
    if not missed:
        return []
    cut = _cut(missed, facts, view)
    said = f"; no gradient passes {cut}: its output is detached" if cut is not None else ""
    masks = all(record.role == "token" for record in map(facts.parameters.__getitem__, missed))
    said = ". Such tokens stand where a batch is masked" if masks else said
    return [
        Finding(
            code="IN304",
            severity="info" if facts.inferred or masks else "warning",
            title="parameters without a path to the loss",
            where=(*([cut] if cut is not None else []), *missed),
            message=f"the loss does not depend on {len(missed)} trainable parameters in this "
            f"batch: {listed(missed)}{said}",
            fix=""
            if facts.inferred
            else "pass a batch and a loss that use them, freeze them, or remove them"
            if cut is None
            else f"remove .detach(), .data or torch.no_grad() behind {cut}",
            numbers={"parameters": len(missed)},
        )
    ]


def _cut(missed: list[str], facts: Facts, view: ModelView) -> str | None:
    """The module behind which nothing that came before gets a gradient, if it is one cut.

    Parameters that are used twice, such as a table that is the head too, may be reached behind it.
    """
    orders = {known.name: known.order for known in view.owners if known.uses < 2}
    unreached = [order for name in missed if (order := orders.get(name)) is not None]
    reached = [
        order
        for name, record in facts.parameters.items()
        if record.grad_second_moment is not None and (order := orders.get(name)) is not None
    ]
    if len(unreached) < 2 or not reached or max(unreached) > min(reached):
        return None
    layers = sorted(facts.layers.values(), key=lambda record: record.order)
    opened = next((i for i, r in enumerate(layers) if r.grad_second_moment is not None), 0)
    if not opened:
        return None
    held = [index for index in range(opened) if facts.of(layers[index].name).tracked]
    tracked = held[-1] if held else opened - 1
    after = layers[tracked + 1].name
    inside = facts.of(after).cuts or any(name.startswith(f"{after}.") for name in missed)
    return after if inside else layers[tracked].name
