"""Chains of plain layers, without norms and residual sums, and how each starts.

A chain is a sequence of matrices of which each reads the one before through an activation and
nothing else. Its signal spreads over seeds: log q has a variance v that grows by c / n per layer of
width n. Up to v = 0.25, and while the gradient stays flat, its weights are Gaussian; beyond, and
where taps of convolutions overlap, so that padding takes from the signal, they are mirrored
orthogonal ("looks linear") where phi(x) - phi(-x) is a straight line, else small and orthogonal
where the activation is linear near zero, else as they were, with a warning.

Not covered: chains through sums or joined branches, and weights that are shared over depth.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from initium._scheme.points import FLAT, at, odd_slope, second, small_start, unit_point
from initium._types import ModelView, ParameterView

__all__ = ["LARGEST", "SPREAD", "Chain", "Link", "chain_of", "chains", "spread", "warnings"]

SPREAD = 0.25
"""The variance of log q over seeds up to which a plain net is left Gaussian."""
LARGEST = 4096
"""Rows or columns up to which orthogonal matrices are drawn."""
SHORTEST = 4
"""Matrices that a chain has at least: half of the features of a short net cost more than a spread
of its signal."""
PLAIN = frozenset({"linear", "patch", "conv", "conv_depthwise", "conv_transpose", "mlp_up", "head"})


@dataclass(frozen=True, slots=True)
class Link:
    """One matrix of a chain.

    Attributes:
        aim: second moment of its pre-activations; of the last matrix its own rule decides.
        kind: ``gaussian``, ``orthogonal`` or ``mirrored``.
        inputs, outputs: whether it is mirrored on these sides.
        slope: k of phi(x) - phi(-x) = k x of the activation that it reads, where inputs are.
    """

    aim: float
    kind: str = "gaussian"
    inputs: bool = False
    outputs: bool = False
    slope: float = 1.0


@dataclass(frozen=True, slots=True)
class Chain:
    """The matrices of a chain by name, in order; v and the gradient's factor if it were Gaussian,
    and what does not hold, as a sentence."""

    links: dict[str, Link]
    spread: float
    gradient: float
    warning: str = ""


def chain_of(view: ParameterView, model: ModelView) -> Chain | None:
    """The chain that a matrix stands in."""
    return next((chain for chain in chains(model) if view.name in chain.links), None)


def warnings(model: ModelView) -> str | None:
    """What does not hold for the chains of a model, as sentences."""
    told = dict.fromkeys(chain.warning for chain in chains(model) if chain.warning)
    return " ".join(told) or None


@lru_cache(maxsize=4)
def chains(model: ModelView) -> tuple[Chain, ...]:
    """All chains of a model that have at least four matrices."""
    views = {view.name: view for view in model.owners}
    read_by = Counter(name for view in views.values() for name in view.reads)
    before = {
        view.name: view.reads[0]
        for view in views.values()
        if len(view.reads) == 1
        and view.reads[0] in views
        and read_by[view.reads[0]] == 1
        and _follows(views[view.reads[0]], view)
    }
    onward = {early: late for late, early in before.items()}
    found = []
    for name in onward:
        if name not in before:
            run = [views[name]]
            while run[-1].name in onward:
                run.append(views[onward[run[-1].name]])
            if len(run) >= SHORTEST:
                found.append(_started(run))
    return tuple(found)


def spread(
    activations: Sequence[str | None],
    points: Sequence[float],
    widths: Sequence[int],
    weights: str = "normal",
) -> float:
    """v = Var(log q) over seeds of the last pre-activations of a chain without biases.

    v -> s^2 v + c / n at each activation, s and c at its working point; normal weights add 2 / n of
    the last layer. Layers of their own widths and activations; for equal ones it is
    :func:`initium._scheme.meanfield.fluctuation`.

    Args:
        activations, points: those between the layers, and their K.
        widths: outputs of each layer, one more than there are activations.
        weights: ``normal``, or ``orthogonal``, which keep lengths.
    """
    total = 0.0
    for phi, q, width in zip(activations, points, widths[:-1], strict=True):
        point = at(phi, q)
        if point is None:
            growth, excess = 1.0, 2.0
        else:
            growth, excess = point.growth, point.excess
        if weights == "orthogonal":
            excess -= 2 * growth**2
        total = growth**2 * total + excess / width
    return total + (2 / widths[-1] if weights == "normal" else 0.0)


def _follows(early: ParameterView, late: ParameterView) -> bool:
    if late.source != "product" or late.norm_before or early.norm_after or early.gated:
        return False
    alone = all(view.uses == 1 and not view.blocks and view.role in PLAIN for view in (early, late))
    inside = early.writes_residual or early.trunk is not None or late.trunk is not None
    fits = late.fan_in is not None and late.fan_in % _width(early) == 0
    return alone and not inside and early.role != "head" and fits


def _width(view: ParameterView) -> int:
    axes = view.axes
    return math.prod(view.shape[axis] for axis in axes.outputs) if axes else view.shape[0]


def _started(run: list[ParameterView]) -> Chain:
    """How a chain starts: Gaussian while that is safe, else mirrored, else small and orthogonal."""
    hidden, names = run[:-1], [view.name for view in run]
    phis = [view.activation for view in hidden]
    aims, widths = [unit_point(phi) for phi in phis], [_width(view) for view in hidden]
    whole = spread(phis[:-1], aims[:-1], widths), _gradient(phis, aims)
    if _is_safe(*whole) and not any(map(_pads, run)):
        links = {name: Link(aim) for name, aim in zip(names, [*aims, 1.0], strict=True)}
        return Chain(links, *whole)
    paired = [_pairs(early, late) for early, late in pairwise(run)]
    bent = [place for place, phi in enumerate(phis) if phi and not paired[place]]
    left = _left([phis[place] for place in bent], [aims[place] for place in bent], widths)
    straight = _mirrored(run, [*aims, 1.0], paired)
    if _is_safe(*left):
        return Chain(straight, *whole)
    small = _small(phis)
    if small is None:
        return Chain(straight, *whole, _warning(run, *left))
    return _nearly_linear(run, small, widths, whole)


def _is_safe(over_seeds: float, gradient: float) -> bool:
    return over_seeds <= SPREAD and 1 / FLAT < gradient < FLAT


def _left(
    phis: Sequence[str | None], aims: Sequence[float], widths: Sequence[int]
) -> tuple[float, float]:
    """The spread and the gradient's factor of the layers that mirroring does not straighten."""
    if not phis:
        return 0.0, 1.0
    narrow = [min(widths)] * len(phis)
    return spread(phis[:-1], aims[:-1], narrow), _gradient(phis, aims)


def _nearly_linear(
    run: list[ParameterView], small: list[float], widths: list[int], whole: tuple[float, float]
) -> Chain:
    """Small pre-activations; orthogonal weights where Gaussian ones would spread too much."""
    phis = [view.activation for view in run[:-1]]
    normal, orthogonal = (
        spread(phis[:-1], small[:-1], widths, weights) for weights in ("normal", "orthogonal")
    )
    wanted = normal > SPREAD or any(map(_pads, run))
    is_orthogonal = wanted and all(_plain(view) and _drawable(view) for view in run[:-1])
    kind = "orthogonal" if is_orthogonal else "gaussian"
    links = {view.name: Link(aim, kind) for view, aim in zip(run[:-1], small, strict=True)}
    left = orthogonal if is_orthogonal else normal
    told = _warning(run, left, 1.0) if left > SPREAD else ""
    return Chain({**links, run[-1].name: Link(1.0)}, *whole, told)


def _gradient(activations: Sequence[str | None], aims: Sequence[float]) -> float:
    total = 1.0
    for phi, aim in zip(activations, aims, strict=True):
        point = at(phi, aim)
        total *= aim / point.second * point.slope if point is not None else 1.0
    return total


def _pairs(early: ParameterView, late: ParameterView) -> bool:
    """Whether the units between two matrices can be mirrored."""
    return (
        odd_slope(early.activation) is not None
        and _plain(early)
        and _plain(late)
        and early.shape[0] % 2 == 0
        and _drawable(early)
        and _drawable(late)
    )


def _plain(view: ParameterView) -> bool:
    """Whether it is one matrix [out, in, *field]."""
    axes = view.axes
    return axes is not None and axes.outputs == (0,) and axes.inputs == (1,) and view.groups == 1


def _pads(view: ParameterView) -> bool:
    """Whether taps overlap, so that padding takes from the signal and positions correlate."""
    taps = math.prod(view.shape[axis] for axis in view.axes.field) if view.axes else 1
    return taps > view.stride


def _drawable(view: ParameterView) -> bool:
    return max(view.shape[0], view.shape[1]) <= LARGEST


def _mirrored(run: list[ParameterView], aims: list[float], paired: list[bool]) -> dict[str, Link]:
    """Every link that can be is mirrored; what reads a linear or mirrored one is orthogonal."""
    links = {}
    for view, aim, inputs, outputs, before in zip(
        run, aims, [False, *paired], [*paired, False], [None, *run[:-1]], strict=True
    ):
        phi = before.activation if before is not None else None
        whole = (inputs or phi is None) and _plain(view) and _drawable(view)
        kind = "mirrored" if inputs or outputs else "orthogonal" if whole else "gaussian"
        slope = odd_slope(phi) if inputs else None
        links[view.name] = Link(aim, kind, inputs, outputs, slope or 1.0)
    return links


def _small(phis: Sequence[str | None]) -> list[float] | None:
    """The second moments of the pre-activations of a chain that starts small, if it can."""
    starts = {phi: small_start(phi, len(phis)) for phi in phis if phi}
    if not starts or None in starts.values():
        return None
    known = {phi: start for phi, start in starts.items() if start is not None}
    q = min(start for start, _ in known.values())
    found = []
    for phi in phis:
        found.append(q)
        q = second(phi, q) * (known[phi][1] if phi else 1.0)
    return found


def _warning(run: list[ParameterView], left: float, gradient: float) -> str:
    named = ", ".join(sorted({view.activation for view in run[:-1] if view.activation}))
    return (
        f"{len(run)} plain layers from {run[0].name} to {run[-1].name} ({named}): over seeds log q "
        f"spreads by {math.sqrt(left):.2g}, and the gradient changes by x{gradient:.2g}; no start "
        "of weights alone repairs it, a norm or residual branches would."
    )
