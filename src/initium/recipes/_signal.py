"""The second moments that ``auto`` predicts at every matrix, and from which it sets variances.

In execution order: what a matrix reads (1 behind a norm, or what the matrices it reads put out),
what its pre-activations should be, and what leaves the activation behind it.

Covered: norms, activations, gated pairs, residual branches with and without norms, queries and
keys, chains of plain layers. Not covered: what pooling, attention and sums of several branches do
to a signal; it counts as 1 behind them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache

from initium._plan.layout import Matrix, matrices
from initium._scheme.points import at, second, unit_point
from initium._types import ModelView, ParameterView
from initium.recipes._chains import chain_of
from initium.recipes._shared import branches

__all__ = ["LOGIT_STD", "Branch", "Signal", "branch_of", "logit_factor", "signals"]

LOGIT_STD = 0.2
"""Of the logits for unit input: the first loss exceeds ln C by about 0.02."""
GATES = frozenset({"sigmoid", "hardsigmoid"})
LOGITS = frozenset({"head", "router"})


@dataclass(frozen=True, slots=True)
class Signal:
    """What one matrix reads, and what it makes.

    Attributes:
        before: E[x^2] of its inputs.
        variances: for each of its logical matrices, E[W^2] x fan_in.
        after: E[y^2] behind the activations and the product of a gated pair.
        backward: factor of the summed gradient on its way back through it and what follows.
    """

    before: float
    variances: tuple[float, ...]
    after: float
    backward: float


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


@lru_cache(maxsize=4)
def signals(model: ModelView) -> dict[str, Signal]:
    """The signal at every matrix of a model, by name."""
    ordered = [view for view in model.owners if view.is_matrix]
    ordered.sort(key=lambda view: (view.order is None, view.order or 0))
    aimed: dict[str, Signal] = {}
    found: dict[str, Signal] = {}
    for view in ordered:
        variances = _variances(view, model, _before(view, aimed))
        aimed[view.name] = _signal(view, _before(view, aimed), variances)
        branch = branch_of(view, model)
        if branch is not None:
            held = zip(matrices(view), _labels(view), variances, strict=True)
            variances = tuple(
                value * (branch.factor if _is_scaled(view, matrix, label) else 1.0)
                for matrix, label, value in held
            )
        found[view.name] = _signal(view, _before(view, found), variances)
    return found


def _signal(view: ParameterView, before: float, variances: tuple[float, ...]) -> Signal:
    made, backward = [], 1.0
    for matrix, variance in zip(matrices(view), variances, strict=True):
        point = 1.0 if view.norm_after else variance * before
        made.append(second(matrix.activation, point, matrix.gain))
        known = at(matrix.activation, point)
        backward = variance * (known.slope if known else 1 / matrix.backward_gain)
    labels = set(_labels(view))
    after = math.prod(made) if {"gate", "up"} <= labels else made[-1]
    return Signal(before, variances, after, backward if len(made) == 1 else float("nan"))


def _before(view: ParameterView, known: dict[str, Signal]) -> float:
    """E[x^2] of what a matrix reads."""
    if view.source in ("norm", "input"):
        return 1 / view.source_gain
    if view.source in ("stream", "mixed") and not _reads_pair(view, known):
        return 1.0
    if view.norm_before or not view.reads or any(name not in known for name in view.reads):
        return 1.0
    if len(view.reads) > 1 and not _reads_pair(view, known):
        return 1.0
    return math.prod(known[name].after for name in view.reads)


def _reads_pair(view: ParameterView, known: dict[str, Signal]) -> bool:
    return view.role == "mlp_down" and len(view.reads) == 2 and set(view.reads) <= set(known)


def _variances(view: ParameterView, model: ModelView, before: float) -> tuple[float, ...]:
    """E[W^2] x fan_in of each logical matrix, before the factors of branches without norms."""
    if view.role in LOGITS:
        return tuple(LOGIT_STD**2 / before for _ in matrices(view))
    chain = chain_of(view, model)
    if chain is not None:
        return (chain.links[view.name].aim / before,)
    share = branches(view) if branch_of(view, model) is None else 1
    held = zip(matrices(view), _labels(view), strict=True)
    return tuple(
        _aim(view, matrix) * _logits(view, label) / (share * before) for matrix, label in held
    )


def _aim(view: ParameterView, matrix: Matrix) -> float:
    if matrix.activation is None:
        return matrix.gain
    return 1.0 if view.norm_after else unit_point(matrix.activation)


def _logits(view: ParameterView, label: str) -> float:
    return logit_factor(view) if view.role in ("attn_q", "attn_k") or label in ("q", "k") else 1.0


def logit_factor(view: ParameterView) -> float:
    """By what the variances of queries and keys are multiplied, so that their logits are O(1).

    Logits of unit queries and keys have variance head_dim x scale^2.
    """
    if view.head_dim is None or view.logit_scale is None or view.norm_after:
        return 1.0
    spread = math.sqrt(view.head_dim) * abs(view.logit_scale)
    return 1 / spread if spread > 1 + 1e-9 else 1.0


def _labels(view: ParameterView) -> tuple[str, ...]:
    held = tuple(block.label for block in view.blocks if not block.stacked)
    return held or ("",)


# Residual branches without norms -----------------------------------------------------------------


def branch_of(view: ParameterView, model: ModelView) -> Branch | None:
    """The branch without norms that a matrix is a factor of; ``None`` if there is none."""
    return _branches(model).get(view.name)


def _is_scaled(view: ParameterView, matrix: Matrix, label: str) -> bool:
    """Of a gated pair the linear half; of queries, keys and values the values."""
    if view.role in ("attn_qkv", "mlp_gate_up"):
        return label in ("v", "up")
    return True


@lru_cache(maxsize=4)
def _branches(model: ModelView) -> dict[str, Branch]:
    places: dict[tuple[int, int], list[ParameterView]] = defaultdict(list)
    totals: dict[int, dict[int, int]] = defaultdict(dict)
    for view in model.owners:
        if view.is_matrix and view.trunk is not None and view.trunk_depth is not None:
            places[view.trunk, view.trunk_depth].append(view)
            if view.writes_residual and view.stream is not None:
                totals[view.trunk][view.stream] = view.branches or 1
    found: dict[str, Branch] = {}
    normed = {trunk for (trunk, _), members in places.items() if _has_norms(members)}
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
