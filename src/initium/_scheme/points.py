"""Working points: how large the pre-activations of an activation should be, and what follows.

For z ~ N(0, K): E[phi(z)^2], the factor of the gradient, and how log q spreads over seeds; the K
that makes E[phi(z)^2] = 1; the small K at which a deep plain net is nearly linear and its gradient
flat; and the slope of phi(x) - phi(-x) where that is a straight line.

Not covered: activations without a name (their E[phi^2] is known at K = 1 alone).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from initium._scheme.activations import activation
from initium._scheme.meanfield import kernel
from initium.errors import RecipeError

__all__ = [
    "FLAT",
    "Point",
    "at",
    "is_named",
    "mean",
    "odd_slope",
    "second",
    "small_start",
    "unit_point",
]

FLAT = 1.6
"""How far the gradient of a whole plain net may rise or fall, end to end."""
SMALLEST = 48
"""Halvings after which no smaller start is looked for."""


@dataclass(frozen=True, slots=True)
class Point:
    """One activation at one second moment K of its pre-activations.

    Attributes:
        second: E[phi(z)^2].
        slope: E[phi'(z)^2].
        growth: d log E[phi(z)^2] / d log K.
        excess: E[phi(z)^4] / E[phi(z)^2]^2 - 1, what one layer adds to the variance of log q times
            its width under normal weights; orthogonal ones add ``excess - 2 growth^2``.
    """

    second: float
    slope: float
    growth: float
    excess: float


LINEAR = "identity"


def is_named(phi: str | None) -> bool:
    """Whether the moments of an activation are known at any K, and not at 1 alone."""
    try:
        activation(phi or LINEAR)
    except RecipeError:
        return False
    return True


@lru_cache(maxsize=4096)
def at(phi: str | None, q: float) -> Point | None:
    """The point of an activation at K = q; ``None`` for one without a name."""
    if not is_named(phi):
        return None
    held = kernel(phi or LINEAR)
    squared = held.second(q)
    return Point(squared, held.slope(q), held.growth(q), held.fourth(q) / squared**2 - 1)


@lru_cache(maxsize=4096)
def second(phi: str | None, q: float, gain: float = 1.0) -> float:
    """E[phi(z)^2] for z ~ N(0, q); q / gain for one without a name, which is exact at q = 1.

    Example:
        >>> second(None, 3.0), round(second("relu", 2.0), 9), second("custom (frac)", 1.0, 4.0)
        (3.0, 1.0, 0.25)
    """
    if phi is None:
        return q
    return kernel(phi).second(q) if is_named(phi) else q / gain


def mean(phi: str | None, q: float) -> float:
    """E[phi(z)] for z ~ N(0, q); 0 for one without a name.

    Example:
        >>> round(mean("relu", 1.0), 4), mean(None, 2.0)
        (0.3989, 0.0)
    """
    return kernel(phi).mean(q) if phi is not None and is_named(phi) else 0.0


@lru_cache(maxsize=1024)
def unit_point(phi: str | None, target: float = 1.0) -> float:
    """The K at which E[phi(z)^2] = target; 1 for activations that cannot reach it, and the target
    for those without a name.

    Example:
        >>> unit_point("relu"), round(unit_point("gelu"), 4), unit_point("tanh")
        (2.0, 2.1551, 1.0)
        >>> unit_point("relu", 3.0), unit_point(None, 3.0)
        (6.0, 3.0)
    """
    if phi is None or not is_named(phi):
        return target
    held = kernel(phi)
    scale = held.second(1.0)
    if abs(held.second(2.0) - 2 * scale) < 1e-9 * scale:
        return round(target / scale, 12)
    low, high = 1e-4, 64.0
    if not (held.second(low) < target * (1 - 1e-9) and held.second(high) > target * (1 + 1e-9)):
        return 1.0
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if held.second(middle) < target else (low, middle)
    return high


@lru_cache(maxsize=256)
def odd_slope(phi: str | None) -> float | None:
    """k where phi(x) - phi(-x) = k x, so that mirrored units make a layer linear; else ``None``.

    Example:
        >>> odd_slope("gelu"), odd_slope("leaky_relu(0.2)"), odd_slope("tanh")
        (1.0, 1.2, None)
    """
    if phi is None or not is_named(phi):
        return None
    x = np.linspace(0.125, 5.0, 40)
    function = activation(phi)
    ratio = (function(x) - function(-x)) / x
    slope = float(ratio[0])
    straight = bool(np.allclose(ratio, slope, rtol=1e-3, atol=0)) and abs(slope) > 1e-3
    return round(slope, 9) if straight else None


@lru_cache(maxsize=64)
def small_start(phi: str, layers: int) -> tuple[float, float] | None:
    """K of the first of ``layers`` pre-activations, and C_W, for a net that is nearly linear.

    C_W = 1 / E[phi'(0)^2] is critical as K -> 0. The start is the largest power of two for which
    the gradient stays within a factor of :data:`FLAT` end to end, and K within three times that;
    about 1 / (2 layers) for tanh. ``None`` where phi(0) is not 0, or phi' vanishes there.

    Example:
        >>> small_start("tanh", 100)
        (0.001953125, 1.0)

    Source: Schoenholz et al. 2017, arXiv:1611.01232; Pennington et al. 2017, arXiv:1711.04735.
    """
    if not is_named(phi):
        return None
    function = activation(phi)
    both = np.array([-1e-9, 1e-9])
    slope = float(np.mean(function.derivative(both) ** 2))
    if abs(float(function(np.zeros(1))[0])) > 1e-12 or slope < 1e-3:
        return None
    weight = 1 / slope
    for halvings in range(SMALLEST):
        start = 2.0**-halvings
        if _is_flat(phi, weight, start, layers):
            return start, weight
    return None


def _is_flat(phi: str, weight: float, start: float, layers: int) -> bool:
    held, q, product = kernel(phi), start, 1.0
    for _ in range(layers):
        product *= weight * held.slope(q)
        q = weight * held.second(q)
        if not (1 / FLAT < product < FLAT and start / (3 * FLAT) < q < start * 3 * FLAT):
            return False
    return True
