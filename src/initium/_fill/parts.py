"""A part of a planned model, such as a pipeline stage: its tensors under their planned names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from initium._model.names import Slot
from initium._plan.plan import Plan
from initium.errors import PlanError, near

__all__ = ["as_planned"]


def as_planned(
    plan: Plan, held: Mapping[str, Slot], names: Mapping[str, str] | None
) -> dict[str, Slot]:
    """The tensors of a model by the names of their entries.

    A tensor that the plan ties to one outside the part belongs to the entry of both.

    Args:
        plan: of the whole model.
        held: the tensors of the part by their own names.
        names: from names in the part, or leading parts of them, to those in the plan; the longest
            that fits is replaced, and other names are the same. ``None``: the model is the whole.

    Raises:
        PlanError: a name in ``names`` that the model does not have, or two tensors of one name.
    """
    if names is None:
        return dict(held)
    for name in names:
        if not any(_leads(name, own) for slot in held.values() for own in _names(slot)):
            raise PlanError(
                "is in names and not in the model", where=name, choices=near(name, held)
            )
    owners = {alias: owner for owner, aliases in plan.ties.items() for alias in aliases}
    found: dict[str, Slot] = {}
    for slot in held.values():
        own = [_renamed(name, names) for name in _names(slot)]
        owner = owners.get(own[0], own[0])
        if owner in found:
            raise PlanError(
                f"{found[owner].name} and {slot.name} of the model are both this tensor of the "
                "plan",
                where=owner,
                fix="tie them in the model, or give them other names by names=",
            )
        found[owner] = replace(slot, aliases=[name for name in own if name != owner])
    return found


def _names(slot: Slot) -> tuple[str, ...]:
    return (slot.name, *slot.aliases)


def _leads(prefix: str, name: str) -> bool:
    return not prefix or name == prefix or name.startswith(f"{prefix}.")


def _renamed(name: str, names: Mapping[str, str]) -> str:
    fits = [prefix for prefix in names if _leads(prefix, name)]
    if not fits:
        return name
    prefix = max(fits, key=len)
    rest = name.removeprefix(prefix).removeprefix(".")
    return ".".join(part for part in (names[prefix], rest) if part)
