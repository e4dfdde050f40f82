"""The networks of ``faults.py``: small real architectures in three groups.

*Fresh* networks had not been checked with a fault in them before the code was frozen: they are the
blind verdict. Half of them are in other benchmarks, which check sound starts. The others are two
halves by a hash of their names. Misses in the *tuning* half were looked at while the doctor was
mended, those in the *held out* half were not meant to be.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

__all__ = ["CONFIGS", "GROUPS", "MODELS", "Group", "group"]

Group = Literal["fresh", "held out", "tuning"]
GROUPS: tuple[Group, ...] = ("fresh", "held out", "tuning")

WIDTH, HEADS, LAYERS, VOCABULARY = 64, 4, 4, 500
_TOKENS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SIZES = _TOKENS | {
    "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "intermediate_size": 2 * WIDTH,
}  # fmt: skip
_KEYS = {"num_key_value_heads": 2, "head_dim": WIDTH // HEADS}
_PAIRED = _TOKENS | {
    "d_model": WIDTH, "encoder_layers": 2, "decoder_layers": 2,
    "decoder_start_token_id": 1,
    "encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": 2 * WIDTH, "decoder_ffn_dim": 2 * WIDTH, "max_position_embeddings": 64,
}  # fmt: skip
_IMAGES = {"image_size": 32, "patch_size": 8}

HF: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, **_TOKENS},
    "gpt_neox": _SIZES,
    "opt": _SIZES | {"word_embed_proj_dim": WIDTH, "ffn_dim": 2 * WIDTH},
    "llama": _SIZES | _KEYS,
    "qwen3": _SIZES | _KEYS,
    "gemma2": _SIZES | _KEYS,
    "mixtral": _SIZES | _KEYS | {"num_local_experts": 4},
    "olmoe": _SIZES | _KEYS | {"num_experts": 4, "num_experts_per_tok": 2},
    "mamba": {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, **_TOKENS},
    "bert": _SIZES,
    "roberta": _SIZES,
    "distilbert": {
        "dim": WIDTH, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": 2 * WIDTH,
        "vocab_size": VOCABULARY},
    "modernbert": _SIZES | {"cls_token_id": 1, "sep_token_id": 2},
    "t5": {
        "d_model": WIDTH, "d_kv": 16, "d_ff": 2 * WIDTH, "num_layers": 2, "num_heads": HEADS,
        "vocab_size": VOCABULARY},
    "bart": _PAIRED,
    "whisper": _PAIRED | {"num_mel_bins": 16, "max_source_positions": 64},
    "vit": _SIZES | _IMAGES,
    "dinov2": _SIZES | _IMAGES,
    "convnext": {"hidden_sizes": [16, 32, 48, 64], "depths": [2, 2, 4, 2], "image_size": 64},
    "swin": {
        "embed_dim": 32, "depths": [2, 2, 4], "num_heads": [2, 4, 4], "image_size": 64,
        "window_size": 4},
    "resnet": {"embedding_size": 16, "hidden_sizes": [32, 48, 64, 96], "depths": [2, 2, 2, 2]},
    "wav2vec2": _SIZES | {
        "conv_dim": [32] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
        "codevector_dim": 32, "proj_codevector_dim": 32, "num_codevectors_per_group": 16},
}  # fmt: skip

FRESH_HF: dict[str, dict[str, Any]] = {
    "bloom": {"hidden_size": WIDTH, "n_layer": LAYERS, "n_head": HEADS, **_TOKENS},
    "falcon": _SIZES,
    "phi": _SIZES,
    "cohere": _SIZES | _KEYS,
    "starcoder2": _SIZES | {"num_key_value_heads": 2},
    "nemotron": _SIZES | _KEYS,
    "granitemoe": _SIZES | {
        "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2},
    "electra": _SIZES | {"embedding_size": WIDTH // 2},
    "albert": _SIZES | {"embedding_size": WIDTH // 2},
    "mpnet": _SIZES,
    "fnet": _SIZES,
    "xlnet": {
        "d_model": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "d_inner": 2 * WIDTH, **_TOKENS},
    "pegasus": _PAIRED,
    "deit": _SIZES | _IMAGES,
    "poolformer": {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 4, 1], "image_size": 64},
    "segformer": {
        "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 4, 1], "image_size": 64,
        "num_attention_heads": [1, 2, 4, 4], "decoder_hidden_size": 32},
    "mamba2": {
        "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_heads": 8, "head_dim": 16,
        "state_size": 8, "n_groups": 1, "chunk_size": 16, **_TOKENS},
}  # fmt: skip

CONFIGS = HF | FRESH_HF
"""Settings of transformers' models, by type."""

FRESH = (
    *(f"hf:{kind}" for kind in FRESH_HF),
    *(f"timm:test_{name}" for name in ("byobnet", "convnext2", "efficientnet_gn", "nfnet")),
    "x-transformers:decoder, ALiBi",
    "x-transformers:decoder, sandwich norm",
    "vit-pytorch:deepvit.DeepViT",
    "vit-pytorch:simple_vit_with_register_tokens.SimpleViT",
    "net:plain gelu 12 x 512",
    "net:rnn",
    "net:residual convolutions, no norm",
    "torch:encoder-decoder",
    "torch:bidirectional LSTM",
    "torch:U-Net",
    "torch:FSRCNN",
)

MODELS = (
    *(f"hf:{kind}" for kind in HF),
    *(f"timm:test_{name}" for name in ("vit", "resnet", "convnext", "efficientnet", "mambaout")),
    "timm:mobilenetv2_035",
    "x-transformers:decoder",
    "x-transformers:encoder",
    "x-transformers:decoder, rotary, swiglu, rmsnorm",
    "vit-pytorch:vit.ViT",
    "vit-pytorch:simple_vit.SimpleViT",
    "vit-pytorch:cct.CCT",
    "vit-pytorch:simple_vit_with_qk_norm.SimpleViT",
    "demo:mlp-relu-10-256",
    "demo:mlp-tanh-10-256",
    "demo:mlp-gelu-20-256",
    "demo:convnet",
    "demo:resnet",
    "demo:vit",
    "demo:gpt",
    "net:torch encoder, pre-norm",
    "net:torch encoder, post-norm",
    "net:norm-free residual 8 x 128",
    "net:gated pre-norm residual 6 x 128",
    "net:transposed convolutions",
    "net:convolutions, batch norm",
    "net:lstm",
    "net:gru",
    "torch:decoder",
    *FRESH,
)
"""Every network, by the library it is from."""


def group(name: str) -> Group:
    """The group of a network of :data:`MODELS`."""
    if name in FRESH:
        return "fresh"
    return "held out" if hashlib.sha256(name.encode()).digest()[0] % 2 == 1 else "tuning"
