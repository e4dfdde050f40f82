"""Matrices that do not scatter about zero (IN205), and biases that shut gates (IN205).

Of n elements drawn from a symmetric law all have one sign with probability 2^(1 - n), so that a
matrix of one sign was drawn from another: its outputs all add up the same sum of their inputs. Not
covered: matrices of few elements or few rows, and those that are constant (IN403), sparse, an
identity, or set and not drawn: smooth, such as kernels that interpolate, of few distinct values, or
with rows that average. A bare parameter may be positive by design: information.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch

from initium._check.sample import sampled
from initium._check.thresholds import (
    GATE_SHUT,
    MEAN_FEWEST,
    MEAN_SHARE,
    MEAN_SIGMAS,
    ONE_SIGN,
    ROWS_FEWEST,
    SET_DISTINCT,
    SET_SMOOTH,
    SUM_TO_ONE,
)
from initium._check.values.parts import is_layer, matrices_in
from initium._check.words import also
from initium._report.records import Finding
from initium._types import ModelView

__all__ = ["find_shut_gates", "find_tilted"]

GATED = frozenset({"LSTM", "LSTMCell", "GRU", "GRUCell"})
LOOKED = 1 << 10
"""Elements in which distinct values are counted."""


def find_tilted(values: Mapping[str, torch.Tensor], view: ModelView) -> Iterable[Finding]:
    """Matrices of one sign, or with a mean that is larger than what they scatter (IN205)."""
    found: list[tuple[str, _Tilt]] = []
    for name, value in values.items():
        known = view.parameters[name]
        if not known.is_matrix or not known.trainable or known.role.startswith("lora"):
            continue
        tilted = [tilt for part in matrices_in(value, known) if (tilt := _tilt(part)) is not None]
        found += [(name, max(tilted, key=lambda tilt: tilt.share))] if tilted else []
    for layers in (True, False):
        some = [one for one in found if is_layer(view.parameters[one[0]]) == layers]
        if not some:
            continue
        names = tuple(name for name, _ in some)
        first, tilt = some[0]
        sign = f", and all of its {tilt.elements:,} elements have one sign" if tilt.one_sign else ""
        yield Finding(
            code="IN205",
            severity="warning" if layers else "info",
            title="weights with a mean",
            where=names,
            message=f"{first} has mean {tilt.mean:.2g} at std {tilt.std:.2g}{sign}: all its units "
            f"add up the same sum of their inputs{also(names, 'matrix')}",
            fix="draw the weights with mean zero",
            numbers={"mean": tilt.mean, "std": tilt.std, "matrices": len(names)},
        )


class _Tilt(NamedTuple):
    """Of one matrix."""

    mean: float
    std: float
    elements: int
    one_sign: bool

    @property
    def share(self) -> float:
        """mean^2 over E[w^2]."""
        return self.mean**2 / (self.mean**2 + self.std**2)


def _tilt(part: torch.Tensor) -> _Tilt | None:
    count = part.numel()
    if count < ONE_SIGN or len(part) < ROWS_FEWEST:
        return None
    wide = torch.promote_types(part.dtype, torch.float32)
    mean = float(part.mean(dtype=wide))
    square = float(torch.linalg.vector_norm(part, dtype=wide)) ** 2 / count
    if not 0.0 < square < math.inf or mean**2 * count < MEAN_SIGMAS**2 * square:
        return None
    low, high = (float(end) for end in torch.aminmax(part))
    if low == high:
        return None
    std = math.sqrt(max(square - mean**2, 0.0))
    one_sign = (low >= 0.0 or high <= 0.0) and 2 * int(part.count_nonzero()) > count
    large = count >= MEAN_FEWEST and mean**2 > MEAN_SHARE * square
    if not (one_sign or large) or _is_set(part.to(wide)):
        return None
    return _Tilt(mean, std, count, one_sign)


def _is_set(part: torch.Tensor) -> bool:
    """Whether values follow a formula: few distinct ones, smooth, or rows that each sum to one."""
    sample = sampled(part, LOOKED)
    if len(sample.unique()) <= SET_DISTINCT * len(sample):
        return True
    spread = 2.0 * float(part.var())
    steps = (part.diff(dim=axis) for axis in (0, 1) if part.shape[axis] > 1)
    if any(float(step.square().mean()) < SET_SMOOTH * spread for step in steps):
        return True
    sums = (part.sum(axis) for axis in (0, 1))
    return any(float((one - 1.0).abs().max()) < SUM_TO_ONE for one in sums)


def find_shut_gates(values: Mapping[str, torch.Tensor], view: ModelView) -> Iterable[Finding]:
    """Biases of recurrent gates that are so large that a sigmoid has no slope there (IN205)."""
    found = []
    for name, value in values.items():
        known = view.parameters[name]
        if known.role == "bias" and known.trainable and known.module_type in GATED:
            size = float(value.float().square().mean().sqrt())
            found += [(size, name)] if size > GATE_SHUT else []
    if found:
        found.sort(reverse=True)
        size, first = found[0]
        names = tuple(name for _, name in found)
        yield Finding(
            code="IN205",
            severity="warning",
            title="gates shut by a bias",
            where=names,
            message=f"{first} has root mean square {size:.3g}: the sigmoids of its gates are 0 or "
            f"1 for every input, and have no slope{also(names, 'bias')}",
            fix=f"nn.init.zeros_({first}), with 1 for the forget gate of an LSTM",
            numbers={"size": size, "biases": len(names)},
        )
