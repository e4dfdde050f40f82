"""By what a unit is multiplied when its first product of a pass has been measured.

Of a weight with several uses in one pass, the others are foretold from the first one by their ratio
in the pass before: with f^2, or, where the weight is fed with its own output, use k with f^(2 k).

Over several batches the sums of earlier ones count as they would be by now: multiplied by the
unit's own factor, and by what has happened upstream, which is seen on the present batch by running
it before and after. Where a bias alone is above the target, the product alone is brought to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from initium._calibrate.streams import Gauge
from initium._calibrate.sums import Sums
from initium._calibrate.targets import Aim, Unit

__all__ = ["Course", "Steer"]

HALVINGS = 80


@dataclass(slots=True)
class Course:
    """What is known of one unit between passes.

    ``factor`` is the product of all so far; ``ratios`` the moments of its uses relative to the
    first; ``biased`` that the bias alone was above the target.
    """

    aim: Aim
    root: str
    lookup: bool
    uses: int
    feeds_itself: bool = False
    factor: float = 1.0
    ratios: tuple[float, ...] = (1.0,)
    sums: Sums = field(default_factory=Sums)
    biased: bool = False

    def learn(self, each: Sequence[Sums]) -> None:
        """Take in what a pass has shown of all uses."""
        first = each[0].mean if each else 0.0
        ratios = tuple(sums.mean / first for sums in each) if first > 0 else ()
        if ratios and all(math.isfinite(ratio) for ratio in ratios):
            self.ratios = ratios

    def solve(self, target: float) -> float | None:
        """The factor that brings the mean over all batches and uses to its target."""
        if self.feeds_itself:
            return _chain([ratio * self.sums.mean for ratio in self.ratios], target)
        mean = sum(self.ratios) / len(self.ratios)
        sums = self.sums.scaled(math.sqrt(mean))
        found = sums.factor(target)
        self.biased = found is None
        return sums.factor_of_product(target) if found is None else found


def _chain(moments: Sequence[float], target: float) -> float | None:
    """The f with the mean over k of moment_k f^(2 k) = target, by bisection of log f."""
    if not moments[0] > 0:
        return None

    def mean(power: float) -> float:
        terms = (math.log(m) + k * power for k, m in enumerate(moments, 1) if m > 0)
        return math.log(sum(math.exp(min(term, 600.0)) for term in terms) / len(moments))

    low, high = -100.0, 100.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if mean(middle) < math.log(target) else (low, middle)
    return math.exp(low / 2)


class Steer:
    """Decides factors during one pass over the batches.

    ``old`` holds what the first uses showed on the present batch before it scaled anything.
    """

    def __init__(self, courses: Mapping[Unit, Course], gauge: Gauge) -> None:
        self.courses = courses
        self.gauge = gauge
        self.old: Mapping[Unit, Sums] = {}

    def target(self, unit: Unit) -> float:
        """The second moment that the unit's product is to have now."""
        aim = self.courses[unit].aim
        stream = self.gauge(unit) if aim.branches is not None else None
        if stream is None or not 0 < stream < math.inf:
            return aim.value
        return aim.value * stream

    def factor(self, unit: Unit, sums: Sums, use: int, lookup: bool) -> float | None:
        """What the unit is to be multiplied with, at its ``use`` of this forward pass."""
        course = self.courses.get(unit)
        if course is None or use != 1 or course.lookup != lookup:
            return None
        old = self.old.get(unit, Sums())
        if old.product > 0 and sums.product > 0:
            course.sums = course.sums.scaled(math.sqrt(sums.product / old.product))
        course.sums.add(sums)
        found = course.solve(self.target(unit))
        if found is None:
            return None
        course.sums = course.sums.scaled(found)
        course.factor *= found
        return found
