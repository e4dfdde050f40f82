"""Findings on single layers: out of line with their like (IN204), shifted off zero (IN205), or at a
wrong scale that a norm hides (IN209)."""

from __future__ import annotations

import math
import statistics

from initium._check.chain import chain, listed
from initium._check.facts import Facts
from initium._check.thresholds import (
    ALIGNED,
    BIAS_SHARE,
    BIAS_TIMES,
    CHANNEL_MEAN,
    GAIN_OUTLIER,
    HIDDEN_GAIN,
    MEAN_SIGMAS,
    PEERS,
)
from initium._report.records import Finding, LayerRecord
from initium._types import ModelView, ParameterView

__all__ = ["find_hidden_scale", "find_mean_shift", "find_outliers"]


def find_outliers(facts: Facts, view: ModelView) -> list[Finding]:
    """Matrices whose gain E[out^2]/E[in^2] is far from that of the others of their role and shape.

    For independent weights of mean zero the gain is fan_in E[w^2], whatever the input, so layers
    behind the one at fault are not blamed. What a bias adds is taken out.
    """
    groups: dict[tuple[str, tuple[int, ...]], list[tuple[float, LayerRecord]]] = {}
    for record in _products(facts, view, with_head=True):
        gain = _gain(record, facts, view)
        if gain is not None:
            known = view.parameters[record.weight or ""]
            groups.setdefault((known.role, known.shape), []).append((gain, record))
    found = []
    for group in groups.values():
        if len(group) <= PEERS:
            continue
        usual = statistics.median(gain for gain, _ in group)
        for gain, record in group:
            if abs(math.log(gain / usual)) > math.log(GAIN_OUTLIER):
                found.append((record, gain, usual, len(group) - 1))
    found.sort(key=lambda item: item[0].order)
    return [_outlier(*item, facts, view) for item in found]


def _products(facts: Facts, view: ModelView, with_head: bool = False) -> list[LayerRecord]:
    """Of the chain the modules whose output is their product: not recurrent ones, nor those with a
    matrix of their own beside other modules."""
    parents = {name.rpartition(".")[0] for name in facts.layers}
    return [
        record
        for record in chain(facts, view, with_head)
        if record.name not in parents
        and not view.parameters[record.weight or ""].role.startswith("recurrent")
    ]


def _gain(record: LayerRecord, facts: Facts, view: ModelView) -> float | None:
    """E[(W x)^2] / E[x^2]; ``None`` where the bias leaves too little of it to tell."""
    bias = _bias(view.parameters[record.weight or ""], facts, view)
    added = facts.parameters[bias].second_moment if bias is not None else 0.0
    product = record.second_moment - added
    if not record.input_second_moment or not 0.1 * record.second_moment < product < math.inf:
        return None
    return product / record.input_second_moment


def _outlier(
    record: LayerRecord, gain: float, usual: float, peers: int, facts: Facts, view: ModelView
) -> Finding:
    weight = record.weight or ""
    known = view.parameters[weight]
    after = [r.name for r in chain(facts, view, with_head=True) if r.order > record.order]
    factor = math.sqrt(usual / gain)
    return Finding(
        code="IN204",
        severity="warning",
        title="one layer out of line",
        where=(record.name, weight),
        message=f"{record.name} multiplies the second moment by {gain:.2g}; the {peers} other "
        f"matrices of its role ({known.role}) and shape do so by {usual:.2g}. Affected behind it: "
        f"{listed(after) or 'the output'}",
        fix=f'model.get_parameter("{weight}").data.mul_({factor:.3g}), or initialise it as the '
        "others are",
        numbers={"gain": gain, "usual": usual, "peers": peers},
    )


def find_mean_shift(facts: Facts, view: ModelView) -> list[Finding]:
    """The first layer whose output is mostly a constant that its bias, or the mean of its weights,
    makes of it."""
    shifted, largest = [], 0.0
    for record in _products(facts, view):
        largest = max(largest, record.input_second_moment or 0.0)
        hidden = view.parameters[record.weight or ""].norm_after
        if not hidden:
            cause = _cause_of_shift(record, largest, facts, view)
            shifted += [(record, cause)] if cause is not None else []
        largest = max(largest, record.second_moment)
    if not shifted:
        return []
    root, (culprit, why, fix) = shifted[0]
    names = [record.name for record, _ in shifted]
    share = root.channel_mean or 0.0
    return [
        Finding(
            code="IN205",
            severity="warning",
            title="signal drowned by its mean",
            where=(culprit, *names),
            message=f"{share:.2%} of the second moment of {root.name} is the same for every sample "
            f"and position: {why} ({len(names)} layer(s) in all)",
            fix=fix,
            numbers={"channel_mean": share, "layers": len(names)},
        )
    ]


def _cause_of_shift(
    record: LayerRecord, largest: float, facts: Facts, view: ModelView
) -> tuple[str, str, str] | None:
    held = facts.parameters[record.weight or ""]
    known = view.parameters[held.name]
    size = math.prod(held.shape)
    random = (known.fan_in or 0) * held.second_moment * (record.input_second_moment or 0.0)
    sigmas = abs(held.mean) / max(held.std, 1e-300) * math.sqrt(size)
    if random and record.second_moment > ALIGNED * random and sigmas > MEAN_SIGMAS:
        times = record.second_moment / random
        cause = (
            f"the weights have mean {held.mean:.2g} at std {held.std:.2g}, and so has the input: "
            f"the products add up to {times:.2g} times what weights of mean zero give"
        )
        return held.name, cause, "draw the weights with mean zero"
    bias = _bias(known, facts, view)
    if bias is not None and (record.channel_mean or 0.0) > CHANNEL_MEAN:
        second = facts.parameters[bias].second_moment
        if second > max(BIAS_SHARE * record.second_moment, BIAS_TIMES * largest):
            root = math.sqrt(second)
            cause = f"its bias has root mean square {root:.2g}, more than what the input brings"
            return bias, cause, f"start it at zero: torch.nn.init.zeros_ on {bias}"
    return None


def _bias(known: ParameterView, facts: Facts, view: ModelView) -> str | None:
    beside = view.parameters.get(f"{known.module}.bias" if known.module else "bias")
    named = [beside] if beside is not None else view.parameters.values()
    found = (one.name for one in named if one.role == "bias" and one.partner == known.name)
    return next((name for name in found if name in facts.parameters), None)


def find_hidden_scale(facts: Facts, view: ModelView) -> list[Finding]:
    """Matrices before a norm whose typical gain is far from one: the norm hides it from the signal,
    but the gradient goes as 1/||W||."""
    hidden = [
        (record.gain, record)
        for record in chain(facts, view)
        if record.gain and view.parameters[record.weight or ""].norm_after
    ]
    if not hidden:
        return []
    gain = statistics.median(value for value, _ in hidden)
    if not 0.0 < gain < math.inf or abs(math.log(gain)) < math.log(HIDDEN_GAIN):
        return []
    weights = [record.weight or "" for _, record in hidden]
    ratios = [
        math.sqrt((held.grad_second_moment or 0.0) / held.second_moment)
        for held in (facts.parameters[name] for name in weights)
        if held.second_moment
    ]
    ratio = statistics.median(ratios) if ratios else 0.0
    word = "large" if gain > 1 else "small"
    return [
        Finding(
            code="IN209",
            severity="warning",
            title="a norm hides the scale of the weights",
            where=tuple(weights),
            message=f"{len(weights)} matrices before a norm multiply the second moment by "
            f"{gain:.2g}. The norm takes that out of the signal, but not out of training: their "
            f"gradient goes as 1/||W|| (gradient over weight is {ratio:.2g}), so the weights are "
            f"too {word} for the learning rate of the rest",
            fix=f"multiply them by {1 / math.sqrt(gain):.2g}, or draw them with variance "
            '1/fan_in: initium.initialize(model, "lecun")',
            numbers={"gain": gain, "gradient_to_weight": ratio, "matrices": len(weights)},
        )
    ]
