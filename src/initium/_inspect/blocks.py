"""The logical matrices inside a fused or stacked parameter, as runs of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from initium._inspect.activation import Following
from initium._inspect.flow import Flow, Rows
from initium._inspect.uses import Use
from initium._types import Block

__all__ = ["blocks_of", "runs"]

GATES = {
    "lstm": ("input", "forget", "cell", "output"),
    "gru": ("reset", "update", "new"),
}


def blocks_of(
    flow: Flow,
    name: str,
    use: Use | None,
    parts: Sequence[tuple[str, Rows] | tuple[str, Rows, Following]],
) -> tuple[Block, ...]:
    """Blocks along the output axis of ``name``: labelled rows of a product, or a cell's gates.

    Rows are indices of the product's outputs, which are the parameter's along its output axis.
    """
    if use is None or use.axes is None or len(use.axes.outputs) != 1:
        return ()
    axis = use.axes.outputs[0]
    size = flow.graph.parameters[name].shape[axis]
    if use.kind == "recurrent":
        labels = GATES.get(use.node.op.removesuffix("_cell"), ())
        if not labels or size % len(labels):
            return ()
        each = size // len(labels)
        return tuple(
            Block(label, axis, position * each, each) for position, label in enumerate(labels)
        )
    if not parts:
        return ()
    found = []
    for label, rows, *more in parts:
        block = runs(label, axis, rows)
        if block is None or rows[-1] >= size:
            return ()
        if more:
            block = replace(block, activation=more[0].name, gain=more[0].gain)
        found.append(block)
    taken = np.bincount(np.concatenate([rows for _, rows, *_ in parts]), minlength=size)
    return tuple(found) if bool((taken == 1).all()) else ()


def runs(label: str, axis: int, rows: Rows) -> Block | None:
    """Sorted indices as equally long, equally spaced runs; ``None`` if they are not."""
    if not len(rows):
        return None
    first = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)
    starts = rows[first]
    size, remainder = divmod(len(rows), len(starts))
    spacing = np.unique(np.diff(starts))
    lengths = np.unique(np.diff(first, append=len(rows)))
    if remainder or len(spacing) > 1 or len(lengths) > 1:
        return None
    stride = int(spacing[0]) if len(spacing) else 0
    return Block(label, axis, int(rows[0]), size, len(starts), stride)
