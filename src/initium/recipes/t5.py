"""T5 and the JAX line: Mesh-TensorFlow, t5x, transformers' T5, PaLM and MaxText.

Their common rules: unit embeddings, kernels N(0, 1 / fan_in), no depth scaling, and attention whose
1/sqrt(head_dim) sits in the query's weights. Not covered: Mesh-TensorFlow's unit scaling and its
mixture-of-experts layers.
"""

from __future__ import annotations

import math

from initium._plan.layout import per_matrix
from initium._plan.needs import Need
from initium._plan.recipe import Recipe, recipe_text
from initium._plan.rules import Choice, Rule
from initium._scheme import schemes
from initium._types import ModelView, ParameterView
from initium.recipes._language import FEED_FORWARD, is_expert, one_of, transformer, truncated
from initium.spec import Normal, Uniform

__all__ = ["maxtext", "palm", "t5", "t5_hf"]

BY_FAN = "normal(1 / sqrt(fan_in))"
COMPENSATED = "truncated_normal(1 / sqrt(fan_in))"


def _unscaled(source: str) -> Need:
    return Need(
        "attention multiplier",
        1,
        "scores of every attention: no 1/sqrt(head_dim), which the queries' weights hold",
        "model code",
        source,
    )


def _knows_heads(view: ParameterView) -> bool:
    return view.head_dim is not None


def _queries(source: str) -> tuple[Rule, ...]:
    """1/sqrt(fan_in head_dim) for queries, as far as the width of a head is known."""
    return (
        Rule(
            "normal(1 / sqrt(fan_in * head_dim))",
            role="attn_q",
            when=_knows_heads,
            reason=f"{source}: queries hold the 1/sqrt(head_dim) of attention.",
        ),
        Rule(
            BY_FAN,
            role="attn_q",
            reason=f"{source}: queries, without 1/sqrt(head_dim): its heads were not seen.",
        ),
    )


def _tied_logits(where: str, source: str) -> Need:
    return Need("logit multiplier", "1 / sqrt(width)", where, "model code", source)


T5X = "https://github.com/google-research/t5x/blob/cc342d4/t5x/examples/t5"
MESH = "https://github.com/tensorflow/mesh/blob/da90793/mesh_tensorflow"


def t5(version: str = "t5x") -> Recipe:
    """T5: unit embeddings, fan-in kernels, queries smaller by sqrt(head_dim).

    Formula: embedding N(0, 1); q N(0, 1 / (d head_dim)); k, v N(0, 1 / d); attention's output
    N(0, 1 / (heads head_dim)); matrices of the MLP and an untied head truncated normals at two
    sigmas of 1/sqrt(fan_in); relative position biases uniform with variance 2 / (heads + buckets);
    norms 1.

    Args:
        version: ``t5x`` compensates the truncation, so that the std is 1/sqrt(fan_in); ``mesh``,
            the code that trained T5, does not, so that it is 0.88/sqrt(fan_in).

    When to use: encoder-decoders without biases, whose attention has no 1/sqrt(head_dim).

    Source: https://github.com/google-research/t5x/blob/cc342d4/t5x/examples/t5/layers.py#L155-L215,
    #L376-L379, #L448-L451, network.py#L192-L204, #L279-L309;
    https://github.com/tensorflow/mesh/blob/da90793/mesh_tensorflow/transformer/attention.py
    #L428-L479, layers.py#L310-L369, #L2049-L2066

    Known divergences: a model that does divide its scores by sqrt(head_dim) divides twice with this
    recipe; the plan's ``needs`` say so. A tied head needs its logits over sqrt(d).

    Example:
        >>> t5("mesh").text
        "t5(version='mesh')"
    """
    one_of("t5", "version", version, ("t5x", "mesh"))
    kernel = COMPENSATED if version == "t5x" else truncated("1 / sqrt(fan_in)", "2")
    return transformer(
        recipe_text("t5", version=(version, "t5x")),
        "T5",
        inputs=BY_FAN,
        out=BY_FAN,
        head=kernel,
        embedding="normal(1)",
        position=_positions,
        others=kernel,
        first=(
            *_queries("T5"),
            Rule(kernel, role=(*FEED_FORWARD, "mlp_down", "router"), reason="T5: kernels."),
        ),
        needs=(
            _unscaled(
                f"{T5X}/layers.py#L207-L211"
                if version == "t5x"
                else f"{MESH}/transformer/attention.py#L436-L439"
            ),
            _tied_logits("the logits of a tied head", f"{T5X}/network.py#L280-L284"),
        ),
    )


def _positions(view: ParameterView, model: ModelView) -> Choice:
    """Relative biases per head and distance, unless the table is as wide as an embedding."""
    widths = {table.shape[-1] for table in model.owners if table.role == "embedding"}
    if view.shape[-1] in widths:
        return Choice(Normal(1.0), "T5: learned positions are drawn as embeddings.")
    bound = math.sqrt(6 / sum(view.shape))
    return Choice(Uniform(-bound, bound), "T5: relative biases, uniform by the mean of both sizes.")


HF = (
    "https://github.com/huggingface/transformers/blob/main/src/transformers/models/t5/"
    "modeling_t5.py"
)


def t5_hf(factor: float = 1.0) -> Recipe:
    """T5 as transformers initialises it: plain normals, and N(0, 1) for an untied head.

    Formula, times ``factor``: embedding and untied head N(0, 1); q N(0, 1 / (d head_dim)); k, v,
    matrices into the MLP and relative position biases N(0, 1 / d); attention's output and the MLP's
    N(0, 1 / fan_in); norms ``factor``.

    Args:
        factor: ``initializer_factor``.

    When to use: to see what ``T5ForConditionalGeneration(config)`` starts from.

    Source: https://github.com/huggingface/transformers/blob/main/src/transformers/models/t5/
    modeling_t5.py, ``T5PreTrainedModel._init_weights`` (as of 5.23)

    Known divergences: with an untied head of unit rows the first cross-entropy is far above ln V,
    near 100 (transformers#26441); t5x draws it with 1/sqrt(d). Relative biases are normal and
    small here, uniform there.

    Example:
        >>> t5_hf().text
        't5_hf'
    """
    scale = f"{factor!r} * " if factor != 1.0 else ""
    by_fan = f"normal({scale}1 / sqrt(fan_in))"
    return transformer(
        recipe_text("t5_hf", factor=(factor, 1.0)),
        "transformers T5",
        inputs=by_fan,
        head=f"normal({factor!r})",
        embedding=f"normal({factor!r})",
        position=f"normal({scale}1 / sqrt(width))",
        first=(
            Rule(f"constant({factor!r})", role="norm_scale", reason="transformers T5: norms."),
            *_queries("transformers T5"),
        ),
        needs=(_unscaled(f"{HF}, T5Attention"),),
    )


def palm() -> Recipe:
    """PaLM as documented: kernels N(0, 1 / fan_in), embedding N(0, 1), logits over sqrt(d).

    Formula: every matrix N(0, 1 / fan_in); embedding N(0, 1); norms 1; no biases.

    When to use: parallel decoders with a tied head.

    Source: Chowdhery et al. 2022, arXiv:2204.02311, section 5, "Weight initialization"

    Known divergences: the paper writes N(0, 1/sqrt(n_in)), read here as the std. PaLM's code is not
    public.

    Example:
        >>> palm().text
        'palm'
    """
    return transformer(
        "palm",
        "PaLM",
        inputs=BY_FAN,
        embedding="normal(1)",
        needs=(_tied_logits("the logits of the tied head", "arXiv:2204.02311, section 5"),),
    )


MAXTEXT = "https://github.com/AI-Hypercomputer/maxtext/blob/e591f30/src/maxtext"


def maxtext(documented: bool = False, qk_norm: bool = False) -> Recipe:
    """MaxText: fan-in kernels, unit embeddings, queries smaller by sqrt(head_dim).

    Formula: embedding and positions N(0, 1); q N(0, 1 / (d head_dim)); k, v and attention's output
    N(0, 1 / fan_in); matrices of the MLP, routers and an untied head truncated normals at two
    sigmas of achieved std 1/sqrt(fan_in); stacked experts the same with E fan_out for fan_in, for E
    experts; biases 0; norms 1.

    Args:
        documented: experts by their own fan_in, as ``nd_dense_init(1.0, "fan_in", ...)`` says.
        qk_norm: with norms on queries and keys MaxText does not fold 1/sqrt(head_dim) into q.

    When to use: to reproduce MaxText's Llama, Mistral, Mixtral and Gemma configurations.

    Source: https://github.com/AI-Hypercomputer/maxtext/blob/e591f30/src/maxtext/layers/
    attentions.py#L660-L692, linears.py#L125-L190, moe.py#L542-L605, models/models.py#L77-L86

    Known divergences: experts of shape (E, in, out) are drawn with axis 0 as fan-in and axis 1 as
    fan-out, so that JAX counts E out as the fan-in: sqrt(in / (E out)) of the std intended. Latent
    attention's queries are not divided there. No depth scaling.

    Example:
        >>> maxtext().text
        'maxtext'
    """
    experts = Rule(_experts, role=(*FEED_FORWARD, "mlp_down"), when=is_expert)
    return transformer(
        recipe_text("maxtext", documented=(documented, False), qk_norm=(qk_norm, False)),
        "MaxText",
        inputs=BY_FAN,
        out=BY_FAN,
        head=COMPENSATED,
        router=COMPENSATED,
        embedding="normal(1)",
        others=COMPENSATED,
        first=(
            *(() if documented else (experts,)),
            *(() if qk_norm else _queries("MaxText")),
            Rule(COMPENSATED, role=(*FEED_FORWARD, "mlp_down"), reason="MaxText: kernels."),
        ),
        needs=(
            *(() if qk_norm else (_unscaled(f"{MAXTEXT}/layers/attentions.py#L663-L677"),)),
            _tied_logits("the logits of a tied head", f"{MAXTEXT}/layers/decoders.py#L823-L825"),
        ),
    )


def _experts(view: ParameterView, model: ModelView) -> Choice:
    """A stack of experts by the fan-in that JAX takes from axis 0: experts times outputs."""
    count = next(block.count for block in view.blocks if block.stacked)
    spec = per_matrix(
        view, lambda matrix: schemes.lecun(count * matrix.fan_out, distribution="truncated")
    )
    return Choice(spec, f"MaxText: JAX takes {count} experts times the outputs for the fan-in.")
