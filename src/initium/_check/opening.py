"""Whether a parameter without a gradient gets one as soon as the zeros that have one have moved.

Zero factors in front of branches (ReZero, SkipInit, LayerScale from zero, adaLN-Zero, zero
convolutions) shut a path by design: they get a gradient themselves, and one optimizer step opens
it. Two zeros in a row, each of which waits for the other, stay. Which of the two it is is not
guessed from the structure of a model: the zeros are moved, and the gradient is looked at again.
"""

from __future__ import annotations

import torch

from initium._check.deep.passes import Subject
from initium._check.thresholds import ASSUMED_ADAM
from initium._model.state import preserved

__all__ = ["opened"]

ROUNDS = 4
"""Passes at most: a zero scale behind a zero matrix behind a zero head opens in the fourth."""


def opened(subject: Subject, names: frozenset[str], written: list[str]) -> frozenset[str]:
    """Those of ``names`` whose gradient is not zero any more after a few steps of the zeros.

    Every round moves all-zero tensors that have a gradient by Adam's first step, -lr sign(g), and
    leaves everything else as it is. The model is afterwards as it was.

    Args:
        subject: the model, its batch and its loss.
        names: trainable parameters whose gradient was exactly zero.
        written: parameters that a forward pass writes.
    """
    held = subject.trained()
    zeros = {name for name, value in held.items() if bool((value == _shut(name, subject)).all())}
    found: set[str] = set()
    with preserved(subject.model, clone=[*zeros, *(name for name in written if name not in zeros)]):
        for _ in range(ROUNDS):
            slopes = {n: g for n, g in subject.gradients()[0].items() if g is not None and _any(g)}
            found |= names & slopes.keys()
            moved = zeros & slopes.keys()
            if not moved or found == names:
                break
            with torch.no_grad():
                for name in moved:
                    held[name].sub_(slopes[name].to_dense().sign() * ASSUMED_ADAM)
            zeros -= moved
    return frozenset(found)


def _shut(name: str, subject: Subject) -> float:
    """The value at which a factor is zero: -1 for a norm that multiplies by 1 + w."""
    known = subject.view.parameters.get(name)
    return -1.0 if known is not None and (known.role, known.neutral) == ("norm_scale", 0.0) else 0.0


def _any(gradient: torch.Tensor) -> bool:
    return bool((gradient.coalesce().values() if gradient.is_sparse else gradient).any())
