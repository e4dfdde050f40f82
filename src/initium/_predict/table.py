"""A prediction as text: a line per module, modules of repeated blocks folded into one line."""

from __future__ import annotations

import math
from itertools import pairwise

from rich.console import RenderableType

from initium._predict.measure import CLOSED, SAMPLED
from initium._predict.records import Band, LayerPrediction, Prediction
from initium._tables import fold, number, render, table

__all__ = ["prediction_table"]


def prediction_table(prediction: Prediction, width: int | None = None) -> str:
    """The table; a folded line shows how a moment goes from its first module to its last.

    A module that only passes on what the one before it returned has no line, nor has one that
    returns the loss, which is told below.
    """
    told = prediction.loss is not None
    shown = _shown([one for one in prediction.layers.values() if one.shape or not told])
    rows: list[tuple[str, ...]] = []
    for group in fold((one.name, one.module_type) for one in shown):
        layers = [prediction.layers[name] for name in group.names]
        spread = (_spread([one.band for one in layers if one.band]),) if prediction.draws else ()
        forward, backward = (
            _path([one.second_moment for one in layers]),
            _path([one.grad_second_moment for one in layers]),
        )
        rows.append((group.pattern or "(the model)", forward, *spread, backward, _tiers(layers)))
    right = ("E[x^2]", *(("95% within",) if prediction.draws else ()), "E[grad^2]")
    columns = ("name", *right, "by")
    body = table(columns, rows, right=right, whole=(*right, "by"), width=width)
    source = f"{prediction.draws} lazy draws" if prediction.draws else "closed forms"
    heading = (
        f"{prediction.model} under {prediction.plan}: predicted from {source}, "
        f"batch {prediction.batch}"
    )
    parts: list[RenderableType] = [heading, "", body]
    if prediction.loss is not None:
        line, band = f"first loss {number(prediction.loss, 4)}", prediction.loss_band
        if band is not None:
            line += f", 95% of starts {number(band.low, 4)} .. {number(band.high, 4)}"
        parts += ["", line]
    if prediction.problem:
        parts += ["", f"not all is predicted: {prediction.problem}", ""]
    parts.append(_legend(prediction))
    parts += [f"note: {note}" for note in _folded(prediction.notes)]
    return render(*parts, width=width)


def _legend(prediction: Prediction) -> str:
    tiers = {t for one in prediction.layers.values() for t in (one.tier, one.grad_tier) if t}
    shown = ", ".join(f"{tier[0]} {tier}" for tier in sorted({CLOSED, SAMPLED} | tiers))
    return f"by: {shown}; for the signal and for the gradient"


def _shown(layers: list[LayerPrediction]) -> list[LayerPrediction]:
    found = layers[:1]
    for before, layer in pairwise(layers):
        same = before.second_moment == layer.second_moment and before.mean == layer.mean
        if not same or before.grad_second_moment != layer.grad_second_moment:
            found.append(layer)
    return found


def _folded(notes: tuple[str, ...]) -> list[str]:
    """Notes on parameters, ``name: text``, with the names of repeated blocks in one."""
    parts = [note.partition(": ") for note in notes]
    named = fold((name, text) for name, mark, text in parts if mark and " " not in name)
    texts = {name: text for name, _, text in parts}
    rest = [
        note for note, (name, mark, _) in zip(notes, parts, strict=True) if not mark or " " in name
    ]
    return [*rest, *(f"{group.pattern}: {texts[group.names[0]]}" for group in named)]


def _tiers(layers: list[LayerPrediction]) -> str:
    """The initials of the tiers of the signal and of the gradient, the weakest of each."""
    found = [{one.tier[:1] for one in layers}, {one.grad_tier[:1] or "-" for one in layers}]
    return "/".join(next(one for one in "mlc-" if one in initials) for initials in found)


def _path(values: list[float | None]) -> str:
    first, last = values[0], values[-1]
    return number(first) if len(values) == 1 else f"{number(first, 2)} -> {number(last, 2)}"


def _spread(bands: list[Band]) -> str:
    """The largest factor within which 95% of starts lie, either way."""
    factors = [math.sqrt(band.high / band.low) for band in bands if band.low > 0]
    return f"x {number(max(factors), 3)}" if factors else ""
