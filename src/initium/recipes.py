"""The recipes: which scheme each role of parameter gets, under one name.

``initium.plan(model, "he")`` is ``initium.plan(model, initium.recipes.he())``. A recipe covers
every role, so that a plan never lacks a parameter; where a classic scheme says nothing of one, the
reason in the plan says so. Each recipe works on the *logical* matrices of a parameter: the blocks
of a fused weight, the experts of a stack, the groups of a convolution.

Not covered here: the choice of numbers from data, and muP, Fixup or DeepNorm scalings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from initium._plan.layout import Matrix, matrices, per_matrix, with_padding_row
from initium._plan.recipe import Recipe, recipe_text
from initium._plan.rules import Choice, Rule
from initium._plan.torch_defaults import TORCH_RULES
from initium._scheme import schemes
from initium._scheme.activations import activation
from initium._scheme.gains import backward_gain, forward_gain
from initium._text import format_number
from initium._types import MATRIX_ROLES, ModelView, ParameterView
from initium.errors import RecipeError
from initium.spec import Constant, Keep, Normal, Spec

__all__ = [
    "RECIPES",
    "auto",
    "gpt2",
    "he",
    "lecun",
    "normal",
    "orthogonal",
    "torch",
    "xavier",
    "zeros",
]

MATRICES = tuple(sorted(MATRIX_ROLES - {"lora_a", "lora_b"}))
SMALL = 0.02
LOGIT_STD = 0.2


# What the recipes share -------------------------------------------------------------------------


def _neutral(view: ParameterView, model: ModelView) -> Choice:
    value = 1.0 if view.neutral is None else view.neutral
    return Choice(Constant(value), "A normalisation starts without scaling.")


def _own_constant(view: ParameterView, model: ModelView) -> Choice:
    if view.constant is not None:
        return Choice(Constant(view.constant), "A scale keeps the constant of its architecture.")
    if not view.on_meta:
        return Choice(Keep(), "A scale keeps the values of its architecture.")
    return Choice(Constant(1.0), "A scale without a constant of its own starts at one.")


def _lora_a(view: ParameterView, model: ModelView) -> Choice:
    spec = per_matrix(view, lambda matrix: schemes.kaiming_uniform(matrix.fan_in))
    return Choice(spec, "U(+-1/sqrt(fan_in)) as the LoRA code has it; B starts at zero.")


def _unknown(view: ParameterView, model: ModelView) -> Choice:
    if len(view.shape) >= 2:
        return Choice(Normal(SMALL), "Its role is unknown: a small, conservative normal.")
    if view.constant is not None:
        return Choice(
            Constant(view.constant), "Its role is unknown: it keeps its constructor's constant."
        )
    return Choice(Keep(), "Its role is unknown: it keeps its constructor's values.")


def _embedding(std: float, reason: str) -> Callable[[ParameterView, ModelView], Choice]:
    def scheme(view: ParameterView, model: ModelView) -> Choice:
        return Choice(with_padding_row(view, Normal(std)), reason)

    return scheme


FROZEN_POSITIONS = Rule(
    "keep",
    role="position",
    when=lambda view: not view.trainable,
    reason="A frozen position code keeps the values that its constructor computed.",
)
BASICS = (
    Rule("constant(0)", role=("bias", "norm_bias"), reason="Biases start at zero."),
    Rule(_neutral, role="norm_scale"),
    Rule(_own_constant, role="scale"),
    Rule(_lora_a, role="lora_a"),
    Rule("constant(0)", role="lora_b", reason="A low-rank update starts at zero."),
    Rule(
        "keep",
        role=("ssm_a", "ssm_d", "ssm_dt"),
        reason="A state-space parameter keeps the structured values of its constructor.",
    ),
    FROZEN_POSITIONS,
    Rule(_unknown, role="unknown"),
)
UNSAID = (
    Rule(
        _embedding(SMALL, "The scheme says nothing of embeddings: N(0, 0.02^2), as in BERT."),
        role=("embedding", "position", "token"),
    ),
)


def _matrix_rule(spec_of: Callable[[Matrix], Spec], why: Callable[[ParameterView], str]) -> Rule:
    def scheme(view: ParameterView, model: ModelView) -> Choice:
        return Choice(per_matrix(view, spec_of), why(view))

    return Rule(scheme, role=MATRICES)


def _fan_text(view: ParameterView) -> str:
    """The fan-in of the logical matrices, as a reason tells it."""
    fans = sorted({matrix.fan_in for matrix in matrices(view)})
    told = " or ".join(format_number(fan) for fan in fans)
    return f"{told} (taps / stride)" if view.role == "conv_transpose" else told


def _gain_text(view: ParameterView) -> str:
    followed = {(matrix.activation, matrix.gain) for matrix in matrices(view)}
    told = sorted(
        f"gain {gain:.4g} for {name}" if name else "gain 1, linear" for name, gain in followed
    )
    return "; ".join(told)


# Recipes ----------------------------------------------------------------------------------------


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
    branches = _branches(view)
    spec = per_matrix(
        view, lambda matrix: schemes.variance_scaling(matrix.gain / branches, matrix.fan_in)
    )
    reason = f"Keeps the signal: fan_in {_fan_text(view)}, {_gain_text(view)}"
    if branches > 1:
        reason += f"; 1/sqrt({branches}) as one of {branches} branches that write to its stream"
    return Choice(spec, f"{reason}.")


def _branches(view: ParameterView) -> int:
    """Branches to share the stream with; a norm behind the matrix would undo any scale."""
    return max(view.branches or 1, 1) if view.writes_residual and not view.norm_after else 1


def _auto_head(view: ParameterView, model: ModelView) -> Choice:
    if view.role == "head" and view.aliases:
        return _tied(view)
    spec = per_matrix(view, lambda matrix: schemes.variance_scaling(LOGIT_STD**2, matrix.fan_in))
    what = "routing stays undecided" if view.role == "router" else "the first loss is near ln C"
    return Choice(
        spec, f"Logits of std {LOGIT_STD} for unit input (fan_in {_fan_text(view)}): {what}."
    )


def _auto_embedding(view: ParameterView, model: ModelView) -> Choice:
    if _is_tied(view):
        return _tied(view)
    if any(_is_tied(other) for other in _tables(view, model)):
        std = LOGIT_STD / math.sqrt(view.shape[-1])
        spec = with_padding_row(view, Normal(std))
        return Choice(spec, "The std of the tied table, to which it may be added.")
    spec = with_padding_row(view, Normal(1.0))
    return Choice(spec, "A lookup adds up one row, so unit rows start the stream at variance one.")


def _is_tied(view: ParameterView) -> bool:
    """Whether an embedding may also make the logits: it has other names, or is used again.

    Unit rows would make logits of std sqrt(width), while small rows cost little where the second
    use is only another lookup, so the doubt is settled this way.
    """
    return bool(view.aliases) or view.uses > 1


def _tied(view: ParameterView) -> Choice:
    width = view.shape[-1]
    spec = with_padding_row(view, Normal(LOGIT_STD / math.sqrt(width)))
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
    stds = [
        LOGIT_STD / math.sqrt(other.shape[-1]) if _is_tied(other) else 1.0
        for other in _tables(view, model)
    ]
    if not stds:
        return Choice(Normal(SMALL), "Positions start small beside the patches, as in ViT.")
    return Choice(Normal(min(stds) / 2), "Half the std of the token embedding, the ratio of GPT-2.")


def _recurrent_hidden(view: ParameterView, model: ModelView) -> Choice:
    spec = per_matrix(view, lambda matrix: schemes.orthogonal(1.0, matrix.outputs, matrix.batch))
    return Choice(spec, "Orthogonal per gate: the state neither grows nor fades over time.")


def _recurrent_input(view: ParameterView, model: ModelView) -> Choice:
    spec = per_matrix(
        view, lambda matrix: schemes.xavier(matrix.fan_in, matrix.fan_out, distribution="normal")
    )
    return Choice(spec, f"Xavier per gate: fan_in {_fan_text(view)}.")


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
    matrix = _matrix_rule(
        lambda matrix: schemes.xavier(matrix.fan_in, matrix.fan_out, gain, distribution),
        lambda view: f"Xavier: fan_in {_fan_text(view)}, fan_out {_outs(view)}.",
    )
    return Recipe(text, (matrix, *BASICS, *UNSAID))


def _outs(view: ParameterView) -> str:
    return " or ".join(format_number(f) for f in sorted({m.fan_out for m in matrices(view)}))


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
        fan = {"fan_in": f"fan_in {_fan_text(view)}", "fan_out": f"fan_out {_outs(view)}"}.get(
            mode, f"mean of fan_in {_fan_text(view)} and fan_out {_outs(view)}"
        )
        if named:
            return f"He: {fan}, gain of {named.name}."
        if mode == "fan_out":
            followed = {matrix.activation or "linear" for matrix in matrices(view)}
            return f"He: {fan}, backward gain of {' or '.join(sorted(followed))}."
        return f"He: {fan}, {_gain_text(view)}."

    text = recipe_text(
        "he",
        mode=(mode, "fan_in"),
        distribution=(distribution, "normal"),
        nonlinearity=(nonlinearity, None),
    )
    return Recipe(text, (_matrix_rule(spec_of, why), *BASICS, *UNSAID))


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
    matrix = _matrix_rule(
        lambda matrix: schemes.lecun(matrix.fan_in, distribution),
        lambda view: f"LeCun: fan_in {_fan_text(view)}.",
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
        told = f"root of {_gain_text(view)}" if gain is None else f"gain {format_number(gain)}"
        return f"Orthogonal: {told}."

    text = recipe_text("orthogonal", gain=(gain, None))
    return Recipe(text, (_matrix_rule(spec_of, why), *BASICS, *UNSAID))


def gpt2() -> Recipe:
    """GPT-2 as documented: N(0, 0.02^2), residual writers divided by sqrt(branches on the stream).

    Formula: matrices, embeddings and tokens N(0, 0.02^2); the last matrix of each residual branch
    N(0, 0.02^2 / N) with N branches on its stream; positions N(0, 0.01^2); biases 0; norms 1 and 0.

    When to use: transformers of width about 600 to 1600, where 0.02 is about 1/sqrt(fan_in).

    Source: Radford et al. 2019, section 2.3; openai/gpt-2, src/model.py

    Known divergences: the released code has no depth scaling at all. The paper's N counts residual
    layers, read here, as in the ports, as 2 per transformer block. Ports use 0.02 for positions.

    Example:
        >>> gpt2().text
        'gpt2'
    """

    def writer(view: ParameterView, model: ModelView) -> Choice:
        branches = _branches(view)
        return Choice(
            Normal(SMALL / math.sqrt(branches)),
            f"GPT-2: {SMALL}/sqrt({branches}) as one of {branches} branches on its stream.",
        )

    rules = (
        Rule(writer, role=MATRICES, when=lambda view: view.writes_residual),
        Rule(f"normal({SMALL})", role=MATRICES, reason=f"GPT-2: N(0, {SMALL}^2) for every matrix."),
        *BASICS,
        Rule("normal(0.01)", role="position", reason="GPT-2: N(0, 0.01^2) for positions."),
        Rule(
            _embedding(SMALL, f"GPT-2: N(0, {SMALL}^2) for embeddings."),
            role=("embedding", "token"),
        ),
    )
    return Recipe("gpt2", rules)


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
    return Recipe("zeros", (Rule("constant(0)", reason="Everything starts at zero."),))


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
        Rule(lambda view, model: Choice(with_padding_row(view, spec), reason), role=every),
    )
    return Recipe(str(spec), (*rules, *BASICS))


RECIPES: Mapping[str, Callable[..., Recipe]] = {
    "auto": auto,
    "torch": torch,
    "xavier": xavier,
    "he": he,
    "lecun": lecun,
    "orthogonal": orthogonal,
    "gpt2": gpt2,
    "zeros": zeros,
    "normal": normal,
}
"""The recipes by name, for their text form."""
