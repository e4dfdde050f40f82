"""Chains of plain layers, without norms and residual sums, and how each starts.

A chain is a sequence of matrices of which each reads the one before through an activation and
nothing else. Its signal spreads over seeds: log q has a variance v that grows by c / n per layer of
width n. Up to v = 0.25, and while the gradient stays flat, its weights are Gaussian; beyond, and
where taps of convolutions overlap, so that padding takes from the signal, they are mirrored
orthogonal ("looks linear") where phi(x) - phi(-x) is a straight line, else small and orthogonal
where the activation is linear near zero, else as they were, with a warning.

A layer that is applied to its own output counts once for each time. Not covered: chains through
sums or joined branches.
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

__all__ = [
    "LARGEST",
    "SPREAD",
    "Chain",
    "Link",
    "chain_of",
    "chains",
    "fills",
    "reads_pair",
    "spread",
]

SPREAD = 0.25
"""The variance of log q over seeds up to which a plain net is left Gaussian."""
LARGEST = 4096
"""Rows or columns up to which orthogonal matrices are drawn."""
SHORTEST = 4
"""Matrices that a chain has at least: half of the features of a short net cost more than a spread
of its signal."""
WIDE = 25
"""Taps above which a convolution fills all of them: its field is usually all that it reads."""
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
    """The matrices of a chain by name, in order; how many layers they make; v and the gradient's
    factor if it were Gaussian, and what does not hold, as a sentence."""

    links: dict[str, Link]
    layers: int
    spread: float
    gradient: float
    warning: str = ""


def chain_of(view: ParameterView, model: ModelView) -> Chain | None:
    """The chain that a matrix stands in."""
    return next((chain for chain in chains(model) if view.name in chain.links), None)


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
    looped = [name for name, view in views.items() if _is_looped(view) and name not in onward]
    found = []
    for name in [*onward, *looped]:
        if name not in before:
            run, here = [views[name]] * (1 + views[name].loops), name
            while here in onward:
                here = onward[here]
                run += [views[here]] * (1 + views[here].loops)
            if len(run) >= SHORTEST:
                found.append(_started(run))
    return tuple(found)


@lru_cache(maxsize=4)
def _views(model: ModelView) -> dict[str, ParameterView]:
    return {view.name: view for view in model.owners}


def reads_pair(view: ParameterView, model: ModelView) -> bool:
    """Whether a matrix reads the product of two others, of which one gates the other."""
    read = [found for name in view.reads if (found := _views(model).get(name)) is not None]
    if len(read) != 2 or len(view.reads) != 2:
        return False
    gated = view.source == "product" and all(one.gated for one in read)
    return view.role == "mlp_down" or (gated and _width(read[0]) == _width(read[1]))


def fills(view: ParameterView) -> bool:
    """Whether an orthogonal convolution fills all taps, and not the centre alone."""
    taps = math.prod(view.shape[2:])
    return taps == view.stride or taps > WIDE or view.source == "input"


def spread(
    activations: Sequence[str | None],
    points: Sequence[float],
    widths: Sequence[int],
    weights: str = "normal",
    names: Sequence[str] = (),
) -> float:
    """v = Var(log q) over seeds of the last pre-activations of a chain without biases.

    v -> s^2 v + c / n at each activation, s and c at its working point; normal weights add 2 / n of
    the last layer. Layers of their own widths and activations; for equal ones it is
    :func:`initium._scheme.meanfield.fluctuation`.

    Args:
        activations, points: those between the layers, and their K.
        widths: outputs of each layer, one more than there are activations.
        weights: ``normal``, or ``orthogonal``, which keep lengths.
        names: those of the layers; what one layer adds at each of its places adds up as it is, and
            not as a variance: L places make L^2 c / n.
    """
    added: dict[str | int, float] = {}
    grown = 1.0
    for place in reversed(range(len(activations))):
        point = at(activations[place], points[place])
        growth, excess = (point.growth, point.excess) if point is not None else (1.0, 2.0)
        if weights == "orthogonal":
            excess -= 2 * growth**2
        key = names[place] if names else place
        added[key] = added.get(key, 0.0) + grown * math.sqrt(max(excess, 0.0) / widths[place])
        grown *= growth
    total = sum(value**2 for value in added.values())
    return total + (2 / widths[-1] if weights == "normal" else 0.0)


def _follows(early: ParameterView, late: ParameterView) -> bool:
    if late.source != "product" or late.norm_before or early.norm_after or early.gated:
        return False
    inside = early.writes_residual or early.trunk is not None or late.trunk is not None
    fits = late.fan_in is not None and late.fan_in % max(_width(early), 1) == 0
    return _alone(early) and _alone(late) and not inside and early.role != "head" and fits


def _alone(view: ParameterView) -> bool:
    alone = view.uses == 1 + view.loops and not view.blocks and not view.standardised
    return alone and view.role in PLAIN


def _is_looped(view: ParameterView) -> bool:
    """Whether a layer is applied to its own output, and stands in no residual block."""
    inside = view.writes_residual or view.trunk is not None or view.norm_after or view.gated
    return view.loops > 0 and _alone(view) and not inside


def _width(view: ParameterView) -> int:
    axes = view.axes
    return math.prod(view.shape[axis] for axis in axes.outputs) if axes else view.shape[0]


def _started(run: list[ParameterView]) -> Chain:
    """How a chain starts: Gaussian while that is safe, else mirrored, else small and orthogonal."""
    hidden, names = run[:-1], [view.name for view in run]
    phis = [view.activation for view in hidden]
    aims, widths = [unit_point(phi) for phi in phis], [_width(view) for view in hidden]
    every = [*aims, unit_point(run[-1].activation)]
    whole = spread(phis[:-1], aims[:-1], widths, names=names), _gradient(phis, aims)
    if _is_safe(*whole) and not any(map(_pads, run)):
        links = {name: Link(aim) for name, aim in zip(names, every, strict=True)}
        return Chain(links, len(run), *whole)
    paired = _alike(run, [_pairs(early, late) for early, late in pairwise(run)])
    bent = [place for place, phi in enumerate(phis) if phi and not paired[place]]
    left = _left(
        [phis[place] for place in bent],
        [aims[place] for place in bent],
        widths,
        [names[place] for place in bent],
    )
    straight = _mirrored(run, every, paired)
    if _is_safe(*left):
        return Chain(straight, len(run), *whole)
    small = _small(run)
    if small is None:
        return Chain(straight, len(run), *whole, _warning(run, *left))
    return _nearly_linear(run, small, widths, whole)


def _is_safe(over_seeds: float, gradient: float) -> bool:
    return over_seeds <= SPREAD and 1 / FLAT < gradient < FLAT


def _alike(run: list[ParameterView], paired: list[bool]) -> list[bool]:
    """The pairs, of which a layer with several places has all or none."""
    paired, changed = list(paired), True
    while changed:
        changed = False
        for place, view in enumerate(run):
            if not view.loops or (place and run[place - 1] is view):
                continue
            sides = range(place - 1, min(place + view.loops + 1, len(paired)))
            ends = place == 0 or run[-1] is view
            same = not ends and run[place - 1].activation == view.activation
            if any(paired[side] for side in sides if side >= 0) and not (
                same and all(paired[side] for side in sides)
            ):
                changed = True
                for side in sides:
                    paired[max(side, 0)] = False
    return paired


def _left(
    phis: Sequence[str | None], aims: Sequence[float], widths: Sequence[int], names: Sequence[str]
) -> tuple[float, float]:
    """The spread and the gradient's factor of the layers that mirroring does not straighten."""
    if not phis:
        return 0.0, 1.0
    narrow = [min(widths)] * len(phis)
    return spread(phis[:-1], aims[:-1], narrow, names=names), _gradient(phis, aims)


def _nearly_linear(
    run: list[ParameterView],
    small: dict[str, float],
    widths: list[int],
    whole: tuple[float, float],
) -> Chain:
    """Small pre-activations; orthogonal weights where Gaussian ones would spread too much."""
    names = [view.name for view in run[:-1]]
    phis, aims = [view.activation for view in run[:-1]], [small[name] for name in names]
    normal, orthogonal = (
        spread(phis[:-1], aims[:-1], widths, weights, names) for weights in ("normal", "orthogonal")
    )
    wanted = normal > SPREAD or any(map(_pads, run))
    is_orthogonal = wanted and all(_plain(view) and _drawable(view) for view in run[:-1])
    kind = "orthogonal" if is_orthogonal else "gaussian"
    links = {name: Link(aim, kind) for name, aim in small.items()}
    left = orthogonal if is_orthogonal else normal
    told = _warning(run, left, _gradient(phis, aims)) if left > SPREAD else ""
    last = run[-1].name
    return Chain({**links, last: links.get(last, Link(1.0))}, len(run), *whole, told)


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


def _small(run: list[ParameterView]) -> dict[str, float] | None:
    """The second moments of the pre-activations of a chain that starts small, if it can: the first
    layer shrinks the signal, and so has one place alone."""
    phis = [view.activation for view in run[:-1]]
    starts = {phi: small_start(phi, len(phis)) for phi in phis if phi}
    if not starts or None in starts.values() or run[0].loops:
        return None
    known = {phi: start for phi, start in starts.items() if start is not None}
    q = min(start for start, _ in known.values())
    found: dict[str, float] = {}
    for view in run[:-1]:
        if view.name not in found:
            found[view.name] = q
            phi = view.activation
            q = second(phi, q) * (known[phi][1] if phi else 1.0)
    return found


def _warning(run: list[ParameterView], left: float, gradient: float) -> str:
    named = ", ".join(sorted({view.activation for view in run[:-1] if view.activation}))
    return (
        f"{len(run)} plain layers from {run[0].name} to {run[-1].name} ({named}): over seeds log q "
        f"spreads by {math.sqrt(left):.2g}, and the gradient changes by x{gradient:.2g}; no start "
        "of weights alone repairs it, a norm or residual branches would."
    )
