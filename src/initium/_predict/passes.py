"""The passes that a prediction rests on: how many are made, and what they average to.

A closed form without samples is one pass. Where something in it was sampled, passes with seeds of
their own are averaged, until the standard errors are small or there are enough of them. Where the
rules or the laws fail on a model's own operators, the next tier takes over: lazy draws in place of
closed forms, and starts with real weights where they are small. Not covered: averages of what is
very wide, of which one pass has to do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from initium._model.call import map_tensors
from initium._plan import Plan
from initium._predict.draw import DENSE, Unfinished, draw
from initium._predict.measure import CLOSED, SAMPLED
from initium._predict.records import Draw, LayerMoments
from initium.errors import ModelError

__all__ = ["SEEDS", "STEADY", "Passes", "average", "everywhere", "gradients", "run_passes"]

LEAST, MOST = 3, 8
"""Passes over which closed forms are averaged, for what in them is sampled."""
BESIDE = 2
"""Such passes beside draws, which show the spread."""
STEADY = 0.1
"""Relative standard error of such an average from which on more passes are made."""
LARGE = 1 << 31
"""Planned elements from which one such pass is enough: what is wide strays little."""
SEEDS = 2**64
AFFORDABLE = 1 << 26
"""Planned elements up to which a start with real weights may take the place of a draw."""
FORMS, LAWS, WEIGHTS = range(3)
"""What a pass can be made of: closed forms, laws of products, weights with values."""
TAKES_OVER = {
    LAWS: "no closed form could be made, and its numbers are those of lazy draws: ",
    WEIGHTS: "no law of products could be used, and weights were drawn whole: ",
}


@dataclass(frozen=True, slots=True)
class Passes:
    """Closed forms, and lazy draws, of one model."""

    closed: Sequence[Draw]
    lazy: Sequence[Draw]


def run_passes(
    model: nn.Module,
    plan: Plan,
    inputs: object,
    *,
    targets: object = None,
    loss_fn: Callable[[Any, Any], Any] | None = None,
    draws: int = 4,
    seed: int = 0,
) -> Passes:
    """As many closed passes as are needed, and so many draws; arguments as for ``predict``.

    No two seeds share a pass.
    """
    first = seed * max(draws, MOST)
    size = sum(math.prod(entry.shape) for entry in plan.entries.values())

    def one(number: int, means: int) -> Draw:
        own = map_tensors(inputs, lambda tensor: tensor.detach().clone())
        dense = AFFORDABLE if means == WEIGHTS else DENSE
        closed, start = means == FORMS, (first + number) % SEEDS
        return draw(
            model, plan, own, targets=targets, loss_fn=loss_fn, seed=start, dense=dense,
            closed=closed,
        )  # fmt: skip

    last = WEIGHTS if size <= AFFORDABLE else LAWS
    start, means = _reached(lambda means: one(0, means), FORMS, last)
    closed = [start]
    if not (start.problem or size > LARGE or _exact(start)):
        least, most = (BESIDE, BESIDE) if draws else (LEAST, MOST)
        while len(closed) < least or (len(closed) < most and _unsteady(closed)):
            closed.append(_reached(lambda means: one(len(closed), means), means, means)[0])
    lazy: list[Draw] = []
    means = max(means, LAWS)
    while len(lazy) < draws:
        found, means = _reached(lambda means: one(len(lazy), means), means, last)
        lazy.append(found)
    return Passes(closed, lazy)


def _reached(make: Callable[[int], Draw], means: int, last: int) -> tuple[Draw, int]:
    """A pass by the first means that brings it to its end, else the one that got furthest.

    Raises:
        ModelError: none has reached the output of any module.
    """
    best: tuple[Draw, int] | None = None
    failed: Unfinished | None = None
    for at in range(means, last + 1):
        try:
            made = make(at)
        except Unfinished as error:
            made = replace(error.reached, problem=str(error))
            failed = failed or error
        else:
            said = (TAKES_OVER[at] + failed.what,) if failed is not None else ()
            return replace(made, notes=(*said, *made.notes)), at
        if best is None or _extent(made) > _extent(best[0]):
            best = made, at
    assert best is not None
    if failed is not None and not best[0].layers:
        raise ModelError(
            failed.what, where=failed.where, value=failed.value, fix=failed.fix
        ) from failed
    return best


def _extent(found: Draw) -> tuple[int, int]:
    """How many outputs and gradients a pass has reached."""
    layers = found.layers.values()
    return len(layers), sum(layer.grad_second_moment is not None for layer in layers)


def _exact(found: Draw) -> bool:
    """Whether nothing in a closed form was sampled, so that another pass would give the same."""
    tiers = [tier for one in found.layers.values() for tier in (one.tier, one.grad_tier)]
    return not {found.loss_tier, *tiers} - {CLOSED, ""}


def _unsteady(closed: Sequence[Draw]) -> bool:
    """Whether a sampled moment of a module, or the loss, is not known well from these passes."""
    losses = [one.loss for one in closed if one.loss is not None]
    errors = [average(losses)[1]]
    for name in everywhere(closed):
        held = [one.layers[name] for one in closed]
        errors += [average([one.second_moment for one in held])[1], average(gradients(held))[1]]
    return any(error is not None and error > STEADY for error in errors)


def average(values: Sequence[float], tier: str = SAMPLED) -> tuple[float | None, float | None]:
    """The mean over passes, and its relative standard error: ``None`` where it is not known."""
    if not values:
        return None, None
    count, mean = len(values), sum(values) / len(values)
    if tier == CLOSED or not any(values):
        return mean, 0.0
    if count < 2 or not 0.0 < mean < math.inf:
        return mean, None
    square = sum((value / mean - 1) ** 2 for value in values) / (count - 1)
    return mean, math.sqrt(square / count)


def everywhere(draws: Sequence[Draw]) -> list[str]:
    """Modules that every draw has called: a router may leave experts out."""
    return [name for name in draws[0].layers if all(name in one.layers for one in draws)]


def gradients(found: Sequence[LayerMoments]) -> list[float]:
    """One of each, or nothing where one has none."""
    values = [one.grad_second_moment for one in found if one.grad_second_moment is not None]
    return values if len(values) == len(found) else []
