"""Models whose parameters do not show what they are: flattened or emptied by what shards them.

FSDP2, tensor parallelism and DDP keep every parameter as a tensor of its own with the shape of the
whole. FSDP1 and DeepSpeed ZeRO-3 do not, except inside their own contexts that gather them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from initium._model.names import canonical, slots
from initium.errors import ModelError

__all__ = [
    "bare_class",
    "gathered",
    "is_sharded",
    "local",
    "meant_for",
    "mesh_device",
    "must_show_parameters",
    "reshard",
    "torch_type",
    "whole",
]

MIXINS = ("FSDPModule", "ReplicateModule")
"""Classes that torch puts in front of a module's own, in a class made for that module."""
HOOKS = (
    "torch.distributed.fsdp",
    "torch.distributed._composable",
    "torch.distributed.tensor",
)
"""Where the hooks of FSDP2 and tensor parallelism are from."""
OF_TORCH = re.compile(
    r"weight|bias|(weight|bias)_([ih]h|hr)(_l\d+(_reverse)?)?|weight_[gv]|original\d?|bias_[kv]"
    r"|in_proj_(weight|bias)|[qkv]_proj_weight"
)
"""The names of the parameters that torch's own modules and weight norms hold."""


def bare_class(module: nn.Module) -> type:
    """The class of a module as its author wrote it: that of ``fully_shard`` hides it."""
    kind = type(module)
    while kind.__bases__[0].__name__ in MIXINS and len(kind.__bases__) > 1:
        kind = kind.__bases__[1]
    return kind


def torch_type(module: nn.Module, leaf: str) -> str:
    """The class of ``torch.nn`` that a module is or inherits its reset from, if it holds ``leaf``.

    Example:
        >>> class Scaled(nn.Linear): ...
        >>> torch_type(Scaled(2, 2), "weight"), torch_type(Scaled(2, 2), "scale")
        ('Linear', '')
    """
    kind = bare_class(module)
    base = next(
        (one for one in kind.__mro__ if one.__module__.startswith("torch.nn.modules.")), nn.Module
    )
    resets = ("reset_parameters", "_reset_parameters")
    own = [getattr(base, name, None) for name in resets]
    same = any(own) and own == [getattr(kind, name, None) for name in resets]
    return base.__name__ if same and OF_TORCH.fullmatch(leaf) else ""


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether it is a DTensor; its class is not imported for models that have none."""
    return hasattr(tensor, "placements") and hasattr(tensor, "device_mesh")


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor, sharing its memory."""
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():
        part: torch.Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return part


def meant_for(tensors: Iterable[torch.Tensor]) -> torch.device:
    """The first device besides the CPU that holds one of them, or that a mesh is of; else the CPU.

    Example:
        >>> meant_for([torch.zeros(2), torch.zeros(2, device="meta")])
        device(type='cpu')
    """
    held = list(tensors)
    for tensor in held:
        if (device := local(tensor.detach()).device).type not in ("cpu", "meta"):
            return device
    meshes = (kind for tensor in held if (kind := mesh_device(tensor)) is not None)
    return torch.device(next(meshes, "cpu"))


def mesh_device(tensor: torch.Tensor) -> str | None:
    """The type of device that a sharded tensor is meant for; ``None`` for any other."""
    if not is_sharded(tensor):
        return None
    return str(tensor.device_mesh.device_type)  # type: ignore[attr-defined]


def whole(tensor: torch.Tensor) -> torch.Tensor | None:
    """All of a tensor, sharing its memory; ``None`` if this process does not hold all of it."""
    if is_sharded(tensor) and not all(
        placement.is_replicate()
        for placement in tensor.placements  # type: ignore[attr-defined]
    ):
        return None
    return local(tensor)


def must_show_parameters(model: nn.Module) -> None:
    """Refuse a model in which parameters have lost their shapes.

    Raises:
        ModelError: FSDP1 has flattened them, or ZeRO-3 has left tensors without elements.
    """
    for name, module in model.named_modules():
        if _has_flat_parameter(module):
            raise ModelError(
                "FSDP1 has flattened its parameters, and their shapes are gone",
                where=canonical(name, model) or type(model).__name__,
                fix="use fully_shard (FSDP2), or do this before wrapping the model, or inside "
                "FullyShardedDataParallel.summon_full_params(model)",
            )
    for name, parameter in model.named_parameters():
        whole = getattr(parameter, "ds_shape", None)
        if whole is not None and tuple(whole) != tuple(parameter.shape):
            raise ModelError(
                f"DeepSpeed ZeRO-3 holds this parameter of shape {tuple(whole)} elsewhere, and "
                "writing to it would do nothing",
                where=canonical(name, model),
                value=tuple(parameter.shape),
                fix="do this before deepspeed.initialize and without deepspeed.zero.Init, or inside"
                " deepspeed.zero.GatheredParameters(list(model.parameters()), modifier_rank=0)",
            )


def reshard(model: nn.Module) -> None:
    """Let FSDP2 put its own parameters back in the place of the gathered ones, which are copies."""
    for module in model.modules():
        if any(kind.__name__ in MIXINS for kind in type(module).__mro__):
            module.reshard()  # type: ignore[operator]


@contextmanager
def gathered(model: nn.Module) -> Iterator[bool]:
    """The model as it was before it was sharded, inside the block: whole tensors, no hooks.

    Every process of the meshes has to enter; after that, none waits for another. Parameters and
    buffers that are DTensors are gathered one by one and held whole by every process, classes are
    the author's own, and FSDP2 and tensor parallelism do nothing. Does nothing to other models.

    Yields:
        Whether anything was sharded.

    Raises:
        ModelError: a sharded parameter is on meta, or this process is not in its mesh.
    """
    reshard(model)
    held = [slot for slot in slots(model).values() if is_sharded(slot.tensor)]
    for slot in held:
        if slot.tensor.is_meta:
            raise ModelError(
                "is on the meta device and holds no values",
                where=slot.name,
                fix="fill the model first, on every process: initium.initialize(model)",
            )
        if slot.tensor.device_mesh.get_coordinate() is None:  # type: ignore[attr-defined]
            raise ModelError(
                "is sharded over other processes than this one, which cannot gather it",
                where=slot.name,
                value=slot.tensor.device_mesh,  # type: ignore[attr-defined]
                fix="call this on the processes of the mesh alone",
            )
    if not held:
        yield False
        return
    undo: list[Callable[[], object]] = []
    try:
        for slot in held:
            full = _gather(slot.tensor)
            if not slot.is_buffer:
                full = nn.Parameter(full, requires_grad=slot.tensor.requires_grad)
            for module, leaf in slot.places:
                holder: dict[str, Any] = module._buffers if slot.is_buffer else module._parameters
                undo.append(partial(holder.__setitem__, leaf, slot.tensor))
                holder[leaf] = full
        for module in model.modules():
            undo += _unhooked(module)
            if (kind := type(module)) is not (bare := bare_class(module)):
                module.__class__ = bare
                undo.append(partial(setattr, module, "__class__", kind))
        yield True
    finally:
        for step in reversed(undo):
            step()


def _gather(tensor: torch.Tensor) -> torch.Tensor:
    """All of a DTensor, on the device of its mesh: where FSDP2 offloads, the shard goes there."""
    device = mesh_device(tensor)
    with torch.no_grad():
        shard = local(tensor)
        if device is not None and shard.device.type != device:
            tensor = type(tensor).from_local(  # type: ignore[attr-defined]
                shard.to(device),
                tensor.device_mesh,  # type: ignore[attr-defined]
                tensor.placements,  # type: ignore[attr-defined]
                run_check=False,
                shape=tensor.shape,
                stride=tensor.stride(),
            )
        full: torch.Tensor = tensor.full_tensor()  # type: ignore[attr-defined]
    return full.detach()


def _unhooked(module: nn.Module) -> list[Callable[[], object]]:
    """Take off the hooks of FSDP2 and tensor parallelism; what puts them back."""
    undo: list[Callable[[], object]] = []
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        kept = dict(hooks)
        for key, hook in kept.items():
            if str(getattr(hook, "__module__", "")).startswith(HOOKS):
                del hooks[key]
        if len(hooks) < len(kept):
            undo += [partial(hooks.update, kept), hooks.clear]
    return undo


def _has_flat_parameter(module: nn.Module) -> bool:
    if "_flat_param" in module._parameters:
        return True
    wraps = any(kind.__name__ == "FullyShardedDataParallel" for kind in type(module).__mro__)
    handle = getattr(module, "_handle", None) if wraps else None
    return handle is not None and bool(handle.is_sharded(handle.flat_param))
