"""Normal, uniform and truncated normal numbers in any tensor, with torch's checks.

Scales that float32 does not hold, which only float64 tensors can have, are applied by torch to
standard numbers.
"""

from __future__ import annotations

import math
import warnings

import torch

from initium.errors import SpecError
from initium.init._tails import tail
from initium.init._target import (
    abstract,
    fillable,
    parts,
    seed_from,
    trial,
    within_float32,
    write,
)
from initium.spec import Constant, Normal, TruncatedNormal, Uniform
from initium.spec.gaussian import cdf

__all__ = ["normal", "truncated", "uniform", "write_normal"]

_LEAST_MASS = 2.0**-12
"""Windows that keep less of the normal have too few points on the grid of the stream."""
_FAR = 64.0
"""Beyond so many sigmas a bound has no effect."""


@torch.no_grad()
def normal(
    tensor: torch.Tensor, mean: float, std: float, generator: torch.Generator | None
) -> torch.Tensor:
    """N(mean, std^2); the parts of complex numbers have half of the variance each, as in torch."""
    if not fillable(tensor):
        return tensor.normal_(mean, std, generator=generator)
    one, scratch = trial(tensor)
    one.normal_(mean, std, generator=scratch)
    write_normal(tensor, float(mean), float(std), seed_from(generator))
    return tensor


def write_normal(tensor: torch.Tensor, mean: float, std: float, seed: int) -> None:
    target = parts(tensor)
    std = std * math.sqrt(0.5) if tensor.is_complex() else std
    if within_float32(mean, std):
        write(target, Normal(std, mean), seed)
    else:
        write(target, Normal(1.0), seed)
        target.mul_(std).add_(mean)


@torch.no_grad()
def uniform(
    tensor: torch.Tensor, a: float, b: float, generator: torch.Generator | None
) -> torch.Tensor:
    """Uniform on [a, b]."""
    if not fillable(tensor):
        return tensor.uniform_(a, b, generator=generator)
    one, scratch = trial(tensor)
    one.uniform_(a, b, generator=scratch)
    a, b, seed, target = float(a), float(b), seed_from(generator), parts(tensor)
    if within_float32(a, b):
        write(target, Uniform(a, b), seed)
    else:
        write(target, Uniform(-1.0, 1.0), seed)
        target.mul_(b / 2 - a / 2).add_(a / 2 + b / 2).clamp_(a, b)
    return tensor


@torch.no_grad()
def truncated(
    tensor: torch.Tensor,
    mean: float,
    std: float,
    a: float,
    b: float,
    generator: torch.Generator | None,
) -> torch.Tensor:
    """N(mean, std^2) on [a, b], by the inverse of its CDF; far tails as in :mod:`._tails`."""
    if abstract(tensor):
        return tensor
    outside = (mean < a - 2 * std) or (mean > b + 2 * std)
    mean, std, a, b = float(mean), abs(float(std)), float(a), float(b)
    low, high = (a - mean) / std, (b - mean) / std
    one, scratch = trial(tensor)
    if not a <= b:
        one.uniform_(a, b, generator=scratch)  # says why not
    if math.isnan(low) or math.isnan(high) or math.isinf(mean):
        raise SpecError("has no values", where="trunc_normal_", value=(mean, std, a, b))
    if outside:
        warnings.warn(
            "mean is more than 2 std from [a, b] in trunc_normal_: all values come from a tail",
            stacklevel=4,
        )
    if not fillable(tensor):
        return tensor.normal_(mean, std, generator=generator)
    one.normal_(generator=scratch).lt(0)  # refuses complex numbers
    seed = seed_from(generator)
    if a == b:
        write(tensor, Constant(a), seed)
    elif cdf(high) - cdf(low) < _LEAST_MASS:
        tensor.copy_(torch.from_numpy(tail(tuple(tensor.shape), seed, mean, std, a, b)))
    else:
        window = max(low, -_FAR), min(high, _FAR)
        if within_float32(mean, std):
            write(tensor, TruncatedNormal(std, mean, window, compensated=False), seed)
        else:
            write(tensor, TruncatedNormal(1.0, 0.0, window, compensated=False), seed)
            tensor.mul_(std).add_(mean).clamp_(a, b)
    return tensor
