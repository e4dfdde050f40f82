"""BERT, and what transformers gives every model that says nothing else."""

from __future__ import annotations

import math

from initium._plan.recipe import Recipe, recipe_text
from initium._plan.rules import Choice, Rule
from initium._plan.torch_defaults import of_torch
from initium._types import ModelView, ParameterView
from initium.recipes._language import ATTENTION, std_text, transformer, truncated
from initium.spec import Uniform

__all__ = ["bert", "hf"]


def bert(std: float = 0.02) -> Recipe:
    """BERT as released: N(0, std^2) cut at two sigmas, for every matrix and table.

    Formula: matrices, heads and all embeddings a normal of std 0.02 cut at two sigmas and not
    compensated, which leaves 0.88 of it; biases 0; norms 1 and 0.

    Args:
        std: ``initializer_range``.

    When to use: post-norm encoders of width about 800 to 1000.

    Source: https://github.com/google-research/bert/blob/eedf571/modeling.py#L375-L377 and its uses;
    run_pretraining.py#L249-L296

    Known divergences: transformers draws a plain normal, so its std is 14 % larger: see ``hf``. It
    also zeroes the row of the padding token, which BERT draws.

    Example:
        >>> bert().text
        'bert'
    """
    drawn = truncated(std_text(std), "2")
    return transformer(recipe_text("bert", std=(std, 0.02)), "BERT", inputs=drawn, embedding=drawn)


def hf(std: float = 0.02) -> Recipe:
    """transformers' default: N(0, std^2) for every matrix and table, no depth rule.

    Formula: matrices, convolutions, embeddings and heads N(0, std^2), padding rows 0; biases 0;
    norms neutral (1, or 0 where the model adds one, as Gemma); an LSTM xavier uniform on the stored
    weight, the packed input of ``nn.MultiheadAttention`` too; GRU and RNN torch's default.

    Args:
        std: ``initializer_range``.

    When to use: to see what ``AutoModel.from_config`` starts from: Llama, Mixtral, Qwen, DeepSeek,
    Gemma, BERT. For GPT-2 its numbers are those of ``nanogpt``.

    Source: https://github.com/huggingface/transformers/blob/main/src/transformers/
    modeling_utils.py, ``PreTrainedModel._init_weights`` (as of 5.23)

    Known divergences: many models override it, for parameters of their own above all. Nothing
    shrinks with depth or width: at width 8000 a std of 0.02 is 1.8 / sqrt(fan_in).

    Example:
        >>> hf(0.006).text
        'hf(std=0.006)'
    """
    drawn = f"normal({std_text(std)})"
    recurrent = ("recurrent_input", "recurrent_hidden")
    return transformer(
        recipe_text("hf", std=(std, 0.02)),
        "transformers",
        inputs=drawn,
        embedding=drawn,
        first=(
            Rule(_as_stored, role=recurrent, when=of_torch("LSTM")),
            Rule("torch", role=recurrent, reason="transformers leaves torch's default."),
            Rule(_as_stored, role=ATTENTION, when=of_torch("MultiheadAttention")),
        ),
    )


def _as_stored(view: ParameterView, model: ModelView) -> Choice:
    """torch's ``xavier_uniform_`` of a parameter as it is stored, fused blocks and all."""
    bound = math.sqrt(6 / sum(view.shape))
    return Choice(Uniform(-bound, bound), "transformers: xavier uniform on the stored weight.")
