"""A weight without values: a tensor whose products are drawn when the model asks for them.

:class:`LazyWeight` is a wrapper subclass that answers operators below autograd. So the model's own
code and torch's own derivative formulas run as they are; composite operators arrive taken apart;
and the backward pass asks for ``W^T u`` by the same few operators as the forward pass for ``W x``.

Covered: products (``mm``, ``bmm`` and what ends in them: ``linear``, ``matmul``, ``einsum``,
recurrent cells, attention's projections), lookups, grouped products of experts, convolutions, views
of all kinds, casts, and factors. Everything else gets the values of the whole parameter, with a
note. The derivative for the weight itself is never computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

from initium._predict.lazy.source import Place, Source
from initium._predict.lazy.view import REPEATED, NotAView, View, positions

__all__ = ["LazyWeight"]

aten = torch.ops.aten
Handler = Callable[..., Any]
HANDLERS: dict[Any, Handler] = {}


class LazyWeight(torch.Tensor):
    """``factor`` times a view of a parameter that has no values."""

    _is_param: bool
    source: Source
    view_: View
    factor: float

    @staticmethod
    def __new__(
        cls: type[LazyWeight],
        source: Source,
        view: View,
        dtype: torch.dtype,
        factor: float = 1.0,
    ) -> LazyWeight:
        made = torch.Tensor._make_wrapper_subclass(
            cls, view.shape, dtype=dtype, device=torch.device("cpu")
        )
        made.source, made.view_, made.factor = source, view, factor
        made._is_param = False
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"LazyWeight({self.source.name!r}, {tuple(self.shape)})"

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Outputs depend on a trained parameter, so gradients must flow down to them."""
        with torch._C.DisableTorchFunctionSubclass(), _unfused(func):
            result = func(*args, **(kwargs or {}))
            if not torch.is_grad_enabled() or not _loose(result):
                return result
            leaves = tree_flatten((args, kwargs))[0]
            anchors = (leaf.source.anchor for leaf in leaves if isinstance(leaf, LazyWeight))
            anchor = next((anchor for anchor in anchors if anchor is not None), None)
            given = {id(leaf) for leaf in leaves}
            if anchor is None:
                return result
            return tree_map(
                lambda leaf: (
                    leaf + anchor.to(leaf.dtype) if _loose(leaf) and id(leaf) not in given else leaf
                ),
                result,
            )

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        handler = HANDLERS.get(func)
        if handler is not None:
            with torch._C.DisableTorchFunction():  # what is done here is no part of the model
                result = handler(func, *args, **kwargs)
            if result is not NotImplemented:
                return result
        elif func._can_decompose():
            result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        return _with_values(func, args, kwargs)


@contextmanager
def _unfused(func: Callable[..., Any]) -> Iterator[None]:
    """An LSTM by its products and gates, and not as one operator that takes its weights whole."""
    before = torch._C._get_mkldnn_enabled()
    if func is torch.lstm:
        torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        if func is torch.lstm:
            torch._C._set_mkldnn_enabled(before)


def _loose(tree: Any) -> bool:
    """Whether there is a floating output without a derivative."""
    return any(
        isinstance(leaf, torch.Tensor)
        and not isinstance(leaf, LazyWeight)
        and (leaf.is_floating_point() or leaf.is_complex())
        and not leaf.requires_grad
        for leaf in tree_flatten(tree)[0]
    )


def _with_values(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Run an operator on the real values."""

    def real(leaf: Any) -> Any:
        return values_of(leaf, str(func)) if isinstance(leaf, LazyWeight) else leaf

    return func(*tree_map(real, tuple(args)), **tree_map(real, kwargs))


def values_of(weight: LazyWeight, why: str, note: bool = True) -> torch.Tensor:
    """The values that a lazy weight stands for."""
    source = weight.source
    if note and source.values is None and len(source.entry.shape) > 1:
        source.shared.note(f"{source.name}: its values were drawn, for {why}")
    shown = weight.view_.show(source.whole(why)).to(weight.dtype)
    return shown if weight.factor == 1 else shown * weight.factor


def _handles(*operators: Any) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(operators, handler))
        return handler

    return register


# Views.


def _shown(weight: LazyWeight, view: View) -> LazyWeight:
    return LazyWeight(weight.source, view, weight.dtype, weight.factor)


def _viewing(*operators: Any) -> Callable[[Callable[..., View | Sequence[View]]], Handler]:
    """An operator that gives a view, or several; or values, where no view can describe it."""

    def register(make: Callable[..., View | Sequence[View]]) -> Handler:
        @_handles(*operators)
        def handler(func: Any, weight: Any, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(weight, LazyWeight):
                return NotImplemented
            try:
                made = make(weight.view_, *args, **kwargs)
            except NotAView:
                return NotImplemented
            if isinstance(made, View):
                return _shown(weight, made)
            return [_shown(weight, view) for view in made]

        return handler

    return register


@_viewing(aten.t.default, aten.numpy_T.default)
def _transposed(view: View) -> View:
    return view.permute(range(len(view.dims))[::-1])


@_viewing(aten.transpose.int)
def _swapped(view: View, first: int, second: int) -> View:
    order = list(range(len(view.dims)))
    order[first], order[second] = order[second], order[first]
    return view.permute(order)


@_viewing(aten.permute.default)
def _permuted(view: View, order: Sequence[int]) -> View:
    return view.permute([dim % len(view.dims) for dim in order])


@_viewing(aten.view.default, aten._unsafe_view.default, aten.reshape.default,
          aten._reshape_alias.default)  # fmt: skip
def _reshaped(view: View, sizes: Sequence[int], strides: object = None) -> View:
    return view.reshape(sizes)


@_viewing(aten.expand.default)
def _expanded(view: View, sizes: Sequence[int], *, implicit: bool = False) -> View:
    return view.expand(sizes)


@_viewing(aten.unsqueeze.default)
def _unsqueezed(view: View, dim: int) -> View:
    return view.unsqueeze(dim)


@_viewing(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)
def _squeezed(view: View, dims: int | Sequence[int] | None = None) -> View:
    return view.squeeze([dims] if isinstance(dims, int) else dims)


@_viewing(aten.select.int)
def _selected(view: View, dim: int, index: int) -> View:
    return view.select(dim, index)


@_viewing(aten.unbind.int)
def _unbound(view: View, dim: int = 0) -> list[View]:
    return [view.select(dim, index) for index in range(view.shape[dim])]


@_viewing(aten.slice.Tensor)
def _sliced(
    view: View, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> View:
    return view.slice(dim, start or 0, view.shape[dim] if end is None else end, step)


@_viewing(aten.split.Tensor)
def _split(view: View, size: int, dim: int = 0) -> list[View]:
    length = view.shape[dim]
    return [view.slice(dim, at, min(at + size, length)) for at in range(0, length, size)]


@_viewing(aten.split_with_sizes.default)
def _split_unevenly(view: View, sizes: Sequence[int], dim: int = 0) -> list[View]:
    ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    return [view.slice(dim, end - size, end) for size, end in zip(sizes, ends, strict=True)]


@_handles(aten.detach.default, aten.alias.default, aten.clone.default, aten.lift_fresh.default,
          aten._to_copy.default)  # fmt: skip
def _same(func: Any, weight: LazyWeight, dtype: torch.dtype | None = None, **_: Any) -> LazyWeight:
    return LazyWeight(weight.source, weight.view_, dtype or weight.dtype, weight.factor)


@_handles(aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar)
def _scaled(func: Any, weight: Any, by: Any) -> Any:
    if not isinstance(weight, LazyWeight):
        weight, by = by, weight
        if func not in (aten.mul.Tensor, aten.mul.Scalar):
            return NotImplemented
    if isinstance(by, LazyWeight) or (isinstance(by, torch.Tensor) and by.numel() != 1):
        return NotImplemented
    if isinstance(by, torch.Tensor) and by.dim() > weight.dim():
        return NotImplemented
    number = float(by.detach()) if isinstance(by, torch.Tensor) else float(by)
    factor = weight.factor * (number if func in (aten.mul.Tensor, aten.mul.Scalar) else 1 / number)
    return LazyWeight(weight.source, weight.view_, weight.dtype, factor)


# Products.


def contract(weight: LazyWeight, x: torch.Tensor, given: int) -> torch.Tensor:
    """The last dimension of ``x`` with dimension ``given`` of a matrix; the other one is made."""
    view, source = weight.view_, weight.source
    if x.shape[-1] != weight.shape[given]:
        raise RuntimeError(
            f"{source.name} of shape {tuple(weight.shape)} takes {weight.shape[given]} channels, "
            f"and not {x.shape[-1]}"
        )
    rows = x.reshape(-1, x.shape[-1])
    place = source.place(view.axes(given), view.axes(1 - given), view, len(rows))
    if place is None:
        shown = values_of(weight, "a product that mixes its axes", source.values is None)
        return x @ (shown if given == 0 else shown.T)
    shape = source.entry.shape
    into = positions(view, given, place.given, shape)
    out = positions(view, 1 - given, place.made, shape)
    rows = rows.to(source.work)
    if into is not None:
        embedded = rows.new_zeros(len(rows), place.matrix.sizes[place.side])
        embedded[:, into] = rows
        rows = embedded
    shared = source.shared
    stretch = shared.even and shared.stretch and source.name not in shared.free
    y = place.matrix.product(rows, place.side, stretch, shared.last, shared.bound)
    shared.astray |= stretch and place.matrix.astray
    if all(place.matrix.used) and not shared.last:
        shared.both.add(source.name)
    shared.used = source.name, place.side
    scale = place.matrix.scales[1 - place.side]
    shared.scale = scale
    if out is not None and shared.scale is not None:
        shared.scale = shared.scale[out]
    y = y if out is None else y[:, out]
    y = y if weight.factor == 1 else y * weight.factor
    return y.to(x.dtype).reshape(*x.shape[:-1], y.shape[1])


@_handles(aten.mm.default)
def _mm(func: Any, left: Any, right: Any) -> Any:
    if isinstance(left, LazyWeight) and isinstance(right, LazyWeight):
        return NotImplemented
    if isinstance(right, LazyWeight):
        return contract(right, left, 0)
    return contract(left, right.T, 1).T.contiguous()


@_handles(aten.mv.default)
def _mv(func: Any, matrix: Any, vector: Any) -> Any:
    if isinstance(vector, LazyWeight):
        return NotImplemented
    return contract(matrix, vector[None], 1)[0]


@_handles(aten.addmm.default, aten.baddbmm.default, aten.addmv.default)
def _added(func: Any, bias: Any, left: Any, right: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    if isinstance(bias, LazyWeight):
        bias = values_of(bias, "an addition")
    product = {aten.addmm.default: _mm, aten.baddbmm.default: _bmm, aten.addmv.default: _mv}[func]
    found = product(func, left, right)
    if found is NotImplemented:
        return found
    return (found if alpha == 1 else alpha * found) + (bias if beta == 1 else beta * bias)


@_handles(aten.bmm.default)
def _bmm(func: Any, left: Any, right: Any) -> Any:
    if isinstance(left, LazyWeight) and isinstance(right, LazyWeight):
        return NotImplemented
    if isinstance(left, LazyWeight):
        return _bmm(func, right.mT, _shown(left, left.view_.permute((0, 2, 1)))).mT.contiguous()
    view = right.view_
    if view.axes(0) <= {REPEATED}:
        return contract(_shown(right, view.select(0, 0)), left, 0)
    products = [contract(_shown(right, view.select(0, i)), x, 0) for i, x in enumerate(left)]
    return torch.stack(products)


@_handles(aten._grouped_mm.default)
def _grouped(
    func: Any, x: Any, weight: Any, offs: Any = None, bias: Any = None, out_dtype: Any = None
) -> Any:
    if not isinstance(weight, LazyWeight) or isinstance(x, LazyWeight):
        return NotImplemented
    if x.dim() != 2 or weight.dim() != 3 or offs is None or bias is not None:
        return NotImplemented
    made = x.new_zeros(len(x), weight.shape[2], dtype=out_dtype or x.dtype)
    first = 0
    for index, last in enumerate(offs.tolist()):
        if last > first:
            matrix = _shown(weight, weight.view_.select(0, index))
            made[first:last] = contract(matrix, x[first:last], 0).to(made.dtype)
        first = last
    return made


@_handles(aten.embedding.default)
def _embedding(func: Any, weight: Any, indices: torch.Tensor, *_: Any, **__: Any) -> Any:
    return _looked_up(weight, indices, lowest=0)


@_handles(aten.index_select.default)
def _index_select(func: Any, weight: Any, dim: int, index: Any) -> Any:
    return _looked_up(weight, index) if dim == 0 else NotImplemented


@_handles(aten.index.Tensor)
def _index(func: Any, weight: Any, indices: Sequence[Any]) -> Any:
    if len(indices) != 1 or indices[0] is None or indices[0].dtype == torch.bool:
        return NotImplemented
    return _looked_up(weight, indices[0])


def _looked_up(weight: Any, indices: Any, lowest: int | None = None) -> Any:
    """Rows, as products with unit vectors; rows are counted from the end below zero."""
    if not isinstance(weight, LazyWeight) or weight.dim() != 2:
        return NotImplemented
    used, which = indices.reshape(-1).unique(return_inverse=True)
    source, view = weight.source, weight.view_
    least, size = -weight.shape[0] if lowest is None else lowest, weight.shape[0]
    beyond = [index for index in used[[0, -1]].tolist() if not least <= index < size]
    if beyond:
        raise IndexError(f"{source.name} has {size} rows, and no row {beyond[-1]}")
    place = source.place(view.axes(0), view.axes(1), view, len(used))
    if place is None or place.matrix.values is not None:
        rows = _rows(weight, place, used % weight.shape[0])
    else:
        unit = torch.zeros(len(used), weight.shape[0], dtype=source.work)
        unit[torch.arange(len(used)), used % weight.shape[0]] = 1
        rows = contract(weight, unit, 0)
    return rows.to(weight.dtype)[which].reshape(*indices.shape, weight.shape[1])


def _rows(weight: LazyWeight, place: Place | None, used: torch.Tensor) -> torch.Tensor:
    """Rows of a matrix that has values."""
    if place is None or place.matrix.values is None:
        return values_of(weight, "a lookup")[used]
    shape = weight.source.entry.shape
    values = place.matrix.values if place.side else place.matrix.values.T
    into = positions(weight.view_, 0, place.given, shape)
    out = positions(weight.view_, 1, place.made, shape)
    found = values[used if into is None else into[used]]
    return (found if out is None else found[:, out]) * weight.factor


@_handles(aten.convolution.default, aten.convolution_backward.default)
def _convolution(func: Any, *args: Any) -> Any:
    """With the real values: a kernel meets as many positions as would settle all of it."""
    real = [values_of(a, "", note=False) if isinstance(a, LazyWeight) else a for a in args]
    return func(*real)
