"""The plan drawn again under other seeds: what depends on the draw and not on the plan."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import replace

from initium._check.deep.passes import Subject
from initium._check.drive import run
from initium._plan import Plan
from initium._report.deep import Seeds
from initium._report.records import LayerRecord

__all__ = ["REDRAWS", "redraw"]

REDRAWS = 3


def redraw(subject: Subject, plan: Plan) -> Seeds:
    """One pass under each of the next seeds; the weights are left drawn, the caller restores."""
    seeds = tuple((plan.seed + 1 + index) % 2**64 for index in range(REDRAWS))
    passes: list[Mapping[str, LayerRecord]] = []
    losses: list[float | None] = []
    for seed in seeds:
        replace(plan, seed=seed).apply(subject.model)
        done = run(subject.model, subject.inputs, subject.targets, subject.loss_fn, subject.view)
        passes.append(done.measure.layers())
        losses.append(done.start.record.value)
    return Seeds(
        seeds=seeds,
        losses=tuple(losses),
        forward=_spread([{n: r.second_moment for n, r in one.items()} for one in passes]),
        backward=_spread(
            [{n: r.grad_second_moment or 0.0 for n, r in one.items()} for one in passes]
        ),
    )


def _spread(values: list[dict[str, float]]) -> dict[str, float]:
    """Standard deviation of log10, for what is positive and finite every time."""
    found = {}
    for name in values[0]:
        each = [one.get(name, 0.0) for one in values]
        if all(0.0 < value < math.inf for value in each):
            found[name] = statistics.stdev(math.log10(value) for value in each)
    return found
