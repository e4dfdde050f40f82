"""Findings on the way forward: the signal vanishes (IN201), explodes (IN202), is lost (IN203)."""

from __future__ import annotations

from initium._check.chain import (
    activation_of,
    advice,
    around,
    chain,
    closed,
    in_the_middle,
    listed,
    lost,
)
from initium._check.facts import Facts
from initium._check.thresholds import (
    DECAY_ERROR,
    DECAY_WARNING,
    GROWTH_ERROR,
    GROWTH_WARNING,
    HUGE,
    TINY,
)
from initium._check.trend import Trend, decay, growth
from initium._report.records import Finding, LayerRecord
from initium._scheme.gains import forward_gain
from initium._types import ModelView, Severity
from initium.errors import RecipeError

__all__ = ["find_signal"]


def find_signal(facts: Facts, view: ModelView) -> list[Finding]:
    """One finding: growth, else decay of what samples differ by, else an output without input."""
    layers = chain(facts, view)
    for find in (_exploding, _vanishing, _lost, _extreme):
        found = find(layers, facts, view)
        if found is not None:
            return [found]
    return []


def _exploding(layers: list[LayerRecord], facts: Facts, view: ModelView) -> Finding | None:
    trend = growth([(record.name, record.second_moment) for record in layers])
    if trend is None or trend.change < GROWTH_WARNING or trend.fit.low <= 1.0:
        return None
    severity: Severity = "error" if trend.change > GROWTH_ERROR else "warning"
    weights = [facts.layers[name].weight for name in trend.names]
    return Finding(
        code="IN202",
        severity=_softened(severity, facts),
        title="exploding signal",
        where=trend.names + trend.rest,
        message=f"each of these {len(trend.names)} layers multiplies the second moment by "
        f"{trend.factor:.2g}, from {trend.before:.2g} to {_number(trend.after)} "
        f"(fitted: {trend.fit})" + _cause(trend, facts, view, weights) + _softening(facts),
        fix=advice(view, weights),
        numbers=_numbers(trend),
    )


def _vanishing(layers: list[LayerRecord], facts: Facts, view: ModelView) -> Finding | None:
    between = all(record.signal is not None for record in layers)
    moments = [record.signal if between else record.second_moment for record in layers]
    trend = decay([(r.name, m or 0.0) for r, m in zip(layers, moments, strict=True)])
    if trend is None or trend.change > DECAY_WARNING or trend.fit.high >= 1.0:
        return None
    gone = lost(layers[-1], facts)
    severity: Severity = "error" if gone or trend.change < DECAY_ERROR else "warning"
    weights = [facts.layers[name].weight for name in trend.names]
    what = "variance between samples" if between else "second moment"
    end = "; what is left at the end is rounding, the output does not depend on the input"
    return Finding(
        code="IN201",
        severity=_softened(severity, facts),
        title="vanishing signal",
        where=trend.names + trend.rest,
        message=f"each of these {len(trend.names)} layers multiplies the {what} by "
        f"{trend.factor:.2g}, from {trend.before:.2g} to {_number(trend.after)} "
        f"(fitted: {trend.fit}){_rest(trend)}"
        + (end if gone else "")
        + _cause(trend, facts, view, weights)
        + _softening(facts),
        fix=advice(view, weights),
        numbers=_numbers(trend),
    )


def _lost(layers: list[LayerRecord], facts: Facts, view: ModelView) -> Finding | None:
    layers = chain(facts, view, with_head=True)
    if not layers or not lost(layers[-1], facts):
        return None
    first = len(layers)
    while first > 0 and lost(layers[first - 1], facts):
        first -= 1
    names = tuple(record.name for record in layers[first:])
    source = _where_lost(layers, first, facts)
    gates = [record.name for record in closed(facts, view)]
    root = layers[first] if source is None else source
    names = tuple(dict.fromkeys([root.name, *names]))
    message = (
        f"the output of {root.name or 'the model'} is the same for every sample "
        f"(variance between samples {root.signal:.2g}, second moment {root.second_moment:.2g}), "
        "and so is all that follows"
    )
    middle = in_the_middle(facts, view)
    if middle:
        message += f"; {listed(middle)} start at zero, and nothing goes around them"
    elif gates:
        message += f"; {listed(gates)} start at zero and receive a gradient: open from step 2"
    return Finding(
        code="IN203",
        severity="warning" if middle else "info" if gates else _softened("error", facts),
        title="the output does not depend on the input",
        where=tuple(dict.fromkeys([*middle, *gates, *names])),
        message=message + ("" if gates else _softening(facts)),
        fix=_mended(source, gates, middle, layers, view),
        numbers={
            "signal": root.signal or 0.0,
            "second_moment": root.second_moment,
            "gates": len(middle),
        },
    )


def _mended(
    source: LayerRecord | None,
    gates: list[str],
    middle: list[str],
    layers: list[LayerRecord],
    view: ModelView,
) -> str:
    if middle:
        return around(middle, view)
    if gates:
        return ""
    if source is not None:
        return f"look at {source.name or 'the model'} first: it hands on a constant"
    return advice(view, [record.weight for record in layers])


def _where_lost(layers: list[LayerRecord], first: int, facts: Facts) -> LayerRecord | None:
    """The first module of any kind behind the last layer that still tells samples apart."""
    after = layers[first - 1].order if first else -1
    between = [r for r in facts.layers.values() if after < r.order < layers[first].order]
    found = [record for record in between if record.signal is not None and lost(record, facts)]
    return min(found, key=lambda record: record.order, default=None)


def _extreme(layers: list[LayerRecord], facts: Facts, view: ModelView) -> Finding | None:
    """Too few layers for a trend, and yet values that nothing can work with."""
    layers = chain(facts, view, with_head=True)
    huge = next((record for record in layers if record.second_moment > HUGE), None)
    last = layers[-1] if layers else None
    tiny = last if last is not None and 0.0 < last.second_moment < TINY else None
    root = huge or tiny
    if root is None:
        return None
    return Finding(
        code="IN202" if huge else "IN201",
        severity=_softened("error", facts),
        title="exploding signal" if huge else "vanishing signal",
        where=(root.name,),
        message=f"the output of {root.name or 'the model'} has second moment "
        f"{root.second_moment:.2g}, where about 1 is healthy" + _softening(facts),
        fix=advice(view, [record.weight for record in layers]),
        numbers={"second_moment": root.second_moment},
    )


def _cause(trend: Trend, facts: Facts, view: ModelView, weights: list[str | None]) -> str:
    """What the weights' variance is in units of 1/fan_in, and what the activation asks for."""
    held = [
        (facts.parameters[name].second_moment, known.fan_in)
        for name in weights
        if name is not None and (known := view.parameters[name]).fan_in
    ]
    if not held:
        return ""
    gains = sorted(second * fan for second, fan in held if fan is not None)
    gain = gains[len(gains) // 2]
    activation = activation_of(view, weights)
    try:
        needed = forward_gain(activation) if activation else 1.0
    except RecipeError:
        return f". Their weights have variance {gain:.2g}/fan_in"
    if (gain > needed) != (trend.factor > 1):
        return ""
    name = activation or "a linear layer"
    text = f". Their weights have variance {gain:.2g}/fan_in, and {name} needs {needed:.3g}/fan_in"
    if abs(gain - 1 / 3) < 0.02:
        text += " (torch's default, uniform within 1/sqrt(fan_in), gives a third)"
    if activation == "relu":
        text += ": relu halves the second moment"
    return text


def _rest(trend: Trend) -> str:
    return f"; the {len(trend.rest)} layers after them bring nothing back" if trend.rest else ""


def _softened(severity: Severity, facts: Facts) -> Severity:
    return "warning" if facts.fresh_norms and severity == "error" else severity


def _softening(facts: Facts) -> str:
    if not facts.fresh_norms:
        return ""
    return (
        ". Batch norms run in eval mode on statistics that were never collected and do nothing; "
        "in training mode they would"
    )


def _numbers(trend: Trend) -> dict[str, float]:
    return {
        "layers": len(trend.names),
        "factor": trend.factor,
        "factor_low": trend.fit.low,
        "factor_high": trend.fit.high,
        "change": trend.change,
        "before": trend.before,
        "after": trend.after,
    }


def _number(value: float) -> str:
    return f"{value:.2g}" if value - value == 0.0 else "overflow"
