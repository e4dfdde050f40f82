"""Whole tensors of the specs that are not elementwise, from Haar matrices and ranked words."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from initium.spec import DeltaOrthogonal, Dirac, Hadamard, Orthogonal, Sparse
from initium.stream.elementwise import words
from initium.stream.haar import haar
from initium.stream.philox import Key

__all__ = ["delta_orthogonal", "dirac", "hadamard", "orthogonal", "zeros"]


def orthogonal(
    spec: Orthogonal, shape: tuple[int, ...], key: Key, local: tuple[np.ndarray, ...]
) -> np.ndarray:
    """The positions ``local`` of one matrix, laid out along the axes of ``shape``.

    Batch axes have length 1 in it.
    """
    inputs = spec.inputs(len(shape))
    at = _flat(shape, local, spec.outputs), _flat(shape, local, inputs)
    matrix = _scaled(haar(*spec.matrix(shape), key, at), spec.gain)
    order = spec.outputs + inputs + spec.batch
    laid_out = matrix.reshape([len(local[axis]) for axis in order])
    return np.moveaxis(laid_out, range(len(shape)), order)


def _flat(
    shape: tuple[int, ...], local: tuple[np.ndarray, ...], axes: tuple[int, ...]
) -> np.ndarray:
    """Positions in some axes that are made one, in the order in which they are given."""
    flat = np.zeros(1, np.int64)
    for axis in axes:
        flat = (flat[:, None] * shape[axis] + local[axis]).reshape(-1)
    return flat


def _scaled(matrix: np.ndarray, gain: float) -> np.ndarray:
    """float32 matrix * gain in place, multiplied in float64, in the order of memory."""
    if gain != 1.0:
        for run in matrix if matrix.flags.c_contiguous else matrix.T:
            run[:] = run * np.float64(gain)
    return matrix


def delta_orthogonal(
    spec: DeltaOrthogonal, shape: tuple[int, ...], keys: Callable[[int], Key]
) -> np.ndarray:
    """Zeros, but for one matrix per group at the centre tap n // 2 of every field axis."""
    tensor = np.zeros(shape, np.float32)
    for group, tap in enumerate(np.split(_centre(tensor), spec.groups)):
        tap[:] = _scaled(haar(tap.shape[0], tap.shape[1], keys(group)), spec.gain)
    return tensor


def dirac(spec: Dirac, shape: tuple[int, ...]) -> np.ndarray:
    """Zeros, but for ``gain`` at the centre tap from input i to output i of every group."""
    tensor = np.zeros(shape, np.float32)
    for tap in np.split(_centre(tensor), spec.groups):
        np.fill_diagonal(tap, spec.gain)
    return tensor


def hadamard(spec: Hadamard, shape: tuple[int, ...]) -> np.ndarray:
    """Zeros, but for the centre tap: gain / sqrt(p), negative if i & j has odd parity."""
    tensor = np.zeros(shape, np.float32)
    common = np.arange(shape[0])[:, None] & np.arange(shape[1])
    for shift in (32, 16, 8, 4, 2, 1):
        common ^= common >> shift
    value = spec.gain / math.sqrt(spec.order(shape))
    _centre(tensor)[:] = np.where(common & 1, -value, value)
    return tensor


def _centre(tensor: np.ndarray) -> np.ndarray:
    """The view [out, in] of the tap n // 2 of every field axis."""
    for size in tensor.shape[2:]:
        tensor = tensor[:, :, size // 2]
    return tensor


def zeros(spec: Sparse, shape: tuple[int, ...], columns: np.ndarray, key: Key) -> np.ndarray:
    """Where the given columns are zero: the rows whose random words rank lowest in the column.

    Element row * (number of columns) + column has the word; equal words rank by row.

    Returns:
        bool array of shape (rows, len(columns)).
    """
    rows = np.arange(shape[0])
    elements = (rows[:, None] * shape[1] + columns).astype(np.uint64)
    ranked = words(key, elements.reshape(-1)).reshape(elements.shape)
    lowest = np.argsort(ranked, axis=0, kind="stable")[: spec.zeros(shape[0])]
    zero = np.zeros(elements.shape, bool)
    np.put_along_axis(zero, lowest, True, axis=0)
    return zero
