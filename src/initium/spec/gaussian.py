"""The normal distribution's PDF and CDF, and moments of its truncation, the same on every machine.

``math.erf`` comes from the platform's C library and may differ in the last bit, so everything here
runs in :mod:`decimal` with 60 digits, whose operations are exactly specified, and is rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Context, Decimal, localcontext
from functools import lru_cache

__all__ = ["cdf", "grid", "pdf", "truncated"]

_CONTEXT = Context(prec=60, Emin=-999999, Emax=999999)
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899")
_BEYOND = 17.0
"""Beyond this many sigmas the tail is below 1e-60 and counts as empty."""


@lru_cache(maxsize=4096)
def pdf(x: float) -> Decimal:
    """exp(-x^2/2) / sqrt(2 pi).

    Example:
        >>> float(pdf(0.0))
        0.3989422804014327
    """
    if abs(x) > _BEYOND:
        return Decimal(0)
    with localcontext(_CONTEXT):
        return (-(Decimal(x) ** 2) / 2).exp() / (2 * _PI).sqrt()


@lru_cache(maxsize=4096)
def cdf(x: float) -> Decimal:
    """P(z <= x) = 1/2 + pdf(x) (x + x^3/3 + x^5/(3 5) + ...), a series of one sign.

    Example:
        >>> float(cdf(-2.0))
        0.02275013194817921
    """
    if abs(x) > _BEYOND:
        return Decimal(x > 0)
    with localcontext(_CONTEXT):
        square = Decimal(x) ** 2
        term = total = Decimal(x)
        odd = 1
        while abs(term) > Decimal("1e-62") * abs(total):
            odd += 2
            term *= square / odd
            total += term
        return Decimal("0.5") + pdf(x) * total


@lru_cache(maxsize=4096)
def grid(low: float, high: float) -> tuple[int, int]:
    """First point and number of points, of the 2^32 with probability (P + 1/2) 2^-32, in a range.

    Args:
        low, high: ends of the range of a standard normal.

    Example:
        >>> grid(-2.0, 2.0)
        (97711073, 4099545150)
    """
    with localcontext(_CONTEXT):
        first = math.ceil(cdf(low) * 2**32 - Decimal("0.5"))
        last = math.floor(cdf(high) * 2**32 - Decimal("0.5"))
    first, last = max(first, 0), min(last, 2**32 - 1)
    return first, last - first + 1


@lru_cache(maxsize=4096)
def truncated(low: float, high: float) -> tuple[float, float, float, float]:
    """Mean, standard deviation, skewness and kurtosis of a standard normal kept in [low, high].

    Raw moments by m_k = (k-1) m_{k-2} - (b^{k-1} pdf(b) - a^{k-1} pdf(a)) / (cdf(b) - cdf(a)).

    Source: Johnson, Kotz and Balakrishnan, Continuous Univariate Distributions 1, section 10.1.

    Example:
        >>> truncated(-2.0, 2.0)[1]
        0.8796256610342398
    """
    with localcontext(_CONTEXT):
        mass = cdf(high) - cdf(low)
        raw = [Decimal(0), Decimal(1)]
        for order in range(1, 5):
            edge = _edge(high, order) - _edge(low, order)
            raw.append((order - 1) * raw[-2] - edge / mass)
        return _standardised(raw[1:])


def _edge(x: float, order: int) -> Decimal:
    """x^(order - 1) pdf(x), which vanishes at infinity."""
    if math.isinf(x):
        return Decimal(0)
    return pdf(x) * Decimal(x) ** (order - 1) if order > 1 else pdf(x)


def _standardised(raw: Sequence[Decimal]) -> tuple[float, float, float, float]:
    _, mean, second, third, fourth = raw
    variance = second - mean**2
    std = variance.sqrt()
    m3 = third - 3 * mean * second + 2 * mean**3
    m4 = fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4
    return float(mean), float(std), float(m3 / std**3), float(m4 / variance**2)
