"""The values of specs that follow from the position alone, and of views of uniform numbers.

All in float64, rounded to float32 once by whoever stores them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from initium.spec import Arange, Constant, LogUniform, SinCos, Spec, Uniform, portable
from initium.spec.views import View, ramp
from initium.stream.elementwise import fill, words
from initium.stream.philox import Key
from initium.stream.transforms import signed_uniform

__all__ = ["pointwise", "sincos"]


def pointwise(
    spec: Spec, key: Key, elements: np.ndarray, positions: Sequence[np.ndarray]
) -> np.ndarray:
    """The values of a ramp, a log-uniform spec, or a view of one.

    Args:
        spec: what to draw.
        key: of the parameter's stream.
        elements: uint64 indices in the whole parameter.
        positions: along every axis, shaped to broadcast against ``elements``.

    Returns:
        float64 array of the shape of ``elements``.
    """
    match spec:
        case View():
            return spec.apply(pointwise(spec.of, key, elements, positions))
        case Arange():
            return np.broadcast_to(ramp(spec, positions[spec.axis]), elements.shape)
        case LogUniform():
            low, high = spec.window
            unit = signed_uniform(words(key, elements.reshape(-1))).astype(np.float64)
            values = portable.exp((low + high) / 2 + (high - low) / 2 * unit)
            return np.clip(values, spec.low, spec.high).reshape(elements.shape)
        case Constant() | Uniform():
            return fill(spec, key, elements.reshape(-1)).astype(np.float64).reshape(elements.shape)
    raise AssertionError(spec)


def sincos(spec: SinCos, rows: np.ndarray, width: int) -> np.ndarray:
    """These rows of the table, whole."""
    places = np.unravel_index(np.maximum(rows - spec.prefix, 0), spec.grid)
    frequencies = spec.frequencies(width)
    parts = []
    for place in reversed(places):
        angles = place[:, None] * frequencies
        pair = [portable.sin(angles), portable.cos(angles)]
        if spec.interleaved:
            parts.append(np.stack(pair, axis=-1).reshape(len(rows), -1))
        else:
            parts.extend(pair)
    table = np.concatenate(parts, axis=1) * spec.gain
    return np.where(rows[:, None] < spec.prefix, 0.0, table)
