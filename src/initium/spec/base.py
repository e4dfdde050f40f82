"""What every distribution has in common: moments, a fit to a shape, scaling, a text form.

A spec is immutable data: hashable, comparable, without closures. Numbers are validated when it is
made, shapes when it meets one. Not covered: randomness, which is :mod:`initium.stream`'s.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import ClassVar

import numpy as np

from initium._text import format_number
from initium.errors import SpecError

__all__ = [
    "FLOAT32_MAX",
    "UNKNOWN",
    "Moments",
    "Spec",
    "at",
    "call_text",
    "integer",
    "mixture",
    "number",
    "weighted",
]

FLOAT32_MAX = 3.4028234663852886e38


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Exact moments of an element drawn at random from a tensor; ``None`` where unknown.

    ``kurtosis`` is E[(x - mean)^4] / std^4 (3 for a normal) and ``skewness`` E[(x - mean)^3] /
    std^3; both are ``None`` where ``std`` is zero. ``low`` and ``high`` bound the values.
    """

    mean: float | None
    std: float | None
    kurtosis: float | None
    low: float | None
    high: float | None
    skewness: float | None = None


UNKNOWN = Moments(mean=None, std=None, kurtosis=None, low=None, high=None)


def at(value: float) -> Moments:
    """The moments of a constant."""
    return Moments(mean=value, std=0.0, kurtosis=None, low=value, high=value)


def mixture(parts: Iterable[tuple[float, Moments]]) -> Moments:
    """Moments of a mixture of independent parts with the given weights (any positive scale).

    With d = mean_i - mean: E(x-m)^2 = s^2 + d^2, E(x-m)^3 = m3 + 3 s^2 d + d^3 and
    E(x-m)^4 = m4 + 4 m3 d + 6 s^2 d^2 + d^4, averaged over the parts.
    """
    known: list[tuple[float, float, float, Moments]] = []
    lows, highs = [], []
    for weight, part in parts:
        if weight <= 0:
            continue
        if part.mean is None or part.std is None or part.low is None or part.high is None:
            return UNKNOWN
        known.append((weight, part.mean, part.std, part))
        lows.append(part.low)
        highs.append(part.high)
    total = math.fsum(weight for weight, *_ in known)
    mean = math.fsum(weight * part_mean for weight, part_mean, *_ in known) / total
    second, third, fourth = [], [], []
    shaped = True
    for weight, part_mean, std, part in known:
        shift, skewness, kurtosis = part_mean - mean, part.skewness, part.kurtosis
        if std == 0:
            skewness = kurtosis = 0.0
        if skewness is None or kurtosis is None:
            shaped, skewness, kurtosis = False, 0.0, 0.0
        m3, m4 = skewness * std**3, kurtosis * std**4
        second.append(weight * (std**2 + shift**2))
        third.append(weight * (m3 + 3 * std**2 * shift + shift**3))
        fourth.append(weight * (m4 + 4 * m3 * shift + 6 * (std * shift) ** 2 + shift**4))
    variance = math.fsum(second) / total
    shaped = shaped and variance**2 > 0
    return Moments(
        mean=mean,
        std=math.sqrt(variance),
        kurtosis=math.fsum(fourth) / total / variance**2 if shaped else None,
        low=min(lows),
        high=max(highs),
        skewness=math.fsum(third) / total / variance**1.5 if shaped else None,
    )


def weighted(values: np.ndarray, weights: np.ndarray) -> Moments:
    """Moments of these values with these weights (any positive scale), summed exactly."""
    total = math.fsum(weights)
    mean = math.fsum(values * weights) / total
    deviation = values - mean
    square = deviation * deviation
    second, third, fourth = (
        math.fsum(term * weights) / total for term in (square, square * deviation, square * square)
    )
    shaped = second**2 > 0
    return Moments(
        mean=mean,
        std=math.sqrt(second),
        kurtosis=fourth / second**2 if shaped else None,
        low=float(values.min()),
        high=float(values.max()),
        skewness=third / second**1.5 if shaped else None,
    )


class Spec(ABC):
    """A distribution with its numbers, or a deterministic fill. Abstract; the others are final."""

    name: ClassVar[str]

    @abstractmethod
    def scaled(self, factor: float) -> Spec:
        """The spec of ``factor`` times this one's values."""

    @abstractmethod
    def _moments(self, shape: tuple[int, ...]) -> Moments: ...

    def check(self, shape: Sequence[int]) -> None:  # noqa: B027 (most fit every shape)
        """Raise :class:`~initium.errors.SpecError` if a tensor of this shape cannot be filled."""

    def moments(self, shape: Sequence[int]) -> Moments:
        """Exact moments over all elements of a tensor of this shape (unknown if it has none)."""
        shape = tuple(int(size) for size in shape)
        self.check(shape)
        return UNKNOWN if 0 in shape else self._moments(shape)

    def __str__(self) -> str:
        return call_text(self.name, self)


def call_text(name: str, data: object) -> str:
    """``name(...)``: fields without a default by position, those off their default by keyword."""
    arguments = []
    for field in dataclasses.fields(data):  # type: ignore[arg-type]
        value = getattr(data, field.name)
        if field.default is dataclasses.MISSING:
            arguments.append(_argument(value))
        elif value != field.default:
            arguments.append(f"{field.name}={_argument(value)}")
    return f"{name}({', '.join(arguments)})"


def _argument(value: object) -> str:
    if isinstance(value, float):
        return format_number(value)
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        items = [_argument(item) for item in value]
        if items and not isinstance(value[0], (int, float)):
            return f"[{', '.join(items)}]"
        return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
    return str(value)


def number(
    spec: str, field: str, value: object, *, least: float | None = None, finite: bool = True
) -> float:
    """``value`` as a float that float32 can hold; SpecError where it is not one."""
    where = f"{spec}: {field}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise SpecError("is not a number", where=where, value=value, fix="pass an int or a float")
    try:
        result = float(value) + 0.0
    except OverflowError:
        result = math.inf
    if math.isnan(result) or (finite and abs(result) > FLOAT32_MAX):
        raise SpecError(
            "is not a finite number in the range of float32",
            where=where,
            value=value,
            fix=f"pass a number between -{FLOAT32_MAX:.4g} and {FLOAT32_MAX:.4g}",
        )
    if least is not None and result < least:
        raise SpecError(
            f"is below {format_number(least)}",
            where=where,
            value=value,
            fix=f"pass {format_number(least)} or more",
        )
    return result


def integer(spec: str, field: str, value: object, *, least: int = 0) -> int:
    """``value`` as an int of at least ``least``; SpecError where it is not one."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise SpecError(
            f"is not an integer of {least} or more",
            where=f"{spec}: {field}",
            value=value,
            fix=f"pass an integer >= {least}",
        )
    return int(value)
