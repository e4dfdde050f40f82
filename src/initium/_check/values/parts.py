"""The logical matrices that lie in one parameter: fused blocks, experts of a stack, groups."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from initium._types import Block, ParameterView

__all__ = ["fused_blocks", "is_layer", "matrices_in"]


def is_layer(known: ParameterView) -> bool:
    """Whether a matrix is known to be the weights of a layer: by torch's class, or by its role.

    A bare parameter that is multiplied with a signal may also be an adjacency, a filter bank or a
    mask.
    """
    return bool(known.torch_type) or known.role not in ("linear", "head")


def fused_blocks(value: torch.Tensor, known: ParameterView) -> list[torch.Tensor]:
    """The fused blocks of contiguous rows, each of which has a scale of its own; else the whole."""
    blocks = [block for block in known.blocks if not block.stacked and block.count == 1]
    if len(blocks) < max(len(known.blocks), 2):
        return [value]
    return [value.narrow(block.axis, block.start, block.size) for block in blocks]


def matrices_in(value: torch.Tensor, known: ParameterView) -> Iterator[torch.Tensor]:
    """Each as [outputs, inputs x taps].

    Nothing of depthwise convolutions, which add up no channels, nor where blocks lie flat.
    """
    axes = known.axes
    if axes is None or any(block.fans is not None for block in known.blocks):
        return
    if sorted((*axes.batch, *axes.outputs, *axes.inputs, *axes.field)) != [*range(value.dim())]:
        return
    order = (*axes.batch, *axes.outputs, *axes.inputs, *axes.field)
    for part in _runs(value, known.blocks):
        placed = part.permute(order)
        rows = math.prod(part.shape[axis] for axis in axes.outputs)
        stack = placed.reshape(math.prod(part.shape[axis] for axis in axes.batch), rows, -1)
        groups = known.groups if rows % known.groups == 0 else 1
        if axes.outputs == (0,):
            if 1 < groups == rows:
                return
            yield from stack.reshape(len(stack) * groups, rows // groups, -1).unbind()
        elif known.role == "conv_transpose" and known.groups > 1:
            if known.groups == part.shape[axes.inputs[0]]:
                return
            for matrix in stack.unbind():  # the groups lie along the inputs
                yield from matrix.chunk(known.groups, 1)
        else:
            yield from stack.unbind()


def _runs(value: torch.Tensor, blocks: tuple[Block, ...]) -> Iterator[torch.Tensor]:
    """What every block takes; a stacked one once for each of its matrices."""
    for block in blocks:
        runs = [
            value.narrow(block.axis, block.start + turn * block.stride, block.size)
            for turn in range(block.count)
        ]
        together = block.count > 1 and not block.stacked
        yield from [torch.cat(runs, block.axis)] if together else runs
    if not blocks:
        yield value
