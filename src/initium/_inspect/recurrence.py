"""Linear attention: keys and values are multiplied first, or scores are used without a softmax.

A *reading* is the last product of data before a weight. One of its factors goes back, through sums,
decays and loops over positions, to another product of data, the *writing*; the other comes straight
from a weight. Where the writing sums over channels it makes scores, and the reading takes the
values. Where it sums over positions (or is an outer product that a loop sums) it stores values by
their keys, and the reading takes the queries. Left out: state spaces whose step scales the input.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator

from initium._inspect.attention import Attention, Operand, first_forward
from initium._inspect.facts import channel_axis
from initium._inspect.flow import Flow
from initium._inspect.graph import Node, Value
from initium._inspect.labels import contracted, covered, places, rows, surviving, varies
from initium._inspect.operators import SOFTMAX
from initium._inspect.residual import Streams
from initium._inspect.statespace import find_steps
from initium._inspect.uses import Use

__all__ = ["find_linear_attention"]

FAR = 256
"""Values that are looked through from one product to another."""
STEPS = 4
"""Pairs of a writing and a reading that are looked at where a loop over positions repeats them."""


def find_linear_attention(
    flow: Flow, streams: Streams, found: list[Attention]
) -> Iterator[Attention]:
    """Attention without a softmax, in order; what is ``found`` already is left out."""
    if not any(flow.is_data_product(node) for node in flow.graph.nodes):
        return
    known = {attention.node.id for attention in found}
    steps = find_steps(flow)
    tried: Counter[Hashable] = Counter()
    for node in flow.graph.nodes:
        if not flow.is_data_product(node) or node.id in known or not _is_read(flow, node):
            continue
        sides = flow.factors(node)
        for place, state in enumerate(sides):
            alike = (node.module, node.op, node.out.shape, place, _names(flow, sides[1 - place]))
            if tried[alike] >= STEPS:
                continue
            for writing in _writings(flow, state, steps):
                tried[alike] += 1
                read = _operands(flow, node, place, writing)
                if read is not None:
                    tried[alike] = STEPS
                    yield Attention(node, read, first_forward(flow, node.out, streams))


def _names(flow: Flow, value: Value) -> tuple[str, ...]:
    """The parameters of the weights behind a value."""
    return tuple(sorted({use.parameter for use in flow.nearest(value)}))


def _outer(flow: Flow, node: Node) -> bool:
    """Whether two signals are multiplied so that each is repeated along one of the other."""
    signals = flow.signals(node) if node.op == "mul" else []
    return len(signals) == 2 and all(_own(node, value) for value in signals)


def _own(node: Node, value: Value) -> set[int]:
    """Dimensions of an outer product that come from one of its factors alone."""
    other = next(item for item in node.inputs if item is not value)
    rank = len(node.out.shape)

    def wide(item: Value) -> set[int]:
        skipped = rank - len(item.shape)
        return {skipped + dim for dim, size in enumerate(item.shape) if size > 1}

    return wide(value) - wide(other)


def _is_read(flow: Flow, node: Node) -> bool:
    """Whether a weight reads what a product makes, with no further product in between."""
    stack, seen = [node.out], set[int]()
    while stack and len(seen) < FAR:
        here = stack.pop()
        for user in here.users:
            if user.id in seen:
                continue
            seen.add(user.id)
            use = flow.uses.matrix(user)
            if use is not None:
                if use.data is here:
                    return True
            elif not flow.is_data_product(user) and not _outer(flow, user):
                stack += user.outputs
    return False


def _writings(flow: Flow, value: Value, steps: set[int]) -> list[Node]:
    """The nearest products of data behind a value; none if a state space's step is among them."""

    def is_product(node: Node) -> bool:
        return flow.is_data_product(node) or _outer(flow, node)

    def is_end(node: Node) -> bool:
        return node.id in steps or node.op in SOFTMAX

    found = flow.behind(value, lambda node: is_end(node) or is_product(node), FAR)
    if any(is_end(node) or _stepped(flow, node, steps) for node in found):
        return []
    return sorted(found, key=lambda node: node.id)[:2]


def _stepped(flow: Flow, node: Node, steps: set[int]) -> bool:
    """Whether a factor of a product has a state space's step behind it."""
    factors = flow.signals(node)
    return any(flow.behind(value, lambda made: made.id in steps, FAR) for value in factors)


def _operands(flow: Flow, reading: Node, place: int, writing: Node) -> list[Operand] | None:
    """Queries, keys and values of a writing and a reading; ``None`` if a weight is missing."""
    state, reader = flow.factors(reading)[place], flow.factors(reading)[1 - place]
    kept = surviving(flow, reading)[1 - place]
    summed, by_reader = contracted(flow, reading)[place], contracted(flow, reading)[1 - place]
    if flow.is_data_product(writing):
        factors = flow.factors(writing)
        lasting, inside = surviving(flow, writing), contracted(flow, writing)
    else:
        factors = (writing.inputs[0], writing.inputs[1])
        lasting = (_own(writing, factors[0]), _own(writing, factors[1]))
        inside = (set(), set())
    meets = [_meets(flow, writing.out, dims, state, summed) for dims in lasting]
    if meets[0] == meets[1]:
        return None
    key, other = (0, 1) if meets[0] else (1, 0)
    scores = [_weights(flow, factors[i], inside[i]) for i in (key, other)]
    if all(scores):
        labelled = {
            "q": (factors[other], scores[1]),
            "k": (factors[key], scores[0]),
            "v": (reader, _weights(flow, reader, _within(flow, reading, 1 - place, kept))),
        }
    else:
        labelled = {
            "q": (reader, _weights(flow, reader, by_reader)),
            **{
                label: (
                    factors[i],
                    _weights(flow, factors[i], _within(flow, writing, i, lasting[i])),
                )
                for label, i in (("k", key), ("v", other))
            },
        }
    if not all(weights for _, weights in labelled.values()):
        return None
    return [Operand(label, value, weights) for label, (value, weights) in labelled.items()]


def _within(flow: Flow, writing: Node, place: int, dims: set[int]) -> set[int]:
    """Dimensions of a factor that become these of the product."""
    if flow.is_data_product(writing):
        return {dim for dim, out in places(flow, writing)[place].items() if out in dims}
    skipped = len(writing.out.shape) - len(writing.inputs[place].shape)
    return {dim - skipped for dim in dims}


def _meets(flow: Flow, start: Value, dims: set[int], state: Value, summed: set[int]) -> bool:
    """Whether dimensions of a writing become those that the reading sums over."""
    return any(varies(flow, start, dim, state, along) for dim in dims for along in summed)


def _through_channels(flow: Flow, conv: Use, value: Value) -> list[Use]:
    """The matrices behind the channels of a depthwise convolution that arrive in a value."""
    taken = rows(flow, conv.out, 1, value)
    if taken is None or conv.data is None:
        return []
    return [
        use
        for use in flow.nearest(conv.data)
        if use.kind == "matrix"
        and not covered(flow, use.out, channel_axis(use), conv.data, 1).isdisjoint(taken.tolist())
    ]


def _weights(flow: Flow, value: Value, dims: set[int]) -> tuple[Use, ...]:
    """The matrices whose outputs run along these dimensions of a value, through short depthwise
    convolutions."""
    found: list[Use] = []
    pending, seen = list(flow.nearest(value)), set[int]()
    while pending:
        use = pending.pop(0)
        if id(use) in seen or use.kind != "matrix":
            continue
        seen.add(id(use))
        if any(varies(flow, use.out, channel_axis(use), value, dim) for dim in dims):
            if use.depthwise and use.data is not None:
                found += _through_channels(flow, use, value)
            else:
                found.append(use)
    return tuple(dict.fromkeys(found))
