"""``predict``: several draws of a model's signal under a plan, and what they have in common.

The tier behind every number is the lazy draw (:mod:`initium._predict.lazy`): the model's own code,
with exact conditional laws in place of weights. Not covered yet: closed forms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from initium._model.call import map_tensors, must_be_module, tensors
from initium._model.inputs import example_inputs, must_be_usable
from initium._plan import Plan
from initium._plan.fit import must_fit
from initium._predict.lazy import draw
from initium._predict.records import Band, Draw, LayerMoments, LayerPrediction, Prediction
from initium.errors import InputError

__all__ = ["FEWEST", "predict"]

FEWEST = 3
"""Draws from which a spread can be told."""
SEEDS = 2**64


def predict(
    model: nn.Module,
    plan: Plan,
    inputs: object = None,
    *,
    targets: object = None,
    loss_fn: Callable[[Any, Any], Any] | None = None,
    draws: int = 4,
    seed: int = 0,
) -> Prediction:
    """What the signal of a model would be after ``plan.apply(model)``, without any weights.

    Each draw runs the model's own code once forward and once backward; a product W x with a large
    weight is drawn from its exact law given all earlier products. Memory grows with the batch and
    not with the weights, so that a model of any size can be asked about on the meta device.

    Formulas: for draws q_1 .. q_n of a moment, exp(mean log q); its band for a single start is
    exp(mean log q +- t s sqrt(1 + 1/n)) with s their standard deviation and t the 97.5% point of
    Student's t with n - 1 degrees of freedom.

    Args:
        model: any module; its parameters may be on the meta device, and are not read unless the
            plan keeps them.
        plan: of this model.
        inputs: one batch: a mapping goes in as ``**``, a tuple as ``*``, anything else as the one
            argument; ``None``: a batch is inferred from the model where it says what it takes.
        targets: for ``loss_fn``, or class indices for a cross-entropy of the output.
        loss_fn: ``loss_fn(output, targets)``; without it and without targets, the model's own
            loss, else a random cotangent.
        draws: how many samples, at least 3.
        seed: of the draws; the same seed gives the same prediction.

    Raises:
        PlanError: the plan is none, or one of another model.
        InputError: no batch, an empty one or one with NaN, or too few draws.
        ModelError: the model does not run on the batch, or not without its weights' values.

    Example:
        >>> import initium, torch
        >>> net = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512))
        >>> found = predict(net, initium.plan(net, "he"), torch.ones(1, 512))
        >>> 1.6 < found.layers["0"].second_moment < 2.4  # gain 2 for the ReLU that follows
        True

    Source: Lu 2021, Householder Dice, arXiv:2101.07464.
    """
    must_be_module(model)
    must_fit(plan, {})
    if draws < FEWEST:
        raise InputError(f"has to be at least {FEWEST}", where="draws", value=draws)
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
    found = [
        draw(
            model,
            plan,
            map_tensors(inputs, lambda tensor: tensor.detach().clone()),
            targets=targets,
            loss_fn=loss_fn,
            seed=(seed * draws + number) % SEEDS,
        )
        for number in range(draws)
    ]
    losses = [one.loss for one in found if one.loss is not None]
    return Prediction(
        model=type(model).__name__,
        plan=plan.recipe,
        layers={name: _layer([one.layers[name] for one in found]) for name in _everywhere(found)},
        loss=sum(losses) / draws if losses else None,
        loss_band=_spread(losses) if losses else None,
        draws=draws,
        batch=_batch(inputs, made_up),
        notes=tuple(dict.fromkeys(note for one in found for note in one.notes)),
    )


def _everywhere(draws: Sequence[Draw]) -> list[str]:
    """Modules that every draw has called: a router may leave experts out."""
    return [name for name in draws[0].layers if all(name in one.layers for one in draws)]


def _layer(found: Sequence[LayerMoments]) -> LayerPrediction:
    first = found[0]
    forward, band = _geometric([one.second_moment for one in found])
    gradients = [one.grad_second_moment for one in found if one.grad_second_moment is not None]
    backward, grad_band = _geometric(gradients) if len(gradients) == len(found) else (None, None)
    return LayerPrediction(
        name=first.name,
        module_type=first.module_type,
        order=first.order,
        shape=first.shape,
        mean=sum(one.mean for one in found) / len(found),
        second_moment=forward,
        band=band,
        grad_second_moment=backward,
        grad_band=grad_band,
    )


def _geometric(values: Sequence[float]) -> tuple[float, Band]:
    """The geometric mean, and the band of the logarithms; zero where all are zero."""
    if not all(0 < value < math.inf for value in values):
        return sum(values) / len(values), Band(min(values), max(values))
    logs = [math.log(value) for value in values]
    band = _spread(logs)
    return math.exp(sum(logs) / len(logs)), Band(math.exp(band.low), math.exp(band.high))


def _spread(values: Sequence[float]) -> Band:
    """Where a further value is expected, with 95%."""
    count = len(values)
    centre = sum(values) / count
    variance = sum((value - centre) ** 2 for value in values) / (count - 1)
    reach = _student(count - 1) * math.sqrt(variance * (1 + 1 / count))
    return Band(centre - reach, centre + reach)


def _student(freedom: int) -> float:
    """The 97.5% point of Student's t: Abramowitz & Stegun 26.7.5, within 3% from 2 on."""
    z = 1.959964
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def _batch(inputs: object, made_up: bool) -> str:
    shapes = [f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in tensors(inputs)]
    text = ", ".join(shapes[:4]) + (f" and {len(shapes) - 4} more" if shapes[4:] else "")
    return f"{text} (made up)" if made_up else text
