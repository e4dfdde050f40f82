"""What ``reset_parameters`` of torch 2.13 draws, module type by module type.

Covered: the modules of ``torch.nn`` that hold parameters, and classes that inherit their reset. Not
covered: modules that overwrite the defaults of their children (``nn.Transformer``), and every class
that is not torch's, whatever its name; their parameters are kept, and the reason says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from math import prod

from initium._plan.rules import Choice, Rule
from initium._scheme.schemes import xavier
from initium._types import ModelView, ParameterView
from initium.spec import Constant, Keep, Normal, Uniform

__all__ = ["TORCH_RULES", "of_torch"]

FANNED = (
    *("Linear", "NonDynamicallyQuantizableLinear"),
    *(f"Conv{n}d" for n in (1, 2, 3)),
    *(f"ConvTranspose{n}d" for n in (1, 2, 3)),
)
NORMS = (
    *("LayerNorm", "RMSNorm", "GroupNorm", "SyncBatchNorm"),
    *(f"{kind}Norm{n}d" for kind in ("Batch", "Instance") for n in (1, 2, 3)),
)
GATES = {"RNN": 1, "LSTM": 4, "GRU": 3, "RNNCell": 1, "LSTMCell": 4, "GRUCell": 3}


def _leaf(view: ParameterView) -> str:
    return view.name.rsplit(".", 1)[-1]


def _symmetric(bound: float) -> Uniform:
    return Uniform(-bound, bound)


def _partner_shape(view: ParameterView, model: ModelView) -> tuple[int, ...] | None:
    """The shape of the weight beside a bias."""
    sibling = f"{view.module}.weight" if view.module else "weight"
    for name in (sibling, view.partner):
        if name is not None and name in model.parameters:
            return model.parameters[name].shape
    return None


def _fanned(view: ParameterView, model: ModelView) -> Choice:
    """uniform(-1 / sqrt(fan), 1 / sqrt(fan)), fan the product of all dimensions but the first."""
    if _leaf(view) == "bias":
        if view.torch_type == "NonDynamicallyQuantizableLinear":
            return Choice(Constant(0.0), "torch zeroes the output bias of MultiheadAttention.")
        shape = _partner_shape(view, model)
        if shape is None:
            return Choice(
                Keep(), "torch draws this bias from the fan of a weight that is not here."
            )
    else:
        shape = view.shape
    fan = prod(shape[1:])
    reason = f"torch's {view.torch_type}: U(+-1/sqrt({fan}))"
    if view.torch_type.startswith("ConvTranspose"):
        reason += ", with out / groups x taps for a fan"
    bound = 1 / math.sqrt(fan) if fan else 0.0
    return Choice(_symmetric(bound), f"{reason}.")


def _embedding(view: ParameterView, model: ModelView) -> Choice:
    """normal(1)."""
    return Choice(Normal(1.0), f"torch's {view.torch_type}: N(0, 1).")


def _norm(view: ParameterView, model: ModelView) -> Choice:
    """Weight constant(1), bias constant(0)."""
    value = 1.0 if _leaf(view) == "weight" else 0.0
    return Choice(Constant(value), f"torch's {view.torch_type}: weight 1, bias 0.")


def _recurrent(view: ParameterView, model: ModelView) -> Choice:
    """uniform(-1 / sqrt(hidden), 1 / sqrt(hidden))."""
    projection = _leaf(view).startswith("weight_hr")
    hidden = view.shape[1] if projection else view.shape[0] // GATES[view.torch_type]
    bound = 1 / math.sqrt(hidden) if hidden else 0.0
    return Choice(_symmetric(bound), f"torch's {view.torch_type}: U(+-1/sqrt({hidden})).")


def _attention(view: ParameterView, model: ModelView) -> Choice:
    """xavier uniform on the packed weight; biases constant(0)."""
    leaf = _leaf(view)
    if leaf in ("bias_k", "bias_v"):
        fan = view.shape[-1]
        return Choice(
            xavier(fan, fan, distribution="normal"), "torch's xavier_normal on bias_k, v."
        )
    if leaf.endswith("bias"):
        return Choice(Constant(0.0), "torch zeroes the biases of MultiheadAttention.")
    return Choice(
        xavier(view.shape[1], view.shape[0]),
        f"torch's xavier_uniform on this weight of {view.shape[0]} rows as one matrix.",
    )


def _bilinear(view: ParameterView, model: ModelView) -> Choice:
    """uniform(-1 / sqrt(in1), 1 / sqrt(in1))."""
    shape = view.shape if _leaf(view) == "weight" else _partner_shape(view, model)
    if shape is None:
        return Choice(Keep(), "torch draws this bias from the fan of a weight that is not here.")
    return Choice(
        _symmetric(1 / math.sqrt(shape[1])), f"torch's Bilinear: U(+-1/sqrt({shape[1]}))."
    )


def of_torch(*kinds: str) -> Callable[[ParameterView], bool]:
    """A predicate: the parameter is that of one of these classes of ``torch.nn``."""

    def found(view: ParameterView) -> bool:
        return view.torch_type in kinds

    found.__name__ = " or ".join(f"nn.{kind}" for kind in kinds)
    return found


TORCH_RULES = (
    *(Rule(_fanned, when=of_torch(kind)) for kind in FANNED),
    *(Rule(_embedding, when=of_torch(kind)) for kind in ("Embedding", "EmbeddingBag")),
    *(Rule(_norm, when=of_torch(kind)) for kind in NORMS),
    *(Rule(_recurrent, when=of_torch(kind)) for kind in GATES),
    Rule(_attention, when=of_torch("MultiheadAttention")),
    Rule(_bilinear, when=of_torch("Bilinear")),
    Rule("constant(0.25)", when=of_torch("PReLU"), reason="torch's PReLU: a slope of 0.25."),
    Rule("keep", reason="No torch default is known for this module: it keeps its own values."),
)
