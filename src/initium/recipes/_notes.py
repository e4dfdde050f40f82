"""What a plan of ``auto`` says of a model as a whole: where no start of weights alone is enough.

Plain chains that spread (:mod:`initium.recipes._chains`), gated layers in a row, signals behind
repeated pooling, activations without a name, and joined signals that are not followed. Nothing is
said of what a norm or a residual stream puts right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from initium._plan.layout import matrices
from initium._scheme.points import at
from initium._types import ModelView, ParameterView
from initium.recipes._chains import SPREAD, chain_of, chains, reads_pair
from initium.recipes._joins import moments
from initium.recipes._signal import Signal, signals

__all__ = ["notes", "pooled_ends"]

UNLIKE = 0.01
"""The variance of log q over samples of the data: their q differ by a tenth."""
FADED = 4.0
"""By how much pooling may change a second moment before the plan says so."""


def notes(model: ModelView) -> str | None:
    """What does not hold of a model's start, as sentences; ``None`` if nothing.

    Example:
        >>> notes(ModelView(model="Net", parameters={}, buffers={})) is None
        True
    """
    told = [chain.warning for chain in chains(model) if chain.warning]
    ordered = [view for view in model.owners if view.is_matrix and view.order is not None]
    ordered.sort(key=lambda view: view.order or 0)
    told += [*_gated(model, ordered), *_pooled(model, ordered), *_unnamed(ordered)]
    told += _unfollowed(model, ordered)
    return " ".join(dict.fromkeys(told)) or None


def _unnamed(ordered: list[ParameterView]) -> list[str]:
    """Activations whose moments are known at unit pre-activations alone."""
    found = [view for view in ordered if (view.activation or "").startswith("custom")]
    found = [view for view in found if not view.norm_after]
    if not found:
        return []
    worst = max(view.gain / view.backward_gain for view in found)
    return [
        f"Activations without a name, first behind {found[0].name} ({found[0].activation}): their "
        "moments are known at unit pre-activations alone, and how deviations grow is not followed; "
        f"each changes the gradient by up to x{worst:.2g}."
    ]


def _unfollowed(model: ModelView, ordered: list[ParameterView]) -> list[str]:
    """Where what signals are joined to is not followed, outside streams and attention."""
    known = signals(model)
    found = [
        view.name
        for view in ordered
        if view.name in known
        and not known[view.name].followed
        and view.trunk is None
        and not view.norm_after
        and view.source in ("mixed", "product")
        and (len(view.reads) > 1 or view.joined is not None)
    ]
    if not found:
        return []
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return [
        f"The signal in front of {found[0]}{more} is joined from several that are not followed, "
        f"and taken as {known[found[0]].before:.2f}. initium.calibrate(model, inputs) measures it."
    ]


# Gated layers in a row ---------------------------------------------------------------------------


def _gated(model: ModelView, ordered: list[ParameterView]) -> list[str]:
    """E[(phi(a) b)^2] goes with the power s + 1 of E[x^2], s = d log E[phi^2] / d log K, so that
    deviations grow by s + 1 at every layer: v -> (s + 1)^2 v + c / n. Plain layers in between hand
    them on, v -> s^2 v + c / n. Samples deviate from the start, by :data:`UNLIKE`."""
    known = signals(model)
    held: dict[frozenset[str], tuple[float, int]] = {}
    told, worst = "", SPREAD
    for view in ordered:
        unit = _unit(view, ordered)
        if unit in held or view.norm_before or view.norm_after or view.trunk is not None:
            continue
        follows = view.source == "product" and (len(view.reads) == 1 or reads_pair(view, model))
        start = (UNLIKE if view.source == "input" else 0.0, 0)
        before, layers = held.get(frozenset(view.reads), start) if follows else start
        growth, excess = _product([one for one in ordered if one.name in unit], known)
        spread = growth**2 * before + excess / _width(view)
        held[unit] = spread, layers + _is_gated(view, unit)
        if held[unit][1] > max(layers, 1) and spread > worst:
            worst = spread
            told = (
                f"{layers + 1} gated layers in a row up to {view.name}, without norms or shortcuts:"
                f" the product of two branches spreads log q by {math.sqrt(spread):.2g} over seeds "
                "and samples; no start of weights alone repairs it, a norm or residual branches "
                "would."
            )
    return [told] if told else []


def _unit(view: ParameterView, ordered: list[ParameterView]) -> frozenset[str]:
    """The matrix, or the two that make a gated product."""
    beside = [
        other.name
        for other in ordered
        if other.gated and other.reads == view.reads and other.source == view.source
    ]
    return frozenset(beside if view.gated and len(beside) == 2 else [view.name])


def _is_gated(view: ParameterView, unit: frozenset[str]) -> bool:
    return len(unit) == 2 or {"gate", "up"} <= {block.label for block in view.blocks}


def _product(factors: list[ParameterView], known: Mapping[str, Signal]) -> tuple[float, float]:
    """d log E[y^2] / d log q, and E[y^4] / E[y^2]^2 - 1, of a product of independent factors."""
    growth, fourth = 0.0, 1.0
    for view in factors:
        signal = known[view.name]
        for matrix, variance in zip(matrices(view), signal.variances, strict=True):
            point = at(matrix.activation, variance * signal.before)
            growth += point.growth if point is not None else 1.0
            fourth *= point.excess + 1 if point is not None else 3.0
    return growth, fourth - 1


def _width(view: ParameterView) -> int:
    ups = [block.total for block in view.blocks if block.label == "up"]
    return ups[0] if ups else view.shape[0]


# Pooling -----------------------------------------------------------------------------------------


def pooled_ends(view: ParameterView, model: ModelView) -> tuple[float, float]:
    """E[x^2] of what a matrix reads behind pooling, relative to what is counted: where the elements
    that are joined are alike, and where they are independent. (1, 1) elsewhere.

    Between mirrored pairs, whose means cancel, a mean leaves 1 / window and a maximum about 1.
    """
    known = signals(model)
    if not view.pooling or view.window < 2 or not all(name in known for name in view.reads):
        return 1.0, 1.0
    chain = chain_of(view, model)
    if chain is not None and chain.links[view.name].inputs:
        return 1.0, 1 / view.window if view.pooling == "mean" else 1.0
    if view.joined is None:
        return 1.0, 1.0
    counted, *ends = (
        moments(view.joined, {name: _neighbours(known[name], given) for name in view.reads})
        for given in (None, 1.0, 0.0)
    )
    alike, apart = (end.second / counted.second if end and counted else 1.0 for end in ends)
    return alike, apart


def _neighbours(signal: Signal, alike: float | None) -> Signal:
    return signal if alike is None else replace(signal, alike=alike)


def _pooled(model: ModelView, ordered: list[ParameterView]) -> list[str]:
    """Poolings in a row, without a norm or a stream in between."""
    strays: dict[str, tuple[float, float, int]] = {}
    told, worst = "", FADED
    for view in ordered:
        if view.source != "product" or len(view.reads) != 1:
            continue
        alike, apart, count = strays.get(view.reads[0], (1.0, 1.0, 0))
        own = pooled_ends(view, model)
        strays[view.name] = alike * own[0], apart * own[1], count + (own != (1.0, 1.0))
        alike, apart, count = strays[view.name]
        stray = max(alike, 1 / alike, apart, 1 / apart)
        if stray > worst and count > 1 and view.role != "head" and view.trunk is None:
            worst = stray
            told = (
                f"Behind {count} poolings in a row, up to {view.name}, the signal counts as it is "
                f"where neighbours are half alike in the data; where those that are joined are "
                f"alike it comes to x{alike:.2g}, and where they are independent to x{apart:.2g}. "
                "initium.calibrate(model, inputs) measures it."
            )
    return [told] if told else []
