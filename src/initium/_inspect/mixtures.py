"""Weights that are mixed for every sample from a stack of them: conditional convolutions.

The product that mixes the stack is no layer of the model. The convolution that takes its result as
a weight is, and so the stack is used there.
"""

from __future__ import annotations

import math
from dataclasses import replace

from initium._inspect.graph import Node, Value
from initium._inspect.operators import CONVOLUTION, MOVEMENT
from initium._inspect.uses import Use, Uses
from initium._types import Axes

__all__ = ["place_mixtures"]


def place_mixtures(uses: Uses) -> None:
    """Move the uses of mixed stacks from the product that mixes to the layer that computes."""
    for place, use in enumerate(uses.all):
        layer = _layer(uses, use) if use.kind == "matrix" else None
        if layer is None or use.axes is None:
            continue
        moved = _moved(use, *layer)
        uses.all[place] = moved
        own = uses.by_parameter[use.parameter]
        own[own.index(use)] = moved
        uses.by_node[use.node.id].remove(use)
        uses.by_node.setdefault(moved.node.id, []).insert(0, moved)


def _layer(uses: Uses, use: Use) -> tuple[Node, Value] | None:
    """The convolution whose weight a product is, and that weight."""
    stack, seen = [use.out], set[int]()
    while stack:
        value = stack.pop()
        for node in value.users:
            if node.id in seen:
                continue
            seen.add(node.id)
            if node.op in CONVOLUTION and node.args[1] is value and uses.matrix(node) is None:
                return node, value
            if node.op in MOVEMENT and node.inputs[0] is value and len(seen) < 8:
                stack += node.outputs
    return None


def _moved(use: Use, node: Node, weight: Value) -> Use:
    assert use.axes is not None
    data = node.inputs[0]
    field = tuple(range(2, len(weight.shape)))
    taps = math.prod(weight.shape[2:])
    each = math.prod(use.weight.shape) // math.prod(use.weight.shape[i] for i in use.axes.inputs)
    outputs = each // math.prod(weight.shape[1:])
    groups = data.shape[1] // weight.shape[1]
    inside = groups * outputs // weight.shape[0]
    return replace(
        use,
        node=node,
        weight=weight,
        data=data,
        out=node.out,
        axes=Axes(use.axes.outputs, (), use.axes.inputs),
        places=(),
        groups=groups,
        kernel=tuple(weight.shape[dim] for dim in field),
        fans=(weight.shape[1] * taps, outputs // max(inside, 1) * taps),
    )
