"""The data flow of one forward pass: values, the operators between them, and where each came from.

A value is *data* if it depends on the model's inputs, *derived* if it depends on parameters but not
on inputs (a transposed weight, a looked-up position table), and constant otherwise.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch

__all__ = ["Graph", "Node", "Value", "operands"]

Origin = Literal["parameter", "buffer", "input", "constant", "operator"]


@dataclass(slots=True, eq=False)
class Value:
    """One tensor at one moment. ``storage`` tells which values are views of the same memory."""

    id: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    strides: tuple[int, ...]
    offset: int
    storage: int
    origin: Origin
    name: str = ""
    node: Node | None = None
    users: list[Node] = field(default_factory=list)
    data: bool = False
    roots: frozenset[str] = frozenset()

    @property
    def numel(self) -> int:
        total = 1
        for size in self.shape:
            total *= size
        return total

    @property
    def derived(self) -> bool:
        """Made of parameters alone."""
        return bool(self.roots) and not self.data

    def __repr__(self) -> str:
        return f"Value({self.id}, {self.name or self.origin}, {list(self.shape)})"


@dataclass(slots=True, eq=False)
class Node:
    """One operator call. ``args`` and ``kwargs`` hold values where the call had tensors."""

    id: int
    op: str
    overload: torch._ops.OpOverload
    args: tuple[object, ...]
    kwargs: dict[str, object]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    module: str

    @property
    def out(self) -> Value:
        return self.outputs[0]

    def argument(self, position: int, name: str, default: object = None) -> object:
        """The argument at a position of the schema, however it was passed."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)

    def __repr__(self) -> str:
        inputs = ", ".join(str(value.id) for value in self.inputs)
        outputs = ", ".join(str(value.id) for value in self.outputs)
        return f"Node({self.id}, {self.op}({inputs}) -> {outputs}, in {self.module or '.'})"


@dataclass(slots=True)
class Graph:
    """A whole trace. ``constants`` keeps the real contents of small known values by value id;
    ``entries`` says from which node on which entry point was running, ``turns`` before which nodes
    the outermost module's own code asked for a value that had to be invented."""

    nodes: list[Node] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    parameters: dict[str, Value] = field(default_factory=dict)
    outputs: list[Value] = field(default_factory=list)
    constants: dict[int, torch.Tensor] = field(default_factory=dict)
    invented: list[str] = field(default_factory=list)
    written: set[str] = field(default_factory=set)
    entries: list[tuple[int, str]] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)

    def entry(self, node: Node) -> str:
        """The entry point that a node ran under; empty for the model's own forward pass."""
        place = bisect_right(self.entries, node.id, key=lambda entry: entry[0])
        return self.entries[place - 1][1] if place else ""

    def turned(self, node: Node) -> bool:
        """Whether the entry point that a node ran under had branched on an invented value."""
        place = bisect_right(self.entries, node.id, key=lambda entry: entry[0])
        start = self.entries[place - 1][0] if place else 0
        return any(start <= turn <= node.id for turn in self.turns)

    def remove(self, nodes: set[int]) -> None:
        """Forget nodes by id; what they read loses them as users."""
        for node in self.nodes:
            if node.id in nodes:
                for value in dict.fromkeys(node.inputs):
                    value.users = [user for user in value.users if user.id not in nodes]
        self.nodes = [node for node in self.nodes if node.id not in nodes]


def operands(tree: object) -> Iterator[Value]:
    """The values inside the arguments of a node, in order."""
    if isinstance(tree, Value):
        yield tree
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from operands(item)
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from operands(item)
