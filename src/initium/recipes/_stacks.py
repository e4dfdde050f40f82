"""Stacks: which residual trunk is an encoder, which a decoder, and how many blocks each has.

A decoder's attention reads its keys and values from another trunk, the encoder's. Where the trace
cannot tell that (one packed weight for queries, keys and values), a trunk with two attention
outputs per feed-forward beside one with a single output is the decoder. Not covered: more than one
encoder or decoder in a model, of which the largest count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from initium._plan.places import variables
from initium._types import MATRIX_ROLES, ModelView, ParameterView

__all__ = [
    "Stack",
    "branch_sizes",
    "first_matrix",
    "is_cross_attention",
    "stack_of",
    "stacks",
    "trunk_branches",
]

ATTENTION = frozenset({"attn_q", "attn_k", "attn_v", "attn_qkv", "attn_out"})
FEED_FORWARD = frozenset({"mlp_up", "mlp_gate", "mlp_gate_up", "mlp_down"})


@dataclass(frozen=True, slots=True)
class Stack:
    """A trunk with a part to play.

    Attributes:
        kind: ``encoder``, ``decoder``, or ``alone`` where the model has one only.
        layers: its blocks.
        others: the blocks of its counterpart; 0 where it is alone.
    """

    kind: Literal["encoder", "decoder", "alone"]
    layers: int
    others: int = 0


ALONE = Stack("alone", 1)


def stack_of(view: ParameterView, model: ModelView) -> Stack:
    """The stack in which a parameter stands; without a trunk, names alone say how many blocks."""
    found = _by_trunk(model)
    if view.trunk in found:
        return found[view.trunk]
    if view.role in ATTENTION | FEED_FORWARD:
        return Stack("alone", int(variables(view, model).get("layers", 1)))
    return ALONE


def stacks(model: ModelView) -> tuple[Stack, ...]:
    """The stacks of a model, each once."""
    views = [view for view in model.owners if view.role in ("attn_out", "mlp_down")]
    return tuple(dict.fromkeys(stack_of(view, model) for view in views)) or (ALONE,)


@lru_cache(maxsize=4)
def _by_trunk(model: ModelView) -> Mapping[int | None, Stack]:
    sizes = _trunk_sizes(model)
    encoder, decoder = _pair(model)
    found: dict[int | None, Stack] = {
        trunk: Stack("alone", layers) for trunk, layers in sizes.items()
    }
    if encoder is not None and decoder is not None:
        found[encoder] = Stack("encoder", sizes[encoder], sizes[decoder])
        found[decoder] = Stack("decoder", sizes[decoder], sizes[encoder])
    return found


def _trunk_sizes(model: ModelView) -> dict[int, int]:
    """Blocks of every trunk that has a residual writer."""
    return {
        view.trunk: int(variables(view, model).get("layers", 1))
        for view in model.owners
        if view.writes_residual and view.trunk is not None
    }


def _pair(model: ModelView) -> tuple[int | None, int | None]:
    """The trunks of the encoder and of the decoder that reads from it."""
    pairs = Counter((source, view.trunk) for view, source in _readers(model))
    if pairs:
        return pairs.most_common(1)[0][0]
    ratios: dict[int, Counter[str]] = {}
    for view in model.owners:
        if view.writes_residual and view.trunk is not None:
            ratios.setdefault(view.trunk, Counter())[view.role] += 1
    plain = [trunk for trunk, count in ratios.items() if _outputs(count) == 1]
    twice = [trunk for trunk, count in ratios.items() if _outputs(count) == 2]
    return (plain[0], twice[0]) if len(plain) == 1 and len(twice) == 1 else (None, None)


def _readers(model: ModelView) -> list[tuple[ParameterView, int]]:
    """The weights of attention that read another trunk than they write to, and that trunk."""
    trunk_of = {
        view.stream: view.trunk
        for view in model.owners
        if view.writes_residual and view.stream is not None and view.trunk is not None
    }
    found = []
    for view in model.owners:
        inside = view.role in ATTENTION and not view.writes_residual
        if inside and view.stream is not None and view.trunk in trunk_of.values():
            source = trunk_of.get(view.stream)
            if source is not None and source != view.trunk:
                found.append((view, source))
    return found


@lru_cache(maxsize=4)
def _crossings(model: ModelView) -> frozenset[tuple[int | None, int | None]]:
    """The places (trunk, depth) of cross attention; every second attention where no trace tells."""
    seen = frozenset((view.trunk, view.trunk_depth) for view, _ in _readers(model))
    _, decoder = _pair(model)
    if seen or decoder is None:
        return seen
    depths = {
        view.trunk_depth
        for view in model.owners
        if view.trunk == decoder and view.role == "attn_out" and view.trunk_depth is not None
    }
    return frozenset((decoder, depth) for depth in sorted(depths)[1::2])


def is_cross_attention(view: ParameterView, model: ModelView) -> bool:
    """Whether a weight of attention stands where the decoder reads the encoder."""
    return view.role in ATTENTION and (view.trunk, view.trunk_depth) in _crossings(model)


def _outputs(count: Counter[str]) -> float:
    """Attention outputs per feed-forward."""
    return count["attn_out"] / count["mlp_down"] if count["mlp_down"] else 0.0


# Branches ---------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def first_matrix(model: ModelView) -> str | None:
    """The first matrix that the data meets, if nothing else brings them to the model's width.

    It counts as the input layer: its inputs are not a width of the model. Tables, patch embeddings
    and whatever stands in a block at once, as in a stack that is given embedded tokens, are none.
    """
    entered = [
        (view.order if view.order is not None else 0, position, view)
        for position, view in enumerate(model.owners)
        if view.role in MATRIX_ROLES or view.role == "embedding"
    ]
    if not entered:
        return None
    first = min(entered, key=lambda item: item[:2])[2]
    elsewhere = ATTENTION | {"embedding", "patch"}
    inside = first.trunk is not None and first.role in FEED_FORWARD
    return None if first.role in elsewhere or inside else first.name


@lru_cache(maxsize=4)
def trunk_branches(model: ModelView) -> int:
    """Residual branches of the whole model, all trunks together."""
    return len({(view.trunk, view.trunk_depth) for view in model.owners if view.writes_residual})


@lru_cache(maxsize=4)
def branch_sizes(model: ModelView) -> Mapping[str, int]:
    """Matrix inside a residual branch -> how many matrices its branch has in a row.

    Queries, keys and values count as three, a gate and what it multiplies as two, experts once.
    """
    members: dict[tuple[int | None, int | None], list[ParameterView]] = {}
    for view in model.owners:
        if view.writes_residual and view.trunk is not None:
            members.setdefault((view.trunk, view.trunk_depth), [])
    for view in model.owners:
        place = (view.trunk, view.trunk_depth)
        if place in members and view.role in MATRIX_ROLES - {"head", "router", "modulation"}:
            members[place].append(view)
    branches = [_after_the_fork(branch, model) for branch in members.values()]
    return {view.name: sum(_in_a_row(branch)) for branch in branches for view in branch}


def _after_the_fork(branch: list[ParameterView], model: ModelView) -> list[ParameterView]:
    """A branch without what its shortcut reads too, which stands before both."""
    inner = {view.name: view for view in branch if not view.writes_residual}
    names = {view.name for view in branch}
    shared = [
        name
        for view in model.owners
        if view.is_matrix and view.name not in names
        for name in view.reads
        if name in inner
    ]
    before: set[str] = set()
    while shared:
        name = shared.pop()
        if name in inner and name not in before:
            before.add(name)
            shared += inner[name].reads
    return [view for view in branch if view.name not in before]


def _in_a_row(branch: list[ParameterView]) -> list[int]:
    shared = {view.role for view in branch} & (ATTENTION | FEED_FORWARD)
    fused = {
        view.role: sum(1 for block in view.blocks if not block.stacked) or 1 for view in branch
    }
    alone = [1 for view in branch if view.role not in shared]
    return [*alone, *(fused[role] for role in shared)]
