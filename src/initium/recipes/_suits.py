"""For what kind of model a recipe was published, and whether a model is of it.

A plan for another kind is made all the same, and carries a note. Nothing is said of what was not
seen: where roles are not known, nothing is missed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from initium._plan.recipe import Suits
from initium._types import ModelView

__all__ = [
    "has_norms",
    "has_one_stream",
    "has_streams",
    "lacks",
    "lacks_attention",
    "lacks_branches",
    "lacks_convolutions",
    "made_for",
]

Test: TypeAlias = Callable[[ModelView], str | None]
"""What a model is or has that a recipe was not published for; ``None`` if it is as it should be."""

UNSURE = frozenset({"unknown", "linear"})


def made_for(recipe: str, kind: str, *tests: Test) -> Suits:
    """The note of a recipe for models that fail a test.

    Example:
        >>> made_for("lora", "low-rank adapters", lacks("adapters", "lora_a"))(
        ...     ModelView(model="Net", parameters={}, buffers={}, traced=True)
        ... )
        'lora was published for low-rank adapters; this model has no adapters.'
    """

    def suits(model: ModelView) -> str | None:
        found = next((told for test in tests if (told := test(model))), None)
        return f"{recipe} was published for {kind}; this model {found}." if found else None

    return suits


def lacks(what: str, *roles: str) -> Test:
    """The model has no weight of these roles."""

    def test(model: ModelView) -> str | None:
        found = {view.role for view in model.owners}
        unsure = not model.traced and found & UNSURE
        return None if unsure or found & {*roles} else f"has no {what}"

    return test


lacks_attention = lacks("attention", "attn_q", "attn_k", "attn_v", "attn_qkv", "attn_out")
lacks_convolutions = lacks("convolutions", "conv", "conv_depthwise", "conv_transpose")


def has_norms(model: ModelView) -> str | None:
    """The model has normalisation layers."""
    scales = [view.name for view in model.owners if view.role == "norm_scale"]
    return f"has norms, {len(scales)} of them, such as {scales[0]}" if scales else None


def lacks_branches(model: ModelView) -> str | None:
    """No residual branch was seen in a trace."""
    seen = any(view.writes_residual for view in model.owners)
    return None if seen or not model.traced else "has no residual branches"


def has_one_stream(model: ModelView) -> str | None:
    """Pre-norm: the branches add to one stream, which no norm interrupts."""
    told = "is pre-norm: its branches add to one stream, without a norm in between"
    return told if _streams_per_branch(model) == "one" else None


def has_streams(model: ModelView) -> str | None:
    """Post-norm: a norm behind every branch begins a stream anew."""
    told = "is post-norm: a norm stands on the stream behind every branch"
    return told if _streams_per_branch(model) == "each" else None


def _streams_per_branch(model: ModelView) -> str | None:
    """``one`` stream for all branches of a trunk, or one for ``each``; ``None`` if neither."""
    streams: dict[int, dict[int | None, int | None]] = {}
    for view in model.owners:
        if view.writes_residual and view.trunk is not None:
            streams.setdefault(view.trunk, {})[view.trunk_depth] = view.stream
    counts = [(len({*held.values()}), len(held)) for held in streams.values() if len(held) > 1]
    if counts and all(found == 1 for found, _ in counts):
        return "one"
    return "each" if counts and all(found == all_ for found, all_ in counts) else None
