"""The Allen Institute's models: OLMo (v1 and v2 code) and OLMo-core.

Covered: every variant of their ``init_fn`` and ``InitMethod``. Not covered: the state-space
parameters of OLMo-core's gated delta nets, which keep what their constructor computed.
"""

from __future__ import annotations

from initium._plan.needs import Need
from initium._plan.recipe import Recipe, recipe_text
from initium._plan.rules import Rule
from initium._types import ParameterView
from initium.recipes._language import (
    FEED_FORWARD,
    is_expert,
    is_gated_up,
    on_stream,
    one_of,
    std_text,
    transformer,
    truncated,
)

__all__ = ["olmo", "olmo_core"]


def olmo(variant: str = "mitchell", std: float = 0.02, cutoff: float | None = None) -> Recipe:
    """OLMo: ``mitchell`` of OLMo 1, ``full_megatron``, and ``normal`` of OLMo 2.

    Formula, for width d and block l from 0: ``mitchell``: embedding, head, q, k, v and matrices
    into the MLP 1/sqrt(d), attention's output 1/sqrt(2 d (l + 1)), the MLP's output
    1/sqrt(2 fan_in (l + 1)). ``full_megatron``: std, writers std/sqrt(2 L), head 1/sqrt(d).
    ``normal``: std everywhere. All are normals cut at ``cutoff`` sigmas, not compensated.

    Args:
        variant: ``mitchell``, ``full_megatron`` or ``normal``.
        std: ``init_std`` of the last two.
        cutoff: ``init_cutoff_factor``; by default 3 sigmas, and none for ``normal``.

    When to use: ``mitchell`` as OLMo 1 (1B and 7B), ``olmo("normal", cutoff=3)`` as OLMo 2.

    Source: https://github.com/allenai/OLMo/blob/59a53e3/olmo/model.py#L489-L506 (outputs),
    #L713-L726 (inputs), #L1177-L1230 (tables and head); olmo/initialization.py#L8-L22

    Known divergences: the cut at 3 sigmas leaves 0.987 of the std. Attention's output counts the
    width d, not its own fan-in, and the MLP's output its own fan-in. The code's own default is
    ``normal`` without a cut; the default here is that of the shipped OLMo 1 configurations.

    Example:
        >>> olmo("normal", cutoff=3).text
        "olmo(variant='normal', cutoff=3)"
    """
    one_of("olmo", "variant", variant, ("mitchell", "full_megatron", "normal"))
    text = recipe_text(
        "olmo", variant=(variant, "mitchell"), std=(std, 0.02), cutoff=(cutoff, None)
    )
    sigma = std_text(std)
    if variant == "normal":
        flat = f"normal({sigma})" if cutoff is None else truncated(sigma, std_text(cutoff))
        return transformer(text, "OLMo", inputs=flat, embedding=flat)
    cut = std_text(3 if cutoff is None else cutoff)
    if variant == "full_megatron":
        return transformer(
            text,
            "OLMo",
            inputs=truncated(sigma, cut),
            out=truncated(f"{sigma} / sqrt(2 * layers)", cut),
            head=truncated("1 / sqrt(width)", cut),
            embedding=truncated(sigma, cut),
        )
    by_width = truncated("1 / sqrt(width)", cut)
    return transformer(
        text,
        "OLMo",
        inputs=by_width,
        out=truncated("1 / sqrt(2 * fan_in * (block + 1))", cut),
        embedding=by_width,
        others=truncated("1 / sqrt(fan_in)", cut),
        first=(
            Rule(
                truncated("1 / sqrt(2 * width * (block + 1))", cut),
                role="attn_out",
                writes=True,
                reason="OLMo: output of attention.",
            ),
        ),
    )


OLMO_CORE = "https://github.com/allenai/OLMo-core/blob/fa6c501/src/olmo_core/nn"
NGPT = (
    Need(
        "unit rows",
        "every matrix and embedding over its model dimension",
        "once after filling, and after every optimizer step",
        "training code",
        f"{OLMO_CORE}/transformer/model.py#L1059-L1081",
    ),
    Need(
        "attention multiplier",
        "sqrt(head_dim)",
        "scores of normalised queries and keys, in place of 1/sqrt(head_dim)",
        "model code",
        f"{OLMO_CORE}/attention/__init__.py#L840",
    ),
    Need(
        "logit scale",
        "a learned vector over the vocabulary, 1 at the start",
        "the logits (sz)",
        "model code",
        f"{OLMO_CORE}/lm_head.py#L452-L491",
    ),
)


def olmo_core(
    variant: str = "normal",
    std: float = 0.02,
    embedding_std: float | None = None,
    embed_scale: float = 1.0,
) -> Recipe:
    """OLMo-core: ``normal``, ``llama``, ``llama_depth``, ``ngpt`` and ``fan_in``.

    Formula, for width d, L blocks, block l from 0: ``normal``: std everywhere. ``llama``: embedding
    N(0, 1), head 1/sqrt(d), q, k, v and gate std, the other matrices of the block std/sqrt(2 L): up
    and down, attention's output, routers, and all matrices of experts. ``llama_depth``: the same
    with std/sqrt(2 (l + 1)). ``ngpt``: embedding N(0, 1/d), head and inputs 1/sqrt(d), outputs
    1/sqrt(2 L d), experts and routers std. ``fan_in``: embedding N(0, 1 / embed_scale^2), matrices
    1/sqrt(fan_in). All but the embeddings of the last four are normals cut at 3 sigmas, not
    compensated.

    Args:
        variant: one of the five; ``ngpt`` is ``InitMethod.normalized`` there.
        std: ``init_std``.
        embedding_std: ``embedding_init_std`` of ``normal``; ``std`` by default.
        embed_scale: of ``fan_in``: the factor that the model multiplies its embedding by.

    When to use: to reproduce a run of OLMo-core; its own default is ``normal``.

    Source: https://github.com/allenai/OLMo-core/blob/fa6c501/src/olmo_core/nn/transformer/init.py
    #L30-L254; attention/__init__.py#L729-L771; transformer/model.py#L301-L372

    Known divergences: the up matrix (w3) of a gated MLP is scaled as if it wrote to the stream, the
    gate (w1) is not; for experts all three are. A feed-forward without a gate has no w3; here its
    up matrix is drawn as w1. A tied head keeps what the embedding got, N(0, 1) in ``llama``.

    Example:
        >>> olmo_core("llama_depth").text
        "olmo_core(variant='llama_depth')"
    """
    depths = {"llama": "sqrt(2 * layers)", "llama_depth": "sqrt(2 * (block + 1))"}
    one_of("olmo_core", "variant", variant, ("normal", *depths, "ngpt", "fan_in"))
    text = recipe_text(
        "olmo_core",
        variant=(variant, "normal"),
        std=(std, 0.02),
        embedding_std=(embedding_std, None),
        embed_scale=(embed_scale, 1.0),
    )
    sigma = std_text(std)
    flat = truncated(sigma)
    if variant == "normal":
        table = flat if embedding_std is None else truncated(std_text(embedding_std))
        return transformer(text, "OLMo-core", inputs=flat, embedding=table)
    if variant == "fan_in":
        by_fan = truncated("1 / sqrt(fan_in)")
        table = f"normal(1 / {std_text(embed_scale)})"
        return transformer(text, "OLMo-core", inputs=by_fan, embedding=table)
    if variant == "ngpt":
        return transformer(
            text,
            "OLMo-core",
            inputs=truncated("1 / sqrt(width)"),
            out=truncated("1 / sqrt(2 * layers * width)"),
            router=flat,
            embedding="normal(1 / sqrt(width))",
            others=truncated("1 / sqrt(fan_in)"),
            first=(_experts(flat),),
            needs=NGPT,
        )
    deep = truncated(f"{sigma} / {depths[variant]}")
    return transformer(
        text,
        "OLMo-core",
        inputs=flat,
        out=deep,
        head=truncated("1 / sqrt(width)"),
        router=deep,
        embedding="normal(1)",
        first=(
            _experts(deep),
            Rule(
                deep,
                role="mlp_up",
                when=is_gated_up,
                reason="OLMo-core: the up matrix is scaled as the output is.",
            ),
        ),
    )


def _expert_on_stream(view: ParameterView) -> bool:
    return is_expert(view) and on_stream(view)


def _experts(action: str) -> Rule:
    return Rule(
        action,
        role=(*FEED_FORWARD, "mlp_down"),
        when=_expert_on_stream,
        reason="OLMo-core: all matrices of experts alike.",
    )
