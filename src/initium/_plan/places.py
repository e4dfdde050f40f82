"""Where a parameter stands, as the numbers that published formulas are written in.

``width`` d, ``layers`` L, ``block`` l and the rest follow from the residual streams of the view.
The blocks of a trunk are counted by their closing branch: the feed-forward where there is one, else
the attention, else every branch. Without a trace, repeated names stand in for the trunk.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from initium._types import ModelView, ParameterView

__all__ = ["VARIABLES", "layers_of", "variables"]

VARIABLES: Mapping[str, str] = {
    "fan_in": "inputs that one output of the logical matrix adds up",
    "fan_out": "outputs that one input of the logical matrix reaches",
    "gain": "1 / E[phi(z)^2] of the activation that follows",
    "width": "d, the width of its residual stream, else of the model",
    "layers": "L, the number of blocks on its residual trunk",
    "block": "l, its block on that trunk, from 0",
    "branches": "residual branches on its stream in all",
    "depth": "residual branches on its stream before it",
    "head_dim": "the width of one attention head",
    "vocab": "rows of the token embedding",
    "experts": "outputs of the router of its layer, else of the largest",
}
"""The variables of a formula, and what each means."""

CLOSING = ("mlp_down", "attn_out")
READERS = frozenset({"attn_q", "attn_k", "attn_v", "attn_qkv", "mlp_up", "mlp_gate", "mlp_gate_up"})


def variables(view: ParameterView, model: ModelView) -> dict[str, float]:
    """The variables of :data:`VARIABLES` that this parameter has, those of its fans left out."""
    closing = _closing(model).get(view.trunk, ())
    if closing and view.trunk_depth is not None:
        before = sum(depth < view.trunk_depth for depth in closing)
        told: dict[str, float] = {"layers": len(closing), "block": before}
    else:
        told = _by_name(view, model)
    found: dict[str, float | None] = {
        **told,
        "width": _widths(model).get(view.stream),
        "branches": view.branches,
        "depth": view.depth,
        "head_dim": view.head_dim,
        **_sizes(model),
    }
    if (view.trunk, view.trunk_depth) in _routers(model):
        found["experts"] = _routers(model)[view.trunk, view.trunk_depth]
    return {name: value for name, value in found.items() if value is not None}


def layers_of(
    view: ParameterView, model: ModelView
) -> tuple[int, tuple[ParameterView, ...]] | None:
    """Of a tensor that stacks a matrix for each layer of a trunk: the axis, and each layer's view.

    It is told from a stack of experts by a tensor of as many matrices that closes as many branches.
    """
    stacked = [block for block in view.blocks if block.stacked]
    if len(stacked) != 1 or stacked[0].size != 1 or view.trunk is None:
        return None
    axis, count = stacked[0].axis, stacked[0].count
    for closing in (view, *model.owners):
        at = closing.trunk_depths
        if closing.trunk == view.trunk and len(at) == count > 1 and _stacks(closing, count):
            first = None if view.depth is None else view.depth - at[0]
            return axis, tuple(
                replace(view, trunk_depth=depth, depth=None if first is None else first + depth)
                for depth in at
            )
    return None


def _stacks(view: ParameterView, count: int) -> bool:
    return any(block.stacked and block.count == count for block in view.blocks)


@lru_cache(maxsize=4)
def _closing(model: ModelView) -> dict[int | None, tuple[int, ...]]:
    """For each trunk, the depths of the branches that close a block."""
    depths: dict[int, dict[str, set[int]]] = {}
    for view in model.owners:
        if view.writes_residual and view.trunk is not None and view.trunk_depth is not None:
            closed = depths.setdefault(view.trunk, {}).setdefault(view.role, set())
            closed.update(view.trunk_depths or (view.trunk_depth,))
    found: dict[int | None, tuple[int, ...]] = {}
    for trunk, by_role in depths.items():
        closing = next((by_role[role] for role in CLOSING if role in by_role), None)
        found[trunk] = tuple(sorted(closing or set().union(*by_role.values())))
    return found


@lru_cache(maxsize=4)
def _widths(model: ModelView) -> dict[int | None, float]:
    """The width of each stream, and of the model under ``None``: that of its largest stream."""
    votes: dict[int, Counter[int]] = {}
    for view in model.owners:
        if view.writes_residual and view.stream is not None and view.fan_out is not None:
            taps = 1
            for axis in view.axes.field if view.axes else ():
                taps *= view.shape[axis]
            votes.setdefault(view.stream, Counter())[view.fan_out // taps] += view.numel
    found: dict[int | None, float] = {
        stream: count.most_common(1)[0][0] for stream, count in votes.items()
    }
    if votes:
        largest = max(votes, key=lambda stream: sum(votes[stream].values()))
        found[None] = found[largest]
        return found
    tables = [view for view in model.owners if view.role == "embedding" and view.shape]
    heads = [view for view in model.owners if view.role == "head" and view.fan_in]
    if tables:
        found[None] = max(tables, key=lambda view: view.numel).shape[-1]
    elif heads:
        found[None] = max(heads, key=lambda view: view.numel).fan_in or 0
    else:
        fans = [view.fan_in for view in model.owners if view.role in READERS and view.fan_in]
        found.update({None: max(fans)} if fans else {})
    return found


@lru_cache(maxsize=4)
def _sizes(model: ModelView) -> dict[str, float | None]:
    tables = [view.shape[0] for view in model.owners if view.role == "embedding" and view.shape]
    routers = [view.fan_out for view in model.owners if view.role == "router" and view.fan_out]
    return {"vocab": max(tables, default=None), "experts": max(routers, default=None)}


@lru_cache(maxsize=4)
def _routers(model: ModelView) -> dict[tuple[int | None, int | None], int]:
    """The outputs of the router in each branch of a trunk."""
    return {
        (view.trunk, view.trunk_depth): view.fan_out
        for view in model.owners
        if view.role == "router" and view.fan_out and view.trunk_depth is not None
    }


@lru_cache(maxsize=4)
def _repeats(model: ModelView) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for view in model.owners:
        found.setdefault(_pattern(view.name), []).append(view.name)
    return found


def _by_name(view: ParameterView, model: ModelView) -> dict[str, float]:
    """Layers and block from names that differ in their first number only."""
    alike = _repeats(model)[_pattern(view.name)]
    return {"layers": len(alike), "block": alike.index(view.name)} if len(alike) > 1 else {}


def _pattern(name: str) -> str:
    return re.sub(r"(^|\.)[0-9]+(?=\.|$)", r"\1*", name, count=1)
