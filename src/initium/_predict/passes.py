"""The passes that a prediction rests on: how many are made, and what they average to.

A closed form without samples is one pass. Where something in it was sampled, passes with seeds of
their own are averaged, until the standard errors are small or there are enough of them. Not
covered: what is very wide, of which one pass has to do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from initium._model.call import map_tensors
from initium._plan import Plan
from initium._predict.draw import draw
from initium._predict.measure import SAMPLED
from initium._predict.records import Draw, LayerMoments

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

    def one(number: int, closed: bool) -> Draw:
        own = map_tensors(inputs, lambda tensor: tensor.detach().clone())
        start = (first + number) % SEEDS
        return draw(model, plan, own, targets=targets, loss_fn=loss_fn, seed=start, closed=closed)

    closed = [one(0, True)]
    large = sum(math.prod(entry.shape) for entry in plan.entries.values()) > LARGE
    if not large and not _exact(closed[0]):
        least, most = (BESIDE, BESIDE) if draws else (LEAST, MOST)
        while len(closed) < least or (len(closed) < most and _unsteady(closed)):
            closed.append(one(len(closed), True))
    return Passes(closed, [one(number, False) for number in range(draws)])


def _exact(found: Draw) -> bool:
    """Whether nothing in a closed form was sampled, so that another pass would give the same."""
    tiers = [tier for one in found.layers.values() for tier in (one.tier, one.grad_tier)]
    return SAMPLED not in (found.loss_tier, *tiers)


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
    if tier != SAMPLED or not any(values):
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
