"""Fixed tables: positions as sines and cosines.

Covered: one axis and grids, extra rows in front, blocked and interleaved order. Not covered:
rotary tables, which are buffers of their models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from initium.errors import SpecError
from initium.spec import portable
from initium.spec.base import Moments, Spec, integer, number, weighted

__all__ = ["SinCos"]


@dataclass(frozen=True)
class SinCos(Spec):
    """Rows of sin(p w_i) and cos(p w_i), w_i = base^(-i / n), for the points p of a grid.

    The width d is divided among the axes of the grid, the last axis first; each has n = d / (2
    axes) frequencies, its sines and then its cosines. Rows run through the grid in C order. The
    tensor's last two axes are rows and width; the axes before them repeat the table.

    Args:
        grid: points along every axis, such as ``(14, 14)``.
        prefix: rows of zeros in front, for a class token.
        base: of the frequencies.
        interleaved: sine and cosine of each frequency side by side, as in Vaswani et al. 2017.
        gain: factor of the values.

    Source: facebookresearch/mae, util/pos_embed.py; facebookresearch/DiT, models.py, takes it over;
    Vaswani et al. 2017, arXiv:1706.03762, section 3.5.

    Known divergences: the first half of the width holds the *columns* of an image, as in that code,
    though its variable there is named after the height.

    Example:
        >>> print(SinCos((14, 14), prefix=1))
        sincos((14, 14), prefix=1)
    """

    name: ClassVar[str] = "sincos"
    grid: tuple[int, ...]
    prefix: int = 0
    base: float = 10000.0
    interleaved: bool = False
    gain: float = 1.0

    def __post_init__(self) -> None:
        grid = (self.grid,) if isinstance(self.grid, int) else self.grid
        if not isinstance(grid, (tuple, list)) or not grid:
            raise SpecError(
                "is not a tuple of sizes",
                where="sincos: grid",
                value=grid,
                fix="pass grid=(rows, columns)",
            )
        sizes = tuple(integer(self.name, "grid", size, least=1) for size in grid)
        if max(sizes) > portable.LARGEST_ANGLE:
            raise SpecError(
                f"is above {portable.LARGEST_ANGLE:.0f} positions",
                where="sincos: grid",
                value=sizes,
            )
        object.__setattr__(self, "grid", sizes)
        object.__setattr__(self, "prefix", integer(self.name, "prefix", self.prefix))
        object.__setattr__(self, "base", number(self.name, "base", self.base, least=1))
        object.__setattr__(self, "gain", number(self.name, "gain", self.gain))
        if not isinstance(self.interleaved, bool):
            raise SpecError(
                "is not a truth value",
                where="sincos: interleaved",
                value=self.interleaved,
                choices=("True", "False"),
            )

    def check(self, shape: Sequence[int]) -> None:
        rows = self.prefix + math.prod(self.grid)
        if len(shape) < 2 or shape[-2] != rows or shape[-1] % (2 * len(self.grid)):
            raise SpecError(
                f"needs {rows} rows of a width that divides by {2 * len(self.grid)}",
                where=str(self),
                value=tuple(shape),
                fix="set grid= and prefix= to the positions of the model",
            )

    def scaled(self, factor: float) -> SinCos:
        return replace(self, gain=self.gain * number("scaled", "factor", factor))

    def frequencies(self, width: int) -> np.ndarray:
        """The float64 frequencies of one axis of the grid, for a table of this width."""
        count = width // (2 * len(self.grid))
        logarithm = portable.log(np.array([self.base]))
        return portable.exp(-(np.arange(count) / count) * logarithm)

    def _moments(self, shape: tuple[int, ...]) -> Moments:
        points = math.prod(self.grid)
        values, weights = [np.zeros(1)], [np.full(1, float(self.prefix * shape[-1]))]
        for size in self.grid:
            angles = np.arange(size)[:, None] * self.frequencies(shape[-1])
            for function in (portable.sin, portable.cos):
                values.append(function(angles).reshape(-1) * self.gain)
                weights.append(np.full(angles.size, points / size))
        kept = slice(None) if self.prefix else slice(1, None)
        return weighted(np.concatenate(values[kept]), np.concatenate(weights[kept]))
