"""The mode under which a draw keeps its moments exact, and knows which of them are.

Products with weights come out with the moments of infinite width (:mod:`..lazy.matrix` and, for
convolutions, here); between two products the table of rules has the word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from initium._predict.field.convolution import backward_squares, forward_squares
from initium._predict.field.fields import (
    CLOSED,
    PLAIN,
    SAMPLED,
    Field,
    Ledger,
    Piece,
    weakest,
)
from initium._predict.field.rules import Call, match, overloads, rule_of
from initium._predict.field.views import VIEWS, viewed
from initium._predict.lazy.matrix import INDEPENDENT
from initium._predict.lazy.source import Shared
from initium._predict.lazy.weight import LazyWeight, values_of
from initium.spec import DeltaOrthogonal, Orthogonal

__all__ = ["FieldMode"]

aten = torch.ops.aten
COPIES = frozenset(overloads("clone", "_to_copy", "contiguous"))
RANDOM = (*INDEPENDENT, Orthogonal, DeltaOrthogonal)
"""Weights whose products are independent of what they are given."""
MATRICES = {
    aten.mm.default: 0,
    aten.addmm.default: 1,
    aten.bmm.default: 0,
    aten.baddbmm.default: 1,
    aten._grouped_mm.default: 0,
}
"""Products of two matrices, and which argument is the left one."""
LOOKUPS = frozenset({aten.embedding.default, aten.index_select.default, aten.index.Tensor})


class FieldMode(TorchDispatchMode):
    """Every operator below autograd, on the way forward and back."""

    def __init__(self, shared: Shared) -> None:
        super().__init__()
        self.shared = shared
        self.ledger = Ledger()
        self.products: dict[object, int] = {}

    def tier(self, tensor: torch.Tensor) -> str:
        """What the moments of a tensor rest on."""
        field = self.ledger.get(tensor)
        return CLOSED if field is None else field.tier

    def __torch_dispatch__(
        self,
        func: Any,
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        known = {id(t): field for t in given if (field := self.ledger.get(t)) is not None}
        fields = list(known.values())
        lazy = next((leaf for leaf in given if isinstance(leaf, LazyWeight)), None)
        if not fields and lazy is None:
            return func(*args, **kwargs)
        written = _written(func, args, kwargs)
        originals = {id(t): t.clone() for t in written if id(t) in known}
        self.shared.used = None
        self.shared.stretch = not _backward() or weakest(fields) == CLOSED
        result = func(*args, **kwargs)
        for tensor in written:
            self.ledger.forget(tensor)
        if func in VIEWS:
            self._view(func, args, kwargs, result)
        else:
            for number, out in enumerate(result if isinstance(result, tuple | list) else [result]):
                if type(out) in PLAIN and out.is_floating_point() and out.numel():
                    call = Call(func, tuple(args), kwargs, out, known, originals)
                    field = self._product(call, lazy, number) or self._between(call, fields, lazy)
                    self.ledger.put(out, field)
        return result

    def _view(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        field = self.ledger.get(args[0]) if type(args[0]) in PLAIN else None
        if field is None:
            return
        several = isinstance(result, tuple | list)
        for number, out in enumerate(result if several else [result]):

            def look(tensor: torch.Tensor, number: int = number) -> torch.Tensor:
                made = func(tensor, *args[1:], **kwargs)
                found: torch.Tensor = made[number] if several else made
                return found

            self.ledger.put(out, viewed(field, args[0].shape, look))

    def _between(self, call: Call, fields: Sequence[Field], lazy: LazyWeight | None) -> Field:
        if call.operator in COPIES and len(fields) == 1:
            return fields[0]
        made = rule_of(call.operator)
        found = made(call) if made is not None else None
        if found is not None:
            return found
        tier = weakest(fields)
        pieces = frozenset().union(*(field.pieces for field in fields))
        if lazy is None and not any(
            field.channels is None or any(field.channels) for field in fields
        ):
            return Field((False,) * call.out.dim(), frozenset(), tier)
        alike = [f.channels for t, f in call.signals() if t.shape == call.out.shape]
        return Field(alike[0] if alike else None, pieces, SAMPLED)

    # Products -----------------------------------------------------------------------------------

    def _product(self, call: Call, lazy: LazyWeight | None, number: int) -> Field | None:
        """A product with a weight is a fresh normal field."""
        dim = self._produced(call)
        if dim is None or number > 0:
            return None
        drawn = lazy is not None and self.shared.used is not None
        if lazy is None and len(call.signals()) != 1:
            return None
        tier = call.tier()
        if lazy is None or not (drawn or isinstance(lazy.source.entry.spec, RANDOM)):
            return self._mixed(call, dim)
        source = (lazy.source.name, self.shared.used)
        key = source if drawn else (*source, _backward())
        seen = key in self.products
        index = self.products.setdefault(key, len(self.products))
        channels = tuple(at == dim for at in range(call.out.dim()))
        piece = Piece(index, 0, call.out.shape[dim])
        field = Field(channels, frozenset({piece}), tier, gaussian=True)
        if drawn:
            return field
        if not seen and self._convolved(call, field, lazy):
            return field
        return Field(channels, frozenset({piece}), SAMPLED, gaussian=True)

    def _mixed(self, call: Call, dim: int) -> Field:
        """A product with a constant: as dependent on everything as what it is given."""
        pieces = frozenset().union(*(field.pieces for field in call.fields.values()))
        if dim != call.out.dim() - 1 and call.operator in MATRICES:
            return Field(None, pieces, SAMPLED)
        return Field(tuple(at == dim for at in range(call.out.dim())), pieces, SAMPLED)

    def _convolved(self, call: Call, field: Field, lazy: LazyWeight) -> bool:
        args = call.args
        if not self.shared.stretch:
            return False
        if call.operator is aten.convolution.default and args[1] is lazy and args[0].dim() > 2:
            predicted = forward_squares(args[0], values_of(lazy, "", False), args[2:])
        elif call.operator is aten.convolution_backward.default and args[2] is lazy:
            predicted = backward_squares(args[0], args[1], values_of(lazy, "", False), args[4:])
        else:
            return False
        return match(call.out, field, predicted)

    def _produced(self, call: Call) -> int | None:
        """The dimension of a product that its weight makes."""
        last, func = call.out.dim() - 1, call.operator
        if func in MATRICES:
            left, right = call.args[MATRICES[func] : MATRICES[func] + 2]
            return last - 1 if self._is_weight(left) and not self._is_weight(right) else last
        if func in LOOKUPS and isinstance(call.args[0], LazyWeight):
            return last
        if func is aten.mv.default:
            return 0
        if func in (aten.convolution.default, aten.convolution_backward.default):
            return 1 if last > 1 else 0
        return None

    def _is_weight(self, tensor: torch.Tensor) -> bool:
        return isinstance(tensor, LazyWeight) or self.ledger.get(tensor) is None


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The tensors that an operator writes to."""
    if not func._schema.is_mutable:
        return []
    names = [argument for argument in func._schema.arguments if _is_written(argument)]
    places = {argument.name: at for at, argument in enumerate(func._schema.arguments)}
    values = [
        args[places[n.name]] if places[n.name] < len(args) else kwargs.get(n.name) for n in names
    ]
    return [leaf for leaf in tree_leaves(values) if type(leaf) in PLAIN]


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _backward() -> bool:
    return torch._C._current_graph_task_id() >= 0
