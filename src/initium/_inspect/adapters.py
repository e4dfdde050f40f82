"""Low-rank adapters by what they compute: B(A x) added to W x, for the same x and a rank below both
widths of W.

What an adapter adds is set aside: every other rule then sees W alone, as if there were no adapter.
Not covered: adapters that are merged into the weight before the product.
"""

from __future__ import annotations

from collections.abc import Iterator

from initium._inspect.flow import Flow
from initium._inspect.graph import Value
from initium._inspect.operators import DROPOUT
from initium._inspect.uses import Use
from initium._types import Role

__all__ = ["set_aside"]

STILL = frozenset(
    {"to", "_to_copy", "view", "reshape", "_unsafe_view", "contiguous", "clone", "type_as"}
)
"""Movement that leaves every feature in its place."""


def set_aside(flow: Flow) -> dict[str, Role]:
    """The roles of all adapters' matrices; ``flow`` no longer sees what they add."""
    found: dict[str, Role] = {}
    for node in flow.graph.nodes:
        signals = flow.signals(node) if node.op == "add" else []
        if len(signals) != 2:
            continue
        for full, low in (signals, signals[::-1]):
            pair = _pair(flow, full, low)
            if pair is not None:
                found[pair[0]], found[pair[1]] = "lora_a", "lora_b"
                flow.asides.add((node.id, low.id))
                break
    return found


def _pair(flow: Flow, full: Value, low: Value) -> tuple[str, str] | None:
    base, up = _product(flow, full), _product(flow, low)
    if base is None or up is None or base.data is None or up.data is None:
        return None
    down = _product(flow, up.data)
    if down is None or down.data is None:
        return None
    read = {value.id for value in _steps(flow, down.data)}
    rank = down.out.shape[-1]
    if rank >= min(down.data.shape[-1], up.out.shape[-1]):
        return None
    if not any(value.id in read for value in _steps(flow, base.data)):
        return None
    return down.parameter, up.parameter


def _product(flow: Flow, value: Value) -> Use | None:
    for step in _steps(flow, value):
        use = flow.uses.matrix(step.node)
        if use is not None:
            return use if use.kind == "matrix" else None
    return None


def _steps(flow: Flow, value: Value) -> Iterator[Value]:
    """The value and what it was before scaling, dropout and casts."""
    while True:
        yield value
        node = value.node
        before = flow.through(node)
        if node is None or before is None:
            return
        if node.op not in STILL and node.op not in DROPOUT and not flow.elementwise(node):
            return
        value = before
