"""What a view of a weight shows, without the weight: positions along the axes of the parameter.

Every dimension of a view is a row-major product of atoms, and each atom steps along one axis.
Covered: transposes, permutations, selections, slices, and whatever reshapes can be told apart by
atoms, also across axes and after copies. Everything else raises :class:`NotAView`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

__all__ = ["REPEATED", "Atom", "NotAView", "View", "positions"]

REPEATED = -1
"""The axis of an atom that repeats its elements, as ``expand`` does."""


class NotAView(Exception):
    """A view that atoms cannot describe."""


@dataclass(frozen=True, slots=True)
class Atom:
    """``size`` positions along one axis of the parameter, ``step`` apart."""

    axis: int
    size: int
    step: int = 1


@dataclass(frozen=True, slots=True)
class View:
    """The atoms of each dimension, outer ones first; and where they begin, by axis."""

    dims: tuple[tuple[Atom, ...], ...]
    start: tuple[int, ...]

    @classmethod
    def of(cls, shape: Sequence[int]) -> View:
        """All of a parameter.

        Example:
            >>> View.of((4, 6)).permute((1, 0)).reshape((2, 3, 4)).shape
            (2, 3, 4)
        """
        dims = (((Atom(axis, size),) if size > 1 else ()) for axis, size in enumerate(shape))
        return cls(tuple(dims), (0,) * len(shape))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(math.prod(atom.size for atom in dim) for dim in self.dims)

    def axes(self, dim: int) -> frozenset[int]:
        """The axes along which a dimension runs."""
        return frozenset(atom.axis for atom in self.dims[dim])

    def permute(self, order: Sequence[int]) -> View:
        return replace(self, dims=tuple(self.dims[dim] for dim in order))

    def unsqueeze(self, dim: int) -> View:
        dim %= len(self.dims) + 1
        return replace(self, dims=(*self.dims[:dim], (), *self.dims[dim:]))

    def squeeze(self, chosen: Sequence[int] | None = None) -> View:
        count = len(self.dims)
        wanted = range(count) if chosen is None else [dim % count for dim in chosen]
        kept = (d for i, d in enumerate(self.dims) if d or i not in wanted)
        return replace(self, dims=tuple(kept))

    def expand(self, sizes: Sequence[int]) -> View:
        dims = ((),) * (len(sizes) - len(self.dims)) + self.dims
        grown = (
            (Atom(REPEATED, size, 0),) if not dim and size > 1 else dim
            for dim, size in zip(dims, sizes, strict=True)
        )
        return replace(self, dims=tuple(grown))

    def select(self, dim: int, index: int) -> View:
        dim %= len(self.dims)
        index %= self.shape[dim]
        start = list(self.start)
        for atom in reversed(self.dims[dim]):
            index, place = divmod(index, atom.size)
            if atom.axis != REPEATED:
                start[atom.axis] += place * atom.step
        return View(self.dims[:dim] + self.dims[dim + 1 :], tuple(start))

    def slice(self, dim: int, first: int, stop: int, step: int = 1) -> View:
        """Positions ``first, first + step, ...`` below ``stop``.

        Raises:
            NotAView: an empty slice, or one that cuts through an inner atom.
        """
        dim %= len(self.dims)
        length = self.shape[dim]
        first, stop, step = slice(first, stop, step).indices(length)
        if (first, stop, step) == (0, length, 1):
            return self
        if first >= stop:
            raise NotAView
        if not self.dims[dim]:
            return self
        outer, *rest = self.dims[dim]
        inner = math.prod(atom.size for atom in rest)
        if (inner > 1 and step != 1) or first % inner or stop % inner or outer.axis == REPEATED:
            raise NotAView
        start = list(self.start)
        start[outer.axis] += first // inner * outer.step
        taken = -(-(stop - first) // (inner * step))
        atoms = [Atom(outer.axis, taken, outer.step * step)] if taken > 1 else []
        dims = list(self.dims)
        dims[dim] = (*atoms, *rest)
        return View(tuple(dims), tuple(start))

    def reshape(self, sizes: Sequence[int]) -> View:
        """The same elements in row-major order; -1 stands for what is left.

        Raises:
            NotAView: a size cuts an atom unevenly.
        """
        total = math.prod(self.shape)
        if -1 in sizes:
            rest = math.prod(size for size in sizes if size != -1)
            sizes = [total // rest if size == -1 else size for size in sizes]
        if math.prod(sizes) != total:
            raise NotAView
        left = [atom for dim in reversed(self.dims) for atom in reversed(dim)]
        return replace(self, dims=tuple(_take(left, size) for size in sizes))

    def show(self, tensor: torch.Tensor) -> torch.Tensor:
        """The view of the real parameter, without a copy where its atoms allow that."""
        strides = [math.prod(tensor.shape[axis + 1 :]) for axis in range(tensor.dim())]
        atoms = [atom for dim in self.dims for atom in dim]
        begin = sum(at * stride for at, stride in zip(self.start, strides, strict=True))
        shown = tensor.as_strided(
            [atom.size for atom in atoms],
            [0 if atom.axis == REPEATED else atom.step * strides[atom.axis] for atom in atoms],
            begin,
        )
        return shown.reshape(self.shape)


def _take(left: list[Atom], size: int) -> tuple[Atom, ...]:
    """Atoms that make ``size``, off the end of a list."""
    taken: list[Atom] = []
    while size > 1:
        atom = left.pop()
        if atom.size > size:
            inner, uneven = divmod(atom.size, size)
            if uneven:
                raise NotAView
            left.append(Atom(atom.axis, inner, atom.step))
            atom = Atom(atom.axis, size, atom.step * inner)
        uneven = size % atom.size
        if uneven:
            raise NotAView
        size //= atom.size
        taken.append(atom)
    return tuple(taken)


@lru_cache(maxsize=1024)
def positions(
    view: View, dim: int, axes: tuple[int, ...], shape: tuple[int, ...]
) -> torch.Tensor | None:
    """Where a dimension's elements lie among those of ``axes`` in row-major order.

    ``None`` stands for all of them, in order.
    """
    stride = {axis: math.prod(shape[a] for a in axes[at + 1 :]) for at, axis in enumerate(axes)}
    found = torch.tensor(sum(view.start[axis] * stride[axis] for axis in axes))
    for atom in view.dims[dim]:
        found = found[..., None] + torch.arange(atom.size) * (atom.step * stride[atom.axis])
    found = found.reshape(-1)
    total = math.prod(shape[axis] for axis in axes)
    whole = len(found) == total and bool((found == torch.arange(total)).all())
    return None if whole else found
