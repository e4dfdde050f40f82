"""Trunks: residual streams that carry one another on, across normalisations and changes of width.

Post-norm blocks and the stages of a pyramid each begin a stream of their own, because the scale of
what is carried begins anew. The number of blocks that published formulas call L runs through all of
them: a stream belongs to the trunk of the one stream that everything in it was computed from.
"""

from __future__ import annotations

from initium._inspect.flow import Flow
from initium._inspect.graph import Node, Value
from initium._inspect.operators import LOOKUP
from initium._inspect.residual import Addition, Streams

__all__ = ["inside", "trunks"]

FAR = 4096
"""Values that are looked through for where a stream comes from."""


def trunks(flow: Flow, streams: Streams) -> dict[int, tuple[int, int]]:
    """Stream -> (its trunk, the branches written to the trunk before it)."""
    found: dict[int, tuple[int, int]] = {}
    for origin, stream in sorted(streams.origins.items(), key=lambda item: item[1]):
        before = _source(flow, streams, flow.graph.values[origin])
        if before is None or before.stream not in found:
            found[stream] = (stream, 0)
        else:
            trunk, offset = found[before.stream]
            found[stream] = (trunk, offset + before.depth + before.branches)
    return found


def _source(flow: Flow, streams: Streams, origin: Value) -> Addition | None:
    """The last residual sum behind a value, if nothing that is looked up or given joins it."""
    latest: Addition | None = None
    stack, seen = [origin], {origin.id}
    while stack:
        here = stack.pop()
        addition = streams.by_value.get(here.id)
        if addition is not None:
            if latest is None or addition.node.id > latest.node.id:
                latest = addition
            continue
        node = here.node
        if node is None or node.op in LOOKUP or len(seen) > FAR:
            return None
        for value in flow.signals(node):
            if value.id not in seen:
                seen.add(value.id)
                stack.append(value)
    return latest


def inside(flow: Flow, streams: Streams) -> dict[str, tuple[int, int]]:
    """Parameter -> (stream, depth) of the branch that it stands in, writer or not.

    A branch is what stands between the stream and a sum: made from the one, needed by the other.
    """
    found: dict[str, tuple[int, int]] = {}
    for addition in streams.additions:
        base = _base(flow, addition)
        nodes = _needed(flow, streams, addition, base)
        made = set(base)
        for node in sorted(nodes, key=lambda node: node.id):
            if any(value.id in made for value in node.inputs):
                made.update(value.id for value in node.outputs)
                for use in flow.uses.by_node.get(node.id, ()):
                    found.setdefault(use.parameter, (addition.stream, addition.depth))
    return found


def _base(flow: Flow, addition: Addition) -> set[int]:
    """The values that carry the stream into a sum: the skip, and what a shortcut has read."""
    read = [addition.skip, *(use.data for use in addition.shortcut if use.data is not None)]
    return {step.id for value in read for step, _ in flow.back(value, norms=True)}


def _needed(flow: Flow, streams: Streams, addition: Addition, base: set[int]) -> list[Node]:
    """The nodes behind a branch, back to the stream or to another sum."""
    nodes: list[Node] = []
    stack, seen = [addition.branch], {addition.branch.id}
    while stack and len(seen) < FAR:
        here = stack.pop()
        if here.node is None or here.id in base or here.id in streams.by_value:
            continue
        nodes.append(here.node)
        for value in flow.signals(here.node):
            if value.id not in seen:
                seen.add(value.id)
                stack.append(value)
    return nodes
