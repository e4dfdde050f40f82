"""torchtitan's Llama 3 and DeepSeek-V3.

Covered: the two families with a wide embedding and writers scaled by the block's own number. Not
covered: its Qwen3 (plain 0.02, experts over sqrt(2 L)), GPT-OSS (every matrix scaled) and Flux.
"""

from __future__ import annotations

from initium._plan.recipe import Recipe
from initium._plan.rules import Rule
from initium.recipes._language import is_gated_up, transformer, truncated

__all__ = ["torchtitan_deepseek", "torchtitan_llama3"]

DEEP = "0.02 / sqrt(2 * (block + 1))"


def torchtitan_llama3() -> Recipe:
    """torchtitan's Llama 3: N(0, 1) embedding, writers and the up matrix over sqrt(2 (l + 1)).

    Formula, for width d and block l from 0: embedding N(0, 1); q, k, v and gate 0.02; attention's
    output, down and up 0.02/sqrt(2 (l + 1)); head 1/sqrt(d) cut at 3 sigmas; biases 0; norms 1.

    When to use: to reproduce torchtitan's Llama 3.

    Source: https://github.com/pytorch/torchtitan/blob/b5bcd76/torchtitan/models/llama3/__init__.py
    #L45-L106 and #L159-L163; models/common/param_init.py#L28-L30, config_utils.py#L285-L306

    Known divergences: ``trunc_normal_`` cuts at an absolute +-2 by default, which is 100 sigmas of
    0.02 and no cut at all. The up matrix (w3) is scaled as if it wrote to the stream. In the models
    that tie them, the embedding is not drawn and has the head's 1/sqrt(d).

    Example:
        >>> torchtitan_llama3().text
        'torchtitan_llama3'
    """
    return _titan("torchtitan_llama3", "torchtitan Llama 3", router=None)


def torchtitan_deepseek() -> Recipe:
    """torchtitan's DeepSeek-V3: its Llama 3 with routers scaled as the writers.

    Formula, for width d and block l from 0: embedding N(0, 1); every projection of latent attention
    0.02; gate 0.02; attention's output, up, down and router 0.02/sqrt(2 (l + 1)), in dense blocks,
    shared and routed experts alike; head 1/sqrt(d) cut at 3 sigmas; biases 0; norms 1.

    When to use: mixtures of experts, to reproduce torchtitan's.

    Source: https://github.com/pytorch/torchtitan/blob/b5bcd76/torchtitan/models/deepseek_v3/
    __init__.py#L52-L81 and #L107-L262

    Known divergences: those of ``torchtitan_llama3``. The DeepSeek-V3 report itself has N(0, 0.006)
    for everything (arXiv:2412.19437, section 4.2): ``normal(0.006)``.

    Example:
        >>> torchtitan_deepseek().text
        'torchtitan_deepseek'
    """
    return _titan("torchtitan_deepseek", "torchtitan DeepSeek-V3", router=_absolute(DEEP))


def _titan(text: str, source: str, router: str | None) -> Recipe:
    head = truncated("1 / sqrt(width)")
    return transformer(
        text,
        source,
        inputs=_absolute("0.02"),
        out=_absolute(DEEP),
        head=head,
        router=router,
        embedding="normal(1)",
        first=(
            Rule(
                head,
                role=("embedding", "head"),
                tied=True,
                reason=f"{source}: a tied embedding is drawn as the head.",
            ),
            Rule(
                _absolute(DEEP),
                role="mlp_up",
                when=is_gated_up,
                reason=f"{source}: the up matrix is scaled as the output is.",
            ),
        ),
    )


def _absolute(std: str) -> str:
    """A normal of this std cut at -2 and 2, the defaults of torch's ``trunc_normal_``."""
    return truncated(std, f"2 / ({std})")
