"""Hypothesis strategies for shapes, indices and specs."""

from __future__ import annotations

import math
import re

import numpy as np
from hypothesis import strategies as st

from initium.spec import (
    Arange,
    Blocks,
    Complements,
    Constant,
    DeltaOrthogonal,
    Dirac,
    Hadamard,
    Identity,
    InverseSoftplus,
    Joint,
    Logarithm,
    LogUniform,
    Mirrored,
    Normal,
    Orthogonal,
    Part,
    Power,
    SinCos,
    Sparse,
    Spec,
    TruncatedNormal,
    Uniform,
    Value,
)

numbers = st.floats(-100, 100, allow_nan=False).map(lambda x: x + 0.0)
stds = st.floats(0.001, 10)
gains = st.sampled_from([0.1, 0.5, 1.0, 2.0**0.5, -1.0])
shapes = st.lists(st.integers(1, 7), min_size=0, max_size=4).map(tuple)
matrix_shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))


def cuts() -> st.SearchStrategy[float | tuple[float, float]]:
    """Cuts of a truncated normal that keep enough of it."""
    low = st.sampled_from([-math.inf, -3.0, -1.0, 0.0, 0.5])
    high = st.sampled_from([0.75, 1.0, 2.5, math.inf])
    return st.floats(0.5, 8) | st.tuples(low, high)


@st.composite
def uniforms(draw: st.DrawFn) -> Uniform:
    """Uniforms, of zero width at times."""
    low, high = sorted((draw(numbers), draw(numbers)))
    return Uniform(low, high)


elementwise: st.SearchStrategy[Spec] = st.one_of(
    numbers.map(Constant),
    st.builds(Normal, stds, numbers),
    uniforms(),
    st.builds(TruncatedNormal, stds, numbers, cuts(), st.booleans()),
)


positive: st.SearchStrategy[Spec] = st.one_of(
    st.floats(0.01, 10).map(Constant),
    st.builds(Uniform, st.floats(0.01, 1), st.floats(1, 10)),
    st.builds(LogUniform, st.floats(0.01, 1), st.floats(1, 10)),
    st.builds(Arange, st.floats(0.01, 1), st.floats(0, 2)),
)
views: st.SearchStrategy[Spec] = st.one_of(
    positive,
    st.builds(Logarithm, positive),
    st.builds(InverseSoftplus, positive, st.sampled_from([0.0, 0.5])),
    st.builds(Power, positive, st.sampled_from([1.0, 0.5, -2.0]), stds, numbers),
)


@st.composite
def matrices(draw: st.DrawFn) -> tuple[Spec, tuple[int, ...]]:
    """A spec that is not elementwise, and a shape that it fits."""
    gain = draw(gains)
    groups = draw(st.integers(1, 3))
    kernel = (groups * draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 3)))
    choices: list[tuple[Spec, tuple[int, ...]]] = [
        (Orthogonal(gain), draw(matrix_shapes)),
        (Orthogonal(gain, (2, 0), (1,)), (2, *draw(matrix_shapes), 2)),
        (DeltaOrthogonal(gain, groups), kernel),
        (Dirac(gain, groups), kernel),
        (Identity(gain), draw(matrix_shapes)),
        (Sparse(draw(st.floats(0, 0.99)), draw(stds)), draw(matrix_shapes)),
        (Hadamard(gain), draw(matrix_shapes)),
        (Mirrored(Orthogonal(gain), (1,)), (draw(st.integers(1, 5)), 6)),
        (Mirrored(DeltaOrthogonal(gain)), (4, 2 * draw(st.integers(1, 3)), 3)),
        (Joint(Complements(draw(stds)), draw(st.integers(0, 1)), "pair", 1, gain), (kernel[0], 4)),
        (SinCos((2, 3), 1, 100.0, draw(st.booleans()), gain), (2, 7, 8)),
    ]
    return draw(st.sampled_from(choices))


@st.composite
def blocks(draw: st.DrawFn) -> tuple[Blocks, tuple[int, ...]]:
    """Interleaved or stacked parts of a matrix, along either axis."""
    axis, size, count = draw(st.integers(0, 1)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    leaf = st.one_of(elementwise, views, gains.map(Orthogonal), st.just(Sparse(0.5, 1.0)))
    parts = tuple(
        Part(axis, size * k, size, draw(leaf), count, 2 * size, draw(st.booleans()))
        for k in range(2)
    )
    other = draw(st.integers(1, 5))
    length = 2 * size * count
    return Blocks(parts), (length, other) if axis == 0 else (other, length)


@st.composite
def values(draw: st.DrawFn) -> tuple[Value, tuple[int, ...]]:
    """Literal tensors of several types."""
    shape = draw(shapes)
    dtype = draw(st.sampled_from(["float32", "float64", "int64", "bool", "uint8"]))
    return Value.of(np.arange(math.prod(shape)).reshape(shape), dtype), shape


@st.composite
def fitted(draw: st.DrawFn) -> tuple[Spec, tuple[int, ...]]:
    """Any spec that can be drawn, and a shape that it fits."""
    plain = st.tuples(elementwise, shapes)
    viewed = st.tuples(views, st.lists(st.integers(1, 7), min_size=1, max_size=3).map(tuple))
    return draw(st.one_of(plain, viewed, matrices(), blocks(), values()))


@st.composite
def indices(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[slice | int, ...]:
    """Slices and integers into some of the axes of a shape."""
    chosen: list[slice | int] = []
    for size in shape[: draw(st.integers(0, len(shape)))]:
        integer = st.integers(-size, size - 1)
        chosen.append(draw(st.one_of(st.slices(size), integer)))
    return tuple(chosen)


def label(item: object) -> str:
    """The text of a test's argument, the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(item))
