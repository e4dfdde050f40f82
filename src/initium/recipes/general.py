"""The classic schemes as recipes: one formula for every matrix, whatever the architecture."""

from __future__ import annotations

import math

from initium._plan.layout import Matrix, matrices
from initium._plan.recipe import Recipe, recipe_text
from initium._plan.rules import Rule
from initium._plan.torch_defaults import TORCH_RULES
from initium._scheme import schemes
from initium._scheme.activations import activation
from initium._scheme.gains import backward_gain, forward_gain
from initium._text import format_number
from initium._types import ParameterView
from initium.errors import RecipeError
from initium.recipes._shared import (
    BASICS,
    FROZEN_POSITIONS,
    MATRICES,
    UNSAID,
    fan_text,
    gain_text,
    matrix_rule,
    out_text,
)
from initium.spec import Normal, Spec

__all__ = ["he", "lecun", "normal", "orthogonal", "torch", "xavier", "zeros"]


def torch() -> Recipe:
    """Each module's own default, as its ``reset_parameters`` has it in torch 2.13.

    Formula, by module: Linear and Conv U(+-1/sqrt(fan_in)), weight and bias, which torch writes as
    kaiming_uniform with a = sqrt 5; ConvTranspose the same with torch's own fan, out / groups x
    taps; Embedding N(0, 1) with a zero padding row; norms 1 and 0; RNN, LSTM and GRU
    U(+-1/sqrt(hidden)); MultiheadAttention xavier_uniform on the packed in_proj, zero biases;
    Bilinear U(+-1/sqrt(in1)); PReLU 0.25. A parameter of any other module is left as it is.

    When to use: to see what the defaults do, or as the base for a few rules of your own.

    Source: torch/nn/modules at 2.13.

    Known divergences: a module that overwrites its children's defaults (``nn.Transformer``) is not
    followed. With these defaults a ReLU network loses a factor of 6 of second moment per layer.

    Example:
        >>> torch().text
        'torch'
    """
    return Recipe("torch", TORCH_RULES)


def xavier(gain: float = 1.0, distribution: str = "uniform") -> Recipe:
    """Variance 2 gain^2 / (fan_in + fan_out) for every matrix.

    Args:
        gain: factor of the std.
        distribution: ``uniform``, ``normal`` or ``truncated``.

    When to use: tanh-like networks, and transformers whose code says so; for ReLU use ``he``.

    Source: Glorot and Bengio 2010, https://proceedings.mlr.press/v9/glorot10a.html

    Known divergences: torch's ``xavier_uniform_`` sees a fused q, k, v as one matrix and makes it
    smaller; here the fans are those of each block. Embeddings get N(0, 0.02^2), of which the paper
    says nothing.

    Example:
        >>> xavier(distribution="normal").text
        "xavier(distribution='normal')"
    """
    schemes.xavier(1, 1, gain, distribution)
    text = recipe_text("xavier", gain=(gain, 1.0), distribution=(distribution, "uniform"))
    matrix = matrix_rule(
        f"{distribution} of std {_times(gain)}sqrt(2 / (fan_in + fan_out))",
        lambda matrix: schemes.xavier(matrix.fan_in, matrix.fan_out, gain, distribution),
        lambda view: f"Xavier: fan_in {fan_text(view)}, fan_out {out_text(view)}.",
    )
    return Recipe(text, (matrix, *BASICS, *UNSAID))


def he(
    mode: str = "fan_in",
    distribution: str = "normal",
    nonlinearity: str | None = None,
) -> Recipe:
    """He (Kaiming): variance g / fan for every matrix, with the gain g of the activation.

    Args:
        mode: ``fan_in`` keeps the signal, with g = 1 / E[phi(z)^2]; ``fan_out`` keeps the gradient,
            with g = 1 / E[phi'(z)^2]; ``fan_avg`` takes the mean of both fans.
        distribution: ``normal``, ``uniform`` or ``truncated``.
        nonlinearity: an activation for all matrices, such as ``relu``; by default the one that
            follows each matrix, and g = 1 where none does.

    When to use: plain and convolutional networks with ReLU-like activations.

    Source: He et al. 2015, arXiv:1502.01852

    Known divergences: torch's ``kaiming_*`` needs the activation named, assumes leaky_relu(0) and
    knows 5/3 for tanh and 3/4 for selu, where the formula gives 1.59 and 1. Nothing is said of
    residual branches: deep residual networks grow; see ``auto``.

    Example:
        >>> he("fan_out").text
        "he(mode='fan_out')"
    """
    schemes.he(1, 1, mode, distribution, nonlinearity or "relu")
    if nonlinearity is not None and not isinstance(nonlinearity, str):
        raise RecipeError("is not the text of an activation", where="he", value=nonlinearity)
    named = activation(nonlinearity) if nonlinearity else None

    def spec_of(matrix: Matrix) -> Spec:
        if mode == "fan_out":
            gain = backward_gain(named) if named else matrix.backward_gain
        else:
            gain = forward_gain(named) if named else matrix.gain
        fan = schemes.effective_fan(matrix.fan_in, matrix.fan_out, mode)
        return schemes.variance_scaling(gain, fan, distribution)

    def why(view: ParameterView) -> str:
        fan = {"fan_in": f"fan_in {fan_text(view)}", "fan_out": f"fan_out {out_text(view)}"}.get(
            mode, f"mean of fan_in {fan_text(view)} and fan_out {out_text(view)}"
        )
        if named:
            return f"He: {fan}, gain of {named.name}."
        if mode == "fan_out":
            followed = {matrix.activation or "linear" for matrix in matrices(view)}
            return f"He: {fan}, backward gain of {' or '.join(sorted(followed))}."
        return f"He: {fan}, {gain_text(view)}."

    text = recipe_text(
        "he",
        mode=(mode, "fan_in"),
        distribution=(distribution, "normal"),
        nonlinearity=(nonlinearity, None),
    )
    told = {"fan_in": "fan_in", "fan_out": "fan_out"}.get(mode, "mean of both fans")
    rule = matrix_rule(f"{distribution} of std sqrt(gain / {told})", spec_of, why)
    return Recipe(text, (rule, *BASICS, *UNSAID))


def lecun(distribution: str = "normal") -> Recipe:
    """Variance 1 / fan_in for every matrix, whatever follows.

    Args:
        distribution: ``normal``, ``uniform`` or ``truncated`` (the default of Flax and Haiku).

    When to use: linear layers, SELU networks, and transformers with normalised inputs.

    Source: LeCun et al. 1998, Efficient BackProp; Klambauer et al. 2017, arXiv:1706.02515

    Known divergences: Flax truncates at two sigmas and compensates, which is ``truncated`` here.

    Example:
        >>> lecun("truncated").text
        "lecun(distribution='truncated')"
    """
    schemes.lecun(1, distribution)
    matrix = matrix_rule(
        f"{distribution} of std 1 / sqrt(fan_in)",
        lambda matrix: schemes.lecun(matrix.fan_in, distribution),
        lambda view: f"LeCun: fan_in {fan_text(view)}.",
    )
    text = recipe_text("lecun", distribution=(distribution, "normal"))
    return Recipe(text, (matrix, *BASICS, *UNSAID))


def orthogonal(gain: float | None = None) -> Recipe:
    """A random orthogonal matrix for every logical matrix, times the root of the activation's gain.

    Args:
        gain: factor of the std for all matrices; by default sqrt(1 / E[phi(z)^2]) of the activation
            that follows each, and 1 where none does.

    When to use: deep plain networks, where it keeps more than the mean square: all angles.

    Source: Saxe et al. 2013, arXiv:1312.6120; Hu et al. 2020, arXiv:2001.05992

    Known divergences: torch's ``orthogonal_`` takes a fused or grouped weight as one matrix; here
    each gate, each of q, k, v, each expert and each group is orthogonal by itself.

    Example:
        >>> orthogonal().text
        'orthogonal'
    """
    if gain is not None:
        schemes.orthogonal(gain)

    def spec_of(matrix: Matrix) -> Spec:
        factor = math.sqrt(matrix.gain) if gain is None else gain
        return schemes.orthogonal(factor, matrix.outputs, matrix.batch)

    def why(view: ParameterView) -> str:
        told = f"root of {gain_text(view)}" if gain is None else f"gain {format_number(gain)}"
        return f"Orthogonal: {told}."

    text = recipe_text("orthogonal", gain=(gain, None))
    factor = "sqrt(gain)" if gain is None else format_number(gain)
    rule = matrix_rule(f"orthogonal({factor})", spec_of, why)
    return Recipe(text, (rule, *BASICS, *UNSAID))


def _times(gain: float) -> str:
    return "" if gain == 1 else f"{format_number(gain)} x "


def zeros() -> Recipe:
    """Zero everywhere, norms and scales too.

    When to use: never for a whole model: all units stay equal. As the action of a rule it closes a
    residual branch or a head.

    Source: the textbook example of symmetry, Goodfellow et al. 2016, section 8.4

    Known divergences: none.

    Example:
        >>> zeros().text
        'zeros'
    """
    return Recipe("zeros", (Rule("constant(0)", reason="It starts at zero."),))


def normal(std: float = 1.0) -> Recipe:
    """N(0, std^2) for every matrix and embedding whatever its fans; biases 0, norms 1 and 0.

    Args:
        std: the standard deviation.

    When to use: to see what ignoring the fans does, or with a std that is known to fit one width.

    Source: the practice before fans: Krizhevsky et al. 2012 used 0.01

    Known divergences: none.

    Example:
        >>> normal(0.02).text
        'normal(0.02)'
    """
    spec = Normal(std)
    reason = f"N(0, {format_number(spec.std)}^2) whatever the fans."
    every = (*MATRICES, "embedding", "position", "token")
    rules = (
        FROZEN_POSITIONS,
        Rule(spec, role=every, reason=reason),
    )
    return Recipe(str(spec), (*rules, *BASICS))
