"""Composite operators as the simple ones they stand for, so that the rules know few operators.

``addcmul``, ``addcdiv``, ``lerp``, sums of a product with a signal (``addmm`` and its like),
``glu``, ``tensordot``, ``inner``, sums of a ``stack`` or of a product of two signals, and
products of three or more operands become additions, multiplications and products of two. Not
covered: operators that have a meaning of their own, such as attention.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from initium._inspect.graph import Graph, Node, Value, operands

__all__ = ["lower"]

aten = torch.ops.aten

LETTERS = "abcdefghijkl"

PRODUCTS = {
    "addmm": ("mm", aten.mm.default),
    "baddbmm": ("bmm", aten.bmm.default),
    "addmv": ("mv", aten.mv.default),
}


def lower(graph: Graph) -> Graph:
    """Rewrite the composite operators of a trace in place, and return it."""
    builder = _Builder(graph)
    for node in graph.nodes:
        builder.places[node.id] = len(builder.nodes)
        rule = _RULES.get(node.op)
        if rule is None or not rule(builder, node):
            builder.nodes.append(node)
    builder.finish()
    return graph


@dataclass(slots=True)
class _Builder:
    """Nodes in their new order; ``fresh`` holds new values before the value they lead to, and
    ``places`` where an old node's number lies now."""

    graph: Graph
    nodes: list[Node] = field(default_factory=list)
    fresh: dict[int, list[Value]] = field(default_factory=dict)
    places: dict[int, int] = field(default_factory=dict)

    def emit(
        self,
        old: Node,
        op: str,
        overload: torch._ops.OpOverload,
        args: tuple[object, ...],
        shape: tuple[int, ...],
    ) -> Value:
        """A new node before ``old``; its one output."""
        made = Value(
            id=-1, shape=shape, dtype=old.out.dtype, strides=(), offset=0, storage=-1,
            origin="operator",
        )  # fmt: skip
        inputs = tuple(operands(args))
        node = Node(-1, op, overload, args, {}, inputs, (made,), old.module)
        made.node = node
        made.data = any(value.data for value in inputs)
        made.roots = (
            frozenset() if made.data else frozenset().union(*(value.roots for value in inputs))
        )
        for value in dict.fromkeys(inputs):
            value.users.append(node)
        self.nodes.append(node)
        self.fresh.setdefault(old.out.id, []).append(made)
        return made

    def become(
        self,
        node: Node,
        op: str,
        overload: torch._ops.OpOverload,
        args: tuple[object, ...],
        kwargs: dict[str, object] | None = None,
    ) -> bool:
        """Let ``node`` compute its output by another operator."""
        for value in dict.fromkeys(node.inputs):
            value.users.remove(node)
        node.op, node.overload, node.args, node.kwargs = op, overload, args, kwargs or {}
        node.inputs = tuple(operands((args, node.kwargs)))
        for value in dict.fromkeys(node.inputs):
            value.users.append(node)
        self.nodes.append(node)
        return True

    def drop(self, node: Node) -> None:
        """Forget a node whose output nobody reads any more."""
        if not node.out.users:
            for value in dict.fromkeys(node.inputs):
                value.users.remove(node)
            self.nodes.remove(node)

    def finish(self) -> None:
        """Number nodes and values in their order."""
        values = [
            value for old in self.graph.values for value in (*self.fresh.get(old.id, ()), old)
        ]
        known = {id(value): self.graph.constants.get(value.id) for value in self.graph.values}
        for number, value in enumerate(values):
            value.id = number
        for number, node in enumerate(self.nodes):
            node.id = number
        old, new = list(self.places), [*self.places.values(), len(self.nodes)]
        moved = {start: new[bisect_left(old, start)] for start, _ in self.graph.entries}
        self.graph.entries = [(moved[start], name) for start, name in self.graph.entries]
        self.graph.turns = [new[bisect_left(old, turn)] for turn in self.graph.turns]
        self.graph.nodes, self.graph.values = self.nodes, values
        self.graph.constants = {
            value.id: held for value in values if (held := known.get(id(value))) is not None
        }


def _scaled_sum(builder: _Builder, node: Node) -> bool:
    """``addcmul(x, a, b, value)`` as ``x + value * (a * b)``, ``addcdiv`` likewise."""
    base, left, right = node.args[:3]
    operator = ("mul", aten.mul.Tensor) if node.op == "addcmul" else ("div", aten.div.Tensor)
    both = builder.emit(node, *operator, (left, right), _broadcast(left, right))
    value = node.argument(3, "value", 1)
    return builder.become(
        node, "add", aten.add.Tensor, (base, both), {"alpha": value} if value != 1 else {}
    )


def _interpolation(builder: _Builder, node: Node) -> bool:
    """``lerp(x, y, w)`` as ``x * (1 - w) + y * w``."""
    start, end, weight = node.args[:3]
    rest: object
    if isinstance(weight, Value):
        rest = builder.emit(node, "rsub", aten.rsub.Scalar, (weight, 1), weight.shape)
    else:
        assert isinstance(weight, (int, float))
        rest = 1 - weight
    kept = builder.emit(node, "mul", aten.mul.Tensor, (start, rest), _broadcast(start, rest))
    new = builder.emit(node, "mul", aten.mul.Tensor, (end, weight), _broadcast(end, weight))
    return builder.become(node, "add", aten.add.Tensor, (kept, new))


def _product_and_sum(builder: _Builder, node: Node) -> bool:
    """``addmm(x, a, b)`` as ``x + a @ b``, unless ``x`` is a bias."""
    base, left, right = node.args[:3]
    if not isinstance(base, Value) or base.derived or base.origin == "parameter":
        return False
    beta, alpha = node.argument(3, "beta", 1), node.argument(4, "alpha", 1)
    op, overload = PRODUCTS[node.op]
    made = builder.emit(node, op, overload, (left, right), node.out.shape)
    if beta != 1:
        base = builder.emit(node, "mul", aten.mul.Tensor, (base, beta), base.shape)
    return builder.become(
        node, "add", aten.add.Tensor, (base, made), {"alpha": alpha} if alpha != 1 else {}
    )


def _gated_half(builder: _Builder, node: Node) -> bool:
    """``glu(x)`` as the first half times the sigmoid of the second."""
    whole = node.inputs[0]
    dim = node.argument(1, "dim", -1)
    assert isinstance(dim, int)
    dim %= len(whole.shape)
    half = whole.shape[dim] // 2
    first, second = (
        builder.emit(
            node, "slice", aten.slice.Tensor, (whole, dim, begin, begin + half), node.out.shape
        )
        for begin in (0, half)
    )
    gate = builder.emit(node, "sigmoid", aten.sigmoid.default, (second,), node.out.shape)
    return builder.become(node, "mul", aten.mul.Tensor, (first, gate))


def _reduction(builder: _Builder, node: Node) -> bool:
    return _sum_of_stack(builder, node) or _sum_of_product(builder, node)


def _sum_of_product(builder: _Builder, node: Node) -> bool:
    """``(a * b).sum(d)`` of two signals that both run along d, as one contraction."""
    made = node.inputs[0].node
    if node.op != "sum" or made is None or made.op != "mul" or len(made.inputs) != 2:
        return False
    rank = len(made.out.shape)
    left, right = made.inputs
    dims = node.argument(1, "dim")
    if left is right or not (left.data and right.data) or rank > len(LETTERS):
        return False
    if not isinstance(dims, (list, tuple)) or not dims or node.argument(2, "keepdim", False):
        return False
    summed = {dim % rank for dim in dims if isinstance(dim, int)}
    for value in (left, right):
        shape = (1,) * (rank - len(value.shape)) + value.shape
        if any(shape[dim] == 1 for dim in summed):
            return False
    result = "".join(LETTERS[dim] for dim in range(rank) if dim not in summed)
    terms = [LETTERS[rank - len(value.shape) : rank] for value in (left, right)]
    builder.become(
        node, "einsum", aten.einsum.default, (f"{terms[0]},{terms[1]}->{result}", [left, right])
    )
    builder.drop(made)
    return True


def _sum_of_stack(builder: _Builder, node: Node) -> bool:
    """``stack(parts, d).sum(d)`` as a chain of additions; a mean divides by their number."""
    stacked = node.inputs[0].node
    if stacked is None or stacked.op != "stack" or node.argument(2, "keepdim", False):
        return False
    dims = node.argument(1, "dim")
    rank = len(node.inputs[0].shape)
    if not isinstance(dims, (list, tuple)) or len(dims) != 1:
        return False
    along = stacked.argument(1, "dim", 0)
    assert isinstance(along, int)
    parts = list(operands(stacked.args[0]))
    if dims[0] % rank != along % rank or len(parts) < 2:
        return False
    total = parts[0]
    mean = node.op == "mean"
    for part in parts[1:] if mean else parts[1:-1]:
        total = builder.emit(node, "add", aten.add.Tensor, (total, part), part.shape)
    if mean:
        return builder.become(node, "div", aten.div.Tensor, (total, len(parts)))
    return builder.become(node, "add", aten.add.Tensor, (total, parts[-1]))


def _tensordot(builder: _Builder, node: Node) -> bool:
    """``tensordot`` and ``inner`` as the einsum that they are."""
    left, right = node.args[:2]
    if not isinstance(left, Value) or not isinstance(right, Value):
        return False
    rank, total = len(left.shape), len(left.shape) + len(right.shape)
    if not rank or rank == total or total > len(LETTERS):
        return False
    pairs = node.args[2:4] if node.op == "tensordot" else ([-1], [-1])
    if len(pairs) != 2:
        return False
    mine, other = list(LETTERS[:rank]), list(LETTERS[rank:total])
    for here, there in zip(*map(_whole_numbers, pairs), strict=True):
        other[there] = mine[here]
    both = set(mine) & set(other)
    result = "".join(letter for letter in mine + other if letter not in both)
    equation = f"{''.join(mine)},{''.join(other)}->{result}"
    return builder.become(node, "einsum", aten.einsum.default, (equation, [left, right]))


def _whole_numbers(items: object) -> list[int]:
    assert isinstance(items, (list, tuple))
    return [item for item in items if isinstance(item, int)]


def _long_einsum(builder: _Builder, node: Node) -> bool:
    """A contraction of three or more operands as one of two after the other, so that each sums over
    what it can."""
    equation = node.args[0]
    values = list(operands(node.args[1]))
    if not isinstance(equation, str) or len(values) < 3 or "->" not in equation:
        return False
    left, result = equation.replace(" ", "").split("->")
    waiting = list(zip(left.split(","), values, strict=True))
    sizes: dict[str, tuple[int, ...]] = {}
    for term, value in waiting:
        sizes.update(_letter_sizes(term, value.shape))
    while True:
        if len(waiting) == 2:
            (term, first), (other, second) = waiting
            pair = f"{term},{other}->{result}"
            return builder.become(node, "einsum", aten.einsum.default, (pair, [first, second]))
        one, two = max(
            itertools.combinations(range(len(waiting)), 2),
            key=lambda pair: len(_summed(waiting, pair, result)),
        )
        other, second = waiting.pop(two)
        term, first = waiting.pop(one)
        wanted = set(result).union(*(rest for rest, _ in waiting))
        letters = [item for item in _letters(term) if item in wanted or item == "..."]
        letters += [
            item
            for item in _letters(other)
            if (item in wanted or item == "...") and item not in letters
        ]
        shape = tuple(size for letter in letters for size in sizes[letter])
        pair = f"{term},{other}->{''.join(letters)}"
        made = builder.emit(node, "einsum", aten.einsum.default, (pair, [first, second]), shape)
        waiting.insert(one, ("".join(letters), made))


def _summed(terms: list[tuple[str, Value]], pair: tuple[int, int], result: str) -> set[str]:
    """The letters that a product of two operands can already sum over."""
    inside = set(terms[pair[0]][0]) & set(terms[pair[1]][0])
    outside = (set(term) for place, (term, _) in enumerate(terms) if place not in pair)
    return inside.difference(result, *outside)


def _letters(term: str) -> list[str]:
    """The subscripts of an operand, an ellipsis as one."""
    return [item if item != "." else "..." for item in term.replace("...", ".")]


def _letter_sizes(term: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    letters = _letters(term)
    spare = len(shape) - len(letters) + 1
    sizes: dict[str, tuple[int, ...]] = {}
    position = 0
    for letter in letters:
        width = spare if letter == "..." else 1
        sizes[letter] = shape[position : position + width]
        position += width
    return sizes


def _broadcast(*items: object) -> tuple[int, ...]:
    shapes = [item.shape for item in items if isinstance(item, Value)]
    return tuple(torch.broadcast_shapes(*shapes))


_RULES: dict[str, Callable[[_Builder, Node], bool]] = {
    "addcmul": _scaled_sum,
    "addcdiv": _scaled_sum,
    "lerp": _interpolation,
    **dict.fromkeys(PRODUCTS, _product_and_sum),
    **dict.fromkeys(("tensordot", "inner"), _tensordot),
    "glu": _gated_half,
    "sum": _reduction,
    "mean": _reduction,
    "einsum": _long_einsum,
}
