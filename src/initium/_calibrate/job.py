"""The passes of a calibration: measure everything as it is, scale, measure again.

Every forward pass starts from the same random numbers. Not covered here: what surrounds a pass, and
putting the model back, which are :mod:`initium._calibrate.api`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from initium._calibrate.look import Look
from initium._calibrate.steer import Course, Steer
from initium._calibrate.streams import Gauge, Place
from initium._calibrate.sums import Sums
from initium._calibrate.sweep import Seen, Sweep
from initium._calibrate.targets import Unit, aim_of, table_aim, units_of
from initium._calibrate.weights import Weights
from initium._model.call import call, map_tensors, tensors
from initium._model.inputs import must_be_usable
from initium._types import ModelView
from initium.errors import InitiumError, InputError, ModelError

__all__ = ["FIXED", "Job", "must_be_batch"]


FIXED = "multiplied with parameters, not with data"
CALLED = (
    "pass a mapping for keyword arguments, a tuple for positional ones, one tensor, or a list of "
    "such batches, on the model's device"
)
LABELLED = (
    "if the batches are pairs (x, y), pass them without their labels: "
    "calibrate(model, (x for x, _ in loader))"
)


@dataclass(slots=True)
class Job:
    """One calibration under way; ``before`` and ``look`` are what the first pass has shown."""

    model: nn.Module
    view: ModelView
    weights: Weights
    batches: Iterable[object]
    kept: Mapping[str, str]
    module: Callable[[], str]
    look: Look
    count: int = 0
    before: dict[Unit, Seen] = field(default_factory=dict)

    def plan_courses(self) -> dict[Unit, Course]:
        """Measure everything as it is, and find what may be scaled, through what, to what."""
        sweep = self._sweep()
        sweep.look = self.look
        self.count = self._drive(sweep)
        self.before = sweep.seen
        tied = {unit.name for unit, seen in self.before.items() if seen.lookup and seen.product}
        widths = {self.view.parameters[name].shape[-1] for name in tied}
        courses = {}
        for unit, seen in self.before.items():
            if seen.root is None or self.reason(unit, seen) is not None:
                continue
            about = self.view.parameters[unit.name]
            if seen.lookup:
                aim = table_aim(about, unit.name in tied, about.shape[-1] in widths)
            else:
                aim = aim_of(unit, about, unit in self.look.unscaled)
            feeds = unit in self.look.feeding and not seen.lookup
            courses[unit] = Course(aim, seen.root, seen.lookup, len(seen.each), feeds)
            courses[unit].learn(seen.each)
        return courses

    def reason(self, unit: Unit, seen: Seen) -> str | None:
        """Why a unit whose product was seen keeps its values."""
        for name in (unit.name, seen.root):
            if name is not None and self.kept.get(name) is not None:
                return self.kept[name]
        if unit.role in ("position", "token") and not seen.lookup:
            return "not the weight of a product"
        if seen.root is None and unit.name in self.weights.fixed:
            return FIXED
        if seen.root is None:
            return "no multiple of one parameter: scaling would not reach the product"
        if seen.all.product == 0:
            return "zero: it stays closed" if seen.empty else "its output is zero on this batch"
        return None if seen.varied else "its output is one constant on this batch"

    def gauge(self) -> Gauge:
        """Of every stream, where its first branch found it."""
        bottom: dict[object, Unit] = {}
        place, moment, streams = {}, {}, self.look.streams
        for unit in self.before:
            if unit not in streams.place and unit not in streams.moment:
                continue
            stream = self.view.parameters[unit.name].stream
            first = bottom.setdefault(unit if stream is None else stream, unit)
            if first in streams.place:
                place[unit] = streams.place[first]
            else:
                moment[unit] = streams.moment[first]
        return Gauge(place, moment)

    def scale(self, courses: dict[Unit, Course]) -> None:
        """One pass over the batches that scales."""
        sweep = self._sweep()
        sweep.gauge = self.gauge()
        sweep.steer = Steer(courses, sweep.gauge)
        for course in courses.values():
            course.sums = Sums()
        for number, batch in self._numbered():
            if number > 1:
                sweep.gauge.old, sweep.steer.old = self._as_it_is(number, batch)
            _forward(self.model, number, batch, sweep)
        for unit in courses.keys() & sweep.seen.keys():
            courses[unit].learn(sweep.seen[unit].each)

    def measure(self, gauge: Gauge) -> dict[Unit, Seen]:
        """One pass over the batches that changes nothing."""
        sweep = self._sweep()
        sweep.gauge = gauge
        self._drive(sweep)
        return sweep.seen

    def _sweep(self) -> Sweep:
        units = {
            view.name: units_of(view) for view in self.view.owners if view.magnitude_of is None
        }
        return Sweep(self.weights, units, self.module)

    def _drive(self, sweep: Sweep) -> int:
        count = 0
        for count, batch in self._numbered():
            _forward(self.model, count, batch, sweep)
        return count

    def _numbered(self) -> Iterator[tuple[int, object]]:
        """The batches from 1 on, once more; every time from the same random numbers."""
        torch.manual_seed(0)
        number = 0
        for number, batch in enumerate(self.batches, 1):
            yield number, batch
        if not number:
            raise InputError(
                "gave its batches once and none when it was gone through again, as every pass does",
                where="inputs",
                value=type(self.batches).__name__,
                fix="pass a list of batches, or a DataLoader on a data set that starts anew",
            )

    def _as_it_is(
        self, number: int, batch: object
    ) -> tuple[Mapping[Place, float], Mapping[Unit, Sums]]:
        """What streams and products are on one batch before it scales anything."""
        probe = self._sweep()
        probe.gauge = self.gauge()
        _forward(self.model, number, batch, probe)
        first = {unit: seen.each[0] for unit, seen in probe.seen.items() if seen.each}
        return {place: read[-1] for place, read in probe.gauge.read.items()}, first


def must_be_batch(batch: object) -> None:
    """Refuse a batch without samples or values, or with NaN.

    Raises:
        InputError: it is one of these.
    """
    for tensor in tensors(batch):
        if tensor.is_meta:
            raise InputError(
                "a batch is on the meta device and holds no values",
                where="inputs",
                value=tuple(tensor.shape),
                fix="pass real data, on the model's device",
            )
        must_be_usable(tensor, "a batch", "no weight was changed")


def _is_pair(batch: object) -> bool:
    return isinstance(batch, (list, tuple)) and len(batch) == 2


def _forward(model: nn.Module, number: int, batch: object, sweep: Sweep) -> None:
    """One forward pass; the same number gives the same random numbers."""
    must_be_batch(batch)
    torch.manual_seed(number)
    sweep.begin()
    batch = map_tensors(batch, lambda tensor: tensor.detach().clone())
    try:
        with sweep:
            output = call(model, batch)
    except (InitiumError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise InputError(
            f"the model does not run on this batch: {type(error).__name__}: {lines[0]}",
            where="inputs",
            value=", ".join(str(tuple(tensor.shape)) for tensor in tensors(batch)) or None,
            fix=LABELLED if _is_pair(batch) else CALLED,
        ) from error
    if sweep.steer is not None and any(bool(tensor.isnan().any()) for tensor in tensors(output)):
        raise ModelError(
            "the model's output holds NaN although every product is finite, and all weights are "
            "as they were",
            where="output",
            value="nan",
            fix="look for what makes it behind the last layer: a logarithm, a division",
        )
