"""Experts and what chooses between them: stacked axes, matrices stored one below another, routers.

A router's product picks experts (top-k, a maximum), or weighs what stacked matrices make of the
signal (a softmax without a choice). Not covered: routers whose choice is made outside the model.
"""

from __future__ import annotations

from dataclasses import replace

from initium._inspect.flow import Flow
from initium._inspect.graph import Node, Value
from initium._inspect.labels import varies
from initium._inspect.operators import LOOKUP, MOVEMENT, ROUTING, SOFTMAX
from initium._inspect.uses import Use
from initium._types import Block

__all__ = ["find_routers", "picks", "stack_axes", "stacked_parts"]


def stack_axes(flow: Flow) -> None:
    """An output axis that later runs beside the stacked axis of another weight is stacked too.

    An axis of which the product takes a part (one layer of many) does not run in it.
    """
    for use in flow.uses.all:
        if use.kind != "matrix" or use.axes is None or not use.axes.batch or use.data is None:
            continue
        shape = flow.graph.parameters[use.parameter].shape
        picked = use.part[0] if use.part is not None else None
        sizes = {shape[axis] for axis in use.axes.batch if axis != picked}
        for before in flow.nearest(use.data):
            for axis in _beside(flow, before, use.data, sizes):
                axes = before.axes
                assert axes is not None
                kept = tuple(
                    (out, place)
                    for out, place in zip(axes.outputs, before.places, strict=True)
                    if out != axis
                )
                before.places = tuple(place for _, place in kept)
                before.axes = replace(
                    axes,
                    outputs=tuple(out for out, _ in kept),
                    batch=tuple(sorted((*axes.batch, axis))),
                )


def _beside(flow: Flow, use: Use, data: Value, sizes: set[int]) -> list[int]:
    if use.kind != "matrix" or use.axes is None or len(use.axes.outputs) < 2:
        return []
    shape = flow.graph.parameters[use.parameter].shape
    return [
        axis
        for axis, place in zip(use.axes.outputs, use.places, strict=True)
        if place >= 0
        and shape[axis] in sizes
        and any(
            size == shape[axis] and varies(flow, use.out, place, data, dim)
            for dim, size in enumerate(data.shape)
        )
    ][: len(use.axes.outputs) - 1]


def stacked_parts(shape: tuple[int, ...], uses: list[Use]) -> tuple[Block, ...]:
    """Matrices of one size that are stored one below another and used one by one. An axis of
    experts of their own, one index each, is known as such."""
    parts = {use.part for use in uses if use.kind == "matrix" and use.part is not None}
    if len(parts) < 2 or any(use.part is None for use in uses):
        return ()
    axis, _, size = next(iter(parts))
    batched = any(use.axes is not None and axis in use.axes.batch for use in uses)
    if batched or any(part[0] != axis or part[2] != size or part[1] % size for part in parts):
        return ()
    count, rest = divmod(shape[axis], size)
    return () if rest else (Block("expert", axis, 0, size, count, size, stacked=True),)


def find_routers(flow: Flow) -> set[str]:
    """The parameters whose products choose or weigh experts."""
    found: set[str] = set()
    for use in flow.uses.all:
        known = use.kind != "matrix" or use.slot != "weight" or use.parameter in found
        if not known and (picks(flow, use) or _weighs(flow, use)):
            found.add(use.parameter)
    return found


def _onward(flow: Flow, value: Value) -> list[tuple[Node, Value]]:
    """What follows a product through softmax and elementwise steps of one signal."""
    found: list[tuple[Node, Value]] = []
    stack, seen = [value], set[int]()
    while stack and len(seen) < 64:
        here = stack.pop()
        if here.id in seen:
            continue
        seen.add(here.id)
        for node, operand in flow.consumers(here):
            found.append((node, operand))
            single = flow.elementwise(node) and len(flow.signals(node)) == 1
            if node.op in SOFTMAX or single:
                stack += node.outputs
    return found


def picks(flow: Flow, use: Use) -> bool:
    """Whether indices made of a product choose anything.

    Those that are returned, or looked up as the next token, do not. Indices that no operator reads
    count as a choice of the model's own code, unless the product is an output of the model.
    """
    choices = [
        node
        for node, _ in _onward(flow, use.out)
        if node.op in ROUTING
        or (node.op == "max" and len(node.outputs) == 2 and node.outputs[1].users)
    ]
    if any(_matters(value) for node in choices for value in node.outputs):
        return True
    read = any(value.users for node in choices for value in node.outputs)
    return bool(choices) and not read and not _returned(flow, use.out)


def _matters(value: Value) -> bool:
    """Whether anything but movement and a lookup reads a value."""
    stack, seen = [value], {value.id}
    while stack and len(seen) < 64:
        for node in stack.pop().users:
            if node.op in LOOKUP:
                continue
            if node.op not in MOVEMENT:
                return True
            stack += [out for out in node.outputs if out.id not in seen]
            seen.update(out.id for out in node.outputs)
    return False


def _returned(flow: Flow, value: Value) -> bool:
    """Whether a value, moved, is an output of the model."""
    outputs = {out.id for out in flow.graph.outputs}
    stack, seen = [value], {value.id}
    while stack and len(seen) < 64:
        here = stack.pop()
        if here.id in outputs:
            return True
        for node in here.users:
            if node.op in MOVEMENT or node.op == "add":
                stack += [out for out in node.outputs if out.id not in seen]
                seen.update(out.id for out in node.outputs)
    return False


def _weighs(flow: Flow, use: Use) -> bool:
    """Whether a softmax of a product weighs the results, or the inputs, of stacked matrices."""
    softmaxes = [node for node, _ in _onward(flow, use.out) if node.op in SOFTMAX]
    for softmax in softmaxes:
        for node, operand in flow.consumers(softmax.out):
            if not (flow.is_data_product(node) or node.op == "mul"):
                continue
            others = [value for value in flow.signals(node) if value is not operand]
            made = [item for value in others for item in flow.nearest(value)]
            given = [
                item
                for follower, _ in flow.consumers(node.out)
                if (item := flow.uses.matrix(follower)) is not None
            ]
            for group in (made, given):
                if group and all(item.axes is not None and item.axes.batch for item in group):
                    return True
    return False
