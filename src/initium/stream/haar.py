"""Haar-random (semi-)orthogonal matrices, whose bits do not depend on the machine.

A product of Householder reflections of independent normal vectors, with the signs that make it
exactly Haar, in blocks of reflections. Matrices are multiplied in float64 from float32 numbers, so
that every product is exact, and added in a fixed order; results are rounded to float32. No BLAS,
whose order of summation varies. The compiled kernels do the same faster.

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


def haar(rows: int, columns: int, key: Key) -> np.ndarray:
    """A (rows, columns) float32 matrix, Q^T Q = I or, if it is wide, Q Q^T = I.

    With M the longer side and K the shorter, x_k is the vector of normals of elements
    k M + k .. k M + M - 1, v_k = x_k + sign(x_k0) |x_k| e_0, H_k = 1 - 2 v_k v_k^T / |v_k|^2 acts
    on the last M - k rows, and Q = H_0 ... H_{K-1} D restricted to its first K columns, with
    D = diag(-sign(x_k0)).
    """
    longer, shorter = max(rows, columns), min(rows, columns)
    using = native.level_for(longer * shorter)
    if using:
        matrix = native.haar(law_of(Normal(1.0), key), longer, shorter, using=using)
    else:
        matrix = reference(longer, shorter, key)
    return matrix.T if rows > columns else matrix


def reference(longer: int, shorter: int, key: Key) -> np.ndarray:
    """Q^T, of shape (shorter, longer), in NumPy."""
    matrix = np.eye(shorter, longer, dtype=np.float32)
    signs = np.empty(shorter, np.float32)
    for start in reversed(range(0, shorter, BLOCK)):
        stop = min(start + BLOCK, shorter)
        vectors, signs[start:stop] = _reflectors(range(start, stop), longer, key)
        part = matrix[start:, start:]
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
