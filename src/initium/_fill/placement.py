"""Which part of a sharded tensor this process holds, from its placements, without communication.

Every dimension of a device mesh cuts one axis, in their order, as :func:`torch.chunk` does. A
strided shard, which FSDP2 puts in front of tensor parallelism, first cuts the axis into as many
pieces as the later dimensions will, and takes a part of each. So what a process holds is a product
of ranges, one or a few along every axis.

Not covered: partial sums; uneven strided shards of which torch holds other parts than it says.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from initium._fill.tensor import Index
from initium._model.sharding import is_sharded, local
from initium.errors import PlanError

__all__ = ["Box", "Cut", "boxes", "check_placement", "held"]


@dataclass(frozen=True)
class Cut:
    """What one mesh dimension leaves of an axis: part ``index`` of ``count``, of every piece."""

    index: int
    count: int
    pieces: int = 1


@dataclass(frozen=True)
class Box:
    """A slice of the whole tensor, and the slice of this process's part that holds it."""

    index: Index
    where: Index


def boxes(tensor: torch.Tensor) -> tuple[Box, ...]:
    """All that this process holds of ``tensor``; :func:`check_placement` must have passed.

    Example:
        >>> boxes(torch.zeros(4, 2))
        (Box(index=(slice(0, 4, None), slice(0, 2, None)), where=(slice(0, 4, None), ...
    """
    axes = []
    for ranges in _axes(tensor):
        ends = tuple(itertools.accumulate(map(len, ranges)))
        axes.append(
            [
                (slice(part.start, part.stop), slice(end - len(part), end))
                for part, end in zip(ranges, ends, strict=True)
            ]
        )
    return tuple(
        Box(tuple(index for index, _ in pairs), tuple(where for _, where in pairs))
        for pairs in itertools.product(*axes)
    )


def check_placement(name: str, tensor: torch.Tensor) -> None:
    """Raise PlanError unless :func:`boxes` knows what this process holds of the tensor.

    What can be found without communication is found on every process alike.
    """
    if not is_sharded(tensor):
        return
    for placement in tensor.placements:  # type: ignore[attr-defined]
        if placement.is_partial():
            raise PlanError(
                "is a partial sum, of which no process holds an element",
                where=name,
                value=placement,
                fix="redistribute it to Replicate() or Shard(dim) first",
            )
        if not (placement.is_replicate() or _cuts(placement)):
            raise PlanError(
                "has a placement that is not known",
                where=name,
                value=placement,
                choices=("Replicate", "Shard", "_StridedShard"),
            )
    for axis, size in enumerate(tensor.shape):
        if not _described(size, tuple(_cuts_of(tensor, axis, None))):
            raise PlanError(
                f"its axis {axis} of length {size} is cut unevenly by two mesh dimensions, and "
                "torch holds other parts than its placements say",
                where=name,
                value=tensor.placements,  # type: ignore[attr-defined]
                fix="pad the axis to a multiple of both, or shard another one with "
                "fully_shard(shard_placement_fn=...)",
            )
    part = local(tensor)
    expected = tuple(sum(map(len, ranges)) for ranges in _axes(tensor))
    if tuple(part.shape) != expected and (part.numel() or 0 not in expected):
        raise PlanError(
            f"this process holds a part of shape {tuple(part.shape)}, and its placements say "
            f"{expected}",
            where=name,
            value=tensor.placements,  # type: ignore[attr-defined]
            fix="make it with distribute_tensor, or pass shape= and stride= to DTensor.from_local",
        )


def held(size: int, cuts: Iterable[Cut]) -> tuple[range, ...]:
    """The positions along an axis that are left after ``cuts``, in the order they lie in memory.

    Args:
        size: of the whole axis.
        cuts: in the order of the mesh dimensions.

    Example:
        >>> held(10, [Cut(index=1, count=4)])
        (range(3, 6),)
        >>> held(8, [Cut(index=0, count=2, pieces=2)])
        (range(0, 2), range(4, 6))
    """
    ranges: tuple[range, ...] = (range(size),) if size else ()
    for cut in cuts:
        pieces = [_chunk(ranges, cut.pieces, number) for number in range(cut.pieces)]
        ranges = _joined(_chunk(piece, cut.count, cut.index) for piece in pieces)
    return ranges


def _chunk(ranges: Sequence[range], count: int, index: int) -> list[range]:
    """Part ``index`` of what :func:`torch.chunk` makes of these positions; the last may be none."""
    total = sum(map(len, ranges))
    step = -(-total // count)
    start, stop, found = index * step, min((index + 1) * step, total), []
    for positions in ranges:
        inside = positions[max(start, 0) : max(stop, 0)]
        if inside:
            found.append(inside)
        start, stop = start - len(positions), stop - len(positions)
    return found


def _joined(pieces: Iterable[Iterable[range]]) -> tuple[range, ...]:
    """One range where the next goes on where the last has ended."""
    joined: list[range] = []
    for positions in itertools.chain.from_iterable(pieces):
        if joined and joined[-1].stop == positions.start:
            joined[-1] = range(joined[-1].start, positions.stop)
        else:
            joined.append(positions)
    return tuple(joined)


def _axes(tensor: torch.Tensor) -> list[tuple[range, ...]]:
    """What this process holds along every axis."""
    if not is_sharded(tensor):
        return [held(size, ()) for size in tensor.shape]
    coordinate = tensor.device_mesh.get_coordinate()  # type: ignore[attr-defined]
    if coordinate is None:
        return [() for _ in tensor.shape] or [()]
    return [
        held(size, _cuts_of(tensor, axis, coordinate)) for axis, size in enumerate(tensor.shape)
    ]


def _cuts_of(tensor: torch.Tensor, axis: int, coordinate: Sequence[int] | None) -> list[Cut]:
    """The cuts of an axis, at the coordinate of a process, or at the first one."""
    return [
        Cut(
            coordinate[dim] if coordinate else 0,
            tensor.device_mesh.size(dim),  # type: ignore[attr-defined]
            int(getattr(placement, "split_factor", 1)),
        )
        for dim, placement in enumerate(tensor.placements)  # type: ignore[attr-defined]
        if _cuts(placement) and placement.dim == axis
    ]


@lru_cache(maxsize=1024)
def _described(size: int, cuts: tuple[Cut, ...]) -> bool:
    """Whether FSDP2 over tensor parallelism leaves every process what its placements say.

    It cuts what tensor parallelism has left, and calls that a strided cut before it. That is the
    same unless a part gets empty.
    """
    strided = [number for number, cut in enumerate(cuts) if cut.pieces > 1]
    if len(strided) != 1:
        return True
    first, later = cuts[strided[0]], cuts[strided[0] + 1 :]
    if first.pieces != math.prod(cut.count for cut in later):
        return True
    before = [replace(cut, index=0) for cut in cuts[: strided[0]]]
    for place in itertools.product(range(first.count), *(range(cut.count) for cut in later)):
        inner = [replace(cut, index=at) for cut, at in zip(later, place[1:], strict=True)]
        said = held(size, [*before, replace(first, index=place[0]), *inner])
        done = held(size, [*before, *inner, Cut(place[0], first.count)])
        if said != done:
            return False
    return True


def _cuts(placement: object) -> bool:
    return type(placement).__name__ in ("Shard", "_StridedShard")
