"""The coordinate check as data: slopes over widths or depths, their intervals, and the verdict.

No torch.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from initium._check.thresholds import COORDINATE_READOUT, COORDINATE_SLOPE
from initium._plain import as_json, plain
from initium._report.words import count
from initium._slopes import fit as line
from initium._slopes import student
from initium._tables import render, table

__all__ = ["Axis", "CoordinateCheck", "Slope", "Verdict", "fit", "verdict"]

Axis = Literal["width", "depth"]
Verdict = Literal["ok", "grows", "shrinks", "unclear", "not judged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slope:
    """How the size of one module's coordinates goes with the size of the model.

    Attributes:
        name: the module; ``name:logits`` is what its softmax reads.
        step: 1 before the first update. There ``sizes`` are the root mean square of the output,
            later that of its change since then.
        sizes: geometric means over seeds, one for each width or depth.
        slope: of log size over log width or depth, mean over seeds.
        low, high: its 95% interval, by Student's t over seeds.
        allowed: where a healthy slope lies.
        verdict: ``grows`` or ``shrinks``: the whole interval lies outside; ``unclear``: the mean
            does, and the interval does not.
    """

    name: str
    step: int
    sizes: tuple[float, ...]
    slope: float
    low: float
    high: float
    allowed: tuple[float, float]
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinateCheck:
    """The outcome of :func:`initium.coordinate_check`; ``print`` shows a table.

    ``ok``: nothing grows, shrinks or diverges. ``diverged`` names each size and seed at which a
    number was not finite.
    """

    model: str
    axis: Axis
    sizes: tuple[int, ...]
    seeds: int
    steps: int
    optimizer: str
    loss: str
    slopes: tuple[Slope, ...]
    diverged: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the model may be scaled along the axis as it is."""
        return not self.diverged and not self.failures()

    def failures(self) -> tuple[Slope, ...]:
        """The slopes that grow or shrink, in the order of the model."""
        return tuple(slope for slope in self.slopes if slope.verdict in ("grows", "shrinks"))

    def to_dict(self) -> dict[str, object]:
        """Everything as plain data."""
        return {"initium": "coordinate check", "schema": 1, "ok": self.ok, **_record(self)}

    def to_json(self) -> str:
        """The same as strict JSON."""
        return as_json(self.to_dict())

    def __str__(self) -> str:
        return _text(self)


def fit(sizes: Sequence[int], values: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Slope of log value over log size, with its 95% interval over seeds.

    Args:
        sizes: widths or depths, at least two.
        values: one row per seed, one positive value per size.

    Example:
        >>> fit([64, 128, 256], [[8.0, 16.0, 32.0], [4.0, 8.0, 16.0]])
        (1.0, 1.0, 1.0)
    """
    x = [math.log2(size) for size in sizes]
    slopes = [line(x, [math.log2(value) for value in row]).value for row in values]
    mean = statistics.fmean(slopes)
    if len(slopes) < 2:
        return mean, -math.inf, math.inf
    half = student(len(slopes) - 1) * statistics.stdev(slopes) / math.sqrt(len(slopes))
    return mean, mean - half, mean + half


def allowed(step: int, sums: bool) -> tuple[float, float]:
    """Where a healthy slope lies; ``sums``: a readout or attention logits."""
    low = COORDINATE_READOUT if sums and step == 1 else 0.0
    return low - COORDINATE_SLOPE, COORDINATE_SLOPE


def verdict(slope: float, low: float, high: float, within: tuple[float, float]) -> Verdict:
    """From a slope and its interval; one seed has no interval and is judged by its slope.

    Example:
        >>> verdict(0.5, 0.4, 0.6, (-0.2, 0.2)), verdict(0.3, 0.1, 0.5, (-0.2, 0.2))
        ('grows', 'unclear')
    """
    if within[0] <= slope <= within[1]:
        return "ok"
    single = math.isinf(high)
    if slope > within[1]:
        return "grows" if single or low > within[1] else "unclear"
    return "shrinks" if single or high < within[0] else "unclear"


def _record(check: CoordinateCheck) -> dict[str, object]:
    found = plain(check)
    assert isinstance(found, dict)
    return found


def _text(check: CoordinateCheck) -> str:
    failures = check.failures()
    names = list(dict.fromkeys(slope.name for slope in failures))
    head = f"{check.model}: " + (
        _kept(check)
        if check.ok
        else f"{_modules(names, 'does not keep its', 'do not keep their')} size over {check.axis}"
        if names
        else "training diverged"
    )
    facts = (
        f"{check.axis}s {', '.join(map(str, check.sizes))} · {count(check.seeds, 'seed')} · "
        f"{count(check.steps, 'step')} of {check.optimizer} · {check.loss} · {check.seconds:.1f} s"
    )
    steps = sorted({slope.step for slope in check.slopes})
    by_name: dict[str, dict[int, Slope]] = {}
    for slope in check.slopes:
        by_name.setdefault(slope.name, {})[slope.step] = slope
    columns = ("name", *("size at 1" if t == 1 else f"change at {t}" for t in steps), "verdict")
    rows = [
        (name, *(_cell(found.get(step)) for step in steps), _worst(list(found.values())))
        for name, found in by_name.items()
    ]
    body = table(columns, rows, right=columns[1:-1], whole=columns[1:])
    notes = [f"diverged: {', '.join(check.diverged)}"] if check.diverged else []
    notes += [f"note: {note}" for note in check.notes]
    legend = f"log-log slopes over {check.axis} with half their 95% interval; healthy is about 0"
    return render(head, facts, "", body, "", legend, *notes)


def _kept(check: CoordinateCheck) -> str:
    """What may be said where nothing fails: how many are unclear, if any are."""
    verdicts: dict[str, list[Slope]] = {}
    for slope in check.slopes:
        verdicts.setdefault(slope.name, []).append(slope)
    worst = {name: _worst(found) for name, found in verdicts.items()}
    judged = [name for name, verdict in worst.items() if verdict != "not judged"]
    unclear = [name for name in judged if worst[name] == "unclear"]
    if not unclear:
        return f"coordinates keep their size over {check.axis}"
    return (
        f"unclear over {check.axis} for {len(unclear):,} of {count(len(judged), 'module')}, and "
        "none fails: more seeds or sizes will tell"
    )


def _modules(names: list[str], one: str, several: str) -> str:
    return f"{count(len(names), 'module')} {one if len(names) == 1 else several}"


def _cell(slope: Slope | None) -> str:
    if slope is None:
        return "-"
    half = (slope.high - slope.low) / 2
    return f"{slope.slope:+.2f}" + (f" ±{half:.2f}" if math.isfinite(half) else "")


def _worst(slopes: list[Slope]) -> str:
    order: tuple[Verdict, ...] = ("grows", "shrinks", "unclear", "ok", "not judged")
    return min((slope.verdict for slope in slopes), key=order.index)
