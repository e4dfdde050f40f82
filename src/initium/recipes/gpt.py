"""GPT-2 and those who rebuilt it: nanoGPT, nanochat, modded-nanogpt.

Covered: the weights, and the scalars of nanochat where the model has them. Not covered: the banks
in which modded-nanogpt stores its matrices, and the optimizers.
"""

from __future__ import annotations

import numpy as np

from initium._plan.needs import Need
from initium._plan.recipe import Recipe, recipe_text
from initium._plan.rules import Choice, Rule, Scheme, formula
from initium._types import ModelView, ParameterView
from initium.recipes._language import FEED_FORWARD, transformer
from initium.spec import Value

__all__ = ["gpt2", "modded_nanogpt", "nanochat", "nanogpt"]


def gpt2(released: bool = False) -> Recipe:
    """GPT-2 as documented: N(0, 0.02^2), residual writers divided by sqrt(branches on the stream).

    Formula: matrices, embeddings and tokens N(0, 0.02^2); the last matrix of each residual branch
    N(0, 0.02^2 / N) with N branches on its stream; positions N(0, 0.01^2); biases 0; norms 1 and 0.

    Args:
        released: as the released code has it, which is the same without any depth scaling.

    When to use: transformers of width about 600 to 1600, where 0.02 is about 1/sqrt(fan_in).

    Source: Radford et al. 2019, section 2.3 (the factor 1/sqrt(N));
    https://github.com/openai/gpt-2/blob/9b63575/src/model.py#L50-L53 and #L152-L155 (0.02, 0.01)

    Known divergences: the released code scales nothing with depth, but it only loads finished
    weights and trains none, so the paper is the default here. The paper's N counts residual layers,
    read, as in the ports, as 2 per block. Ports draw positions with 0.02: see ``nanogpt``.

    Example:
        >>> gpt2().text, gpt2(released=True).text
        ('gpt2', 'gpt2(released=True)')
    """
    return transformer(
        recipe_text("gpt2", released=(released, False)),
        "GPT-2",
        inputs="normal(0.02)",
        out=None if released else "normal(0.02 / sqrt(branches))",
        embedding="normal(0.02)",
        position="normal(0.01)",
    )


def nanogpt() -> Recipe:
    """nanoGPT: N(0, 0.02^2) everywhere, residual writers divided by sqrt(2 L).

    Formula: matrices, embeddings and positions N(0, 0.02^2); matrices that write to the residual
    stream N(0, 0.02^2 / (2 L)) with L blocks; biases 0; norms 1 and 0.

    When to use: to reproduce nanoGPT, and GPT-2 as transformers initialises it: the same numbers.

    Source: https://github.com/karpathy/nanoGPT/blob/3adf61e/model.py#L140-L168

    Known divergences: positions get 0.02 where GPT-2's own code has 0.01. The depth factor goes by
    the name ``c_proj.weight`` there, so a renamed matrix is silently left unscaled; here it goes by
    what the matrix does. The head is tied to the embedding, which therefore has 0.02.

    Example:
        >>> nanogpt().text
        'nanogpt'
    """
    return transformer(
        "nanogpt",
        "nanoGPT",
        inputs="normal(0.02)",
        out="normal(0.02 / sqrt(2 * layers))",
        embedding="normal(0.02)",
    )


NANOCHAT = "https://github.com/karpathy/nanochat/blob/92d63d4/nanochat/gpt.py"
NANOCHAT_NEEDS = (
    Need(
        "residual multiplier",
        "1.15 - 0.10 l / (L - 1)",
        "x before block l, one learned scalar per block (resid_lambdas)",
        "model code",
        f"{NANOCHAT}#L237-L238",
    ),
    Need(
        "embedding multiplier",
        "0.20 - 0.15 l / (L - 1)",
        "the normalised embedding, added to x before block l (x0_lambdas)",
        "model code",
        f"{NANOCHAT}#L240-L241",
    ),
    Need(
        "embedding norm",
        "RMS norm without a weight",
        "directly behind the token embedding",
        "model code",
        f"{NANOCHAT}#L473",
    ),
    Need(
        "query and key scale",
        1.2,
        "q and k after their RMS norm, besides 1/sqrt(head_dim)",
        "model code",
        f"{NANOCHAT}#L102-L104",
    ),
    Need("logit softcap", 15, "15 tanh(logits / 15)", "model code", f"{NANOCHAT}#L511-L515"),
    Need(
        "optimizer",
        "Muon for matrices, AdamW at (width / 768)^-0.5 for tables and head",
        "parameter groups",
        "optimizer",
        f"{NANOCHAT}#L419-L457",
    ),
)


def nanochat(documented: bool = False) -> Recipe:
    """nanochat: uniform 1/sqrt(d) inputs, zero outputs, a wide embedding and a tiny head.

    Formula: token embedding N(0, 0.8^2); head N(0, 0.001^2); q, k, v and value embeddings uniform
    with std 1/sqrt(d); matrices into the MLP uniform with std 0.4/sqrt(d); matrices that write to
    the residual stream 0; gates of value embeddings and of the smear U(0, 0.02); per-block scalars
    1.15 to 1.05 (residual) and 0.20 to 0.05 (embedding), where the model has them.

    Args:
        documented: as the docstring of its ``init_weights`` has it: embedding N(0, 1), and the MLP
            with std 1/sqrt(d).

    When to use: decoders with RMS norms, QK norm, ReLU^2 and Muon, as nanochat trains them.

    Source: https://github.com/karpathy/nanochat/blob/92d63d4/nanochat/gpt.py#L204-L255

    Known divergences: code and docstring disagree in two numbers; the code is the default. With
    zero outputs every block is the identity at the first step, and the plan's ``needs`` say what
    the forward pass has besides. Scalars and gates are found by nanochat's own names.

    Example:
        >>> nanochat().text
        'nanochat'
    """
    factor = "" if documented else "0.4 * "
    feed_forward = f"uniform(-{factor}sqrt(3 / width), {factor}sqrt(3 / width))"
    attention = "uniform(-sqrt(3 / width), sqrt(3 / width))"
    named = (
        ("*value_embeds.*", attention, "value embeddings, as its values."),
        ("*ve_gate.weight", "uniform(0, 0.02)", "a gate slightly above neutral."),
        ("*smear_gate.weight", "uniform(0, 0.02)", "a gate slightly above neutral."),
        ("*smear_lambda", "constant(0)", "the smear starts closed."),
        ("*backout_lambda", "constant(0.2)", "how much of the middle layer is taken back."),
    )
    return transformer(
        recipe_text("nanochat", documented=(documented, False)),
        "nanochat",
        inputs=attention,
        out="constant(0)",
        head="normal(0.001)",
        embedding="normal(1)" if documented else "normal(0.8)",
        position="normal(0.02)",
        others="uniform(-sqrt(3 / fan_in), sqrt(3 / fan_in))",
        first=(
            Rule(_ramp(1.15, 1.05), name="*resid_lambdas", reason="nanochat: 1.15 down to 1.05."),
            Rule(_ramp(0.20, 0.05), name="*x0_lambdas", reason="nanochat: 0.20 down to 0.05."),
            *(Rule(act, name=name, reason=f"nanochat: {why}") for name, act, why in named),
            Rule(feed_forward, role=FEED_FORWARD, writes=False, reason="nanochat: into the MLP."),
        ),
        needs=NANOCHAT_NEEDS,
    )


def _ramp(start: float, stop: float) -> Scheme:
    @formula(f"from {start:g} to {stop:g} over the blocks")
    def scheme(view: ParameterView, model: ModelView) -> Choice:
        values = np.linspace(start, stop, view.numel).reshape(view.shape)
        return Choice(Value.of(values, view.dtype), f"From {start} to {stop} over the blocks.")

    return scheme


MODDED = "https://github.com/KellerJordan/modded-nanogpt/blob/f411b3d/train_gpt.py"


def modded_nanogpt() -> Recipe:
    """modded-nanogpt (record of August 2026): half-size uniform matrices, zero MLP outputs.

    Formula: q, k, v, attention's output and matrices into the MLP uniform with std 0.5/sqrt(d); the
    MLP's output 0; head N(0, 0.005^2); token embedding the same N(0, 0.005^2), as it starts as a
    copy of the head; value embeddings N(0, 0.01^2); gates 0.

    When to use: to reproduce the speedrun's start, with Muon and its forward pass.

    Source: https://github.com/KellerJordan/modded-nanogpt/blob/f411b3d/train_gpt.py#L1225-L1345

    Known divergences: embedding and head start equal and are trained apart; a plan draws them
    independently unless the model ties them, so the copy is a need. Only the MLP's output is zero,
    attention's is not. Its matrices lie in banks over layers; here each is a matrix of its own.

    Example:
        >>> modded_nanogpt().text
        'modded_nanogpt'
    """
    half = "uniform(-0.5 * sqrt(3 / width), 0.5 * sqrt(3 / width))"
    return transformer(
        "modded_nanogpt",
        "modded-nanogpt",
        inputs=half,
        head="normal(0.005)",
        embedding="normal(0.005)",
        position="normal(0.02)",
        others="uniform(-0.5 * sqrt(3 / fan_in), 0.5 * sqrt(3 / fan_in))",
        first=(
            Rule("normal(0.01)", name="*value_embeds*", reason="modded-nanogpt: value embeddings."),
            Rule("constant(0)", name="*smear_gate*", reason="modded-nanogpt: gates start at 0."),
            Rule("constant(0)", name="*ve_gate*", reason="modded-nanogpt: gates start at 0."),
            Rule("constant(0)", role="mlp_down", reason="modded-nanogpt: output of the MLP."),
        ),
        needs=(
            Need(
                "initial copy",
                "embedding = transpose of the head",
                "after filling, where the two are not tied",
                "training code",
                f"{MODDED}#L1228-L1231",
            ),
            Need(
                "residual multiplier",
                "sqrt(1.1)",
                "x before every branch, one learned scalar each (resid_lambdas)",
                "model code",
                f"{MODDED}#L1336-L1338",
            ),
            Need(
                "logit softcap",
                "23 sigmoid((logits + 5) / 7.5)",
                "the logits",
                "model code",
                f"{MODDED}#L1683-L1690",
            ),
        ),
    )
