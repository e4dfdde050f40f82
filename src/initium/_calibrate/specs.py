"""The plan of a calibrated model: every scaled spec times its factor.

A spec of a fused weight whose blocks have got different factors becomes blocks, where it is drawn
element by element; the numbers behind it stay those of the stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from initium._calibrate.steer import Course
from initium._calibrate.targets import Unit
from initium._fill.tensor import tensor as planned
from initium._model.names import slots
from initium._plan import Entry, Plan
from initium._plan.fit import must_fit
from initium._types import ModelView
from initium.errors import InitiumError, PlanError
from initium.spec import Blocks, Constant, Normal, Part, Spec, TruncatedNormal, Uniform

__all__ = ["must_hold", "scaled_plan"]

ELEMENTWISE = (Constant, Normal, Uniform, TruncatedNormal)
ROWS = 4
"""Rows of a weight that are held against the plan."""


def must_hold(plan: object, model: nn.Module) -> None:
    """The plan is one, for these parameters, and they hold what it plans.

    Only the first rows of elementwise specs are looked at. Raises PlanError.
    """
    weights = {name: slot for name, slot in slots(model).items() if not slot.is_buffer}
    fitting = must_fit(plan, {name: tuple(slot.tensor.shape) for name, slot in weights.items()})
    for name, slot in weights.items():
        entry, shape = fitting.entries[name], tuple(slot.tensor.shape)
        if not isinstance(entry.spec, ELEMENTWISE) or len(shape) < 2 or "parametriz" in name:
            continue
        rows = (slice(0, ROWS),) + (slice(None),) * (len(shape) - 1)
        held = slot.tensor.detach()[rows].cpu()
        wanted = planned(fitting, name, rows).to(held.dtype)
        if not torch.allclose(held, wanted, rtol=1e-2, atol=1e-6, equal_nan=True):
            raise PlanError(
                "holds other values than the plan gives it, so that a plan with scaled specs would "
                "not give the calibrated model",
                where=name,
                fix="fill the model first: plan.apply(model), or calibrate without plan=",
            )


def scaled_plan(plan: Plan, view: ModelView, courses: Mapping[Unit, Course]) -> Plan:
    """The plan with the factors in it; its bits times them are the calibrated weights.

    Raises:
        PlanError: a spec that cannot be divided into the blocks that were scaled.
    """
    factors: dict[str, dict[Unit, float]] = {}
    for unit, course in courses.items():
        factors.setdefault(course.root, {})[unit] = course.factor
    entries = dict(plan.entries)
    for name, units in factors.items():
        entries[name] = _scaled(name, entries[name], units)
    return replace(plan, entries=entries)


def _scaled(name: str, entry: Entry, units: Mapping[Unit, float]) -> Entry:
    try:
        spec = _spec(entry, units)
    except InitiumError as error:
        raise PlanError(
            f"{entry.spec} cannot be scaled: {error.what}",
            where=name,
            fix="calibrate without plan=, and save the weights",
        ) from error
    text = ", ".join(
        f"{unit.block} x {factor:.4g}" if unit.block else f"x {factor:.4g}"
        for unit, factor in units.items()
    )
    return replace(entry, spec=spec, reason=f"{entry.reason.rstrip('.')}. Calibrated: {text}.")


def _spec(entry: Entry, units: Mapping[Unit, float]) -> Spec:
    whole = next((factor for unit, factor in units.items() if not unit.runs), None)
    if whole is not None:
        return entry.spec.scaled(whole)
    axis = next(iter(units)).axis
    factor_at = {run: factor for unit, factor in units.items() for run in unit.runs}
    if isinstance(entry.spec, Blocks) and entry.spec.axis == axis:
        return Blocks(
            tuple(
                replace(part, spec=part.spec.scaled(_common(part, factor_at)))
                for part in entry.spec.parts
            )
        )
    if not isinstance(entry.spec, ELEMENTWISE):
        raise PlanError("its blocks have got factors of their own")
    parts, end = [], 0
    for (start, stop), factor in sorted(factor_at.items()):
        if start > end:
            parts.append(Part(axis, end, start - end, entry.spec))
        parts.append(Part(axis, start, stop - start, entry.spec.scaled(factor)))
        end = stop
    if end < entry.shape[axis]:
        parts.append(Part(axis, end, entry.shape[axis] - end, entry.spec))
    return Blocks(tuple(parts))


def _common(part: Part, factor_at: Mapping[tuple[int, int], float]) -> float:
    """The one factor of all runs of a part; 1 where it was left alone."""
    found = set()
    for start, stop in part.runs():
        over = {f for (a, b), f in factor_at.items() if a < stop and start < b}
        inside = {f for (a, b), f in factor_at.items() if a <= start and stop <= b}
        if over != inside:
            raise PlanError("its parts are not the blocks that were scaled")
        found |= inside or {1.0}
    if len(found) != 1:
        raise PlanError("its parts are not the blocks that were scaled")
    return found.pop()
