"""How what a matrix reads is joined from products: by sums, concatenations, products and
activations, with their constant factors.

Covered: ``add``, ``sub``, ``lerp``, means and sums over what was stacked, ``cat``, products of two
signals, activations of anything, constant factors, pooling; resizing counts as nothing, and a
selection from a concatenation as the mean of its parts. Not covered: attention, tables, recurrent
cells, learned factors: what holds one of them is no join.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from initium._inspect.activation import evaluated
from initium._inspect.flow import SCALING, Flow
from initium._inspect.graph import Node, Value
from initium._inspect.operators import POOL, SELECTION
from initium._inspect.pooling import pooled
from initium._inspect.residual import Streams
from initium._inspect.sources import multiplier
from initium._inspect.uses import Use
from initium._types import Join

__all__ = ["Joins"]

FAR = 32
"""Steps that are looked through for what an activation is computed from."""
DEEP = 64
"""Joins inside joins that are looked through."""
LARGEST = 1024
"""Parts of a join, with those of its parts, beyond which it is none."""
KEEPING = frozenset(op for op in POOL if "pool" in op or "upsample" in op) | {"mean", "amax"}
"""Pooling and resizing."""
CATS = frozenset({"cat", "stack"})
SUMS = frozenset({"add", "sub", "subtract", "rsub", "lerp"})
MIXED = frozenset({"sum", "cat", "mul", "pool"})


@dataclass(slots=True)
class Joins:
    """The joins of a trace, each value looked at once."""

    flow: Flow
    streams: Streams
    known: dict[int, Join | None] = field(default_factory=dict)
    numbers: dict[tuple[object, ...], int] = field(default_factory=dict)

    def of(self, use: Use) -> Join | None:
        """What a matrix reads, where more than one product, norm or input makes it, or a factor
        stands on the way."""
        found = self._join(use.data, 0) if use.data is not None else None
        inner = found
        while inner is not None and inner.kind == "phi":
            inner = inner.parts[0]
        return found if inner is not None and inner.kind in MIXED else None

    def _join(self, value: Value, deep: int) -> Join | None:
        if value.id not in self.known:
            found = self._look(value, deep) if deep < DEEP else None
            self.known[value.id] = found if found and _size(found) <= LARGEST else None
        return self.known[value.id]

    def _look(self, value: Value, deep: int) -> Join | None:
        factor, here, chosen = 1.0, value, -1
        for step, _ in self.flow.back(value):
            here = step
            if step.id in self.streams.by_value:
                break
            if _selects(step):
                chosen = step.id
            if step.node is not None and step.node.op in SCALING:
                before = self.flow.through(step.node)
                number = multiplier(self.flow, step.node, before) if before is not None else 1.0
                if number is None:
                    return None
                factor *= number
        found = self._made(here, chosen, deep)
        if found is not None and found.parts and chosen >= 0:
            found = self._selected(found, chosen)
        if found is None or factor == 1:
            return found
        return Join("sum", value.id, (found,), (factor,))

    def _made(self, value: Value, chosen: int, deep: int) -> Join | None:
        """What made a value, of which the value ``chosen`` is a part, or -1."""
        flow, node = self.flow, value.node
        number = chosen if chosen >= 0 else value.id
        if value.id in self.streams.by_value:
            return Join("stream", number)
        if node is None:
            return Join("input", number) if value.origin == "input" else None
        if node.id in flow.norms:
            return Join("norm", number)
        use = flow.uses.matrix(node)
        if use is not None:
            kind: Literal["part", "product"] = "part" if chosen >= 0 else "product"
            number = number if chosen >= 0 else self._repeated(use)
            return Join(kind, number, name=use.parameter) if use.kind == "matrix" else None
        if node.op in CATS:
            return self._concatenated(node, deep)
        stacked = _stacked(node)
        if stacked is not None:
            weight = 1.0 if node.op == "sum" else 1 / len(stacked)
            return self._sum(value, [(one, weight) for one in stacked], deep)
        signals = flow.signals(node)
        if node.op in KEEPING:
            return self._pooled(value, signals[0], deep) if len(signals) == 1 else None
        if not flow.elementwise(node):
            return None
        bent = self._activated(value, deep)
        if bent is not None or len(signals) != 2:
            return bent
        if node.op in SUMS:
            weights = _weights(node)
            held = list(zip(node.inputs, weights, strict=False)) if weights else []
            return self._sum(value, held, deep) if len(held) == 2 else None
        if node.op not in ("mul", "multiply"):
            return None
        factors = [self._join(signal, deep + 1) for signal in signals]
        known = tuple(one for one in factors if one is not None)
        return Join("mul", value.id, known) if len(known) == 2 else None

    def _repeated(self, use: Use) -> int:
        """The number of a product; the same where one matrix reads the same value again."""
        path = [step for step, _ in self.flow.back(use.weight)]
        if use.data is None or any(_selects(step) for step in path):
            return use.out.id
        return self.numbers.setdefault((use.parameter, use.slot, use.data.id), use.out.id)

    def _selected(self, join: Join, chosen: int) -> Join:
        """Some elements of a join: other values than those of another selection from it."""
        number = self.numbers.setdefault((chosen, join.value), -2 - len(self.numbers))
        parts = tuple(self._selected(part, chosen) for part in join.parts)
        kind: Literal["part"] = "part"
        return replace(
            join, kind=kind if join.kind == "product" else join.kind, value=number, parts=parts
        )

    def _pooled(self, value: Value, read: Value, deep: int) -> Join | None:
        inner = self._join(read, deep + 1)
        kind, window = pooled(value.node) if value.node is not None else ("", 1)
        if inner is None or window < 2:
            return inner
        return Join("pool", value.id, (inner,), (float(window),), kind)

    def _sum(self, value: Value, terms: list[tuple[Value, float]], deep: int) -> Join | None:
        parts = [self._join(term, deep + 1) for term, _ in terms]
        known = tuple(part for part in parts if part is not None)
        if len(known) < len(parts):
            return None
        return Join("sum", value.id, known, tuple(weight for _, weight in terms))

    def _concatenated(self, node: Node, deep: int) -> Join | None:
        held = [value for value in node.inputs if value.numel]
        parts = [self._join(value, deep + 1) for value in held]
        known = tuple(part for part in parts if part is not None)
        if len(known) < len(parts):
            return None
        total = sum(value.numel for value in held)
        return Join("cat", node.out.id, known, tuple(value.numel / total for value in held))

    def _activated(self, value: Value, deep: int) -> Join | None:
        """The activation that made a value, of the furthest value that it is a function of."""
        starts, here = list[Value](), value
        for _ in range(FAR):
            before = self._before(here)
            if before is None:
                break
            starts.append(before)
            here = before
        made = [(start, evaluated(self.flow, start, value)) for start in reversed(starts)]
        known = [(start, found) for start, found in made if found is not None]
        if not known:
            return None
        named = [item for item in known if not (item[1].name or "").startswith("custom")]
        start, found = (named or known)[0]
        inner = self._join(start, deep + 1)
        if inner is None or found.name is None:
            return inner
        return Join("phi", value.id, (inner,), name=found.name, gain=found.gain)

    def _before(self, value: Value) -> Value | None:
        """What an elementwise operator made a value from, if that is one value in the end."""
        flow, node = self.flow, value.node
        if node is None or value.id in self.streams.by_value or flow.uses.matrix(node) is not None:
            return None
        if not flow.elementwise(node):
            return None
        signals = flow.signals(node)
        if len(signals) == 1:
            return signals[0]
        common = set.intersection(*(self._behind(one) for one in signals)) if signals else set()
        return flow.graph.values[max(common)] if common else None

    def _behind(self, value: Value) -> set[int]:
        """The value and all that it is computed from, element by element."""
        flow, seen, stack = self.flow, set[int](), [value]
        while stack and len(seen) < FAR:
            here = stack.pop()
            node = here.node
            if here.id in seen:
                continue
            seen.add(here.id)
            ends = here.id in self.streams.by_value or node is None or node.id in flow.norms
            if ends or node is None or node.op in SELECTION or flow.uses.matrix(node) is not None:
                continue
            if flow.through(node) is not None or flow.elementwise(node):
                stack += flow.signals(node)
        return seen


def _selects(value: Value) -> bool:
    """Whether it is some elements of another."""
    node = value.node
    return node is not None and node.op in SELECTION and node.inputs[0].numel != value.numel


def _size(join: Join) -> int:
    return 1 + sum(_size(part) for part in join.parts)


def _weights(node: Node) -> tuple[float, float] | None:
    """By what a sum multiplies its two operands."""
    if node.op == "lerp":
        weight = node.argument(2, "weight")
        return (1 - weight, weight) if isinstance(weight, (int, float)) else None
    alpha = node.kwargs.get("alpha", 1)
    if not isinstance(alpha, (int, float)):
        return None
    if node.op == "rsub":
        return -float(alpha), 1.0
    return 1.0, float(alpha) if node.op == "add" else -float(alpha)


def _stacked(node: Node) -> tuple[Value, ...] | None:
    """What was stacked, where a mean or sum takes just that together."""
    before = node.inputs[0].node if node.op in ("mean", "sum") and node.inputs else None
    if before is None or before.op != "stack":
        return None
    rank = len(before.out.shape)
    placed, given = before.argument(1, "dim", 0), node.argument(1, "dim")
    dim = given[0] if isinstance(given, (list, tuple)) and len(given) == 1 else given
    if not isinstance(placed, int) or not isinstance(dim, int):
        return None
    return before.inputs if (dim - placed) % rank == 0 else None
