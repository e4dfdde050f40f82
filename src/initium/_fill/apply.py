"""A plan into a model: everything is validated, then everything is written, then that is proved.

Parameters are written in place, so that identity, ``requires_grad``, device and ties stay. Those on
the meta device are made anew, once per tensor and in every place that holds it. Not covered here:
sharded tensors.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from initium._fill.tensor import check_fillable, values
from initium._model.names import Slot, slots
from initium._plan.plan import Entry, Plan
from initium.errors import PlanError, near

__all__ = ["apply"]


def apply(plan: Plan, model: nn.Module, device: str | torch.device | None = None) -> None:
    """Fill ``model`` as planned; see :meth:`initium.Plan.apply`.

    Raises:
        PlanError: the model differs from the plan; nothing has been written then.
    """
    held = slots(model)
    _validate(plan, held)
    _validate_memory(held)
    place = _device(device)
    written: dict[str, int] = {}
    for name, entry in plan.entries.items():
        if not entry.kept:
            drawn = values(name, entry, plan.seed, _dtype(held[name].tensor))
            _write(held[name], drawn, place)
            written[name] = drawn.numel()
    _prove(plan, model, written)
    _refresh(model)


def _device(device: str | torch.device | None) -> torch.device:
    """The device for what is on meta.

    Raises:
        PlanError: it does not exist here.
    """
    try:
        found = torch.device(device or "cpu")
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise PlanError(
            f"cannot be used here: {' '.join(str(error).split())[:120]}",
            where="device",
            value=str(device),
            fix="name a device that this machine has, such as cpu",
        ) from error
    return found


def _validate_memory(held: Mapping[str, Slot]) -> None:
    """Every tensor can be written, and no two of different names share their first element."""
    owners: dict[int, str] = {}
    for name, slot in held.items():
        tensor = slot.tensor
        if tensor.is_meta or tensor.numel() == 0 or tensor.layout is not torch.strided:
            continue
        if tensor.is_inference():
            raise PlanError(
                "was made in inference mode and cannot be written",
                where=name,
                fix="build the model outside torch.inference_mode()",
            )
        if torch._debug_has_internal_overlap(tensor) == 1:
            raise PlanError(
                "has elements that share memory, as an expanded tensor has",
                where=name,
                fix="store it whole: parameter.data = parameter.data.clone()",
            )
        other = owners.setdefault(tensor.data_ptr(), name)
        if other != name:
            raise PlanError(
                f"shares its memory with {other} without being the same parameter",
                where=name,
                fix="tie them as one parameter, or give each memory of its own",
            )


def _write(slot: Slot, drawn: torch.Tensor, device: torch.device) -> None:
    with torch.no_grad():
        if not slot.tensor.is_meta:
            slot.tensor.copy_(drawn)
            return
        made = drawn.to(device)
        if isinstance(slot.tensor, nn.Parameter):
            made = nn.Parameter(made, requires_grad=slot.tensor.requires_grad)
            made.__dict__.update(slot.tensor.__dict__)
        for module, leaf in slot.places:
            setattr(module, leaf, made)


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _validate(plan: Plan, held: Mapping[str, Slot]) -> None:
    owner_of = {alias: slot.name for slot in held.values() for alias in slot.aliases}
    for name, entry in plan.entries.items():
        if name in held:
            _validate_one(name, entry, held[name])
        elif name in owner_of:
            raise PlanError(
                f"is tied to {owner_of[name]} in the model and has an entry of its own in the plan",
                where=name,
                fix="untie it in the model, or plan the tied model",
            )
        else:
            known = near(name, held)
            raise PlanError(
                "is in the plan and not in the model"
                + (f", which has {', '.join(known)}" if known else ""),
                where=name,
                fix="plan this model, or apply the plan to the model that it was made for",
            )
    for name in held:
        if name not in plan.entries:
            known = near(name, plan.entries)
            raise PlanError(
                "is in the model and not in the plan"
                + (f", which has {', '.join(known)}" if known else ""),
                where=name,
                fix="plan this model, or apply the plan to the model that it was made for",
            )


def _validate_one(name: str, entry: Entry, slot: Slot) -> None:
    shape = tuple(slot.tensor.shape)
    if shape != entry.shape:
        raise PlanError(
            f"has shape {shape} in the model and {entry.shape} in the plan",
            where=name,
            fix="plan this model, or apply the plan to the model that it was made for",
        )
    if set(slot.aliases) != set(entry.aliases):
        raise PlanError(
            f"is tied to {', '.join(slot.aliases) or 'nothing'} in the model "
            f"and to {', '.join(entry.aliases) or 'nothing'} in the plan",
            where=name,
            fix="plan this model, or tie it as the plan has it",
        )
    if entry.kept and slot.tensor.is_meta:
        raise PlanError(
            f"is on the meta device and kept by the plan ({entry.reason.rstrip('.')}), so that "
            "nothing would ever give it a value",
            where=name,
            fix="give it a spec by a rule, or build the model on a real device",
        )
    check_fillable(name, entry, _dtype(slot.tensor))


def _prove(plan: Plan, model: nn.Module, written: Mapping[str, int]) -> None:
    for name, slot in slots(model).items():
        entry = plan.entries[name]
        if slot.tensor.is_meta or not (entry.kept or written[name] == slot.tensor.numel()):
            raise PlanError(
                f"{written.get(name, 0)} of {slot.tensor.numel()} elements were written", where=name
            )


def _refresh(model: nn.Module) -> None:
    """Let spectral norms find the leading singular vectors of their new weights, as they are built.

    Fifteen power iterations, the number that :func:`torch.nn.utils.parametrizations.spectral_norm`
    does when it is registered.
    """
    for module in model.modules():
        if not isinstance(module, nn.utils.parametrize.ParametrizationList):
            continue
        for part in module:
            if isinstance(part, nn.utils.parametrizations._SpectralNorm) and hasattr(part, "_u"):
                with torch.no_grad():
                    weight = part._reshape_weight_to_matrix(module.original)
                    part._power_method(weight, 15)
