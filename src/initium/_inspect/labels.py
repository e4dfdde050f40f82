"""Where the indices of one dimension end up: movement replayed on labels instead of values.

Every element of a value is labelled with its index along one dimension, and the labels are sent the
way of the values. Covered: everything that moves, selects, joins or works element by element. Not
covered: sums over the labelled dimension, and values above a size.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from initium._inspect.flow import Flow
from initium._inspect.graph import Node, Value
from initium._inspect.operators import MOVEMENT
from initium._inspect.products import result_letters

__all__ = ["Rows", "contracted", "covered", "head_width", "places", "rows", "surviving", "varies"]

Rows: TypeAlias = NDArray[np.int64]
"""Sorted indices along one axis."""

LIMIT = 1 << 22
"""Elements up to which a value is labelled."""
NONE = -1
"""The label of what comes from elsewhere."""


def rows(flow: Flow, start: Value, axis: int, target: Value) -> Rows | None:
    """Which indices along ``axis`` of ``start`` arrive in ``target``; ``None`` if not known."""
    arrived = _labels(flow, start, axis, target)
    if arrived is None:
        return None
    present = torch.zeros(start.shape[axis] + 1, dtype=torch.bool)
    present[_slim(arrived).reshape(-1)] = True
    return present[:-1].nonzero().reshape(-1).numpy()


def varies(flow: Flow, start: Value, axis: int, target: Value, along: int) -> bool:
    """Whether going along one dimension of ``target`` moves along ``axis`` of ``start``."""
    arrived = _labels(flow, start, axis, target)
    if arrived is None or along >= arrived.dim():
        return False
    arrived = _slim(arrived)
    return bool((arrived.amax(along) != arrived.amin(along)).any())


def covered(flow: Flow, start: Value, axis: int, target: Value, along: int) -> set[int]:
    """Which indices along a dimension of ``target`` come from ``start``."""
    arrived = _labels(flow, start, axis, target)
    if arrived is None or along >= arrived.dim():
        return set()
    other = [dim for dim in range(arrived.dim()) if dim != along]
    present = (arrived != NONE).any(dim=other) if other else arrived != NONE
    return set(present.nonzero().reshape(-1).tolist())


def head_width(flow: Flow, start: Value, axis: int, target: Value) -> int | None:
    """Size of the dimension of ``target`` along which ``axis`` of ``start`` runs fastest."""
    arrived = _labels(flow, start, axis, target)
    best: tuple[int, int] | None = None
    slim = torch.zeros(()) if arrived is None else _slim(arrived)
    for dim in range(slim.dim()):
        steps = slim.diff(dim=dim).abs()
        least = int(torch.where(steps > 0, steps, LIMIT).min()) if steps.numel() else LIMIT
        if least < (best[0] if best is not None else LIMIT):
            best = least, target.shape[dim]
    return best[1] if best is not None else None


def _labels(flow: Flow, start: Value, axis: int, target: Value) -> torch.Tensor | None:
    if start.numel > LIMIT or target.numel > LIMIT or axis >= len(start.shape):
        return None
    shape = [1] * len(start.shape)
    shape[axis] = start.shape[axis]
    known = {start.id: torch.arange(start.shape[axis]).reshape(shape).expand(start.shape)}
    try:
        for node in flow.between(start, target):
            _label(flow, node, known)
        return known[target.id]
    except Exception:
        return None


def _slim(labels: torch.Tensor) -> torch.Tensor:
    """Labels without their repetitions: dimensions along which they were expanded have size one."""
    for dim, stride in enumerate(labels.stride()):
        if stride == 0:
            labels = labels.narrow(dim, 0, 1)
    return labels


def _label(flow: Flow, node: Node, known: dict[int, torch.Tensor]) -> None:
    moving = [value for value in dict.fromkeys(node.inputs) if value.id in known]
    if not moving:
        return
    if node.op == "copy":
        known[node.out.id] = known[moving[-1].id].expand(node.out.shape)
        return
    if node.op == "merge":
        known[node.out.id] = _written(node, known)
        return
    if flow.is_data_product(node):
        _label_product(flow, node, known)
        return
    joins, pads = node.op in ("cat", "stack"), node.op in ("pad", "constant_pad_nd")
    repositions = node.op in MOVEMENT and not node.op.startswith(("to", "_to", "type_as"))
    if not repositions and not joins:
        for out in node.outputs:
            fitting = (v for v in moving if _spreads(v.shape, out.shape))
            source = max(fitting, key=lambda value: value.numel, default=None)
            if source is not None:
                known[out.id] = known[source.id].expand(out.shape)
        return

    if repositions and node.inputs[0].id not in known:
        return

    def real(item: object) -> object:
        if isinstance(item, Value):
            if item.id in known:
                return known[item.id] - NONE if pads else known[item.id]
            if joins:
                return torch.full((1,), NONE).expand(item.shape)
            if node.op == "gather" and item.id not in flow.graph.constants:
                return torch.zeros((1,), dtype=torch.int64).expand(item.shape)
            return flow.graph.constants[item.id]
        if isinstance(item, (list, tuple)):
            kept = [part for part in item if not isinstance(part, Value) or part.numel]
            return type(item)(real(part) for part in kept)
        return item

    kwargs = {key: real(item) for key, item in node.kwargs.items() if key != "device"}
    result = node.overload(*(real(item) for item in node.args), **kwargs)
    parts = result if isinstance(result, (list, tuple)) else [result]
    for out, part in zip(node.outputs, parts, strict=True):
        known[out.id] = part + NONE if pads else part


def _label_product(flow: Flow, node: Node, known: dict[int, torch.Tensor]) -> None:
    """A product keeps the labels of a factor that does not carry them along what is summed."""
    for value, summed, dims in zip(
        flow.factors(node), contracted(flow, node), places(flow, node), strict=True
    ):
        labels = known.get(value.id)
        if labels is None:
            continue
        for dim in summed:
            slim = _slim(labels)
            if bool((slim.amax(dim, keepdim=True) != slim).any()):
                labels = None
                break
            labels = labels.narrow(dim, 0, 1)
        if labels is None:
            continue
        kept = [dim for dim in range(labels.dim()) if dim not in summed]
        order = sorted(kept, key=lambda dim: dims[dim])
        shape = [1] * len(node.out.shape)
        for dim in order:
            shape[dims[dim]] = labels.shape[dim]
        flat = labels.permute(*order, *sorted(summed)).reshape(shape)
        known[node.out.id] = flat.expand(node.out.shape)
        return


def _written(node: Node, known: dict[int, torch.Tensor]) -> torch.Tensor:
    """The labels of a value after parts of it were written in place."""
    base, *written = node.inputs
    before = known.get(base.id)
    labels = torch.full(base.shape, NONE) if before is None else before.clone().contiguous()
    for value in written:
        if value.id in known:
            place = labels.as_strided(value.shape, value.strides, value.offset - base.offset)
            place.copy_(known[value.id])
    return labels


def _spreads(shape: tuple[int, ...], wide: tuple[int, ...]) -> bool:
    """Whether a value of the first shape can be expanded to the second."""
    pairs = zip(shape[::-1], wide[::-1], strict=False)
    return len(shape) <= len(wide) and all(size in (1, other) for size, other in pairs)


# -- products of data ---------------------------------------------------------------------------


def surviving(flow: Flow, product: Node) -> tuple[set[int], set[int]]:
    """Dimensions of a product's output that come from one factor alone, for both factors."""
    last = len(product.out.shape) - 1
    if product.op != "einsum":
        left, right = flow.factors(product)
        return {last - 1} if len(left.shape) > 1 else set(), {last} if len(
            right.shape
        ) > 1 else set()
    one, two = _terms(product)
    result = result_letters(str(product.args[0]), last + 1)
    return (
        {dim for letter, dim in result.items() if letter in one and letter not in two},
        {dim for letter, dim in result.items() if letter in two and letter not in one},
    )


def contracted(flow: Flow, product: Node) -> tuple[set[int], set[int]]:
    """Dimensions of the first and of the second factor that a product sums over."""
    left, right = flow.factors(product)
    if product.op != "einsum":
        return {len(left.shape) - 1}, {max(len(right.shape) - 2, 0)}
    one, two = _terms(product)
    result = result_letters(str(product.args[0]), len(product.out.shape))
    found = []
    for term, value in ((one, left), (two, right)):
        dims = result_letters(f"->{term}", len(value.shape))
        found.append({dim for letter, dim in dims.items() if letter not in result})
    return found[0], found[1]


def places(flow: Flow, product: Node) -> tuple[dict[int, int], dict[int, int]]:
    """For both factors, the dimension of the output that each of theirs becomes."""
    left, right = flow.factors(product)
    rank = len(product.out.shape)
    if product.op == "einsum":
        result = result_letters(str(product.args[0]), rank)
        found = []
        for term, value in zip(_terms(product), (left, right), strict=True):
            letters = result_letters(f"->{term}", len(value.shape))
            found.append({dim: result.get(letter, 0) for letter, dim in letters.items()})
        return found[0], found[1]
    return (
        {dim: dim + rank - len(left.shape) for dim in range(len(left.shape) - 1)},
        {dim: dim + rank - len(right.shape) for dim in range(len(right.shape))},
    )


def _terms(product: Node) -> tuple[str, str]:
    terms = str(product.args[0]).replace(" ", "").partition("->")[0].split(",")
    return terms[-2], terms[-1]
