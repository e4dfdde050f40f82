"""What is known of a view: its channels by its strides, and the same view of its base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from initium._predict.field.fields import SAMPLED, Field, Piece
from initium._predict.field.rules import overloads

__all__ = ["VIEWS", "Outline", "outline", "viewed"]

VIEWS = frozenset(
    overloads(
        *("view", "_unsafe_view", "reshape", "_reshape_alias", "t", "transpose", "permute"),
        *("expand", "unsqueeze", "squeeze", "select", "slice", "split", "split_with_sizes"),
        *("unbind", "alias", "detach", "lift_fresh", "movedim", "narrow", "chunk", "diagonal"),
        *("unfold", "numpy_T"),
    )
)
View = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Outline:
    """How a view lies in a contiguous tensor, and along which of its dimensions each one runs."""

    whole: torch.Tensor
    shown: torch.Tensor
    reached: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, shape: torch.Size, look: View) -> Outline:
        whole = torch.empty(shape, device="meta")
        shown = look(whole)
        steps = zip(shown.shape, shown.stride(), strict=True)
        return cls(whole, shown, tuple(_reached(whole, *step) for step in steps))


@lru_cache(maxsize=4096)
def outline(
    operator: Any, shape: torch.Size, number: int | None, *args: Any, **kwargs: Any
) -> Outline:
    """That of an operator's view, or of one of several."""

    def look(tensor: torch.Tensor) -> torch.Tensor:
        made = operator(tensor, *args, **kwargs)
        found: torch.Tensor = made if number is None else made[number]
        return found

    return Outline.of(shape, look)


def viewed(field: Field, shape: torch.Size, look: View, drawn: Outline | None = None) -> Field:
    """The field of ``look(tensor)`` for a tensor of this shape."""
    if field.channels is None:
        return field
    drawn = drawn or Outline.of(shape, look)
    kinds = [{field.channels[dim] for dim in dims} for dims in drawn.reached]
    pieces = _cut(field, drawn)
    if any(len(kind) > 1 for kind in kinds):
        return Field(None, pieces, SAMPLED)
    channels = tuple(True in kind for kind in kinds)
    second = _second(field, shape, look)
    made = replace(field, channels=channels, pieces=pieces, second=second, still=None)
    if field.base is None:
        return made
    try:
        return replace(made, base=look(field.base))
    except RuntimeError:  # laid out in another way, so that it has no such view
        return replace(made, base=None, function=None, gaussian=False)


def _second(field: Field, shape: torch.Size, look: View) -> torch.Tensor | None:
    """The same view of what is expected of every element."""
    if field.second is None:
        return None
    try:
        return look(field.second.expand(shape))
    except RuntimeError:
        return None


def _reached(whole: torch.Tensor, size: int, stride: int) -> tuple[int, ...]:
    """The dimensions of a contiguous tensor along which one of a view runs."""
    if size == 1 or stride == 0:
        return ()
    return tuple(
        dim
        for dim, (length, step) in enumerate(zip(whole.shape, whole.stride(), strict=True))
        if length > 1 and stride < step * length and step < stride * size
    )


def _cut(field: Field, drawn: Outline) -> frozenset[Piece]:
    """The pieces that are left by a slice of the channels."""
    assert field.channels is not None
    whole, shown, reached = drawn.whole, drawn.shown, drawn.reached
    held = [dim for dim, is_channel in enumerate(field.channels) if is_channel]
    if len(held) != 1 or not 0 < shown.numel() < whole.numel():
        return field.pieces
    (dim,) = held
    size, stride = whole.shape[dim], whole.stride(dim)
    start = shown.storage_offset() // stride % size
    along = [index for index, dims in enumerate(reached) if dims == (dim,)]
    if any(dim in dims for index, dims in enumerate(reached) if index not in along):
        return field.pieces
    last = start + sum((shown.shape[i] - 1) * (shown.stride(i) // stride) for i in along)
    return frozenset(
        Piece(one.product, one.start + start, one.start + last + 1)
        if one.stop - one.start == size
        else one
        for one in field.pieces
    )
