"""Walking along the trace: what really follows a weight, what really feeds one.

Between two weights lie operators that only move, cast, drop, shift or scale. They are transparent:
every walk here looks through them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from initium._inspect.graph import Graph, Node, Value
from initium._inspect.operators import (
    ATTENTION,
    DROPOUT,
    ELEMENTWISE,
    MOVEMENT,
    NORM,
    POOL,
    SELECTION,
    SOFTMAX,
)
from initium._inspect.uses import Use, Uses

__all__ = ["Flow", "Piece", "Rows"]

Rows: TypeAlias = NDArray[np.int64]
"""Sorted indices along one axis."""

LABELS = 1 << 22
"""Elements up to which the rows of a piece are found by replaying the movement on labels."""

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
    normalises, ``inner`` holds the nodes inside one that is written out by hand."""

    graph: Graph
    uses: Uses
    norms: dict[int, Value] = field(default_factory=dict)
    inner: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        for node in self.graph.nodes:
            if node.op in NORM:
                self.norms[node.id] = node.inputs[0]
            elif node.op in SCALING and node.id not in self.inner:
                source = self._normalised(node)
                if source is not None:
                    self.norms[node.id] = source

    # -- one step ----------------------------------------------------------------------------

    def signals(self, node: Node) -> list[Value]:
        """The operands that carry a signal, each once."""
        found = dict.fromkeys(node.inputs)
        return [value for value in found if value.id in self.uses.signals]

    def through(self, node: Node | None) -> Value | None:
        """What a transparent node passes on (moved, dropped, shifted or scaled), else ``None``."""
        if node is None or self.uses.matrix(node) is not None or node.id in self.norms:
            return None
        if node.op in MOVEMENT or node.op in DROPOUT:
            return node.inputs[0] if node.inputs else None
        if node.op in SCALING or node.op in SHIFTING:
            signals = self.signals(node)
            if len(signals) == 1 and (node.op != "div" or node.inputs[0] is signals[0]):
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

    def _normalised(self, node: Node) -> Value | None:
        """``x`` where ``node`` computes x * rsqrt(reduce(x^2) + eps) or an equivalent."""
        signals = self.signals(node)
        if len(signals) != 2:
            return None
        for scale, other in (signals, signals[::-1]):
            if scale.numel >= other.numel:
                continue
            source = self._statistic_of(scale)
            if source is None:
                continue
            related = {value.id for value, _ in self.back(other)}
            centred = {value.id for value, _ in self._centred(other)}
            if any(value.id in related | centred for value, _ in self.back(source)):
                return source
        return None

    def _centred(self, value: Value) -> Iterator[tuple[Value, bool]]:
        """Looks through ``x - mean(x)`` as well."""
        for step, crossed in self.back(value):
            yield step, crossed
            node = step.node
            if node is not None and node.op in ("sub", "subtract") and len(node.inputs) == 2:
                yield from self.back(node.inputs[0])

    def _statistic_of(self, scale: Value) -> Value | None:
        """``x`` where ``scale`` is a root of the mean square (or a norm, or a deviation) of x."""
        value, rooted = scale, False
        nodes: list[int] = []
        for _ in range(12):
            node = value.node
            if node is None:
                return None
            nodes.append(node.id)
            if node.op in ("linalg_vector_norm", "norm", "std"):
                self.inner.update(nodes)
                return node.inputs[0]
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
                return source
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
                moved = node.op in MOVEMENT and node.inputs and node.inputs[0] is piece.value
                if moved or self.through(node) is piece.value:
                    part = piece.part or node.op in SELECTION
                    stack += [Piece(out, part) for out in node.outputs]
                else:
                    leaves = True
            if leaves:
                found.append(piece)
        return sorted(found, key=lambda piece: piece.value.id)

    def rows(self, start: Value, axis: int, target: Value) -> Rows | None:
        """Which indices along ``axis`` of ``start`` arrive in ``target``; ``None`` if not known.

        Every element is labelled with its index, and the labels are sent the way of the values.
        """
        if start.numel > LABELS or axis >= len(start.shape):
            return None
        shape = [1] * len(start.shape)
        shape[axis] = start.shape[axis]
        labels = {start.id: torch.arange(start.shape[axis]).reshape(shape).expand(start.shape)}
        try:
            for node in self._between(start, target):
                self._label(node, labels)
            arrived = labels[target.id]
        except Exception:
            return None
        present = torch.zeros(start.shape[axis], dtype=torch.bool)
        present[arrived.reshape(-1)] = True
        return present.nonzero().reshape(-1).numpy()

    def _between(self, start: Value, target: Value) -> list[Node]:
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

    def _label(self, node: Node, labels: dict[int, torch.Tensor]) -> None:
        moving = [value for value in dict.fromkeys(node.inputs) if value.id in labels]
        if not moving:
            return
        repositions = node.op in MOVEMENT and not node.op.startswith(("to", "_to", "type_as"))
        if not repositions and node.op not in ("cat", "stack"):
            source = next((v for v in moving if v.shape == node.out.shape), moving[0])
            for out in node.outputs:
                labels[out.id] = labels[source.id].expand(out.shape)
            return

        def real(item: object) -> object:
            if isinstance(item, Value):
                return labels[item.id] if item.id in labels else self.graph.constants[item.id]
            if isinstance(item, (list, tuple)):
                kept = [part for part in item if not isinstance(part, Value) or part.numel]
                return type(item)(real(part) for part in kept)
            return item

        kwargs = {key: real(item) for key, item in node.kwargs.items() if key != "device"}
        result = node.overload(*(real(item) for item in node.args), **kwargs)
        parts = result if isinstance(result, (list, tuple)) else [result]
        for out, part in zip(node.outputs, parts, strict=True):
            labels[out.id] = part

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
        if node.op in MOVEMENT and node.inputs:
            return [node.inputs[0]]
        if node.op in ("where", "masked_fill", "masked_scatter", "lerp"):
            return self.signals(node)[-2:]
        signals = self.signals(node)
        if linear and node.op in SCALING and len(signals) > 1:
            plain = [value for value in signals if not self._squashed(value)]
            return plain or signals
        return signals

    def _squashed(self, value: Value) -> bool:
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
                onward = self.through(node) is here or (
                    node.op in MOVEMENT and node.inputs and node.inputs[0] is here
                )
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
