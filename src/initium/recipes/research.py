"""Starts from single papers: ZerO, mimetic, ReZero, SkipInit, IRNN, looks linear, delta orthogonal.

Covered: the matrices that each paper speaks of; the rest follows what the paper trained with, and
its reason says so. Not covered: architectures that a paper adds to its start, which are told as
needs where a start is incomplete without them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from initium._plan.layout import Matrix, per_matrix
from initium._plan.needs import Need
from initium._plan.recipe import Recipe, recipe_text
from initium._plan.rules import Choice, Rule, Scheme, formula
from initium._scheme import schemes
from initium._text import format_number
from initium._types import ModelView, ParameterView
from initium.errors import RecipeError
from initium.recipes._shared import BASICS, MATRICES, SMALL, UNSAID, gain_text, own_constant
from initium.recipes._suits import (
    has_norms,
    lacks,
    lacks_attention,
    lacks_branches,
    lacks_convolutions,
    made_for,
)
from initium.spec import (
    Constant,
    DeltaOrthogonal,
    Dirac,
    Hadamard,
    Identity,
    Joint,
    Mirrored,
    NearIdentity,
    Normal,
    Orthogonal,
    Spec,
)

__all__ = [
    "delta_orthogonal",
    "irnn",
    "looks_linear",
    "mimetic",
    "rezero",
    "skipinit",
    "zero_hadamard",
]

BRANCHES_OF_A_BLOCK = 3
"""Self-attention, cross-attention and a feed-forward may share one gate, as in ReZero's decoder."""


def _he(view: ParameterView, model: ModelView) -> Choice:
    """normal(sqrt(gain / fan_in))."""
    spec = per_matrix(view, lambda matrix: schemes.variance_scaling(matrix.gain, matrix.fan_in))
    return Choice(spec, f"He: {gain_text(view)}.")


def _left_to_he(paper: str) -> Rule:
    def scheme(view: ParameterView, model: ModelView) -> Choice:
        """normal(sqrt(gain / fan_in))."""
        return Choice(_he(view, model).spec, f"{paper} says nothing of it: He, {gain_text(view)}.")

    return Rule(scheme, role=MATRICES)


# Deterministic: ZerO, identity RNN ---------------------------------------------------------------


def zero_hadamard() -> Recipe:
    """ZerO: no randomness, only zeros, ones and Hadamard matrices.

    Formula: the last matrix of every residual branch and the head 0; any other matrix partial
    identity if out <= in, else the corner of H / sqrt(p) with the Hadamard matrix H of the least
    order p = 2^n that holds out; convolutions have that at the centre tap; biases 0, norms 1 and 0.

    When to use: residual networks, where the result must not depend on a seed.

    Source: Zhao, Schaefer and Anandkumar 2022, arXiv:2110.12661, algorithms 1 and 2;
    jiaweizzhao/ZerO-initialization, example_mnist.ipynb and imagenet/augskip_resnet.py

    Known divergences: the released ResNet moves the Hadamard transform into the shortcuts, as fixed
    matrices, and zeroes the 3x3 convolutions besides the last 1x1; here it is in the weights, as in
    algorithm 1. Embeddings and patches, of which the algorithms do not speak, are random.

    Example:
        >>> zero_hadamard().text
        'zero_hadamard'
    """

    def matrix(view: ParameterView, model: ModelView) -> Choice:
        """Hadamard with more outputs than inputs, else the partial identity."""
        wide = [False]

        def spec_of(matrix: Matrix) -> Spec:
            taps = math.prod(view.shape[axis] for axis in view.axes.field) if view.axes else 1
            wide[0] = matrix.fan_out > matrix.fan_in
            if wide[0]:
                return Hadamard()
            return Dirac() if taps > 1 or len(view.shape) > 2 else Identity()

        spec = per_matrix(view, spec_of)
        told = "more outputs than inputs, Hadamard" if wide[0] else "partial identity"
        return Choice(spec, f"ZerO: {told}.")

    stacked = tuple(role for role in MATRICES if role not in ("patch", "conv_transpose"))
    rules = (
        Rule("constant(0)", role="head", reason="ZerO: the classifier starts at zero."),
        Rule("constant(0)", role=MATRICES, writes=True, reason="ZerO: branches start closed."),
        Rule(matrix, role=stacked, when=_plain),
        *BASICS,
        _left_to_he("ZerO"),
        *UNSAID,
    )
    suits = made_for("zero_hadamard", "residual networks", lacks_branches)
    return Recipe("zero_hadamard", rules, suits=suits)


def _plain(view: ParameterView) -> bool:
    """Whether it is stored as [out, in, *field], one matrix or one per group or block."""
    return view.axes is not None and view.axes.outputs == (0,) and view.axes.inputs == (1,)


def irnn(scale: float = 1.0, std: float = 0.001) -> Recipe:
    """IRNN: the hidden-to-hidden matrix starts as the identity: a ReLU RNN copies its state.

    Formula: recurrent matrices ``scale`` I, biases 0, every other matrix N(0, std^2).

    Args:
        scale: of the identity; the paper takes 0.01 where long memory is not wanted (speech).
        std: of the other matrices.

    When to use: plain RNNs with ReLU. Of LSTM and GRU, whose gates each have such a matrix, the
    paper says nothing; each gets the identity.

    Source: Le, Jaitly and Hinton 2015, arXiv:1504.00941, section 2

    Known divergences: none.

    Example:
        >>> irnn(scale=0.01).text
        'irnn(scale=0.01)'
    """

    @formula(f"identity({format_number(scale)})")
    def hidden(view: ParameterView, model: ModelView) -> Choice:
        return Choice(per_matrix(view, lambda matrix: Identity(scale)), "IRNN: the identity.")

    told = f"IRNN: N(0, {format_number(std)}^2)."
    rules = (
        Rule(hidden, role="recurrent_hidden"),
        *BASICS,
        Rule(Normal(std), role=(*MATRICES, "embedding", "token", "position"), reason=told),
    )
    text = recipe_text("irnn", scale=(scale, 1.0), std=(std, 0.001))
    no_state = lacks("recurrent matrices", "recurrent_hidden")
    return Recipe(text, rules, suits=made_for("irnn", "recurrent networks", no_state))


# Orthogonal: looks linear, delta orthogonal ------------------------------------------------------


def looks_linear(gain: float = 1.0) -> Recipe:
    """Looks-linear: mirrored orthogonal blocks, so that a ReLU network starts as a linear one.

    Formula: a matrix that a ReLU follows is mirrored in its outputs, one that reads such a matrix
    in its inputs: [W; -W], [[W, -W], [-W, W]] .. [W, -W], with W orthogonal times ``gain``; at the
    centre tap of a convolution. Biases 0, norms 1 and 0.

    Args:
        gain: of W.

    When to use: deep plain ReLU networks, dense or convolutional, of even widths.

    Source: Balduzzi et al. 2017, arXiv:1702.08591, section 4

    Known divergences: the paper uses concatenated ReLUs, (max(x, 0), max(-x, 0)); here the same
    function is made by the weights of plain ReLUs, as in its section 4.2. Where widths are odd,
    weights are fused or grouped, or no trace says what is read, a matrix is He.

    Example:
        >>> looks_linear().text
        'looks_linear'
    """

    def mirrored(view: ParameterView, model: ModelView) -> Choice:
        """Orthogonal, mirrored on the sides where a ReLU stands; else he."""
        axes = _mirrored_axes(view, model)
        unpaired = view.activation == "relu" and 0 not in axes
        if unpaired or not _is_single(view) or any(view.shape[axis] % 2 for axis in axes):
            told = _he(view, model)
            return Choice(
                told.spec, f"Not mirrored, of odd width or no plain matrix. {told.reason}"
            )
        inner: Spec = DeltaOrthogonal(gain) if len(view.shape) > 2 else Orthogonal(gain)
        if not axes:
            return Choice(inner, "Looks linear: orthogonal, with no ReLU on either side.")
        sides = " and ".join("outputs" if axis == 0 else "inputs" for axis in axes)
        return Choice(Mirrored(inner, axes), f"Looks linear: mirrored in its {sides}.")

    rules = (Rule(mirrored, role=MATRICES), *BASICS, *UNSAID)
    return Recipe(recipe_text("looks_linear", gain=(gain, 1.0)), rules)


def _is_single(view: ParameterView) -> bool:
    return _plain(view) and not view.blocks and view.groups == 1


def _mirrored_axes(view: ParameterView, model: ModelView) -> tuple[int, ...]:
    read = [model.parameters[name] for name in view.reads]
    inputs = bool(read) and all(_is_mirrored(other) for other in read)
    return (0,) * _is_mirrored(view) + (1,) * inputs


def _is_mirrored(view: ParameterView) -> bool:
    return view.activation == "relu" and _is_single(view) and view.shape[0] % 2 == 0


def delta_orthogonal(gain: float | None = None) -> Recipe:
    """Delta-orthogonal: convolutions that are an orthogonal matrix at the centre, zero elsewhere.

    Formula: convolutions an orthogonal matrix per group at tap n // 2 of every field axis, other
    matrices orthogonal, both times ``gain``; biases 0, norms 1 and 0.

    Args:
        gain: factor of the matrix; by default the root of 1 / E[phi(z)^2] of the activation that
            follows, and 1 where none does.

    When to use: very deep plain convolutional networks, above all with tanh.

    Source: Xiao et al. 2018, arXiv:1806.05393, algorithm 1

    Known divergences: the paper asks for out >= in, so that norms are kept exactly, and tunes gain
    and a small bias variance to criticality. TensorFlow's ``convolutional_delta_orthogonal`` of
    1.x documents its gain as a factor of the *squared* norm; here it multiplies the matrix.

    Example:
        >>> delta_orthogonal(1.0).text
        'delta_orthogonal(gain=1)'
    """

    def factor(matrix_gain: float) -> float:
        return math.sqrt(matrix_gain) if gain is None else gain

    def convolution(view: ParameterView, model: ModelView) -> Choice:
        """Orthogonal at the centre tap."""
        spec = DeltaOrthogonal(factor(view.gain), view.groups)
        return Choice(spec, f"Delta orthogonal: {gain_text(view)}.")

    def matrix(view: ParameterView, model: ModelView) -> Choice:
        """orthogonal."""
        spec = per_matrix(
            view,
            lambda matrix: schemes.orthogonal(factor(matrix.gain), matrix.outputs, matrix.batch),
        )
        return Choice(spec, f"Orthogonal: {gain_text(view)}.")

    rules = (
        Rule(convolution, role=MATRICES, when=_is_convolution),
        Rule(matrix, role=MATRICES),
        *BASICS,
        *UNSAID,
    )
    suits = made_for("delta_orthogonal", "convolutional networks", lacks_convolutions)
    return Recipe(recipe_text("delta_orthogonal", gain=(gain, None)), rules, suits=suits)


def _is_convolution(view: ParameterView) -> bool:
    return _plain(view) and len(view.shape) > 2 and not view.blocks


# Closed branches: ReZero, SkipInit ---------------------------------------------------------------


def rezero(gates: str | None = None) -> Recipe:
    """ReZero: x + alpha f(x) with alpha = 0 for every branch, the weights at their usual start.

    Formula: the learned scales of residual branches 0; matrices xavier uniform, as the modules of
    the released transformer have it for attention; biases 0; norms 1 and 0.

    Args:
        gates: a glob over the names of the scales that are residual gates; by default those of the
            modules that hold the residual branches of one block.

    When to use: models with such scales; the plan says so where the model has none.

    Source: Bachlechner et al. 2020, arXiv:2003.04887; majumderb/rezero,
    rezero/transformer/rztx.py (``resweight``)

    Known divergences: in the released code the feed-forward is torch's Linear, U(+-1/sqrt(fan_in)),
    and one scalar serves both branches of a layer. No norms are part of it; those there are stay.

    Example:
        >>> rezero().text
        'rezero'
    """

    def xavier(view: ParameterView, model: ModelView) -> Choice:
        """xavier uniform."""
        spec = per_matrix(view, lambda matrix: schemes.xavier(matrix.fan_in, matrix.fan_out))
        return Choice(spec, "ReZero: xavier uniform.")

    text = recipe_text("rezero", gates=(gates, None))
    rules = (_gate_rule("ReZero", 0.0, gates), Rule(xavier, role=MATRICES), *BASICS, *UNSAID)
    source = "Bachlechner et al. 2020, arXiv:2003.04887"
    suits = made_for("rezero", "residual networks", lacks_branches)
    return Recipe(text, rules, _gate_needs("0", gates, source), suits)


def skipinit(alpha: float = 0.0, gates: str | None = None) -> Recipe:
    """SkipInit: a learned scalar alpha = 0 at the end of every residual branch, instead of norms.

    Formula: the learned scales of residual branches ``alpha``; matrices He on the fan-in with the
    gain of their activation; biases 0; norms 1 and 0.

    Args:
        alpha: the start of the scales; the paper also tries 1 / sqrt(branches).
        gates: a glob over the names of the scales that are residual gates; by default those of the
            modules that hold the residual branches of one block.

    When to use: ResNets without batch norm; the plan says so where the model has no such scales.

    Source: De and Smith 2020, arXiv:2002.10444, section 4

    Known divergences: the paper adds biases and, for small sets, regularisation of its own.

    Example:
        >>> skipinit(0.1).text
        'skipinit(alpha=0.1)'
    """
    text = recipe_text("skipinit", alpha=(alpha, 0.0), gates=(gates, None))
    rules = (_gate_rule("SkipInit", alpha, gates), Rule(_he, role=MATRICES), *BASICS, *UNSAID)
    source = "De and Smith 2020, arXiv:2002.10444"
    suits = made_for("skipinit", "residual networks without norms", lacks_branches, has_norms)
    return Recipe(text, rules, _gate_needs(format_number(alpha), gates, source), suits)


def _gate_rule(paper: str, value: float, gates: str | None) -> Rule:
    @formula(f"constant({format_number(value)}) for gates, others as they are")
    def scheme(view: ParameterView, model: ModelView) -> Choice:
        if gates is not None or _is_gate(view, model):
            told = f"{paper}: the gate of a residual branch starts at {format_number(value)}."
            return Choice(Constant(value), told)
        return own_constant(view, model)

    return Rule(scheme, role="scale", name=gates)


def _is_gate(view: ParameterView, model: ModelView) -> bool:
    """A scale that writes to a stream, or whose module holds the residual writers of one block.

    Raises:
        RecipeError: that module holds more scales than branches.
    """
    if view.writes_residual:
        return True
    inside = f"{view.module}."
    writers = {
        (other.stream, other.depth)
        for other in model.owners
        if other.writes_residual and other.name.startswith(inside)
    }
    if not view.module or not 0 < len(writers) <= BRANCHES_OF_A_BLOCK:
        return False
    beside = [
        other.name
        for other in model.owners
        if other.role == "scale" and other.module == view.module
    ]
    if len(beside) > len(writers):
        raise RecipeError(
            f"{len(beside)} scales beside {len(writers)} residual branches: which are gates?",
            where=view.name,
            value=beside,
            fix='name the gates, as in rezero(gates="*.alpha")',
        )
    return True


def _gate_needs(
    value: str, gates: str | None, source: str
) -> Callable[[ModelView], tuple[Need, ...]]:
    rule = _gate_rule("", 0.0, gates)

    def needs(model: ModelView) -> tuple[Need, ...]:
        scales = [view for view in model.owners if rule.matches(view)]
        if scales and (gates is not None or any(_is_gate(view, model) for view in scales)):
            return ()
        return (
            Need(
                "residual gate",
                f"learned, {value} at the start",
                "alpha of every x + alpha f(x), of which this model has none",
                "model code",
                source,
            ),
        )

    return needs


# Drawn jointly: mimetic --------------------------------------------------------------------------


def mimetic(
    alpha_qk: float = 0.7,
    beta_qk: float = 0.7,
    alpha_vo: float = 0.4,
    beta_vo: float = 0.4,
    heads: int | None = None,
) -> Recipe:
    """Mimetic attention: W_q W_k^T near alpha Z + beta I per head, W_v W_o near alpha Z - beta I.

    Formula: Z_ij ~ N(0, 1/d); with the SVD U S V^T of the right side, W_q (W_v) is U sqrt(S) and
    W_k (W_o^T) is V sqrt(S); for q and k of every head the largest singular values of a Z of its
    own, for v and o all of them at once. All other matrices, positions and tokens N(0, 0.02^2).

    Args:
        alpha_qk, beta_qk: of queries and keys.
        alpha_vo, beta_vo: of values and output.
        heads: of the attention; by default what is known from the model.

    When to use: vision transformers on small data, with position embeddings that are sines and
    cosines; for language models the paper finds the effect smaller.

    Source: Trockman and Kolter 2023, arXiv:2305.09828, section 4

    Known divergences: copies of the code draw Z uniform with the same variance, and some store the
    factor of v untransposed, which makes W_o W_v, not W_v W_o, the near identity. Grouped queries
    are not defined there and are refused. A singular value decomposition of order d is made for
    every head: about half a second at width 192 and half a minute at 768.

    Example:
        >>> mimetic(heads=3).text
        'mimetic(heads=3)'
    """
    text = recipe_text(
        "mimetic",
        alpha_qk=(alpha_qk, 0.7),
        beta_qk=(beta_qk, 0.7),
        alpha_vo=(alpha_vo, 0.4),
        beta_vo=(beta_vo, 0.4),
        heads=(heads, None),
    )

    def scores(member: int, other: str) -> Scheme:
        def scheme(view: ParameterView, model: ModelView) -> Choice:
            """Half of a product near alpha Z + beta I, for each head."""
            axis = view.axes.outputs[0] if view.axes else 0
            law = NearIdentity(alpha_qk, beta_qk, heads or _heads(view, axis))
            key = f"{_pair(view, other, model)} qk"
            told = (
                f"Mimetic: q k^T near {alpha_qk:g} Z + {beta_qk:g} I in each of {law.heads} heads."
            )
            return Choice(Joint(law, member, key, axis), told)

        return scheme

    def values(member: int, other: str) -> Scheme:
        law = NearIdentity(alpha_vo, -beta_vo)

        def scheme(view: ParameterView, model: ModelView) -> Choice:
            """Half of a product near alpha Z - beta I."""
            sides = (view.axes.inputs if member else view.axes.outputs) if view.axes else (member,)
            key = f"{_pair(view, other, model)} vo"
            told = f"Mimetic: v o near {alpha_vo:g} Z - {beta_vo:g} I."
            return Choice(Joint(law, member, key, sides[0]), told)

        return scheme

    told = f"Mimetic says nothing of it: N(0, {SMALL}^2), as in ViT."
    rules = (
        Rule(scores(0, "attn_k"), role="attn_q"),
        Rule(scores(1, "attn_q"), role="attn_k"),
        Rule(values(0, "attn_out"), role="attn_v"),
        Rule(values(1, "attn_v"), role="attn_out"),
        Rule(f"normal({SMALL})", role=MATRICES, reason=told),
        *BASICS,
        *UNSAID,
    )
    return Recipe(text, rules, suits=made_for("mimetic", "transformers", lacks_attention))


def _heads(view: ParameterView, axis: int) -> int:
    if not view.head_dim:
        raise RecipeError(
            "the number of heads is not known",
            where=f"mimetic: {view.name}",
            fix="pass it, as in mimetic(heads=12)",
        )
    return view.shape[axis] // view.head_dim


def _pair(view: ParameterView, role: str, model: ModelView) -> str:
    """The name that a matrix shares with its partner: what both names begin with.

    The partner is the one matrix of that role, alone or in a fused weight, with the most leading
    parts of the name in common, and must hold as many heads.
    """
    label = role.removeprefix("attn_")
    near: dict[str, list[ParameterView]] = {}
    for other in model.owners:
        if other.role == role or (
            other.role == "attn_qkv" and any(block.label == label for block in other.blocks)
        ):
            near.setdefault(_common(view.name, other.name), []).append(other)
    shared = max(near, key=lambda text: text.count(".") + bool(text), default="")
    found = near.get(shared, [])
    if len(found) != 1:
        raise RecipeError(
            f"has no single {role} that it is drawn with",
            where=f"mimetic: {view.name}",
            value=[other.name for other in found],
            fix="leave such attention out by a rule of your own",
        )
    ranks = [_rank(view, view.role), _rank(found[0], role)]
    if ranks[0] != ranks[1]:
        raise RecipeError(
            "and its partner have not as many heads, as with grouped queries",
            where=f"mimetic: {view.name}",
            value=ranks,
            fix="leave this attention out by a rule of your own",
        )
    return shared


def _rank(view: ParameterView, role: str) -> int:
    """Heads times their width, on the side of the heads."""
    label = role.removeprefix("attn_")
    block = next((block for block in view.blocks if block.label == label), None)
    if block is not None:
        return block.total
    return (view.fan_in if role == "attn_out" else view.fan_out) or 0


def _common(one: str, other: str) -> str:
    """The leading parts that two dotted names share."""
    parts = []
    for left, right in zip(one.split("."), other.split("."), strict=False):
        if left != right:
            break
        parts.append(left)
    return ".".join(parts)
