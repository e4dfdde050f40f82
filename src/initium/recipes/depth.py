"""The recipes for deep transformers: T-Fixup, DeepNorm, SubLN.

All three draw the matrices xavier and scale values, attention outputs and feed-forwards by a power
or logarithm of the depth, and leave queries and keys alone. Covered: encoders, decoders and both
together. Not covered: what they change in the model's code, which the plan carries as needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from initium._plan.layout import per_matrix
from initium._plan.needs import Need
from initium._plan.recipe import Recipe, recipe_text
from initium._plan.rules import Choice, Rule, Scheme, formula
from initium._scheme import schemes
from initium._types import ModelView, ParameterView
from initium.errors import RecipeError
from initium.recipes._shared import BASICS, FROZEN_POSITIONS, MATRICES
from initium.recipes._stacks import Stack, is_cross_attention, stack_of, stacks
from initium.recipes._suits import (
    has_norms,
    has_one_stream,
    has_streams,
    lacks_attention,
    made_for,
)
from initium.spec import Normal, Spec

__all__ = ["deepnorm", "subln", "t_fixup"]

QUERIES = ("attn_q", "attn_k")
FEED_FORWARD = ("mlp_up", "mlp_gate", "mlp_down")
SCALED = ("attn_v", "attn_out", *FEED_FORWARD)
T_FIXUP = "Huang et al. 2020; layer6ai-labs/T-Fixup"
DEEPNET = "Wang et al. 2022, arXiv:2203.00555; microsoft/torchscale"
MAGNETO = "Wang et al. 2022, arXiv:2210.06423; microsoft/torchscale"


def t_fixup(variant: str = "paper") -> Recipe:
    """T-Fixup: a transformer without layer norm and without warm-up.

    Formula, with N blocks in the stack of a weight:

    - values, attention outputs and feed-forwards xavier uniform, times 0.67 N^(-1/4) in an encoder
      and (9N)^(-1/4) in a decoder; queries and keys xavier uniform.
    - embeddings N(0, 1/d) times (9N)^(-1/4), with N of the encoder for a shared table; positions
      and head N(0, 1/d); biases 0.

    Args:
        variant: ``paper``, or ``released`` with queries and keys xavier times 1/sqrt(2).

    When to use: transformers that shall train without normalisation, most of all on little data.

    Source: Huang et al. 2020, Improving Transformer Optimization Through Better Initialization,
    ICML; layer6ai-labs/T-Fixup, fairseq/modules/transformer_layer.py, fairseq/models/transformer.py

    Known divergences: the released attention starts q, k and v at xavier times 1/sqrt(2) and makes
    up for it in v alone; the paper says xavier for all. A stack without a counterpart counts as an
    encoder: the paper treats both together only.

    Example:
        >>> t_fixup("released").text
        "t_fixup(variant='released')"
    """
    _known("t_fixup", variant, ("paper", "released"))

    def scaled(view: ParameterView, model: ModelView) -> Choice:
        """xavier uniform x 0.67 N^(-1/4) in an encoder, x (9 N)^(-1/4) in a decoder."""
        stack = stack_of(view, model)
        layers = stack.layers
        decoder = stack.kind == "decoder"
        factor = (9 * layers) ** -0.25 if decoder else 0.67 * layers**-0.25
        told = f"(9 x {layers})^(-1/4)" if decoder else f"0.67 x {layers}^(-1/4)"
        return Choice(_xavier(view, factor), f"T-Fixup: xavier x {told}, {stack.kind}.")

    def table(view: ParameterView, model: ModelView) -> Choice:
        """normal((9 N)^(-1/4) / sqrt(width))."""
        layers = _readers(view, model).layers
        spec = Normal((9 * layers) ** -0.25 / math.sqrt(view.shape[-1]))
        told = f"T-Fixup: N(0, 1/{view.shape[-1]}) x (9 x {layers})^(-1/4)."
        return Choice(spec, told)

    released = variant == "released"
    gain, told = (math.sqrt(0.5), "xavier x 1/sqrt(2)") if released else (1.0, "xavier")
    rules = (
        Rule(scaled, role=SCALED),
        Rule(_by_matrix(gain), role=QUERIES, reason=f"T-Fixup: {told} for queries and keys."),
        Rule(table, role="embedding"),
        *_rest("T-Fixup"),
    )
    needs = (
        Need("layer norms", "none", "every block, and the embeddings", "model code", T_FIXUP),
        Need("warm-up", "none", "the learning rate's schedule", "training code", T_FIXUP),
        EMBEDDING_SCALE,
    )
    suits = made_for("t_fixup", "transformers without norms", lacks_attention, has_norms)
    return Recipe(recipe_text("t_fixup", variant=(variant, "paper")), rules, needs, suits)


def deepnorm(variant: str = "paper") -> Recipe:
    """DeepNorm: post-norm transformers of a thousand layers, norm(alpha x + f(x)).

    Formula: values, attention outputs and feed-forwards xavier times beta, queries and keys xavier;

    - one stack of N blocks: alpha = (2N)^(1/4), beta = (8N)^(-1/4);
    - an encoder of N with a decoder of M blocks: alpha = 0.81 (N^4 M)^(1/16),
      beta = 0.87 (N^4 M)^(-1/16); the decoder: alpha = (3M)^(1/4), beta = (12M)^(-1/4).

    Embeddings, positions and an untied head N(0, 1/d); biases 0; norms 1 and 0. The plan carries
    alpha as a need.

    Args:
        variant: ``paper`` with xavier normal everywhere, or ``torchscale`` as in that code.

    When to use: very deep post-norm transformers.

    Source: Wang et al. 2022, arXiv:2203.00555, figure 2; microsoft/torchscale,
    torchscale/architecture/encoder.py, decoder.py, torchscale/component/multihead_attention.py

    Known divergences: torchscale draws xavier *uniform*, q, k and v times 1/sqrt(2), and leaves the
    feed-forward at torch's U(+-1/sqrt(fan_in)) before it scales; it scales the biases of those
    modules too, and finds them by parts of their names. For the encoder with a decoder it divides
    by (N^4 M)^(1/16) / 1.15, a beta with 1.15 where the paper has 0.87, its inverse. The released
    numbers are in the variant ``torchscale``, with biases at 0.

    Example:
        >>> deepnorm().text
        'deepnorm'
    """
    _known("deepnorm", variant, ("paper", "torchscale"))
    constant = 0.87 if variant == "paper" else 1.15

    def factor(view: ParameterView, model: ModelView) -> tuple[float, str]:
        stack = stack_of(view, model)
        layers, others = stack.layers, stack.others
        if stack.kind == "encoder":
            told = f"{constant} ({layers}^4 x {others})^(-1/16)"
            return constant * (layers**4 * others) ** -0.0625, told
        times = 12 if stack.kind == "decoder" else 8
        return (times * layers) ** -0.25, f"({times} x {layers})^(-1/4)"

    def needs(model: ModelView) -> tuple[Need, ...]:
        alphas = tuple(
            Need(
                "residual multiplier",
                _alpha(stack),
                f"of x in norm(alpha x + f(x)), {_place(stack)}",
                "model code",
                DEEPNET,
            )
            for stack in stacks(model)
        )
        return (*alphas, EMBEDDING_SCALE)

    rules = (*_scaled_rules("DeepNorm", variant, "beta", factor), *_rest("DeepNorm"))
    suits = made_for("deepnorm", "post-norm transformers", lacks_attention, has_one_stream)
    return Recipe(recipe_text("deepnorm", variant=(variant, "paper")), rules, needs, suits)


def _alpha(stack: Stack) -> float:
    if stack.kind == "encoder":
        return 0.81 * (stack.layers**4 * stack.others) ** 0.0625
    return (stack.layers * (3 if stack.kind == "decoder" else 2)) ** 0.25


def subln(variant: str = "paper") -> Recipe:
    """SubLN (Magneto): pre-norm transformers with a second norm inside every branch.

    Formula: values, attention outputs and feed-forwards xavier times gamma, queries and keys
    xavier; gamma = sqrt(ln 2N) for one stack of N blocks; with an encoder of N and a decoder of M
    blocks, sqrt(ln(3M) ln(2N) / 3) in the encoder, sqrt(ln 3M) in the decoder, and 1 in its cross
    attention. Embeddings, positions and an untied head N(0, 1/d); biases 0; norms 1 and 0.

    Args:
        variant: ``paper`` with xavier normal everywhere, or ``torchscale`` as in that code.

    When to use: transformers with sub-layer norms, as the plan's needs say.

    Source: Wang et al. 2022, arXiv:2210.06423; microsoft/torchscale,
    torchscale/architecture/encoder.py, decoder.py

    Known divergences: as for ``deepnorm``, torchscale's distributions differ from the paper's. It
    leaves out the decoder's cross attention by name, which is followed here. One block alone has
    gamma 0.83, below 1.

    Example:
        >>> subln("torchscale").text
        "subln(variant='torchscale')"
    """
    _known("subln", variant, ("paper", "torchscale"))

    def factor(view: ParameterView, model: ModelView) -> tuple[float, str]:
        stack = stack_of(view, model)
        layers, others = stack.layers, stack.others
        if is_cross_attention(view, model):
            return 1.0, "1, cross attention"
        if stack.kind == "encoder":
            told = f"sqrt(ln(3 x {others}) ln(2 x {layers}) / 3)"
            return math.sqrt(math.log(3 * others) * math.log(2 * layers) / 3), told
        times = 3 if stack.kind == "decoder" else 2
        return math.sqrt(math.log(times * layers)), f"sqrt(ln({times} x {layers}))"

    norm = "before attention's output matrix and before the second matrix of the feed-forward"
    needs = (Need("layer norm", "one more", norm, "model code", MAGNETO), EMBEDDING_SCALE)
    rules = (*_scaled_rules("SubLN", variant, "gamma", factor), *_rest("SubLN"))
    suits = made_for("subln", "pre-norm transformers", lacks_attention, has_streams)
    return Recipe(recipe_text("subln", variant=(variant, "paper")), rules, needs, suits)


# What they share ---------------------------------------------------------------------------------


EMBEDDING_SCALE = Need(
    "embedding multiplier",
    "sqrt(width)",
    "of the looked-up embeddings, which are drawn N(0, 1/width)",
    "model code",
    "fairseq and torchscale: embed_scale",
)


def _known(recipe: str, variant: str, variants: tuple[str, ...]) -> None:
    if variant not in variants:
        raise RecipeError(
            f"is not a variant of {recipe}", where=recipe, value=variant, choices=variants
        )


def _place(stack: Stack) -> str:
    return "in every block" if stack.kind == "alone" else f"in the {stack.kind}"


def _xavier(view: ParameterView, gain: float, distribution: str = "uniform") -> Spec:
    return per_matrix(
        view,
        lambda matrix: schemes.xavier(matrix.fan_in, matrix.fan_out, gain, distribution),
    )


def _by_matrix(gain: float, distribution: str = "uniform") -> Scheme:
    @formula(f"xavier {distribution}{'' if gain == 1 else ' x 1/sqrt(2)'}")
    def scheme(view: ParameterView, model: ModelView) -> Spec:
        return _xavier(view, gain, distribution)

    return scheme


def _scaled_rules(
    name: str,
    variant: str,
    symbol: str,
    factor: Callable[[ParameterView, ModelView], tuple[float, str]],
) -> tuple[Rule, ...]:
    """Values, outputs and feed-forwards times a factor of the depth; queries and keys without."""
    paper = variant == "paper"
    inner = 1.0 if paper else math.sqrt(0.5)
    distribution = "normal" if paper else "uniform"

    drawn = "xavier normal" if paper else "xavier uniform, torch's default in the MLP,"

    @formula(f"{drawn} x {symbol}")
    def scaled(view: ParameterView, model: ModelView) -> Choice:
        times, told = factor(view, model)
        if not paper and view.role in FEED_FORWARD:
            spec = per_matrix(view, lambda matrix: schemes.kaiming_uniform(matrix.fan_in))
            return Choice(spec.scaled(times), f"{name}: torch's default x {told}.")
        gain = inner if view.role == "attn_v" else 1.0
        told = f"{told}, x 1/sqrt(2)" if gain != 1.0 else told
        return Choice(_xavier(view, gain * times, distribution), f"{name}: xavier x {told}.")

    without = "" if paper else " x 1/sqrt(2)"
    return (
        Rule(scaled, role=SCALED),
        Rule(
            _by_matrix(inner, distribution),
            role=QUERIES,
            reason=f"{name}: xavier{without} for queries and keys, whatever the depth.",
        ),
    )


def _rest(name: str) -> tuple[Rule, ...]:
    """Tables and head at 1/sqrt(width), and xavier for what the scheme does not name."""

    def table(view: ParameterView, model: ModelView) -> Choice:
        """normal(1 / sqrt(width))."""
        width = view.shape[-1]
        return Choice(Normal(1 / math.sqrt(width)), f"{name}'s code: N(0, 1/{width}) for tables.")

    return (
        Rule("normal(1 / sqrt(fan_in))", role="head", reason=f"{name}'s code, N(0, 1/d)"),
        Rule(_by_matrix(1.0), role=MATRICES, reason=f"{name} says nothing of it: xavier uniform."),
        FROZEN_POSITIONS,
        Rule(table, role=("embedding", "position", "token")),
        *BASICS,
    )


def _readers(view: ParameterView, model: ModelView) -> Stack:
    """The stack that a table feeds: the encoder where it feeds both."""
    fed = {stack_of(other, model) for other in model.owners if view.name in other.reads}
    found = [stack for stack in stacks(model) if stack in fed] or list(stacks(model))
    return next((stack for stack in found if stack.kind == "encoder"), found[0])
