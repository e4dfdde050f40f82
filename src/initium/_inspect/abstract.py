"""Single operators on abstract tensors: their shapes, also where a shape depends on contents."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from initium._inspect.operators import RECURRENT
from initium._inspect.shadows import LIMIT, Shadows

__all__ = ["NEVER_DROPPED", "data_dependent", "invent_indices", "run"]

NEVER_DROPPED = 0.999
"""What a uniform draw gives while tracing: layers that are skipped at random are then kept."""


def _meta(shape: Any, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def run(
    func: torch._ops.OpOverload,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    operands: list[torch.Tensor],
    real: object | None,
) -> Any:
    """The operator on abstract tensors, or for real where all operands are real constants."""
    if name in ("_grouped_mm", "grouped_mm"):
        return _grouped_mm(*args, **kwargs)
    abstract = [tensor.device.type == "meta" for tensor in operands]
    if not operands and name == "rand":
        made = func(*args, **kwargs)
        return made if made.device.type == "meta" else made.fill_(NEVER_DROPPED)
    if operands and not any(abstract):
        return real if real is not None else func(*args, **kwargs)
    try:
        if all(abstract):
            return func(*args, **kwargs)
        swapped: dict[int, torch.Tensor] = {}

        def to_meta(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.device.type == "meta":
                return tensor
            twin = torch.empty_strided(
                tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta"
            )
            swapped[id(twin)] = tensor
            return twin

        result = func(
            *tree_map_only(torch.Tensor, to_meta, args),
            **tree_map_only(torch.Tensor, to_meta, kwargs),
        )
        return tree_map_only(torch.Tensor, lambda made: swapped.get(id(made), made), result)
    except (NotImplementedError, RuntimeError):
        if real is not None:
            return tree_map_only(torch.Tensor, lambda value: _meta(value.shape, value.dtype), real)
        if "device" in kwargs or any(isinstance(item, torch.device) for item in args):
            staying = {key: value for key, value in kwargs.items() if key != "device"}
            return func(
                *tree_map_only(torch.device, lambda _: torch.device("meta"), args), **staying
            )
        raise


def _grouped_mm(
    left: torch.Tensor,
    right: torch.Tensor,
    offs: torch.Tensor | None = None,
    bias: object = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Its meta implementation insists on bfloat16; the shape is all that is wanted."""
    if left.dim() == 2 and right.dim() == 3:
        shape = (left.shape[0], right.shape[-1])
    elif left.dim() == 3 and right.dim() == 3:
        shape = (right.shape[0], left.shape[-2], right.shape[-1])  # type: ignore[assignment]
    elif left.dim() == 3:
        shape = (left.shape[-2], right.shape[-1])
    else:
        groups = offs.numel() if offs is not None else 1
        shape = (groups, left.shape[0], right.shape[1])  # type: ignore[assignment]
    return _meta(shape, out_dtype or left.dtype)


def data_dependent(
    shadows: Shadows,
    func: torch._ops.OpOverload,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    operands: list[torch.Tensor],
    real: object | None,
) -> Any:
    """Operators whose output *shape* depends on contents; ``None`` where ``name`` is not one."""
    if real is not None:
        return None

    def bind(value: torch.Tensor) -> torch.Tensor:
        tensor = _meta(value.shape, value.dtype)
        shadows.set(tensor, value)
        return tensor

    if name in ("_pack_padded_sequence", "_pad_packed_sequence"):
        return (_pack if name == "_pack_padded_sequence" else _unpack)(shadows, *args)
    if name in RECURRENT and func._overloadname == "data":
        return _packed_recurrence(name, *args)
    if name in ("nonzero", "argwhere"):
        return bind(shadows.value(args[0], name).nonzero())
    if name == "nonzero_numpy" or (name == "where" and len(args) == 1):
        return [bind(index) for index in torch.where(shadows.value(args[0], name))]
    if name == "masked_select":
        mask = shadows.value(args[1], name)
        shape = torch.broadcast_shapes(mask.shape, args[0].shape)
        return _meta((int(mask.expand(shape).sum()),), args[0].dtype)
    counted = name == "repeat_interleave" and not (
        len(operands) == 1 and len(args) > 1 and isinstance(args[1], int)
    )
    if counted or name.startswith("unique") or name in ("_unique2", "bincount"):

        def given(tensor: torch.Tensor) -> torch.Tensor:
            if name == "repeat_interleave" and tensor.is_floating_point():
                return torch.empty(tensor.shape, dtype=tensor.dtype)
            return shadows.value(tensor, name)

        result = func(
            *tree_map_only(torch.Tensor, given, args), **tree_map_only(torch.Tensor, given, kwargs)
        )
        keep = all(not tensor.is_floating_point() for tensor in operands)
        return tree_map_only(
            torch.Tensor, bind if keep else lambda v: _meta(v.shape, v.dtype), result
        )
    if name in ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"):
        masks = (torch.bool, torch.uint8)
        indices = args[1]
        if not any(isinstance(i, torch.Tensor) and i.dtype in masks for i in indices):
            return None
        plain: list[torch.Tensor | None] = []
        for index in indices:
            if isinstance(index, torch.Tensor) and index.dtype in masks:
                found = shadows.value(index, "a mask").nonzero()
                plain += [_meta(part.shape, part.dtype) for part in found.unbind(-1)]
            else:
                plain.append(index)
        try:
            return run(func, name, (args[0], plain, *args[2:]), kwargs, operands, None)
        except (RuntimeError, IndexError):
            if name in ("index", "_unsafe_index"):
                raise
            return args[0]
    return None


def _pack(
    shadows: Shadows,
    data: torch.Tensor,
    lengths: torch.Tensor,
    batch_first: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences of known lengths, joined step by step; torch wants the sizes on the CPU."""
    real = shadows.value(lengths, "lengths")
    sizes = torch.stack([(real > step).sum() for step in range(int(real.max()))])
    return _meta((int(real.sum()), *data.shape[2:]), data.dtype), sizes


def _unpack(
    shadows: Shadows,
    data: torch.Tensor,
    batch_sizes: torch.Tensor,
    batch_first: bool,
    padding: float = 0.0,
    total: int = -1,
) -> tuple[torch.Tensor, torch.Tensor]:
    real = shadows.value(batch_sizes, "batch sizes")
    batch, steps = int(real[0]), max(len(real), total)
    lengths = torch.stack([(real > row).sum() for row in range(batch)])
    shape = (batch, steps) if batch_first else (steps, batch)
    return _meta((*shape, *data.shape[1:]), data.dtype), lengths


def _packed_recurrence(
    name: str,
    data: torch.Tensor,
    batch_sizes: torch.Tensor,
    state: torch.Tensor | list[torch.Tensor],
    weights: list[torch.Tensor],
    biased: bool,
    layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
) -> tuple[torch.Tensor, ...]:
    """Its kernels read the batch sizes from memory; the shapes follow from the states."""
    states = state if isinstance(state, (list, tuple)) else [state]
    width = states[0].shape[-1] * (2 if bidirectional else 1)
    output = _meta((data.shape[0], width), data.dtype)
    return output, *(_meta(item.shape, item.dtype) for item in states)


def invent_indices(
    shadows: Shadows,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    made: list[torch.Tensor],
) -> None:
    """Indices that depend on weights (routing) go round robin, so that many experts are reached."""
    base = name.rstrip("_")
    if base in ("topk", "sort", "kthvalue", "max", "min") and len(made) == 2:
        indices = made[1]
    elif base in ("argmax", "argmin", "argsort", "multinomial") and len(made) == 1:
        indices = made[0]
    else:
        return
    source = args[0]
    position = 2 if base == "topk" else 1
    dim = kwargs.get("dim", args[position] if len(args) > position else -1)
    if not isinstance(dim, int) or isinstance(dim, bool) or base == "multinomial":
        dim = -1
    over_all = base in ("argmax", "argmin") and len(args) < 2 and "dim" not in kwargs
    count = source.numel() if over_all or not source.dim() else source.shape[dim]
    if indices.device.type == "meta" and indices.numel() <= LIMIT:
        values = torch.arange(indices.numel()).reshape(indices.shape) % max(count, 1)
        shadows.invent(indices, values.to(indices.dtype), f"{base} indices")
