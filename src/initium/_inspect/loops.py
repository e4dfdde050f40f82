"""Recurrences written out as a loop: ``h = tanh(W x_t + U h)``, gates by chunks, and their like.

A matrix is *hidden* if, from step to step, it reads what it made itself, with no other matrix on
the way, while every step brings in another part of what the model was given. Without such news the
loop is depth with shared weights, and the sums are residual. What reads the same state and feeds it
is hidden too (gates of their own, ``U (r * h)``); what else feeds the state is *input*, and so is a
matrix that reads both side by side. Their uses become ``recurrent``, and the sums that make the
next state carry no residual stream.

Not covered: loops of fewer than three steps; states that pass a projection, or a whole block,
before the next step.
"""

from __future__ import annotations

import itertools

import numpy as np

from initium._inspect.blocks import blocks_of, output_axis
from initium._inspect.facts import channel_axis
from initium._inspect.flow import SCALING, SHIFTING, Flow
from initium._inspect.graph import Node, Value
from initium._inspect.labels import Rows, rows
from initium._inspect.operators import ATTENTION, MOVEMENT, SELECTION, SOFTMAX
from initium._inspect.uses import Use
from initium._types import Block

__all__ = ["loop_gates", "place_loops"]

FAR = 512
"""Values that are looked through for what is new in a step."""

JOINING = frozenset({"cat", "concat", "hstack"})
GATHERING = JOINING | {"stack", "merge", "copy", "vstack"}
"""What puts the states of several steps side by side: the recurrence ends there."""


def place_loops(flow: Flow) -> None:
    """Mark the uses of every hand-written recurrence, and the sums inside its steps."""
    cores = [name for name in flow.uses.by_parameter if _recurs(flow, _products(flow, name))]
    cells = [_cell(flow, name) for name in cores]
    hidden = {name for cell in cells for name, slot in cell.items() if slot == "hidden"}
    for cell in cells:
        flow.steps.update(_sums(flow, [name for name in cell if cell[name] == "hidden"]))
    for name in dict.fromkeys(name for cell in cells for name in cell):
        uses = _products(flow, name)
        own = name in hidden and not _joins(flow, uses[-1])
        for use in uses:
            use.kind, use.slot = "recurrent", "hidden" if own else "input"


def _products(flow: Flow, name: str) -> list[Use]:
    """The products of one parameter with a signal, without those of convolutions."""
    return [use for use in flow.uses.by_parameter[name] if use.kind == "matrix" and not use.kernel]


def _feeds(flow: Flow, use: Use) -> list[Use]:
    """The products that a product reads, with no other product of data on the way."""
    if use.data is None:
        return []
    return flow.nearest(use.data, stop=lambda value: flow.is_data_product(value.node))


def _recurs(flow: Flow, steps: list[Use]) -> bool:
    """Whether each step reads the one before and something new."""
    pairs = list(itertools.pairwise(steps))
    if len(pairs) < 2 or not all(before in _feeds(flow, use) for before, use in pairs):
        return False
    made = _descendants(flow, steps[0].out)
    news = [_new(use, before.out, made) for before, use in pairs]
    sources = set.intersection(*({base for base, _ in new} for new in news))
    return any(
        all(
            {part for base, part in one if base == source}
            != {part for base, part in two if base == source}
            for one, two in itertools.pairwise(news)
        )
        for source in sources
    )


def _descendants(flow: Flow, start: Value) -> set[int]:
    """Everything that is computed from a value."""
    assert start.node is not None
    made = {start.id}
    for node in flow.graph.nodes:
        if node.id > start.node.id and any(value.id in made for value in node.inputs):
            made.update(value.id for value in node.outputs)
    return made


def _new(use: Use, before: Value, made: set[int]) -> set[tuple[int, int]]:
    """(a given signal, the part of it) for every part that joins since the step before."""
    found: set[tuple[int, int]] = set()
    stack, seen = [use.data], set[int]()
    while stack and len(seen) < FAR:
        here = stack.pop(0)
        if here is None or here.id in seen or here.id == before.id or here.node is None:
            continue
        seen.add(here.id)
        node = here.node
        if here.id not in made and node.op in SELECTION and node.inputs[0].data:
            found.add((node.inputs[0].id, here.id))
        if not (here.id in made and here.id < before.id):
            stack += [value for value in node.inputs if value.data]
    return found


def _cell(flow: Flow, core: str) -> dict[str, str]:
    """The parameters of a recurrence, and the slot of each."""
    found = {core: "hidden"}
    pending = [core]
    while pending:
        for use in _products(flow, pending.pop())[1:]:
            for feed in _feeds(flow, use):
                name = feed.parameter
                if name in found or feed.kind != "matrix" or feed.kernel:
                    continue
                if len(_products(flow, name)) < 2 and not _picked(flow, feed, use):
                    continue
                hidden = any(
                    found.get(other.parameter) == "hidden"
                    for item in _products(flow, name)
                    for other in _feeds(flow, item)
                )
                found[name] = "hidden" if hidden else "input"
                if hidden:
                    pending.append(name)
    return found


def _picked(flow: Flow, feed: Use, use: Use) -> bool:
    """Whether a step takes a part of a product, and not, as a first state is, all of it."""
    assert use.data is not None
    made = {feed.out.id}
    for node in flow.between(feed.out, use.data):
        if any(value.id in made for value in node.inputs):
            made.update(value.id for value in node.outputs)
            if node.op in SELECTION:
                return True
    return False


def _sums(flow: Flow, hidden: list[str]) -> set[int]:
    """The sums of a recurrence: of a hidden product with others, and of an older state with what
    is new. Others, inside a step, may still be residual."""
    steps = {id(use): number for name in hidden for number, use in enumerate(_products(flow, name))}
    ages = {
        step.id: (-1, -1)
        for name in hidden
        if (first := _products(flow, name)[0].data) is not None
        for step, _ in flow.back(first)
    }
    found: set[int] = set()
    for node in flow.graph.nodes:
        use = flow.uses.matrix(node)
        if use is not None:
            if id(use) in steps:
                ages[node.out.id] = (steps[id(use)], steps[id(use)])
            continue
        if node.op in SOFTMAX or node.op in ATTENTION or flow.is_data_product(node):
            continue
        known = [ages[value.id] for value in dict.fromkeys(node.inputs) if value.id in ages]
        if not known or (node.op in GATHERING and len(known) > 1):
            continue
        age = min(low for low, _ in known), max(high for _, high in known)
        ages.update((out.id, age) for out in node.outputs)
        if node.op in SHIFTING and len(flow.signals(node)) == 2:
            products = [flow.product(value) for value in flow.signals(node)]
            if age[0] < age[1] or any(item is not None and id(item) in steps for item in products):
                found.add(node.id)
    return found


def _joins(flow: Flow, use: Use) -> bool:
    """Whether a product reads several signals side by side."""
    made = [step.node for step, _ in flow.back(use.data)] if use.data is not None else []
    return any(
        node is not None and node.op in JOINING and len(flow.signals(node)) > 1 for node in made
    )


def loop_gates(flow: Flow, name: str, use: Use) -> tuple[Block, ...]:
    """The gates of a hand-written cell, by the parts that its product is cut into: ``gate`` where a
    sigmoid follows, else ``cell``; empty for a single one."""
    axis = output_axis(use)
    if axis is None:
        return ()
    found: list[tuple[str, Rows]] = []
    stack, seen = [use.out], set[int]()
    while stack and len(seen) < FAR:
        here = stack.pop(0)
        for node in here.users:
            if node.id in seen or not _passes(flow, node):
                continue
            seen.add(node.id)
            for out in node.outputs:
                taken = rows(flow, use.out, channel_axis(use), out)
                if taken is None or len(taken) == use.out.shape[channel_axis(use)]:
                    stack.append(out)
                elif not any(np.array_equal(taken, other) for _, other in found):
                    found.append((_gate(flow, out), taken))
    return blocks_of(flow, name, axis, found)


def _passes(flow: Flow, node: Node) -> bool:
    return node.op in MOVEMENT or node.op in SHIFTING or node.op in SCALING or node.id in flow.norms


def _gate(flow: Flow, piece: Value) -> str:
    """By the first function that follows, through sums and products."""
    stack, seen = [piece], set[int]()
    while stack and len(seen) < FAR:
        for node in stack.pop(0).users:
            if node.id in seen or not node.outputs:
                continue
            seen.add(node.id)
            if _passes(flow, node):
                stack += node.outputs
            elif flow.elementwise(node):
                return "gate" if node.op in ("sigmoid", "hardsigmoid") else "cell"
    return "cell"
