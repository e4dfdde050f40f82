"""From random words to uniform, normal and truncated normal numbers, with the same bits anywhere.

Only float32 +, -, x and square root, int32 -> float32 conversion (all rounded to nearest even,
subnormals kept, nothing fused) and 32-bit integer operations: no library function is called, so
every implementation of IEEE 754 agrees. ``docs/stream.md`` is the specification.

Words come as uint32 arrays of shape (4, n), numbers go out as float32 of shape (4, n).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["normal", "quantile", "signed_uniform", "truncated_normal"]

_F = np.float32
_SQRT_HALF = 0x3F3504F3
"""The bits of sqrt(1/2) in float32."""
_SIGN = np.uint32(0x80000000)
_LOW_31 = np.uint32(0x7FFFFFFF)
_TO_UNIT = _F(2.0**-31)

_LOG = (
    *(0.087400086, -0.14309664, 0.1491682, -0.16570048),
    *(0.19962156, -0.25001785, 0.33333948, -0.4999999),
)
_SINE = (-3.6585836e-05, 0.0024909873, -0.08074582, 0.7853982)
_COSINE = (-0.0003191869, 0.015850438, -0.3084245, 1.0)
_CENTRE = (
    *(0.0, 4.12003e-08, 4.9179647e-07, -5.0020117e-06, -6.2870877e-06),
    *(0.00030920486, -0.0017727552, -0.0059082857, 0.3488024, 2.1233137),
)
_TAIL = (
    *(5.376954e-05, 2.1315127e-05, -0.0004313643, 0.00072857627, -0.0008701998),
    *(0.001483874, -0.0029469836, 0.0046456284, 1.424637, 4.7170887),
)


def signed_uniform(words: np.ndarray) -> np.ndarray:
    """Uniform on [-1, 1]: the word as a signed integer, rounded to float32, times 2^-31."""
    return _signed(words) * _TO_UNIT


def normal(words: np.ndarray) -> np.ndarray:
    """Standard normal by Box-Muller, words (a, b) and (c, d) giving two numbers each.

    The radius comes from u = (float(a >> 1) + 1/2) 2^-31. Of b, the low 30 bits are an angle
    within +-pi/4, bit 30 swaps sine and cosine, and bit 31 is the sign of the cosine.
    """
    radius_word, angle_word = words[0::2], words[1::2]
    log = _log(_signed(radius_word >> np.uint32(1)) + _F(0.5), -31)
    radius = np.sqrt(log * _F(-2))
    turn = _signed(angle_word << np.uint32(2)) * _TO_UNIT
    square = turn * turn
    sine = _horner(_SINE, square) * turn
    cosine = _horner(_COSINE, square)
    cosine = (cosine.view(np.uint32) ^ (angle_word & _SIGN)).view(_F)
    swap = (angle_word & np.uint32(0x40000000)) != 0
    out = np.empty(words.shape, _F)
    out[0::2] = radius * np.where(swap, sine, cosine)
    out[1::2] = radius * np.where(swap, cosine, sine)
    return out


def truncated_normal(words: np.ndarray, first: int, count: int) -> np.ndarray:
    """Standard normal restricted to ``count`` points of the CDF grid from ``first``, no rejection.

    Args:
        words: uint32 array.
        first: the first grid point; point P stands for probability (P + 1/2) 2^-32.
        count: 1 to 2^32 points.
    """
    offset = (words.astype(np.uint64) * np.uint64(count)) >> np.uint64(32)
    return quantile((offset + np.uint64(first)).astype(np.uint32))


def quantile(points: np.ndarray) -> np.ndarray:
    """The normal quantile of probability (P + 1/2) 2^-32, for uint32 grid points P.

    Giles' form x p(w), w = -log(1 - x^2), x = 2 probability - 1, with two polynomials of degree 9,
    in w - 5/2 below w = 5 and in sqrt(w) - 7/2 above.

    Source: Giles, "Approximating the erfinv function", GPU Computing Gems 2, 2010; refitted.
    """
    centred = points ^ _SIGN
    negative = np.where(centred & _SIGN, np.uint32(0xFFFFFFFF), np.uint32(0))
    tail = ((centred ^ negative) & _LOW_31) ^ _LOW_31
    beyond = (_signed(tail) + _F(0.5)) * _TO_UNIT
    w = _F(0) - _log(beyond * (_F(2) - beyond), 0)
    x = (_signed(tail ^ _LOW_31) + _F(0.5)) * _TO_UNIT
    central = w < _F(5)
    t = np.where(central, w - _F(2.5), np.sqrt(w) - _F(3.5))
    p = np.where(central, _F(_CENTRE[0]), _F(_TAIL[0]))
    for centre, outer in zip(_CENTRE[1:], _TAIL[1:], strict=True):
        p = p * t + np.where(central, _F(centre), _F(outer))
    return ((p * x).view(np.uint32) ^ (negative & _SIGN)).view(_F)


def _signed(words: np.ndarray) -> np.ndarray:
    return words.view(np.int32).astype(_F)


def _horner(coefficients: Sequence[float], x: np.ndarray) -> np.ndarray:
    value = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + _F(coefficient)
    return value


def _log(x: np.ndarray, exponent: int) -> np.ndarray:
    """log(x 2^exponent) = e log 2 + log(1 + f), with 1 + f in [sqrt(1/2), sqrt(2))."""
    bits = x.view(np.uint32) - np.uint32((_SQRT_HALF - (exponent << 23)) & 0xFFFFFFFF)
    e = (bits.view(np.int32) >> np.int32(23)).astype(_F)
    mantissa = (bits & np.uint32(0x7FFFFF)) + np.uint32(_SQRT_HALF)
    f = mantissa.view(_F) - _F(1)
    return e * _F(0.69314718) + ((f * f) * _horner(_LOG, f) + f)
