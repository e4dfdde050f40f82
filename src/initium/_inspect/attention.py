"""Attention by what it computes: a softmax between two products of data, or the fused operator."""

from __future__ import annotations

from dataclasses import dataclass

from initium._inspect.flow import Flow
from initium._inspect.graph import Node, Value
from initium._inspect.operators import ATTENTION, PRODUCT, SOFTMAX
from initium._inspect.residual import Streams
from initium._inspect.uses import Use

__all__ = ["Attention", "find_attention", "first_forward"]


@dataclass(slots=True, eq=False)
class Attention:
    """One attention call: the weights behind queries, keys and values, and those that read it."""

    node: Node
    operands: tuple[Value, Value, Value]
    queries: list[Use]
    keys: list[Use]
    values: list[Use]
    outputs: list[Use]
    biases: list[Use]


def find_attention(flow: Flow, streams: Streams) -> list[Attention]:
    """All attention calls of the trace, in order."""

    def stop(value: Value) -> bool:
        return value.id in streams.by_value or value.id in streams.origins

    found = []
    for node in flow.graph.nodes:
        if node.op in ATTENTION:
            operands = [item for item in node.args if isinstance(item, Value)]
            operands += [
                node.kwargs[name]  # type: ignore[misc]
                for name in ("query", "key", "value")
                if name in node.kwargs
            ]
            query, key, value = operands[:3]
            output = node.out
        elif node.op in SOFTMAX:
            pair = _around_softmax(flow, node)
            if pair is None:
                continue
            scores, mixing, value = pair
            left, right = _factors(flow, scores)
            query, key, output = left, right, mixing.out
        else:
            continue
        found.append(
            Attention(
                node,
                (query, key, value),
                flow.nearest(query, stop=stop),
                flow.nearest(key, stop=stop),
                flow.nearest(value, stop=stop),
                first_forward(flow, output),
                _biases(flow, node),
            )
        )
    return found


def _factors(flow: Flow, product: Node) -> list[Value]:
    signals = [value for value in product.inputs if value.id in flow.uses.signals]
    if product.op in ("baddbmm", "addbmm"):
        signals = [
            item
            for item in product.args[1:3]
            if isinstance(item, Value) and item.id in flow.uses.signals
        ]
    return signals if len(signals) >= 2 else signals * 2


def _is_data_product(flow: Flow, node: Node | None) -> bool:
    return (
        node is not None
        and node.op in PRODUCT
        and flow.uses.matrix(node) is None
        and len([value for value in node.inputs if value.id in flow.uses.signals]) >= 2
    )


def _around_softmax(flow: Flow, node: Node) -> tuple[Node, Node, Value] | None:
    """The product that makes the scores, the one that mixes the values, and those values."""
    scores = _product_behind(flow, node.inputs[0])
    if scores is None:
        return None
    for consumer, operand in flow.consumers(node.out):
        if _is_data_product(flow, consumer):
            others = [value for value in _factors(flow, consumer) if value is not operand]
            if others:
                return scores, consumer, others[0]
    return None


def _product_behind(flow: Flow, value: Value) -> Node | None:
    """The nearest data x data product behind elementwise and moving steps."""
    stack, seen = [value], set[int]()
    while stack and len(seen) < 64:
        here = stack.pop()
        node = here.node
        if here.id in seen or node is None or flow.uses.matrix(node) is not None:
            continue
        seen.add(here.id)
        if _is_data_product(flow, node):
            return node
        step = flow.through(node)
        if step is not None:
            stack.append(step)
        elif flow.elementwise(node) or node.op in ("where", "masked_fill", "maximum", "max"):
            stack += flow.signals(node)
    return None


def _biases(flow: Flow, node: Node) -> list[Use]:
    """Parameters added to the scores: relative positions."""
    found: list[Use] = []
    if node.op in ATTENTION:
        mask = node.argument(3, "attn_mask")
        if isinstance(mask, Value):
            for use in flow.uses.by_node.get(node.id, ()):
                if use.weight is mask:
                    found.append(use)
        return found
    value: Value | None = node.inputs[0]
    for _ in range(16):
        if value is None or value.node is None:
            break
        found += [use for use in flow.uses.by_node.get(value.node.id, ()) if use.kind == "add"]
        value = flow.through(value.node)
    return found


def first_forward(flow: Flow, value: Value) -> list[Use]:
    """The first weights in front of ``value``, through transparent steps, norms and gates."""
    found: list[Use] = []
    stack, seen = [value], set[int]()
    while stack and len(seen) < 256:
        here = stack.pop()
        if here.id in seen:
            continue
        seen.add(here.id)
        for node, operand in flow.consumers(here):
            use = flow.uses.matrix(node)
            if use is not None:
                if use.data is operand and use.kind == "matrix" and use not in found:
                    found.append(use)
            elif node.op in ("mul", "multiply", "merge", "index_add", "index_put", "cat") or (
                node.op == "einsum" and flow.uses.matrix(node) is None
            ):
                stack += node.outputs
    return found
