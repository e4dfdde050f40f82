"""What recipes share: which roles are matrices, and rules for what a published scheme leaves out.

A recipe covers every role, so that a plan never lacks a parameter; where a published scheme says
nothing of one, the rule from here says so in its reason.
"""

from __future__ import annotations

from collections.abc import Callable

from initium._plan.layout import Matrix, matrices, per_matrix
from initium._plan.rules import Choice, Rule, decide, formula
from initium._scheme import schemes
from initium._text import format_number
from initium._types import MATRIX_ROLES, ModelView, ParameterView
from initium.errors import RecipeError
from initium.spec import (
    Arange,
    Constant,
    InverseSoftplus,
    Keep,
    Logarithm,
    LogUniform,
    Normal,
    Spec,
    Uniform,
)

__all__ = [
    "BASICS",
    "FROZEN_POSITIONS",
    "MATRICES",
    "SMALL",
    "UNSAID",
    "branches",
    "fan_text",
    "gain_text",
    "matrix_rule",
    "out_text",
    "own_constant",
]

MATRICES = tuple(sorted(MATRIX_ROLES - {"lora_a", "lora_b"}))
SMALL = 0.02


def _neutral(view: ParameterView, model: ModelView) -> Choice:
    """constant(1), or 0 where the model adds one to it."""
    value = 1.0 if view.neutral is None else view.neutral
    return Choice(Constant(value), "A normalisation starts without scaling.")


def _bias(view: ParameterView, model: ModelView) -> Choice:
    """constant(0); a scalar that goes with no weight keeps its constructor's constant."""
    constant = view.constant or 0.0
    alone = view.numel == 1 and view.partner is None and not view.torch_type
    if constant and alone and view.role == "bias":
        return Choice(Constant(constant), "A scalar bias keeps its constructor's constant.")
    if constant and view.numel > 1:
        told = f"the constant {format_number(constant)} of its constructor is replaced"
        return Choice(Constant(0.0), f"Biases start at zero: {told}.")
    return Choice(Constant(0.0), "Biases start at zero.")


def own_constant(view: ParameterView, model: ModelView) -> Choice:
    """A scale as its architecture has it."""
    if view.constant is not None:
        return Choice(Constant(view.constant), "A scale keeps the constant of its architecture.")
    if not view.on_meta:
        return Choice(Keep(), "A scale keeps the values of its architecture.")
    return Choice(Constant(1.0), "A scale without a constant of its own starts at one.")


def _lora_a(view: ParameterView, model: ModelView) -> Choice:
    """uniform(-1 / sqrt(fan_in), 1 / sqrt(fan_in))."""
    spec = per_matrix(view, lambda matrix: schemes.kaiming_uniform(matrix.fan_in))
    return Choice(spec, "U(+-1/sqrt(fan_in)) as the LoRA code has it; B starts at zero.")


def _state_space(view: ParameterView, model: ModelView) -> Choice:
    """Its constructor's values; Mamba's formulas where there are none."""
    if not view.on_meta:
        return Choice(
            Keep(), "A state-space parameter keeps the structured values of its constructor."
        )
    if view.role == "ssm_d":
        return Choice(Constant(1.0), "A state-space skip without values starts at one, as Mamba's.")
    if view.role == "ssm_a":
        rows = len(view.shape) > 1
        spec: Spec = Logarithm(Arange(1, 1)) if rows else Logarithm(Uniform(1, 16))
        return Choice(spec, f"A decay without values starts as in Mamba{'' if rows else '-2'}.")
    if len(view.shape) > 1:
        bound = view.shape[1] ** -0.5
        return Choice(Uniform(-bound, bound), "Mamba's step sizes: U(+-1/sqrt(dt_rank)).")
    return Choice(
        InverseSoftplus(LogUniform(0.001, 0.1), 1e-4),
        "Step sizes without values start log-uniform in [0.001, 0.1], as Mamba's.",
    )


def _unknown(view: ParameterView, model: ModelView) -> Choice:
    """normal(0.02) for matrices; vectors keep what their constructor gave them."""
    if len(view.shape) >= 2:
        return Choice(Normal(SMALL), "Its role is unknown: a small, conservative normal.")
    if view.constant is not None:
        return Choice(
            Constant(view.constant), "Its role is unknown: it keeps its constructor's constant."
        )
    return Choice(Keep(), "Its role is unknown: it keeps its constructor's values.")


def _frozen(view: ParameterView) -> bool:
    return not view.trainable


FROZEN_POSITIONS = Rule(
    "keep",
    role="position",
    when=_frozen,
    reason="A frozen position code keeps the values that its constructor computed.",
)
BASICS = (
    Rule(_bias, role=("bias", "norm_bias")),
    Rule(_neutral, role="norm_scale"),
    Rule(own_constant, role="scale"),
    Rule(_lora_a, role="lora_a"),
    Rule("constant(0)", role="lora_b", reason="A low-rank update starts at zero."),
    Rule(_state_space, role=("ssm_a", "ssm_d", "ssm_dt")),
    FROZEN_POSITIONS,
    Rule(_unknown, role="unknown"),
)


def basics(view: ParameterView, model: ModelView) -> Choice:
    """Biases constant(0), norms constant(1), scales as their architecture has them."""
    choice, _ = decide(BASICS, view, model)
    if choice is None:
        raise RecipeError(f"the basics say nothing of the role {view.role}", where=view.name)
    return choice


UNSAID = (
    Rule(
        "normal(0.02)",
        role=("embedding", "position", "token"),
        reason="The scheme says nothing of embeddings: N(0, 0.02^2), as in BERT.",
    ),
)


def matrix_rule(
    text: str, spec_of: Callable[[Matrix], Spec], why: Callable[[ParameterView], str]
) -> Rule:
    """A rule for all matrices; ``text`` is its formula for people."""

    @formula(text)
    def scheme(view: ParameterView, model: ModelView) -> Choice:
        return Choice(per_matrix(view, spec_of), why(view))

    return Rule(scheme, role=MATRICES)


def fan_text(view: ParameterView) -> str:
    """The fan-in of the logical matrices, as a reason tells it."""
    fans = sorted({matrix.fan_in for matrix in matrices(view)})
    told = " or ".join(format_number(fan) for fan in fans)
    return f"{told} (taps / stride)" if view.role == "conv_transpose" else told


def gain_text(view: ParameterView) -> str:
    followed = {(matrix.activation, matrix.gain) for matrix in matrices(view)}
    told = sorted(
        f"gain {gain:.4g} for {name}" if name else "gain 1, linear" for name, gain in followed
    )
    return "; ".join(told)


def out_text(view: ParameterView) -> str:
    return " or ".join(format_number(f) for f in sorted({m.fan_out for m in matrices(view)}))


def branches(view: ParameterView) -> int:
    """Branches to share the stream with; a norm behind the matrix would undo any scale."""
    return max(view.branches or 1, 1) if view.writes_residual and not view.norm_after else 1
