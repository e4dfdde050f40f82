"""What the recipes of language models share: one skeleton that covers every role.

A published recipe says what a transformer's embedding, input matrices, output matrices and head
get. :func:`transformer` turns these few formulas into rules for all roles, and says in the reason
where the source itself says nothing.
"""

from __future__ import annotations

from initium._plan.recipe import Needs, Recipe, Suits
from initium._plan.rules import Action, Rule
from initium._text import format_number
from initium._types import ParameterView
from initium.errors import RecipeError
from initium.recipes._shared import BASICS, MATRICES
from initium.recipes._suits import lacks_attention, made_for
from initium.spec import Normal

__all__ = [
    "ATTENTION",
    "FEED_FORWARD",
    "INPUTS",
    "OTHERS",
    "is_expert",
    "is_gated_up",
    "on_stream",
    "one_of",
    "std_text",
    "transformer",
    "truncated",
]

ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_qkv")
FEED_FORWARD = ("mlp_up", "mlp_gate", "mlp_gate_up")
INPUTS = (*ATTENTION, *FEED_FORWARD)
OUTPUTS = ("attn_out", "mlp_down")
OTHERS = tuple(role for role in MATRICES if role not in (*INPUTS, *OUTPUTS, "head", "router"))


def transformer(
    text: str,
    source: str,
    *,
    inputs: Action,
    embedding: Action,
    out: Action | None = None,
    head: Action | None = None,
    router: Action | None = None,
    position: Action | None = None,
    others: Action | None = None,
    lr: float | str = 1.0,
    first: tuple[Rule, ...] = (),
    needs: Needs = (),
    suits: Suits | None = None,
) -> Recipe:
    """A recipe for every role from the few things that a published one says.

    Args:
        text: the recipe's own text.
        source: the system's name, for the reasons.
        inputs: q, k, v, and the matrices into the feed-forward.
        embedding: tables of tokens, and a head that is tied to one.
        out: matrices that write to a residual stream; as the inputs by default.
        head: the output head; as the inputs by default.
        router: one on a residual stream; as the inputs by default.
        position: learned positions; as the embeddings by default.
        others: any other matrix; as the inputs by default.
        lr: the learning rate's multiplier of all matrices but the head.
        first: rules that stand before all of these.
        needs: what it needs outside the weights.
        suits: for which models it was published; by default those with attention.
    """
    rules = (
        *first,
        *((_router(router, source, lr),) if router is not None else ()),
        *BASICS,
        Rule(embedding, role="embedding", reason=f"{source}: embeddings."),
        Rule(embedding, role="head", tied=True, reason=f"{source}: a head tied to the embedding."),
        Rule(position or embedding, role="position", reason=f"{source}: positions."),
        Rule(
            embedding, role="token", reason=f"{source} has no such tokens: drawn as its embeddings."
        ),
        Rule(head or inputs, role="head", reason=f"{source}: output head."),
        Rule(
            out or inputs,
            role=MATRICES,
            writes=True,
            lr=lr,
            reason=f"{source}: writes to the residual stream.",
        ),
        Rule(inputs, role=(*INPUTS, "router"), lr=lr, reason=f"{source}: input matrices."),
        Rule(
            inputs,
            role=OUTPUTS,
            lr=lr,
            reason=f"{source}: no residual stream is seen here, so as its input matrices.",
        ),
        Rule(
            others or inputs,
            role=OTHERS,
            lr=lr,
            reason=f"{source} names no such matrix: drawn as its input matrices.",
        ),
    )
    made = made_for(text.partition("(")[0], "transformers", lacks_attention)
    return Recipe(text, rules, needs, suits or made)


def _router(action: Action, source: str, lr: float | str) -> Rule:
    return Rule(action, role="router", when=on_stream, lr=lr, reason=f"{source}: router.")


def std_text(std: float) -> str:
    """A standard deviation as it stands in a formula; errors as those of ``normal(std)``.

    Example:
        >>> std_text(0.02)
        '0.02'
    """
    return format_number(Normal(std).std)


def truncated(std: str, cut: str = "3") -> str:
    """The formula of a normal cut at ``cut`` sigmas, as torch draws it: nothing is compensated.

    Example:
        >>> truncated("0.02")
        'truncated_normal(0.02, cut=3, compensated=False)'
    """
    return f"truncated_normal({std}, cut={cut}, compensated=False)"


def on_stream(view: ParameterView) -> bool:
    """Whether a weight is seen on a residual stream, where layers and blocks are counted."""
    return view.trunk is not None and view.trunk_depth is not None


def is_gated_up(view: ParameterView) -> bool:
    """Whether a weight on a stream is multiplied by a gate."""
    return view.gated and on_stream(view)


def is_expert(view: ParameterView) -> bool:
    """Whether a weight stacks the matrices of several experts."""
    return any(block.stacked for block in view.blocks)


def one_of(recipe: str, argument: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise if an argument is not one of the names that a recipe knows.

    Raises:
        RecipeError: it is not; the message gives the choices.
    """
    if value not in choices:
        raise RecipeError(
            "is not one that it knows", where=f"{recipe}: {argument}", value=value, choices=choices
        )
