"""From one logical matrix to the whole parameter: fused blocks, stacks, groups, padding rows.

A scheme is a statement about one logical matrix. :func:`per_matrix` asks it for each matrix that a
parameter holds, and puts the answers together; equal elementwise answers collapse to one spec.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from initium._scheme.gains import backward_gain
from initium._types import Axes, Block, ParameterView
from initium.spec import Blocks, Constant, Normal, Part, Spec, TruncatedNormal, Uniform

__all__ = ["Matrix", "matrices", "per_matrix", "with_padding_row"]

ELEMENTWISE = (Constant, Normal, Uniform, TruncatedNormal)


@dataclass(frozen=True, slots=True)
class Matrix:
    """One logical matrix of a parameter, as a scheme needs to know it.

    ``fan_in`` is the effective one: a transposed convolution adds up 1 / stride of its taps.
    """

    fan_in: float
    fan_out: float
    gain: float = 1.0
    backward_gain: float = 1.0
    activation: str | None = None
    outputs: tuple[int, ...] = (0,)
    batch: tuple[int, ...] = ()


def matrices(view: ParameterView) -> tuple[Matrix, ...]:
    """The distinct logical matrices: one per block of a fused weight, else a single one."""
    return tuple(_matrix(view, block) for block in _fused(view)) or (_matrix(view, None),)


def per_matrix(view: ParameterView, spec_of: Callable[[Matrix], Spec]) -> Spec:
    """The spec of a whole parameter from that of each of its logical matrices."""
    fused = _fused(view)
    made = [spec_of(matrix) for matrix in matrices(view)]
    if isinstance(made[0], ELEMENTWISE) and all(spec == made[0] for spec in made):
        return made[0]
    if fused:
        pairs = zip(fused, made, strict=True)
        return Blocks(tuple(_part(block, spec) for block, spec in pairs))
    batch = view.axes.batch if view.axes else ()
    stacked = [block for block in view.blocks if block.stacked and block.axis not in batch]
    if stacked:
        return Blocks(tuple(_part(block, made[0]) for block in stacked))
    if view.groups > 1:
        size = view.shape[0] // view.groups
        return Blocks((Part(0, 0, size, made[0], view.groups, size, stacked=True),))
    return made[0]


def with_padding_row(view: ParameterView, spec: Spec) -> Spec:
    """``spec`` with zeros in the padding row of an embedding, if it has one."""
    row = view.padding_row
    if row is None or spec == Constant(0.0):
        return spec
    runs = (
        Part(0, 0, row, spec),
        Part(0, row, 1, Constant(0.0)),
        Part(0, row + 1, view.shape[0] - row - 1, spec),
    )
    return Blocks(tuple(part for part in runs if part.size))


def _fused(view: ParameterView) -> tuple[Block, ...]:
    return tuple(block for block in view.blocks if not block.stacked)


def _part(block: Block, spec: Spec) -> Part:
    return Part(block.axis, block.start, block.size, spec, block.count, block.stride, block.stacked)


def _matrix(view: ParameterView, block: Block | None) -> Matrix:
    axes = view.axes or Axes(inputs=(1,), outputs=(0,))
    outputs, batch = axes.outputs or (0,), axes.batch
    fan_in, fan_out = float(view.fan_in or 1), float(view.fan_out or 1)
    if view.role == "conv_transpose":
        fan_in /= view.stride
    if block is None:
        return Matrix(
            fan_in,
            fan_out,
            view.gain,
            view.backward_gain,
            view.activation,
            outputs,
            batch,
        )
    share = block.total / view.shape[block.axis]
    taps = prod(view.shape[axis] for axis in axes.field)
    if block.axis in axes.outputs:
        fan_out = share * taps * prod(view.shape[axis] for axis in axes.outputs)
    elif block.axis in axes.inputs:
        fan_in = share * taps * prod(view.shape[axis] for axis in axes.inputs)
    return Matrix(
        fan_in,
        fan_out,
        block.gain,
        view.backward_gain if block.activation == view.activation else _backward(block),
        block.activation,
        outputs,
        batch,
    )


def _backward(block: Block) -> float:
    return backward_gain(block.activation or "identity")
