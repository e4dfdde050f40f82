"""What the output of a weight is to become, from its role and place: see ``docs/calibrate.md``.

Every number is a second moment of what one operator puts out, its bias included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from initium._types import MATRIX_ROLES, Block, ParameterView

__all__ = ["LOGITS", "POSITIONS", "Aim", "Unit", "aim_of", "left_alone", "table_aim", "units_of"]

LOGITS = 0.04
"""Of the outputs of a head or a router, as for ``auto``: logits of std 0.2."""
POSITIONS = 0.25
"""Of looked-up positions relative to looked-up tokens, as for ``auto``: half their std."""

HELD = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "gate": "mlp_gate", "up": "mlp_up"}
"""The role of a block of a fused weight, by its label."""

KEPT: Mapping[str, str] = {
    "recurrent_hidden": "its gain is applied again at every step: the plan's is kept",
    "modulation": "a modulation stays as near to neutral as it was made",
    "lora_a": "an adapter adds nothing before training",
    "lora_b": "an adapter adds nothing before training",
}


@dataclass(frozen=True, slots=True)
class Unit:
    """What gets a factor of its own: a weight, or the rows of one block of a fused weight.

    ``runs`` are half-open ranges along ``axis``; none for the whole parameter.
    """

    name: str
    role: str
    block: str = ""
    axis: int = 0
    runs: tuple[tuple[int, int], ...] = ()

    def parts(self, tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What the unit holds of its parameter, sharing its memory."""
        if not self.runs:
            return (tensor,)
        return tuple(tensor.narrow(self.axis, start, stop - start) for start, stop in self.runs)

    def multiply(self, tensor: torch.Tensor, factor: float) -> None:
        """Multiply that in place."""
        for part in self.parts(tensor):
            part.mul_(factor)


@dataclass(frozen=True, slots=True)
class Aim:
    """A target and why; with ``branches`` it is that part of the residual stream's own moment."""

    value: float
    reason: str
    branches: int | None = None


def units_of(view: ParameterView) -> tuple[Unit, ...]:
    """The units of a parameter: one for each block along its outputs, else the whole."""
    fused = [block for block in view.blocks if not block.stacked]
    outputs = view.axes.outputs if view.axes is not None else ()
    if len(fused) < 2 or len(outputs) != 1 or any(block.axis != outputs[0] for block in fused):
        return (Unit(view.name, view.role),)
    return tuple(
        Unit(view.name, HELD.get(block.label, view.role), block.label, block.axis, _runs(block))
        for block in fused
    )


def _runs(block: Block) -> tuple[tuple[int, int], ...]:
    starts = (block.start + run * block.stride for run in range(block.count))
    return tuple((start, start + block.size) for start in starts)


def left_alone(view: ParameterView) -> str | None:
    """Why a parameter keeps its values whatever is measured; ``None`` if it may be scaled."""
    if not view.trainable:
        return "frozen"
    if view.role in KEPT:
        return KEPT[view.role]
    if view.magnitude_of is not None or view.role in {"embedding", "position", "unknown"}:
        return None
    if view.role not in MATRIX_ROLES:
        return "not the weight of a product"
    return None


def aim_of(unit: Unit, view: ParameterView, unscaled: bool = False) -> Aim:
    """The target of a product with a weight.

    Args:
        unit: the weight, or its block.
        view: the parameter that it is in.
        unscaled: a query or key whose attention does not divide by sqrt(head_dim).
    """
    if unit.role == "head":
        return Aim(LOGITS, "logits of std 0.2: the first loss is near ln C")
    if unit.role == "router":
        return Aim(LOGITS, "logits of std 0.2: routing stays undecided")
    if view.writes_residual and not view.norm_after:
        count = max(view.branches or 1, 1)
        return Aim(1 / count, f"1/{count} of the stream that it is added to", count)
    if unscaled:
        width = view.head_dim or 1
        why = f"1/sqrt({width}), as the attention logits are not divided by sqrt({width})"
        return Aim(width**-0.5, why)
    if unit.role in ("attn_q", "attn_k"):
        return Aim(1.0, "queries and keys of one make attention logits of order one")
    if view.norm_after:
        return Aim(1.0, "one before the normalisation: its gradient goes as 1/|W|")
    return Aim(1.0, "the signal keeps its second moment")


def table_aim(view: ParameterView, tied: bool, beside_tied: bool) -> Aim:
    """The target of a lookup.

    Args:
        view: the table.
        tied: it makes the logits, too.
        beside_tied: a table as wide as this one does.
    """
    scale = LOGITS / view.shape[-1] if tied or beside_tied else 1.0
    if view.role == "position":
        return Aim(POSITIONS * scale, "positions: half the std of tokens")
    if tied:
        return Aim(scale, f"tied to the head: {LOGITS}/width, for logits of std 0.2 behind a norm")
    if beside_tied:
        return Aim(scale, "that of the tied table to which it may be added")
    return Aim(1.0, "the stream starts at one")
