"""Plain models for the truth tables that no package has, and packages' models that need an object.

Covered: what ``tests/truth/*.yaml`` names as ``python:truth_models:...``.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn


class Recurrent(nn.Module):
    """A language model around a recurrent cell: embedding, two layers, head."""

    def __init__(self, cell: str, vocab: int, width: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.cell = getattr(nn, cell)(width, hidden, num_layers=2, batch_first=True)
        self.head = nn.Linear(hidden, vocab)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.cell(self.embed(ids))[0])


class Generator(nn.Module):
    """DCGAN's generator (Radford et al. 2015): transposed convolutions, batch norms, tanh."""

    def __init__(self, noise: int = 20, width: int = 8, colours: int = 3) -> None:
        super().__init__()
        sizes = [noise, 4 * width, 2 * width, width]
        layers: list[nn.Module] = []
        for number, (given, made) in enumerate(pairwise(sizes)):
            stride, padding = (1, 0) if number == 0 else (2, 1)
            layers.append(nn.ConvTranspose2d(given, made, 4, stride, padding, bias=False))
            layers += [nn.BatchNorm2d(made), nn.ReLU()]
        layers += [nn.ConvTranspose2d(width, colours, 4, 2, 1, bias=False), nn.Tanh()]
        self.main = nn.Sequential(*layers)

    def forward(self, noise: torch.Tensor) -> torch.Tensor:
        return self.main(noise)


class UNet(nn.Module):
    """The U-Net of Ronneberger et al. (2015), one level deep: skips are concatenated."""

    def __init__(self, colours: int = 3, width: int = 8, classes: int = 5) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(colours, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.bottom = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.rise = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.up = nn.Sequential(
            nn.Conv2d(2 * width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.out = nn.Conv2d(width, classes, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        skip = self.down(image)
        low = self.rise(self.bottom(F.max_pool2d(skip, 2)))
        return self.out(self.up(torch.cat([skip, low], dim=1)))


def mlp(given: int = 12, hidden: int = 20, wider: int = 28, classes: int = 7) -> nn.Module:
    """Three plain layers, no residual."""
    return nn.Sequential(
        nn.Linear(given, hidden), nn.ReLU(), nn.Linear(hidden, wider), nn.Tanh(),
        nn.Linear(wider, classes),
    )  # fmt: skip


def encoder(width: int = 24, heads: int = 3, hidden: int = 40, *, first: bool) -> nn.Module:
    """torch's encoder; ``first``: norms before the branches."""
    layer = nn.TransformerEncoderLayer(width, heads, hidden, batch_first=True, norm_first=first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def lstm() -> nn.Module:
    return Recurrent("LSTM", vocab=30, width=12, hidden=20)


def gru() -> nn.Module:
    return Recurrent("GRU", vocab=30, width=12, hidden=20)


# -- timm's blocks in sizes that its names do not offer --------------------------------------------


def _mobile(arch: list[list[str]], **options: object) -> nn.Module:
    from timm.models._efficientnet_builder import decode_arch_def
    from timm.models.efficientnet import EfficientNet

    return EfficientNet(decode_arch_def(arch), stem_size=8, num_classes=11, **options)


def mobilenetv2() -> nn.Module:
    """Inverted residuals without squeeze-excite."""
    return _mobile([["ds_r1_k3_s1_c16"], ["ir_r2_k3_s2_e6_c24"]], num_features=40)


def efficientnet() -> nn.Module:
    """Inverted residuals with squeeze-excite."""
    from timm.models._efficientnet_blocks import SqueezeExcite as Squeeze

    arch = [["ds_r1_k3_s1_e1_c16_se0.25"], ["ir_r2_k5_s2_e4_c24_se0.25"]]
    return _mobile(arch, num_features=40, se_layer=Squeeze)


def mobilenetv3() -> nn.Module:
    """Squeeze-excite with hard activations, and a head behind the pooling."""
    from timm.models._efficientnet_builder import decode_arch_def
    from timm.models.mobilenetv3 import MobileNetV3

    arch = [["ds_r1_k3_s1_e1_c16_se0.25_nre"], ["ir_r2_k3_s2_e4_c24"], ["cn_r1_k1_s1_c32"]]
    return MobileNetV3(decode_arch_def(arch), stem_size=8, num_features=40, num_classes=11)


def regnet() -> nn.Module:
    """RegNet-Y with widths 16, 24, 32, 40, 40 in groups of 8."""
    from timm.models.regnet import RegNet, RegNetCfg

    cfg = RegNetCfg(
        depth=5, w0=16, wa=8, wm=1.4, group_size=8, se_ratio=0.25, stem_width=24
    )  # fmt: skip
    return RegNet(cfg, num_classes=11)


def gmlp() -> nn.Module:
    from timm.layers import GatedMlp
    from timm.models.mlp_mixer import MlpMixer, SpatialGatingBlock

    return MlpMixer(
        num_classes=11, img_size=64, patch_size=16, num_blocks=2, embed_dim=24, mlp_ratio=4,
        block_layer=SpatialGatingBlock, mlp_layer=GatedMlp,
    )  # fmt: skip


def resmlp() -> nn.Module:
    from timm.models.mlp_mixer import Affine, MlpMixer, ResBlock

    return MlpMixer(
        num_classes=11, img_size=64, patch_size=16, num_blocks=2, embed_dim=24, mlp_ratio=4,
        block_layer=ResBlock, norm_layer=Affine,
    )  # fmt: skip


def poolformer() -> nn.Module:
    from timm.layers import GroupNorm1
    from timm.models.metaformer import MetaFormer

    return MetaFormer(
        num_classes=11, depths=(2, 1), dims=(12, 20), downsample_norm=None, mlp_act=nn.GELU,
        mlp_bias=True, norm_layers=GroupNorm1, layer_scale_init_values=1e-5,
        res_scale_init_values=None, use_mlp_head=False,
    )  # fmt: skip


def caformer() -> nn.Module:
    """Separable convolutions in the first stage, attention in the second."""
    from timm.models.metaformer import (
        Attention,
        LayerNorm2dNoBias,
        LayerNormNoBias,
        MetaFormer,
        SepConv,
    )

    return MetaFormer(
        num_classes=11, depths=(1, 2), dims=(16, 32), token_mixers=[SepConv, Attention],
        norm_layers=[LayerNorm2dNoBias, LayerNormNoBias], res_scale_init_values=(None, 1.0),
        head_dim=8,
    )  # fmt: skip


# -- packages whose models are built from objects -------------------------------------------------


def x_decoder() -> nn.Module:
    from x_transformers import Decoder, TransformerWrapper

    layers = Decoder(dim=24, depth=2, heads=3, attn_dim_head=16)
    return TransformerWrapper(num_tokens=40, max_seq_len=32, attn_layers=layers)


def x_encoder() -> nn.Module:
    """Gated feed-forward, RMS norms, relative position bias."""
    from x_transformers import Encoder, TransformerWrapper

    layers = Encoder(
        dim=24, depth=2, heads=3, attn_dim_head=16, ff_glu=True, use_rmsnorm=True, rel_pos_bias=True
    )
    return TransformerWrapper(num_tokens=40, max_seq_len=32, attn_layers=layers)


def lora() -> nn.Module:
    """A tiny Llama whose query and value projections carry a low-rank pair."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, vocab_size=50,
    )  # fmt: skip
    options = LoraConfig(r=3, target_modules=["q_proj", "v_proj"])
    return get_peft_model(LlamaForCausalLM(config), options)


def dit() -> nn.Module:
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(
        num_attention_heads=3, attention_head_dim=8, in_channels=4, out_channels=4, num_layers=2,
        sample_size=8, patch_size=2, num_embeds_ada_norm=30, norm_num_groups=4,
    )  # fmt: skip


def unet2d() -> nn.Module:
    """Convolutions on the way down and up, attention at the second level and in the middle."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=16, in_channels=3, out_channels=5, block_out_channels=(8, 16),
        layers_per_block=1, norm_num_groups=4, attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
