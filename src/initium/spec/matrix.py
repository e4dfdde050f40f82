"""Specs that know which axes of a weight are its outputs and inputs.

Covered: orthogonal, its delta form for convolutions, Dirac, identity, Hadamard, sparse, and
mirrored forms. Convolution weights are ``[out, in / groups, *field]``, as in torch. Not covered:
a transposed convolution's ``[in, out, *field]`` for the delta and Dirac forms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

from initium.errors import SpecError
from initium.spec.base import Moments, Spec, at, integer, mixture, number
from initium.spec.elementwise import Normal

__all__ = [
    "DeltaOrthogonal",
    "Dirac",
    "Hadamard",
    "Identity",
    "Mirrored",
    "Orthogonal",
    "Sparse",
]


@dataclass(frozen=True)
class Orthogonal(Spec):
    """``gain`` times a Haar-random (semi-)orthogonal matrix, one for every batch index.

    The ``outputs`` axes, flattened in the order given, are the rows; all other axes outside
    ``batch`` the columns. Q Q^T = gain^2 I if rows <= columns, else Q^T Q = gain^2 I.
    An entry has variance gain^2 / M and kurtosis 3 M / (M + 2) with M = max(rows, columns).

    Source: Saxe, McClelland and Ganguli 2014 (arXiv:1312.6120); Mezzadri 2007 (math-ph/0609050).

    Example:
        >>> Orthogonal().moments((4, 16)).std
        0.25
    """

    name: ClassVar[str] = "orthogonal"
    gain: float = 1.0
    outputs: tuple[int, ...] = (0,)
    batch: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "gain", number(self.name, "gain", self.gain))
        for field in ("outputs", "batch"):
            axes = getattr(self, field)
            if not isinstance(axes, (tuple, list)):
                raise SpecError(
                    "is not a tuple of axes",
                    where=f"{self.name}: {field}",
                    value=axes,
                    fix=f"pass {field}=(0,)",
                )
            axes = tuple(integer(self.name, field, axis) for axis in axes)
            object.__setattr__(self, field, axes)
        axes = self.outputs + self.batch
        if not self.outputs or len(set(axes)) < len(axes):
            raise SpecError(
                "outputs and batch must name at least one output axis, and none twice",
                where=self.name,
                value=(self.outputs, self.batch),
                fix="name every axis once, such as outputs=(1,), batch=(0,)",
            )

    def check(self, shape: Sequence[int]) -> None:
        axes = self.outputs + self.batch
        if len(shape) < 2 or max(axes) >= len(shape) or len(shape) == len(self.batch) + 1:
            raise SpecError(
                f"needs a matrix: axes {axes} and at least one axis of inputs",
                where=str(self),
                value=tuple(shape),
                fix="use normal(std) for a vector, or name the axes in outputs= and batch=",
            )

    def matrix(self, shape: Sequence[int]) -> tuple[int, int]:
        """(rows, columns) of one matrix."""
        rows = math.prod(shape[axis] for axis in self.outputs)
        return rows, math.prod(shape[axis] for axis in self.inputs(len(shape)))

    def inputs(self, dimensions: int) -> tuple[int, ...]:
        """The axes that form the columns, in order."""
        return tuple(axis for axis in range(dimensions) if axis not in self.outputs + self.batch)

    def scaled(self, factor: float) -> Orthogonal:
        return replace(self, gain=self.gain * number("scaled", "factor", factor))

    def _moments(self, shape: tuple[int, ...]) -> Moments:
        return _haar(self.gain, *self.matrix(shape))


def _haar(gain: float, rows: int, columns: int) -> Moments:
    if gain == 0:
        return at(0.0)
    longer = max(rows, columns)
    return Moments(
        mean=0.0,
        std=abs(gain) / math.sqrt(longer),
        kurtosis=3 * longer / (longer + 2),
        low=-abs(gain),
        high=abs(gain),
        skewness=0.0,
    )


class _Kernel(Spec):
    """What the two forms with one non-zero tap share: ``[out, in / groups, *field]``."""

    gain: float
    groups: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "gain", number(self.name, "gain", self.gain))
        object.__setattr__(self, "groups", integer(self.name, "groups", self.groups, least=1))

    def check(self, shape: Sequence[int]) -> None:
        if len(shape) < 3:
            raise SpecError(
                "needs a convolution weight [out, in, *field]",
                where=str(self),
                value=tuple(shape),
                fix="use orthogonal(gain) or identity(gain) for a matrix",
            )
        if shape[0] % self.groups:
            raise SpecError(
                f"needs an output axis that divides into {self.groups} groups",
                where=str(self),
                value=tuple(shape),
                fix="set groups= to that of the convolution",
            )

    def scaled(self, factor: float) -> Spec:
        gain = self.gain * number("scaled", "factor", factor)
        return replace(self, gain=gain)  # type: ignore[type-var]


@dataclass(frozen=True)
class DeltaOrthogonal(_Kernel):
    """An orthogonal matrix per group at the centre tap, zeros elsewhere.

    Source: Xiao et al. 2018 (arXiv:1806.05393). Known divergence: there, out >= in is required;
    here a wide matrix is semi-orthogonal, as in ``torch.nn.init.orthogonal_``.

    Example:
        >>> DeltaOrthogonal().moments((8, 8, 1, 1)) == Orthogonal().moments((8, 8))
        True
    """

    name: ClassVar[str] = "delta_orthogonal"
    gain: float = 1.0
    groups: int = 1

    def _moments(self, shape: tuple[int, ...]) -> Moments:
        taps = math.prod(shape[2:])
        centre = _haar(self.gain, shape[0] // self.groups, shape[1])
        return centre if taps == 1 else mixture([(1, centre), (taps - 1, at(0.0))])


@dataclass(frozen=True)
class Dirac(_Kernel):
    """``gain`` at the centre tap from input i to output i of each group, zeros elsewhere.

    The layout of ``torch.nn.init.dirac_``, for any number of field axes.

    Example:
        >>> Dirac().moments((2, 2, 3)).mean
        0.16666666666666666
    """

    name: ClassVar[str] = "dirac"
    gain: float = 1.0
    groups: int = 1

    def _moments(self, shape: tuple[int, ...]) -> Moments:
        ones = self.groups * min(shape[0] // self.groups, shape[1])
        return _ones(self.gain, ones, math.prod(shape))


@dataclass(frozen=True)
class Identity(Spec):
    """``gain`` on the main diagonal of a matrix, zeros elsewhere, as ``torch.nn.init.eye_``.

    Example:
        >>> print(Identity(), Identity(0.5))
        identity() identity(gain=0.5)
    """

    name: ClassVar[str] = "identity"
    gain: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "gain", number(self.name, "gain", self.gain))

    def check(self, shape: Sequence[int]) -> None:
        _two_axes(self, shape, "use dirac(gain) for a convolution")

    def scaled(self, factor: float) -> Identity:
        return Identity(self.gain * number("scaled", "factor", factor))

    def _moments(self, shape: tuple[int, ...]) -> Moments:
        return _ones(self.gain, min(shape), math.prod(shape))


@dataclass(frozen=True)
class Hadamard(Spec):
    """The upper left corner of ``gain`` H / sqrt(p), with H the Hadamard matrix of Sylvester.

    p is the least power of two that is neither below the rows nor the columns, so that the columns
    (rows) of a tall (wide) matrix are orthogonal where p equals the longer side. A convolution
    weight has the matrix at its centre tap and zeros elsewhere.

    Source: Zhao, Schaefer and Anandkumar 2022, arXiv:2110.12661, algorithm 1.

    Example:
        >>> Hadamard().moments((16, 4)).high
        0.25
    """

    name: ClassVar[str] = "hadamard"
    gain: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "gain", number(self.name, "gain", self.gain))

    def check(self, shape: Sequence[int]) -> None:
        if len(shape) < 2:
            raise SpecError(
                "needs a matrix or a convolution weight",
                where=str(self),
                value=tuple(shape),
                fix="use constant(value) for a vector",
            )

    def order(self, shape: Sequence[int]) -> int:
        """p, the order of the matrix that it is a corner of."""
        longest = max(shape[0], shape[1])
        return 1 << (longest - 1).bit_length()

    def scaled(self, factor: float) -> Hadamard:
        return Hadamard(self.gain * number("scaled", "factor", factor))

    def _moments(self, shape: tuple[int, ...]) -> Moments:
        rows, columns = shape[:2]
        value = self.gain / math.sqrt(self.order(shape))
        size, taps = rows * columns, math.prod(shape[2:])
        plus = (size + _signs(rows, columns)) // 2
        return mixture([(plus, at(value)), (size - plus, at(-value)), ((taps - 1) * size, at(0.0))])


@lru_cache(maxsize=256)
def _signs(rows: int, columns: int) -> int:
    """The sum of the upper left corner of the Hadamard matrix, by its four quarters."""
    if min(rows, columns) <= 1:
        return rows * columns
    half = 1 << ((max(rows, columns) - 1).bit_length() - 1)
    top, left = min(rows, half), min(columns, half)
    below, right = rows - top, columns - left
    return _signs(top, left) + _signs(below, left) + _signs(top, right) - _signs(below, right)


@dataclass(frozen=True)
class Mirrored(Spec):
    """Along each of ``axes`` the second half is minus the first; ``of`` describes what is left.

    A matrix [[W, -W], [-W, W]] after a ReLU, or [W; -W] before it, makes pairs of units of which
    one is active at a time, so that the network starts linear.

    Args:
        of: the spec of W: orthogonal, delta_orthogonal, identity, dirac or hadamard.
        axes: those that are mirrored, of even length.

    Source: Balduzzi et al. 2017, arXiv:1702.08591, "looks linear".

    Example:
        >>> print(Mirrored(Orthogonal(), axes=(0,)))
        mirrored(orthogonal(), axes=(0,))
    """

    name: ClassVar[str] = "mirrored"
    of: Spec
    axes: tuple[int, ...] = (0, 1)

    def __post_init__(self) -> None:
        if not isinstance(self.of, (Orthogonal, DeltaOrthogonal, Identity, Dirac, Hadamard)):
            raise SpecError(
                "cannot be mirrored",
                where=f"{self.name}: of",
                value=str(self.of),
                choices=("orthogonal", "delta_orthogonal", "identity", "dirac", "hadamard"),
            )
        if not isinstance(self.axes, (tuple, list)):
            raise SpecError("is not a tuple of axes", where="mirrored: axes", value=self.axes)
        axes = tuple(integer(self.name, "axes", axis) for axis in self.axes)
        if not axes or len(set(axes)) < len(axes):
            raise SpecError(
                "must name an axis, and none twice", where="mirrored: axes", value=self.axes
            )
        object.__setattr__(self, "axes", axes)

    def check(self, shape: Sequence[int]) -> None:
        for axis in self.axes:
            if axis >= len(shape) or shape[axis] % 2:
                raise SpecError(
                    f"needs axis {axis} of even length",
                    where=str(self),
                    value=tuple(shape),
                    fix="mirror only axes of hidden units, in pairs",
                )
        self.of.check(self.half(shape))

    def half(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape that ``of`` describes."""
        return tuple(size // 2 if axis in self.axes else size for axis, size in enumerate(shape))

    def scaled(self, factor: float) -> Mirrored:
        return replace(self, of=self.of.scaled(factor))

    def _moments(self, shape: tuple[int, ...]) -> Moments:
        half = self.half(shape)
        return mixture([(1, self.of.moments(half)), (1, self.of.scaled(-1).moments(half))])


@dataclass(frozen=True)
class Sparse(Spec):
    """N(0, std^2) with exactly ceil(sparsity * rows) zeros, at random, in each column.

    Source: Martens 2010, as ``torch.nn.init.sparse_``.

    Example:
        >>> Sparse(0.75, 1.0).moments((8, 3)).std
        0.5
    """

    name: ClassVar[str] = "sparse"
    sparsity: float
    std: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "sparsity", number(self.name, "sparsity", self.sparsity))
        object.__setattr__(self, "std", number(self.name, "std", self.std, least=0))
        if not 0 <= self.sparsity < 1:
            raise SpecError(
                "is outside [0, 1)",
                where=f"{self.name}: sparsity",
                value=self.sparsity,
                fix="pass the fraction of zeros in each column, such as 0.9",
            )

    def check(self, shape: Sequence[int]) -> None:
        _two_axes(self, shape, "use normal(std) for other shapes")

    def zeros(self, rows: int) -> int:
        """How many elements of a column of this length are zero."""
        return math.ceil(self.sparsity * rows)

    def scaled(self, factor: float) -> Sparse:
        return replace(self, std=self.std * abs(number("scaled", "factor", factor)))

    def _moments(self, shape: tuple[int, ...]) -> Moments:
        rows = shape[0]
        zeros = self.zeros(rows)
        normal = Normal(self.std).moments(shape)
        return mixture([(rows - zeros, normal), (zeros, at(0.0))]) if zeros else normal


def _ones(gain: float, ones: int, size: int) -> Moments:
    return mixture([(ones, at(gain)), (size - ones, at(0.0))])


def _two_axes(spec: Spec, shape: Sequence[int], fix: str) -> None:
    if len(shape) != 2:
        raise SpecError("needs a matrix of two axes", where=str(spec), value=tuple(shape), fix=fix)
