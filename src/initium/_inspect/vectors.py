"""Parameters that are no matrices: biases, scales, positions, tokens, and norms' own."""

from __future__ import annotations

from initium._inspect.attention import Attention
from initium._inspect.facts import Facts
from initium._inspect.flow import Flow
from initium._inspect.graph import Node, Value
from initium._inspect.uses import Use
from initium._types import Role

__all__ = ["vector_roles"]


def vector_roles(flow: Flow, attentions: list[Attention], facts: dict[str, Facts]) -> None:
    score_biases = {id(use) for attention in attentions for use in attention.biases}
    for name, uses in flow.uses.by_parameter.items():
        fact = facts.get(name)
        if fact is None or fact.role != "unknown":
            continue
        use = uses[0]
        shape = flow.graph.parameters[name].shape
        if use.kind == "norm":
            fact.role = "norm_scale" if use.slot == "weight" else "norm_bias"
            fact.neutral = 1.0 if use.slot == "weight" else None
            fact.why["role"] = f"{use.slot} of {use.node.op}"
        elif any(id(item) in score_biases for item in uses):
            fact.role, fact.why["role"] = "position", "added to attention scores"
        elif use.kind == "add":
            fact.role, fact.why["role"], fact.partner = _addend(flow, use, shape)
        elif use.kind == "scale":
            _multiplier(flow, fact, use, shape)
        elif use.kind == "join":
            fact.role, fact.why["role"] = "token", f"joins the signal through {use.node.op}"


def _significant(shape: tuple[int, ...]) -> int:
    return sum(size > 1 for size in shape)


def _addend(flow: Flow, use: Use, shape: tuple[int, ...]) -> tuple[Role, str, str | None]:
    partner = None
    if use.slot == "bias":
        own = flow.uses.matrix(use.node)
        return "bias", f"bias of {use.node.op}", own.parameter if own else None
    if use.data is not None:
        for step, _ in flow.back(use.data):
            own = flow.uses.matrix(step.node)
            if own is not None:
                partner = own.parameter
                break
            if step.node is not None and step.node.id in flow.norms:
                if _significant(shape) <= 1:
                    return "norm_bias", "added to a normalised signal", None
                break
    if _significant(shape) >= 2:
        return "position", "a table added to the signal", None
    return "bias", "added to the signal", partner


def _multiplier(flow: Flow, fact: Facts, use: Use, shape: tuple[int, ...]) -> None:
    if use.data is not None and _significant(shape) <= 1:
        for step, _ in flow.back(use.data):
            if step.node is not None and step.node.id in flow.norms:
                fact.role = "norm_scale"
                fact.neutral = _neutral(flow, use)
                fact.why["role"] = "multiplies a normalised signal"
                return
    fact.role = "scale"
    fact.why["role"] = f"multiplies the signal ({use.node.op})"


def _neutral(flow: Flow, use: Use) -> float:
    """The parameter value at which the factor is one: 1, or 0 where the model adds one first."""
    shift = 0.0
    value: Value = use.weight
    while value.node is not None and value.origin != "parameter":
        node: Node = value.node
        source = next((item for item in node.inputs if item.roots), None)
        if source is None:
            break
        if node.op == "add":
            constants = [item for item in node.args if isinstance(item, (int, float))]
            tensors = [
                flow.graph.constants[item.id]
                for item in node.inputs
                if item.id in flow.graph.constants
            ]
            shift += sum(constants) + sum(float(t.reshape(-1)[0]) for t in tensors if t.numel())
        value = source
    return 1.0 - shift
