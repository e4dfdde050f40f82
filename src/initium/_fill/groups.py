"""A plan's learning-rate multipliers as parameter groups of a torch optimizer."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from initium._fill.parts import as_planned
from initium._model.names import slots
from initium._plan.plan import Plan
from initium.errors import PlanError

__all__ = ["parameter_groups"]


def parameter_groups(
    plan: Plan,
    model: nn.Module,
    lr: float,
    weight_decay: float | None = None,
    names: Mapping[str, str] | None = None,
) -> list[dict[str, object]]:
    """One group per learning rate and weight decay; see :meth:`Plan.parameter_groups`."""
    groups: dict[tuple[float, float | None], list[nn.Parameter]] = {}
    for name, slot in as_planned(plan, slots(model), names).items():
        if slot.is_buffer:
            continue
        entry = plan.entries.get(name)
        if entry is None:
            raise PlanError(
                "is in the model and not in the plan", where=name, fix="plan this model"
            )
        parameter = slot.tensor
        assert isinstance(parameter, nn.Parameter)
        decay = weight_decay
        if decay is not None:
            decay = decay / entry.lr if parameter.dim() >= 2 and entry.lr else 0.0
        groups.setdefault((lr * entry.lr, decay), []).append(parameter)
    return [
        {"params": members, "lr": rate, **({} if decay is None else {"weight_decay": decay})}
        for (rate, decay), members in groups.items()
    ]
