"""Findings on single layers: out of line with their like (IN204), shifted off zero (IN205), or at a
wrong scale that a norm hides (IN209)."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from initium._check.chain import chain, listed, lost
from initium._check.facts import Facts
from initium._check.thresholds import (
    ALIGNED,
    BIAS_SHARE,
    BIAS_TIMES,
    CHANNEL_MEAN,
    GAIN_OUTLIER,
    HIDDEN_GAIN,
    MEAN_SIGMAS,
    NORM_SCALE,
    PEERS,
)
from initium._report.records import Finding, LayerRecord, ParameterRecord
from initium._types import ModelView, ParameterView

__all__ = [
    "bias_of",
    "find_hidden_scale",
    "find_mean_shift",
    "find_norm_scales",
    "find_outliers",
]


def find_outliers(facts: Facts, view: ModelView) -> list[Finding]:
    """Matrices whose gain E[out^2]/E[in^2] is far from that of the others of their role and shape.

    For independent weights of mean zero the gain is fan_in E[w^2], whatever the input, so layers
    behind the one at fault are not blamed. What a bias adds is taken out.
    """
    groups: dict[tuple[str, tuple[int, ...]], list[_Gain]] = {}
    seen = set()
    for record in _products(facts, view, with_head=True):
        gain = _gain(record, facts, view)
        if gain is not None:
            known = view.parameters[record.weight or ""]
            seen.add(known.name)
            groups.setdefault((known.role, known.shape), []).append(_Gain(gain, known, record))
    for known in view.owners:
        held = facts.parameters.get(known.name)
        if known.name not in seen and held is not None and _stands_alone(known, held):
            gain = (known.fan_in or 1) * held.second_moment
            groups.setdefault((known.role, known.shape), []).append(_Gain(gain, known, None))
    found = []
    for group in groups.values():
        if len(group) <= PEERS:
            continue
        usual = statistics.median(one.gain for one in group)
        for one in group:
            if abs(math.log(one.gain / usual)) > math.log(GAIN_OUTLIER):
                found.append((one, usual, len(group) - 1))
    found.sort(key=lambda item: item[0].order)
    return [_outlier(*item, facts, view) for item in found]


@dataclass(frozen=True, slots=True)
class _Gain:
    """What a matrix multiplies the second moment by: measured, or fan_in E[w^2]."""

    gain: float
    known: ParameterView
    record: LayerRecord | None

    @property
    def order(self) -> int:
        return self.known.order or 0


def _stands_alone(known: ParameterView, held: ParameterRecord) -> bool:
    """A matrix without a module of its own, such as stacked experts, or beside the main path."""
    written = "parametrizations." in known.name or known.name.endswith(("weight_v", "_orig"))
    adapter = known.role.startswith("lora")
    return known.is_matrix and held.second_moment > 0.0 and not (written or adapter)


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
    """E[(W x)^2] / E[x^2]; where the bias leaves too little of it to tell, or all samples have the
    same output, fan_in E[w^2]."""
    known = view.parameters[record.weight or ""]
    bias = bias_of(known, facts, view)
    added = facts.parameters[bias].second_moment if bias is not None else 0.0
    product = record.second_moment - added
    if not record.input_second_moment or not product < math.inf:
        return None
    if product <= 0.1 * record.second_moment or lost(record, facts):
        return (known.fan_in or 0) * facts.parameters[known.name].second_moment or None
    return product / record.input_second_moment


def _outlier(one: _Gain, usual: float, peers: int, facts: Facts, view: ModelView) -> Finding:
    known, gain, weight = one.known, one.gain, one.known.name
    place = one.record.name if one.record is not None else weight
    layers = chain(facts, view, with_head=True)
    after = [r.name for r in layers if _order_of(r, view) > one.order]
    factor = math.sqrt(usual / gain)
    held = facts.parameters[weight]
    equal = {name for f in facts.values if f.code == "IN403" for name in f.where}
    scaled = held.std > abs(held.mean) and weight not in equal
    if scaled:
        fix = f'model.get_parameter("{weight}").data.mul_({factor:.3g}), or initialise it as the '
        fix += "others are"
    else:
        size = math.sqrt(held.second_moment) * factor
        fix = f'draw it at random: torch.nn.init.normal_(model.get_parameter("{weight}"), '
        fix += f"std={size:.3g})"
    why = "" if scaled else f": its units are alike (mean {held.mean:.2g}, std {held.std:.2g})"
    return Finding(
        code="IN204",
        severity="warning",
        title="one layer out of line",
        where=tuple(dict.fromkeys([place, weight])),
        message=f"{place} multiplies the second moment by {gain:.2g}; the {peers} other "
        f"matrices of its role ({known.role}) and shape do so by {usual:.2g}{why}. Affected behind "
        f"it: {listed(name or '(model)' for name in after) or 'the output'}",
        fix=fix,
        numbers={"gain": gain, "usual": usual, "peers": peers},
    )


def _order_of(record: LayerRecord, view: ModelView) -> int:
    return view.parameters[record.weight or ""].order or 0


def find_norm_scales(facts: Facts, view: ModelView) -> list[Finding]:
    """Scales of norms that multiply what they were to normalise (IN204).

    Judged against the value at which a norm changes nothing: 1, or 0 where the model adds one.
    """
    found: list[tuple[str, float]] = []
    for known in view.owners:
        held = facts.parameters.get(known.name)
        if known.role != "norm_scale" or held is None or held.second_moment == 0.0:
            continue
        gain = held.second_moment
        if known.neutral == 0.0:
            gain += 1.0 + 2.0 * held.mean
        if gain > NORM_SCALE or 0.0 < gain < 1 / NORM_SCALE:
            found.append((known.name, gain))
    if not found:
        return []
    first, gain = found[0]
    neutral = view.parameters[first].neutral or 0.0
    names = [name for name, _ in found]
    writer = "zeros_" if neutral == 0.0 and view.parameters[first].neutral is not None else "ones_"
    return [
        Finding(
            code="IN204",
            severity="warning",
            title="the scale of a norm out of line",
            where=tuple(names),
            message=f"{first} multiplies the second moment of what its norm has normalised by "
            f"{gain:.2g}; {len(names)} scale(s) of norms in all: {listed(names)}",
            fix=f'torch.nn.init.{writer}(model.get_parameter("{first}"))',
            numbers={"gain": gain, "scales": len(names)},
        )
    ]


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
    bias = bias_of(known, facts, view)
    if bias is not None and (record.channel_mean or 0.0) > CHANNEL_MEAN:
        second = facts.parameters[bias].second_moment
        if second > max(BIAS_SHARE * record.second_moment, BIAS_TIMES * largest):
            root = math.sqrt(second)
            cause = f"its bias has root mean square {root:.2g}, more than what the input brings"
            return bias, cause, f"start it at zero: torch.nn.init.zeros_ on {bias}"
    return None


def bias_of(known: ParameterView, facts: Facts, view: ModelView) -> str | None:
    """The bias that is added to the product of a matrix, by name."""
    beside = view.parameters.get(f"{known.module}.bias" if known.module else "bias")
    named = [beside] if beside is not None else view.parameters.values()
    found = (one.name for one in named if one.role == "bias" and one.partner == known.name)
    return next((name for name in found if name in facts.parameters), None)


def find_hidden_scale(facts: Facts, view: ModelView) -> list[Finding]:
    """Matrices beside a norm whose typical gain is far from one: the norm hides it from the signal,
    but the gradient goes as 1/||W||.

    Before a norm, behind one, and at the ends of branches that a norm reads are told apart.
    """
    sides: dict[str, list[LayerRecord]] = {}
    for record in chain(facts, view):
        side = _beside_norm(view.parameters[record.weight or ""], view)
        if side is not None and _gain(record, facts, view):
            sides.setdefault(side, []).append(record)
    for side, records in sides.items():
        gain = statistics.median(_gain(record, facts, view) or 0.0 for record in records)
        if 0.0 < gain < math.inf and abs(math.log(gain)) >= math.log(HIDDEN_GAIN):
            return [_hidden(side, gain, records, facts)]
    return []


def _beside_norm(known: ParameterView, view: ModelView) -> str | None:
    if known.norm_after:
        return "before a norm"
    if known.writes_residual:
        norms = any(other.role == "norm_scale" for other in view.owners)
        return "at the end of a branch of a normalised stream" if norms else None
    return "behind a norm" if known.norm_before else None


def _hidden(side: str, gain: float, records: list[LayerRecord], facts: Facts) -> Finding:
    weights = [record.weight or "" for record in records]
    ratios = [
        math.sqrt((held.grad_second_moment or 0.0) / held.second_moment)
        for held in (facts.parameters[name] for name in weights)
        if held.second_moment
    ]
    ratio = statistics.median(ratios) if ratios else 0.0
    word = "large" if gain > 1 else "small"
    return Finding(
        code="IN209",
        severity="warning",
        title="a norm hides the scale of the weights",
        where=tuple(weights),
        message=f"{len(weights)} matrices {side} multiply the second moment by {gain:.2g}. Norms "
        "take that out of the signal, but not out of training: with a gradient over weight of "
        f"{ratio:.2g} the weights are too {word} for the learning rate of the rest",
        fix=f"multiply them by {1 / math.sqrt(gain):.2g}, or draw them with variance 1/fan_in: "
        'initium.initialize(model, "lecun")',
        numbers={"gain": gain, "gradient_to_weight": ratio, "matrices": len(weights)},
    )
