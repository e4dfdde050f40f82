"""Which parameter dimensions each dimension of a parameter-made value comes from.

Kept through transposes, slices, reshapes, casts and arithmetic. Not covered: operators that mix
dimensions and change the shape; such a value is still linked to its parameters, without dimensions.
"""

from __future__ import annotations

from typing import TypeAlias

from initium._inspect.graph import Node, Value

__all__ = ["Dims", "Links", "carry"]

Dims: TypeAlias = tuple[frozenset[int], ...] | None
"""For each dimension of a value, the parameter dimensions it comes from; ``None`` if unknown."""

Links: TypeAlias = dict[int, dict[str, Dims]]
"""Value -> parameter -> where its dimensions come from."""


WIDENING = frozenset({"cat", "pad", "constant_pad_nd"})
"""Operators that make a dimension longer and leave all in their places."""


def carry(node: Node, out: Value, links: Links) -> dict[str, Dims]:
    """The links of a value made of linked and constant operands. Where a parameter comes in twice
    (a weight over its own norm), the operand of the output's own size says more."""
    carried: dict[str, Dims] = {}
    for source in sorted(dict.fromkeys(node.inputs), key=lambda value: value.numel != out.numel):
        for name, dims in links.get(source.id, {}).items():
            if carried.get(name) is None:
                if dims is not None and node.op in WIDENING and len(dims) == len(out.shape):
                    carried[name] = dims
                else:
                    carried[name] = None if dims is None else _through(source, out, dims)
    return carried


def _through(source: Value, out: Value, dims: tuple[frozenset[int], ...]) -> Dims:
    """Dimensions of ``out`` in terms of those of ``source``."""
    none: frozenset[int] = frozenset()
    if out.storage == source.storage and out.strides and source.strides:
        spans = [
            (stride, stride * size, dim)
            for dim, (stride, size) in enumerate(zip(source.strides, source.shape, strict=True))
            if size > 1 and stride > 0
        ]
        result = []
        for stride, size in zip(out.strides, out.shape, strict=True):
            inside = [
                dims[dim] for low, high, dim in spans if stride < high and stride * size > low
            ]
            result.append(none.union(*inside) if size > 1 and stride > 0 and inside else none)
        return tuple(result)
    if out.shape == source.shape:
        return dims
    if out.numel == source.numel:
        return _reshaped(source.shape, out.shape, dims)
    aligned = []
    for back in range(1, len(out.shape) + 1):
        same = back <= len(source.shape) and source.shape[-back] == out.shape[-back]
        aligned.append(dims[-back] if same else none)
    return tuple(reversed(aligned))


def _reshaped(
    before: tuple[int, ...], after: tuple[int, ...], dims: tuple[frozenset[int], ...]
) -> Dims:
    """Row-major reshape: group the dimensions whose products meet."""
    result: list[frozenset[int]] = []
    position = 0
    pending: frozenset[int] = frozenset()
    left = right = 1
    for size in after:
        right *= size
        while left < right and position < len(before):
            left *= before[position]
            if before[position] > 1:
                pending |= dims[position]
            position += 1
        result.append(pending if size > 1 else frozenset())
        if left == right:
            pending = frozenset()
    return tuple(result)
