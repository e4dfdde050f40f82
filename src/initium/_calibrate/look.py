"""What the first pass finds out besides moments, before anything is scaled.

Which residual stream each branch is added to (:mod:`initium._calibrate.streams`); which weights
are fed with what they have made themselves, so that a factor acts on them more than once; and whose
attention logits are not divided by the square root of the head's width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from initium._calibrate.streams import Streams
from initium._calibrate.targets import Unit
from initium._inspect.operators import NORM, SOFTMAX
from initium._types import ModelView

__all__ = ["Look"]

LEVELS = NORM | SOFTMAX | {"tanh", "sigmoid", "lstm_cell", "gru_cell", "rnn_tanh_cell"}
"""What they put out does not grow with what they take in."""
MASKED = -1e4
"""Logits below this are a mask."""
NARROWEST = 4
"""Heads narrower than this do not tell whether logits were divided."""


class Look:
    """Takes notice of every operator of the first pass.

    ``feeding`` are the units that are fed with their own output; ``unscaled`` the queries and keys
    whose logits are not divided.
    """

    def __init__(self, view: ModelView) -> None:
        self.view = view
        self.streams = Streams()
        self.feeding: set[Unit] = set()
        self.unscaled: set[Unit] = set()
        self.carried = WeakTensorKeyDictionary()
        self.levels = WeakTensorKeyDictionary()
        self.recent: dict[str, tuple[Unit, float]] = {}

    def passed(
        self,
        number: int,
        name: str,
        given: tuple[tuple[Any, ...], dict[str, Any]],
        operands: list[torch.Tensor],
        outputs: list[torch.Tensor],
        measured: list[tuple[Unit, float]],
    ) -> None:
        """One operator has run; ``measured`` are the units whose products it held."""
        self.streams.follow(number, name, operands, outputs)
        if not outputs:
            return
        writers = [unit for unit, _ in measured if self._writes(unit)]
        if writers:
            self.streams.wrote(writers, outputs[0])
        self._carry(name, operands, outputs, measured)
        for unit, moment in measured:
            if unit.role in ("attn_q", "attn_k"):
                self.recent[unit.role] = (unit, moment)
        self._logits(name, *given)

    def _writes(self, unit: Unit) -> bool:
        view = self.view.parameters[unit.name]
        return view.writes_residual and not view.norm_after

    def _carry(
        self,
        name: str,
        operands: list[torch.Tensor],
        outputs: list[torch.Tensor],
        measured: list[tuple[Unit, float]],
    ) -> None:
        """Whose factors the outputs grow with."""
        carried: frozenset[str] = frozenset().union(
            *(self.carried.get(tensor, frozenset()) for tensor in operands)
        )
        self.feeding.update(unit for unit, _ in measured if unit.name in carried)
        mine = {unit.name for unit, _ in measured if self.view.parameters[unit.name].uses > 1}
        levelled = name == "mul" and any(tensor in self.levels for tensor in operands)
        carried = frozenset() if name in LEVELS or levelled else carried | mine
        if name == "rsqrt":
            self.levels[outputs[0]] = True
        for out in outputs:
            if carried:
                self.carried[out] = carried
            else:
                self.carried.pop(out, None)

    def _logits(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Whether the queries and keys before this operator are multiplied undivided."""
        softmax = name in SOFTMAX
        if not (softmax or name == "scaled_dot_product_attention") or len(self.recent) < 2:
            return
        (query, q), (key, k) = self.recent["attn_q"], self.recent["attn_k"]
        self.recent.clear()
        width = self.view.parameters[query.name].head_dim or 0
        if width < NARROWEST or not q * k > 0:
            return
        if softmax:
            ratio = _spread(args[0]) / (q * k)
        else:
            scale = kwargs.get("scale")
            ratio = 1.0 if scale is None else float(scale) ** 2 * args[0].shape[-1]
        if ratio > math.sqrt(width):
            self.unscaled |= {query, key}


def _spread(logits: torch.Tensor) -> float:
    """The variance of what is not masked, about the mean of each row."""
    kept = logits > MASKED
    count = kept.sum(-1, keepdim=True).clamp(min=1)
    values = torch.where(kept, logits, 0).float()
    centred = torch.where(kept, values - values.sum(-1, keepdim=True) / count, 0)
    return float(centred.square().sum() / kept.sum().clamp(min=1))
