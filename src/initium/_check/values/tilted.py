"""Matrices that do not scatter about zero (IN205), and biases that shut gates (IN205).

Of n elements drawn from a symmetric law all have one sign with probability 2^(1 - n), so that a
matrix of one sign was drawn from another: its outputs all add up the same sum of their inputs. Not
covered: matrices of few elements, and those that are constant (IN403), sparse or an identity.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch

from initium._check.thresholds import (
    GATE_SHUT,
    MEAN_FEWEST,
    MEAN_SHARE,
    MEAN_SIGMAS,
    ONE_SIGN,
    SAME,
)
from initium._check.values.parts import matrices_in
from initium._check.words import also
from initium._report.records import Finding
from initium._types import ModelView

__all__ = ["find_shut_gates", "find_tilted"]

GATED = frozenset({"LSTM", "LSTMCell", "GRU", "GRUCell"})


def find_tilted(values: Mapping[str, torch.Tensor], view: ModelView) -> Iterable[Finding]:
    """Matrices of one sign, or with a mean that is larger than what they scatter (IN205)."""
    found = []
    for name, value in values.items():
        known = view.parameters[name]
        if not known.is_matrix or not known.trainable or known.role.startswith("lora"):
            continue
        tilted = (_tilt(part) for part in matrices_in(value, known))
        worst = next((tilt for tilt in tilted if tilt is not None), None)
        found += [(name, worst)] if worst is not None else []
    if found:
        names = tuple(name for name, _ in found)
        first, tilt = found[0]
        sign = f", and all of its {tilt.elements:,} elements have one sign" if tilt.one_sign else ""
        yield Finding(
            code="IN205",
            severity="warning",
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


def _tilt(part: torch.Tensor) -> _Tilt | None:
    count = part.numel()
    if count < ONE_SIGN:
        return None
    wide = torch.promote_types(part.dtype, torch.float32)
    mean = float(part.mean(dtype=wide))
    square = float(torch.linalg.vector_norm(part, dtype=wide)) ** 2 / count
    if not 0.0 < square < math.inf or mean**2 * count < MEAN_SIGMAS**2 * square:
        return None
    std = math.sqrt(max(square - mean**2, 0.0))
    if std <= SAME * abs(mean):
        return None
    low, high = (float(end) for end in torch.aminmax(part))
    one_sign = (low >= 0.0 or high <= 0.0) and 2 * int(part.count_nonzero()) > count
    large = count >= MEAN_FEWEST and mean**2 > MEAN_SHARE * square
    return _Tilt(mean, std, count, one_sign) if one_sign or large else None


def find_shut_gates(values: Mapping[str, torch.Tensor], view: ModelView) -> Iterable[Finding]:
    """Biases of recurrent gates that are so large that a sigmoid has no slope there (IN205)."""
    found = []
    for name, value in values.items():
        known = view.parameters[name]
        if known.role == "bias" and known.module_type in GATED:
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
