"""Whether a parameter without a gradient gets one as soon as the zeros that have one have moved.

Zero factors in front of branches (ReZero, SkipInit, LayerScale from zero, adaLN-Zero, zero
convolutions) shut a path by design: they get a gradient themselves, and one optimizer step opens
it. Two zeros in a row, each of which waits for the other, stay. Which of the two it is is not
guessed from the structure of a model: the zeros are moved, and the gradient is looked at again.

Not covered: which of several zeros that move at once opens a path. Where a zero cannot be moved,
because its elements share their memory (an expanded one), nothing is said of what stays shut.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

import torch

from initium._check.deep.passes import Subject
from initium._check.facts import Opening
from initium._check.thresholds import ASSUMED_ADAM
from initium._model.state import preserved
from initium._types import ModelView

__all__ = ["all_shut", "opened"]

PASSES = 3
"""At most: a zero scale behind a zero matrix behind a zero head opens in the third."""


def all_shut(parameters: Mapping[str, torch.Tensor], view: ModelView) -> frozenset[str]:
    """Those that are factors or shifts of zero throughout, and that a step can move."""
    return frozenset(
        name for name, value in parameters.items() if _movable(value) and _shut(name, value, view)
    )


def opened(
    subject: Subject, names: frozenset[str], slopes: Mapping[str, torch.Tensor], written: list[str]
) -> Opening:
    """Those of ``names`` whose gradient is not zero any more after a few steps of the zeros.

    Every round moves all-zero tensors that have a gradient by Adam's first step, -lr sign(g), and
    leaves everything else, random states included, as the first pass found it. A round is one
    forward pass, and a backward pass for the gradients in question alone; the first round's are
    given. The model is afterwards as it was.

    Args:
        subject: the model, its batch and its loss.
        names: trainable parameters whose gradient was exactly zero.
        slopes: gradients of the first pass, of :func:`all_shut` at least.
        written: parameters that a forward pass writes.
    """
    held, view = subject.trained(), subject.view
    zeros = all_shut(held, view)
    steps: dict[str, torch.Tensor] = {}
    found: set[str] = set()
    movers: frozenset[str] = frozenset()
    fresh = _steps(slopes, zeros)
    for _ in range(PASSES):
        if not fresh or found == names:
            break
        steps |= fresh
        with preserved(subject.model, clone={*steps, *written}):
            with torch.no_grad():
                for name, step in steps.items():
                    held[name].sub_(step)
            seen = subject.gradients((names - found) | (zeros - steps.keys()))[0]
        live = {name: g for name, g in seen.items() if g is not None and _any(g)}
        if open_now := names & live.keys() - found:
            found |= open_now
            movers = frozenset(steps)
        fresh = _steps(live, zeros - steps.keys())
    fixed = [n for n, value in held.items() if not _movable(value) and _shut(n, value, view)]
    return Opening(frozenset(found), movers, names - found if fresh or fixed else frozenset())


def _steps(slopes: Mapping[str, torch.Tensor], zeros: Set[str]) -> dict[str, torch.Tensor]:
    """Adam's first step for those of ``zeros`` that have a gradient."""
    return {
        name: torch.sgn(slope.to_dense()) * ASSUMED_ADAM
        for name, slope in slopes.items()
        if name in zeros and _any(slope)
    }


def _movable(value: torch.Tensor) -> bool:
    strides = zip(value.shape, value.stride(), strict=True)
    return not any(size > 1 and stride == 0 for size, stride in strides)


def _shut(name: str, value: torch.Tensor, view: ModelView) -> bool:
    """All zero; of a norm that multiplies by 1 + w, all minus one."""
    known = view.parameters.get(name)
    one_more = known is not None and (known.role, known.neutral) == ("norm_scale", 0.0)
    end = -1.0 if one_more else 0.0
    if value.numel() == 0 or value[(0,) * value.dim()] != end:
        return False
    return bool((value == end).all())


def _any(gradient: torch.Tensor) -> bool:
    return bool((gradient.coalesce().values() if gradient.is_sparse else gradient).any())
