"""The recipes: which scheme each role of parameter gets, under one name.

``initium.plan(model, "he")`` is ``initium.plan(model, initium.recipes.he())``. A recipe covers
every role, so that a plan never lacks a parameter; where a published scheme says nothing of one,
the reason in the plan says so. Each recipe works on the *logical* matrices of a parameter: the
blocks of a fused weight, the experts of a stack, the groups of a convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from initium._plan.recipe import Recipe
from initium.recipes.bert import bert, hf
from initium.recipes.depth import deepnorm, subln, t_fixup
from initium.recipes.derived import auto
from initium.recipes.foundry import llm_foundry
from initium.recipes.frameworks import gpt_neox, litgpt, megatron, nanotron
from initium.recipes.general import he, lecun, normal, orthogonal, torch, xavier, zeros
from initium.recipes.gpt import gpt2, modded_nanogpt, nanochat, nanogpt
from initium.recipes.lora import lora, lora_gaussian, lora_orthogonal
from initium.recipes.mup import completep, mup
from initium.recipes.olmo import olmo, olmo_core
from initium.recipes.research import (
    delta_orthogonal,
    irnn,
    looks_linear,
    mimetic,
    rezero,
    skipinit,
    zero_hadamard,
)
from initium.recipes.resnet import convnext, fixup, resnet
from initium.recipes.spectral import spectral_mup
from initium.recipes.ssm import mamba, mamba2, rwkv
from initium.recipes.t5 import maxtext, palm, t5, t5_hf
from initium.recipes.torchtitan import torchtitan_deepseek, torchtitan_llama3
from initium.recipes.vision import dit, mae, vit

__all__ = [
    "RECIPES",
    "auto",
    "bert",
    "completep",
    "convnext",
    "deepnorm",
    "delta_orthogonal",
    "dit",
    "fixup",
    "gpt2",
    "gpt_neox",
    "he",
    "hf",
    "irnn",
    "lecun",
    "litgpt",
    "llm_foundry",
    "looks_linear",
    "lora",
    "lora_gaussian",
    "lora_orthogonal",
    "mae",
    "mamba",
    "mamba2",
    "maxtext",
    "megatron",
    "mimetic",
    "modded_nanogpt",
    "mup",
    "nanochat",
    "nanogpt",
    "nanotron",
    "normal",
    "olmo",
    "olmo_core",
    "orthogonal",
    "palm",
    "resnet",
    "rezero",
    "rwkv",
    "skipinit",
    "spectral_mup",
    "subln",
    "t5",
    "t5_hf",
    "t_fixup",
    "torch",
    "torchtitan_deepseek",
    "torchtitan_llama3",
    "vit",
    "xavier",
    "zero_hadamard",
    "zeros",
]

RECIPES: Mapping[str, Callable[..., Recipe]] = {
    recipe.__name__: recipe
    for recipe in (
        *(auto, torch, xavier, he, lecun, orthogonal, zeros, normal),
        *(gpt2, nanogpt, nanochat, modded_nanogpt),
        *(gpt_neox, megatron, litgpt, nanotron, llm_foundry),
        *(olmo, olmo_core, torchtitan_llama3, torchtitan_deepseek),
        *(t5, t5_hf, palm, maxtext, bert, hf),
        *(vit, mae, dit, resnet, convnext, fixup),
        *(t_fixup, deepnorm, subln, mup, completep, spectral_mup),
        *(mamba, mamba2, rwkv, lora, lora_gaussian, lora_orthogonal),
        *(zero_hadamard, mimetic, rezero, skipinit, irnn, looks_linear, delta_orthogonal),
    )
}
"""The recipes by name, for their text form."""
