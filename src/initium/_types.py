"""What a model is, as data: the vocabulary that every other part of initium speaks.

Nothing here knows a framework. Shapes are tuples, dtypes are names such as ``"float32"``, and a
statement about a parameter comes with the :class:`Evidence` for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

__all__ = [
    "MATRIX_ROLES",
    "ROLES",
    "Axes",
    "Block",
    "BufferView",
    "Evidence",
    "ModelView",
    "ParameterView",
    "Role",
    "Rung",
    "Severity",
]

Role = Literal[
    "embedding",
    "position",
    "token",
    "patch",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_qkv",
    "attn_out",
    "mlp_up",
    "mlp_gate",
    "mlp_gate_up",
    "mlp_down",
    "router",
    "conv",
    "conv_depthwise",
    "conv_transpose",
    "recurrent_input",
    "recurrent_hidden",
    "linear",
    "modulation",
    "head",
    "norm_scale",
    "norm_bias",
    "bias",
    "scale",
    "lora_a",
    "lora_b",
    "ssm_a",
    "ssm_d",
    "ssm_dt",
    "unknown",
]
ROLES: tuple[Role, ...] = get_args(Role)

MATRIX_ROLES: frozenset[str] = frozenset(
    {
        "patch",
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_qkv",
        "attn_out",
        "mlp_up",
        "mlp_gate",
        "mlp_gate_up",
        "mlp_down",
        "router",
        "conv",
        "conv_depthwise",
        "conv_transpose",
        "recurrent_input",
        "recurrent_hidden",
        "linear",
        "modulation",
        "head",
        "lora_a",
        "lora_b",
    }
)
"""Roles of weights that are contracted with data, and so have a fan-in and a fan-out."""

Severity = Literal["error", "warning", "info"]

Rung = Literal["traced", "invented", "analogy", "declared", "named", "assumed"]
"""How a statement is known, strongest first: seen in the trace; seen in a trace that had to invent
values; by analogy with a traced twin; from the module's type; from its name; not known, assumed."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """How a statement is known: the rung of the ladder, and what was seen there."""

    rung: Rung
    detail: str

    def __str__(self) -> str:
        from initium._tables import view_table

        return view_table(self)
