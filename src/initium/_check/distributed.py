"""Faults that only show between processes: replicas that differ, shards that repeat one another,
shards that were never drawn, empty shards, and fans that were read off a shard.

Pure functions from the rows of all processes (:mod:`initium._check.ranks`), and for the fans from
whole values, to findings that are the same on every process. Not covered: tensors that another
library shards by hand, without DTensor: their shapes say nothing of a whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch

from initium._check.ranks import CONSTANT, HEAD, Ranks, Shared, listed_ranks
from initium._check.thresholds import FAN_SIGMAS, FAN_TOLERANCE
from initium._check.values.fans import FORMULAS, find_misread
from initium._check.words import also
from initium._report.records import Finding
from initium._types import MATRIX_ROLES, ModelView, Role

__all__ = ["find_between_ranks"]

DRAWN = frozenset({*MATRIX_ROLES, "embedding", "position", "token"})
TABLES = frozenset({"embedding", "position", "token"})
FEWEST = 8
"""Random elements that are not equal by chance, in any number format."""
SEED_ALIKE = (
    "seed every process alike before drawing what all of them hold, or send out the values of one "
    "(torch.distributed.broadcast), or use initium.initialize(model, seed=0), which gives every "
    "process the same"
)
SEND_BUFFERS = (
    "send out the values of one process (torch.distributed.broadcast), or register what belongs to "
    "one process with persistent=False"
)


def find_between_ranks(
    ranks: Ranks | None, values: Mapping[str, torch.Tensor], view: ModelView
) -> list[Finding]:
    """What the rows of all processes show (IN901, IN902, IN904, IN710), and whole values (IN903).

    Args:
        ranks: of :func:`initium._check.ranks.survey`; ``None`` for a process alone.
        values: whole tensors by canonical name.
        view: what the model is.
    """
    if ranks is None:
        return []
    return [
        *_differing(ranks),
        *_repeated(ranks, values, view),
        *_undrawn(ranks, values, view),
        *_empty(ranks),
        *_local_fans(ranks, values, view),
    ]


def _differing(ranks: Ranks) -> Iterable[Finding]:
    """Replicas with other bits."""
    for buffers in (False, True):
        found: list[tuple[Shared, list[list[int]]]] = []
        for number, one in enumerate(ranks.tensors):
            for holders in ranks.parts(number).values():
                sides: dict[bytes, list[int]] = {}
                for rank in holders:
                    sides.setdefault(ranks.row(rank, number)["digest"].tobytes(), []).append(rank)
                if len(sides) > 1 and one.is_buffer == buffers:
                    found.append((one, list(sides.values())))
                    break
        if found:
            first, groups = found[0]
            names = tuple(one.name for one, _ in found)
            part = "which hold the same part of it" if first.parts > 1 else "which hold copies"
            outcome = (
                "what follows depends on the process"
                if buffers
                else "the processes train different models, and averaged gradients keep them apart"
            )
            yield Finding(
                code="IN901",
                severity="warning" if buffers else "error",
                title="replicas that differ",
                where=names,
                message=f"{first.name} {first.shape} differs {_sides(groups)}, {part}: {outcome}"
                f"{also(names, 'buffer' if buffers else 'parameter')}",
                fix=SEND_BUFFERS if buffers else SEED_ALIKE,
                numbers={"tensors": len(names), "versions": len(groups)},
            )


def _sides(groups: list[list[int]]) -> str:
    """Who holds one thing, and who another."""
    if len(groups) > 2 and all(len(group) == 1 for group in groups):
        return f"on each of {listed_ranks(rank for group in groups for rank in group)}"
    more = f" and {len(groups) - 3} more" if groups[3:] else ""
    return f"between {' and '.join(map(listed_ranks, groups[:3]))}{more}"


def _repeated(
    ranks: Ranks, values: Mapping[str, torch.Tensor], view: ModelView
) -> Iterable[Finding]:
    """Parts of one tensor that look random and are equal, or one a multiple of the other.

    Stacked matrices may be meant to start alike, as experts do that are copies of one; tables of
    positions are waves whose columns are multiples of one another. Where rows are equal within a
    shard too, the whole is made of such rows, and is so on one process as well.
    """
    found: list[tuple[Shared, list[int], bool]] = []
    for number, one in enumerate(ranks.tensors):
        if not _is_drawn(one, view) or one.parts < 2:
            continue
        groups: dict[int, list[int]] = {}
        equal: dict[bytes, list[int]] = {}
        for holders in ranks.parts(number).values():
            row = ranks.row(holders[0], number)
            if row["head"] and view.parameters[one.name].role != "position":
                groups.setdefault(int(row["head"]), []).append(holders[0])
            if row["head"] or (FEWEST <= row["elements"] < HEAD and row["state"] != CONSTANT):
                equal.setdefault(row["digest"].tobytes(), []).append(holders[0])
        same = max(equal.values(), key=len, default=[])
        alike = max(groups.values(), key=len, default=[])
        if len(same) > 1 or len(alike) > 1:
            if one.name in values and _repeats_within(values[one.name].detach(), one.shard):
                continue
            exact = len(same) >= len(alike)
            found.append((one, same if exact else alike, exact))
    if found:
        first, holders, exact = found[0]
        names = tuple(one.name for one, *_ in found)
        stacked = any(block.stacked for block in view.parameters[first.name].blocks)
        how = "hold the same numbers" if exact else "start with the same numbers, up to a factor,"
        yield Finding(
            code="IN902",
            severity="warning" if stacked else "error",
            title="shards that repeat one another",
            where=names,
            message=f"{listed_ranks(holders)} {how} in their parts of {first.name} {first.shape}, "
            f"of which each should have its own: it is one shard of shape {first.shard} over and "
            f"over{also(names, 'parameter')}",
            fix="every process drew its shard from the same seed: fill by "
            "initium.initialize(model, seed=0), whose numbers follow from the place in the whole "
            "tensor; or draw before the model is sharded, or with seeds that differ by rank along "
            "the sharded dimensions of the mesh",
            numbers={"parameters": len(names), "shards": len(holders)},
        )


def _repeats_within(whole: torch.Tensor, shard: tuple[int, ...]) -> bool:
    """Whether slices of one shard are equal, or cannot be told apart for there is but one."""
    whole = torch.view_as_real(whole) if whole.is_complex() else whole
    for axis, size in enumerate(shard):
        if size == whole.shape[axis]:
            continue
        for part in whole.split(size, axis):
            slices = part.movedim(axis, 0).flatten(1)[:, :HEAD].float()
            slices = slices[slices.any(1)]
            if size < 2 or len(slices.unique(dim=0)) < len(slices):
                return True
    return False


def _undrawn(
    ranks: Ranks, values: Mapping[str, torch.Tensor], view: ModelView
) -> Iterable[Finding]:
    """Parts that hold one value throughout, while others of the same tensor look drawn."""
    found: list[tuple[Shared, list[int]]] = []
    for number, one in enumerate(ranks.tensors):
        if not _is_drawn(one, view) or one.parts < 2 or view.parameters[one.name].blocks:
            continue
        held = [(group, ranks.row(group[0], number)) for group in ranks.parts(number).values()]
        held = [(group, row) for group, row in held if row["elements"] >= FEWEST]
        flat = [rank for group, row in held if row["state"] == CONSTANT for rank in group]
        if one.name in values and _is_padded(one, values[one.name].detach(), view):
            continue
        if flat and any(row["head"] for _, row in held):
            found.append((one, flat))
    if found:
        first, flat = found[0]
        names = tuple(one.name for one, _ in found)
        yield Finding(
            code="IN904",
            severity="warning",
            title="a shard that was never drawn",
            where=names,
            message=f"the part of {first.name} on {listed_ranks(flat)} holds one value throughout, "
            f"while other parts look random{also(names, 'parameter')}",
            fix="run the init on every process, not on the first alone: initium.initialize(model)",
            numbers={"parameters": len(names), "shards": len(flat)},
        )


def _is_padded(one: Shared, whole: torch.Tensor, view: ModelView) -> bool:
    """Whether what is flat in a table is its padding row, or its end from within a shard on."""
    known = view.parameters[one.name]
    if known.role not in TABLES or one.shard[1:] != one.shape[1:]:
        return False
    rows = whole.flatten(1)
    drawn = (rows != rows[:, :1]).any(1)
    if known.padding_row is not None:
        drawn[known.padding_row] = True
    end = int(drawn.nonzero().max()) + 1 if drawn.any() else 0
    if end % one.shard[0]:
        drawn[end:] = True
    return all(bool(part.any()) for part in drawn.split(one.shard[0]))


def _empty(ranks: Ranks) -> Iterable[Finding]:
    """Parts without elements: nothing that is written there does anything."""
    found = []
    for number, one in enumerate(ranks.tensors):
        without = [
            rank
            for group in ranks.parts(number).values()
            for rank in group
            if ranks.row(rank, number)["elements"] == 0
        ]
        if without and 0 not in one.shape:
            found.append((one, without))
    if found:
        first, without = found[0]
        names = tuple(one.name for one, _ in found)
        hold = "holds" if len(without) == 1 else "hold"
        yield Finding(
            code="IN710",
            severity="info",
            title="empty shards",
            where=names,
            message=f"{listed_ranks(without)} {hold} no element of {first.name} {first.shape}, "
            f"which is cut into {first.parts} parts of {first.shard}, which leaves none for "
            f"{'it' if len(without) == 1 else 'them'}: what init code writes there is lost"
            f"{also(names, 'tensor')}",
            numbers={"tensors": len(names), "ranks": len(without)},
        )


def _is_drawn(one: Shared, view: ModelView) -> bool:
    known = view.parameters.get(one.name)
    return known is not None and known.role in DRAWN


def _local_fans(
    ranks: Ranks, values: Mapping[str, torch.Tensor], view: ModelView
) -> Iterable[Finding]:
    """Whole weights whose std is that of a formula with the fans of a shard (IN903).

    A shard is a matrix of another shape, and what reads fans off it misreads them as off any other
    wrong axes: see :mod:`initium._check.values.fans` for what is told apart, and how surely. What
    torch's fans of the whole shape explain is no fault of a shard.
    """
    shards = {
        one.name: one.shard
        for one in ranks.tensors
        if one.parts > 1 and one.name in view.parameters and one.name in values
    }
    as_shards = {
        name: replace(known, shape=shape, role=_as_matrix(known.role), blocks=())
        for name, shape in shards.items()
        if (known := view.parameters[name]).is_matrix and not _is_of_whole(values[name].detach())
    }
    pretended = replace(view, parameters={**view.parameters, **as_shards})
    held = {name: values[name].detach() for name in as_shards}
    return [
        replace(
            finding,
            code="IN903",
            title="fans of a shard",
            message=f"{finding.message}; {shards[finding.where[0]]} is the shape of a shard",
            fix=f"give the fans of the whole {view.parameters[finding.where[0]].shape} to whatever "
            "draws the shards, or fill by initium.initialize(model), which knows them",
        )
        for finding in find_misread(held, pretended)
    ]


def _as_matrix(role: Role) -> Role:
    """A shard is a matrix like others, but for the swapped fans of transposed convolutions."""
    return role if role == "conv_transpose" else "linear"


def _is_of_whole(whole: torch.Tensor) -> bool:
    """Whether some formula gives this std with the fans that torch reads off the whole."""
    if whole.dim() < 2 or not (rms := float(whole.float().square().mean().sqrt())) > 0.0:
        return False
    taps = math.prod(whole.shape[2:])
    fans = whole.shape[1] * taps, whole.shape[0] * taps
    near = FAN_TOLERANCE + FAN_SIGMAS * math.sqrt(0.5 / whole.numel())
    return any(abs(math.log(law(*fans) ** 0.5 / rms)) < near for law in FORMULAS.values())
