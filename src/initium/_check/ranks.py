"""What every process of a sharded or replicated model holds, told to all of them.

A row of 40 bytes per tensor goes round: a digest of 128 bits of what this process holds, which part
of the whole that is, how many elements, the direction of its first elements, and whether it is
empty, constant or on meta. What follows is the same on every process, errors included, so that none
is left waiting for another. Left out: running statistics of batches, which are each process's own
until they are sent out, and buffers that are not saved, such as caches.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from initium._model.names import Slot, named_modules, slots
from initium._model.sharding import is_sharded, local, meant_for, must_show_parameters, reshard
from initium.errors import ModelError

__all__ = ["Ranks", "Shared", "listed_ranks", "survey"]

ROW = np.dtype(
    [("digest", "<u8", 2), ("head", "<u8"), ("elements", "<i8"), ("part", "<i4"), ("state", "<i4")]
)
VARIED, CONSTANT, META = range(3)
HEAD = 16
"""Elements whose direction is compared: equal ones by chance are out of the question."""
FEWEST_SIGNS = 2
"""How many of them have either sign: in all random tensors but one in 2000, in no smooth table."""
GRID = 50
"""Steps per unit to which directions are rounded."""
CHUNK = 1 << 22
"""Elements that are brought to the CPU at a time."""

Group = dist.ProcessGroup


@dataclass(frozen=True, slots=True)
class Shared:
    """One parameter or buffer as all processes see it.

    Attributes:
        name, shape, is_buffer: of the whole.
        shard: the shape of the largest part; that of the whole where it is only replicated.
        parts: how many parts it is cut into.
    """

    name: str
    shape: tuple[int, ...]
    is_buffer: bool
    shard: tuple[int, ...]
    parts: int


@dataclass(frozen=True, slots=True)
class Ranks:
    """The rows of all processes: ``rows[rank][number]`` is of ``tensors[number]``."""

    tensors: tuple[Shared, ...]
    rows: dict[int, np.ndarray]

    def parts(self, number: int) -> dict[int, list[int]]:
        """Which ranks hold which part of a tensor; they hold replicas of it."""
        found: dict[int, list[int]] = {}
        for rank, rows in self.rows.items():
            if (part := int(rows[number]["part"])) >= 0:
                found.setdefault(part, []).append(rank)
        return dict(sorted(found.items()))

    def row(self, rank: int, number: int) -> np.void:
        """What one process says of one tensor."""
        held: np.void = self.rows[rank][number]
        return held


def survey(model: nn.Module, group: Group | None = None) -> Ranks | None:
    """Let the processes of a model compare what they hold; ``None`` where there is one.

    Args:
        model: with parameters that are DTensors, whose processes are those of their meshes; or any,
            with ``group``.
        group: the processes that take part, instead. All of them have to call this.

    Raises:
        ModelError: on every process: they hold different models, a parameter is on meta somewhere
            or a partial sum, the parts do not make up the whole, the values cannot be read
            somewhere, meshes overlap, or passes through the model wait for other processes.
    """
    if not dist.is_available() or not dist.is_initialized():
        return None
    must_show_parameters(model)
    reshard(model)
    _must_run_alone(model)
    held = [slot for slot in slots(model).values() if _is_compared(slot)]
    _must_be_held(held)
    groups = _groups([slot.tensor for slot in held], group)
    if not groups:
        return None
    device = meant_for(slot.tensor for slot in held)
    tensors = tuple(_shared(slot) for slot in held)
    layout = _digest([repr((tensors, [slot.tensor.dtype for slot in held])).encode()])
    failure: Exception | None = None
    try:
        rows = np.array([_row(slot.tensor) for slot in held], dtype=ROW)
    except Exception as error:
        rows, failure = np.zeros(len(held), ROW), error
    first = np.array([*np.frombuffer(layout, "<u8"), failure is not None], "<u8")
    told = _exchange(first, groups, device)
    _must_hear_all(told, groups, device)
    _same_layout({rank: one[:2] for rank, one in told.items()})
    _must_be_read({rank for rank, one in told.items() if one[2]}, failure)
    found = _exchange(rows.view("<u8"), groups, device)
    ranks = Ranks(tensors, {rank: found[rank].view(ROW) for rank in sorted(found)})
    _whole(ranks)
    return ranks


def listed_ranks(ranks: Iterable[int]) -> str:
    """Ranks in words.

    Example:
        >>> listed_ranks([0]), listed_ranks([0, 1, 2, 5]), listed_ranks([0, 1])
        ('rank 0', 'ranks 0-2, 5', 'ranks 0, 1')
    """
    ordered = sorted(ranks)
    runs: list[list[int]] = []
    for rank in ordered:
        if runs and runs[-1][-1] == rank - 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    said = [f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return f"rank{'' if len(ordered) == 1 else 's'} {', '.join(said)}"


def _groups(tensors: Sequence[torch.Tensor], group: Group | None) -> list[Group]:
    """The groups to go round one after the other, so that all that belong together hear all."""
    if group is not None:
        return [group] if dist.get_world_size(group) > 1 else []
    sharded = (tensor for tensor in tensors if is_sharded(tensor))
    meshes = dict.fromkeys(tensor.device_mesh for tensor in sharded)  # type: ignore[attr-defined]
    known: set[int] = {dist.get_rank()}
    found = []
    for mesh in sorted(meshes, key=lambda mesh: (-mesh.size(), mesh.ndim)):
        if mesh.get_coordinate() is None:
            continue
        for dim in range(mesh.ndim):
            one = mesh.get_group(dim)
            ranks = set(dist.get_process_group_ranks(one))
            if not ranks <= known and dist.get_backend(one) != "fake":
                found.append(one)
                known |= ranks
    return found


def _is_compared(slot: Slot) -> bool:
    if not slot.is_buffer:
        return True
    collected = isinstance(slot.owner, nn.modules.batchnorm._NormBase)
    return not collected and slot.leaf not in slot.owner._non_persistent_buffers_set


def _must_run_alone(model: nn.Module) -> None:
    for name, module in named_modules(model):
        waits = isinstance(module, nn.SyncBatchNorm) and module.training
        if waits and dist.get_world_size(module.process_group) > 1:  # type: ignore[arg-type]
            raise ModelError(
                "is a SyncBatchNorm in training mode, whose passes wait for other processes, and "
                "every process measures by itself",
                where=name or type(module).__name__,
                fix="do this before convert_sync_batchnorm, or after model.eval()",
            )


def _must_be_held(held: Iterable[Slot]) -> None:
    for slot in held:
        if not is_sharded(slot.tensor):
            continue
        for placement in slot.tensor.placements:  # type: ignore[attr-defined]
            if placement.is_partial():
                raise ModelError(
                    "is a partial sum, of which no process holds an element",
                    where=slot.name,
                    value=placement,
                    fix="redistribute it to Replicate() or Shard(dim) first",
                )


def _exchange(
    mine: np.ndarray, groups: Sequence[Group], device: torch.device
) -> dict[int, np.ndarray]:
    """What every process has, by rank."""
    own = np.concatenate([np.array([dist.get_rank()], "<u8"), mine.reshape(-1)])
    held = torch.from_numpy(own.view("<i8").copy())[None]
    for group in groups:
        place = torch.device("cpu") if "gloo" in dist.get_backend(group) else device
        counts = [int(one) for one in _gathered(torch.tensor([len(held)]), group, place)]
        sent = torch.cat([held, held.new_zeros(max(counts) - len(held), held.shape[1])])
        parts = zip(_gathered(sent, group, place), counts, strict=True)
        held = torch.cat([part[:count] for part, count in parts])
    return {int(row[0]): row[1:].numpy().view("<u8") for row in held}


def _gathered(mine: torch.Tensor, group: Group, device: torch.device) -> list[torch.Tensor]:
    """What every process of a group sends, all of one shape."""
    sent = mine.to(device)
    parts = [torch.empty_like(sent) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, sent, group=group)
    return [part.cpu() for part in parts]


def _must_hear_all(heard: Iterable[int], groups: Sequence[Group], device: torch.device) -> None:
    """Raise unless all that belong together have heard of the same processes."""
    ranks = sorted(heard)
    known = np.frombuffer(_digest([repr(ranks).encode()]), "<u8")
    if any(not np.array_equal(one, known) for one in _exchange(known, groups, device).values()):
        raise ModelError(
            "the meshes of the model overlap, and its processes do not all share one",
            fix="shard all of the model on one mesh, or on submeshes of one, or pass group=",
        )


def _must_be_read(failed: set[int], failure: Exception | None) -> None:
    if failed:
        raise ModelError(
            f"the values of the model cannot be read on {listed_ranks(failed)}",
            fix="look at what these processes hold and at the memory that they have left",
        ) from failure


def _same_layout(found: dict[int, np.ndarray]) -> None:
    first = min(found)
    other = [rank for rank in found if not np.array_equal(found[rank], found[first])]
    if other:
        raise ModelError(
            f"{listed_ranks(other)} and rank {first} hold models with other parameters, shapes, "
            "dtypes or shards",
            fix="build and shard the model alike on every process; of pipeline stages, compare "
            "those of one stage with one another",
        )


def _whole(ranks: Ranks) -> None:
    """Everything has values, and its parts make up the whole."""
    for number, one in enumerate(ranks.tensors):
        parts = ranks.parts(number)
        meta = [rank for rank in ranks.rows if ranks.row(rank, number)["state"] == META]
        if meta and not one.is_buffer:
            raise ModelError(
                f"is on the meta device and holds no values on {listed_ranks(meta)}",
                where=one.name,
                fix="fill the model first, on every process: initium.initialize(model)",
            )
        held = sum(int(ranks.row(first[0], number)["elements"]) for first in parts.values())
        if len(parts) == one.parts and held != math.prod(one.shape):
            raise ModelError(
                f"the processes hold {held:,} of its {math.prod(one.shape):,} elements together",
                where=one.name,
                value=one.shape,
                fix="make it with distribute_tensor, or pass shape= and stride= to "
                "DTensor.from_local",
            )


def _shared(slot: Slot) -> Shared:
    tensor, shard, parts = slot.tensor, list(slot.tensor.shape), 1
    if is_sharded(tensor):
        for dim, placement in enumerate(tensor.placements):  # type: ignore[attr-defined]
            if hasattr(placement, "dim"):
                count = tensor.device_mesh.size(dim)  # type: ignore[attr-defined]
                shard[placement.dim] = -(-shard[placement.dim] // count)
                parts *= count
    return Shared(slot.name, tuple(tensor.shape), slot.is_buffer, tuple(shard), parts)


def _row(tensor: torch.Tensor) -> tuple[object, ...]:
    held = local(tensor.detach())
    part = _part(tensor)
    if held.is_meta:
        return (0, 0), 0, held.numel(), part, META
    if held.layout is not torch.strided or held.is_quantized:
        return (0, 0), 0, held.numel(), part, VARIED
    flat = held.reshape(-1).resolve_conj().resolve_neg().contiguous()
    each = flat.view(torch.uint8).view(-1, flat.element_size()).split(CHUNK)
    same = all(bool((chunk == each[0][:1]).all()) for chunk in each)
    digest = np.frombuffer(_digest(chunk.cpu().numpy().data for chunk in each), "<u8")
    return tuple(digest), _head(flat), flat.numel(), part, CONSTANT if same else VARIED


def _part(tensor: torch.Tensor) -> int:
    """The number of the part that this process holds; -1 where it holds none."""
    if not is_sharded(tensor):
        return 0
    mesh = tensor.device_mesh  # type: ignore[attr-defined]
    coordinate = mesh.get_coordinate()
    if coordinate is None:
        return -1
    number = 0
    for dim, placement in enumerate(tensor.placements):  # type: ignore[attr-defined]
        if hasattr(placement, "dim"):
            number = number * int(mesh.size(dim)) + int(coordinate[dim])
    return number


def _digest(parts: Iterable[bytes | memoryview]) -> bytes:
    made = hashlib.blake2b(digest_size=16)
    for part in parts:
        made.update(part)
    return made.digest()


def _head(flat: torch.Tensor) -> int:
    """The direction of the first elements as a number; 0 where they do not look random."""
    if len(flat) < HEAD or not flat.is_floating_point():
        return 0
    head = flat[:HEAD].double().cpu().numpy()
    with np.errstate(all="ignore"):
        size = float(np.linalg.norm(head))
        steps = np.diff(head.astype(np.float32))
    distinct = min(len(set(head.tolist())), len(set(steps.tolist())))
    signs = min((head > 0).sum(), (head < 0).sum())
    if not 0.0 < size < math.inf or distinct <= HEAD // 2 or signs < FEWEST_SIGNS:
        return 0
    direction = np.rint(GRID * head / size).astype("<i4")
    return int.from_bytes(_digest([direction.tobytes()])[:8], "little") or 1
