"""Specs that are a function of a position or of a uniform number, and functions of these.

Covered: arithmetic ramps, log-uniform numbers, and the logarithm, power and inverse softplus of
a spec: what the parameters of state-space and recurrent models start from. Their values are
calculated in float64 by :mod:`initium.spec.portable` and rounded to float32 once. Not covered:
views of normals, whose moments have no closed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from initium.errors import SpecError
from initium.spec import portable
from initium.spec.base import FLOAT32_MAX, Moments, Spec, integer, number, weighted
from initium.spec.elementwise import Constant, Uniform

__all__ = [
    "Arange",
    "InverseSoftplus",
    "LogUniform",
    "Logarithm",
    "Pointwise",
    "Power",
    "View",
    "ramp",
]

_INTERVALS = 4096
"""Of Simpson's rule over a uniform number: its error is below 1e-13 for everything here."""


class Pointwise(Spec):
    """What ramps, log-uniform numbers and views share: values as a function of a float64 array."""

    def scaled(self, factor: float) -> Spec:
        factor = number("scaled", "factor", factor)
        return self if factor == 1 else Power(self, 1.0, scale=factor)

    def _moments(self, shape: tuple[int, ...]) -> Moments:
        return weighted(*spread(self, shape))


@dataclass(frozen=True)
class Arange(Pointwise):
    """start + step i at position i of one axis, the same along all others.

    Args:
        start: the first value.
        step: from one position to the next.
        axis: of the ramp; the last one by default.

    Example:
        >>> Arange(1, 2).moments((5, 3)).mean
        3.0
    """

    name: ClassVar[str] = "arange"
    start: float
    step: float
    axis: int = -1

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", number(self.name, "start", self.start))
        object.__setattr__(self, "step", number(self.name, "step", self.step))
        object.__setattr__(self, "axis", integer(self.name, "axis", self.axis, least=-1))

    def check(self, shape: Sequence[int]) -> None:
        if self.axis >= len(shape) or not shape:
            raise SpecError(
                f"needs axis {self.axis}",
                where=str(self),
                value=tuple(shape),
                fix="name an axis of the tensor",
            )
        number(str(self), "the last value", self.start + self.step * max(shape[self.axis] - 1, 0))

    def scaled(self, factor: float) -> Arange:
        factor = number("scaled", "factor", factor)
        return Arange(self.start * factor, self.step * factor, self.axis)


@dataclass(frozen=True)
class LogUniform(Pointwise):
    """exp(U(log low, log high)): every order of magnitude is as likely as the next.

    Example:
        >>> print(LogUniform(0.001, 0.1))
        log_uniform(0.001, 0.1)
    """

    name: ClassVar[str] = "log_uniform"
    low: float
    high: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", number(self.name, "low", self.low))
        object.__setattr__(self, "high", number(self.name, "high", self.high))
        if not 0 < self.low <= self.high:
            raise SpecError(
                "needs 0 < low <= high",
                where=self.name,
                value=(self.low, self.high),
                fix="pass two positive numbers, the lower one first",
            )

    @property
    def window(self) -> tuple[float, float]:
        """(log low, log high)."""
        low, high = portable.log(np.array([self.low, self.high]))
        return float(low), float(high)


class View(Pointwise):
    """A function of the values of another spec."""

    of: Spec

    def __post_init__(self) -> None:
        if not isinstance(self.of, (Pointwise, Constant, Uniform)):
            raise SpecError(
                "is not a spec that it can be a view of",
                where=f"{self.name}: of",
                value=str(self.of),
                choices=("arange", "constant", "uniform", "log_uniform", "another view"),
            )

    def check(self, shape: Sequence[int]) -> None:
        self.of.check(shape)
        values, _ = spread(self.of, shape)
        if not self._accepts(values):
            raise SpecError(
                "is a view of numbers that it is not defined for",
                where=str(self),
                value=float(values.min()),
                fix="let the inner spec begin above zero",
            )
        if not np.all(np.abs(self.apply(values)) <= FLOAT32_MAX):
            raise SpecError(
                "has values beyond the range of float32",
                where=str(self),
                fix="choose smaller numbers",
            )

    def apply(self, values: np.ndarray) -> np.ndarray:
        """The function, of a float64 array."""
        raise NotImplementedError

    def _accepts(self, values: np.ndarray) -> bool:
        return bool((values > 0).all())


@dataclass(frozen=True)
class Logarithm(View):
    """log of another spec's values.

    Example:
        >>> print(Logarithm(Uniform(1, 16)))
        logarithm(uniform(1, 16))
    """

    name: ClassVar[str] = "logarithm"
    of: Spec

    def apply(self, values: np.ndarray) -> np.ndarray:
        return portable.log(values)


@dataclass(frozen=True)
class InverseSoftplus(View):
    """log(exp(x) - 1) of another spec's values x, raised to ``floor`` first.

    Softplus gives back x. Mamba's step size is one: log-uniform between 0.001 and 0.1.

    Example:
        >>> print(InverseSoftplus(LogUniform(0.001, 0.1), floor=1e-4))
        inverse_softplus(log_uniform(0.001, 0.1), floor=0.0001)
    """

    name: ClassVar[str] = "inverse_softplus"
    of: Spec
    floor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "floor", number(self.name, "floor", self.floor, least=0))

    def apply(self, values: np.ndarray) -> np.ndarray:
        return portable.log_expm1(np.maximum(values, self.floor))

    def _accepts(self, values: np.ndarray) -> bool:
        return self.floor > 0 or super()._accepts(values)


@dataclass(frozen=True)
class Power(View):
    """scale x^exponent + shift of another spec's values x; an affine view with exponent 1.

    Example:
        >>> print(Power(Arange(0, 0.25), 0.5, shift=0.1))
        power(arange(0, 0.25), 0.5, shift=0.1)
    """

    name: ClassVar[str] = "power"
    of: Spec
    exponent: float
    scale: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("exponent", "scale", "shift"):
            object.__setattr__(self, field, number(self.name, field, getattr(self, field)))

    def apply(self, values: np.ndarray) -> np.ndarray:
        return portable.power(values, self.exponent) * self.scale + self.shift

    def scaled(self, factor: float) -> Power:
        factor = number("scaled", "factor", factor)
        return replace(self, scale=self.scale * factor, shift=self.shift * factor)

    def _accepts(self, values: np.ndarray) -> bool:
        if self.exponent == 1:
            return True
        return bool((values >= 0).all()) if self.exponent > 0 else super()._accepts(values)


def spread(spec: Spec, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Values and weights whose weighted sums are the expectations over a tensor of ``shape``.

    Every position of a ramp has the same weight; a uniform number is spread by Simpson's rule.
    """
    match spec:
        case Constant(value):
            return np.array([value]), np.ones(1)
        case Arange():
            values = ramp(spec, np.arange(shape[spec.axis]))
            return values, np.ones(len(values))
        case Uniform(low, high):
            unit, weights = _simpson()
            return low + (high - low) * unit, weights
        case LogUniform():
            unit, weights = _simpson()
            low, high = spec.window
            return portable.exp(low + (high - low) * unit), weights
        case View():
            values, weights = spread(spec.of, shape)
            return spec.apply(values), weights
    raise SpecError("has no pointwise values", where=str(spec))


def ramp(spec: Arange, positions: np.ndarray) -> np.ndarray:
    """The float64 values of a ramp at these positions of its axis."""
    return spec.start + spec.step * positions.astype(np.float64)


def _simpson() -> tuple[np.ndarray, np.ndarray]:
    weights = np.ones(_INTERVALS + 1)
    weights[1:-1:2], weights[2:-1:2] = 4.0, 2.0
    return np.arange(_INTERVALS + 1) / _INTERVALS, weights
