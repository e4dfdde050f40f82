"""The logical matrices inside a fused or stacked parameter, as runs of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from initium._inspect.activation import Following
from initium._inspect.flow import Flow
from initium._inspect.labels import Rows
from initium._inspect.uses import Use
from initium._types import Block

__all__ = ["blocks_of", "gates", "output_axis", "runs"]

GATES = {
    "lstm": ("input", "forget", "cell", "output"),
    "gru": ("reset", "update", "new"),
}


def blocks_of(
    flow: Flow,
    name: str,
    axis: int,
    parts: Sequence[tuple[str, Rows] | tuple[str, Rows, Following]],
) -> tuple[Block, ...]:
    """Blocks along one output axis of ``name``: labelled rows that together are all of it."""
    size = flow.graph.parameters[name].shape[axis]
    if not parts:
        return ()
    found = []
    for label, taken, *more in parts:
        block = runs(label, axis, taken)
        if block is None or taken[-1] >= size:
            return ()
        if more:
            block = replace(block, activation=more[0].name, gain=more[0].gain)
        found.append(block)
    times = np.bincount(np.concatenate([taken for _, taken, *_ in parts]), minlength=size)
    whole = bool((times == 1).all())
    return tuple(sorted(found, key=lambda block: block.start)) if whole else ()


def gates(flow: Flow, name: str, use: Use) -> tuple[Block, ...]:
    """The gates of a recurrent cell, one below the other."""
    labels = GATES.get(use.node.op.removesuffix("_cell"), ())
    size = flow.graph.parameters[name].shape[0]
    if not labels or size % len(labels):
        return ()
    each = size // len(labels)
    return tuple(Block(label, 0, place * each, each) for place, label in enumerate(labels))


def output_axis(use: Use) -> int | None:
    """The one dimension of a parameter that its product puts out; ``None`` if there are several."""
    outputs = use.axes.outputs if use.axes is not None else ()
    return outputs[0] if len(outputs) == 1 else None


def runs(label: str, axis: int, taken: Rows) -> Block | None:
    """Sorted indices as equally long, equally spaced runs; ``None`` if they are not."""
    if not len(taken):
        return None
    first = np.flatnonzero(np.diff(taken, prepend=taken[0] - 2) != 1)
    starts = taken[first]
    size, remainder = divmod(len(taken), len(starts))
    spacing = np.unique(np.diff(starts))
    lengths = np.unique(np.diff(first, append=len(taken)))
    if remainder or len(spacing) > 1 or len(lengths) > 1:
        return None
    stride = int(spacing[0]) if len(spacing) else 0
    return Block(label, axis, int(taken[0]), size, len(starts), stride)
