"""One random matrix of a parameter: its law from its spec, its scales and its mean.

It is ``diag(a) law diag(b) + c d^T``; the vectors come from the blocks of a fused weight.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch

from initium._predict.lazy.law import NARROW, Gaussian, Haar, Law, lengths
from initium.errors import PlanError
from initium.spec import (
    Blocks,
    Constant,
    LogUniform,
    Normal,
    Orthogonal,
    Spec,
    TruncatedNormal,
    Uniform,
)

__all__ = ["INDEPENDENT", "Matrix", "in_backward", "matrix_of"]

INDEPENDENT = (Constant, Normal, TruncatedNormal, Uniform, LogUniform)
"""Specs of independent elements that are all alike."""

Vectors = tuple[torch.Tensor | None, torch.Tensor | None]
"""Along the columns and along the rows of a matrix; ``None`` for ones."""


class Matrix:
    """One random matrix, by its products: vectors of side 0 are as long as a row."""

    def __init__(
        self,
        sizes: tuple[int, int],
        law: Law | None,
        scales: Vectors = (None, None),
        means: Vectors | None = None,
        note: str = "",
    ) -> None:
        self.sizes = sizes
        self.law = law
        self.gain = math.prod(float(s) for s in scales if s is not None and s.numel() == 1)
        self.scales = tuple(None if s is None or s.numel() == 1 else s for s in scales)
        self.power = [
            self.gain**2 * (float(size) if s is None else float(s.double().square().sum()))
            for size, s in zip(sizes, self.scales, strict=True)
        ]
        self.means = means
        self.note = note
        self.values: torch.Tensor | None = None
        self.forward = [0, 0]
        self.backward = 0
        self.used = [False, False]
        self.astray = False

    @property
    def seen(self) -> int:
        """How many directions are known."""
        return self.law.seen if self.law is not None else 0

    def product(
        self,
        x: torch.Tensor,
        side: int,
        stretch: bool = False,
        last: bool = False,
        bound: float | None = None,
    ) -> torch.Tensor:
        """As :meth:`Law.product`; vectors that are not finite give missing values.

        With ``stretch`` products have exactly the expected lengths, unless the other side was seen
        on the way forward, or their lengths depart by a larger share than ``bound`` and six
        standard errors: then the product is ``astray``. In the ``last`` pass what is known goes
        with the last product that is asked for.
        """
        self.astray = False
        if self.values is not None:
            return x @ (self.values if side else self.values.T)
        length = lengths(x)
        if not length.isfinite().all().item():
            finite = x.isfinite().all(1)
            y = x.new_full((len(x), self.sizes[1 - side]), math.nan)
            if finite.any().item():
                y[finite] = self._product(x[finite], None, side, stretch, last, bound)
            return y
        return self._product(x, length, side, stretch, last, bound)

    def _product(
        self,
        x: torch.Tensor,
        length: torch.Tensor | None,
        side: int,
        stretch: bool,
        last: bool,
        bound: float | None,
    ) -> torch.Tensor:
        if self.law is None:
            y = x.new_zeros(len(x), self.sizes[1 - side])
        else:
            given, made = self.scales[side], self.scales[1 - side]
            before = x if given is None else x * given
            length = length if given is None and length is not None else lengths(before)
            done = self._was_last(side, last)
            y = self.law.product(before, side, not done, length)
            if made is not None:
                y *= made
            stretched = stretch and (in_backward() or not self.used[1 - side])
            if stretched:
                power = self.law.variance * self.power[1 - side]
                share = 1.0 if bound is None else float(y.square().sum()) * self.gain**2
                expected = 1.0 if bound is None else float(before.square().sum()) * power
                noise = 6 * (2 / y.shape[1] / len(y)) ** 0.5
                self.astray = abs(share - expected) > ((bound or 0.0) + noise) * expected
            if stretched and not self.astray:
                y *= _stretch(length, y, power)
            elif self.gain != 1:
                y *= self.gain
            self.used[side] = True
            if done:
                self.law.forget()
        if self.means is not None:
            given, made = self.means[side], self.means[1 - side]
            total = x.sum(1) if given is None else x @ given
            y = y + (total[:, None] if made is None else total[:, None] * made)
        return y

    def _was_last(self, side: int, last: bool) -> bool:
        """Whether every product before the last pass has now had its counterpart in it.

        A product on the side of an earlier one may be a recomputation and counts as none: what was
        used on both sides, as in a gradient of a gradient, is never free.
        """
        if not last:
            self.forward[side] += 1
            return False
        self.backward += self.forward[side] == 0
        return self.forward[side] == 0 and self.backward == self.forward[1 - side]

    def make(self) -> torch.Tensor:
        """Its values given what was seen, ``[rows, columns]``."""
        columns, rows = self.sizes
        made = torch.zeros(rows, columns)
        if self.law is not None:
            made = self.law.whole()
            for scale in self.scales:
                made = (made if scale is None else made * scale).T
            made = made * self.gain
        if self.means is not None:
            ones = [torch.ones(size) for size in self.sizes]
            across, down = (o if m is None else m for o, m in zip(ones, self.means, strict=True))
            made = made + torch.outer(down, across)
        return made


def in_backward() -> bool:
    """Whether autograd runs."""
    return torch._C._current_graph_task_id() >= 0


def _stretch(length: torch.Tensor, y: torch.Tensor, power: float) -> torch.Tensor:
    """What gives every product its expected length; short products one factor in common, as their
    elements would be far from normal on a sphere."""
    short = torch.linalg.vector_norm(y, dim=1, keepdim=True)
    if y.shape[1] < NARROW:
        short, length = torch.linalg.vector_norm(short), torch.linalg.vector_norm(length)
    return torch.where(short > 0, length * power**0.5 / short, 1.0)


def matrix_of(
    name: str,
    spec: Spec,
    shape: tuple[int, ...],
    layout: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
    key: tuple[int, ...],
    seed: int,
    dtype: torch.dtype,
    even: bool = False,
    free: bool = False,
) -> Matrix:
    """The matrix number ``key`` of a parameter, before anything is known of it.

    Args:
        name, spec, shape: of the whole parameter.
        layout: the axes that are columns, that are rows, and that number matrices.
        key: positions along the last of these.
        seed, dtype: of its random numbers.
        even, free: as for :class:`Gaussian`.

    Raises:
        PlanError: nothing is known of its elements.
    """
    columns, rows, stacked = layout
    sizes = math.prod(shape[axis] for axis in columns), math.prod(shape[axis] for axis in rows)
    label = f"{seed}/{name}/{key}".encode()
    number = int.from_bytes(hashlib.blake2b(label, digest_size=8).digest(), "little")
    generator = torch.Generator().manual_seed(number % (1 << 63))
    index = dict(zip(stacked, key, strict=True))
    while isinstance(spec, Blocks) and spec.axis in index:
        axis = spec.axis
        spec, shape, index[axis] = _inside(spec, shape, index[axis])
    if isinstance(spec, Orthogonal) and _fits(spec, layout):
        haar = Haar(sizes[1], sizes[0], generator, dtype)
        return Matrix(sizes, haar, (None, torch.tensor(spec.gain, dtype=dtype)))
    axis, stds, means = _by_axis(name, spec, shape)
    side = int(axis in rows)
    along = layout[side]
    note = _approximation(name, spec)
    drawn = bool(stds.any())
    law = Gaussian(sizes[1], sizes[0], generator, dtype, even, free) if drawn else None
    scales = _on_side(side, _spread(stds.to(dtype), axis, along, shape))
    mean = _spread(means.to(dtype), axis, along, shape).expand(sizes[side])
    return Matrix(sizes, law, scales, _on_side(side, mean) if means.any() else None, note)


def _inside(spec: Blocks, shape: tuple[int, ...], index: int) -> tuple[Spec, tuple[int, ...], int]:
    """The spec at one position of the blocks' axis, the shape it describes, and where in it."""
    for part in spec.parts:
        for number, (low, high) in enumerate(part.runs()):
            if low <= index < high:
                within = index - low + (0 if part.stacked else number * part.size)
                return part.spec, part.shape(shape), within
    raise AssertionError(f"no part of {spec} holds {index}")


def _fits(spec: Orthogonal, layout: tuple[tuple[int, ...], ...]) -> bool:
    columns, rows, stacked = layout
    return tuple(sorted(spec.outputs)) in (columns, rows) and set(spec.batch) == set(stacked)


def _by_axis(
    name: str, spec: Spec, shape: tuple[int, ...]
) -> tuple[int, torch.Tensor, torch.Tensor]:
    """The axis that blocks divide (-1 without), and standard deviations and means along it."""
    parts = spec.parts if isinstance(spec, Blocks) else ()
    axis = parts[0].axis if parts else -1
    stds = torch.zeros(shape[axis] if parts else 1, dtype=torch.float64)
    means = torch.zeros_like(stds)
    whole = [(spec.moments(shape), [(0, 1)])]
    described = [(part.spec.moments(part.shape(shape)), part.runs()) for part in parts] or whole
    for moments, runs in described:
        if moments.std is None or moments.mean is None:
            raise PlanError(
                "has elements of unknown spread, and is too large to be made",
                where=name,
                value=str(spec)[:60],
                fix="pass a larger memory=, or plan it with a distribution of known moments",
            )
        for low, high in runs:
            stds[low:high] = moments.std
            means[low:high] = moments.mean
    return axis, stds, means


def _spread(
    vector: torch.Tensor, axis: int, along: Sequence[int], shape: tuple[int, ...]
) -> torch.Tensor:
    """A vector along one axis, as one along the product of several; a single number stays one."""
    if axis < 0:
        return vector
    sizes = [shape[other] for other in along]
    aligned = [shape[other] if other == axis else 1 for other in along]
    return vector.reshape(aligned).expand(sizes).reshape(-1)


def _on_side(side: int, vector: torch.Tensor) -> Vectors:
    return (None, vector) if side else (vector, None)


def _approximation(name: str, spec: Spec) -> str:
    """A note, if the elements are not independent and normal."""
    leaves = [part.spec for part in spec.parts] if isinstance(spec, Blocks) else [spec]
    other = dict.fromkeys(str(leaf) for leaf in leaves if not isinstance(leaf, (Normal, Constant)))
    if not other:
        return ""
    named = ", ".join(text if len(text) <= 60 else f"{text[:57]}..." for text in other)
    return f"{name}: {named} drawn as normal with the same mean and standard deviation"
