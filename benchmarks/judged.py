"""How predictions of ``moments.py`` are judged, and how starting points are compared.

All errors are differences of logarithms. An error counts where it is beyond its goal and beyond
three standard errors of both sides; by Student's t too, as few seeds or passes leave a standard
error itself uncertain. Not covered: errors of several blocks of one model as anything but separate.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from measured import METHODS, PREDICTED, log
from scipy import stats

__all__ = [
    "GOALS", "METRICS", "Miss", "Missed", "as_built", "metrics", "missed", "nearer", "percentile",
    "rows_of", "unmatched", "worse",
]  # fmt: skip

GOALS = {"forward": (0.05, 0.25), "gradient": (0.10, 0.50), "loss": (0.02, 0.02)}
"""For the median and for the 95th percentile of the blocks; for every first loss."""
WORSE = math.log(1.01)
"""How much worse a figure has to be to be listed."""
METRICS = ("forward", "gradient", "loss", "worst layer")

Stat = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Miss:
    """One comparison: where, what was predicted and measured, and whether it is beyond its goal."""

    model: str
    start: str
    what: str
    where: str
    module_type: str
    tier: str
    predicted: float
    measured: float
    noise: float
    freedom: float

    @property
    def error(self) -> float:
        return abs(self.predicted - self.measured)

    def reach(self, student: bool = False) -> float:
        """Three standard errors; by Student's t what those are for so few seeds and passes."""
        return (_three(self.freedom) if student else 3) * self.noise

    def beyond(self, goal: float, student: bool = False) -> bool:
        return self.error > max(math.log1p(goal), self.reach(student))


def comparisons(
    outcomes: Mapping[str, Any], label: str, start: str, what: str, made_by: str = "predictions"
) -> dict[str, list[Miss]]:
    """Every block of every model that has a prediction of ``what``, in execution order.

    Gradients are relative to that of the last block, which therefore is not compared with itself.
    """
    found: dict[str, list[Miss]] = {}
    for model, measured, made in _both(outcomes, label, start, made_by):
        rows = []
        for name, kind, stat in _measured(measured, what):
            value = made["layers"].get(name, {}).get(what)
            if value is None or not math.isfinite(value[0]):
                continue
            predicted, error, tier = value
            middle, of_mean = stat[:2] if METHODS[label] else stat[2:]
            spread = _combined(of_mean, error, measured["seeds"], made["passes"], start == "own")
            rows.append(Miss(model, start, what, name, kind, tier, predicted, middle, *spread))
        if rows:
            found[model] = rows
    return found


def _measured(start: Mapping[str, Any], what: str) -> list[tuple[str, str, Stat]]:
    """Name, type and figure of the blocks whose figure is finite and no matter of definition."""
    rows = list(zip(start["blocks"], start["types"], start[what], strict=True))
    return [
        (name, kind, stat)
        for name, kind, stat in (rows[:-1] if what == "gradient" else rows)
        if stat is not None and math.isfinite(stat[0])
    ]


def unmatched(outcomes: Mapping[str, Any]) -> int:
    """How many measured figures of blocks have no finite prediction where their model has one."""
    return sum(
        len(_measured(measured, what))
        - len(comparisons({model: outcomes[model]}, label, start, what).get(model, ()))
        for label in METHODS
        for start in PREDICTED
        for what in ("forward", "gradient")
        for model, measured, _ in _both(outcomes, label, start, "predictions")
    )


def as_built(made: Mapping[str, Any]) -> bool:
    """Whether all draws are the same pass, as every weight was kept as it is."""
    figures = [
        figure[1]
        for layer in made.get("layers", {}).values()
        for figure in (layer["forward"], layer["gradient"])
        if figure is not None
    ]
    return made.get("passes", 0) > 1 and bool(figures) and not any(figures)


def losses(
    outcomes: Mapping[str, Any], label: str, start: str, made_by: str = "predictions"
) -> list[Miss]:
    """First losses where logits are small: logarithms too, so that errors are relative."""
    rows = []
    for model, measured, made in _both(outcomes, label, start, made_by):
        if not made["loss"] or not measured["loss"]:
            continue
        mean, noise = measured["loss"]
        predicted, error, tier = made["loss"]
        if measured["calm"] and mean > 0 and predicted > 0:
            relative = noise / mean, error / predicted
            spread = _combined(*relative, measured["seeds"], made["passes"], start == "own")
            rows.append(
                Miss(model, start, "loss", "first loss", "", tier, log(predicted), log(mean),
                     *spread)
            )  # fmt: skip
    return rows


def _both(
    outcomes: Mapping[str, Any], label: str, start: str, made_by: str
) -> Iterable[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """The models that were measured under a start and predicted by a method."""
    for model, one in outcomes.items():
        made = one.get(made_by, {}).get(f"{start}/{label}", {})
        if "layers" in made:
            yield model, one["starts"][start], made


def _combined(
    measured: float, predicted: float, seeds: int, passes: int, single: bool
) -> tuple[float, float]:
    """The standard error of a difference, and its degrees of freedom by Welch and Satterthwaite.

    Where the prediction is from a ``single`` start, the spread of one comes to the measured mean's.
    """
    parts = [
        (measured**2 * (1 + seeds if single else 1), max(seeds - 1, 1)),
        (predicted**2, max(passes - 1, 1)),
    ]
    total = sum(square for square, _ in parts)
    below = sum(square**2 / freedom for square, freedom in parts)
    return math.sqrt(total), total**2 / below if below else math.inf


def _three(freedom: float) -> float:
    """As unlikely for Student's t as three standard errors are for a normal number."""
    return float(stats.t.isf(stats.norm.sf(3), freedom)) if freedom < math.inf else 3.0


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the others is not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def rows_of(
    outcomes: Mapping[str, Any], label: str, start: str, what: str, made_by: str = "predictions"
) -> dict[str, list[Miss]]:
    """All comparisons of blocks, or of first losses, by model."""
    if what == "loss":
        return {one.model: [one] for one in losses(outcomes, label, start, made_by)}
    return comparisons(outcomes, label, start, what, made_by)


@dataclasses.dataclass(frozen=True)
class Missed:
    """What a model misses of one quantity: where it begins, how often, and what many passes say."""

    label: str
    first: Miss
    count: int
    again: Miss | None


def missed(outcomes: Mapping[str, Any]) -> list[Missed]:
    """By method, start and quantity: the first block forward, the last one for gradients."""
    found = []
    for label in METHODS:
        for start in PREDICTED:
            for what, (_, goal) in GOALS.items():
                more = rows_of(outcomes, label, start, what, "again")
                for model, rows in rows_of(outcomes, label, start, what).items():
                    beyond = [one for one in rows if one.beyond(goal)]
                    if beyond:
                        one = beyond[-1 if what == "gradient" else 0]
                        same = [other for other in more.get(model, ()) if other.where == one.where]
                        found.append(Missed(label, one, len(beyond), same[0] if same else None))
    return found


# Starting points ------------------------------------------------------------------------------


def metrics(measured: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Four figures of a start as logarithms that a good one has near 0, with standard errors.

    Over the blocks of the commonest type: the last one's second moment over the first's; the first
    one's gradient over the last's; the second moment furthest from 1. And the first loss over ln C.
    """
    types = measured["types"][:-1]
    common = Counter(types).most_common(1)[0][0] if types else ""
    forward, gradient = (
        [one for one, kind in zip(measured[what], types, strict=False) if kind == common and one]
        for what in ("forward", "gradient")
    )
    found: dict[str, tuple[float, float]] = {}
    if len(forward) > 1:
        found["forward"] = _difference(forward[-1], forward[0])
    if len(gradient) > 1:
        found["gradient"] = _difference(gradient[0], gradient[-1])
    if measured["loss"] and measured["expected"] and measured["loss"][0] > 0:
        mean, error = measured["loss"]
        found["loss"] = log(mean / measured["expected"]), error / mean
    if forward:
        furthest = max(forward, key=lambda one: abs(one[0]))
        found["worst layer"] = furthest[0], furthest[1]
    return found


def _difference(one: Stat, other: Stat) -> tuple[float, float]:
    return one[0] - other[0], math.hypot(one[1], other[1])


def worse(made: Mapping[str, Mapping[str, tuple[float, float]]], metric: str) -> dict[str, float]:
    """How much nearer to 1 than ``auto`` other starts are, where it is beyond the noise."""
    mine = made.get("auto", {}).get(metric)
    others = {start: figures[metric] for start, figures in made.items() if metric in figures}
    if mine is None:
        return {}
    found = {start: nearer(other, mine) for start, other in others.items() if start != "auto"}
    return {start: further for start, further in found.items() if further}


def nearer(one: tuple[float, float], other: tuple[float, float]) -> float:
    """How much nearer to 1 a figure is than another, as a logarithm; 0 within the noise."""
    by = abs(other[0]) - abs(one[0])
    return by if by > max(WORSE, 3 * math.hypot(one[1], other[1])) else 0.0
