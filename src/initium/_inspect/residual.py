"""Residual streams: which sums carry a stream on, and which weights write to it.

A sum a + b is residual if b was computed from a through at least one weight. The weights nearest
behind b are the writers. The skip may be scaled or gated on its way (highways). Where the skip is
itself one weight away from the branch's source (a shortcut projection), a new stream begins with
that sum. A normalisation on the skip (post-norm) also begins a new one: it resets the scale. A sum
of two values of one stream (the first value added again) only carries it on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from initium._inspect.flow import Flow
from initium._inspect.graph import Node, Value
from initium._inspect.operators import SELECTION
from initium._inspect.uses import Use

__all__ = ["Addition", "Streams", "find_streams"]

SUMMANDS = 3
"""Branches that one block may add one after the other."""
COPIES = 16
"""Copies of a stream up to which a matrix may mix them (hyper-connections)."""
PARTING = SELECTION - {"slice", "narrow", "narrow_copy", "index", "index_select"}
"""What makes parts that go their own ways: steps of a loop, groups of channels."""
SUMS = frozenset({"add", "sub", "subtract"})


@dataclass(slots=True, eq=False)
class Addition:
    """One residual sum: what is carried, what is added, who writes, and where on which stream.

    ``branches`` is how many branches this sum adds (two for parallel attention and MLP), ``depth``
    how many were added to the stream before.
    """

    node: Node
    skip: Value
    branch: Value
    stream: int
    depth: int
    branches: int
    writers: list[Use] = field(default_factory=list)
    shortcut: list[Use] = field(default_factory=list)


@dataclass(slots=True)
class Streams:
    """All residual sums in order, and the number of branches per stream."""

    additions: list[Addition] = field(default_factory=list)
    totals: dict[int, int] = field(default_factory=dict)
    by_value: dict[int, Addition] = field(default_factory=dict)
    origins: dict[int, int] = field(default_factory=dict)

    def writer(self, use: Use) -> Addition | None:
        for addition in self.additions:
            if use in addition.writers:
                return addition
        return None

    def read(self, flow: Flow, value: Value | None) -> tuple[int, int] | None:
        """(stream, branches written before) where the value is a stream up to a norm."""
        if value is None:
            return None
        for step, _ in flow.back(value, norms=True):
            addition = self.by_value.get(step.id)
            if addition is not None:
                return addition.stream, addition.depth + addition.branches
            if step.id in self.origins:
                return self.origins[step.id], 0
        return None


def find_streams(flow: Flow) -> Streams:
    """Walk the sums of the trace in order."""
    streams = Streams()
    for node in flow.graph.nodes:
        if node.op not in SUMS or node.id in flow.inner or node.id in flow.steps:
            continue
        signals = flow.signals(node)
        if len(signals) != 2:
            continue
        left, right = signals
        if max(left.numel, right.numel) != node.out.numel:
            continue
        if _rejoins(flow, streams, node.out, left, right):
            continue
        found = _skip_and_branch(flow, streams, node) or _with_shortcut(flow, node)
        if found is None:
            _carry_on(flow, streams, node)
            continue
        skip, branch, shortcut = found
        _add(flow, streams, node, skip, branch, shortcut)
    return streams


def _rejoins(flow: Flow, streams: Streams, out: Value, left: Value, right: Value) -> bool:
    """Whether a stream's value meets an earlier one again, with no weight on the way."""
    for late, early in ((left, right), (right, left)):
        addition = _written(flow, streams, late)
        if addition is None or flow.weights_between(late, _chain(flow, streams, early)) < 1:
            continue
        before = _written(flow, streams, early)
        if before is None or before.stream != addition.stream or before.depth < addition.depth:
            streams.by_value[out.id] = addition
            return True
    return False


def _carry_on(flow: Flow, streams: Streams, node: Node) -> None:
    """A branch without weights (pooling) leaves the stream what it was."""
    for skip, branch in _sides(flow, node):
        addition = _written(flow, streams, skip)
        if addition is not None and not flow.weights_between(branch, _chain(flow, streams, skip)):
            streams.by_value[node.out.id] = addition


def _written(flow: Flow, streams: Streams, value: Value) -> Addition | None:
    """The sum that a value is, up to steps without weights and norms."""
    for step, normed in _carried(flow, value):
        if normed:
            return None
        if step.id in streams.by_value:
            return streams.by_value[step.id]
    return None


def _carried(flow: Flow, value: Value) -> Iterator[tuple[Value, bool]]:
    """What a stream's value was before, also through activations and gates that stand on it."""
    here: Value | None = value
    crossed = False
    while here is not None:
        for step, normed in flow.back(here, norms=True):
            here, crossed = step, crossed or normed
            yield step, crossed
            if step.node is not None and step.node.op in PARTING:
                return
        node = here.node
        use = flow.uses.matrix(node)
        if use is not None:
            here = use.data if _mixes_copies(use) else None
            continue
        if node is None or node.id in flow.inner or not flow.elementwise(node):
            return
        signals = flow.ungated(node)
        here = signals[0] if len(signals) == 1 else None


def _mixes_copies(use: Use) -> bool:
    """Whether a small square matrix mixes copies of a stream, and leaves its features alone."""
    small = use.kind == "matrix" and use.node.op in ("einsum", "matmul", "mm", "bmm")
    if not small or use.data is None or use.weight.numel > COPIES**2:
        return False
    return use.data.numel == use.out.numel and len(use.out.shape) - 1 not in use.places


def _chain(flow: Flow, streams: Streams, skip: Value) -> list[int]:
    """The values that a branch may have read: the skip, and the stream before the last few sums
    (``x + a(x) + b(x)`` adds b to a sum that it did not read)."""
    found: list[int] = []
    here: Value | None = skip
    for _ in range(SUMMANDS):
        following = None
        for step, _ in _carried(flow, here) if here is not None else ():
            found.append(step.id)
            if following is None and step.id in streams.by_value:
                following = streams.by_value[step.id].skip
        here = following
    return found


def _sides(flow: Flow, node: Node) -> Iterator[tuple[Value, Value]]:
    """What may be carried and what may be added: all of the sum's size, and not subtracted."""
    left, right = flow.signals(node)
    for skip, branch in ((left, right), (right, left)):
        subtracted = node.op != "add" and node.inputs[0] is not skip
        if skip.numel == node.out.numel and not subtracted:
            yield skip, branch


def _skip_and_branch(
    flow: Flow, streams: Streams, node: Node
) -> tuple[Value, Value, list[Use]] | None:
    for skip, branch in _sides(flow, node):
        if flow.weights_between(branch, _chain(flow, streams, skip)) >= 1:
            return skip, branch, []
    return None


def _with_shortcut(flow: Flow, node: Node) -> tuple[Value, Value, list[Use]] | None:
    for skip, branch in _sides(flow, node):
        use = _single_weight(flow, skip)
        if use is None or use.data is None or use.kind != "matrix":
            continue
        if flow.weights_between(branch, _sources(flow, use.data), enough=2) >= 2:
            return skip, branch, [use]
    return None


def _sources(flow: Flow, value: Value) -> list[int]:
    """What a shortcut's weight reads: the value before norms and pooling."""
    found: list[int] = []
    here: Value | None = value
    while here is not None:
        steps = [step for step, _ in flow.back(here, norms=True)]
        found += [step.id for step in steps]
        last = steps[-1].node
        pooled = flow.signals(last) if last is not None and flow.pools(last) else []
        here = pooled[0] if len(pooled) == 1 else None
    return found


def _single_weight(flow: Flow, value: Value) -> Use | None:
    """The weight whose product ``value`` is, up to transparent steps, norms and pooling."""
    here = value
    for _ in range(32):
        use = flow.uses.matrix(here.node)
        if use is not None:
            return use
        before = flow.through(here.node)
        if here.node is not None and here.node.op in PARTING:
            return None
        if before is None and here.node is not None:
            if here.node.id in flow.norms:
                before = flow.norms[here.node.id]
            elif flow.pools(here.node) and len(flow.signals(here.node)) == 1:
                before = flow.signals(here.node)[0]
        if before is None:
            return None
        here = before
    return None


def _add(
    flow: Flow, streams: Streams, node: Node, skip: Value, branch: Value, shortcut: list[Use]
) -> None:
    stream, depth = len(streams.totals), 0
    origin = skip
    if not shortcut:
        for step, normed in _carried(flow, skip):
            if normed:
                break
            origin = step
            before = streams.by_value.get(step.id)
            if before is not None:
                stream, depth = before.stream, before.depth + before.branches
                break
    source = shortcut[0].data if shortcut and shortcut[0].data is not None else skip
    chain = {*_chain(flow, streams, source), *(_sources(flow, source) if shortcut else ())}
    writers, branches = _writers(flow, streams, branch, chain)
    if not writers:
        if depth:
            streams.by_value[node.out.id] = streams.by_value[origin.id]
        return
    if depth == 0:
        streams.origins.setdefault(origin.id, stream)
    addition = Addition(node, skip, branch, stream, depth, max(branches, 1), writers, shortcut)
    streams.additions.append(addition)
    streams.by_value[node.out.id] = addition
    streams.totals[stream] = addition.depth + addition.branches


def _writers(flow: Flow, streams: Streams, branch: Value, chain: set[int]) -> tuple[list[Use], int]:
    """The weights nearest behind a branch, and how many summands it has."""
    parts = [branch]
    summands: list[Value] = []
    while parts:
        value = parts.pop()
        base = value
        for step, _ in flow.back(value):
            base = step
        node = base.node
        plain_sum = (
            node is not None
            and node.op == "add"
            and node.id not in flow.inner
            and base.id not in streams.by_value
            and len(flow.signals(node)) == 2
            and all(item.numel == base.numel for item in flow.signals(node))
            and all(flow.weights_between(item, chain) >= 1 for item in flow.signals(node))
        )
        if plain_sum and node is not None:
            parts += flow.signals(node)
        else:
            summands.append(value)
    writers: list[Use] = []
    for value in summands:
        for use in flow.nearest(
            value, stop=lambda here: here.id in chain or here.id in streams.by_value, linear=True
        ):
            feeds = use.data is not None and flow.weights_between(use.out, chain) >= 1
            if feeds and use.kind != "lookup" and use not in writers:
                writers.append(use)
    return writers, len(summands)
