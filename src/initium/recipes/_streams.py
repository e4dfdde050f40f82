"""Branches of residual streams whose size their depth decides: without norms, and post-norm.

A branch without norms is scaled so that steps of descent change the output alike at any depth. A
post-norm block multiplies the gradient by (1 + b chi) / (1 + b), b being what its branch adds to a
unit stream and chi the branch's own factor; where L of them would change it by more than 1.6, b is
less than one. Not covered: what attention does to a gradient, which counts as one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from initium._scheme.points import FLAT, mean, second, unit_point
from initium._types import ModelView, ParameterView
from initium.recipes._chains import SPREAD

__all__ = [
    "Branch",
    "PostNorm",
    "branch_of",
    "carriers",
    "gradient_law",
    "post_norm",
    "room",
    "share_of",
]

GATES = frozenset({"sigmoid", "hardsigmoid"})


@dataclass(frozen=True, slots=True)
class Branch:
    """A matrix on a residual branch that no norm opens or closes.

    ``total`` branches write to its stream, and ``matrices`` lie in sequence on this one.
    """

    total: int
    matrices: int
    writer: bool

    @property
    def factor(self) -> float:
        """The factor of its variance: 1 / L for the writer, L^(-1 / (m - 1)) for the others."""
        inner = self.writer or self.matrices < 2
        return 1 / self.total if inner else self.total ** (-1 / (self.matrices - 1))


@dataclass(frozen=True, slots=True)
class PostNorm:
    """The writers of one trunk of post-norm blocks.

    ``share`` is the b of every branch, ``gradient`` what the gradient changes by end to end, and
    ``unscaled`` what it would at b = 1.
    """

    writers: frozenset[str]
    branches: int
    share: float
    gradient: float
    unscaled: float


def branch_of(view: ParameterView, model: ModelView) -> Branch | None:
    """The branch without norms that a matrix is a factor of; ``None`` if there is none."""
    return _branches(model).get(view.name)


def room(view: ParameterView, model: ModelView) -> float:
    """E[f^2] of a branch at which c x + s f(x) keeps a stream of second moment one, with c and s
    constants, or 1 - t and t of a gate t; 0 where the stream is carried on whole.

    E[s^2] E[f^2] + 2 E[c s] E[x] E[f] + E[c^2] = 1: means add up from block to block, and E[x] is
    followed from 0. Constants c from 1/2.

    Example:
        >>> view = ParameterView(
        ...     name="w", shape=(2,), dtype="float32", writes_residual=True, rescaled=0.5, added=0.5
        ... )
        >>> room(view, ModelView(model="Net", parameters={}, buffers={}))
        3.0
    """
    if not view.writes_residual or view.norm_after or view.name in carriers(model):
        return 0.0
    if view.carrier is None and not (0.5 <= view.rescaled < 1 and view.added):
        return 0.0
    c, s = _shares(view, model)
    point = unit_point(view.activation)
    share = mean(view.activation, point) / second(view.activation, point, view.gain) ** 0.5
    left, middle, root = 1 - c**2, 0.0, 0.0
    for _ in range(1 + (view.trunk_depth or 0)):
        half = c * s * middle * share
        root = (math.sqrt(half**2 + s**2 * left) - half) / s**2
        middle = c * middle + s * share * root
    return round(root**2, 12)


def _shares(view: ParameterView, model: ModelView) -> tuple[float, float]:
    """c and s of the sum that a matrix writes to. A gate that carries starts near its constant."""
    if view.carrier is None:
        return view.rescaled, view.added
    gate, opens = view.carrier
    biases = [one.constant for one in model.owners if one.partner == gate and one.role == "bias"]
    t = 1 / (1 + math.exp(-(biases[0] or 0.0 if biases else 0.0)))
    return (1 - t, t) if opens else (t, 1 - t)


@lru_cache(maxsize=4)
def carriers(model: ModelView) -> frozenset[str]:
    """The matrices behind the gates t of sums t f(x) + (1 - t) x."""
    return frozenset(
        view.carrier[0]
        for view in model.owners
        if view.carrier is not None and view.writes_residual
    )


@lru_cache(maxsize=4)
def _branches(model: ModelView) -> dict[str, Branch]:
    places = _places(model)
    totals: dict[int, dict[int, int]] = defaultdict(dict)
    for (trunk, _), members in places.items():
        for view in members:
            if view.writes_residual and view.stream is not None:
                totals[trunk][view.stream] = view.branches or 1
    found: dict[str, Branch] = {}
    normed = {
        trunk
        for (trunk, _), members in places.items()
        if _has_norms(members) or any(room(view, model) for view in members)
    }
    for (trunk, _), members in places.items():
        if trunk in normed or not any(view.source == "stream" for view in members):
            continue
        total = sum(totals[trunk].values())
        for writer in members:
            if writer.writes_residual:
                inner, longest = _inner(writer, members)
                for name in inner:
                    found[name] = Branch(total, longest, False)
                found[writer.name] = Branch(total, longest, True)
    return found


def _places(model: ModelView) -> dict[tuple[int, int], list[ParameterView]]:
    """The matrices of every branch, by trunk and depth."""
    places: dict[tuple[int, int], list[ParameterView]] = defaultdict(list)
    for view in model.owners:
        if view.is_matrix and view.trunk is not None and view.trunk_depth is not None:
            places[view.trunk, view.trunk_depth].append(view)
    return places


def _has_norms(members: list[ParameterView]) -> bool:
    return any(view.norm_before or view.norm_after or view.source == "norm" for view in members)


def _inner(writer: ParameterView, members: list[ParameterView]) -> tuple[set[str], int]:
    """The factors of a branch in front of its writer, and how many lie in sequence with it."""
    if writer.role == "attn_out":
        return {view.name for view in members if view.role in ("attn_v", "attn_qkv")}, 2
    inside = {view.name: view for view in members if not view.writes_residual and _factor(view)}
    depths: dict[str, int] = {}

    def depth(view: ParameterView) -> int:
        if view.name not in depths:
            depths[view.name] = 1
            behind = [depth(inside[name]) for name in view.reads if name in inside]
            depths[view.name] = 1 + max(behind, default=0)
        return depths[view.name]

    longest = depth(writer)
    return {name for name in depths if name != writer.name}, longest


def _factor(view: ParameterView) -> bool:
    """Whether a matrix is a factor of its branch and not a gate of it, nor of the scores."""
    gate = view.activation in GATES or (view.gated and view.activation is not None)
    return not gate and view.role not in ("attn_q", "attn_k", "router", "modulation")


# Post-norm ---------------------------------------------------------------------------------------


def post_norm(
    model: ModelView, backward: Mapping[str, float], after: Mapping[str, float]
) -> tuple[PostNorm, ...]:
    """The post-norm trunks of a model, and how much their branches may add.

    Args:
        model: what the model is.
        backward: by matrix, the factor of the gradient through it and its activation.
        after: by matrix, the second moment behind its activation.
    """
    blocks: dict[int, list[list[ParameterView]]] = defaultdict(list)
    for (trunk, _), members in sorted(_places(model).items()):
        if any(view.writes_residual for view in members):
            blocks[trunk].append(members)
    found = []
    for held in blocks.values():
        writers = [view for members in held for view in members if view.writes_residual]
        if not _is_post_norm(held, writers):
            continue
        inside = {view.name: view for members in held for view in members}
        chis = [_chi(writer, inside, backward, after) for writer in writers]
        widths = [writer.shape[0] for writer in writers]
        names = frozenset(writer.name for writer in writers)
        share = _flat_share(chis, widths)
        laws = (gradient_law(chis, widths, each) for each in (share, 1.0))
        found.append(PostNorm(names, len(writers), share, *laws))
    return tuple(found)


def share_of(view: ParameterView, trunks: Sequence[PostNorm]) -> float:
    """The b of the branch that a matrix writes; 1 outside post-norm trunks."""
    return next((trunk.share for trunk in trunks if view.name in trunk.writers), 1.0)


def gradient_law(chis: Sequence[float], widths: Sequence[int], share: float) -> float:
    """What becomes of the gradient, end to end: (1 + b chi) / (1 + b) at each block, and what the
    norm takes. At width n that is two directions of n, as far as the branch turned the stream: by
    b / (1 + b) of a whole turn.

    Example:
        >>> round(gradient_law([1.5] * 2, [1 << 20] * 2, 1.0), 4)
        1.5625
    """
    grown = sum(math.log((1 + share * chi) / (1 + share)) for chi in chis)
    taken = share / (1 + share) * sum(2 / width for width in widths)
    return math.exp(grown - taken)


def _is_post_norm(blocks: list[list[ParameterView]], writers: list[ParameterView]) -> bool:
    """A stream of its own for every branch, and a norm between them that is not the branch's."""
    streams = {view.stream for view in writers}
    alone = len(writers) > 1 and len(streams) == len(writers) and len(blocks) == len(writers)
    return alone and all(
        not any(view.norm_after for view in members)
        and any(view.source == "norm" or view.norm_before for view in members)
        for members in blocks[1:]
    )


def _chi(
    view: ParameterView,
    inside: Mapping[str, ParameterView],
    backward: Mapping[str, float],
    after: Mapping[str, float],
) -> float:
    """The factor of a branch on a gradient, from what it puts out to what it reads."""
    if view.role == "attn_out":
        return 1.0
    own = 1.0 if math.isnan(backward[view.name]) else backward[view.name]
    read = [inside[name] for name in view.reads if name in inside and name != view.name]
    read = [one for one in read if not one.writes_residual]
    if len(read) == 2 and all(one.gated for one in read):
        first, second = read
        return own * sum(
            backward[one.name] * after[other.name]
            for one, other in ((first, second), (second, first))
        )
    return own * (_chi(read[0], inside, backward, after) if len(read) == 1 else 1.0)


def _flat_share(chis: Sequence[float], widths: Sequence[int]) -> float:
    """The largest b up to one for which the gradient changes by less than 1.6, end to end, and its
    logarithm varies by at most 0.25 over seeds and samples.

    At width n the length of a sum x + f varies by (4 b + 7 b^2) / n, relative to (1 + b)^2, and so
    does that of the gradient: the inner product of both, and what f varies by itself (as behind a
    ReLU, whose E[phi^4] / E[phi^2]^2 - 1 is 5, and the 2 of the last matrix).
    """

    def is_flat(share: float) -> bool:
        each = 2 * (4 * share + 7 * share**2) / (1 + share) ** 2
        varies = each * sum(1 / width for width in widths)
        return varies <= SPREAD and 1 / FLAT <= gradient_law(chis, widths, share) <= FLAT

    if is_flat(1.0):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if is_flat(middle) else (low, middle)
    return low
