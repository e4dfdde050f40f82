"""The second moments that ``auto`` predicts at every matrix, and from which it sets variances.

In execution order: what a matrix reads (1 behind a norm, or what the matrices it reads put out),
what its pre-activations should be, and what leaves the activation behind it.

Covered: norms, activations, gated pairs, residual branches with and without norms, queries and
keys, chains of plain layers, joined signals (:mod:`initium.recipes._joins`), dropout in front of a
matrix. Not covered: what pooling and attention do to a signal; behind attention it is taken as 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from initium._plan.layout import Matrix, matrices
from initium._scheme.points import at, second, unit_point
from initium._types import ModelView, ParameterView
from initium.recipes._chains import chain_of, fills, reads_pair
from initium.recipes._joins import ALIKE, Moments, alike, moments
from initium.recipes._shared import branches
from initium.recipes._streams import PostNorm, branch_of, carriers, post_norm, room, share_of

__all__ = ["LOGIT_STD", "Signal", "covered", "logit_factor", "post_norm_trunks", "signals"]

LOGIT_STD = 0.2
"""Of the logits for unit input: the first loss exceeds ln C by about 0.02."""
LOGITS = frozenset({"head", "router"})


@dataclass(frozen=True, slots=True)
class Signal:
    """What one matrix reads, and what it makes.

    Attributes:
        before: E[x^2] of its inputs, while dropout is on.
        variances: for each of its logical matrices, E[W^2] x fan_in.
        after: E[y^2] behind the activations and the product of a gated pair.
        backward: factor of the summed gradient on its way back through it and what follows.
        outputs: for each of its logical matrices, E[z^2] of its pre-activations.
        alike: E[x x'] / E[x^2] of neighbours in what it reads, and so in what it makes.
        followed: whether ``before`` was followed, and not taken as 1.
    """

    before: float
    variances: tuple[float, ...]
    after: float
    backward: float
    outputs: tuple[float, ...] = ()
    alike: float = ALIKE
    followed: bool = True


@lru_cache(maxsize=4)
def signals(model: ModelView) -> dict[str, Signal]:
    """The signal at every matrix of a model, by name."""
    aimed, trunks = _aimed(model), post_norm_trunks(model)
    found: dict[str, Signal] = {}
    for view in _ordered(model):
        variances = _scaled(view, model, aimed[view.name].variances, trunks)
        read = _read(view, found, model)
        made = _signal(view, model, read.second / view.kept, variances)
        found[view.name] = replace(made, alike=read.alike, followed=read.followed)
    return found


@lru_cache(maxsize=4)
def post_norm_trunks(model: ModelView) -> tuple[PostNorm, ...]:
    """The post-norm trunks of a model, and how much each of their branches adds."""
    aimed = _aimed(model)
    backward = {name: signal.backward for name, signal in aimed.items()}
    return post_norm(model, backward, {name: signal.after for name, signal in aimed.items()})


@lru_cache(maxsize=4)
def _aimed(model: ModelView) -> dict[str, Signal]:
    """The signals before any branch is scaled."""
    found: dict[str, Signal] = {}
    for view in _ordered(model):
        read = _read(view, found, model)
        before = read.second / view.kept
        made = _signal(view, model, before, _variances(view, model, before))
        found[view.name] = replace(made, alike=read.alike)
    return found


def _ordered(model: ModelView) -> list[ParameterView]:
    """The matrices in execution order."""
    held = [view for view in model.owners if view.is_matrix]
    return sorted(held, key=lambda view: (view.order is None, view.order or 0))


def _signal(
    view: ParameterView, model: ModelView, before: float, variances: tuple[float, ...]
) -> Signal:
    made, backward = list[float](), list[float]()
    weights = [variance * covered(view, model) for variance in variances]
    for matrix, weight in zip(matrices(view), weights, strict=True):
        point = 1.0 if view.norm_after else weight * before
        made.append(second(matrix.activation, point, matrix.gain))
        known = at(matrix.activation, point)
        backward.append(weight * (known.slope if known else 1 / matrix.backward_gain))
    if {"gate", "up"} <= set(_labels(view)):
        # d(phi(a) b) = b phi'(a) da + phi(a) db
        after = math.prod(made)
        across = sum(back * after / own for back, own in zip(backward, made, strict=True))
        back = across if len(made) == 2 else math.nan
    else:
        after, back = made[-1], backward[0] if len(made) == 1 else math.nan
    return Signal(before, variances, after, back, tuple(weight * before for weight in weights))


def _read(view: ParameterView, known: dict[str, Signal], model: ModelView) -> Moments:
    """What a matrix reads, without dropout; of one that is applied to its own output, what it puts
    out; 1 where it is not followed."""
    chain = chain_of(view, model)
    if chain is not None and view.loops and chain.links[view.name].kind == "gaussian":
        return Moments(second(view.activation, unit_point(view.activation)))
    if view.source in ("norm", "input"):
        return Moments(1 / view.source_gain)
    if view.norm_before:
        return Moments(1.0)
    mirrored = chain is not None and chain.links[view.name].inputs
    joined = moments(view.joined, known) if view.joined and not mirrored else None
    if joined is not None:
        return joined
    seen = bool(view.reads) and all(name in known for name in view.reads)
    alone = view.source == "product" and len(view.reads) == 1
    if not seen or not (alone or reads_pair(view, model)):
        return Moments(1.0, followed=False)
    after = math.prod(known[name].after for name in view.reads)
    followed = view.joined is None or mirrored
    return Moments(after, alike=_neighbours(view, known, model), followed=followed)


def _neighbours(view: ParameterView, known: dict[str, Signal], model: ModelView) -> float:
    """How alike neighbours are behind the activation of the one matrix that this one reads."""
    read, signal = model.parameters[view.reads[0]], known[view.reads[0]]
    if len(view.reads) > 1 or read.norm_after or len(signal.outputs) != 1:
        return ALIKE
    return alike(read.activation, signal.outputs[0], signal.alike)


def _variances(view: ParameterView, model: ModelView, before: float) -> tuple[float, ...]:
    """E[W^2] x fan_in of each logical matrix, before the factors of branches."""
    read = before * covered(view, model)
    if view.role in LOGITS or view.name in carriers(model):
        return tuple(LOGIT_STD**2 / read for _ in matrices(view))
    chain = chain_of(view, model)
    if chain is not None:
        return (chain.links[view.name].aim / read,)
    beside = room(view, model)
    share = 1.0 if branch_of(view, model) or beside else branches(view)
    held = zip(matrices(view), _labels(view), strict=True)
    return tuple(
        _aim(view, matrix, beside or 1.0) * _logits(view, label) / (share * read)
        for matrix, label in held
    )


def _scaled(
    view: ParameterView,
    model: ModelView,
    variances: tuple[float, ...],
    trunks: tuple[PostNorm, ...],
) -> tuple[float, ...]:
    """The variances with what the depth of their branch asks for."""
    branch, share = branch_of(view, model), share_of(view, trunks)
    if branch is None:
        return tuple(value * share for value in variances)
    held = zip(matrices(view), _labels(view), variances, strict=True)
    return tuple(
        value * (branch.factor if _is_scaled(view, label) else 1.0) for _, label, value in held
    )


def _is_scaled(view: ParameterView, label: str) -> bool:
    """Of a gated pair the linear half; of queries, keys and values the values."""
    if view.role in ("attn_qkv", "mlp_gate_up"):
        return label in ("v", "up")
    return True


def covered(view: ParameterView, model: ModelView) -> float:
    """The share of a matrix's taps that meet data; 1 where a norm behind makes up for it for all
    that read it, and of a matrix at the centre tap alone."""
    chain = chain_of(view, model)
    centred = chain is not None and chain.links[view.name].kind != "gaussian" and not fills(view)
    normed = view.norm_after and not view.norm_skipped
    return 1.0 if normed or centred else view.coverage


def _aim(view: ParameterView, matrix: Matrix, target: float) -> float:
    if matrix.activation is None:
        return matrix.gain * target
    return 1.0 if view.norm_after else unit_point(matrix.activation, target)


def _logits(view: ParameterView, label: str) -> float:
    scores = view.role in ("attn_q", "attn_k", "linear") or label in ("q", "k")
    return logit_factor(view) if scores else 1.0


def logit_factor(view: ParameterView) -> float:
    """By what variances are multiplied so that the logits of an attention are O(1).

    Logits of unit queries and keys have variance head_dim x scale^2, and those that are a product
    themselves, as of learned queries, scale^2.
    """
    if view.logit_scale is None or view.norm_after:
        return 1.0
    if view.role == "linear":
        return view.logit_scale**-2 if view.logit_scale else 1.0
    if view.head_dim is None:
        return 1.0
    spread = math.sqrt(view.head_dim) * abs(view.logit_scale)
    return 1 / spread if spread > 1 + 1e-9 else 1.0


def _labels(view: ParameterView) -> tuple[str, ...]:
    held = tuple(block.label for block in view.blocks if not block.stacked)
    return held or ("",)
