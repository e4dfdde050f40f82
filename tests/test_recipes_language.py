"""Recipes of language models against their sources' formulas, written out here with plain numbers.

The models are small ones of transformers in which all sizes differ, so that a wrong fan, width or
depth shows. Where a recipe is that of a library's own model, the numbers are also compared with
what that library draws.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from functools import cache
from math import sqrt

import numpy as np
import pytest
import scipy.stats
import torch
from views import model, parameter, tiny_gpt

import initium
from initium import recipes
from initium._load.optional import import_optional
from initium._plan import Plan, parse_recipe, plan_model
from initium._types import ROLES, Axes, Block, ModelView
from initium.errors import RecipeError
from initium.spec import Blocks, Constant, Keep, Normal, TruncatedNormal, Uniform, Value

D, H, V, L = 192, 448, 776, 3
"""Width, hidden width, vocabulary and blocks of every small model below."""

LLAMA = {
    "vocab_size": V,
    "hidden_size": D,
    "intermediate_size": H,
    "num_hidden_layers": L,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 80,
}
EXPERTS = {
    "vocab_size": V,
    "hidden_size": D,
    "intermediate_size": H,
    "moe_intermediate_size": 288,
    "num_hidden_layers": L,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "q_lora_rank": 112,
    "kv_lora_rank": 96,
    "qk_nope_head_dim": 40,
    "qk_rope_head_dim": 24,
    "v_head_dim": 72,
    "first_k_dense_replace": 1,
}
T5 = {"vocab_size": V, "d_model": D, "d_kv": 80, "d_ff": H, "num_layers": 2, "num_heads": 4}
GPT2 = {
    "vocab_size": V,
    "n_positions": 500,
    "n_embd": D,
    "n_layer": L,
    "n_head": 2,
    "n_inner": H,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
BERT = {
    "vocab_size": V,
    "hidden_size": D,
    "num_hidden_layers": L,
    "num_attention_heads": 4,
    "intermediate_size": H,
    "max_position_embeddings": 500,
}
MODELS = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "neox": (
        "GPTNeoXForCausalLM",
        "GPTNeoXConfig",
        {key: BERT[key] for key in BERT if key != "max_position_embeddings"},
    ),
    "llama": ("LlamaForCausalLM", "LlamaConfig", LLAMA),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", LLAMA),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {**LLAMA, "num_local_experts": 5}),
    "deepseek": ("DeepseekV3ForCausalLM", "DeepseekV3Config", EXPERTS),
    "t5": ("T5ForConditionalGeneration", "T5Config", T5),
    "t5_untied": (
        "T5ForConditionalGeneration",
        "T5Config",
        {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "bert": ("BertForMaskedLM", "BertConfig", BERT),
}


@cache
def built(name: str) -> torch.nn.Module:
    transformers = import_optional("transformers")
    kind, config, sizes = MODELS[name]
    torch.manual_seed(0)
    return getattr(transformers, kind)(getattr(transformers, config)(**sizes))


@cache
def view(name: str) -> ModelView:
    return initium.inspect(built(name))


@cache
def planned(recipe: str, name: str) -> Plan:
    return plan_model(view(name), recipe)


# What a source's formula says ---------------------------------------------------------------------


def normal(std):
    return ("normal", std, None)


def uniform(std):
    return ("uniform", std, None)


def cut(std, sigmas=3.0):
    """A normal of this std, cut at so many sigmas and not compensated."""
    return ("cut", std, sigmas)


def to_fan(std):
    """A normal cut at two sigmas whose achieved std is this one, as JAX draws it."""
    return ("compensated", std, 2.0)


ZERO = ("zero", 0.0, None)


def assert_is(spec, expected, where):
    family, std, sigmas = expected
    shape = (100, 100)
    if family == "zero":
        assert spec == Constant(0.0), where
        return
    kind = {"normal": Normal, "uniform": Uniform}.get(family, TruncatedNormal)
    assert isinstance(spec, kind), where
    assert spec.moments(shape).mean == pytest.approx(0.0, abs=1e-12), where
    if family == "normal":
        assert spec.std == pytest.approx(std, rel=1e-6), where
    elif family == "uniform":
        assert (spec.low, spec.high) == pytest.approx((-sqrt(3) * std, sqrt(3) * std)), where
    else:
        law = scipy.stats.truncnorm(-sigmas, sigmas)
        parent = std / law.std() if family == "compensated" else std
        assert spec.bounds == pytest.approx((-sigmas * parent, sigmas * parent)), where
        assert spec.moments(shape).std == pytest.approx(parent * law.std(), rel=1e-5), where


def check(recipe: str, name: str, table: dict) -> None:
    """Every weight of two or more dimensions is in the table, and as it says.

    A pattern's value is one expectation, a list of them for the blocks of a fused weight, or a
    function of the block's number l, from 0.
    """
    plan = planned(recipe, name)
    for weight in view(name).owners:
        if len(weight.shape) < 2:
            continue
        matching = [pattern for pattern in table if fnmatchcase(weight.name, pattern)]
        assert len(matching) == 1, f"{weight.name}: {matching}"
        expected = table[matching[0]]
        if callable(expected):
            expected = expected(int(re.search(r"\.(\d+)\.", weight.name).group(1)))
        spec = plan.entries[weight.name].spec
        if weight.padding_row is not None and isinstance(spec, Blocks):
            assert [part.spec for part in spec.parts if part.size == 1] == [Constant(0.0)]
            spec = next(part.spec for part in spec.parts if part.size > 1)
        found = [part.spec for part in spec.parts] if isinstance(spec, Blocks) else [spec]
        wanted = expected if isinstance(expected, list) else [expected]
        assert len(found) == len(wanted), weight.name
        for one, other in zip(found, wanted, strict=True):
            assert_is(one, other, weight.name)


def llama(embedding, q, kv, o, gate, up, down, head) -> dict:
    return {
        "model.embed_tokens.weight": embedding,
        "*.q_proj.weight": q,
        "*.[kv]_proj.weight": kv,
        "*.o_proj.weight": o,
        "*.gate_proj.weight": gate,
        "*.up_proj.weight": up,
        "*.down_proj.weight": down,
        "lm_head.weight": head,
    }


def mixtral(embedding, q, kv, o, gate_up, down, router, head) -> dict:
    return {
        "model.embed_tokens.weight": embedding,
        "*.q_proj.weight": q,
        "*.[kv]_proj.weight": kv,
        "*.o_proj.weight": o,
        "*.gate_up_proj": gate_up,
        "*.experts.down_proj": down,
        "*.mlp.gate.weight": router,
        "lm_head.weight": head,
    }


def gpt(wte, wpe, qkv, o, up, down) -> dict:
    return {
        "transformer.wte.weight": wte,
        "transformer.wpe.weight": wpe,
        "*.c_attn.weight": qkv,
        "*.attn.c_proj.weight": o,
        "*.c_fc.weight": up,
        "*.mlp.c_proj.weight": down,
    }


def neox(every, out) -> dict:
    return {
        "gpt_neox.embed_in.weight": every,
        "*.query_key_value.weight": every,
        "*.attention.dense.weight": out,
        "*.dense_h_to_4h.weight": every,
        "*.dense_4h_to_h.weight": out,
        "lm_head.weight": every,
    }


def t5(embedding, q, kv, o, wi, wo, bias, head=None) -> dict:
    return {
        "shared.weight": embedding,
        "*Attention.q.weight": q,
        "*Attention.[kv].weight": kv,
        "*Attention.o.weight": o,
        "*.relative_attention_bias.weight": bias,
        "*.DenseReluDense.wi*.weight": wi,
        "*.DenseReluDense.wo.weight": wo,
        "lm_head.weight": head,
    }


SMALL = normal(sqrt(2 / (5 * 192)))
WANG = normal(2 / (3 * sqrt(192)))
N02 = normal(0.02)
SCALED = normal(0.02 / sqrt(2 * 3))
BY_WIDTH = uniform(1 / sqrt(192))
CUT_02 = cut(0.02)


def absolute(std):
    """``trunc_normal_`` with its default bounds, which are not in sigmas."""
    return cut(std, 2 / std)


TITAN_DEEP = lambda block: absolute(0.02 / sqrt(2 * (block + 1)))  # noqa: E731
CORE_DEEP = lambda block: cut(0.02 / sqrt(2 * (block + 1)))  # noqa: E731
CUT_BY_WIDTH = cut(1 / sqrt(192))

CASES = [
    # openai/gpt-2 src/model.py, and section 2.3 of the paper
    ("gpt2", "gpt2", gpt(N02, normal(0.01), N02, SCALED, N02, SCALED)),
    ("gpt2(released=True)", "gpt2", gpt(N02, normal(0.01), N02, N02, N02, N02)),
    # karpathy/nanoGPT model.py
    ("nanogpt", "gpt2", gpt(N02, N02, N02, SCALED, N02, SCALED)),
    ("nanogpt", "mixtral", mixtral(N02, N02, N02, SCALED, N02, SCALED, N02, N02)),
    # karpathy/nanochat gpt.py
    (
        "nanochat",
        "llama",
        llama(
            normal(0.8),
            BY_WIDTH,
            BY_WIDTH,
            ZERO,
            uniform(0.4 / sqrt(192)),
            uniform(0.4 / sqrt(192)),
            ZERO,
            normal(0.001),
        ),
    ),
    (
        "nanochat(documented=True)",
        "llama",
        llama(normal(1.0), BY_WIDTH, BY_WIDTH, ZERO, BY_WIDTH, BY_WIDTH, ZERO, normal(0.001)),
    ),
    # KellerJordan/modded-nanogpt train_gpt.py
    (
        "modded_nanogpt",
        "llama",
        llama(
            normal(0.005),
            uniform(0.5 / sqrt(192)),
            uniform(0.5 / sqrt(192)),
            uniform(0.5 / sqrt(192)),
            uniform(0.5 / sqrt(192)),
            uniform(0.5 / sqrt(192)),
            ZERO,
            normal(0.005),
        ),
    ),
    # EleutherAI/gpt-neox init_functions.py
    ("gpt_neox", "neox", neox(SMALL, WANG)),
    ("gpt_neox(normal, scaled_normal, 0.04)", "neox", neox(normal(0.04), normal(0.04 / sqrt(6)))),
    (
        "gpt_neox(normal, single_residual_scaled_normal)",
        "neox",
        neox(N02, normal(0.02 / sqrt(3))),
    ),
    # NVIDIA/Megatron-LM core/utils.py, transformer_config.py
    ("megatron", "llama", llama(N02, N02, N02, SCALED, N02, N02, SCALED, N02)),
    (
        "megatron(0.01, embedding_std=1)",
        "mixtral",
        mixtral(
            normal(1.0),
            normal(0.01),
            normal(0.01),
            normal(0.01 / sqrt(6)),
            normal(0.01),
            normal(0.01 / sqrt(6)),
            normal(0.01),
            normal(0.01),
        ),
    ),
    (
        "megatron(base_width=64)",
        "llama",
        llama(
            N02,
            normal(0.02 / sqrt(3)),
            normal(0.02 / sqrt(3)),
            normal(0.02 / sqrt(2 * 3 * 3)),
            normal(0.02 / sqrt(3)),
            normal(0.02 / sqrt(3)),
            normal(0.02 / sqrt(2 * 3 * 3)),
            N02,
        ),
    ),
    # Lightning-AI/litgpt pretrain.py
    (
        "litgpt",
        "llama",
        llama(
            SMALL,
            SMALL,
            SMALL,
            normal(1 / (3 * sqrt(192))),
            SMALL,
            SMALL,
            normal(1 / (3 * sqrt(192))),
            SMALL,
        ),
    ),
    # huggingface/nanotron scaling/parametrization.py
    (
        "nanotron",
        "llama",
        llama(
            normal(0.025),
            normal(0.025),
            normal(0.025),
            normal(0.025 / sqrt(6)),
            normal(0.025),
            normal(0.025),
            normal(0.025 / sqrt(6)),
            normal(0.025),
        ),
    ),
    (
        "nanotron(spectral)",
        "llama",
        llama(
            normal(1.0),
            normal(1 / sqrt(192)),
            normal(sqrt(160 / 192) / sqrt(192)),
            normal(sqrt(192 / 320) / sqrt(320)),
            normal(1 / sqrt(192)),
            normal(1 / sqrt(192)),
            normal(sqrt(192 / 448) / sqrt(448)),
            normal(1 / sqrt(192)),
        ),
    ),
    (
        "nanotron(spectral)",
        "gpt2",
        gpt(
            normal(1.0),
            normal(1.0),
            normal(1 / sqrt(192)),
            normal(1 / sqrt(192)),
            normal(1 / sqrt(192)),
            normal(sqrt(192 / 448) / sqrt(448)),
        ),
    ),
    # mosaicml/llm-foundry param_init_fns.py
    (
        "llm_foundry",
        "gpt2",
        gpt(
            normal(sqrt(2 / 192)),
            normal(sqrt(2 / 192)),
            normal(sqrt(2 / 192)),
            normal(sqrt(2 / 192) / sqrt(6)),
            normal(sqrt(2 / 192)),
            normal(sqrt(2 / 448) / sqrt(6)),
        ),
    ),
    (
        "llm_foundry(kaiming_uniform, div=False, embedding_std=0.5)",
        "gpt2",
        gpt(
            normal(0.5),
            normal(0.5),
            uniform(sqrt(2 / 192)),
            uniform(sqrt(2 / 192)),
            uniform(sqrt(2 / 192)),
            uniform(sqrt(2 / 448)),
        ),
    ),
    (
        "llm_foundry(baseline, std=0.03, div=5)",
        "gpt2",
        gpt(
            normal(0.03),
            normal(0.03),
            normal(0.03),
            normal(0.03 / 5),
            normal(0.03),
            normal(0.03 / 5),
        ),
    ),
    (
        "llm_foundry(neox_init)",
        "gpt2",
        gpt(
            SMALL,
            SMALL,
            SMALL,
            normal(sqrt(2 / (5 * 192)) * sqrt(10) / 3),
            SMALL,
            normal(sqrt(2 / (5 * 192)) * sqrt(10) / 3),
        ),
    ),
    (
        "llm_foundry(xavier_uniform)",
        "gpt2",
        gpt(
            uniform(sqrt(2 / (192 + 776))),
            uniform(sqrt(2 / (192 + 500))),
            uniform(sqrt(2 / (192 + 192))),
            uniform(sqrt(2 / (192 + 192)) / sqrt(6)),
            uniform(sqrt(2 / (192 + 448))),
            uniform(sqrt(2 / (192 + 448)) / sqrt(6)),
        ),
    ),
    # allenai/OLMo olmo/model.py
    (
        "olmo",
        "llama",
        llama(
            CUT_BY_WIDTH,
            CUT_BY_WIDTH,
            CUT_BY_WIDTH,
            lambda block: cut(1 / sqrt(2 * 192 * (block + 1))),
            CUT_BY_WIDTH,
            CUT_BY_WIDTH,
            lambda block: cut(1 / sqrt(2 * 448 * (block + 1))),
            CUT_BY_WIDTH,
        ),
    ),
    (
        "olmo(full_megatron)",
        "llama",
        llama(
            CUT_02,
            CUT_02,
            CUT_02,
            cut(0.02 / sqrt(6)),
            CUT_02,
            CUT_02,
            cut(0.02 / sqrt(6)),
            CUT_BY_WIDTH,
        ),
    ),
    ("olmo(normal)", "llama", llama(*[N02] * 8)),
    ("olmo(normal, cutoff=2)", "llama", llama(*[cut(0.02, 2.0)] * 8)),
    # allenai/OLMo-core nn/transformer/init.py
    ("olmo_core", "llama", llama(*[CUT_02] * 8)),
    (
        "olmo_core(llama)",
        "llama",
        llama(
            normal(1.0),
            CUT_02,
            CUT_02,
            cut(0.02 / sqrt(6)),
            CUT_02,
            cut(0.02 / sqrt(6)),
            cut(0.02 / sqrt(6)),
            CUT_BY_WIDTH,
        ),
    ),
    (
        "olmo_core(llama_depth)",
        "llama",
        llama(normal(1.0), CUT_02, CUT_02, CORE_DEEP, CUT_02, CORE_DEEP, CORE_DEEP, CUT_BY_WIDTH),
    ),
    (
        "olmo_core(llama_depth)",
        "mixtral",
        mixtral(
            normal(1.0), CUT_02, CUT_02, CORE_DEEP, CORE_DEEP, CORE_DEEP, CORE_DEEP, CUT_BY_WIDTH
        ),
    ),
    (
        "olmo_core(ngpt)",
        "llama",
        llama(
            normal(1 / sqrt(192)),
            CUT_BY_WIDTH,
            CUT_BY_WIDTH,
            cut(1 / sqrt(192) / sqrt(6)),
            CUT_BY_WIDTH,
            CUT_BY_WIDTH,
            cut(1 / sqrt(192) / sqrt(6)),
            CUT_BY_WIDTH,
        ),
    ),
    (
        "olmo_core(ngpt)",
        "mixtral",
        mixtral(
            normal(1 / sqrt(192)),
            CUT_BY_WIDTH,
            CUT_BY_WIDTH,
            cut(1 / sqrt(192) / sqrt(6)),
            CUT_02,
            CUT_02,
            CUT_02,
            CUT_BY_WIDTH,
        ),
    ),
    (
        "olmo_core(fan_in, embed_scale=4)",
        "mixtral",
        mixtral(
            normal(0.25),
            CUT_BY_WIDTH,
            CUT_BY_WIDTH,
            cut(1 / sqrt(320)),
            CUT_BY_WIDTH,
            cut(1 / sqrt(448)),
            CUT_BY_WIDTH,
            CUT_BY_WIDTH,
        ),
    ),
    # pytorch/torchtitan models/llama3, models/deepseek_v3
    (
        "torchtitan_llama3",
        "llama",
        llama(
            normal(1.0),
            absolute(0.02),
            absolute(0.02),
            TITAN_DEEP,
            absolute(0.02),
            TITAN_DEEP,
            TITAN_DEEP,
            CUT_BY_WIDTH,
        ),
    ),
    (
        "torchtitan_llama3",
        "gpt2",
        gpt(CUT_BY_WIDTH, normal(1.0), absolute(0.02), TITAN_DEEP, absolute(0.02), TITAN_DEEP),
    ),
    (
        "torchtitan_deepseek",
        "deepseek",
        {
            "model.embed_tokens.weight": normal(1.0),
            "*.self_attn.[qk]*": absolute(0.02),
            "*.o_proj.weight": TITAN_DEEP,
            "*.mlp.gate.weight": TITAN_DEEP,
            "*.gate_up_proj": lambda block: [absolute(0.02), TITAN_DEEP(block)],
            "*.experts.down_proj": TITAN_DEEP,
            "*.gate_proj.weight": absolute(0.02),
            "*.up_proj.weight": TITAN_DEEP,
            "*.down_proj.weight": TITAN_DEEP,
            "lm_head.weight": CUT_BY_WIDTH,
        },
    ),
    # google-research/t5x layers.py, tensorflow/mesh attention.py and layers.py
    (
        "t5",
        "t5_untied",
        t5(
            normal(1.0),
            normal(1 / sqrt(192 * 80)),
            normal(1 / sqrt(192)),
            normal(1 / sqrt(320)),
            to_fan(1 / sqrt(192)),
            to_fan(1 / sqrt(448)),
            uniform(sqrt(2 / (32 + 4))),
            to_fan(1 / sqrt(192)),
        ),
    ),
    (
        "t5(mesh)",
        "t5",
        t5(
            normal(1.0),
            normal(1 / sqrt(192 * 80)),
            normal(1 / sqrt(192)),
            normal(1 / sqrt(320)),
            cut(1 / sqrt(192), 2.0),
            cut(1 / sqrt(448), 2.0),
            uniform(sqrt(2 / (32 + 4))),
        ),
    ),
    # arXiv:2204.02311, section 5
    (
        "palm",
        "llama",
        llama(
            normal(1.0),
            normal(1 / sqrt(192)),
            normal(1 / sqrt(192)),
            normal(1 / sqrt(320)),
            normal(1 / sqrt(192)),
            normal(1 / sqrt(192)),
            normal(1 / sqrt(448)),
            normal(1 / sqrt(192)),
        ),
    ),
    # AI-Hypercomputer/maxtext layers/attentions.py, linears.py, moe.py
    (
        "maxtext",
        "llama",
        llama(
            normal(1.0),
            normal(1 / sqrt(192 * 80)),
            normal(1 / sqrt(192)),
            normal(1 / sqrt(320)),
            to_fan(1 / sqrt(192)),
            to_fan(1 / sqrt(192)),
            to_fan(1 / sqrt(448)),
            to_fan(1 / sqrt(192)),
        ),
    ),
    (
        "maxtext(qk_norm=True)",
        "mixtral",
        mixtral(
            normal(1.0),
            normal(1 / sqrt(192)),
            normal(1 / sqrt(192)),
            normal(1 / sqrt(320)),
            to_fan(1 / sqrt(5 * 448)),
            to_fan(1 / sqrt(5 * 192)),
            to_fan(1 / sqrt(192)),
            to_fan(1 / sqrt(192)),
        ),
    ),
    (
        "maxtext(documented=True, qk_norm=True)",
        "mixtral",
        mixtral(
            normal(1.0),
            normal(1 / sqrt(192)),
            normal(1 / sqrt(192)),
            normal(1 / sqrt(320)),
            to_fan(1 / sqrt(192)),
            to_fan(1 / sqrt(448)),
            to_fan(1 / sqrt(192)),
            to_fan(1 / sqrt(192)),
        ),
    ),
    # google-research/bert modeling.py; transformers modeling_utils.py
    ("bert", "bert", {"*": cut(0.02, 2.0)}),
    ("hf", "bert", {"*": N02}),
    ("hf(0.006)", "deepseek", {"*": normal(0.006)}),
]


@pytest.mark.parametrize(
    ("recipe", "name", "table"), CASES, ids=[f"{recipe}-{name}" for recipe, name, _ in CASES]
)
def test_every_weight_is_as_the_source_has_it(recipe, name, table):
    check(recipe, name, table)


def test_the_rate_of_megatrons_hidden_matrices_shrinks_with_the_width():
    entries = planned("megatron(base_width=64)", "llama").entries
    rates = {name: entry.lr for name, entry in entries.items() if entry.role != "buffer"}
    slow = {name for name, rate in rates.items() if rate == pytest.approx(64 / 192)}
    assert slow == {name for name in rates if "_proj" in name}
    assert {rate for name, rate in rates.items() if name not in slow} == {1.0}


def test_a_hybrid_megatron_counts_branches():
    entry = planned("megatron(hybrid=True)", "llama").entries["model.layers.1.mlp.down_proj.weight"]
    assert entry.std == pytest.approx(0.02 / sqrt(6))


def test_the_spectral_rate_is_the_ratio_of_the_fans():
    entries = planned("nanotron(spectral)", "llama").entries
    assert entries["model.layers.0.self_attn.k_proj.weight"].lr == pytest.approx(160 / 192)
    assert entries["model.layers.0.mlp.down_proj.weight"].lr == pytest.approx(192 / 448)
    assert entries["model.embed_tokens.weight"].lr == 1.0
    fused = planned("nanotron(spectral)", "gpt2").entries["transformer.h.0.attn.c_attn.weight"]
    assert fused.lr == pytest.approx(576 / 192)


def test_gemma_norms_start_at_zero():
    entries = planned("hf", "gemma").entries
    norms = [entry.spec for entry in entries.values() if entry.role == "norm_scale"]
    assert len(norms) == 2 * L + 1
    assert set(norms) == {Constant(0.0)}


# Against what the library itself draws ------------------------------------------------------------

DRAWN = {
    "gpt2": "nanogpt",
    "t5_untied": "t5_hf",
    "bert": "hf",
    "gemma": "hf",
    "mixtral": "hf",
    "deepseek": "hf",
}


@pytest.mark.parametrize("name", DRAWN)
def test_the_library_draws_what_is_planned(name):
    plan = planned(DRAWN[name], name)
    pooled: dict[tuple, list[np.ndarray]] = {}
    specs, measured = {}, 0
    for full_name, value in built(name).named_parameters():
        entry = plan.entries[full_name]
        key = (re.sub(r"\.\d+\.", ".*.", full_name), entry.std)
        spec = entry.spec
        values = value.detach().double().numpy()
        if isinstance(spec, Blocks):
            assert not values[0].any()
            spec, values = spec.parts[-1].spec, values[1:]
        pooled.setdefault(key, []).append(values.ravel())
        specs[key] = spec
    for key, parts in pooled.items():
        values = np.concatenate(parts)
        if isinstance(specs[key], Constant):
            assert set(values) == {specs[key].value}, key
            continue
        assert isinstance(specs[key], Normal), key
        noise = 5 / sqrt(values.size)
        assert values.mean() == pytest.approx(0.0, abs=noise * specs[key].std), key
        assert values.std() == pytest.approx(specs[key].std, rel=noise / sqrt(2)), key
        assert scipy.stats.kurtosis(values) == pytest.approx(0.0, abs=noise * sqrt(24)), key
        measured += values.size > 100_000
    assert measured >= 5


# Beyond the weights -------------------------------------------------------------------------------

NEEDS = {
    "gpt2": set(),
    "nanogpt": set(),
    "nanochat": {
        "residual multiplier",
        "embedding multiplier",
        "embedding norm",
        "query and key scale",
        "logit softcap",
        "optimizer",
    },
    "modded_nanogpt": {"initial copy", "residual multiplier", "logit softcap"},
    "gpt_neox": set(),
    "megatron": set(),
    "megatron(base_width=64)": {"logit multiplier", "attention multiplier", "Adam epsilon"},
    "litgpt": set(),
    "nanotron": set(),
    "nanotron(spectral)": {"attention multiplier"},
    "llm_foundry": set(),
    "olmo": set(),
    "olmo_core": set(),
    "olmo_core(ngpt)": {"unit rows", "attention multiplier", "logit scale"},
    "torchtitan_llama3": set(),
    "torchtitan_deepseek": set(),
    "t5": {"attention multiplier", "logit multiplier"},
    "t5_hf": {"attention multiplier"},
    "palm": {"logit multiplier"},
    "maxtext": {"attention multiplier", "logit multiplier"},
    "maxtext(qk_norm=True)": {"logit multiplier"},
    "bert": set(),
    "hf": set(),
}


@pytest.mark.parametrize("recipe", NEEDS)
def test_the_plan_says_what_else_is_needed(recipe):
    plan = planned(recipe, "llama")
    assert {need.what for need in plan.needs} == NEEDS[recipe]
    assert all(need.who and need.where and need.source for need in plan.needs)


VARIANTS = sorted({recipe for recipe, _, _ in CASES} | set(NEEDS))


@pytest.mark.parametrize("recipe", VARIANTS)
def test_every_role_is_covered_with_a_reason(recipe):
    shapes = {"conv": (20, 24, 3, 3), "conv_transpose": (24, 20, 3, 3), "patch": (24, 3, 4, 4)}
    flat = ("norm_scale", "norm_bias", "bias", "scale", "ssm_d", "ssm_dt")
    extra = [
        parameter(f"x.{role}", (16,) if role in flat else shapes.get(role, (20, 24)), role)
        for role in ROLES
    ]
    router = parameter("experts.router", (5, 16), "router")
    plan = plan_model(model(*tiny_gpt().owners, router, *extra), recipe)
    for name, entry in plan.entries.items():
        assert entry.reason, name
        assert "\n" not in entry.reason, name
        if isinstance(entry.spec, Keep):
            assert entry.role in ("scale", "unknown") or entry.role.startswith(("ssm", "recurrent"))


@pytest.mark.parametrize("recipe", VARIANTS)
def test_the_text_reads_back(recipe):
    made = parse_recipe(recipe)
    assert parse_recipe(made.text).text == made.text
    assert made.text.startswith(recipe.split("(")[0])


def test_nanochats_own_scalars():
    made = plan_model(
        model(
            *tiny_gpt().owners,
            parameter("resid_lambdas", (3,), "scale"),
            parameter("x0_lambdas", (3,), "scale"),
            parameter("backout_lambda", (1,), "scale"),
            parameter("smear_lambda", (1,), "scale"),
            parameter("smear_gate.weight", (1, 12), "linear"),
            parameter("value_embeds.1.weight", (50, 8), "embedding", axes=None),
        ),
        "nanochat",
    ).entries
    assert isinstance(made["resid_lambdas"].spec, Value)
    np.testing.assert_allclose(made["resid_lambdas"].spec.array(), [1.15, 1.10, 1.05], rtol=1e-6)
    np.testing.assert_allclose(made["x0_lambdas"].spec.array(), [0.20, 0.125, 0.05], rtol=1e-6)
    assert made["backout_lambda"].spec == Constant(0.2)
    assert made["smear_lambda"].spec == Constant(0.0)
    assert made["smear_gate.weight"].spec == Uniform(0.0, 0.02)
    assert_is(made["value_embeds.1.weight"].spec, uniform(1 / 4), "value embeddings, width 16")


def test_megatron_draws_the_bias_of_a_router():
    made = plan_model(
        model(
            parameter("gate.weight", (5, 24), "router"),
            parameter("gate.bias", (5,), "bias", partner="gate.weight"),
            parameter("up.bias", (9,), "bias", partner="up.weight"),
        ),
        "megatron(0.01)",
    ).entries
    assert made["gate.bias"].spec == Normal(0.01)
    assert made["up.bias"].spec == Constant(0.0)


def test_learned_positions_of_t5_are_embeddings():
    entry = planned("t5", "gpt2").entries["transformer.wpe.weight"]
    assert entry.spec == Normal(1.0)


def test_queries_whose_heads_were_not_seen_say_so():
    entry = plan_model(model(parameter("q", (40, 24), "attn_q")), "t5").entries["q"]
    assert entry.std == pytest.approx(1 / sqrt(24))
    assert "heads were not seen" in entry.reason


def test_hf_leaves_recurrent_modules_as_transformers_does():
    gates = tuple(Block(gate, 0, 8 * i, 8) for i, gate in enumerate("ifgo"))
    known = {"blocks": gates, "fan_out": 8, "axes": Axes(inputs=(1,), outputs=(0,))}
    made = plan_model(
        model(
            parameter("lstm.hh", (32, 8), "recurrent_hidden", torch_type="LSTM", **known),
            parameter("gru.hh", (24, 8), "recurrent_hidden", torch_type="GRU"),
            parameter("a.in", (72, 24), "attn_qkv", torch_type="MultiheadAttention"),
        ),
        "hf",
    ).entries
    assert made["lstm.hh"].spec == Uniform(-sqrt(6 / 40), sqrt(6 / 40))
    assert_is(made["gru.hh"].spec, uniform(1 / sqrt(3 * 8)), "torch's default over its hidden size")
    assert made["a.in"].spec == Uniform(-0.25, 0.25)


ERRORS = [
    (lambda: recipes.olmo("michell"), "olmo: variant: is not one that it knows (got 'michell')"),
    (lambda: recipes.olmo_core("nGPT"), "choose from normal, llama, llama_depth, ngpt, fan_in"),
    (lambda: recipes.gpt_neox("wang_init"), "gpt_neox: inputs: is not one that it knows"),
    (lambda: recipes.nanotron("mup"), "choose from random, spectral"),
    (lambda: recipes.t5("flax"), "choose from t5x, mesh"),
    (lambda: recipes.llm_foundry("neox"), "llm_foundry: scheme: is not one that it knows"),
    (lambda: recipes.llm_foundry(div=0), "div: is not above 0 (got 0)"),
    (lambda: recipes.megatron(base_width=0), "base_width: is not above 0 (got 0)"),
]


@pytest.mark.parametrize(("make", "message"), ERRORS, ids=[message for _, message in ERRORS])
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        make()


@pytest.mark.parametrize("text", ["hf(-1)", "megatron(0.02, nan)", "bert(0.02, 3)"])
def test_wrong_numbers_in_a_text_are_errors_of_the_recipe(text):
    with pytest.raises(RecipeError, match="does not take these arguments"):
        parse_recipe(text)
