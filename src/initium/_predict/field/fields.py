"""What is known of the tensors of a draw: their channels, and what they are made of.

The channels of a tensor are the dimensions along which its elements are exchangeable over seeds:
the output of a product with a random weight has them, and views, sums and functions of it keep
them. All other dimensions are positions (samples, tokens, pixels).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from initium._predict.measure import CLOSED, SAMPLED

__all__ = [
    "CLOSED",
    "PLAIN",
    "SAMPLED",
    "SIGMAS",
    "Field",
    "Function",
    "Ledger",
    "Piece",
    "apart",
    "by_position",
    "means",
    "same",
    "squares",
    "weakest",
]

SIGMAS = 4.0
"""A mean over channels nearer to zero than this many standard errors is zero."""

Function = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Piece:
    """Channels ``start`` to ``stop`` of the product number ``product``."""

    product: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Field:
    """What is known of a tensor.

    Attributes:
        channels: which of its dimensions are channels; ``None``: unknown.
        pieces: of the products that it depends on; two tensors that share none are independent.
        tier: the weakest one that its moments rest on.
        gaussian: its elements are jointly normal, or ``function`` of what is.
        base, function: the tensor is ``function(base)``, element by element; ``None``: it is its
            own base.
        fresh: the output of a product with a weight that was not used before, and a random bias.
        second: of such a product, E[x^2] of every element, along channels too.
        mixed: a gradient with a term that is made of the signal alone, as of a loss on its way.
        still: the positions that hold constants, as a kept class token does; ``None``: no such.
    """

    channels: tuple[bool, ...] | None
    pieces: frozenset[Piece] = frozenset()
    tier: str = CLOSED
    gaussian: bool = False
    base: torch.Tensor | None = None
    function: Function | None = None
    fresh: bool = False
    second: torch.Tensor | None = None
    mixed: bool = False
    still: torch.Tensor | None = None


def weakest(fields: Iterable[Field | None]) -> str:
    """The tier of what rests on all of these; what has none is a constant."""
    sampled = any(field is not None and field.tier == SAMPLED for field in fields)
    return SAMPLED if sampled else CLOSED


def apart(one: Field, other: Field) -> bool:
    """Whether they depend on different products, so that they are independent."""
    if not one.pieces.isdisjoint(other.pieces):
        return False
    spans: dict[int, list[Piece]] = {}
    for piece in one.pieces:
        spans.setdefault(piece.product, []).append(piece)
    return bool(one.pieces and other.pieces) and not any(
        piece.start < held.stop and held.start < piece.stop
        for piece in other.pieces
        for held in spans.get(piece.product, ())
    )


def squares(tensor: torch.Tensor, field: Field) -> torch.Tensor:
    """The mean over channels of x^2, by position; float64, channel dimensions kept as one.

    The tensor may have fewer dimensions than the field, and be repeated along others.
    """
    dims = _dims(tensor, field)
    if not dims:
        return tensor.double().square()
    length = torch.linalg.vector_norm(_wide(tensor), dim=dims, keepdim=True).double()
    return length.square().div_(_count(tensor, dims))


def means(tensor: torch.Tensor, field: Field, second: torch.Tensor | None = None) -> torch.Tensor:
    """The mean over channels of x, by position; zero where it is not told from zero.

    Args:
        second: its ``squares``, where they are known.
    """
    dims = _dims(tensor, field)
    mean = _wide(tensor).mean(dims, keepdim=True).double() if dims else tensor.double()
    power = mean.square()
    second = squares(tensor, field) if second is None else second
    noise = (second - power).div_(_count(tensor, dims)).mul_(SIGMAS**2)
    return torch.where(power > noise, mean, 0.0)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def _dims(tensor: torch.Tensor, field: Field) -> list[int]:
    assert field.channels is not None
    along = field.channels[len(field.channels) - tensor.dim() :]
    return [dim for dim, held in enumerate(along) if held]


def _count(tensor: torch.Tensor, dims: list[int]) -> int:
    return math.prod(tensor.shape[dim] for dim in dims)


def by_position(tensor: torch.Tensor, channels: tuple[bool, ...] | None) -> bool:
    """Whether its values are the same in all channels."""
    if channels is None or type(tensor) not in PLAIN:
        return False
    along = channels[len(channels) - tensor.dim() :]
    dims = [dim for dim, held in enumerate(along) if held and tensor.shape[dim] > 1]
    if not dims:
        return True
    magnitudes = tensor if tensor.dtype == torch.bool else tensor.detach().abs()
    return bool((magnitudes.amax(dims) == magnitudes.amin(dims)).all())


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors show the same memory in the same way."""
    if one is other:
        return True
    storages = one.untyped_storage()._cdata, other.untyped_storage()._cdata
    return storages[0] == storages[1] and _layout(one) == _layout(other)


class Ledger:
    """Fields by tensor, for as long as its memory lives.

    Autograd hands what it has saved back as new Python objects, so that a tensor is known by its
    memory: storage, offset, shape and strides. An address is not used again while it is held weakly
    here.
    """

    def __init__(self) -> None:
        self._held: dict[int, tuple[StorageWeakRef, dict[Layout, Field]]] = {}
        self._functions: dict[int, list[tuple[int, Layout]]] = {}  # by the memory of their base
        self._sweep = 512

    def get(self, tensor: torch.Tensor) -> Field | None:
        if type(tensor) not in PLAIN or tensor.is_meta or tensor.layout != torch.strided:
            return None
        found = self._held.get(tensor.untyped_storage()._cdata)
        if found is None:
            return None
        return found[1].get(_layout(tensor)) or found[1].get(ELSEWHERE)

    def put(self, tensor: torch.Tensor, field: Field) -> None:
        layout = _layout(tensor)
        self._of(tensor)[layout] = field
        if field.base is not None:
            place = tensor.untyped_storage()._cdata, layout
            self._functions.setdefault(field.base.untyped_storage()._cdata, []).append(place)

    def written(self, tensor: torch.Tensor, pieces: frozenset[Piece]) -> None:
        """All views of memory that was written to hold samples now that depend on these pieces.

        What is a function of what was there no longer has a base.
        """
        held = self._of(tensor)
        pieces = pieces.union(*(field.pieces for field in held.values()))
        held.clear()
        held[ELSEWHERE] = Field(None, pieces, SAMPLED)
        base = tensor.untyped_storage()._cdata
        for memory, layout in self._functions.pop(base, ()):
            derived = self._held.get(memory, (None, {}))[1]
            field = derived.get(layout)
            if field is None or field.base is None:
                continue
            if field.base.untyped_storage()._cdata == base:
                derived[layout] = replace(field, base=None, function=None, gaussian=False)

    def _of(self, tensor: torch.Tensor) -> dict[Layout, Field]:
        storage = tensor.untyped_storage()
        found = self._held.get(storage._cdata)
        if found is None:
            found = self._held[storage._cdata] = StorageWeakRef(storage), {}
            if len(self._held) > self._sweep:
                self._held = {k: held for k, held in self._held.items() if not held[0].expired()}
                self._sweep = len(self._held) * 5 // 4 + 512
        return found[1]


PLAIN = (torch.Tensor, torch.nn.Parameter)
Layout = tuple[Any, ...]
ELSEWHERE: Layout = ()
"""Stands for every view that has no field of its own."""


def _layout(tensor: torch.Tensor) -> Layout:
    return tensor.storage_offset(), tuple(tensor.shape), tensor.stride()
