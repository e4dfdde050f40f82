"""Models that no one here wrote: the types and names that the tests build, spread over families.

Every one is small enough, with ``tiny`` for transformers, to be built and run in about a second.
"""

from __future__ import annotations

TRANSFORMERS = (
    # decoders: learned positions, rotary, ALiBi, parallel blocks, latent attention, experts
    "gpt2",
    "gpt_neox",
    "bloom",
    "llama",
    "qwen3",
    "gemma2",
    "phi3",
    "falcon",
    "mixtral",
    "olmoe",
    "deepseek_v3",
    # state spaces and linear attention
    "mamba",
    "rwkv",
    "recurrent_gemma",
    # encoders
    "bert",
    "roberta",
    "albert",
    "deberta-v2",
    "modernbert",
    # encoder-decoders
    "t5",
    "bart",
    "whisper",
    # images, audio, two towers
    "vit",
    "convnext",
    "swin",
    "dinov2",
    "wav2vec2",
    "clip",
)
"""Model types of transformers, built with ``tiny``."""

TIMM = (
    # convolutional
    "resnet18",
    "resnetv2_50",
    "regnetx_002",
    "mobilenetv2_035",
    "mobilenetv3_small_050",
    "efficientnet_lite0",
    "densenet121",
    "convnext_atto",
    "ghostnet_050",
    "hardcorenas_a",
    "lcnet_035",
    "mixnet_s",
    "mnasnet_small",
    "repvgg_a0",
    "tinynet_e",
    # attention
    "vit_tiny_patch16_224",
    "deit_tiny_patch16_224",
    "swin_s3_tiny_224",
    "xcit_nano_12_p16_224",
    "pit_ti_224",
    "cait_xxs24_224",
    "levit_128s",
    "mobilevit_xxs",
    "edgenext_xx_small",
    "efficientformerv2_s0",
    # token and pooling mixers
    "mixer_s32_224",
    "gmlp_ti16_224",
    "resmlp_12_224",
    "poolformer_s12",
)
"""Names of timm."""

TIMM_FAST = (
    "resnet18",
    "regnetx_002",
    "mobilenetv3_small_050",
    "convnext_atto",
    "lcnet_035",
    "tinynet_e",
    "vit_tiny_patch16_224",
    "pit_ti_224",
    "edgenext_xx_small",
    "resmlp_12_224",
)
"""Those of :data:`TIMM` that also run a forward pass in the tests of the loader."""
