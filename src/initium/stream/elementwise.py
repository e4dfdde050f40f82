"""Numbers for given element indices: element i has lane i & 3 of counter i >> 2.

Any set of elements may be asked for, in any order; runs of neighbours share their counters.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from initium.spec import Constant, Normal, TruncatedNormal, Uniform
from initium.spec.gaussian import grid
from initium.stream import transforms
from initium.stream.philox import Key, philox

__all__ = ["Elementwise", "fill", "normals", "words"]

Elementwise = Constant | Normal | Uniform | TruncatedNormal


def fill(spec: Elementwise, key: Key, elements: np.ndarray) -> np.ndarray:
    """The values of ``spec`` at these element indices.

    Args:
        spec: what to draw.
        key: of the parameter's stream.
        elements: uint64 array of shape (n,).

    Returns:
        float32 array of shape (n,).
    """
    match spec:
        case Constant(value):
            return np.full(elements.shape, value, np.float32)
        case Normal(std, mean):
            return _affine(normals(key, elements), std, mean)
        case Uniform(low, high):
            values = _lanes(transforms.signed_uniform, key, elements)
            values = _affine(values, high / 2 - low / 2, low / 2 + high / 2)
            return _clamp(values, low, high)
        case TruncatedNormal():
            first, count = grid(*spec.window)
            values = _lanes(
                lambda words: transforms.truncated_normal(words, first, count), key, elements
            )
            return _clamp(_affine(values, spec.sigma, spec.mean), *spec.bounds)


def normals(key: Key, elements: np.ndarray) -> np.ndarray:
    """Standard normals at these element indices."""
    return _lanes(transforms.normal, key, elements)


def words(key: Key, elements: np.ndarray) -> np.ndarray:
    """The random 32-bit words of these element indices."""
    return _lanes(lambda words: words, key, elements)


def _lanes(
    transform: Callable[[np.ndarray], np.ndarray], key: Key, elements: np.ndarray
) -> np.ndarray:
    """Transform the words of every counter once, and pick each element's lane."""
    counters, lanes = elements >> np.uint64(2), elements & np.uint64(3)
    fresh = np.empty(counters.shape, bool)
    fresh[:1] = True
    np.not_equal(counters[1:], counters[:-1], out=fresh[1:])
    numbers = transform(philox(counters[fresh], key))
    picked: np.ndarray = numbers[lanes, np.cumsum(fresh) - 1]
    return picked


def _affine(values: np.ndarray, scale: float, shift: float) -> np.ndarray:
    """values * scale + shift in float32, unfused; without the sum where the shift is zero."""
    values = values * np.float32(scale)
    return values + np.float32(shift) if np.float32(shift) else values


def _clamp(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Into the float32 numbers of [low, high]; into the nearest ones if it holds none."""
    least, most = np.float32(low), np.float32(high)
    inner_least = np.nextafter(least, np.float32(np.inf)) if least < low else least
    inner_most = np.nextafter(most, np.float32(-np.inf)) if most > high else most
    if inner_least <= inner_most:
        least, most = inner_least, inner_most
    values = np.where(values < least, least, values)
    return np.where(values > most, most, values)
