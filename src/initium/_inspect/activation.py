"""Which nonlinearity follows a product: by evaluating what the model really computes.

The elementwise operators behind a product form a function of one variable. It is evaluated on a
grid and compared with the known activations, so that a GELU written with ``pow`` and ``tanh`` is
still a GELU, and a function that nobody has named still has its moments.
"""

from __future__ import annotations

import functools
import heapq
import math
from dataclasses import dataclass

import numpy as np
import torch

from initium._inspect.flow import REDUCTIONS, Flow
from initium._inspect.graph import Node, Value
from initium._inspect.operators import DROPOUT, MOVEMENT, NORM, SELECTION
from initium._scheme.activations import ACTIVATIONS, activation
from initium._scheme.gains import backward_gain, forward_gain

__all__ = ["Following", "evaluated", "following"]

GRID = np.linspace(-8.0, 8.0, 641)
FINE = np.linspace(-12.0, 12.0, 9601)
TOLERANCE = 2e-5
NEAR, CAPPED = np.abs(GRID) <= 3, 0.05
"""A function this close to a shifted identity near zero only caps what is large."""
WITHIN = np.abs(GRID) < 6
"""Where an activation is recognised although what is large is clamped first."""


@dataclass(frozen=True, slots=True)
class Following:
    """What follows a product.

    ``name`` is the activation as text (``None`` if the next thing is linear), ``gain`` and
    ``backward_gain`` its 1 / E[phi^2] and 1 / E[phi'^2] under a unit normal, ``gated`` whether the
    result is then multiplied by another signal, ``normed`` whether a normalisation lies between,
    and ``skipped`` whether something reads the product without it.
    """

    name: str | None = None
    gain: float = 1.0
    backward_gain: float = 1.0
    gated: bool = False
    normed: bool = False
    skipped: bool = False
    exit: Value | None = None


def following(flow: Flow, start: Value) -> Following:
    """The nonlinearity behind ``start``, looking through movement, dropout, biases and norms."""
    region: dict[int, Value] = {start.id: start}
    order: list[Node] = []
    nonlinear: set[int] = set()
    pending = [(node.id, node) for node in start.users]
    heapq.heapify(pending)
    taken: set[int] = set()
    behind: set[int] = set()
    while pending:
        _, node = heapq.heappop(pending)
        if node.id in taken or node.id in flow.inner:
            continue
        taken.add(node.id)
        normalised = flow.norms.get(node.id)
        signals = flow.signals(node) if normalised is None else [normalised]
        if any(value.id not in region for value in signals) or not node.outputs:
            continue
        if node.op in NORM or node.id in flow.norms:
            if nonlinear & {value.id for value in signals}:
                continue
            behind.update(out.id for out in node.outputs)
        elif node.op in MOVEMENT or node.op in DROPOUT or flow.through(node) is not None:
            if node.op in SELECTION and node.out.numel != node.inputs[0].numel:
                continue
        elif flow.pools(node) and len(signals) == 1:
            if signals[0].id in nonlinear or node.op in REDUCTIONS:
                continue
        elif flow.elementwise(node) and _replayable(flow, node, region):
            nonlinear.update(out.id for out in node.outputs)
        else:
            continue
        order.append(node)
        if any(value.id in behind for value in signals):
            behind.update(out.id for out in node.outputs)
        if any(value.id in nonlinear for value in signals):
            nonlinear.update(out.id for out in node.outputs)
        for out in node.outputs:
            region[out.id] = out
            for user in out.users:
                heapq.heappush(pending, (user.id, user))
    members = {node.id for node in order}
    gated = _gated(flow, start, region, members)
    normed = bool(behind)
    bare = [value for value in region.values() if value.id not in behind]
    skipped = normed and _read_elsewhere(flow, bare, members)
    exits = [
        value
        for value in region.values()
        if value.id in nonlinear
        and (not value.users or any(user.id not in members for user in value.users))
        and not (value.users and all(user.id in flow.inner for user in value.users))
    ]
    if not exits:
        return Following(gated=gated, normed=normed, skipped=skipped)
    leaving = max(exits, key=lambda value: value.id)
    function = _evaluate(flow, start, order, leaving)
    if function is None:
        return Following(gated=gated, normed=normed, skipped=skipped)
    return Following(*function, gated=gated, normed=normed, skipped=skipped, exit=leaving)


def _read_elsewhere(flow: Flow, values: list[Value], members: set[int]) -> bool:
    """Whether anything but the region, and the statistics of its norms, reads one of the values."""
    return any(
        node.id not in members and node.id not in flow.inner and flow.signals(node)
        for value in values
        for node in value.users
        if node.op not in MOVEMENT or node.inputs[0] is value
    )


def evaluated(flow: Flow, start: Value, end: Value) -> Following | None:
    """The function of ``start`` alone that ``end`` is; ``None`` where it is none."""
    function = _evaluate(flow, start, flow.between(start, end), end)
    return Following(*function, exit=end) if function is not None else None


def _gated(flow: Flow, start: Value, region: dict[int, Value], members: set[int]) -> bool:
    """Whether the region's result is multiplied by another signal of the same size."""
    for value in region.values():
        for node in value.users:
            if node.id in members or node.op not in ("mul", "multiply") or node.id in flow.norms:
                continue
            if node.id in flow.inner:
                continue
            others = [item for item in flow.signals(node) if item.id not in region]
            if others and others[0].numel == value.numel:
                return True
    return False


def _replayable(flow: Flow, node: Node, region: dict[int, Value]) -> bool:
    return all(
        value.id in region or _scalar(flow, value) is not None
        for value in dict.fromkeys(node.inputs)
    )


def _scalar(flow: Flow, value: Value) -> float | None:
    """The one number that a constant operand holds everywhere, or a PReLU's usual slope."""
    constant = flow.graph.constants.get(value.id)
    if constant is not None and constant.numel() and not constant.is_complex():
        first = constant.reshape(-1)[0]
        if bool((constant == first).all()):
            return float(first)
        return None
    filled = _filled(value)
    if filled is not None:
        return filled
    if value.derived or value.origin == "parameter":
        return 0.25 if any("prelu" in user.op for user in value.users) else None
    return None


def _filled(value: Value) -> float | None:
    """The one number that a tensor was made with (``zeros_like``, ``full``), also when moved."""
    node = value.node
    while node is not None and node.op in MOVEMENT and node.inputs:
        node = node.inputs[0].node
    op = node.op.removeprefix("new_").removesuffix("_like") if node is not None else ""
    if node is None or op not in ("zeros", "ones", "full"):
        return None
    given = node.argument(2 if node.op == "new_full" else 1, "fill_value") if op == "full" else None
    number = given if given is not None else float(op == "ones")
    return float(number) if isinstance(number, (int, float)) else None


def _evaluate(
    flow: Flow, start: Value, order: list[Node], leaving: Value
) -> tuple[str | None, float, float] | None:
    """Name and gains of the function from ``start`` to ``leaving``."""
    needed = _needed(start, order, leaving)
    key = []
    for node in needed:
        if not _passes(flow, node):
            key.append((node.op, repr(_literals(flow, node))))
    values = _replay(flow, start, needed, leaving, GRID)
    if values is None:
        return None
    middle = values[len(GRID) // 2]
    if np.allclose(values[NEAR] - middle, GRID[NEAR], atol=CAPPED):
        return None, 1.0, 1.0
    name = _match(values) or _match(values, WITHIN) or _match(values[::-1]) or _scaled(values)
    if name is not None:
        return name, forward_gain(name), backward_gain(name)
    fine = _replay(flow, start, needed, leaving, FINE)
    if fine is None or not np.isfinite(fine).all():
        return None
    forward, backward = _moments(fine)
    if not (forward > 0 and backward > 0):
        return None
    text = ", ".join(dict.fromkeys(operator for operator, _ in key))
    return f"custom ({text})", 1 / forward, 1 / backward


def _needed(start: Value, order: list[Node], leaving: Value) -> list[Node]:
    """The nodes of the region on the way to its exit, in order."""
    wanted = {leaving.id}
    chosen = []
    for node in reversed(order):
        if any(out.id in wanted for out in node.outputs):
            chosen.append(node)
            wanted.update(value.id for value in node.inputs)
    return chosen[::-1]


def _passes(flow: Flow, node: Node) -> bool:
    """Steps that only reposition, or whose shift and scale are learned: the identity here."""
    if node.op in MOVEMENT or node.op in DROPOUT or node.op in NORM or node.id in flow.norms:
        return True
    if flow.pools(node) or any((node.id, value.id) in flow.asides for value in node.inputs):
        return True
    learned = any(value.roots for value in node.inputs if value.id not in flow.uses.signals)
    return learned and flow.through(node) is not None


def _literals(flow: Flow, node: Node) -> list[object]:
    return [_scalar(flow, item) if isinstance(item, Value) else item for item in node.args]


def _replay(
    flow: Flow, start: Value, nodes: list[Node], leaving: Value, grid: np.ndarray
) -> np.ndarray | None:
    known: dict[int, torch.Tensor] = {start.id: torch.from_numpy(grid)}

    def real(item: object) -> object:
        if isinstance(item, Value):
            return known[item.id] if item.id in known else _scalar(flow, item)
        return item

    try:
        for node in nodes:
            if _passes(flow, node):
                source = next(value for value in node.inputs if value.id in known)
                for out in node.outputs:
                    known[out.id] = known[source.id]
                continue
            known[node.out.id] = _call(node, [real(item) for item in node.args], real)
        return known[leaving.id].double().numpy()
    except Exception:
        return None


def _call(node: Node, args: list[object], real: object) -> torch.Tensor:
    assert callable(real)
    kwargs = {key: real(value) for key, value in node.kwargs.items()}
    kwargs = {key: value for key, value in kwargs.items() if key not in ("device", "dtype")}
    wanted = node.overload._schema.arguments
    for position, argument in enumerate(wanted[: len(args)]):
        if str(argument.type) == "Tensor" and isinstance(args[position], (int, float)):
            args[position] = torch.tensor(float(args[position]), dtype=torch.float64)  # type: ignore[arg-type]
    if node.op in ("prelu", "_prelu_kernel"):
        return torch.nn.functional.leaky_relu(args[0], float(args[1]))  # type: ignore[arg-type]
    if node.overload._schema.is_mutable and isinstance(args[0], torch.Tensor):
        args[0] = args[0].clone()
    result = node.overload(*args, **kwargs)
    made = result[0] if isinstance(result, (list, tuple)) else result
    assert isinstance(made, torch.Tensor)
    return made


def _match(values: np.ndarray, part: np.ndarray | slice = slice(None)) -> str | None:
    """The known activation with these values on (part of) the grid, parameters fitted where it has
    some."""
    for name, table in _known().items():
        if np.allclose(values[part], table[part], atol=TOLERANCE, rtol=TOLERANCE):
            return name
    at = dict(zip(np.round(GRID, 6), values, strict=True))
    slope = -at[-1.0]
    candidates = [f"leaky_relu({slope:.6g})"] if 0 < slope < 1 else []
    if -8 < values[0] < 0:
        candidates += [
            f"elu({-values[0] / (1 - math.exp(-8)):.6g})",
            f"celu({_celu(values[0]):.6g})",
        ]
    if at[0.0] > 0:
        candidates += [f"softplus({math.log(2) / at[0.0]:.6g})"]
    for text in candidates:
        if np.allclose(values, activation(text).function(GRID), atol=1e-4, rtol=1e-4):
            return text
    return None


def _celu(lowest: float) -> float:
    """The alpha of which alpha (exp(-8 / alpha) - 1) is ``lowest``."""
    alpha = -lowest
    for _ in range(100):
        alpha = -lowest / -math.expm1(-8 / alpha)
    return alpha


def _scaled(values: np.ndarray) -> str | None:
    """A known activation times a positive number, as in norm-free nets: ``gelu*1.7015``."""
    for name, table in _known().items():
        factor = float(values @ table) / float(table @ table)
        if factor > TOLERANCE and np.allclose(
            values, factor * table, atol=TOLERANCE * factor, rtol=TOLERANCE
        ):
            return f"{name}*{factor:.6g}"
    return None


@functools.cache
def _known() -> dict[str, np.ndarray]:
    return {
        name: activation(name).function(GRID)
        for name in ACTIVATIONS
        if name not in ("identity", "linear")
    }


def _moments(values: np.ndarray) -> tuple[float, float]:
    """E[phi(z)^2] and E[phi'(z)^2] for z ~ N(0, 1), by the trapezoid rule on the fine grid."""
    density = np.exp(-FINE * FINE / 2) / math.sqrt(2 * math.pi)
    slope = np.gradient(values, FINE)
    step = FINE[1] - FINE[0]
    return float((values**2 * density).sum() * step), float((slope**2 * density).sum() * step)
