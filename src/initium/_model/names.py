"""Canonical names: those of the bare model, whatever wraps it.

``torch.compile``, DDP, FSDP and activation checkpointing each put a prefix of their own into the
names of parameters and modules. All of them are stripped, at every level.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from initium.errors import ModelError

__all__ = ["Slot", "canonical", "named_modules", "slots", "unwrapped"]

WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Attribute names under which a wrapper keeps the module it wraps."""


def canonical(name: str, model: nn.Module | None = None) -> str:
    """``name`` without the parts that wrappers add.

    ``module`` is also a name that people use, so it is only stripped where ``model`` is given and
    the part really is a wrapper's, or at the front.
    """
    parts = name.split(".")
    kept: list[str] = []
    here: object = model
    for position, part in enumerate(parts):
        wraps = part in WRAPPERS and (
            part != "module" or _is_wrapper(here) or (model is None and position == 0)
        )
        if not wraps:
            kept.append(part)
        here = getattr(here, part, None) if here is not None else None
    return ".".join(kept)


def _is_wrapper(module: object) -> bool:
    return type(module).__name__ in {"DistributedDataParallel", "DataParallel", "DDP"}


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside wrappers that only forward to it: compiled, data-parallel."""
    while True:
        if _is_wrapper(model) or type(model).__name__ == "OptimizedModule":
            inner = model.module if _is_wrapper(model) else model._orig_mod
            assert isinstance(inner, nn.Module)
            model = inner
        else:
            return model


@dataclass(slots=True)
class Slot:
    """One parameter or buffer: its canonical name, other names, and every place that holds it."""

    name: str
    tensor: torch.Tensor
    module: str
    owner: nn.Module
    leaf: str
    is_buffer: bool
    aliases: list[str] = field(default_factory=list)
    places: list[tuple[nn.Module, str]] = field(default_factory=list)


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules with canonical names, each module once."""
    for name, module in model.named_modules():
        yield canonical(name, model), module


def slots(model: nn.Module) -> dict[str, Slot]:
    """Every parameter and buffer of ``model`` by canonical name, each tensor once.

    A tensor that is held under several names is listed under the first, with the others as aliases.

    Raises:
        ModelError: a lazy module that has no shapes yet.
    """
    found: dict[str, Slot] = {}
    by_identity: dict[int, Slot] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for is_buffer, holders in ((False, module._parameters), (True, module._buffers)):
            for leaf, tensor in holders.items():
                if tensor is None:
                    continue
                raw = f"{prefix}.{leaf}" if prefix else leaf
                name = canonical(raw, model)
                if torch.nn.parameter.is_lazy(tensor):
                    raise ModelError(
                        "is a lazy parameter without a shape",
                        where=name,
                        fix="run one forward pass first, so that the model knows its shapes",
                    )
                slot = by_identity.get(id(tensor))
                if slot is None:
                    slot = Slot(name, tensor, canonical(prefix, model), module, leaf, is_buffer)
                    by_identity[id(tensor)] = slot
                    found[name] = slot
                elif name != slot.name and name not in slot.aliases:
                    slot.aliases.append(name)
                if (module, leaf) not in slot.places:
                    slot.places.append((module, leaf))
    return found
