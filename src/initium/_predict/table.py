"""A prediction as text: a line per module, modules of repeated blocks folded into one line."""

from __future__ import annotations

from itertools import pairwise

from rich.console import RenderableType

from initium._predict.records import Band, LayerPrediction, Prediction
from initium._tables import fold, number, render, table

__all__ = ["prediction_table"]


def prediction_table(prediction: Prediction, width: int | None = None) -> str:
    """The table; a folded line shows how a moment goes from its first module to its last.

    A module that only passes on what the one before it returned has no line.
    """
    shown = _shown(list(prediction.layers.values()))
    rows = []
    for group in fold((one.name, one.module_type) for one in shown):
        layers = [prediction.layers[name] for name in group.names]
        rows.append(
            (
                group.pattern or "(the model)",
                layers[0].module_type,
                _path([one.second_moment for one in layers]),
                _within([one.band for one in layers]),
                _path([one.grad_second_moment for one in layers]),
            )
        )
    columns = ("name", "type", "E[x^2]", "95% of starts", "E[grad^2]")
    right = ("E[x^2]", "95% of starts", "E[grad^2]")
    body = table(columns, rows, right=right, whole=right, width=width)
    heading = (
        f"{prediction.model} under {prediction.plan}: predicted from "
        f"{prediction.draws} draws, batch {prediction.batch}"
    )
    parts: list[RenderableType] = [heading, "", body]
    if prediction.loss is not None and prediction.loss_band is not None:
        band = prediction.loss_band
        low, high = number(band.low, 4), number(band.high, 4)
        parts += ["", f"first loss {number(prediction.loss, 4)}, 95% of starts {low} .. {high}"]
    parts += [f"note: {note}" for note in _folded(prediction.notes)]
    return render(*parts, width=width)


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


def _path(values: list[float | None]) -> str:
    first, last = values[0], values[-1]
    return number(first) if len(values) == 1 else f"{number(first)} -> {number(last)}"


def _within(bands: list[Band]) -> str:
    low, high = min(band.low for band in bands), max(band.high for band in bands)
    return f"{number(low, 2)} .. {number(high, 2)}"
