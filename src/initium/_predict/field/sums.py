"""Giving tensors the moments that are predicted for them, and the moments of sums.

A sum of independent terms has the sum of their means and of their variances. It is normal where
every term is, or is too small to matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from initium._predict.field.fields import (
    SAMPLED,
    SIGMAS,
    Field,
    by_position,
    means,
    squares,
    weakest,
)
from initium._predict.field.quadrature import moments

__all__ = ["FEWEST", "SMALL", "Term", "channels_of", "expectation", "match", "summed"]

FEWEST = 16
"""Channels below which an average of a function over them is left as it is."""
SMALL = 0.05
"""Share of a sum's power below which a term need not be normal: its excess counts by the square."""
FAINT = 4.0
"""A term with at most so many times 1/channels of the power is noise of finite width."""
ROUNDING = 1e-9
"""A variance below this share of a second moment is none."""


@dataclass(frozen=True, slots=True)
class Term:
    """``factor * tensor`` in a sum; without a field it is a constant."""

    tensor: torch.Tensor
    factor: float = 1.0
    field: Field | None = None


def match(
    out: torch.Tensor,
    field: Field,
    second: torch.Tensor,
    mean: torch.Tensor | None = None,
    fewest: int = FEWEST,
    found: torch.Tensor | None = None,
) -> bool:
    """Give a tensor the moments that are predicted for its positions.

    Args:
        second: E[x^2] by position.
        mean: E[x]; it is given only to what has both signs, so that no root turns out missing, and
            a mean of zero is left to stray as it does.
        fewest: channels that it takes.
        found: the ``squares`` that the tensor has, where they are known.

    Returns:
        Whether it was possible: there are enough channels, and what is not zero can be.
    """
    if not out.is_floating_point() or (count := channels_of(out, field)) < fewest:
        return False
    found = squares(out, field) if found is None else found
    if mean is not None and count > 1 and _has_both_signs(out):
        held = _average(out, field)
        aim = torch.where(mean.square() > ROUNDING * second, mean, held)
        spread = second - aim.square()
        ratio = _ratio(spread, found - held.square())
        if ratio is not None and bool((spread > ROUNDING * second).all()):
            out.sub_(held.to(out.dtype)).mul_(ratio.to(out.dtype)).add_(aim.to(out.dtype))
            return True
    ratio = _ratio(second, found)
    if ratio is None:
        return False
    out.mul_(ratio.to(out.dtype))
    return True


def _has_both_signs(tensor: torch.Tensor) -> bool:
    low, high = tensor.aminmax()
    return low.item() < 0 < high.item()


def _ratio(predicted: torch.Tensor, found: torch.Tensor) -> torch.Tensor | None:
    some = found > 0
    ratio = torch.where(some, predicted / found, 1.0)
    possible = (ratio >= 0) & (ratio < torch.inf) & ~((found <= 0) & (predicted > 0))
    return ratio.sqrt_() if possible.all().item() else None


def channels_of(tensor: torch.Tensor, field: Field) -> int:
    """How many channels a tensor has."""
    assert field.channels is not None
    pairs = zip(tensor.shape, field.channels, strict=True)
    return math.prod(size for size, held in pairs if held)


def _average(tensor: torch.Tensor, field: Field) -> torch.Tensor:
    """The mean over channels as it is, by position."""
    assert field.channels is not None
    along = field.channels[len(field.channels) - tensor.dim() :]
    dims = [dim for dim, held in enumerate(along) if held]
    return tensor.float().mean(dims, keepdim=True).double() if dims else tensor.double()


def expectation(
    base: torch.Tensor, field: Field, made: object = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """E[f(z)] and E[f(z)^2] by position, for z with the moments that ``base`` has there."""
    second = squares(base, field)
    mean = means(base, field, second)
    return moments(made, mean, second - mean**2) if callable(made) else (mean, second)


def summed(out: torch.Tensor, plain: Field, terms: Sequence[Term], independent: bool) -> Field:
    """The field of a sum, whose moments are set where its terms are independent."""
    count = channels_of(out, plain)
    pairs = [_moments(term, plain) for term in terms]
    mean = sum((pair[0] for pair in pairs), torch.zeros((), dtype=torch.float64))
    spreads = [second - first.square() for first, second in pairs]
    second = sum(spreads, mean.square())
    power = float(second.mean())
    shares = [float(pair[1].mean()) / power if power > 0 else 1.0 for pair in pairs]
    tier = weakest(
        term.field
        for term, share in zip(terms, shares, strict=True)
        if count < FEWEST or share > FAINT / count
    )
    gaussian = all(
        _normal(term, plain, bool((pair[1] <= SMALL * second).all()))
        for term, pair in zip(terms, pairs, strict=True)
    )
    noise = (2 / count**0.5) * sum(
        float((one * other).sqrt().mean())
        for at, (_, one) in enumerate(pairs)
        for _, other in pairs[:at]
    )
    found = squares(out, plain)
    still = _still(terms)
    if still is not None:
        mean = torch.where(still, _average(out, plain), mean)
        second = torch.where(still, found, second)
    strange = abs(float(found.mean()) - power) > SIGMAS * noise + 1e-4 * power
    if not independent or strange or not match(out, plain, second, mean, 1, found):
        tier = SAMPLED
    return replace(plain, tier=tier, gaussian=gaussian, still=still)


def _still(terms: Sequence[Term]) -> torch.Tensor | None:
    """Where every term is a constant: what is known there is the sum itself."""
    held = [term.field.still for term in terms if term.field is not None]
    if not held or any(one is None for one in held):
        return None
    masks = [one for one in held if one is not None]
    return torch.stack(torch.broadcast_tensors(*masks)).all(0)


def _moments(term: Term, plain: Field) -> tuple[torch.Tensor, torch.Tensor]:
    """E and E of the square, by position."""
    tensor, field, factor = term.tensor, term.field, term.factor
    second = squares(tensor, plain)
    if field is None or not any(field.channels or ()):
        mean = _average(tensor, plain)
    elif field.gaussian and field.function is not None and field.base is not None:
        mean, _ = expectation(field.base, field, field.function)
    else:
        mean = means(tensor, plain, second)
    return factor * mean, factor * factor * second


def _normal(term: Term, plain: Field, small: bool) -> bool:
    field = term.field
    if field is None or not any(field.channels or ()):
        return small or by_position(term.tensor, plain.channels)
    return small or (field.gaussian and field.function is None)
