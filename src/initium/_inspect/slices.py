"""Several matrices in one parameter, each used by itself: runs of a flat vector, or of one axis.

Every run becomes a block. Where the parameter is flat, a block has fans of its own, from the shape
that the run is brought into, and the role is a plain one. Not covered: runs that overlap, and
matrices of one size (see :func:`initium._inspect.experts.stacked_parts`).
"""

from __future__ import annotations

from collections.abc import Sequence

from initium._inspect.activation import following
from initium._inspect.flow import Flow
from initium._inspect.uses import Use, part_of
from initium._types import Block

__all__ = ["lies_flat", "slices"]


def lies_flat(uses: Sequence[Use]) -> bool:
    """Whether matrices lie one behind the other in a vector."""
    return sum(use.kind == "matrix" for use in uses) > 1 and all(
        use.fans is not None and use.part is not None for use in uses if use.kind == "matrix"
    )


def slices(flow: Flow, name: str, uses: Sequence[Use]) -> tuple[Block, ...]:
    """The runs of a parameter that its uses take, in order; empty if there is but one."""
    shape = flow.graph.parameters[name].shape
    found: dict[tuple[int, int, int], Use] = {}
    for use in uses:
        part = part_of(use)
        if part is None or (use.axes is not None and part[0] in use.axes.batch):
            return ()
        found.setdefault(part, use)
    axes = {axis for axis, _, _ in found}
    if len(found) < 2 or len(axes) > 1:
        return ()
    [axis] = axes
    blocks: list[Block] = []
    end = 0
    for (_, start, size), use in sorted(found.items(), key=lambda item: item[0]):
        if start < end:
            return ()
        if start > end:
            blocks.append(Block("other", axis, end, start - end))
        blocks.append(_block(flow, use, axis, start, size))
        end = start + size
    if end < shape[axis]:
        blocks.append(Block("other", axis, end, shape[axis] - end))
    return tuple(blocks)


def _block(flow: Flow, use: Use, axis: int, start: int, size: int) -> Block:
    if use.kind != "matrix":
        return Block("bias" if use.kind == "add" else "other", axis, start, size)
    after = following(flow, use.out)
    return Block("matrix", axis, start, size, activation=after.name, gain=after.gain, fans=use.fans)
