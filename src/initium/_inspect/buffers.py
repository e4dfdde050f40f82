"""What is known of each buffer: its owner's rule, or its value while it is small."""

from __future__ import annotations

import torch
from torch import nn

from initium import spec
from initium._model.names import Slot
from initium._model.sharding import bare_class, whole
from initium._types import BufferView, Evidence

__all__ = ["LIMIT", "buffer_view"]

LIMIT = 1 << 20
"""Bytes up to which a buffer's value is kept."""

RULES = {
    "running_mean": "constant(0)",
    "running_var": "constant(1)",
    "num_batches_tracked": "constant(0)",
}
"""Running statistics of normalisation layers, as their ``reset_running_stats`` sets them."""


def buffer_view(slot: Slot) -> BufferView:
    """Describe one buffer of a model."""
    tensor = slot.tensor
    held = whole(tensor)
    kind = bare_class(slot.owner).__name__
    on_meta = tensor.device.type == "meta"
    rule = value = None
    evidence = Evidence("assumed", "too large to keep by value, and no rule is known")
    if slot.leaf in RULES and isinstance(slot.owner, nn.modules.batchnorm._NormBase):
        rule = RULES[slot.leaf]
        evidence = Evidence("declared", f"{slot.leaf} of {kind}")
    elif kind == "_SpectralNorm":
        evidence = Evidence("declared", "follows from the weight by power iteration")
    elif on_meta:
        evidence = Evidence("assumed", "it is on the meta device, and no rule is known")
    elif held is None:
        evidence = Evidence("assumed", "it is sharded, and this process holds a part of it")
    elif held.numel() * held.element_size() <= LIMIT and not held.is_sparse:
        value = str(_value(held))
        evidence = Evidence("traced", "its value when the model was inspected")
    return BufferView(
        name=slot.name,
        shape=tuple(tensor.shape),
        dtype=str(tensor.dtype).removeprefix("torch."),
        module=slot.module,
        module_type=kind,
        persistent=slot.leaf not in slot.owner._non_persistent_buffers_set,
        on_meta=on_meta,
        rule=rule,
        value=value,
        evidence=evidence,
    )


def _value(tensor: torch.Tensor) -> spec.Spec:
    flat = tensor.detach().cpu().contiguous()
    name = str(tensor.dtype).removeprefix("torch.")
    if tensor.dtype is torch.bfloat16:
        return spec.Value.of(flat.view(torch.uint16).numpy(), dtype=name)
    if name.startswith("float8"):
        return spec.Value.of(flat.view(torch.uint8).numpy(), dtype=name)
    return spec.Value.of(flat.numpy())
