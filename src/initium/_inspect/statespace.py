"""State spaces by what they compute: a decay, the step it is taken with, and what passes by.

A *decay* is a parameter, made positive or negative first (by ``exp``, ``softplus`` ...), that
scales a signal (or is added to one) on its way into an ``exp``: exp(-exp(a) * dt). The *step* is
the softplus that it scales; a bias before it, and a low-rank matrix whose whole product goes into
it, belong to the step. What scales the input and is added to what the decay made passes by.
Covered: Mamba 1 and 2, gated delta nets, RG-LRU, RWKV's decay. Not covered: complex and learned
diagonal systems that are discretised outside the forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from initium._inspect.facts import Facts
from initium._inspect.flow import Flow
from initium._inspect.graph import Node, Value
from initium._inspect.operators import MOVEMENT, SELECTION
from initium._inspect.uses import Use

__all__ = ["find_steps", "state_space_roles"]

SIGNED = frozenset(
    {"exp", "exp2", "softplus", "sigmoid", "neg", "negative", "logsigmoid", "log_sigmoid"}
)
PASSING = frozenset(
    {"add", "sub", "mul", "maximum", "cumsum", "cat", "stack", "merge", "masked_fill", "where"}
    | {"tril", "triu"}
)


def _decays(flow: Flow) -> Iterator[Use]:
    """The uses of parameters that set how fast a state decays."""
    for use in flow.uses.all:
        direct = use.kind in ("add", "scale") and use.slot == "weight"
        if direct and _made_signed(use) and any(map(_exponential, _onward(flow, use.out))):
            yield use


def _exponential(node: Node) -> bool:
    return node.op in ("exp", "exp2")


def _made_signed(use: Use) -> bool:
    value: Value | None = use.weight
    while value is not None and value.node is not None and value.origin != "parameter":
        if value.node.op in SIGNED:
            return True
        value = next((item for item in value.node.inputs if item.roots), None)
    return False


def _onward(flow: Flow, value: Value) -> Iterator[Node]:
    """The nodes that follow through movement, sums and differences, up to the first ``exp``."""
    stack, seen = [value], set[int]()
    while stack and len(seen) < 48:
        here = stack.pop()
        if here.id in seen:
            continue
        seen.add(here.id)
        for node in here.users:
            yield node
            passes = node.op in PASSING or node.op in MOVEMENT
            if passes and flow.uses.matrix(node) is None:
                stack += node.outputs


def find_steps(flow: Flow) -> set[int]:
    """Ids of the softplus nodes that a decay scales and that scale the input of the state too."""
    found: set[int] = set()
    for use in _decays(flow):
        if use.data is not None and use.kind == "scale":
            for node in flow.behind(use.data, lambda node: node.op == "softplus", far=12):
                if _scales_elsewhere(flow, node, use):
                    found.add(node.id)
    return found


def _scales_elsewhere(flow: Flow, node: Node, decay: Use) -> bool:
    stack = [node.out]
    for value in stack:
        for user, _ in flow.consumers(value):
            signals = flow.signals(user)
            if user.op == "mul" and len(signals) > 1 and user.id != decay.node.id:
                return True
            if flow.elementwise(user) and len(signals) == 1 and user.id != decay.node.id:
                stack += user.outputs
    return False


def state_space_roles(flow: Flow, facts: dict[str, Facts]) -> None:
    """Name decays, steps and what passes a state by."""
    decays = list(_decays(flow))
    for use in decays:
        _say(facts, use.parameter, "ssm_a", "scales a signal into the exponential of a decay")
        if use.data is not None and use.kind == "scale":
            for node in flow.behind(use.data, lambda node: node.op == "softplus", far=12):
                _step_roles(flow, facts, node)
    exponentials = {
        node.id for use in decays for node in _onward(flow, use.out) if _exponential(node)
    }
    if exponentials:
        _bypasses(flow, facts, exponentials)


def _step_roles(flow: Flow, facts: dict[str, Facts], softplus: Node) -> None:
    value = softplus.inputs[0]
    while value.node is not None:
        node = value.node
        for use in flow.uses.by_node.get(node.id, ()):
            if use.kind == "add":
                _say(facts, use.parameter, "ssm_dt", "added to the step of a decay")
        own = flow.uses.matrix(node)
        if own is not None:
            if own.data is not None and _low_rank(flow, own):
                _say(facts, own.parameter, "ssm_dt", "its product is the step of a decay")
            return
        before = flow.through(node)
        if before is None or node.op in SELECTION:
            return
        value = before


def _low_rank(flow: Flow, use: Use) -> bool:
    """Whether a matrix widens a part of another matrix's product."""
    if use.data is None or use.axes is None:
        return False
    shape = flow.graph.parameters[use.parameter].shape
    narrow, wide = (
        math.prod(shape[axis] for axis in axes) for axes in (use.axes.inputs, use.axes.outputs)
    )
    behind = (flow.uses.matrix(step.node) for step, _ in flow.back(use.data, norms=True))
    return narrow < wide and any(own is not None and own.kind == "matrix" for own in behind)


def _bypasses(flow: Flow, facts: dict[str, Facts], exponentials: set[int]) -> None:
    for use in flow.uses.all:
        fact = facts.get(use.parameter)
        if use.kind != "scale" or fact is None or fact.role != "unknown":
            continue
        for node, operand in flow.consumers(use.out):
            others = [value for value in flow.signals(node) if value is not operand]
            if node.op != "add" or not others:
                continue
            decayed = [
                bool(flow.behind(value, lambda made: made.id in exponentials, far=512))
                for value in (others[0], use.out)
            ]
            if decayed == [True, False]:
                _say(facts, use.parameter, "ssm_d", "takes the input past a decaying state")


def _say(facts: dict[str, Facts], name: str, role: str, why: str) -> None:
    fact = facts.get(name)
    if fact is not None and fact.role == "unknown":
        fact.role = role  # type: ignore[assignment]
        fact.writes = False
        fact.why["role"] = why
