"""Distributions whose elements are independent and alike: they fit every shape.

Covered: constant, normal, uniform, and the normal truncated at bounds given in its own sigmas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from initium.errors import SpecError
from initium.spec.base import Moments, Spec, at, number
from initium.spec.gaussian import cdf, truncated

__all__ = ["Constant", "Normal", "TruncatedNormal", "Uniform"]

_LEAST_MASS = 2.0**-12


@dataclass(frozen=True)
class Constant(Spec):
    """Every element is ``value``.

    Example:
        >>> print(Constant(1))
        constant(1)
    """

    name: ClassVar[str] = "constant"
    value: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", number(self.name, "value", self.value))

    def scaled(self, factor: float) -> Constant:
        return Constant(self.value * _factor(factor))

    def _moments(self, shape: tuple[int, ...]) -> Moments:
        return at(self.value)


@dataclass(frozen=True)
class Normal(Spec):
    """N(mean, std^2).

    Args:
        std: the standard deviation, 0 or more.
        mean: the expectation.

    Example:
        >>> print(Normal(0.02), Normal(0.02, mean=1))
        normal(0.02) normal(0.02, mean=1)
    """

    name: ClassVar[str] = "normal"
    std: float
    mean: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "std", number(self.name, "std", self.std, least=0))
        object.__setattr__(self, "mean", number(self.name, "mean", self.mean))

    def scaled(self, factor: float) -> Normal:
        return Normal(self.std * abs(_factor(factor)), self.mean * factor)

    def _moments(self, shape: tuple[int, ...]) -> Moments:
        if self.std == 0:
            return at(self.mean)
        return Moments(
            mean=self.mean, std=self.std, kurtosis=3.0, low=-math.inf, high=math.inf, skewness=0.0
        )


@dataclass(frozen=True)
class Uniform(Spec):
    """Uniform on [low, high]; std = (high - low) / sqrt(12), kurtosis 9/5.

    Example:
        >>> print(Uniform(-0.1, 0.1))
        uniform(-0.1, 0.1)
    """

    name: ClassVar[str] = "uniform"
    low: float
    high: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", number(self.name, "low", self.low))
        object.__setattr__(self, "high", number(self.name, "high", self.high))
        if self.low > self.high:
            raise SpecError(
                "low is above high",
                where=self.name,
                value=(self.low, self.high),
                fix="swap the two",
            )

    def scaled(self, factor: float) -> Uniform:
        ends = self.low * _factor(factor), self.high * factor
        return Uniform(min(ends), max(ends))

    def _moments(self, shape: tuple[int, ...]) -> Moments:
        if self.low == self.high:
            return at(self.low)
        return Moments(
            mean=self.low / 2 + self.high / 2,
            std=(self.high - self.low) / math.sqrt(12),
            kurtosis=1.8,
            low=self.low,
            high=self.high,
            skewness=0.0,
        )


@dataclass(frozen=True)
class TruncatedNormal(Spec):
    """A parent normal N(mean, sigma^2), conditioned on lying within ``cut`` of its own sigmas.

    Args:
        std: if ``compensated``, the standard deviation that is achieved (so sigma = std / s, where
            s is that of the standard normal under the same cut: 0.8796 at 2); else sigma itself.
        mean: the mean of the parent; the achieved mean differs if the cut is lopsided.
        cut: c for [-c, c], or a pair (low, high); ``inf`` for an open side.
        compensated: see ``std``.

    Known divergences: the bounds of ``torch.nn.init.trunc_normal_`` are absolute, and it does not
    compensate; JAX's ``variance_scaling`` compensates at 2 sigmas, as the default here.

    Example:
        >>> print(TruncatedNormal(0.02, cut=3))
        truncated_normal(0.02, cut=3)
        >>> TruncatedNormal(1.0).sigma
        1.1368472343385565
    """

    name: ClassVar[str] = "truncated_normal"
    std: float
    mean: float = 0.0
    cut: float | tuple[float, float] = 2.0
    compensated: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "std", number(self.name, "std", self.std, least=0))
        object.__setattr__(self, "mean", number(self.name, "mean", self.mean))
        object.__setattr__(self, "cut", _cut(self.name, self.cut))
        if not isinstance(self.compensated, bool):
            raise SpecError(
                "is not a truth value",
                where=f"{self.name}: compensated",
                value=self.compensated,
                choices=("True", "False"),
            )

    @property
    def window(self) -> tuple[float, float]:
        """The cut as a pair (low, high), in sigmas of the parent."""
        return self.cut if isinstance(self.cut, tuple) else (-self.cut, self.cut)

    @property
    def sigma(self) -> float:
        """The standard deviation of the parent normal."""
        return self.std / truncated(*self.window)[1] if self.compensated else self.std

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest value: mean + sigma * cut."""
        if self.sigma == 0:
            return self.mean, self.mean
        low, high = self.window
        return self.mean + self.sigma * low, self.mean + self.sigma * high

    def scaled(self, factor: float) -> TruncatedNormal:
        low, high = self.window
        return replace(
            self,
            std=self.std * abs(_factor(factor)),
            mean=self.mean * factor,
            cut=(-high, -low) if factor < 0 else (low, high),
        )

    def _moments(self, shape: tuple[int, ...]) -> Moments:
        if self.std == 0:
            return at(self.mean)
        mean, std, skewness, kurtosis = truncated(*self.window)
        low, high = self.bounds
        return Moments(
            mean=self.mean + self.sigma * mean,
            std=self.std if self.compensated else self.sigma * std,
            kurtosis=kurtosis,
            low=low,
            high=high,
            skewness=skewness,
        )


def _cut(spec: str, cut: object) -> float | tuple[float, float]:
    """``cut`` in its canonical form: a float if it is symmetric, else a pair."""
    where = f"{spec}: cut"
    if isinstance(cut, (tuple, list)):
        if len(cut) != 2:
            raise SpecError(
                "is not a pair", where=where, value=cut, fix="pass (low, high) in sigmas"
            )
        low, high = (number(spec, "cut", side, finite=False) for side in cut)
    else:
        high = number(spec, "cut", cut, finite=False)
        if high <= 0:
            raise SpecError(
                "is not above 0", where=where, value=cut, fix="pass the cut in sigmas, such as 2"
            )
        low = -high
    if low >= high:
        raise SpecError(
            "low is not below high", where=where, value=(low, high), fix="pass (low, high)"
        )
    if cdf(high) - cdf(low) < _LEAST_MASS:
        raise SpecError(
            "keeps less than 1/4096 of the normal",
            where=where,
            value=cut,
            fix="widen the cut, which is in sigmas, or use uniform(low, high)",
        )
    return high if low == -high else (low, high)


def _factor(factor: float) -> float:
    return number("scaled", "factor", factor)
