"""The mode under which a draw keeps its moments exact, and knows which of them are.

Products with weights come out with the moments of infinite width (:mod:`..lazy.matrix` and, for
convolutions, here); between two products the table of rules has the word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from initium._predict.field.convolution import backward_squares, forward_squares, taps
from initium._predict.field.fields import (
    CLOSED,
    PLAIN,
    SAMPLED,
    Field,
    Ledger,
    Piece,
    squares,
    weakest,
)
from initium._predict.field.rules import SUMS, Call, overloads, rule_of
from initium._predict.field.sums import FEWEST, SMALL, Term, channels_of, match, summed
from initium._predict.field.views import VIEWS, outline, viewed
from initium._predict.lazy.matrix import INDEPENDENT, in_backward
from initium._predict.lazy.source import Shared
from initium._predict.lazy.weight import LazyWeight, values_of
from initium.errors import InitiumError
from initium.spec import Constant, DeltaOrthogonal, Keep, Normal, Orthogonal, Spec, Value

__all__ = ["FieldMode"]

aten = torch.ops.aten
COPIES = frozenset(overloads("clone", "_to_copy", "contiguous"))
FRESH = frozenset(
    overloads(
        *("zeros_like", "ones_like", "full_like", "empty_like"),
        *("new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"),
    )
)
"""What takes nothing from its operand but its shape."""
FIXED = (Constant, Keep, Value)
"""Specs that give the same values for every seed."""
BIASES = {
    aten.addmm.default: 0,
    aten.baddbmm.default: 0,
    aten.addmv.default: 0,
    aten.convolution.default: 2,
}
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
SOLE = (aten.convolution_backward.default,)
"""Operators of the way back that are given the signal too; the gradient is the first."""
JOINS = frozenset((*SUMS, *overloads("cat", "stack")))
"""Operators that put terms together."""
ASTRAY = 0.02
"""Share by which a first product going back may depart from that of an independent gradient."""


def _glu(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    value, gate = x.chunk(2, dim)
    return value * gate.sigmoid()


def _glu_backward(gradient: torch.Tensor, x: torch.Tensor, dim: int) -> torch.Tensor:
    value, gate = x.chunk(2, dim)
    open_ = gate.sigmoid()
    return torch.cat([gradient * open_, aten.sigmoid_backward(gradient * value, open_)], dim)


PARTS: dict[Any, Callable[..., torch.Tensor]] = {
    aten.glu.default: _glu,
    aten.glu_backward.default: _glu_backward,
}
"""Operators that are taken apart, so that the rules of their parts hold."""
LOOKUPS = frozenset({aten.embedding.default, aten.index_select.default, aten.index.Tensor})


class FieldMode(TorchDispatchMode):
    """Every operator below autograd, on the way forward and back."""

    def __init__(self, shared: Shared) -> None:
        super().__init__()
        self.shared = shared
        self.ledger = Ledger()
        self.products: dict[object, int] = {}
        self.touched: dict[str, dict[int, frozenset[Piece]]] = {}
        self.returned: set[int] = set()
        self.lost = False
        self.has_loss = False

    def tier(self, tensor: torch.Tensor) -> str:
        """What the moments of a tensor rest on."""
        field = self.ledger.get(tensor)
        if field is None:
            return SAMPLED if self.lost else CLOSED
        return field.tier

    def enrol(self, name: str, values: torch.Tensor, spec: Spec) -> None:
        """A parameter with values of its own: random ones are as random as any product."""
        if isinstance(spec, FIXED) or values.numel() < 2:
            return
        pieces = self._pieces(name, values.numel() if values.dim() == 1 else 1)
        field = Field((True,) * values.dim(), pieces, CLOSED, isinstance(spec, Normal))
        self.ledger.put(values, field)

    def _pieces(self, key: object, size: int = 1) -> frozenset[Piece]:
        return frozenset({Piece(self.products.setdefault(key, len(self.products)), 0, size)})

    def __torch_dispatch__(
        self,
        func: Any,
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        given = _operands(args, kwargs)
        known = {id(t): field for t in given if (field := self.ledger.get(t)) is not None}
        fields = list(known.values())
        lazy = next((leaf for leaf in given if isinstance(leaf, LazyWeight)), None)
        if (not fields and lazy is None) or func in FRESH:
            return func(*args, **kwargs)
        if func in PARTS and lazy is None:
            with self:
                return PARTS[func](*args, **kwargs)
        with torch._C.DisableTorchFunction():  # what is done here is no part of the model
            written = _written(func, args, kwargs)
            originals = {id(t): t.clone() for t in written if id(t) in known}
            self.shared.used, self.shared.astray = None, False
            back = [known[id(args[0])]] if func in SOLE and id(args[0]) in known else fields
            follows = lazy is not None and func not in VIEWS and any(map(self._follows, back))
            closed = not in_backward() or weakest(fields) == CLOSED
            self.shared.stretch = closed and not follows
            self.shared.bound = ASTRAY if self._starts(back) else None
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            for tensor in written:
                pieces = frozenset().union(*(field.pieces for field in fields))
                self.ledger.written(tensor, pieces)
            if func in VIEWS:
                self._view(func, args, kwargs, result)
            else:
                self._made(func, args, kwargs, result, lazy, known, originals, follows)
        return result

    def _made(
        self,
        func: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        result: Any,
        lazy: LazyWeight | None,
        known: Mapping[int, Field],
        originals: Mapping[int, torch.Tensor],
        follows: bool,
    ) -> None:
        """Enter what is known of the tensors that an operator has given."""
        fields = list(known.values())
        for number, out in enumerate(result if isinstance(result, tuple | list) else [result]):
            if not isinstance(out, torch.Tensor) or isinstance(out, LazyWeight) or not out.numel():
                continue
            if type(out) not in PLAIN or out.is_meta or out.layout != torch.strided:
                self.lost = True
                continue
            call = Call(func, tuple(args), kwargs, out, known, originals, number)
            try:
                field = self._field(call, lazy, number)
            except InitiumError:
                raise
            except Exception:  # a rule that does not hold here: what was computed is a sample
                pieces = frozenset().union(*(one.pieces for one in fields))
                field = Field(None, pieces, SAMPLED)
            if lazy is not None and _going_back():
                astray = follows or self.shared.astray
                field = self._dependent(field, lazy, fields, astray)
            if self._mixes(func, fields):
                field = replace(field, mixed=True)
            self.ledger.put(out, field)

    def _dependent(
        self, field: Field, lazy: LazyWeight, fields: Sequence[Field], astray: bool
    ) -> Field:
        """A sampled gradient depends on all that its weights have met on the way forward."""
        if field.tier != SAMPLED and not astray:
            return field
        met = self.touched.get(lazy.source.name, {}).values()
        pieces = field.pieces.union(*met, *(one.pieces for one in fields))
        return replace(field, tier=SAMPLED, pieces=pieces)

    def _follows(self, field: Field) -> bool:
        """Whether a gradient is made of the signal, with no product of the way back as a factor.

        W^T f(W x) then is not what a new W^T would give: the loss knows what W has made.
        """
        if not self.has_loss or not _going_back() or not field.pieces:
            return False
        return field.mixed or not any(one.product in self.returned for one in field.pieces)

    def _starts(self, fields: Sequence[Field]) -> bool:
        """Whether this is the first product that the gradient of a cross-entropy meets."""
        return self.has_loss and _going_back() and not any(field.pieces for field in fields)

    def _mixes(self, func: Any, fields: Sequence[Field]) -> bool:
        if any(field.mixed for field in fields):
            return True
        if func not in JOINS:
            return False
        held = [field for field in fields if field.pieces]
        return len({self._follows(field) for field in held}) > 1

    def _field(self, call: Call, lazy: LazyWeight | None, number: int) -> Field:
        if not call.out.is_floating_point():
            pieces = frozenset().union(*(field.pieces for field in call.fields.values()))
            return Field(None, pieces, SAMPLED)
        if lazy is not None:
            product = self._product(call, lazy, number)
            if product is not None:
                return product
            call = self._with_values(call)
        elif (product := self._product(call, None, number)) is not None:
            return product
        return self._between(call, lazy)

    def _with_values(self, call: Call) -> Call:
        """Weights that an operator has taken whole, as tensors with fields of their own."""
        known = dict(call.fields)
        along = next((f.channels for _, f in call.signals() if f.channels is not None), None)

        def shown(leaf: Any) -> Any:
            if not isinstance(leaf, LazyWeight):
                return leaf
            made = values_of(leaf, "", False)
            if not isinstance(leaf.source.entry.spec, FIXED):
                channels = along or (False,) * (made.dim() - 1) + (True,)
                channels = ((False,) * made.dim() + channels)[-made.dim() :]
                normal = isinstance(leaf.source.entry.spec, Normal)
                pieces = self._pieces(leaf.source.name)
                known[id(made)] = Field(channels, pieces, CLOSED, normal)
            return made

        args, kwargs = tree_map(shown, call.args), tree_map(shown, dict(call.kwargs))
        return replace(call, args=args, kwargs=kwargs, fields=known)

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

            settings = (tuple(a) if isinstance(a, list) else a for a in args[1:])
            place = number if several else None
            drawn = outline(func, args[0].shape, place, *settings, **kwargs)
            shown = viewed(field, args[0].shape, look, drawn)
            known = field.channels is not None and shown.channels is not None
            if known and channels_of(out, shown) < channels_of(args[0], field):
                shown = _evened(out, shown)
            self.ledger.put(out, shown)

    def _between(self, call: Call, lazy: LazyWeight | None) -> Field:
        fields = list(call.fields.values())
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
        alike = [f.channels for t, f in call.signals() if t.shape == call.out.shape and f.channels]
        return Field(alike[0] if alike else None, pieces, SAMPLED)

    # Products -----------------------------------------------------------------------------------

    def _product(self, call: Call, lazy: LazyWeight | None, number: int) -> Field | None:
        """A product with a weight is a fresh normal field."""
        dim = self._produced(call)
        if dim is None or number > 0:
            return None
        drawn = lazy is not None and self.shared.used is not None
        bias = self._bias(call)
        inputs = [field for tensor, field in call.signals() if tensor is not bias]
        if lazy is None and len(inputs) != 1:
            return None
        if lazy is None or not (drawn or isinstance(lazy.source.entry.spec, RANDOM)):
            return self._mixed(call, dim)
        name, side = source = lazy.source.name, (self.shared.used or ("", 0))[1]
        key = source if drawn else (*source, in_backward())
        seen = key in self.products
        index = self.products.setdefault(key, len(self.products))
        if _going_back() and not seen:
            self.returned.add(index)
        pieces = frozenset({Piece(index, 0, call.out.shape[dim])})
        tier = SAMPLED if drawn and self._free(call, lazy) else weakest(inputs)
        met = frozenset[Piece]()
        if not self.shared.last:
            held = self.touched.setdefault(name, {})
            met = held.get(1 - side, met)
            held[side] = held.get(side, frozenset()).union(pieces, *(f.pieces for f in inputs))
        channels = tuple(at == dim for at in range(call.out.dim()))
        if met:  # the transposed weight was used before, and what it saw is no longer independent
            return Field(channels, pieces | met | held[side], SAMPLED)
        field = Field(channels, pieces, tier, gaussian=True, fresh=not seen)
        if drawn:
            field = replace(field, second=self._expected(call.out, field))
        else:
            grouped = call.args[-1] if call.operator is aten.convolution.default else 1
            field = replace(field, gaussian=grouped == 1)
            if seen or not self._convolved(call, field, lazy):
                return replace(field, tier=SAMPLED)
        return field if bias is None else self._biased(call, field, bias, drawn)

    def _free(self, call: Call, lazy: LazyWeight) -> bool:
        """Whether lengths are random: of products with a free weight, all but its plain rows."""
        if lazy.source.name not in self.shared.free:
            return False
        alike = self.shared.scale is None and not isinstance(lazy.source.entry.spec, Orthogonal)
        return not alike or call.operator not in LOOKUPS

    def _expected(self, out: torch.Tensor, field: Field) -> torch.Tensor:
        """E[x^2] of every element of a product whose weight may have blocks along its channels."""
        second, scale = squares(out, field), self.shared.scale
        if scale is None:
            return second
        assert field.channels is not None
        shape = [-1 if held else 1 for held in field.channels]
        power = scale.double().square().reshape(shape)
        return second * power / power.mean()

    def _bias(self, call: Call) -> torch.Tensor | None:
        place = BIASES.get(call.operator)
        bias = None if place is None else call.args[place]
        return bias if isinstance(bias, torch.Tensor) else None

    def _biased(self, call: Call, field: Field, bias: torch.Tensor, drawn: bool) -> Field:
        """A product and its bias: independent, and random or constant."""
        if isinstance(bias, LazyWeight) or call.kwargs.get("beta", 1) != 1:
            return replace(field, tier=SAMPLED)
        if not bool(bias.any()):
            return field
        held = self.ledger.get(bias)
        if not drawn:  # of a convolution: as long as its rule says, already
            share = bias.double().square().mean() / squares(call.out, field).clamp_min(1e-300)
            normal = held is not None and held.gaussian
            normal = normal or bool((share < SMALL).all())
            return replace(field, gaussian=field.gaussian and normal, fresh=held is not None)
        product = call.out - bias
        made = summed(call.out, field, [Term(product, 1.0, field), Term(bias, 1.0, held)], True)
        pieces = field.pieces if held is None else field.pieces | held.pieces
        added = squares(call.out, field) - squares(product, field)
        second = None if field.second is None else field.second + added
        fresh = field.fresh and held is not None
        return replace(made, pieces=pieces, fresh=fresh, second=second)

    def _mixed(self, call: Call, dim: int) -> Field:
        """A product with a constant: as dependent on everything as what it is given."""
        pieces = frozenset().union(*(field.pieces for field in call.fields.values()))
        if dim != call.out.dim() - 1 and call.operator in MATRICES:
            return Field(None, pieces, SAMPLED)
        return Field(tuple(at == dim for at in range(call.out.dim())), pieces, SAMPLED)

    def _convolved(self, call: Call, field: Field, lazy: LazyWeight) -> bool:
        args = call.args
        squared = taps(lazy.source.entry, values_of(lazy, "", False), lazy.factor)
        if not self.shared.stretch or squared is None:
            return False
        if call.operator is aten.convolution.default and args[1] is lazy and args[0].dim() > 2:
            predicted = forward_squares(args[0], lazy.shape, squared, args[2:])
        elif call.operator is aten.convolution_backward.default and args[2] is lazy:
            predicted = backward_squares(args[0], args[1], lazy.shape, squared, args[4:])
        else:
            return False
        return match(call.out, field, predicted, fewest=1)

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


def _evened(part: torch.Tensor, field: Field) -> Field:
    """A part of the channels of a product has its own moments; of anything else it is a sample."""
    if field.second is None or channels_of(part, field) < FEWEST:
        return replace(field, tier=SAMPLED)
    assert field.channels is not None
    along = [dim for dim, held in enumerate(field.channels) if held]
    match(part, field, field.second.mean(along, keepdim=True))
    return field


def _operands(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The tensors among the arguments of an operator, and in lists there."""
    found: list[torch.Tensor] = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += [leaf for leaf in value if isinstance(leaf, torch.Tensor)]
    return found


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The tensors that an operator writes to."""
    values = [args[at] if at < len(args) else kwargs.get(name) for at, name in _outputs(func)]
    return [leaf for leaf in _operands(values, {}) if type(leaf) in PLAIN]


@lru_cache(maxsize=4096)
def _outputs(func: Any) -> list[tuple[int, str]]:
    """The places and names of the arguments that an operator writes to."""
    return [
        (at, argument.name)
        for at, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]


def _going_back() -> bool:
    """Whether gradients are made: a checkpointed part that is run again has gradients enabled."""
    return in_backward() and not torch.is_grad_enabled()
