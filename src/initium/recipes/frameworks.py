"""Frameworks that pre-train language models: GPT-NeoX, Megatron-LM, LitGPT, Nanotron, LLM Foundry.

Covered: their own initialisers of weights, and Megatron's and Nanotron's muP as far as it is in
that code. Not covered: GPT-NeoX's muP and orthogonal methods.
"""

from __future__ import annotations

import math

from initium._plan.needs import Need
from initium._plan.recipe import Recipe, recipe_text
from initium._plan.rules import Action, Choice, Rule
from initium._types import ModelView, ParameterView
from initium.errors import RecipeError
from initium.recipes._language import one_of, std_text, transformer
from initium.recipes._shared import MATRICES
from initium.spec import Constant, Normal, Spec, Uniform

__all__ = ["gpt_neox", "litgpt", "llm_foundry", "megatron", "nanotron"]


def gpt_neox(inputs: str = "small_init", output: str = "wang_init", std: float = 0.02) -> Recipe:
    """GPT-NeoX: small init for all matrices, wang init for those that write to the stream.

    Formula, of width d and L blocks: ``small_init`` N(0, 2 / (5 d)); ``wang_init``
    N(0, (2 / (L sqrt(d)))^2); ``normal`` N(0, std^2); ``scaled_normal`` N(0, std^2 / (2 L));
    ``single_residual_scaled_normal`` N(0, std^2 / L). ``inputs`` draws embeddings, positions, the
    untied head, routers and input matrices; ``output`` those that write to the residual stream.

    Args:
        inputs: ``init_method``.
        output: ``output_layer_init_method``.
        std: ``init_method_std``, for the three normal methods.

    When to use: wide, pre-norm decoders; Pythia and GPT-NeoX-20B were trained so.

    Source: https://github.com/EleutherAI/gpt-neox/blob/ea7aefd/megatron/model/init_functions.py
    #L25-L227; which layer gets which: gpt2_model.py#L193-L342, transformer.py#L140-L165

    Known divergences: the defaults here are those of the shipped configurations; without any, the
    code takes ``normal`` and ``scaled_normal``. Its ``orthogonal`` passes ``use_mup`` where the
    number of layers is expected, and is left out.

    Example:
        >>> gpt_neox(output="scaled_normal").text
        "gpt_neox(output='scaled_normal')"
    """
    sigma = std_text(std)
    methods = {
        "small_init": "normal(sqrt(2 / (5 * width)))",
        "wang_init": "normal(2 / (layers * sqrt(width)))",
        "normal": f"normal({sigma})",
        "scaled_normal": f"normal({sigma} / sqrt(2 * layers))",
        "single_residual_scaled_normal": f"normal({sigma} / sqrt(layers))",
    }
    one_of("gpt_neox", "inputs", inputs, ("small_init", "normal"))
    one_of("gpt_neox", "output", output, tuple(methods))
    return transformer(
        recipe_text(
            "gpt_neox",
            inputs=(inputs, "small_init"),
            output=(output, "wang_init"),
            std=(std, 0.02),
        ),
        "GPT-NeoX",
        inputs=methods[inputs],
        out=methods[output],
        embedding=methods[inputs],
        others="normal(sqrt(2 / (5 * fan_in)))" if inputs == "small_init" else None,
    )


MEGATRON = "https://github.com/NVIDIA/Megatron-LM/blob/d98e8a6/megatron/core"


def megatron(
    std: float = 0.02,
    embedding_std: float | None = None,
    hybrid: bool = False,
    base_width: int | None = None,
) -> Recipe:
    """Megatron-LM: N(0, std^2), residual writers divided by sqrt(2 L), nothing truncated.

    Formula: matrices, routers (weight and bias), positions and the untied head N(0, std^2);
    matrices that write to the residual stream N(0, std^2 / (2 L)); biases 0; norms 1 and 0. With
    muP, m = d / base_width: input matrices N(0, std^2 / m), writers N(0, std^2 / (2 L m)), both at
    1/m of the learning rate; embedding and untied head keep N(0, std^2).

    Args:
        std: ``init_method_std``.
        embedding_std: ``embedding_init_method_std`` of tables; ``std`` by default.
        hybrid: hybrid models count every mixer and MLP as a layer of one branch, so their factor is
            1/sqrt(branches).
        base_width: ``mup_base_hidden_size``; switches muP on.

    When to use: dense and mixture-of-experts decoders of width 2000 and more with a smaller ``std``
    than 0.02, such as 0.01 or 0.006.

    Source: https://github.com/NVIDIA/Megatron-LM/blob/d98e8a6/megatron/core/utils.py#L862-L891,
    transformer/transformer_config.py#L2530-L2611, transformer/moe/router.py#L79-L83,
    models/gpt/gpt_model.py#L281-L285, optimizer/__init__.py#L132-L298

    Known divergences: the down matrix of every expert counts as a writer. A router's bias is drawn,
    not zero. The head takes the embedding's std under muP only.

    Example:
        >>> megatron(0.01).text
        'megatron(std=0.01)'
    """
    sigma = std_text(std)
    table = sigma if embedding_std is None else std_text(embedding_std)
    if base_width is not None and base_width <= 0:
        raise RecipeError("is not above 0", where="base_width", value=base_width)
    share = "" if base_width is None else f" / sqrt(width / {base_width})"
    depth = "sqrt(branches)" if hybrid else "sqrt(2 * layers)"
    hidden = Rule(f"normal({sigma}{share})", role="router", reason="Megatron: router.")
    plain = transformer(
        recipe_text(
            "megatron",
            std=(std, 0.02),
            embedding_std=(embedding_std, None),
            hybrid=(hybrid, False),
            base_width=(base_width, None),
        ),
        "Megatron",
        inputs=f"normal({sigma}{share})",
        out=f"normal({sigma} / {depth}{share})",
        head=f"normal({sigma})" if base_width is None else f"normal({table})",
        embedding=f"normal({table})",
        first=(Rule(_router_bias(std), role="bias"), hidden),
        needs=() if base_width is None else MEGATRON_MUP,
    )
    if base_width is None:
        return plain
    rate = f"{base_width} / width"
    slow = tuple(_at_rate(rule, rate) for rule in plain.rules)
    return Recipe(plain.text, slow, plain.needs)


MEGATRON_MUP = (
    Need(
        "logit multiplier",
        "base_width / width",
        "the logits",
        "model code",
        f"{MEGATRON}/transformer/transformer_config.py#L2547-L2548",
    ),
    Need(
        "attention multiplier",
        "1 / head_dim",
        "scores of every attention, in place of 1/sqrt(head_dim)",
        "model code",
        f"{MEGATRON}/transformer/transformer_config.py#L2538-L2543",
    ),
    Need(
        "Adam epsilon",
        "eps * base_width / width",
        "the groups of hidden matrices",
        "optimizer",
        f"{MEGATRON}/optimizer/__init__.py#L270-L296",
    ),
)


def _at_rate(rule: Rule, rate: str) -> Rule:
    """The rule with muP's learning rate, if it is one of hidden matrices."""
    from dataclasses import replace

    hidden = set(rule.role) & set(MATRICES) and "head" not in rule.role
    return replace(rule, lr=rate) if hidden or rule.writes else rule


def _router_bias(std: float) -> Action:
    def scheme(view: ParameterView, model: ModelView) -> Choice:
        partner = model.parameters.get(view.partner or "")
        if partner is not None and partner.role == "router":
            return Choice(Normal(std), "Megatron draws the bias of a router as its weight.")
        return Choice(Constant(0.0), "Biases start at zero.")

    return scheme
