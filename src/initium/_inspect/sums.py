"""What ``auto`` has to know of a signal besides its source: dropout on the way, residual sums that
are scaled, weights that are standardised, gates that weigh t against 1 - t.

Covered: dropout directly in front of a product. Not covered: dropout in front of sums.
"""

from __future__ import annotations

from initium._inspect.facts import Facts
from initium._inspect.flow import Flow
from initium._inspect.graph import Value
from initium._inspect.operators import NORM
from initium._inspect.residual import Addition
from initium._inspect.sources import multiplier
from initium._inspect.uses import Use

__all__ = ["carrier", "carries", "is_standardised", "kept", "scales"]

FAR = 32
"""Steps that are looked through."""
DROPPED = frozenset({"dropout", "native_dropout", "feature_dropout"})
GATES = frozenset({"sigmoid", "hardsigmoid"})
STATISTICS = NORM | {"mean", "var", "std", "var_mean", "std_mean"}


def kept(flow: Flow, use: Use) -> float:
    """The share of what a product reads that dropout leaves while the model trains."""
    total, here = 1.0, use.data
    for _ in range(FAR):
        node = here.node if here is not None else None
        if here is None or node is None or flow.uses.matrix(node) is not None:
            break
        if node.op in DROPPED and node.argument(2, "train", True):
            given = node.argument(1, "p", 0.0)
            total *= 1 - given if isinstance(given, (int, float)) and given < 1 else 1.0
        signals = flow.signals(node)
        here = signals[0] if len(signals) == 1 and node.id not in flow.norms else None
    return total


def scales(flow: Flow, addition: Addition) -> tuple[float, float]:
    """c and s of a residual sum c x + s f(x), with the number that the sum is multiplied by before
    anything else reads it."""
    total, here = 1.0, addition.node.out
    while len(here.users) == 1 and flow.through(here.users[0]) is here:
        node = here.users[0]
        total, here = total * (multiplier(flow, node, here) or 1.0), node.out
    carried, added = (_factor(flow, side) for side in (addition.skip, addition.branch))
    return total * carried, total * added


def _factor(flow: Flow, value: Value) -> float:
    """The number that a value was multiplied by for one sum alone."""
    total = 1.0
    for step, _ in flow.back(value):
        before = flow.through(step.node)
        if step.node is None or before is None or len(step.users) > 1:
            break
        total *= multiplier(flow, step.node, before) or 1.0
    return total


def carrier(flow: Flow, addition: Addition) -> tuple[str, bool] | None:
    """The matrix behind the gate t of t f(x) + (1 - t) x, and whether t opens the branch."""
    kept, added = (_gate(flow, side) for side in (addition.skip, addition.branch))
    if kept is None or added is None or kept[0] != added[0] or kept[1] == added[1]:
        return None
    return kept


def _gate(flow: Flow, value: Value) -> tuple[str, bool] | None:
    """The matrix behind the sigmoid t that multiplies a value, and whether it does so as 1 - t."""
    node = [step for step, _ in flow.back(value)][-1].node
    if node is None or node.op not in ("mul", "multiply"):
        return None
    for factor in flow.signals(node):
        turned = False
        for step, _ in flow.back(factor):
            here = step.node
            if here is not None and here.op in ("rsub", "sub", "subtract"):
                turned ^= here.op == "rsub" or here.args[0] is not flow.through(here)
            if here is not None and here.op in GATES:
                use = flow.product(here.inputs[0])
                if use is not None:
                    return use.parameter, turned
    return None


def is_standardised(use: Use) -> bool:
    """Whether statistics of a weight are taken out before it is used."""
    stack, seen = [use.weight], set[int]()
    while stack and len(seen) < FAR:
        here = stack.pop()
        if here.node is None or here.id in seen:
            continue
        seen.add(here.id)
        if here.node.op in STATISTICS:
            return True
        stack += here.node.inputs
    return False


def carries(flow: Flow, fact: Facts) -> bool:
    """Whether a sigmoid t also weighs something else by 1 - t, as in a highway."""
    if fact.use is None or fact.following.name not in GATES or not fact.following.gated:
        return False
    pending, squashed = [fact.use.out], False
    for _ in range(FAR):
        if not pending:
            break
        for node in pending.pop().users:
            signals = flow.signals(node)
            if node.op in ("rsub", "sub", "subtract") and squashed and len(signals) == 1:
                return True
            squashed = squashed or node.op in GATES
            if len(signals) == 1 and (flow.elementwise(node) or flow.through(node) is not None):
                pending += node.outputs
    return False
