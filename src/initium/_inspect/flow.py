"""Walking along the trace: what really follows a weight, what really feeds one.

Between two weights lie operators that only move, cast, drop, shift or scale. They are transparent:
every walk here looks through them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from initium._inspect.graph import Graph, Node, Value
from initium._inspect.operators import (
    ATTENTION,
    DROPOUT,
    ELEMENTWISE,
    MOVEMENT,
    NORM,
    POOL,
    PRODUCT,
    ROUTING,
    SELECTION,
    SOFTMAX,
)
from initium._inspect.uses import Use, Uses

__all__ = ["Flow", "Piece"]

GATE = 8
"""A factor this many times smaller than the other only gates it."""

REDUCTIONS = frozenset({"mean", "sum", "var", "std", "linalg_vector_norm", "norm", "var_mean"})
ROOTS = frozenset({"rsqrt", "sqrt"})
SQUASHING = frozenset({"sigmoid", "hardsigmoid", "softmax", "_softmax", "tanh"})
SCALING = frozenset({"mul", "div", "multiply", "divide", "true_divide"})
SHIFTING = frozenset({"add", "sub", "rsub", "subtract"})


@dataclass(frozen=True, slots=True)
class Piece:
    """A value that goes its own way behind a product, and whether it is only a part of it."""

    value: Value
    part: bool


@dataclass(slots=True)
class Flow:
    """A trace together with its uses; ``norms`` maps the last node of each normalisation to what it
    normalises, ``inner`` holds the nodes inside one that is written out by hand, ``reduced`` the
    dimensions over which such a one takes its statistics, ``asides`` (node, value) where an operand
    is an adapter's, and not looked at, and ``steps`` the sums that carry the state of a recurrence
    on."""

    graph: Graph
    uses: Uses
    norms: dict[int, Value] = field(default_factory=dict)
    reduced: dict[int, tuple[int, ...]] = field(default_factory=dict)
    asides: set[tuple[int, int]] = field(default_factory=set)
    inner: set[int] = field(default_factory=set)
    steps: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        for node in self.graph.nodes:
            if node.op in NORM:
                self.norms[node.id] = node.inputs[0]
            elif node.op in SCALING and node.id not in self.inner:
                found = self._normalised(node)
                if found is not None:
                    self.norms[node.id], self.reduced[node.id] = found

    # -- one step ----------------------------------------------------------------------------

    def signals(self, node: Node) -> list[Value]:
        """The operands that carry a signal, each once."""
        found = dict.fromkeys(node.inputs)
        carried = [value for value in found if value.id in self.uses.signals]
        if not self.asides:
            return carried
        return [value for value in carried if (node.id, value.id) not in self.asides]

    def through(self, node: Node | None) -> Value | None:
        """What a transparent node passes on (moved, dropped, shifted or scaled), else ``None``."""
        if node is None or self.uses.matrix(node) is not None or node.id in self.norms:
            return None
        if node.op in MOVEMENT or node.op in DROPOUT:
            return moved(node)
        if node.op == "cat":
            filled = [value for value in node.inputs if value.numel]
            return filled[0] if len(filled) == 1 else None
        if node.op in SCALING or node.op in SHIFTING:
            signals = self.signals(node)
            squared = len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]
            if len(signals) == 1 and not squared and not _divides(node, signals[0]):
                return signals[0]
        return None

    def back(self, value: Value, norms: bool = False) -> Iterator[tuple[Value, bool]]:
        """The value and what it equals up to transparent steps, with whether a norm was crossed."""
        crossed = False
        while True:
            yield value, crossed
            node = value.node
            before = self.through(node)
            if before is None and norms and node is not None and node.id in self.norms:
                before = self.norms[node.id]
                crossed = True
            if before is None:
                return
            value = before

    # -- normalisation written out by hand ------------------------------------------------------

    def _normalised(self, node: Node) -> tuple[Value, tuple[int, ...]] | None:
        """``x`` and the reduced dimensions, where ``node`` computes x * rsqrt(reduce(x^2) + eps) or
        an equivalent."""
        signals = self.signals(node)
        if len(signals) != 2:
            return None
        for scale, other in (signals, signals[::-1]):
            while scale.node is not None and scale.node.op in ("expand", "expand_as"):
                scale = scale.node.inputs[0]
            if scale.numel >= other.numel:
                continue
            found = self._statistic_of(scale)
            if found is None:
                continue
            source = found[0]
            related = {value.id for value, _ in self._centred(other)}
            if any(value.id in related for value, _ in self._centred(source)):
                return found
        return None

    def _centred(self, value: Value) -> Iterator[tuple[Value, bool]]:
        """Looks through ``x - mean(x)`` as well."""
        for step, crossed in self.back(value):
            yield step, crossed
            node = step.node
            if node is not None and node.op in ("sub", "subtract") and len(node.inputs) == 2:
                yield from self.back(node.inputs[0])

    def _statistic_of(self, scale: Value) -> tuple[Value, tuple[int, ...]] | None:
        """``x`` and the reduced dimensions, where ``scale`` is a root of the mean square (or a
        norm, or a deviation) of x."""
        value, rooted = scale, False
        nodes: list[int] = []
        for _ in range(12):
            node = value.node
            if node is None:
                return None
            nodes.append(node.id)
            if node.op in ("linalg_vector_norm", "norm", "std"):
                self.inner.update(nodes)
                return node.inputs[0], _reduced(node)
            if node.op in ROOTS or (node.op == "pow" and node.args[1:2] in ((-0.5,), (0.5,))):
                rooted = True
            elif node.op in ("mean", "sum", "var", "var_mean"):
                if not rooted:
                    return None
                source = node.inputs[0]
                square = source.node
                if node.op in ("mean", "sum"):
                    if square is None or square.op not in ("pow", "square", "mul", "abs"):
                        return None
                    nodes.append(square.id)
                    source = square.inputs[0]
                self.inner.update(nodes)
                return source, _reduced(node)
            elif node.op not in (
                "add", "clamp", "clamp_min", "maximum", "reciprocal", "div", "mul", "to",
                "_to_copy", "expand", "expand_as", "unsqueeze", "view", "detach",
            ):  # fmt: skip
                return None
            signals = self.signals(node)
            if len(signals) != 1:
                return None
            value = signals[0]
        return None

    # -- pieces --------------------------------------------------------------------------------

    def pieces(self, start: Value) -> list[Piece]:
        """The values that leave the transparent zone behind ``start``, whole or in parts."""
        found: list[Piece] = []
        seen: set[int] = set()
        stack = [Piece(start, False)]
        while stack:
            piece = stack.pop()
            if piece.value.id in seen:
                continue
            seen.add(piece.value.id)
            leaves = not piece.value.users
            for node in piece.value.users:
                if moved(node) is piece.value or self.through(node) is piece.value:
                    part = piece.part or node.op in SELECTION
                    stack += [Piece(out, part) for out in node.outputs]
                else:
                    leaves = True
            if leaves:
                found.append(piece)
        return sorted(found, key=lambda piece: piece.value.id)

    def between(self, start: Value, target: Value) -> list[Node]:
        """The nodes without weights on the ways from ``start`` to ``target``, in order."""
        nodes: dict[int, Node] = {}
        stack, seen = [target], set[int]()
        while stack:
            value = stack.pop()
            if value.id in seen or value.id <= start.id or value.node is None:
                continue
            seen.add(value.id)
            if self.uses.matrix(value.node) is None:
                nodes[value.node.id] = value.node
                stack += self.signals(value.node)
        return [nodes[key] for key in sorted(nodes)]

    # -- products of data ----------------------------------------------------------------------

    def is_data_product(self, node: Node | None) -> bool:
        """Whether a node multiplies and sums two signals, as attention does."""
        return (
            node is not None
            and node.op in PRODUCT
            and self.uses.matrix(node) is None
            and sum(value.id in self.uses.signals for value in node.inputs) >= 2
        )

    def factors(self, product: Node) -> tuple[Value, Value]:
        """The two operands that a product of data contracts."""
        given = [value for value in product.inputs if value.id in self.uses.signals]
        return given[-2], given[-1]

    def product(self, value: Value) -> Use | None:
        """The matrix whose product a value is, up to transparent steps."""
        for step, _ in self.back(value):
            use = self.uses.matrix(step.node)
            if use is not None:
                return use
        return None

    # -- nearest weights -----------------------------------------------------------------------

    def nearest(
        self,
        value: Value,
        *,
        stop: Callable[[Value], bool] = lambda value: False,
        linear: bool = False,
    ) -> list[Use]:
        """The weights whose products feed ``value``.

        Walks back through everything that has no weight of its own, up to attention, softmax and
        wherever ``stop`` says. With ``linear``, gates that only scale are not followed.
        """
        found: list[Use] = []
        seen: set[int] = set()
        stack = [value]
        while stack:
            here = stack.pop()
            node = here.node
            if here.id in seen or node is None or here.id not in self.uses.signals or stop(here):
                continue
            seen.add(here.id)
            use = self.uses.matrix(node)
            if use is not None:
                found.append(use)
            elif node.op not in SOFTMAX and node.op not in ATTENTION:
                stack += self._feeds(node, linear)
        return found

    def _feeds(self, node: Node, linear: bool) -> list[Value]:
        if node.id in self.norms:
            return [self.norms[node.id]]
        source = moved(node)
        if source is not None:
            return [source]
        if node.op in ("where", "masked_fill", "masked_scatter", "lerp"):
            return self.signals(node)[-2:]
        if linear and self.is_data_product(node):
            plain = [value for value in self.signals(node) if not self._chosen(value)]
            return plain if len(plain) == 1 else []
        return self.ungated(node) if linear else self.signals(node)

    def behind(self, value: Value, wanted: Callable[[Node], bool], far: int) -> list[Node]:
        """The nearest nodes of a kind behind a value, with no weight on the way.

        Looks through at most ``far`` values.
        """
        found: list[Node] = []
        stack, seen = [value], set[int]()
        while stack and len(seen) < far:
            here = stack.pop()
            node = here.node
            if here.id in seen or node is None or self.uses.matrix(node) is not None:
                continue
            seen.add(here.id)
            if wanted(node):
                found.append(node)
            else:
                stack += self.signals(node)
        return found

    def _chosen(self, value: Value) -> bool:
        """Whether the value is a weighting: made by a softmax, a sigmoid or a choice."""
        stack, seen = [value], set[int]()
        while stack and len(seen) < 32:
            here = stack.pop()
            node = here.node
            if here.id in seen or node is None or self.uses.matrix(node) is not None:
                continue
            seen.add(here.id)
            if node.op in SQUASHING or node.op in ROUTING:
                return True
            if not self.is_data_product(node):
                stack += [item for item in node.inputs if item.data]
        return False

    def ungated(self, node: Node) -> list[Value]:
        """The signals of a node, for a product without the factors that only gate: squashed ones,
        and those far smaller than the largest."""
        signals = self.signals(node)
        if node.op not in SCALING or len(signals) < 2:
            return signals
        most = max(value.numel for value in signals)
        large = [value for value in signals if value.numel * GATE > most]
        return [value for value in large if not self.squashed(value)] or large

    def squashed(self, value: Value) -> bool:
        """Whether the value comes straight out of a squashing function, as a gate does."""
        for step, _ in self.back(value):
            if step.node is not None and step.node.op in SQUASHING:
                return True
        return False

    # -- reachability ----------------------------------------------------------------------------

    def weights_between(self, late: Value, early: Iterable[int], enough: int = 1) -> int:
        """How many weights lie on some way from one of ``early`` to ``late``; -1 if there is none.

        Counts up to ``enough``.
        """
        targets = set(early)
        if not targets:
            return -1
        floor = min(targets)
        best = -1
        seen: set[tuple[int, int]] = set()
        stack = [(late, 0)]
        while stack:
            value, crossed = stack.pop()
            if value.id in targets:
                best = max(best, crossed)
                if best >= enough:
                    return best
                continue
            if (value.id, crossed) in seen or value.id < floor or value.node is None:
                continue
            seen.add((value.id, crossed))
            weighs = self.uses.matrix(value.node) is not None
            for before in self.signals(value.node):
                stack.append((before, min(crossed + weighs, enough)))
        return best

    def consumers(self, value: Value) -> Iterator[tuple[Node, Value]]:
        """The nodes that follow behind transparent steps and norms, with the operand they take."""
        seen: set[int] = set()
        stack = [value]
        while stack:
            here = stack.pop()
            if here.id in seen:
                continue
            seen.add(here.id)
            for node in here.users:
                onward = self.through(node) is here or moved(node) is here
                normed = node.id in self.norms and self.norms[node.id] is here
                if onward or normed:
                    stack += node.outputs
                elif node.id not in self.inner:
                    yield node, here

    def is_norm_output(self, value: Value) -> bool:
        """Whether the value is a normalisation's result, up to transparent steps."""
        return any(
            step.node is not None and step.node.id in self.norms for step, _ in self.back(value)
        )

    def elementwise(self, node: Node) -> bool:
        return node.op in ELEMENTWISE and node.id not in self.norms

    def pools(self, node: Node) -> bool:
        return node.op in POOL


def _divides(node: Node, value: Value) -> bool:
    return node.op in ("div", "divide", "true_divide") and node.inputs[0] is not value


def moved(node: Node) -> Value | None:
    """What a node moves, drops out or casts: its first operand, but for writing into a place."""
    if not node.inputs or not (node.op in MOVEMENT or node.op in DROPOUT):
        return None
    return node.inputs[1] if node.op == "copy" and len(node.inputs) > 1 else node.inputs[0]


def _reduced(node: Node) -> tuple[int, ...]:
    """The dimensions that a reduction takes together."""
    rank = len(node.inputs[0].shape)
    for given in (*node.args[1:], *node.kwargs.values()):
        if isinstance(given, (list, tuple)) and all(isinstance(dim, int) for dim in given):
            return tuple(dim % rank for dim in given)
    return tuple(range(rank))
