"""From float32 to the type of a parameter: to nearest even, saturating in fp8, exact in float64.

Types that NumPy lacks are returned as their bits, in unsigned integers of their width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from initium.errors import SpecError
from initium.stream import native

__all__ = ["CASTS", "bfloat16", "cast", "float8_e4m3fn", "float8_e5m2", "float16"]

_CHUNK = 1 << 20


def cast(values: np.ndarray, dtype: str) -> np.ndarray:
    """Round float32 values to a type named as in torch.

    Args:
        values: float32 array.
        dtype: one of :data:`CASTS`.

    Returns:
        array of the same shape: float32, float64 or float16, else the bits as uint16 or uint8.

    Example:
        >>> [hex(bits) for bits in cast(np.float32([1, 0.1, 3e38]), "bfloat16")]
        ['0x3f80', '0x3dcd', '0x7f62']
        >>> [hex(bits) for bits in cast(np.float32([1, 0.1, 3e38]), "float8_e4m3fn")]
        ['0x38', '0x1d', '0x7e']
    """
    if dtype not in CASTS:
        raise SpecError(
            "is not a type that a parameter can be drawn in",
            where="dtype",
            value=dtype,
            choices=CASTS,
        )
    convert, storage = CASTS[dtype]
    values = np.asarray(values, np.float32, order="C")
    if values.dtype.name == storage:
        return values
    out = np.empty(values.shape, storage)
    flat_in, flat_out = values.reshape(-1), out.reshape(-1)
    using = native.level_for(values.size)
    if using:
        native.cast(values, out, dtype, using=using)
        return out
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, flat_in.size, _CHUNK):
            flat_out[start : start + _CHUNK] = convert(flat_in[start : start + _CHUNK])
    return out


def bfloat16(values: np.ndarray) -> np.ndarray:
    """The upper 16 bits of float32 after rounding to nearest even; NaN is 0x7fc0."""
    bits = values.view(np.uint32)
    half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    rounded = ((bits + half) >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def float16(values: np.ndarray) -> np.ndarray:
    """IEEE half precision; what is too large becomes infinite, NaN is 0x7e00."""
    return np.where(np.isnan(values), np.float16(np.nan), values.astype(np.float16))


def float8_e4m3fn(values: np.ndarray) -> np.ndarray:
    """4 exponent and 3 mantissa bits, bias 7, up to 448, without infinities; NaN is 0x7f."""
    return _float8(values, mantissa=3, bias=7, largest=448.0)


def float8_e5m2(values: np.ndarray) -> np.ndarray:
    """5 exponent and 2 mantissa bits, bias 15, up to 57344; NaN is 0x7f."""
    return _float8(values, mantissa=2, bias=15, largest=57344.0)


def _float8(values: np.ndarray, *, mantissa: int, bias: int, largest: float) -> np.ndarray:
    """Nearest even, saturating: above ``largest``, infinities included, becomes ``largest``.

    Source: OCP 8-bit Floating Point Specification, revision 1.0. Known divergence: torch turns
    what is too large into NaN (e4m3fn) or infinity (e5m2).
    """
    sign = ((values.view(np.uint32) >> np.uint32(24)) & np.uint32(0x80)).astype(np.uint8)
    size = np.minimum(np.abs(values), np.float32(largest))
    bits, shift = size.view(np.uint32), np.uint32(23 - mantissa)
    half = np.uint32((1 << (22 - mantissa)) - 1) + ((bits >> shift) & np.uint32(1))
    rebias = np.uint32((127 - bias) << mantissa)
    normal = ((bits + half) >> shift) - rebias
    magic = np.float32(2.0 ** (24 - bias - mantissa))
    subnormal = (size + magic).view(np.uint32) - magic.view(np.uint32)
    least_normal = np.float32(2.0 ** (1 - bias))
    code = np.where(size < least_normal, subnormal, normal).astype(np.uint8)
    return np.where(np.isnan(values), np.uint8(0x7F), code | sign)


def _identity(values: np.ndarray) -> np.ndarray:
    return values


CASTS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "float32": (_identity, "float32"),
    "float64": (_identity, "float64"),
    "float16": (float16, "float16"),
    "bfloat16": (bfloat16, "uint16"),
    "float8_e4m3fn": (float8_e4m3fn, "uint8"),
    "float8_e5m2": (float8_e5m2, "uint8"),
}
"""The rounding to every type, and the NumPy type that holds the result."""
