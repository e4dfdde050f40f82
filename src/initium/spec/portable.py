"""exp, log, sin and cos in float64, with the same bits on every machine.

The functions of a mathematical library may differ in their last bit from one platform to the next.
These use float64 +, -, x and / only, each rounded and unfused, whole powers of two, and the series
of the textbooks with as many terms as float64 can see. They are within 2 ulp of the exact value,
sin and cos within 2 ulp of one. ``docs/stream.md`` is the specification.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

__all__ = ["LARGEST_ANGLE", "cos", "exp", "log", "log_expm1", "power", "sin"]

LARGEST_ANGLE = 1e6
"""Up to here the reduction of an angle loses nothing."""

_LOG2_E = float.fromhex("0x1.71547652b82fep+0")
_LN2 = (float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33"))
_TWO_BY_PI = float.fromhex("0x1.45f306dc9c883p-1")
_HALF_PI = (
    float.fromhex("0x1.921fb544p+0"),
    float.fromhex("0x1.0b4611a6p-34"),
    float.fromhex("0x1.3198a2e037073p-69"),
)
_ROOT_HALF = float.fromhex("0x1.6a09e667f3bcdp-1")
_EXP = tuple(1.0 / math.factorial(n) for n in range(14, -1, -1))
_EXPM1 = tuple(float(Fraction(1, math.factorial(n + 1))) for n in range(16, -1, -1))
_LOG = tuple(float(Fraction(2, 2 * n + 1)) for n in range(11, 0, -1))
_SIN = tuple((-1.0) ** n / math.factorial(2 * n + 1) for n in range(8, 0, -1))
_COS = tuple((-1.0) ** n / math.factorial(2 * n) for n in range(9, -1, -1))


def exp(x: np.ndarray) -> np.ndarray:
    """e^x = 2^k e^r, |r| <= log(2) / 2.

    Example:
        >>> exp(np.array([0.0, 1.0])).round(12).tolist()
        [1.0, 2.718281828459]
    """
    k = np.rint(x * _LOG2_E)
    r = (x - k * _LN2[0]) - k * _LN2[1]
    return np.ldexp(_horner(_EXP, r), k.astype(np.int64))


def log(x: np.ndarray) -> np.ndarray:
    """log(2^e m) = e log 2 + 2 artanh((m - 1) / (m + 1)), m in [sqrt(1/2), sqrt(2)), for x > 0.

    Example:
        >>> float(log(np.array([2.0]))[0])
        0.6931471805599453
    """
    mantissa, exponent = np.frexp(x)
    low = mantissa < _ROOT_HALF
    mantissa = np.where(low, mantissa * 2.0, mantissa)
    e = (exponent - low).astype(np.float64)
    f = (mantissa - 1.0) / (mantissa + 1.0)
    square = f * f
    tail = _horner(_LOG, square) * square * f
    return e * _LN2[0] + (2.0 * f + (tail + e * _LN2[1]))


def log_expm1(x: np.ndarray) -> np.ndarray:
    """log(e^x - 1), the inverse of softplus, for x > 0.

    log x + log((e^x - 1) / x), by the series of the fraction, up to x = 1/2; x + log(1 - e^-x)
    above.

    Example:
        >>> float(log_expm1(np.array([1.0]))[0])
        0.5413248546129181
    """
    small = np.minimum(x, 0.5)
    below = log(small) + log(_horner(_EXPM1, small))
    large = np.maximum(x, 0.5)
    return np.where(x < 0.5, below, large + log(1.0 - exp(-large)))


def power(x: np.ndarray, exponent: float) -> np.ndarray:
    """x^p = e^(p log x) for x >= 0; x itself, of any sign, for p = 1, and 0^p = 0 for p > 0."""
    if exponent == 1:
        return x
    positive = np.where(x > 0, x, 1.0)
    return np.where(x > 0, exp(log(positive) * exponent), 0.0 if exponent > 0 else 1.0)


def sin(x: np.ndarray) -> np.ndarray:
    """Sine, for angles up to :data:`LARGEST_ANGLE`."""
    return _circular(x, 0)


def cos(x: np.ndarray) -> np.ndarray:
    """Cosine, for angles up to :data:`LARGEST_ANGLE`."""
    return _circular(x, 1)


def _circular(x: np.ndarray, turn: int) -> np.ndarray:
    """sin(x + turn pi/2): x = k pi/2 + r, |r| <= pi/4, with pi/2 in three parts."""
    k = np.rint(x * _TWO_BY_PI)
    r = ((x - k * _HALF_PI[0]) - k * _HALF_PI[1]) - k * _HALF_PI[2]
    square = r * r
    quarter = k.astype(np.int64) + turn
    sine = r + _horner(_SIN, square) * square * r
    value = np.where(quarter % 2 == 0, sine, _horner(_COS, square))
    return np.where(quarter % 4 >= 2, -value, value)


def _horner(coefficients: tuple[float, ...], x: np.ndarray) -> np.ndarray:
    value = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value
