"""``predict``: closed forms of a model's signal under a plan, and bands from draws of the model.

Tiers, each number with its own: the *closed form* (:mod:`initium._predict.field`), exact at
infinite width; *monte carlo*, where an operator on the way has no closed form and was sampled
there; and the *lazy draw* (:mod:`initium._predict.lazy`) of the model at its real width, with exact
conditional laws in place of weights, from which bands come.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from initium._model.call import must_be_module, tensors
from initium._model.inputs import example_inputs, must_be_usable
from initium._plan import Plan
from initium._plan.fit import must_fit
from initium._predict.passes import SEEDS, STEADY, average, everywhere, gradients, run_passes
from initium._predict.realised import realised_plan
from initium._predict.records import Band, LayerMoments, LayerPrediction, Prediction
from initium._slopes import student
from initium.errors import InputError

__all__ = ["FEWEST", "predict"]

FEWEST = 3
"""Draws from which a spread can be told."""
DEPARTS = 1.5
"""A factor between closed form and draws that is worth a note, if it is outside the band too."""


def predict(
    model: nn.Module,
    plan: Plan | None,
    inputs: object = None,
    *,
    targets: object = None,
    loss_fn: Callable[[Any, Any], Any] | None = None,
    draws: int = 4,
    seed: int = 0,
) -> Prediction:
    """What the signal of a model would be after ``plan.apply(model)``, without any weights.

    The model's own code runs forward and backward without its weights; memory grows with the batch
    alone, so that a model of any size can be asked about on the meta device. In the closed form,
    products with a weight of variance s^2 and fan n give n s^2 times the second moment, functions
    f give E[f(z)^2], independent signals add and multiply, and gradients are independent of the
    signal (``docs/predict.md``). In a lazy draw a product is drawn from its exact law given all
    earlier products of its weight.

    Formulas: for draws q_1 .. q_n of a moment, exp(mean log q); its band for a single start is
    exp(mean log q +- t s sqrt(1 + 1/n)) with s their standard deviation and t the 97.5% point of
    Student's t with n - 1 degrees of freedom.

    Args:
        model: any module; its parameters may be on the meta device, and are not read unless the
            plan keeps them.
        plan: of this model; ``None``: what its own weights measure.
        inputs: one batch: a mapping goes in as ``**``, a tuple as ``*``, anything else as the one
            argument; ``None``: a batch is inferred from the model where it says what it takes.
        targets: for ``loss_fn``, or class indices for a cross-entropy of the output.
        loss_fn: ``loss_fn(output, targets)``; without it and without targets, the model's own
            loss, else a random cotangent.
        draws: how many lazy draws the bands rest on: at least 3, or 0 for closed forms alone.
        seed: of the draws; the same seed gives the same prediction.

    Raises:
        PlanError: not a plan, or one of another model.
        InputError: no batch, an empty one or one with NaN, or too few draws.
        ModelError: the model does not run on the batch, and no module has returned anything. Where
            some have, they are predicted, and ``problem`` says where and why it ends.

    Example:
        >>> import initium, torch
        >>> net = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512))
        >>> found = predict(net, initium.plan(net, "he"), torch.ones(1, 512))
        >>> 1.6 < found.layers["0"].second_moment < 2.4  # gain 2 for the ReLU that follows
        True

    Known divergences: at finite width, moments of deep plain nets spread over seeds and their
    typical value is below the closed form, which is their mean; see ``band``.

    Source: Schoenholz et al. 2017, arXiv:1611.01232 (mean field); Lu 2021, Householder Dice,
    arXiv:2101.07464 (lazy draws).
    """
    must_be_module(model)
    plan = realised_plan(model, inputs) if plan is None else must_fit(plan, {})
    if draws < FEWEST and draws != 0:
        raise InputError(f"has to be at least {FEWEST}, or 0", where="draws", value=draws)
    if not 0 <= seed < SEEDS:
        raise InputError("has to be from 0 to 2^64 - 1", where="seed", value=seed)
    made_up = inputs is None
    if made_up:
        inputs = example_inputs(model)
        if inputs is None:
            raise InputError(
                "a prediction needs a batch, and none can be inferred from this model",
                where="inputs",
                fix="pass inputs=, one batch as the model takes it",
            )
    must_be_usable(inputs)
    made = run_passes(model, plan, inputs, targets=targets, loss_fn=loss_fn, draws=draws, seed=seed)
    closed, lazy = made.closed, made.lazy
    found = [*closed, *lazy]
    layers = {
        name: _layer([one.layers[name] for one in closed], [one.layers[name] for one in lazy])
        for name in everywhere(found)
    }
    expected = [one.loss for one in closed if one.loss is not None]
    losses = [one.loss for one in lazy if one.loss is not None]
    loss, loss_error = average(expected, closed[0].loss_tier)
    band = _loss_band(losses) if losses else None
    notes = dict.fromkeys(note for one in found for note in one.notes)
    return Prediction(
        model=type(model).__name__,
        plan=plan.recipe,
        layers=layers,
        loss=loss,
        loss_band=band,
        loss_tier=closed[0].loss_tier,
        loss_error=loss_error,
        passes=len(closed),
        draws=draws,
        batch=_batch(inputs, made_up),
        notes=(
            *notes,
            *([] if draws else _spreads(layers, loss_error, len(closed))),
            *_departures(layers),
            *_loss_departs(loss, band),
        ),
        problem=next((one.problem for one in found if one.problem), "") or _undefined(layers),
    )


def _undefined(layers: Mapping[str, LayerPrediction]) -> str:
    """Where the signal stops being a number."""
    missing = [name for name, one in layers.items() if math.isnan(one.second_moment)]
    if not missing:
        return ""
    return (
        f"the signal is NaN behind {missing[0] or 'the model'}, and in {len(missing)} of "
        f"{len(layers)} modules"
    )


def _spreads(
    layers: Mapping[str, LayerPrediction], loss_error: float | None, passes: int
) -> list[str]:
    """Where an average of so many passes is still rough."""
    errors = {
        name: max(one.closed_error or 0.0, one.grad_closed_error or 0.0)
        for name, one in layers.items()
    }
    rough = {name: error for name, error in errors.items() if error > STEADY}
    notes = []
    if rough:
        name = max(rough, key=lambda name: rough[name])
        notes.append(
            f"single starts differ widely: sampled moments of {len(rough)} of {len(layers)} "
            f"modules are averages of {passes} passes with a standard error of more than "
            f"{STEADY:.0%}, up to {rough[name]:.0%} in {name or 'the model'}"
        )
    if loss_error is not None and loss_error > STEADY:
        notes.append(
            f"the expected loss is an average of {passes} passes with a standard error of "
            f"{loss_error:.0%}"
        )
    return notes


def _layer(closed: Sequence[LayerMoments], lazy: Sequence[LayerMoments]) -> LayerPrediction:
    first = closed[0]
    typical, error = average([one.second_moment for one in closed], first.tier)
    back, grad_error = average(gradients(closed), first.grad_tier)
    forward, band = _geometric([one.second_moment for one in lazy])
    backward, grad_band = _geometric(gradients(lazy))
    assert typical is not None
    return LayerPrediction(
        name=first.name,
        module_type=first.module_type,
        order=first.order,
        shape=first.shape,
        mean=sum(one.mean for one in lazy or closed) / len(lazy or closed),
        second_moment=typical if forward is None else forward,
        band=band,
        closed=typical,
        closed_error=error,
        tier=first.tier,
        grad_second_moment=back if not lazy else backward,
        grad_band=grad_band,
        grad_closed=back,
        grad_closed_error=grad_error,
        grad_tier=first.grad_tier,
    )


def _departures(layers: Mapping[str, LayerPrediction]) -> list[str]:
    """Where the closed form lies outside the band of the draws, and by far."""
    notes = []
    for label, pairs in (
        ("signal", [(n, one.closed, one.second_moment, one.band) for n, one in layers.items()]),
        (
            "gradient",
            [
                (n, one.grad_closed, one.grad_second_moment, one.grad_band)
                for n, one in layers.items()
            ],
        ),
    ):
        far = {
            name: closed / typical
            for name, closed, typical, band in pairs
            if closed and typical and band is not None
            and not band.low <= closed <= band.high
            and abs(math.log(closed / typical)) > math.log(DEPARTS)
        }  # fmt: skip
        if far:
            name = max(far, key=lambda name: abs(math.log(far[name])))
            notes.append(
                f"the closed form of the {label} lies outside the band of the draws in {len(far)} "
                f"of {len(pairs)} modules, by a factor of {far[name]:.2g} in {name or 'the model'}"
            )
    return notes


def _loss_departs(loss: float | None, band: Band | None) -> list[str]:
    if loss is None or band is None or math.isnan(loss) or band.low <= loss <= band.high:
        return []
    return [
        f"the expected loss, {loss:.4g}, lies outside the band of the draws, "
        f"{band.low:.4g} to {band.high:.4g}"
    ]


def _geometric(values: Sequence[float]) -> tuple[float | None, Band | None]:
    """The geometric mean, and the band of the logarithms; zero where all are zero."""
    if not values:
        return None, None
    if not all(0 < value < math.inf for value in values):
        return sum(values) / len(values), Band(min(values), max(values))
    logs = [math.log(value) for value in values]
    typical = math.exp(sum(logs) / len(logs))
    if len(logs) < FEWEST:
        return typical, None
    band = _spread(logs)
    return typical, Band(math.exp(band.low), math.exp(band.high))


def _loss_band(losses: Sequence[float]) -> Band:
    """As far as losses spread; where that would be below zero and none is, of their logarithms."""
    band = _spread(losses)
    if band.low >= 0.0 or min(losses) <= 0.0:
        return band
    logs = _spread([math.log(loss) for loss in losses])
    return Band(math.exp(logs.low), math.exp(min(logs.high, 700.0)))


def _spread(values: Sequence[float]) -> Band:
    """Where a further value is expected, with 95%."""
    count = len(values)
    centre = sum(values) / count
    variance = sum((value - centre) ** 2 for value in values) / (count - 1)
    reach = student(count - 1) * math.sqrt(variance * (1 + 1 / count))
    return Band(centre - reach, centre + reach)


def _batch(inputs: object, made_up: bool) -> str:
    shapes = [f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in tensors(inputs)]
    text = ", ".join(shapes[:4]) + (f" and {len(shapes) - 4} more" if shapes[4:] else "")
    return f"{text} (made up)" if made_up else text
