"""Contractions: which operand is the weight, and which of its dimensions are contracted, produced
or stacked. ``linear``, convolutions, ``bilinear``, matrix products and ``einsum`` of two operands.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from initium._inspect.graph import Node, Value, operands
from initium._inspect.operators import CONVOLUTION, PRODUCT
from initium._types import Axes

__all__ = ["Contraction", "contraction", "result_letters"]


@dataclass(frozen=True, slots=True)
class Contraction:
    """``axes`` are dimensions of the weight operand; ``places`` the dimensions of the output that
    ``axes.outputs`` become, where they are known."""

    weight: Value
    data: Value
    axes: Axes
    places: tuple[int, ...] = ()
    groups: int = 1
    stride: int = 1
    transposed: bool = False


def contraction(
    node: Node, linked: Collection[int], signals: Collection[int]
) -> Contraction | None:
    """The product of a parameter (ids in ``linked``) with a signal; ``None`` if it is not one."""
    if node.op in ("linear", "bilinear") or node.op in CONVOLUTION:
        return _declared(node, linked)
    if node.op == "einsum":
        return _einsum(node, linked, signals)
    if node.op not in PRODUCT:
        return None
    values = [item for item in node.args if isinstance(item, Value)]
    if node.op in ("addmm", "baddbmm", "addmv", "addbmm"):
        values = values[1:]
    if len(values) < 2:
        return None
    left, right = values[:2]
    if right.id in linked and _flows(left, linked, signals):
        weight, data, on_right = right, left, True
    elif left.id in linked and _flows(right, linked, signals):
        weight, data, on_right = left, right, False
    else:
        return None
    rank, last = len(weight.shape), len(node.out.shape) - 1
    if rank == 1:
        return Contraction(weight, data, Axes((0,), ()))
    inner, outer = (rank - 2, rank - 1) if on_right else (rank - 1, rank - 2)
    batch = tuple(dim for dim in range(rank - 2) if weight.shape[dim] > 1)
    place = last if on_right or len(data.shape) == 1 else last - 1
    return Contraction(weight, data, Axes((inner,), (outer,), batch), (place,))


def _flows(value: Value, linked: Collection[int], signals: Collection[int]) -> bool:
    """Whether a value is data: a signal, or made of constants alone (angles of positions). A buffer
    is not: parametrizations multiply weights with theirs."""
    if value.id in signals:
        return True
    return value.id not in linked and value.origin == "operator" and _computed(value)


def _computed(value: Value) -> bool:
    """Whether trigonometry or counting went into a constant."""
    stack, seen = [value], set[int]()
    while stack and len(seen) < 64:
        here = stack.pop()
        if here.id in seen or here.node is None:
            continue
        seen.add(here.id)
        if here.node.op in ("sin", "cos", "arange", "linspace"):
            return True
        stack += here.node.inputs
    return False


def _declared(node: Node, linked: Collection[int]) -> Contraction | None:
    """Operators whose schema says which operand is the weight."""
    data, weight = node.args[0], node.args[2 if node.op == "bilinear" else 1]
    if not isinstance(weight, Value) or not isinstance(data, Value) or weight.id not in linked:
        return None
    rank, last = len(weight.shape), len(node.out.shape) - 1
    if node.op == "bilinear":
        return Contraction(weight, data, Axes((1, 2), (0,)), (last,))
    if node.op == "linear":
        outputs = tuple(range(rank - 1))
        return Contraction(weight, data, Axes((rank - 1,), outputs), (last,) * len(outputs))
    field = tuple(range(2, rank))
    names = [argument.name for argument in node.overload._schema.arguments]
    transposed = "transpose" in node.op
    if "transposed" in names:
        transposed = bool(node.argument(names.index("transposed"), "transposed", False))
    groups = _sizes(node, names, "groups")[0]
    stride = 1
    for size in _sizes(node, names, "stride", len(field)):
        stride *= size
    ends = ((0,), (1,)) if transposed else ((1,), (0,))
    return Contraction(weight, data, Axes(*ends, (), field), (1,), groups, stride, transposed)


def _sizes(node: Node, names: list[str], name: str, number: int = 1) -> tuple[int, ...]:
    """An argument that is one whole number for all dimensions, or one for each."""
    value = node.argument(names.index(name), name, 1) if name in names else 1
    given = list(value) if isinstance(value, (list, tuple)) else [value]
    sizes = [item for item in given if isinstance(item, int)] or [1]
    return tuple(sizes * number if len(sizes) == 1 else sizes)


def _einsum(node: Node, linked: Collection[int], signals: Collection[int]) -> Contraction | None:
    equation, values = node.args[0], list(operands(node.args[1]))
    if not isinstance(equation, str) or len(values) != 2:
        return None
    for place, weight in enumerate(values):
        data = values[1 - place]
        if weight.id in linked and _flows(data, linked, signals):
            break
    else:
        return None
    terms, _, _ = equation.replace(" ", "").partition("->")
    mine, other = (terms.split(",")[side] for side in (place, 1 - place))
    mine = mine.replace("...", "")
    if len(mine) != len(weight.shape):
        return None
    result = result_letters(equation, len(node.out.shape))
    inputs, outputs, batch = [], [], []
    for dim, letter in enumerate(mine):
        if letter not in result:
            inputs.append(dim)
        elif letter in other:
            batch.append(dim)
        else:
            outputs.append(dim)
    places = tuple(result[mine[dim]] for dim in outputs)
    return Contraction(weight, data, Axes(tuple(inputs), tuple(outputs), tuple(batch)), places)


def result_letters(equation: str, rank: int) -> dict[str, int]:
    """The letters of an einsum's result, and the dimensions that they name."""
    terms, arrow, result = equation.replace(" ", "").partition("->")
    if not arrow:
        letters = terms.replace(",", "").replace("...", "")
        result = "".join(sorted(letter for letter in letters if letters.count(letter) == 1))
        result = f"...{result}" if "..." in terms else result
    before, ellipsis, after = result.partition("...")
    found = {letter: dim for dim, letter in enumerate(before)}
    start = rank - len(after) if ellipsis else len(before)
    return found | {letter: start + dim for dim, letter in enumerate(after)}
