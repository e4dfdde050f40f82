"""Haar-random (semi-)orthogonal matrices, whose bits do not depend on the machine.

A product of Householder reflections of independent normal vectors, with the signs that make it
exactly Haar, in float64. Every operation is elementwise or a sum in the order of the rows: no
BLAS, whose order of summation varies. Not covered: speed.

Source: Stewart, "The efficient generation of random orthogonal matrices with an application to
condition estimators", SIAM J. Numer. Anal. 17 (1980); signs as in Mezzadri 2007 (math-ph/0609050).
"""

from __future__ import annotations

import numpy as np

from initium.stream.elementwise import normals
from initium.stream.philox import Key

__all__ = ["haar"]

_WIDTH = 64
"""Columns that are worked on at a time, so that they stay in the cache."""


def haar(rows: int, columns: int, key: Key) -> np.ndarray:
    """A (rows, columns) float64 matrix, Q^T Q = I or, if it is wide, Q Q^T = I.

    With M the longer side and K the shorter, x_k is the vector of normals of elements
    k M + k .. k M + M - 1, v_k = x_k + sign(x_k0) |x_k| e_0, H_k = 1 - v_k v_k^T /
    (|x_k|^2 + |x_k| |x_k0|) acts on the last M - k rows, and Q = H_0 ... H_{K-1} D restricted to
    its first K columns, with D = diag(-sign(x_k0)).
    """
    longer, shorter = max(rows, columns), min(rows, columns)
    vectors, weights, signs = _reflectors(longer, shorter, key)
    matrix = np.zeros((longer, shorter))
    np.fill_diagonal(matrix, 1.0)
    for start, stop in _column_blocks(shorter):
        block = np.ascontiguousarray(matrix[:, start:stop])
        for k in range(stop - 1, -1, -1):
            _reflect(block[k:], vectors[k, k:], weights[k])
        matrix[:, start:stop] = block * signs[start:stop]
    return matrix if rows >= columns else matrix.T


def _reflectors(longer: int, shorter: int, key: Key) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """v_k as rows (zero before k), the factors of v_k v_k^T, and the diagonal of D."""
    vectors = np.zeros((shorter, longer))
    weights, signs = np.empty(shorter), np.empty(shorter)
    for k in range(shorter):
        elements = np.arange(k * longer + k, (k + 1) * longer, dtype=np.uint64)
        x = normals(key, elements).astype(np.float64)
        if not x.any():
            x[0] = 1.0
        square = np.add.accumulate(x * x)[-1]
        length, first = np.sqrt(square), x[0]
        sign = -1.0 if first < 0 else 1.0
        weights[k] = 1.0 / (square + length * abs(first))
        signs[k] = -sign
        x[0] = first + sign * length
        vectors[k, k:] = x
    return vectors, weights, signs


def _reflect(block: np.ndarray, vector: np.ndarray, weight: float) -> None:
    """block -= weight v (v^T block), in place; the sum runs over the rows in order.

    NumPy adds whole rows one after the other when it reduces axis 0 of two or more columns. With
    one column it does not, but then only the first row is not zero, and the sum is exact.
    """
    column = vector[:, None]
    product = block * column
    along = np.add.reduce(product, axis=0) * weight
    block -= np.multiply(column, along, out=product)


def _column_blocks(columns: int) -> list[tuple[int, int]]:
    """Ranges of about ``_WIDTH`` columns, never of a single one unless there is only one."""
    starts = list(range(0, max(columns - 1, 1), _WIDTH))
    return list(zip(starts, [*starts[1:], columns], strict=True))
