"""From one logical matrix to the whole parameter: fused blocks, stacks, groups, padding rows.

A scheme is a statement about one logical matrix. :func:`per_matrix` asks it for each matrix that a
parameter holds, and puts the answers together; equal elementwise answers collapse to one spec.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from initium._scheme.gains import backward_gain
from initium._types import Axes, Block, ParameterView, Role
from initium.spec import Blocks, Constant, Keep, Normal, Part, Spec, TruncatedNormal, Uniform

__all__ = [
    "Matrix",
    "Piece",
    "matrices",
    "per_matrix",
    "pieces",
    "put_together",
    "with_padding_row",
]

ELEMENTWISE = (Constant, Normal, Uniform, TruncatedNormal)
HELD: Mapping[str, Role] = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "gate": "mlp_gate",
    "up": "mlp_up",
}
"""The role of a block of a fused attention or feed-forward weight, by its label."""


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
    for place, block in enumerate(fused):
        if block.label == "bias":
            made[place] = Constant(0.0)
    if isinstance(made[0], (*ELEMENTWISE, Keep)) and all(spec == made[0] for spec in made):
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


@dataclass(frozen=True, slots=True)
class Piece:
    """One block of a fused parameter, seen as the matrix that it would be unfused."""

    block: Block
    view: ParameterView

    @property
    def label(self) -> str:
        """The block's label."""
        return self.block.label


def pieces(view: ParameterView) -> tuple[Piece, ...]:
    """The blocks of a fused attention or feed-forward weight, or of a bias laid out like one."""
    fused = _fused(view)
    if not fused or not all(block.label in HELD for block in fused):
        return ()
    found = []
    for block, matrix in zip(fused, matrices(view), strict=True):
        shape = list(view.shape)
        shape[block.axis] = block.total
        found.append(
            Piece(
                block,
                replace(
                    view,
                    role=HELD[block.label],
                    shape=tuple(shape),
                    fan_in=round(matrix.fan_in),
                    fan_out=round(matrix.fan_out),
                    activation=block.activation,
                    gain=block.gain,
                    backward_gain=matrix.backward_gain,
                    blocks=tuple(other for other in view.blocks if other.stacked),
                ),
            )
        )
    return tuple(found)


def put_together(made: Sequence[tuple[Piece, Spec]]) -> Spec:
    """One spec from those of the pieces; equal elementwise ones collapse."""
    first = made[0][1]
    if isinstance(first, (*ELEMENTWISE, Keep)) and all(spec == first for _, spec in made):
        return first
    return Blocks(tuple(_part(piece.block, spec) for piece, spec in made))


def with_padding_row(view: ParameterView, spec: Spec) -> Spec:
    """``spec`` with zeros in the padding row of an embedding, if it has one and is drawn."""
    row = view.padding_row
    if row is None or isinstance(spec, Constant) or not isinstance(spec, ELEMENTWISE):
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
    if block.fans is not None:
        fan_in, fan_out = map(float, block.fans)
        return Matrix(fan_in, fan_out, block.gain, _backward(block), block.activation)
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
    """1 / E[phi'(z)^2]; 1 for an activation without a name."""
    if (block.activation or "").startswith("custom"):
        return 1.0
    return backward_gain(block.activation or "identity")
