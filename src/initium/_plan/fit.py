"""Whether something is a plan, and one for a model's parameters."""

from __future__ import annotations

from collections.abc import Mapping

from initium._plan.plan import Plan
from initium.errors import PlanError

__all__ = ["must_fit"]


def must_fit(plan: object, shapes: Mapping[str, tuple[int, ...]]) -> Plan:
    """The plan, if it is one and has these parameters in these shapes.

    Raises:
        PlanError: it is none, or of another model.
    """
    if not isinstance(plan, Plan):
        raise PlanError(
            "is not a plan",
            where="plan",
            value=plan if isinstance(plan, str) else type(plan).__name__,
            fix="make one first: plan = initium.plan(model, ...)",
        )
    for name, shape in shapes.items():
        entry = plan.entries.get(name)
        if entry is None or entry.shape != shape:
            found = "nothing" if entry is None else f"shape {entry.shape}"
            raise PlanError(
                f"has shape {shape} in the model and {found} in the plan",
                where=name,
                fix="pass the plan that was made for this model",
            )
    return plan
