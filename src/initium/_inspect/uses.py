"""Where each parameter is used, and how: the operators that consume it, and along which axes.

A *signal* is whatever flows: values that depend on inputs, and the outputs of matrices and lookups.
A value made of parameters alone is *linked* to them, with a record of which parameter dimensions
each of its dimensions comes from, kept through transposes, slices, reshapes and casts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from initium._inspect.graph import Graph, Node, Value, operands
from initium._inspect.operators import (
    CONVOLUTION,
    FACTORY,
    LOOKUP,
    NORM,
    PRODUCT,
    RECURRENT,
)
from initium._types import Axes

__all__ = ["Dims", "Use", "Uses", "find_uses"]

Dims = tuple[frozenset[int], ...] | None
"""For each dimension of a value, the parameter dimensions it comes from; ``None`` if unknown."""

INDEXING = frozenset({"index", "_unsafe_index", "index_select"})

Kind = Literal["matrix", "lookup", "recurrent", "norm", "add", "scale", "join", "other"]


@dataclass(slots=True, eq=False)
class Use:
    """One operator that consumes one parameter (or something made of it).

    ``slot`` tells apart several parameters of one operator (``weight``, ``bias``, ``input``,
    ``hidden``). ``axes`` are dimensions of the *parameter*. ``rows`` is the part of the output
    dimension that this use takes, where it takes a slice.
    """

    kind: Kind
    node: Node
    parameter: str
    weight: Value
    out: Value
    slot: str = "weight"
    data: Value | None = None
    axes: Axes | None = None
    rows: tuple[int, int] | None = None
    groups: int = 1
    stride: int = 1
    transposed: bool = False
    kernel: tuple[int, ...] = ()


@dataclass(slots=True)
class Uses:
    """All uses, by parameter and by node, and which values are signals."""

    all: list[Use]
    by_parameter: dict[str, list[Use]]
    by_node: dict[int, list[Use]]
    signals: set[int]

    def matrix(self, node: Node | None) -> Use | None:
        """The matrix (or lookup) whose product this node computes."""
        if node is None:
            return None
        for use in self.by_node.get(node.id, ()):
            if use.kind in ("matrix", "recurrent", "lookup") and use.slot in ("weight", "input"):
                return use
        return None


def find_uses(graph: Graph) -> Uses:
    """Walk the trace once, in order, and note every use of every parameter."""
    links: dict[int, dict[str, Dims]] = {}
    signals = {value.id for value in graph.values if value.origin == "input"}
    for name, value in graph.parameters.items():
        links[value.id] = {name: tuple(frozenset({dim}) for dim in range(len(value.shape)))}
    found: list[Use] = []
    for node in graph.nodes:
        if node.op in FACTORY:
            continue
        uses = list(_uses_of(node, links, signals, graph))
        found += uses
        flows = any(value.id in signals for value in node.inputs) or any(
            use.kind in ("matrix", "recurrent", "lookup") for use in uses
        )
        for out in node.outputs:
            if flows:
                signals.add(out.id)
                links.pop(out.id, None)
            elif out.id not in links:
                linked = _carry(node, out, links)
                if linked:
                    links[out.id] = linked
    result = Uses(found, {name: [] for name in graph.parameters}, {}, signals)
    for use in found:
        result.by_parameter[use.parameter].append(use)
        result.by_node.setdefault(use.node.id, []).append(use)
    return result


_Make: TypeAlias = Callable[..., Iterator[Use]]
"""(kind, operand, slot, further fields) -> a use of each parameter that the operand stands for."""


def _uses_of(
    node: Node, links: dict[int, dict[str, Dims]], signals: set[int], graph: Graph
) -> Iterator[Use]:
    linked = [value for value in node.inputs if value.id in links]
    if not linked:
        return
    out = node.outputs[0] if node.outputs else node.inputs[0]

    def uses(kind: Kind, value: object, slot: str, **more: object) -> Iterator[Use]:
        if isinstance(value, Value) and value.id in links:
            linked = links[value.id]
            whole = linked if kind in ("add", "scale") else _heads(value, linked, graph)
            for name in whole:
                yield Use(kind, node, name, value, out, slot, **more)  # type: ignore[arg-type]

    if node.op == "linear" or node.op in CONVOLUTION:
        yield from _explicit(node, uses, links)
        yield from uses("join", node.args[0], "input", data=out)
    elif node.op in LOOKUP:
        yield from uses("lookup", node.args[0], "weight", data=node.argument(1, "indices"))
    elif node.op in INDEXING and node.args[0] in linked and _by_signal(node, signals):
        index = next(value for value in node.inputs[1:] if value.id in signals)
        yield from uses("lookup", node.args[0], "weight", data=index)
    elif node.op in NORM:
        yield from _norm(node, uses)
    elif node.op in RECURRENT:
        yield from _recurrent(node, uses)
    elif node.op in PRODUCT and (pair := _product(node, links, signals)) is not None:
        weight, data, axes = pair
        for use in uses("matrix", weight, "weight", data=data):
            yield _placed(use, axes, links, graph)
        yield from uses("join", data, "input", data=out)
        for value in node.inputs:
            if value is not weight and value is not data:
                yield from uses("add", value, "bias", data=out)
    elif any(value.id in signals for value in node.inputs):
        kind = _KINDS.get(node.op, "other")
        data = next(value for value in node.inputs if value.id in signals)
        for value in linked:
            yield from uses(kind, value, "weight", data=data)


def _by_signal(node: Node, signals: set[int]) -> bool:
    return any(value.id in signals for value in node.inputs[1:])


_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("add", "sub", "rsub", "subtract"), "add"),
    **dict.fromkeys(
        ("mul", "div", "multiply", "divide", "true_divide", "prelu", "_prelu_kernel", "addcmul"),
        "scale",
    ),
    **dict.fromkeys(
        ("cat", "stack", "hstack", "vstack", "concat", "where", "index_put", "masked_fill",
         "masked_scatter", "copy", "scatter", "slice_scatter", "_index_put_impl",
         "scaled_dot_product_attention", "lerp"),
        "join",
    ),
}  # fmt: skip


def _heads(value: Value, linked: dict[str, Dims], graph: Graph) -> Iterator[str]:
    """The parameters that a value stands for: those as large as it, or else all it is made of."""
    full = [name for name in linked if graph.parameters[name].numel >= max(value.numel, 1)]
    yield from full or linked


def _explicit(node: Node, uses: _Make, links: dict[int, dict[str, Dims]]) -> Iterator[Use]:
    """``linear`` and the convolutions: the schema says which operand is the weight."""
    data, weight = node.args[0], node.args[1]
    assert isinstance(weight, Value)
    graph_dims = len(weight.shape)
    transposed = "transpose" in node.op
    groups, stride = 1, 1
    inputs: tuple[int, ...] = (graph_dims - 1,)
    outputs: tuple[int, ...] = tuple(range(graph_dims - 1))
    field: tuple[int, ...] = ()
    if node.op != "linear":
        field = tuple(range(2, graph_dims))
        inputs, outputs = (1,), (0,)
        names = [argument.name for argument in node.overload._schema.arguments]
        if "transposed" in names:
            transposed = bool(node.argument(names.index("transposed"), "transposed", False))
        groups = _integer(node, names, "groups", 1)
        stride = _product_of(node, names, "stride", len(field))
        if transposed:
            inputs, outputs = outputs, inputs
    axes = Axes(inputs, outputs, (), field)
    for use in uses("matrix", weight, "weight", data=data):
        placed = _placed(use, axes, links, None)
        placed.groups, placed.stride, placed.transposed = groups, stride, transposed
        placed.kernel = tuple(weight.shape[dim] for dim in field)
        yield placed
    yield from uses("add", node.argument(2, "bias"), "bias", data=node.out)


def _integer(node: Node, names: list[str], name: str, default: int) -> int:
    value = node.argument(names.index(name), name, default) if name in names else default
    return value if isinstance(value, int) else default


def _product_of(node: Node, names: list[str], name: str, dims: int) -> int:
    value = node.argument(names.index(name), name, 1) if name in names else 1
    if isinstance(value, int):
        return value**dims
    sizes = [item for item in value if isinstance(item, int)] if isinstance(value, list) else []
    total = 1
    for size in sizes * dims if len(sizes) == 1 else sizes:
        total *= size
    return total


def _norm(node: Node, uses: _Make) -> Iterator[Use]:
    names = [argument.name for argument in node.overload._schema.arguments]
    for slot in ("weight", "bias"):
        if slot in names:
            yield from uses("norm", node.argument(names.index(slot), slot), slot, data=node.args[0])


def _recurrent(node: Node, uses: _Make) -> Iterator[Use]:
    """Gates of ``lstm``, ``gru`` and plain recurrences, whole or by the cell."""
    if node.op.endswith("_cell"):
        weights = [node.argument(i, "") for i in range(2, 6)]
    else:
        sequences = [item for item in node.args if isinstance(item, (list, tuple))]
        weights = max(
            (list(item) for item in sequences),
            key=lambda item: sum(isinstance(part, Value) and bool(part.roots) for part in item),
            default=[],
        )
    for position, weight in enumerate(weights):
        if not isinstance(weight, Value):
            continue
        if len(weight.shape) == 1:
            yield from uses("add", weight, "bias", data=node.out)
            continue
        slot = _slot(weights, position)
        for use in uses("recurrent", weight, slot, data=node.args[0]):
            yield replace(use, axes=Axes((1,), (0,)))


def _slot(weights: list[object], position: int) -> str:
    """Per layer and direction: the input's matrix, the state's, their biases, and a projection."""
    values = [item for item in weights if isinstance(item, Value)]
    vectors = sum(len(value.shape) == 1 for value in values)
    matrices = len(values) - vectors
    projected = 2 * matrices == 3 * vectors or (not vectors and matrices % 3 == 0)
    size = 2 + (2 if vectors else 0) + projected
    within = position % size
    return ("input", "hidden")[within] if within < 2 else "projection"


def _product(
    node: Node, links: dict[int, dict[str, Dims]], signals: set[int]
) -> tuple[Value, Value, Axes] | None:
    """The weight operand, the data operand, and the weight operand's axes."""
    if node.op == "einsum":
        return _einsum(node, links)
    values = [item for item in node.args if isinstance(item, Value)]
    if node.op in ("addmm", "baddbmm", "addmv", "addbmm"):
        values = values[1:]
    if len(values) < 2:
        return None
    left, right = values[:2]
    if right.id in links and (left.id in signals or left.id not in links or _direct(right)):
        weight, data, on_right = right, left, True
    elif left.id in links:
        weight, data, on_right = left, right, False
    else:
        return None
    rank = len(weight.shape)
    if rank == 1:
        return weight, data, Axes((0,), ())
    inner, outer = (rank - 2, rank - 1) if on_right else (rank - 1, rank - 2)
    batch = tuple(dim for dim in range(rank - 2) if weight.shape[dim] > 1)
    return weight, data, Axes((inner,), (outer,), batch)


def _direct(value: Value) -> bool:
    return value.origin == "parameter" or len(value.roots) == 1


def _einsum(node: Node, links: dict[int, dict[str, Dims]]) -> tuple[Value, Value, Axes] | None:
    equation = node.args[0]
    values = list(operands(node.args[1]))
    weight = next((value for value in values if value.id in links), None)
    if weight is None or not isinstance(equation, str) or len(values) != 2:
        return None
    equation = equation.replace(" ", "")
    left, _, result = equation.partition("->")
    terms = left.split(",")
    mine = terms[values.index(weight)].replace("...", "")
    other = terms[1 - values.index(weight)]
    if len(mine) != len(weight.shape):
        return None
    inputs, outputs, batch = [], [], []
    for dim, letter in enumerate(mine):
        if letter not in result:
            inputs.append(dim)
        elif letter in other:
            batch.append(dim)
        else:
            outputs.append(dim)
    data = values[1 - values.index(weight)]
    return weight, data, Axes(tuple(inputs), tuple(outputs), tuple(batch))


def _placed(use: Use, axes: Axes, links: dict[int, dict[str, Dims]], graph: Graph | None) -> Use:
    """The use with its operand's axes carried back to dimensions of the parameter."""
    dims = links[use.weight.id][use.parameter]
    if dims is None:
        return use

    def back(group: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set().union(*(dims[dim] for dim in group)))) if group else ()

    inputs, outputs, field = back(axes.inputs), back(axes.outputs), back(axes.field)
    named = set(inputs) | set(outputs) | set(field)
    shape = _parameter_shape(use)
    batch = tuple(dim for dim, size in enumerate(shape) if dim not in named and size > 1)
    return replace(
        use,
        axes=Axes(inputs, outputs, batch, field),
        rows=_rows(use, outputs),
    )


def _parameter_shape(use: Use) -> tuple[int, ...]:
    value = use.weight
    while value.origin != "parameter" and value.node is not None:
        source = next((v for v in value.node.inputs if use.parameter in v.roots), None)
        if source is None:
            break
        value = source
    return value.shape


def _rows(use: Use, outputs: tuple[int, ...]) -> tuple[int, int] | None:
    """(start, size) along the output dimension, where the operand is a slice of the weight."""
    value = use.weight
    while value.origin != "parameter" and value.node is not None and value.node.inputs:
        value = value.node.inputs[0]
    if value.storage != use.weight.storage or not outputs or not value.strides:
        return None
    dim = outputs[0]
    start = use.weight.offset // value.strides[dim] % value.shape[dim]
    size = use.weight.numel * value.shape[dim] // max(value.numel, 1)
    for other in range(len(value.shape)):
        if other != dim and value.shape[other] not in use.weight.shape:
            return None
    return (start, size) if 0 < size < value.shape[dim] else None


def _carry(node: Node, out: Value, links: dict[int, dict[str, Dims]]) -> dict[str, Dims]:
    """The links of a value made of linked and constant operands."""
    carried: dict[str, Dims] = {}
    for source in node.inputs:
        for name, dims in links.get(source.id, {}).items():
            carried[name] = None if dims is None else _through(source, out, dims)
    return carried


def _through(source: Value, out: Value, dims: tuple[frozenset[int], ...]) -> Dims:
    """Dimensions of ``out`` in terms of those of ``source``."""
    none: frozenset[int] = frozenset()
    if out.storage == source.storage and out.strides and source.strides:
        spans = [
            (stride, stride * size, dim)
            for dim, (stride, size) in enumerate(zip(source.strides, source.shape, strict=True))
            if size > 1 and stride > 0
        ]
        result = []
        for stride, size in zip(out.strides, out.shape, strict=True):
            inside = [
                dims[dim] for low, high, dim in spans if stride < high and stride * size > low
            ]
            result.append(none.union(*inside) if size > 1 and stride > 0 and inside else none)
        return tuple(result)
    if out.shape == source.shape:
        return dims
    if out.numel == source.numel:
        return _reshaped(source.shape, out.shape, dims)
    aligned = []
    for back in range(1, len(out.shape) + 1):
        same = back <= len(source.shape) and source.shape[-back] == out.shape[-back]
        aligned.append(dims[-back] if same else none)
    return tuple(reversed(aligned))


def _reshaped(
    before: tuple[int, ...], after: tuple[int, ...], dims: tuple[frozenset[int], ...]
) -> Dims:
    """Row-major reshape: group the dimensions whose products meet."""
    result: list[frozenset[int]] = []
    position = 0
    pending: frozenset[int] = frozenset()
    left = right = 1
    for size in after:
        right *= size
        while left < right and position < len(before):
            left *= before[position]
            if before[position] > 1:
                pending |= dims[position]
            position += 1
        result.append(pending if size > 1 else frozenset())
        if left == right:
            pending = frozenset()
    return tuple(result)
