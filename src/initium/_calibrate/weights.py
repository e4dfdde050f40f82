"""Which parameter an operand is made of, and how to make it anew when that parameter has changed.

A view shares its parameter's memory. Anything computed from parameters, buffers and constants
alone (casts, weight norms, parametrizations) is remembered with the operator that made it and can
be made again. A tensor that is written in place counts as data from then on, with all that shares
its memory. Not covered: buffers that a forward pass writes data into, and random numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from initium._inspect.operators import RANDOM
from initium._model.names import Slot
from initium._types import ModelView

__all__ = ["Made", "Weights"]


@dataclass(frozen=True, slots=True)
class Made:
    """How a tensor came about: one operator on parameters and what was made of them."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: int
    roots: frozenset[str]


class Weights:
    """The memory of a model's parameters and buffers, and what is computed from it alone."""

    def __init__(self, held: Mapping[str, Slot], view: ModelView) -> None:
        self.held = held
        self.view = view
        self.memory: dict[int, list[tuple[int, int, str]]] = {}
        for name, slot in held.items():
            tensor = slot.tensor
            if tensor.layout is torch.strided and tensor.numel():
                begin = int(tensor.storage_offset())
                places = self.memory.setdefault(tensor.untyped_storage().data_ptr(), [])
                places.append((begin, begin + _extent(tensor), name))
        self.made = WeakTensorKeyDictionary()
        self.fixed: set[str] = set()
        """Parameters that were multiplied with each other."""
        self.found: dict[frozenset[str], str | None] = {}

    def owner(self, tensor: torch.Tensor) -> str | None:
        """The parameter or buffer whose memory the tensor shares."""
        if tensor.layout is not torch.strided or not tensor.numel():
            return None
        offset = tensor.storage_offset()
        for begin, end, name in self.memory.get(tensor.untyped_storage().data_ptr(), ()):
            if begin <= offset < end:
                return name
        return None

    def roots(self, tensor: torch.Tensor) -> frozenset[str]:
        """The parameters that a tensor holds or was computed from, if from nothing else."""
        made = self.made.get(tensor)
        if made is not None:
            return made.roots
        owner = self.owner(tensor)
        return frozenset() if owner is None or self.held[owner].is_buffer else frozenset({owner})

    def is_data(self, tensor: torch.Tensor) -> bool:
        """Whether the tensor holds more than parameters, constants and what is made of them."""
        return tensor not in self.made and self.owner(tensor) is None

    def note(self, func: Any, args: Any, kwargs: Any, operands: Any, result: object) -> None:
        """Remember what an operator made, unless of data or random numbers."""
        if func._schema.is_mutable:
            for tensor in _written(func, args, kwargs):
                self._wrote(tensor)
            return
        roots: frozenset[str] = frozenset()
        for tensor in operands:
            if self.is_data(tensor):
                return
            roots |= self.roots(tensor)
        if func._schema.name.split("::")[-1] in RANDOM:
            return
        for number, out in enumerate(tree_leaves(result)):
            if isinstance(out, torch.Tensor) and self.owner(out) is None:
                self.made[out] = Made(func, args, kwargs, number, roots)

    def _wrote(self, tensor: torch.Tensor) -> None:
        """A tensor was written in place: what shares its memory cannot be made again."""
        if tensor in self.made:
            memory = _memory(tensor)
            for other in list(self.made):
                if _memory(other) == memory:
                    self.made.pop(other)

    def again(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor as it would be made now; views show what is in memory anyway."""
        made = self.made.get(tensor)
        if made is None:
            return tensor
        args = tree_map_only(torch.Tensor, self.again, made.args)
        kwargs = tree_map_only(torch.Tensor, self.again, made.kwargs)
        out = tree_leaves(made.func(*args, **kwargs))[made.output]
        assert isinstance(out, torch.Tensor)
        return out

    def named(self, tensor: torch.Tensor) -> str:
        """Of the parameters that a tensor was computed from, the one that stands for it.

        The one that it is a multiple of, if that is known, else the largest; the length of a
        weight norm leaves that to its direction.
        """
        roots = self.roots(tensor)
        if len(roots) > 1 and roots not in self.found:
            self.found[roots] = self.scalable(tensor, roots)
        found, views = self.found.get(roots), self.view.parameters
        return min(
            roots,
            key=lambda name: (
                views[name].magnitude_of is not None,
                name != found,
                -views[name].numel,
                name,
            ),
        )

    def scalable(self, tensor: torch.Tensor, allowed: Iterable[str]) -> str | None:
        """The parameter that the tensor is a multiple of, tried by doubling it.

        Of several, the length of a weight norm comes first, then the largest.
        """
        roots = self.roots(tensor)
        if tensor not in self.made:
            return next(iter(roots), None)
        views = self.view.parameters
        order = sorted(
            roots & set(allowed),
            key=lambda name: (views[name].magnitude_of is None, -views[name].numel, name),
        )
        now = self.again(tensor)
        if not torch.allclose(now, tensor, rtol=1e-3, atol=0):
            return None
        for name in order:
            root = self.held[name].tensor
            root.mul_(2)
            doubled = self.again(tensor)
            root.div_(2)
            if torch.allclose(doubled, 2 * now, rtol=1e-2, atol=1e-30):
                return name
        return None


def _written(func: Any, args: Any, kwargs: Any) -> list[torch.Tensor]:
    """The operands that an operator writes into."""
    given = [*args, *[None] * (len(func._schema.arguments) - len(args))]
    written = [
        kwargs.get(argument.name, value)
        for argument, value in zip(func._schema.arguments, given, strict=True)
        if argument.is_write
    ]
    return [leaf for leaf in tree_leaves(written) if isinstance(leaf, torch.Tensor)]


def _memory(tensor: torch.Tensor) -> int | None:
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else None


def _extent(tensor: torch.Tensor) -> int:
    """Elements of memory from the first to the last one of a tensor."""
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    return int(1 + sum((size - 1) * stride for size, stride in pairs))
