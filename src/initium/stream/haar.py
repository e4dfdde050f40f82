"""Haar-random (semi-)orthogonal matrices, whose bits do not depend on the machine.

A product of Householder reflections of independent normal vectors, with the signs that make it
exactly Haar, in blocks of reflections. Matrices are multiplied in float64 from float32 numbers, so
that every product is exact, and added in a fixed order; results are rounded to float32. No BLAS,
whose order of summation varies. The compiled kernels do the same faster.

The rows of Q^T are independent of one another, so that any of them are made alone, in the time that
is their share. A column takes part in all rows: these are made panel by panel, in all of the time,
with no more memory than for what is asked or for ``PANEL`` numbers.

Source: Stewart, "The efficient generation of random orthogonal matrices with an application to
condition estimators", SIAM J. Numer. Anal. 17 (1980); signs as in Mezzadri 2007 (math-ph/0609050);
blocks as in Joffrain et al., "Accumulating Householder transformations, revisited", ACM TOMS 32
(2006).
"""

from __future__ import annotations

import numpy as np

from initium.spec import Normal
from initium.stream import native
from initium.stream.elementwise import law_of, normals
from initium.stream.philox import Key

__all__ = ["haar", "reference"]

BLOCK = 128
"""Reflections that are applied together: part of the definition of the bits."""
PANEL = 1 << 22
"""Numbers that are made at once however few of them are asked for; the bits do not depend on it."""


def haar(
    rows: int, columns: int, key: Key, at: tuple[np.ndarray, np.ndarray] | None = None
) -> np.ndarray:
    """A (rows, columns) float32 matrix, Q^T Q = I or, if it is wide, Q Q^T = I.

    Of it the rows and columns ``at`` these positions, if they are given.

    With M the longer side and K the shorter, x_k is the vector of normals of elements
    k M + k .. k M + M - 1, v_k = x_k + sign(x_k0) |x_k| e_0, H_k = 1 - 2 v_k v_k^T / |v_k|^2 acts
    on the last M - k rows, and Q = H_0 ... H_{K-1} D restricted to its first K columns, with
    D = diag(-sign(x_k0)).
    """
    longer, shorter = max(rows, columns), min(rows, columns)
    lines, places = at or (np.arange(rows), np.arange(columns))
    if rows > columns:
        return _part(longer, shorter, key, places, lines).T
    return _part(longer, shorter, key, lines, places)


def _part(longer: int, shorter: int, key: Key, lines: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The rows ``lines`` and columns ``places`` of Q^T."""
    high = max(1, max(PANEL, len(lines) * len(places)) // longer)
    first, last = int(lines.min()), int(lines.max())
    if last - first < high and len(places) == longer and (np.diff(lines) == 1).all():
        panel = _rows(longer, shorter, key, range(first, last + 1))
        return panel if (np.diff(places) == 1).all() else panel[:, places]
    out = np.empty((len(lines), len(places)), np.float32)
    for low in range(first, last + 1, high):
        mine = np.flatnonzero((lines >= low) & (lines < low + high))
        if len(mine):
            chosen = lines[mine]
            held = range(int(chosen.min()), int(chosen.max()) + 1)
            out[mine] = _rows(longer, shorter, key, held)[np.ix_(chosen - held.start, places)]
    return out


def _rows(longer: int, shorter: int, key: Key, rows: range) -> np.ndarray:
    """Neighbouring rows of Q^T, by the compiled kernels or else in NumPy."""
    using = native.level_for(longer * len(rows))
    if using:
        return native.haar(law_of(Normal(1.0), key), longer, shorter, rows, using=using)
    return reference(longer, shorter, key, rows)


def reference(longer: int, shorter: int, key: Key, rows: range | None = None) -> np.ndarray:
    """Q^T, of shape (shorter, longer), or neighbouring rows of it, in NumPy."""
    rows = range(shorter) if rows is None else rows
    matrix = np.eye(len(rows), longer, rows.start, dtype=np.float32)
    signs = np.empty(len(rows), np.float32)
    for start in reversed(range(0, rows.stop, BLOCK)):
        numbers = range(start, min(start + BLOCK, shorter))
        vectors, sign = _reflectors(numbers, longer, key)
        held = range(max(start, rows.start), min(numbers.stop, rows.stop))
        for k in held:
            signs[k - rows.start] = sign[k - start]
        part = matrix[max(start - rows.start, 0) :, start:]
        along = _product(part, vectors.T)
        along = _product(along, _triangle(vectors).T)
        part[...] = _added(part, along, -vectors)
    return matrix * signs[:, None]


def _reflectors(numbers: range, longer: int, key: Key) -> tuple[np.ndarray, np.ndarray]:
    """The v_k of a block as rows from its first column on, and their part of D."""
    vectors = np.zeros((len(numbers), longer - numbers.start), np.float32)
    signs = np.empty(len(numbers), np.float32)
    for row, k in enumerate(numbers):
        x = normals(key, np.arange(k * longer + k, (k + 1) * longer, dtype=np.uint64))
        if not x.any():
            x[0] = 1.0
        wide = x.astype(np.float64)
        sign = -1.0 if x[0] < 0 else 1.0
        x[0] = wide[0] + sign * np.sqrt(np.add.accumulate(wide * wide)[-1])
        vectors[row, row:], signs[row] = x, -sign
    return vectors, signs


def _triangle(vectors: np.ndarray) -> np.ndarray:
    """The upper triangular T with H_0 H_1 ... = 1 - V^T T V for the rows V, float32.

    T_kk = 2 / G_kk and T_ik = -(T_ii G_ik + T_i,i+1 G_i+1,k + ...) T_kk with G = V V^T, in float64.
    """
    size = len(vectors)
    gram = _sum(np.zeros((size, size)), vectors, vectors.T)
    triangle = np.zeros((size, size))
    for k in range(size):
        triangle[k, k] = 2.0 / gram[k, k]
        column = np.zeros(k)
        for i in range(k):
            column += triangle[:k, i] * gram[i, k]
        triangle[:k, k] = -column * triangle[k, k]
    return triangle.astype(np.float32)


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """float32 left @ right."""
    return _added(np.zeros((len(left), right.shape[1]), np.float32), left, right)


def _added(start: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """float32 start + left @ right."""
    return _sum(start.astype(np.float64), left, right).astype(np.float32)


def _sum(total: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """float64 total + left @ right, one product after the other in the order of the columns."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    for k in range(left.shape[1]):
        total += left[:, k, None] * right[k]
    return total
