"""One large parameter during a draw: the laws of its matrices, or its values where it was made.

The first product settles which axes are rows, which are columns, and which number matrices of
their own (experts). Every matrix is ``diag(a) law diag(b) + c d^T``, with vectors from the blocks
of its spec. A product that would see half of a matrix makes it instead: what was seen stays, and a
matrix that was never used gets the values of its spec, whatever that is.

Approximations, each with a note: as long as a matrix is not made, elements that are neither normal
nor constant count as normal with the same mean and standard deviation, and so do orthogonal parts
of a fused weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from initium import stream
from initium._plan import Entry
from initium._predict.lazy.law import Haar
from initium._predict.lazy.matrix import INDEPENDENT, Matrix, matrix_of
from initium._predict.lazy.view import View
from initium.errors import ModelError, PlanError
from initium.spec import Blocks, Keep, Orthogonal, Spec, Value

__all__ = ["Place", "Shared", "Source", "values"]


@dataclass(slots=True)
class Shared:
    """What all parameters of one draw share: the seed, the bytes that may still be spent, notes.

    In the ``last`` backward pass, what is known of a matrix is freed with the last product that the
    pass can ask for. With ``even``, products have the
    moments of infinite width, while ``stretch`` even where finitely many directions do not have
    them on average. ``used`` is the weight, and the side of it, of the last product, and ``scale``
    what it gave to each channel, where that differs. A product of which the lengths are other than
    expected by a larger share than ``bound`` is not stretched, and ``astray`` says so. ``both``:
    weights that were used from both sides on the way forward; in those of ``free``, what
    was looked up has the lengths of infinite width and the angles of random vectors.
    """

    seed: int
    memory: int
    last: bool = False
    even: bool = False
    stretch: bool = True
    bound: float | None = None
    astray: bool = False
    used: tuple[str, int] | None = None
    scale: torch.Tensor | None = None
    free: frozenset[str] = frozenset()
    both: set[str] = field(default_factory=set)
    notes: dict[str, None] = field(default_factory=dict)

    def note(self, text: str) -> None:
        self.notes[text] = None

    def spend(self, size: int) -> bool:
        """Whether there is memory for so many bytes; if so, it is taken."""
        fits = size <= self.memory
        self.memory -= size if fits else 0
        return fits


def values(
    name: str, entry: Entry, seed: int, dtype: torch.dtype, index: tuple[int | slice, ...] = ()
) -> torch.Tensor:
    """The values of a parameter or buffer, or of an index into it, from the stream.

    Raises:
        PlanError: the entry is kept as the model has it.
    """
    spec = entry.spec
    if isinstance(spec, Keep):
        raise PlanError(
            "is kept as the model has it, and the model has no values for it on the meta device",
            where=name,
            fix="give it a distribution in the plan, or build the model with its buffers",
        )
    drawn = stream.draw(spec, seed=seed, name=name, shape=entry.shape, index=index)
    if isinstance(spec, Value) and spec.dtype in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        bits = drawn.view(np.int16 if spec.dtype == "bfloat16" else np.uint8)
        return torch.from_numpy(bits).view(getattr(torch, spec.dtype)).to(dtype)
    return torch.from_numpy(np.asarray(drawn)).to(dtype)


@dataclass(frozen=True, slots=True)
class Place:
    """A matrix as a product finds it: the side of what it is given, and the axes of both sides."""

    matrix: Matrix
    side: int
    given: tuple[int, ...]
    made: tuple[int, ...]


class Source:
    """A large parameter.

    Args:
        name: canonical.
        entry: its plan.
        dtype: of the tensor.
        trained: whether gradients are wanted behind it.
        shared: of this draw.
        held: its values, where the plan keeps them.
    """

    def __init__(
        self,
        name: str,
        entry: Entry,
        dtype: torch.dtype,
        trained: bool,
        shared: Shared,
        held: torch.Tensor | None = None,
    ) -> None:
        self.name = name
        self.entry = entry
        self.dtype = dtype
        self.shared = shared
        self.values = held
        self.anchor = torch.zeros((), dtype=dtype, requires_grad=True) if trained else None
        self.layout: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None = None
        self.matrices: dict[tuple[int, ...], Matrix] = {}

    @property
    def work(self) -> torch.dtype:
        """The dtype in which products are drawn."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    @property
    def size(self) -> int:
        """Bytes of its values."""
        return math.prod(self.entry.shape) * self.dtype.itemsize

    def place(
        self, given: frozenset[int], made: frozenset[int], view: View, count: int
    ) -> Place | None:
        """The matrix behind a view, for ``count`` vectors; ``None`` where it has to be made whole.

        Args:
            given, made: axes that are contracted and produced.
            view: says which matrix of a stack.
            count: of vectors, of which each may be a new direction.
        """
        shape = self.entry.shape
        if self.values is None and not _lazy(self.entry.spec) and self.size <= self.shared.memory:
            self.whole("its distribution")
        if self.values is not None or given & made or min(given | made, default=0) < 0:
            return None
        if self.layout is None:
            rows = made | {axis for axis, size in enumerate(shape) if size == 1} - given
            stacked = set(range(len(shape))) - given - rows
            self.layout = tuple(sorted(given)), tuple(sorted(rows)), tuple(sorted(stacked))
        columns, rows = frozenset(self.layout[0]), frozenset(self.layout[1])
        if given <= columns and made <= rows:
            side = 0
        elif given <= rows and made <= columns:
            side = 1
        else:
            return None
        key = tuple(view.start[axis] for axis in self.layout[2])
        matrix = self.matrices.get(key)
        if matrix is None:
            matrix = self.matrices[key] = self._matrix(key)
        crowded = matrix.seen + count > min(matrix.sizes) // 2
        if matrix.values is None and crowded and not self.shared.even:
            self._fill(key, matrix)
        if matrix.values is None and matrix.note:
            self.shared.note(matrix.note)
        return Place(matrix, side, self.layout[side], self.layout[1 - side])

    def whole(self, why: str) -> torch.Tensor:
        """All its values, in its dtype.

        Raises:
            ModelError: they do not fit into the memory that is left.
        """
        if self.values is None:
            if not self.shared.spend(self.size):
                raise ModelError(
                    f"is used by {why}, which needs its values, and they do not fit into the "
                    f"memory of a draw",
                    where=self.name,
                    value=f"{self.size / 1e9:.1f} GB",
                    fix="pass a larger memory=",
                )
            if self.matrices:
                self.values = self._assembled().to(self.dtype)
                self.matrices.clear()
            else:
                self.values = self._drawn(())
        return self.values

    def _assembled(self) -> torch.Tensor:
        assert self.layout is not None
        columns, rows, stacked = self.layout
        shape = self.entry.shape
        sizes = [shape[axis] for axis in (*stacked, *rows, *columns)]
        made = torch.empty(sizes, dtype=self.work)
        for key in np.ndindex(*(shape[axis] for axis in stacked)):
            matrix = self.matrices.get(key)
            if matrix is None:
                matrix = self._matrix(key)
                self._fill(key, matrix, always=True)
            found = matrix.make() if matrix.values is None else matrix.values
            made[key] = found.reshape(sizes[len(stacked) :])
        return made.permute(*np.argsort((*stacked, *rows, *columns)).tolist()).contiguous()

    def _fill(self, key: tuple[int, ...], matrix: Matrix, always: bool = False) -> None:
        """Make a matrix, if there is memory for it: of the spec itself where nothing was seen."""
        assert self.layout is not None
        columns, rows, stacked = self.layout
        if not always and not self.shared.spend(math.prod(matrix.sizes) * self.work.itemsize):
            return
        if matrix.seen or isinstance(matrix.law, Haar):
            matrix.values = matrix.make().to(self.work)
            return
        kept = [axis for axis in range(len(self.entry.shape)) if axis not in stacked]
        order = [kept.index(axis) for axis in (*rows, *columns)]
        drawn = self._drawn(key).to(self.work).permute(order)
        matrix.values = drawn.reshape(matrix.sizes[1], matrix.sizes[0])

    def _drawn(self, key: tuple[int, ...]) -> torch.Tensor:
        index: list[int | slice] = [slice(None)] * len(self.entry.shape)
        for axis, at in zip(self.layout[2] if self.layout and key else (), key, strict=True):
            index[axis] = at
        return values(self.name, self.entry, self.shared.seed, self.dtype, tuple(index))

    def _matrix(self, key: tuple[int, ...]) -> Matrix:
        assert self.layout is not None
        entry, seed = self.entry, self.shared.seed
        spec, shape, even = entry.spec, entry.shape, self.shared.even
        free = self.name in self.shared.free
        return matrix_of(self.name, spec, shape, self.layout, key, seed, self.work, even, free)


def _lazy(spec: Spec) -> bool:
    """Whether products can be drawn without the values: all elements alike, or Haar."""
    leaves = [part.spec for part in spec.parts] if isinstance(spec, Blocks) else [spec]
    return all(isinstance(leaf, (*INDEPENDENT, Orthogonal)) for leaf in leaves)
