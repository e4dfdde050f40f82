"""A normal within a window that it hardly ever visits: far out, or narrow. Exact, by rejection.

With lo the end of the window nearer to the mean and y the distance from it, both in sigmas, the
density falls as exp(-lo y - y^2 / 2). Where lo times the width is above 1, y is proposed from the
truncated exponential exp(-lo y) and kept with probability exp(-y^2 / 2); else it is proposed
uniformly. Almost every proposal is kept. Attempt number t of an element has the words of
sub-streams ``try/2t`` and ``try/2t+1``, so that here too nothing depends on the machine.

Source: Robert, "Simulation of truncated normal variables", Statistics and Computing 5 (1995).
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from initium.init._target import NAME
from initium.spec import portable
from initium.stream.elementwise import words
from initium.stream.philox import derive

__all__ = ["tail"]

_CHUNK = 1 << 18


def tail(
    shape: tuple[int, ...], seed: int, mean: float, std: float, a: float, b: float
) -> np.ndarray:
    """float64 values of N(mean, std^2) on [a, b], a < b.

    Args:
        shape: of the whole tensor.
        seed: of the call.
        mean, std: of the parent normal; an infinite std makes it uniform.
        a, b: the ends; the farther one may be infinite.
    """
    mirrored = abs(b - mean) < abs(a - mean)
    near, sign = (b, -1.0) if mirrored else (a, 1.0)
    low, width = sign * (near - mean) / std, (b - a) / std
    values = np.empty(math.prod(shape))
    for start in range(0, values.size, _CHUNK):
        elements = np.arange(start, min(start + _CHUNK, values.size), dtype=np.uint64)
        for attempt in itertools.count():
            u, v = (_uniform(seed, elements, 2 * attempt + part) for part in (0, 1))
            if low * width > 1:
                y = -portable.log(1.0 - u * (1.0 - _exp(-low * width))) / low
                drop, distance = y * y / 2, y * std
            else:
                y = u * width
                drop, distance = y * (2 * low + y) / 2 + min(low, 0.0) ** 2 / 2, u * (b - a)
            kept = v < portable.exp(-drop)
            values[elements[kept]] = near + sign * distance[kept]
            elements = elements[~kept]
            if not len(elements):
                break
    return np.clip(values, a, b).reshape(shape)


def _uniform(seed: int, elements: np.ndarray, number: int) -> np.ndarray:
    """Numbers of (0, 1), as float64."""
    drawn = words(derive(seed, NAME, f"try/{number}"), elements)
    return (drawn.astype(np.float64) + 0.5) * 2.0**-32


def _exp(x: float) -> float:
    """exp(x), which is nothing beside 1 for a large negative x."""
    return float(portable.exp(np.array([x]))[0]) if x > -50 else 0.0
