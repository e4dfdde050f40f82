"""Findings on predictions: a layer whose signal or gradient is not what was predicted (IN602)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

from initium._check.chain import listed
from initium._check.thresholds import DEPARTURE
from initium._predict.records import Band, LayerPrediction, Prediction
from initium._report.records import Finding, LayerRecord, ParameterRecord

__all__ = ["find_departures"]

Step = tuple[str, float]
"""A module, and log(measured / predicted) of its moment."""


def find_departures(
    layers: Mapping[str, LayerRecord],
    parameters: Mapping[str, ParameterRecord],
    prediction: Prediction,
) -> list[Finding]:
    """Modules outside the band of single starts, and beyond it by more than its own tolerance.

    The root is where the departure begins: the first such module in execution order for the signal,
    the last for the gradient, which comes from the other end.
    """
    order = sorted(prediction.layers.values(), key=lambda layer: layer.order)
    forward = list(_outside(order, layers, _signal))
    backward = list(_outside(order[::-1], layers, _gradient))
    found = []
    for label, steps in (("signal", forward), ("gradient", [] if forward else backward)):
        if not steps:
            continue
        name, log = steps[0]
        measured = layers[name]
        expected = prediction.layers[name]
        value, target, _ = (_signal if label == "signal" else _gradient)(measured, expected)
        found.append(
            Finding(
                code="IN602",
                severity="warning",
                title=f"{label} departs from its prediction",
                where=tuple(one for one, _ in steps),
                message=f"the {label} at {name or 'the output'} has second moment {value:.3g}, "
                f"predicted were {target:.3g}{_range(expected, label)}: a factor of "
                f"{math.exp(log):.3g}; {_cause(measured, parameters, log)}. {len(steps)} modules "
                f"in all: {listed([one for one, _ in steps])}",
                fix="apply the plan that was predicted, in the same mode and on the same batch; "
                "then look at the module that is named first",
                numbers={"factor": math.exp(log), "modules": len(steps)},
            )
        )
    return found


Pair = tuple[float | None, float | None, Band | None]


def _signal(measured: LayerRecord, expected: LayerPrediction) -> Pair:
    return measured.second_moment, expected.second_moment, expected.band


def _gradient(measured: LayerRecord, expected: LayerPrediction) -> Pair:
    return measured.grad_second_moment, expected.grad_second_moment, expected.grad_band


def _outside(
    order: list[LayerPrediction],
    layers: Mapping[str, LayerRecord],
    pair: Callable[[LayerRecord, LayerPrediction], Pair],
) -> Iterator[Step]:
    for expected in order:
        measured = layers.get(expected.name)
        if measured is None:
            continue
        value, target, band = pair(measured, expected)
        if not value or not target or band is None or not band.low > 0:
            continue
        log = math.log(value / target)
        reach = math.log(band.high / target) if log > 0 else math.log(target / band.low)
        if abs(log) > reach + math.log(DEPARTURE):
            yield expected.name, log


def _range(expected: LayerPrediction, label: str) -> str:
    band = expected.band if label == "signal" else expected.grad_band
    return "" if band is None else f" ({band.low:.3g} to {band.high:.3g} in 95% of starts)"


def _cause(measured: LayerRecord, parameters: Mapping[str, ParameterRecord], log: float) -> str:
    """Its own weight, where its std explains the factor; else what comes before."""
    record = parameters.get(measured.weight or "")
    if record is not None and record.planned_std and record.std:
        ratio = 2 * math.log(record.std / record.planned_std)
        if abs(ratio) > 0.5 * abs(log) and ratio * log > 0:
            return (
                f"its weight {record.name} has std {record.std:.3g} where the plan has "
                f"{record.planned_std:.3g}"
            )
    return "its weight is as planned, so look at what it reads, at the mode and at the batch"
