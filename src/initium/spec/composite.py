"""Specs made of others, and those that are not random: blocks, literal values, leaving alone.

Not covered: several parameters drawn jointly (:mod:`initium.spec.joint`), and functions of a spec
(:mod:`initium.spec.views`).
"""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from initium.errors import SpecError
from initium.spec.base import UNKNOWN, Moments, Spec, call_text, integer, mixture, number, weighted

__all__ = ["Blocks", "Keep", "Part", "Value"]

_NATIVE = (
    *("float16", "float32", "float64", "complex64", "complex128", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
_BITS = {
    "bfloat16": "uint16",
    "float8_e4m3fn": "uint8",
    "float8_e5m2": "uint8",
}
"""Types that NumPy lacks, and the unsigned integers that hold their bits."""


@dataclass(frozen=True)
class Part:
    """One block of a tensor and its spec: same fields as :class:`initium._types.Block`.

    The block holds, along ``axis``, the positions ``start + k * stride + [0, size)`` for
    ``k < count``. These runs are joined into one tensor, which ``spec`` describes; if ``stacked``,
    every run is a tensor of its own (experts, groups), and the spec is drawn anew for each.
    """

    axis: int
    start: int
    size: int
    spec: Spec
    count: int = 1
    stride: int = 0
    stacked: bool = False

    def __post_init__(self) -> None:
        for field, least in (("axis", 0), ("start", 0), ("size", 0), ("count", 1), ("stride", 0)):
            value = integer("part", field, getattr(self, field), least=least)
            object.__setattr__(self, field, value)
        if not isinstance(self.spec, Spec):
            raise SpecError(
                "is not a distribution",
                where="part: spec",
                value=self.spec,
                fix="pass one, such as normal(0.02)",
            )
        if self.count > 1 and self.stride < self.size:
            raise SpecError(
                f"is below the size {self.size}, so that the repeats overlap",
                where="part: stride",
                value=self.stride,
                fix="pass the distance from one repeat to the next",
            )

    def __str__(self) -> str:
        return call_text("part", self)

    def runs(self) -> list[tuple[int, int]]:
        """The half-open ranges along the axis that the part holds."""
        starts = (self.start + k * self.stride for k in range(self.count))
        return [(start, start + self.size) for start in starts]

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape that the part's spec describes, in a tensor of ``shape``."""
        length = self.size if self.stacked else self.size * self.count
        return (*shape[: self.axis], length, *shape[self.axis + 1 :])


@dataclass(frozen=True)
class Blocks(Spec):
    """Parts along one axis that hold every element exactly once.

    Example:
        >>> from initium.spec import Constant, Normal
        >>> print(Blocks((Part(0, 0, 2, Normal(1)), Part(0, 2, 4, Constant(0)))))
        blocks([part(0, 0, 2, normal(1)), part(0, 2, 4, constant(0))])
    """

    name: ClassVar[str] = "blocks"
    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        parts = self.parts
        if not isinstance(parts, (tuple, list)) or not parts:
            raise SpecError("needs at least one part", where=self.name, value=parts)
        for part in parts:
            if not isinstance(part, Part):
                raise SpecError(
                    "is not a part",
                    where=self.name,
                    value=part,
                    fix="pass part(axis, start, size, spec)",
                )
            if isinstance(part.spec, Keep) or (
                isinstance(part.spec, Value) and part.spec.dtype != "float32"
            ):
                raise SpecError(
                    "a part must be drawn or be a float32 value",
                    where=self.name,
                    value=str(part.spec)[:60],
                    fix="give the part a distribution, or keep the whole parameter",
                )
            if part.axis != parts[0].axis:
                raise SpecError(
                    "parts lie along different axes",
                    where=self.name,
                    value=(parts[0].axis, part.axis),
                    fix="nest blocks inside a part to divide a second axis",
                )
        object.__setattr__(self, "parts", tuple(parts))
        end = 0
        for start, stop in sorted(run for part in parts for run in part.runs()):
            if start != end:
                raise SpecError(
                    f"parts {'leave a gap' if start > end else 'overlap'} along axis {self.axis}",
                    where=self.name,
                    value=(min(start, end), max(start, end)),
                    fix="let the parts hold every position exactly once",
                )
            end = stop

    @property
    def axis(self) -> int:
        """The axis that is divided."""
        return self.parts[0].axis

    @property
    def length(self) -> int:
        """The length of that axis."""
        return sum(part.size * part.count for part in self.parts)

    def check(self, shape: Sequence[int]) -> None:
        if self.axis >= len(shape) or shape[self.axis] != self.length:
            raise SpecError(
                f"needs axis {self.axis} of length {self.length}",
                where=self.name,
                value=tuple(shape),
                fix="let the parts hold every position of that axis exactly once",
            )
        for part in self.parts:
            part.spec.check(part.shape(shape))

    def scaled(self, factor: float) -> Blocks:
        return Blocks(tuple(replace(part, spec=part.spec.scaled(factor)) for part in self.parts))

    def _moments(self, shape: tuple[int, ...]) -> Moments:
        return mixture(
            (part.size * part.count, part.spec.moments(part.shape(shape))) for part in self.parts
        )


@dataclass(frozen=True, eq=False)
class Value(Spec):
    """A literal tensor: base64 of zlib of its raw little-endian bytes.

    Two values are equal if their types, shapes and bytes are, however they were compressed.

    Args:
        dtype: a type's name in torch, such as ``"float32"`` or ``"bfloat16"``.
        shape: of the tensor.
        data: the text; :meth:`of` makes it from an array.

    Example:
        >>> Value.of(np.arange(3)).array()
        array([0, 1, 2])
    """

    name: ClassVar[str] = "value"
    dtype: str
    shape: tuple[int, ...]
    data: str

    def __post_init__(self) -> None:
        if self.dtype not in (*_NATIVE, *_BITS):
            raise SpecError(
                "is not a known type",
                where="value: dtype",
                value=self.dtype,
                choices=(*_NATIVE, *_BITS),
            )
        if not isinstance(self.shape, (tuple, list)):
            raise SpecError("is not a tuple of sizes", where="value: shape", value=self.shape)
        shape = tuple(integer(self.name, "shape", size) for size in self.shape)
        object.__setattr__(self, "shape", shape)
        self._bytes()

    @classmethod
    def of(cls, array: np.ndarray, dtype: str | None = None) -> Value:
        """The value of an array; with ``dtype``, cast to it, or its bits for a type NumPy lacks."""
        array = np.asarray(array)
        name = dtype or array.dtype.name
        if name in _BITS and array.dtype.name != _BITS[name]:
            raise SpecError(
                f"{name} is stored as the bits of {_BITS[name]}",
                where="value: array",
                value=array.dtype.name,
                fix="round it with initium.stream.cast first",
            )
        if name in _NATIVE:
            array = array.astype(name)
        raw = array.astype(array.dtype.newbyteorder("<")).tobytes()
        return cls(name, array.shape, base64.b64encode(zlib.compress(raw, 9)).decode("ascii"))

    def array(self) -> np.ndarray:
        """The tensor as an array (as unsigned bits for a type that NumPy lacks)."""
        return np.frombuffer(self._bytes(), self._storage()).reshape(self.shape).copy()

    def check(self, shape: Sequence[int]) -> None:
        if tuple(shape) != self.shape:
            raise SpecError(
                f"holds a tensor of shape {self.shape}",
                where=self.name,
                value=tuple(shape),
                fix="make the plan anew for this model",
            )

    def scaled(self, factor: float) -> Value:
        if not self.dtype.startswith(("float", "complex")) or self.dtype in _BITS:
            raise SpecError(
                "cannot be scaled",
                where=self.name,
                value=self.dtype,
                choices=[dtype for dtype in _NATIVE if dtype.startswith(("float", "complex"))],
            )
        scaled = self.array() * number("scaled", "factor", factor)
        return Value.of(np.asarray(scaled), self.dtype)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Value) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[str, tuple[int, ...], bytes]:
        return self.dtype, self.shape, self._bytes()

    def _storage(self) -> np.dtype:
        return np.dtype(_BITS.get(self.dtype, self.dtype)).newbyteorder("<")

    def _bytes(self) -> bytes:
        size = math.prod(self.shape) * self._storage().itemsize
        try:
            packed = base64.b64decode(self.data, validate=True)
            reader = zlib.decompressobj()
            raw = reader.decompress(packed, size + 1)
            whole = reader.eof and len(raw) == size
        except (binascii.Error, zlib.error, TypeError, ValueError):
            whole = False
        if not whole:
            raise SpecError(
                f"is not base64 of zlib of the {size} bytes of a {self.dtype} {self.shape}",
                where="value: data",
                value=str(self.data)[:40],
                fix="the file is damaged: make it anew",
            )
        return raw

    def _moments(self, shape: tuple[int, ...]) -> Moments:
        if self.dtype.startswith(("complex", "float8")):
            return UNKNOWN
        array = self.array()
        if self.dtype == "bfloat16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        values = array.astype(np.float64)
        if not np.isfinite(values).all():
            return UNKNOWN
        return weighted(values.reshape(-1), np.ones(values.size))


@dataclass(frozen=True)
class Keep(Spec):
    """Leave the parameter as the model has it, on purpose; nothing is known of its values."""

    name: ClassVar[str] = "keep"

    def scaled(self, factor: float) -> Spec:
        raise SpecError(
            "is left alone and cannot be scaled",
            where=self.name,
            fix="give the parameter a distribution",
        )

    def _moments(self, shape: tuple[int, ...]) -> Moments:
        return UNKNOWN
