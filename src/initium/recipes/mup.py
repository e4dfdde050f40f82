"""The recipes of maximal update parametrisation: muP and CompleteP.

They fix how a start and its learning rates change with the width, so that what was tuned at a base
width holds at every width. The learning rates are in the plan (``plan.parameter_groups``); what the
model's code must do is in its needs. Covered: Adam and its kin. Not covered: SGD, and widths that
grow at different rates, as one multiplier, width / base_width, serves all.

The width of a model is that of its largest residual stream, else of its tables, else what its head
or last matrix reads. A weight counts as *input* if its inputs do not grow with the width (tables,
patches, the first matrix, depthwise taps), as *output* if its outputs do not (head, router), else
as *hidden*.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

from initium._plan.layout import Matrix, per_matrix
from initium._plan.needs import Need
from initium._plan.places import variables
from initium._plan.recipe import Recipe, recipe_text
from initium._plan.rules import Choice, Rule
from initium._text import format_number
from initium._types import ModelView, ParameterView
from initium.errors import RecipeError
from initium.recipes._shared import BASICS, FROZEN_POSITIONS, MATRICES, basics
from initium.recipes._stacks import first_matrix
from initium.recipes._suits import lacks_branches, made_for
from initium.spec import Normal, Spec, TruncatedNormal

__all__ = ["TABLES", "completep", "mup", "positive", "rates"]

TABLES = ("embedding", "position", "token")
VECTORS = ("bias", "norm_bias", "norm_scale", "scale")
TENSOR_PROGRAMS = "Yang et al. 2022, arXiv:2203.03466, table 8"
COMPLETEP = "Dey et al. 2025, arXiv:2505.01618, table 1"


@dataclass(frozen=True)
class _Flavour:
    """What the published versions of muP differ in.

    ``std`` is that of the base width, ``None`` for 1/sqrt(fan_in); ``by_depth`` divides residual
    writers by sqrt(2L); ``cut`` truncates at two sigmas; ``embedding`` multiplies the embeddings.
    """

    std: float | None
    by_depth: bool = False
    cut: bool = False
    embedding: float = 1.0

    def spec(self, std: float) -> Spec:
        return TruncatedNormal(std, compensated=False) if self.cut else Normal(std)


FLAVOURS = {
    "paper": _Flavour(None),
    "nanogpt": _Flavour(0.02, by_depth=True),
    "cerebras": _Flavour(0.08, by_depth=True, cut=True, embedding=10.0),
}


def mup(base_width: int = 256, std: float | None = None, variant: str = "paper") -> Recipe:
    """muP for Adam: hidden weights shrink with the width, and so do their learning rates.

    Formula, with m = width / base_width and the std s at the base width:

    - hidden: std s / sqrt(m), learning rate x 1/m.
    - input: std s, learning rate x 1.
    - head: std s, learning rate x 1, and its logits times 1/m (a need).
    - router: std s / m, learning rate x 1/m, which is the same without a multiplier.
    - vectors: biases 0, norms 1, learning rate x 1.
    - s: 1/sqrt(fan_in) at the base width in ``paper``, with 1 for an embedding and 1/sqrt(base
      width) for one tied to the head; 0.02 in ``nanogpt``; 0.08, cut at two sigmas, in
      ``cerebras``. Those two divide residual writers by sqrt(2L) besides.
    - attention scores times 1/head_dim, not 1/sqrt(head_dim) (a need); embeddings times 10 in
      ``cerebras`` (a need).

    Args:
        base_width: the width at which the numbers were tuned; there m = 1.
        std: s for all weights, instead of the variant's.
        variant: ``paper``, ``nanogpt`` or ``cerebras``.

    When to use: to tune a small model and carry its learning rate over to a wide one.

    Source: Yang et al. 2022, arXiv:2203.03466, table 8; microsoft/mup, mup/init.py, mup/layer.py,
    mup/optim.py; EleutherAI/nanoGPT-mup, model.py; Cerebras/modelzoo, models/nlp/gpt2/gpt2_model.py
    and models/nlp/gpt3/configs/Cerebras_GPT/256m_mup.yaml

    Known divergences: microsoft/mup rescales what the model drew, and doing it twice scales twice;
    here the numbers are drawn as they should be. It multiplies weight decay by m where it divides
    the learning rate, as ``plan.parameter_groups`` does; nanoGPT-mup does not. nanoGPT-mup scales
    the logits in training only, not where it is called without targets. Cerebras takes a multiplier
    of its own for the feed-forward's inner width. Attention keeps its published 1/head_dim at the
    base width too, so the base is the standard parametrisation up to that.

    Example:
        >>> mup(128, variant="nanogpt").text
        "mup(base_width=128, variant='nanogpt')"
    """
    if variant not in FLAVOURS:
        raise RecipeError("is not a variant of mup", where="mup", value=variant, choices=FLAVOURS)
    flavour = FLAVOURS[variant] if std is None else replace(FLAVOURS[variant], std=std)
    positive("mup", base_width=base_width, std=flavour.std)

    def needs(model: ModelView) -> tuple[Need, ...]:
        scale = Need(
            "embedding multiplier",
            flavour.embedding,
            "of the embeddings, positions added",
            "model code",
            "Cerebras/modelzoo",
        )
        return (
            *_common_needs(model, base_width, TENSOR_PROGRAMS),
            *((scale,) if flavour.embedding != 1 else ()),
        )

    text = recipe_text(
        "mup", base_width=(base_width, 256), std=(std, None), variant=(variant, "paper")
    )
    return Recipe(text, _rules("muP", base_width, flavour), needs)


def completep(
    base_width: int = 256, base_depth: int = 2, alpha: float = 1.0, std: float = 0.02
) -> Recipe:
    """CompleteP: muP in width and depth at once; the learning rate carries over both.

    Formula, with m = width / base_width and k = L / base_depth for the L blocks of the trunk:

    - hidden: std s / sqrt(m), also for residual writers; learning rate x k^(alpha - 1) / m.
    - biases and norms inside the blocks: learning rate x k^(alpha - 1).
    - embeddings, head, final norm: std s, learning rate x 1; logits times 1/m (a need).
    - every residual branch times k^(-alpha); Adam's epsilon times k^(-alpha) / m; attention scores
      times 1/head_dim (needs).

    Args:
        base_width: the width at which the numbers were tuned.
        base_depth: the blocks at which they were tuned.
        alpha: 1 as the paper recommends, or 0.5.
        std: s, the std at the base width.

    When to use: pre-norm transformers that are tuned small and trained wide and deep.

    Source: Dey et al. 2025, arXiv:2505.01618, table 1; EleutherAI/nanoGPT-mup, branch completep,
    model.py

    Known divergences: there is no 1/sqrt(2L) on residual writers, unlike in nanoGPT-mup's muP. The
    released code multiplies the weight decay of hidden weights by m; ``plan.parameter_groups``
    divides it by the whole multiplier, which differs by k^(1 - alpha) unless alpha is 1. The
    released code has one epsilon for all; the paper leaves out k for embeddings and head.

    Example:
        >>> completep(base_depth=4).text
        'completep(base_depth=4)'
    """
    positive("completep", base_width=base_width, base_depth=base_depth, std=std)
    if not 0 <= alpha <= 1:
        raise RecipeError("must lie in [0, 1]", where="completep: alpha", value=alpha)

    def depths(view: ParameterView, model: ModelView) -> float:
        standing = view if view.trunk is not None else _writer_beside(view, model)
        if standing is None:
            return 1.0
        return variables(standing, model).get("layers", base_depth) / base_depth

    def slower(view: ParameterView, model: ModelView) -> float:
        return depths(view, model) ** (alpha - 1)

    def needs(model: ModelView) -> tuple[Need, ...]:
        found = sorted({depths(view, model) for view in model.owners if view.writes_residual})
        branches = tuple(
            Need(
                "branch multiplier",
                k**-alpha,
                f"of f(x) in every x + f(x), where {format_number(k * base_depth)} blocks stand",
                "model code",
                COMPLETEP,
            )
            for k in found
        )
        m, deepest = _multiplier(model, base_width), max(found, default=1.0)
        epsilon = Need(
            "Adam's epsilon", deepest**-alpha / m, "times the tuned one", "optimizer", COMPLETEP
        )
        return (*branches, *_common_needs(model, base_width, COMPLETEP), epsilon)

    text = recipe_text(
        "completep",
        base_width=(base_width, 256),
        base_depth=(base_depth, 2),
        alpha=(alpha, 1.0),
        std=(std, 0.02),
    )
    rules = _rules("CompleteP", base_width, _Flavour(std), slower)
    return Recipe(text, rules, needs, made_for("completep", "residual networks", lacks_branches))


# What both share ---------------------------------------------------------------------------------


def positive(recipe: str, **given: float | None) -> None:
    """Refuse numbers that are not above zero."""
    for name, value in given.items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise RecipeError("must be positive", where=f"{recipe}: {name}", value=value)


@lru_cache(maxsize=4)
def _width(model: ModelView) -> float | None:
    """The width of the largest stream, else of the tables or head, else what the last matrix reads;
    ``None`` for a model without matrices."""
    free = [view for view in model.owners if view.stream is None]
    told = variables(free[0], model).get("width") if free else None
    ends = [view for view in model.owners if view.is_matrix and view.fan_in]
    if told is not None or not ends:
        return told
    last = max(enumerate(ends), key=lambda item: (item[1].order or 0, item[0]))[1]
    taps = prod(last.shape[axis] for axis in last.axes.field) if last.axes else 1
    return (last.fan_in or 1) / taps


def _multiplier(model: ModelView, base_width: int) -> float:
    """m; without matrices nothing has a width, and m is 1."""
    return (_width(model) or base_width) / base_width


NUMBERED = re.compile(r"(.*?\.|)\d+\.")


def _writer_beside(view: ParameterView, model: ModelView) -> ParameterView | None:
    """A residual writer of the same numbered block, for what stands in it and in no branch, such as
    the norms of a post-norm transformer."""
    block = NUMBERED.match(view.name)
    return _writers(model).get(block[0]) if block else None


@lru_cache(maxsize=4)
def _writers(model: ModelView) -> dict[str, ParameterView]:
    """A residual writer of each numbered block, by what its names begin with."""
    found = ((NUMBERED.match(view.name), view) for view in model.owners if view.writes_residual)
    return {block[0]: view for block, view in found if block and view.trunk is not None}


def _rules(
    name: str,
    base_width: int,
    flavour: _Flavour,
    slower: Callable[[ParameterView, ModelView], float] = lambda view, model: 1.0,
) -> tuple[Rule, ...]:
    """The rules of muP; ``slower`` multiplies the learning rates of what stands in the blocks."""

    def matrix(view: ParameterView, model: ModelView) -> Choice:
        """normal(s) for input and head, / sqrt(m) for hidden, / m for routers."""
        m, kind = _multiplier(model, base_width), _kind(view, model)
        layers = variables(view, model).get("layers", 1) if flavour.by_depth else 0.5
        deep = math.sqrt(2 * layers) if view.writes_residual else 1.0
        shrink = {"input": 1.0, "head": 1.0, "router": m, "hidden": math.sqrt(m)}[kind] * deep

        def spec(one: Matrix) -> Spec:
            at_base = one.fan_in if kind == "input" else one.fan_in / m
            return flavour.spec((flavour.std or 1 / math.sqrt(at_base)) / shrink)

        told = {
            "input": "input weight, the same at every width",
            "head": "output weight, the same at every width",
            "router": "output weight without a multiplier, x 1/m",
            "hidden": "hidden weight, x 1/sqrt(m)",
        }[kind]
        depth = f", / sqrt(2 x {format_number(layers)})" if deep != 1.0 else ""
        rate = 1 / m if kind in ("hidden", "router") else 1.0
        return Choice(
            per_matrix(view, spec),
            f"{name}: {told}{depth}; m {format_number(m)}.",
            rate * (slower(view, model) if kind in ("hidden", "router") else 1.0),
        )

    def table(view: ParameterView, model: ModelView) -> Choice:
        """normal(s), the same at every width."""
        std = flavour.std or (1 / math.sqrt(base_width) if view.is_tied else 1.0)
        spec = flavour.spec(std)
        return Choice(spec, f"{name}: input weight, the same at every width.")

    def vector(view: ParameterView, model: ModelView) -> Choice:
        """Biases constant(0), norms constant(1), scales as they are."""
        return replace(basics(view, model), lr=slower(view, model))

    return (
        Rule(matrix, role=MATRICES),
        FROZEN_POSITIONS,
        Rule(table, role=TABLES),
        Rule(vector, role=VECTORS),
        *BASICS,
    )


def _kind(view: ParameterView, model: ModelView) -> str:
    if view.role in ("head", "router"):
        return view.role
    if view.role in ("patch", "conv_depthwise") or view.name == first_matrix(model):
        return "input"
    return "hidden"


def rates(optimizer: str, source: str) -> Need:
    """The learning rates of a plan, as something that the optimizer has to be given."""
    return Need(
        "learning rates",
        "one for each parameter",
        f"plan.parameter_groups(model, lr=...), for {optimizer}",
        "optimizer",
        source,
    )


def _common_needs(model: ModelView, base_width: int, source: str) -> tuple[Need, ...]:
    m = _multiplier(model, base_width)
    heads = sorted({view.head_dim for view in model.owners if view.head_dim})
    attends = any(view.role == "attn_out" for view in model.owners)
    told = format_number(1 / heads[0]) if len(heads) == 1 else "1 / head_dim"
    logits = Need("logit multiplier", 1 / m, "of the head's output", "model code", source)
    scores = Need(
        "attention scale", told, "of q k, instead of 1 / sqrt(head_dim)", "model code", source
    )
    return (logits, *((scores,) if attends else ()), rates("Adam", source))
