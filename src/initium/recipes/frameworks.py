"""Frameworks that pre-train language models: GPT-NeoX, Megatron-LM, LitGPT, Nanotron.

Covered: their own initialisers of weights, and the muP of Megatron and Nanotron as far as that code
has it. Not covered: GPT-NeoX's muP, its xavier and its orthogonal methods.
"""

from __future__ import annotations

import math

from initium._plan.needs import Need
from initium._plan.recipe import Recipe, recipe_text
from initium._plan.rules import Choice, Rule, Scheme, formula
from initium._types import ModelView, ParameterView
from initium.errors import RecipeError
from initium.recipes._language import one_of, std_text, transformer
from initium.spec import Constant, Normal

__all__ = ["gpt_neox", "litgpt", "megatron", "nanotron"]


def gpt_neox(inputs: str = "small_init", output: str = "wang_init", std: float = 0.02) -> Recipe:
    """GPT-NeoX: small init for all matrices, wang init for those that write to the stream.

    Formula, for width d and L blocks: ``small_init`` N(0, 2 / (5 d)); ``wang_init``
    N(0, (2 / (L sqrt(d)))^2); ``normal`` N(0, std^2); ``scaled_normal`` N(0, std^2 / (2 L));
    ``single_residual_scaled_normal`` N(0, std^2 / L). ``inputs`` draws embeddings, positions, the
    untied head, routers and input matrices; ``output`` those that write to the residual stream.

    Args:
        inputs: ``init_method``.
        output: ``output_layer_init_method``.
        std: ``init_method_std``, for the three normal methods.

    When to use: wide pre-norm decoders; Pythia and GPT-NeoX-20B were trained so.

    Source: https://github.com/EleutherAI/gpt-neox/blob/ea7aefd/megatron/model/init_functions.py,
    lines 25-227; which layer gets which: gpt2_model.py, lines 193-342, transformer.py, moe_mlp.py

    Known divergences: the defaults here are those of the shipped configurations; without one the
    code takes ``normal`` and ``scaled_normal``. Its ``orthogonal`` passes ``use_mup`` where the
    number of layers is expected. In LitGPT's version wang init lacks the factor 2.

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
        "the parameter groups of hidden matrices",
        "optimizer",
        f"{MEGATRON}/optimizer/__init__.py#L270-L296",
    ),
)


def megatron(
    std: float = 0.02,
    embedding_std: float | None = None,
    hybrid: bool = False,
    base_width: int | None = None,
) -> Recipe:
    """Megatron-LM: N(0, std^2), residual writers divided by sqrt(2 L), nothing truncated.

    Formula: matrices, routers (weight and bias), tables and the untied head N(0, std^2); matrices
    that write to the residual stream N(0, std^2 / (2 L)); biases 0; norms 1 and 0. With muP and
    m = d / base_width: input matrices N(0, std^2 / m), writers N(0, std^2 / (2 L m)), both at 1/m
    of the learning rate; tables and head as before.

    Args:
        std: ``init_method_std``.
        embedding_std: ``embedding_init_method_std``, of tables; ``std`` by default.
        hybrid: hybrid models count each mixer and each MLP as a layer of one branch, so that their
            factor is 1/sqrt(branches).
        base_width: ``mup_base_hidden_size``; switches muP on.

    When to use: dense and mixture-of-experts decoders; wide ones with a smaller ``std``.

    Source: https://github.com/NVIDIA/Megatron-LM/blob/d98e8a6/megatron/core/utils.py#L862-L891,
    transformer/transformer_config.py#L2530-L2611, transformer/moe/router.py#L79-L83,
    models/gpt/gpt_model.py#L281-L285, optimizer/__init__.py#L132-L298

    Known divergences: the down matrix of every expert is a writer. A router's bias is drawn, not
    zero. The head takes the embedding's std under muP only. Under SGD muP's rates are others.

    Example:
        >>> megatron(0.01).text
        'megatron(std=0.01)'
    """
    sigma = std_text(std)
    table = sigma if embedding_std is None else std_text(embedding_std)
    if base_width is not None and base_width <= 0:
        raise RecipeError("is not above 0", where="base_width", value=base_width)
    mup = base_width is not None
    share = f" / sqrt(width / {base_width})" if mup else ""
    depth = "sqrt(branches)" if hybrid else "sqrt(2 * layers)"
    return transformer(
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
        head=f"normal({table if mup else sigma})",
        embedding=f"normal({table})",
        lr=f"{base_width} / width" if mup else 1.0,
        first=(Rule(_router_bias(std), role="bias"),),
        needs=MEGATRON_MUP if mup else (),
    )


def _router_bias(std: float) -> Scheme:
    @formula(f"normal({std:g}) beside a router, else constant(0)")
    def scheme(view: ParameterView, model: ModelView) -> Choice:
        partner = model.parameters.get(view.partner or "")
        if partner is not None and partner.role == "router":
            return Choice(Normal(std), "Megatron: the bias of a router is drawn as its weight.")
        return Choice(Constant(0.0), "Biases start at zero.")

    return scheme


def litgpt() -> Recipe:
    """LitGPT: N(0, 2 / (5 d)), residual writers N(0, (1 / (L sqrt(d)))^2).

    Formula: embeddings, head and matrices N(0, 2 / (5 d)) at width d; matrices that write to the
    residual stream N(0, 1 / (L^2 d)) with L blocks; biases 0; norms 1 and 0.

    When to use: to reproduce LitGPT and TinyLlama, from which it comes.

    Source: https://github.com/Lightning-AI/litgpt/blob/2685705/litgpt/pretrain.py#L477-L496

    Known divergences: it says GPT-NeoX, whose writers are twice as large: see ``gpt_neox``. Only
    the classes ``LLaMAMLP`` and ``CausalSelfAttention`` have their outputs scaled there; those of
    ``GptNeoxMLP`` and of latent attention keep the plain std, while this recipe scales by role.

    Example:
        >>> litgpt().text
        'litgpt'
    """
    return transformer(
        "litgpt",
        "LitGPT",
        inputs="normal(sqrt(2 / (5 * width)))",
        out="normal(1 / (layers * sqrt(width)))",
        embedding="normal(sqrt(2 / (5 * width)))",
        others="normal(sqrt(2 / (5 * fan_in)))",
    )


NANOTRON = "https://github.com/huggingface/nanotron/blob/2411b02/src/nanotron"
SPECTRAL = (
    Need(
        "attention multiplier",
        "1 / head_dim",
        "scores of every attention, in place of 1/sqrt(head_dim)",
        "model code",
        f"{NANOTRON}/models/llama.py#L558",
    ),
)


def nanotron(method: str = "random", std: float = 0.025, scaling: bool = True) -> Recipe:
    """Nanotron: N(0, std^2) with writers over sqrt(2 L), or the spectral form of muP.

    Formula: ``random``: embeddings, head, routers and input matrices N(0, std^2), matrices that
    write to the residual stream N(0, std^2 / (2 L)). ``spectral``: embedding N(0, 1), every matrix
    and the head N(0, s^2) with s = min(1, sqrt(fan_out / fan_in)) / sqrt(fan_in), at fan_out /
    fan_in of the learning rate. Biases 0; norms 1 and 0.

    Args:
        method: ``random`` or ``spectral``.
        std: of ``random``; Nanotron has no default, 0.025 is that of its examples.
        scaling: whether ``random`` divides the writers (``scaling_method: NUM_LAYERS``).

    When to use: to reproduce Nanotron; ``spectral`` to carry a learning rate over widths.

    Source: https://github.com/huggingface/nanotron/blob/2411b02/src/nanotron/scaling/
    parametrization.py#L35-L239; Yang et al. 2023, arXiv:2310.17813

    Known divergences: the fans are those of the stored parameter over all ranks, so a fused q, k, v
    counts as one matrix. ``spectral`` knows no routers or experts there; here they are drawn alike.

    Example:
        >>> nanotron("spectral").text
        "nanotron(method='spectral')"
    """
    one_of("nanotron", "method", method, ("random", "spectral"))
    text = recipe_text(
        "nanotron", method=(method, "random"), std=(std, 0.025), scaling=(scaling, True)
    )
    if method == "spectral":
        return transformer(
            text, "Nanotron", inputs=_spectral, embedding="normal(1)", needs=SPECTRAL
        )
    sigma = std_text(std)
    return transformer(
        text,
        "Nanotron",
        inputs=f"normal({sigma})",
        out=f"normal({sigma} / sqrt(2 * layers))" if scaling else None,
        embedding=f"normal({sigma})",
    )


def _spectral(view: ParameterView, model: ModelView) -> Choice:
    """The spectral condition on a matrix as it is stored, all fused blocks together."""
    fan_in, fan_out = float(view.fan_in or 1), float(view.fan_out or 1)
    fused = [block for block in view.blocks if not block.stacked]
    outputs = view.axes.outputs if view.axes else ()
    if fused and all(block.axis in outputs for block in fused):
        fan_out = float(math.prod(view.shape[axis] for axis in outputs))
    std = min(1.0, math.sqrt(fan_out / fan_in)) / math.sqrt(fan_in)
    reason = f"Nanotron: spectral, fan_in {fan_in:g} and fan_out {fan_out:g} as stored."
    return Choice(Normal(std), reason, fan_out / fan_in)
