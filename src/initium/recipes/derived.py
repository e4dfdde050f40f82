"""``auto``: every parameter's start derived from its place in the data flow."""

from __future__ import annotations

import math

from initium._plan.layout import per_matrix
from initium._plan.recipe import Recipe
from initium._plan.rules import Choice, Rule
from initium._scheme import schemes
from initium._types import ModelView, ParameterView
from initium.recipes._shared import (
    BASICS,
    FROZEN_POSITIONS,
    MATRICES,
    SMALL,
    branches,
    fan_text,
    gain_text,
)
from initium.spec import Normal

__all__ = ["auto"]

LOGIT_STD = 0.2


def auto() -> Recipe:
    """What the model itself asks for, from its roles, fans, activations and residual streams.

    Formula, by role:

    - matrices: N(0, g / fan_in) with g = 1 / E[phi(z)^2] of the activation that follows; of a
      gated pair only the activated half gets g. The last matrix of a residual branch is divided
      by sqrt(number of branches on its stream): the stream at most doubles its variance.
    - head and router: std 0.2 / sqrt(fan_in), so that the logits have std 0.2 for unit input and
      the first loss exceeds ln C by about 0.02.
    - embedding: N(0, 1), as a lookup has fan_in 1; one that is tied or used again, as a head is:
      std 0.2 / sqrt(width), for small logits after the final normalisation.
    - position: half the std of the token embedding (the ratio of GPT-2, 0.01 to 0.02), and
      N(0, 0.02^2) where there is none, as in ViT; token (class, mask, register): N(0, 0.02^2).
    - recurrent: input xavier and hidden orthogonal per gate; modulation N(0, 0.02^2).
    - normalisation 1 and 0, biases 0, scales their architecture's constant, LoRA A uniform and B 0.
    - state-space parameters keep their constructor's values.

    When to use: a new architecture trained from scratch.

    Source: He et al. 2015, arXiv:1502.01852, with the exact gains; the branch factor is that of the
    GPT-2 paper (Radford et al. 2019), 1/sqrt(N) over residual layers.

    Known divergences: fan, gain and branches are all it looks at; it does not yet solve for
    attention logits, batch statistics or very deep plain nets.

    Example:
        >>> auto().text
        'auto'
    """
    rules = (
        Rule(_auto_head, role=("head", "router")),
        Rule(_auto_embedding, role="embedding"),
        FROZEN_POSITIONS,
        Rule(_auto_position, role="position"),
        Rule(f"normal({SMALL})", role="token", reason="Learned tokens start small, as in ViT."),
        Rule(_recurrent_hidden, role="recurrent_hidden"),
        Rule(_recurrent_input, role="recurrent_input"),
        Rule(
            f"normal({SMALL})",
            role="modulation",
            reason="A modulation starts near neutral, with gradient from the first step.",
        ),
        Rule(_auto_matrix, role=MATRICES),
    )
    return Recipe("auto", (*rules, *BASICS))


def _auto_matrix(view: ParameterView, model: ModelView) -> Choice:
    """normal(sqrt(gain / fan_in)); / sqrt(branches) where it writes to a residual stream."""
    count = branches(view)
    spec = per_matrix(
        view, lambda matrix: schemes.variance_scaling(matrix.gain / count, matrix.fan_in)
    )
    reason = f"Keeps the signal: fan_in {fan_text(view)}, {gain_text(view)}"
    if count > 1:
        reason += f"; 1/sqrt({count}) as one of {count} branches that write to its stream"
    return Choice(spec, f"{reason}.")


def _auto_head(view: ParameterView, model: ModelView) -> Choice:
    """normal(0.2 / sqrt(fan_in)); a head that is tied as its embedding."""
    if view.role == "head" and view.aliases:
        return _tied(view)
    spec = per_matrix(view, lambda matrix: schemes.variance_scaling(LOGIT_STD**2, matrix.fan_in))
    what = "routing stays undecided" if view.role == "router" else "the first loss is near ln C"
    return Choice(
        spec, f"Logits of std {LOGIT_STD} for unit input (fan_in {fan_text(view)}): {what}."
    )


def _auto_embedding(view: ParameterView, model: ModelView) -> Choice:
    """normal(1); normal(0.2 / sqrt(width)) if it is tied or used again."""
    if view.is_tied:
        return _tied(view)
    if any(other.is_tied for other in _tables(view, model)):
        std = LOGIT_STD / math.sqrt(view.shape[-1])
        spec = Normal(std)
        return Choice(spec, "The std of the tied table, to which it may be added.")
    spec = Normal(1.0)
    return Choice(spec, "A lookup adds up one row, so unit rows start the stream at variance one.")


def _tied(view: ParameterView) -> Choice:
    width = view.shape[-1]
    spec = Normal(LOGIT_STD / math.sqrt(width))
    return Choice(
        spec,
        f"Tied or used again: {LOGIT_STD}/sqrt(width {width}), for small logits from it as a head.",
    )


def _tables(view: ParameterView, model: ModelView) -> list[ParameterView]:
    """The embeddings as wide as ``view``: those that may be added to it."""
    return [
        other
        for other in model.owners
        if other.role == "embedding" and other.shape[-1:] == view.shape[-1:]
    ]


def _auto_position(view: ParameterView, model: ModelView) -> Choice:
    """Half the std of the embedding; normal(0.02) without one."""
    stds = [
        LOGIT_STD / math.sqrt(other.shape[-1]) if other.is_tied else 1.0
        for other in _tables(view, model)
    ]
    if not stds:
        return Choice(Normal(SMALL), "Positions start small beside the patches, as in ViT.")
    return Choice(Normal(min(stds) / 2), "Half the std of the token embedding, the ratio of GPT-2.")


def _recurrent_hidden(view: ParameterView, model: ModelView) -> Choice:
    """orthogonal for each gate."""
    spec = per_matrix(view, lambda matrix: schemes.orthogonal(1.0, matrix.outputs, matrix.batch))
    return Choice(spec, "Orthogonal per gate: the state neither grows nor fades over time.")


def _recurrent_input(view: ParameterView, model: ModelView) -> Choice:
    """normal(sqrt(2 / (fan_in + fan_out))) for each gate."""
    spec = per_matrix(
        view, lambda matrix: schemes.xavier(matrix.fan_in, matrix.fan_out, distribution="normal")
    )
    return Choice(spec, f"Xavier per gate: fan_in {fan_text(view)}.")
