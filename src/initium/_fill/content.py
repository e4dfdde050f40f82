"""The bytes of a file of tensors, by their offset: any piece of it, drawn when it is asked for.

What costs no more in slices is drawn in slices, straight into the memory that is to be written.
What a spec computes as a whole, such as an orthogonal matrix, is held as a whole meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import get_args

import numpy as np
import torch

from initium import stream
from initium._fill.layout import Shard, Stored
from initium._fill.tensor import Index, values
from initium._plan.plan import Plan
from initium.spec import Blocks, Orthogonal, SinCos, Spec
from initium.spec.views import Pointwise
from initium.stream.elementwise import Elementwise
from initium.stream.round import CASTS

__all__ = ["Content"]

DRAWN = 1 << 22
"""Elements drawn at a time: what a spec needs besides the buffer stays small."""


class Content:
    """The bytes of one file, by their offset; keeps the matrix that it drew last."""

    def __init__(self, plan: Plan, shard: Shard) -> None:
        self.seed = plan.seed
        self.header = np.frombuffer(shard.header, np.uint8)
        self.tensors = shard.tensors
        self.drawn: tuple[str, int] | None = None
        self.matrix = np.empty(0, np.uint8)

    def __call__(self, memory: np.ndarray, offset: int) -> None:
        """Fill ``memory`` with the bytes of the file from ``offset`` on."""
        head = self.header[offset : offset + memory.size]
        memory[: head.size] = head
        first = offset - self.header.size
        last = first + memory.size
        for item in self.tensors:
            start, stop = max(first, item.start), min(last, item.stop)
            if start < stop:
                self._fill(
                    memory[start - first : stop - first],
                    item,
                    (start - item.start) // item.width,
                    (stop - item.start) // item.width,
                )

    def _fill(self, memory: np.ndarray, item: Stored, start: int, stop: int) -> None:
        """Fill ``memory`` with the elements start .. stop of a tensor, in C order."""
        if _any_slice(item.entry.spec):
            for low in range(start, stop, DRAWN):
                high = min(low + DRAWN, stop)
                here = memory[(low - start) * item.width : (high - start) * item.width]
                self._draw(here, item, low, high)
            return
        unit = _unit(item.entry.spec, item.entry.shape)
        for matrix in range(start // unit * unit, stop, unit):
            low, high = max(matrix, start), min(matrix + unit, stop)
            here = memory[(low - start) * item.width : (high - start) * item.width]
            drawn = self._matrix(item, matrix, unit)
            here[:] = drawn[(low - matrix) * item.width : (high - matrix) * item.width]

    def _matrix(self, item: Stored, low: int, unit: int) -> np.ndarray:
        """The bytes of the elements from ``low`` on that can only be drawn together."""
        if self.drawn != (item.name, low):
            self.matrix = np.empty(unit * item.width, np.uint8)
            for index in _boxes(item.entry.shape, low, low + unit):
                self.matrix[:] = self._values(item, index)
            self.drawn = (item.name, low)
        return self.matrix

    def _draw(self, memory: np.ndarray, item: Stored, low: int, high: int) -> None:
        for index in _boxes(item.entry.shape, low, high):
            shape = _shape(index, item.entry.shape)
            here, memory = np.split(memory, [math.prod(shape) * item.width])
            if item.dtype in CASTS:
                stream.fill_into(
                    item.entry.spec,
                    seed=self.seed,
                    name=item.name,
                    shape=item.entry.shape,
                    index=index,
                    out=here.view(CASTS[item.dtype][1]).reshape(shape),
                    dtype=item.dtype,
                    threads=torch.get_num_threads(),
                )
            else:
                here[:] = self._values(item, index)

    def _values(self, item: Stored, index: Index) -> np.ndarray:
        drawn = values(item.name, item.entry, self.seed, item.dtype, index)
        return drawn.contiguous().reshape(-1).view(torch.uint8).numpy()


def _unit(spec: Spec, shape: tuple[int, ...]) -> int:
    """How many elements in turn are drawn at once: one matrix of a stack, or everything."""
    leading = 0
    if isinstance(spec, Orthogonal):
        while leading in spec.batch:
            leading += 1
    return math.prod(shape[leading:])


def _any_slice(spec: Spec) -> bool:
    """Whether any slice of it costs no more than its share."""
    if isinstance(spec, Blocks):
        return all(_any_slice(part.spec) for part in spec.parts)
    return isinstance(spec, (*get_args(Elementwise), Pointwise, SinCos))


def _boxes(shape: tuple[int, ...], start: int, stop: int, outer: Index = ()) -> Iterator[Index]:
    """The elements start .. stop in C order, as few indices into the tensor, in this order."""
    if start >= stop:
        return
    if not shape:
        yield outer
        return
    inner = math.prod(shape[1:])
    (first, skipped), (last, rest) = divmod(start, inner), divmod(stop, inner)
    if skipped:
        yield from _boxes(shape[1:], skipped, min(stop - first * inner, inner), (*outer, first))
        first += 1
    if first < last:
        yield (*outer, slice(first, last))
    if first <= last:
        yield from _boxes(shape[1:], 0, rest, (*outer, last))


def _shape(index: Index, shape: tuple[int, ...]) -> tuple[int, ...]:
    cut = [item.stop - item.start for item in index if isinstance(item, slice)]
    return (*cut, *shape[len(index) :])
