"""Where an operator holds its weight, its data and its bias, and which output dimension is whose.

Names are those of ATen's composite operators, which arrive whole below autograd. Not covered:
products written as a sum of elementwise ones, and operators that write into an operand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from initium._inspect.operators import CONVOLUTION

__all__ = ["LOOKUPS", "RECURRENT", "Operator", "bias_of", "operator_of", "recurrent_steps"]

LOOKUPS = frozenset({"embedding", "embedding_bag", "_embedding_bag"})
RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})


@dataclass(frozen=True, slots=True)
class Operator:
    """Positions of what is multiplied and of the bias; ``dim`` gives the outputs' dimension."""

    operands: tuple[int, ...]
    bias: int | None = None
    dim: Callable[[int, torch.Tensor, torch.Tensor], int | None] = lambda *_: None


def _last(position: int, weight: torch.Tensor, out: torch.Tensor) -> int | None:
    return out.dim() - 1


def _by_side(position: int, weight: torch.Tensor, out: torch.Tensor) -> int | None:
    """Rows of the result belong to the left operand, columns to the right one."""
    if weight.dim() < 2 or out.dim() == 0:
        return None
    return out.dim() - 1 if position in (1, 2) else max(out.dim() - 2, 0)


def _addmm(position: int, weight: torch.Tensor, out: torch.Tensor) -> int | None:
    return out.dim() - (1 if position == 2 else 2)


def _channel(position: int, weight: torch.Tensor, out: torch.Tensor) -> int | None:
    return out.dim() - weight.dim() + 1


_CONVOLUTION = Operator((1,), 2, _channel)
OPERATORS: dict[str, Operator] = {
    "linear": Operator((1,), 2, _last),
    "bilinear": Operator((2,), 3, _last),
    "mm": Operator((0, 1), None, _by_side),
    "matmul": Operator((0, 1), None, _by_side),
    "bmm": Operator((0, 1), None, _by_side),
    "mv": Operator((0, 1)),
    "dot": Operator((0, 1)),
    "vdot": Operator((0, 1)),
    "inner": Operator((0, 1)),
    "tensordot": Operator((0, 1)),
    "_grouped_mm": Operator((0, 1), None, _by_side),
    "addmm": Operator((1, 2), 0, _addmm),
    "addmv": Operator((1, 2), 0),
    "baddbmm": Operator((1, 2), 0, _addmm),
    "addbmm": Operator((1, 2), 0),
    "einsum": Operator((1,)),
    **dict.fromkeys(CONVOLUTION, _CONVOLUTION),
    "lstm_cell": Operator((2,), None, _last),
    "gru_cell": Operator((2,), None, _last),
    "rnn_tanh_cell": Operator((2,), None, _last),
    "rnn_relu_cell": Operator((2,), None, _last),
}


def operator_of(name: str) -> Operator | None:
    """The entry of a product, by its name in ATen; ``None`` for any other operator."""
    return OPERATORS.get(name)


def bias_of(
    operator: Operator, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.Tensor
) -> torch.Tensor | None:
    """What the operator adds to the product, in a shape that broadcasts to its output."""
    if operator.bias is None or len(args) <= operator.bias:
        return None
    bias = args[operator.bias]
    if not isinstance(bias, torch.Tensor):
        return None
    if name.startswith("add") or name == "baddbmm":
        return bias * kwargs.get("beta", 1)
    if operator is _CONVOLUTION:
        return bias.reshape(-1, *[1] * (args[1].dim() - 2))
    return bias


@dataclass(frozen=True, slots=True)
class Step:
    """One layer of a fused recurrent operator: its weights, and how to run it on an input."""

    weights: tuple[torch.Tensor, ...]
    run: Callable[[Any], Any]


def recurrent_steps(func: Any, args: tuple[Any, ...]) -> list[Step]:
    """The layers of a whole ``lstm``, ``gru`` or ``rnn``, one by one, in their order.

    The operators' arguments are (input, state, weights, biases?, layers, dropout, train,
    bidirectional, batch_first), or (data, sizes, state, weights, ...) for packed sequences.
    """
    packed = int("data" in func._overloadname)
    head, (state, weights, biases, layers, _, train, both, *rest) = (
        args[1 : 1 + packed],
        args[1 + packed :],
    )
    directions = 2 if both else 1
    each = len(weights) // (layers * directions)
    steps = []
    for layer in range(layers):
        first = layer * directions
        own = weights[first * each : (first + directions) * each]
        states = _rows(state, first, directions)
        inputs = tuple(own[number * each] for number in range(directions))

        def run(data: Any, own: Any = own, states: Any = states) -> Any:
            return func(data, *head, states, own, biases, 1, 0.0, train, both, *rest)[0]

        steps.append(Step(inputs, run))
    return steps


def _rows(state: Any, first: int, count: int) -> Any:
    if isinstance(state, torch.Tensor):
        return state.narrow(0, first, count)
    return [part.narrow(0, first, count) for part in state]
