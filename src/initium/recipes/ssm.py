"""The recipes of recurrent language models: Mamba, Mamba-2 and RWKV-4.

Covered: what their own code draws, by role where the role says enough, and by name for RWKV, whose
decay and mixing vectors are what they are only by the code that uses them. Not covered: hybrids
with attention beyond its last matrix, Mamba's options that are not the default, RWKV 5 to 7.
"""

from __future__ import annotations

import math
import re
from math import prod

from initium._plan.layout import per_matrix
from initium._plan.recipe import Recipe, recipe_text
from initium._plan.rules import Choice, Rule, Scheme, formula
from initium._scheme import schemes
from initium._text import format_number
from initium._types import ModelView, ParameterView
from initium.errors import RecipeError
from initium.recipes._shared import BASICS, MATRICES, UNSAID
from initium.recipes._suits import lacks, made_for
from initium.spec import (
    Arange,
    Blocks,
    Constant,
    InverseSoftplus,
    Logarithm,
    LogUniform,
    Normal,
    Part,
    Power,
    Spec,
    Uniform,
)

__all__ = ["mamba", "mamba2", "rwkv"]

NUMBERED = re.compile(r"(.*?)(?<![^.])([0-9]+)\.")
TORCH_FAN = "uniform(-1 / sqrt(fan_in), 1 / sqrt(fan_in))"
NO_STATES = lacks("state-space parameters", "ssm_a", "ssm_d", "ssm_dt")
TORCH_FAN_SHARED = "uniform(-1 / sqrt(fan_in * branches), 1 / sqrt(fan_in * branches))"


def mamba(
    dt_min: float = 0.001, dt_max: float = 0.1, dt_floor: float = 1e-4, std: float = 0.02
) -> Recipe:
    """Mamba as released: S4D-real states, log-uniform steps, torch's default for the matrices.

    Formula: A_log = log(1 .. N) in every row; D 1; the bias of the step size softplus^-1 of
    max(exp(U(log dt_min, log dt_max)), dt_floor); the projections in, x and dt and the convolution
    with its bias U(+-1/sqrt(fan_in)), which for dt is dt_rank^-1/2; the last matrix of a branch
    that, divided by sqrt(branches on its stream); embeddings and a tied head N(0, std^2); other
    biases 0; norms 1.

    Args:
        dt_min, dt_max: the range of the step size.
        dt_floor: its least value.
        std: of the embedding (``initializer_range``).

    When to use: Mamba language models.

    Source: Gu and Dao 2023, arXiv:2312.00752; state-spaces/mamba,
    mamba_ssm/modules/mamba_simple.py and mamba_ssm/models/mixer_seq_simple.py

    Known divergences: Hugging Face draws in_proj and x_proj N(0, initializer_range^2), with 0.1 in
    its configuration, zeroes the bias of the convolution, and divides the last matrix only if
    ``rescale_prenorm_residual`` is set. The reference code divides by the layers, twice that with
    an MLP in each; both are the branches on the stream. A generic ``apply`` that zeroes every bias
    breaks the step size: that code marks it ``_no_reinit``.

    Example:
        >>> mamba(dt_max=0.05).text
        'mamba(dt_max=0.05)'
    """
    text = recipe_text(
        "mamba",
        dt_min=(dt_min, 0.001),
        dt_max=(dt_max, 0.1),
        dt_floor=(dt_floor, 1e-4),
        std=(std, 0.02),
    )
    states = Rule(
        Logarithm(Arange(1, 1)), role="ssm_a", reason="Mamba: S4D-real, log(1 .. N) in every row."
    )
    rules = _state_space("Mamba", states, dt_min, dt_max, dt_floor, std)
    return Recipe(text, rules, suits=made_for("mamba", "state-space models", NO_STATES))


def mamba2(
    a_min: float = 1.0,
    a_max: float = 16.0,
    dt_min: float = 0.001,
    dt_max: float = 0.1,
    dt_floor: float = 1e-4,
    std: float = 0.02,
) -> Recipe:
    """Mamba-2 as released: as Mamba, but one random decay per head, A_log = log U(a_min, a_max).

    Formula: see :func:`mamba`; the fused input projection of z, x, B, C and dt is one matrix.

    Args:
        a_min, a_max: the range of A.
        dt_min, dt_max: the range of the step size.
        dt_floor: its least value.
        std: of the embedding (``initializer_range``).

    When to use: Mamba-2 language models.

    Source: Dao and Gu 2024, arXiv:2405.21060; state-spaces/mamba, mamba_ssm/modules/mamba2.py and
    mamba_ssm/models/mixer_seq_simple.py

    Known divergences: Hugging Face starts A_log at log(1 .. heads), far beyond 16 for many heads;
    its other divergences are those of Mamba.

    Example:
        >>> mamba2(a_max=8).text
        'mamba2(a_max=8)'
    """
    text = recipe_text(
        "mamba2",
        a_min=(a_min, 1.0),
        a_max=(a_max, 16.0),
        dt_min=(dt_min, 0.001),
        dt_max=(dt_max, 0.1),
        dt_floor=(dt_floor, 1e-4),
        std=(std, 0.02),
    )
    told = f"Mamba-2: log U({format_number(a_min)}, {format_number(a_max)}) per head."
    states = Rule(Logarithm(Uniform(a_min, a_max)), role="ssm_a", reason=told)
    rules = _state_space("Mamba-2", states, dt_min, dt_max, dt_floor, std)
    return Recipe(text, rules, suits=made_for("mamba2", "state-space models", NO_STATES))


def _state_space(
    name: str, states: Rule, dt_min: float, dt_max: float, dt_floor: float, std: float
) -> tuple[Rule, ...]:
    steps = InverseSoftplus(LogUniform(dt_min, dt_max), dt_floor)
    told = f"{format_number(dt_min)} to {format_number(dt_max)}"
    return (
        states,
        Rule("constant(1)", role="ssm_d", reason=f"{name}: the skip D starts at one."),
        Rule(
            steps,
            role="ssm_dt",
            when=_is_vector,
            reason=f"{name}: steps of {told} after the softplus.",
        ),
        Rule(TORCH_FAN, role="ssm_dt", reason=f"{name}: dt_rank^-1/2"),
        Rule(
            TORCH_FAN_SHARED,
            role=MATRICES,
            writes=True,
            reason=f"{name}: torch's default, shared by the branches of the stream",
        ),
        Rule(
            Normal(std),
            role="embedding",
            reason=f"{name}: N(0, {format_number(std)}^2) for embeddings.",
        ),
        Rule(TORCH_FAN, role=MATRICES, reason=f"{name}: torch's default"),
        Rule(_convolution_bias, role="bias", when=_has_partner),
        *BASICS,
        *UNSAID,
    )


def _is_vector(view: ParameterView) -> bool:
    return len(view.shape) == 1


def _has_partner(view: ParameterView) -> bool:
    return view.partner is not None


def _convolution_bias(view: ParameterView, model: ModelView) -> Choice:
    """torch's own bias beside a convolution, zero beside a linear layer."""
    weight = model.parameters.get(view.partner or "")
    if weight is None or not weight.role.startswith("conv"):
        return Choice(Constant(0.0), "Biases of linear layers start at zero.")
    fan = prod(weight.shape[1:])
    bound = 1 / math.sqrt(fan)
    return Choice(Uniform(-bound, bound), f"torch's default of a convolution: fan_in {fan}.")


def rwkv(lr_init: float = 6e-4) -> Recipe:
    """RWKV-4 as released: most matrices zero, the others orthogonal; fixed ramps for time.

    Formula: for block l of L, channel i of d, time_decay -5 + 8 (i / (d - 1))^(0.7 + 1.3 l / (L -
    1)); time_first log 0.3 + ((i + 1) mod 3 - 1) / 2; time_mix_k (i / d)^(1 - l / L), _r of the
    attention with half that exponent and of the feed-forward with all of it, _v as _k plus 0.3 l /
    (L - 1); embedding U(+-lr_init); zero for attention's key, receptance and output and the
    feed-forward's receptance and value; the head 0.5 times, and all other matrices, orthogonal with
    gain sqrt(max(1, out / in)); norms 1 and 0.

    Args:
        lr_init: the first learning rate of the run, which is also the bound of the embedding.

    When to use: RWKV-4, by the names of RWKV-LM or Hugging Face.

    Source: Peng et al. 2023, arXiv:2305.13048; BlinkDL/RWKV-LM, RWKV-v4neo/src/model.py, both the
    constructors and ``generate_init_weight``

    Known divergences: Hugging Face draws the zero matrices orthogonal too, the embedding orthogonal
    with gain 1e-4 sqrt(max(V, d)), and sets time_first to one, by ``ones_like`` of the formula.
    With one layer the released code divides by zero; here l / (L - 1) is then 0.

    Example:
        >>> rwkv().text
        'rwkv'
    """
    bound = Uniform(-lr_init, lr_init)
    attention, mixing = r".*\.(att|attention)\.", r".*\.(ffn|ffnPre|feed_forward)\."
    zero = "RWKV-4: zero, so that the branch starts closed."
    rules = (
        Rule(_decay, name="*.time_decay"),
        Rule(_first, name="*.time_first"),
        Rule(_mix(1.0), regex=attention + "time_mix_(k|key)"),
        Rule(_mix(1.0, shift=0.3), regex=attention + "time_mix_(v|value)"),
        Rule(_mix(0.5), regex=attention + "time_mix_(r|receptance)"),
        Rule(_mix(1.0), regex=mixing + "time_mix_(k|key|r|receptance)"),
        Rule("constant(0)", regex=attention + r"(key|receptance|output)\.weight", reason=zero),
        Rule("constant(0)", regex=mixing + r"(receptance|value)\.weight", reason=zero),
        Rule(bound, role="embedding", reason="RWKV-4: uniform within the first learning rate."),
        Rule(_orthogonal(0.5), role="head"),
        Rule(_orthogonal(1.0), role=MATRICES),
        *BASICS,
        *UNSAID,
    )
    text = recipe_text("rwkv", lr_init=(lr_init, 6e-4))
    return Recipe(text, rules, suits=made_for("rwkv", "RWKV-4", _lacks_decays))


def _lacks_decays(model: ModelView) -> str | None:
    found = any(view.name.endswith("time_decay") for view in model.owners)
    return None if found else "has no parameter named time_decay"


def _orthogonal(scale: float) -> Scheme:
    @formula(f"orthogonal({scale:g} sqrt(max(1, fan_out / fan_in)))")
    def scheme(view: ParameterView, model: ModelView) -> Choice:
        spec = per_matrix(
            view,
            lambda matrix: schemes.orthogonal(
                scale * math.sqrt(max(1.0, matrix.fan_out / matrix.fan_in)),
                matrix.outputs,
                matrix.batch,
            ),
        )
        return Choice(spec, f"RWKV-4: orthogonal, gain {scale:g} sqrt(max(1, out / in)).")

    return scheme


def _place(view: ParameterView, model: ModelView) -> tuple[float, float]:
    """(l / (L - 1), 1 - l / L), with l the first number in its name and L how many there are."""
    found = NUMBERED.match(view.name)
    if found is None:
        raise RecipeError(
            "needs the number of the block that this parameter stands in",
            where=f"rwkv: {view.name}",
            fix="number the blocks in the names, as in blocks.0.att.time_decay",
        )
    matches = (NUMBERED.match(other.name) for other in model.owners)
    numbers = {int(match[2]) for match in matches if match and match[1] == found[1]}
    layers, block = len(numbers), sorted(numbers).index(int(found[2]))
    return block / max(layers - 1, 1), 1 - block / layers


def _decay(view: ParameterView, model: ModelView) -> Choice:
    """8 (i / (n - 1))^(0.7 + 1.3 l / (L - 1)) - 5 over the n channels."""
    late, _ = _place(view, model)
    size = view.shape[-1]
    steps = Arange(0.0, 1 / max(size - 1, 1))
    spec = Power(steps, 0.7 + 1.3 * late, scale=8.0, shift=-5.0)
    return Choice(spec, "RWKV-4: decays from slow to fast over the channels.")


def _first(view: ParameterView, model: ModelView) -> Choice:
    """log 0.3 with a zigzag of a half over the channels."""
    axis, size = len(view.shape) - 1, view.shape[-1]
    parts = []
    for phase, zigzag in enumerate((0.0, 0.5, -0.5)):
        count = len(range(phase, size, 3))
        if count:
            value = Constant(math.log(0.3) + zigzag)
            parts.append(Part(axis, phase, 1, value, count, 3 if count > 1 else 0))
    spec: Spec = Blocks(tuple(parts))
    return Choice(spec, "RWKV-4: log 0.3 and a zigzag of a half.")


def _mix(exponent: float, shift: float = 0.0) -> Scheme:
    def scheme(view: ParameterView, model: ModelView) -> Choice:
        """From 0 to about 1 over the channels, by the block."""
        late, early = _place(view, model)
        steps = Arange(0.0, 1 / view.shape[-1])
        spec = Power(steps, exponent * early, shift=shift * late)
        return Choice(spec, "RWKV-4: from the previous token to this one over the channels.")

    return scheme
