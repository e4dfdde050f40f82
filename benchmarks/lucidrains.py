"""The models of vit-pytorch and x-transformers, with arguments like those of their READMEs.

Covered: every model class of vit-pytorch and the ways of training that wrap one, and a choice of
x-transformers' configurations. Widths and depths are smaller than in the READMEs, kinds of layers
are the same. Not covered: ``efficient`` with Nystromformer, which another package holds.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["TABLES", "build"]

Entry = tuple[Callable[[], nn.Module], Callable[[], object]]

SIZES: dict[str, Any] = {"dim": 128, "depth": 3, "heads": 4, "mlp_dim": 256}
IMAGE: dict[str, Any] = {"image_size": 64, "patch_size": 8, "num_classes": 10, **SIZES}
VIDEO: dict[str, Any] = {
    "image_size": 32, "frames": 8, "image_patch_size": 8, "frame_patch_size": 2,
    "num_classes": 10, **SIZES,
}  # fmt: skip
CVT = {
    f"s{stage}_{name}": value
    for stage, dim in ((1, 32), (2, 64), (3, 128))
    for name, value in {"emb_dim": dim, "heads": stage, "depth": stage, "mlp_mult": 4}.items()
}
WINDOWED = {"dim": (32, 64, 128, 256), "depth": (1, 1, 2, 1), "num_classes": 10}


def _made(path: str, **settings: Any) -> Callable[[], nn.Module]:
    """A constructor of vit-pytorch by ``module.Class``; callables among its settings are called."""

    def build() -> nn.Module:
        module, _, name = path.partition(".")
        cls = getattr(importlib.import_module(f"vit_pytorch.{module}"), name)
        given = {key: value() if callable(value) else value for key, value in settings.items()}
        found = cls(**given)
        assert isinstance(found, nn.Module)
        return found

    return build


def _images(size: int = 64, count: int = 2) -> Callable[[], object]:
    return lambda: torch.randn(count, 3, size, size)


def _movie() -> object:
    return torch.randn(2, 3, 8, 32, 32)


def _series() -> object:
    return torch.randn(2, 3, 256)


def _mixed() -> object:
    return ([torch.randn(3, 64, 64), torch.randn(3, 32, 64), torch.randn(3, 64, 32)],)


def _mixed_movies() -> object:
    return ([torch.randn(3, 2, 64, 64), torch.randn(3, 4, 32, 64)],)


_vit = _made("vit.ViT", **IMAGE)
_LEARNER: dict[str, Any] = {
    "net": _vit, "image_size": 64, "hidden_layer": "to_latent",
    "projection_hidden_size": 64, "projection_layers": 4, "num_classes_K": 128,
}  # fmt: skip
_ACTIONS: dict[str, Any] = {
    "dim": 64, "depth": 3, "heads": 4, "dim_head": 16, "mlp_dim": 128, "dim_action": 20,
    "action_chunk_len": 7, "time_seq_len": 4, "num_tasks": 4, "dim_extra_token": 33,
}  # fmt: skip


def _acting(**more: Callable[[], object]) -> Callable[[], object]:
    def batch() -> object:
        given: dict[str, object] = {
            "video_or_image": torch.randn(2, 2, 3, 4, 64, 64),
            "extra": torch.randn(2, 33),
            "tasks": torch.randint(0, 4, (2,)),
            "actions": torch.randn(2, 7, 20),
        }
        return given | {name: make() for name, make in more.items()}

    return batch


_VIT: dict[str, Entry] = {
    f"{module}.{cls}": (_made(f"{module}.{cls}", **IMAGE), _images())
    for module, cls in (
        ("vit", "ViT"), ("simple_vit", "SimpleViT"), ("deepvit", "DeepViT"),
        ("local_vit", "LocalViT"), ("rvt", "RvT"), ("parallel_vit", "ViT"), ("jet_vit", "JetViT"),
        ("jumbo_vit", "JumboViT"), ("learnable_memory_vit", "ViT"), ("mp3", "ViT"),
        ("normalized_vit", "nViT"), ("vat", "ViT"), ("vaat", "ViT"), ("vit_5", "ViT"),
        ("vit_detpool", "ViTDetPool"), ("vit_for_small_dataset", "ViT"), ("vit_with_decorr", "ViT"),
        ("vit_with_keel_post_ln", "ViT"), ("vit_with_patch_dropout", "ViT"),
        ("vit_with_patch_merger", "ViT"), ("simple_flash_attn_vit", "SimpleViT"),
        ("simple_uvit", "SimpleUViT"), ("simple_vit_attn_residual", "SimpleViTAttnResidual"),
        ("simple_vit_orthog_residual_update", "SimpleViT"),
        ("attn_residual_with_dca_simple_vit", "SimpleViT"),
        ("simple_vit_with_patch_dropout", "SimpleViT"), ("simple_vit_with_qk_norm", "SimpleViT"),
        ("simple_vit_with_register_tokens", "SimpleViT"),
        ("simple_vit_with_relative_proj_pos_bias", "SimpleViT"),
        ("simple_vit_with_sparse_gating", "SimpleViTWithSparseGating"),
        ("simple_vit_with_value_residual", "SimpleViT"),
    )
}  # fmt: skip
_VIT |= {
    "ats_vit.ViT": (
        _made("ats_vit.ViT", **IMAGE, max_tokens_per_depth=(64, 32, 16)), _images()),
    "cait.CaiT": (_made("cait.CaiT", **IMAGE, cls_depth=2), _images()),
    "xcit.XCiT": (_made("xcit.XCiT", **IMAGE, cls_depth=2), _images()),
    "simple_vit_with_fft.SimpleViT": (
        _made("simple_vit_with_fft.SimpleViT", **IMAGE, freq_patch_size=8), _images()),
    "simple_vit_with_hyper_connections.SimpleViT": (
        _made("simple_vit_with_hyper_connections.SimpleViT", **IMAGE, num_residual_streams=4),
        _images()),
    "simple_vit_with_specialized_cls.SimpleViT": (
        _made("simple_vit_with_specialized_cls.SimpleViT", **IMAGE, specialize_qkv_depth=2),
        _images()),
    "looped_vit.LoopedViT": (
        _made("looped_vit.LoopedViT", image_size=64, patch_size=8, num_classes=10, dim=128,
              heads=4, mlp_dim=256, pre_loop_depth=1, num_looped_blocks=2, post_loop_depth=1,
              loop_depth=2), _images()),
    "look_vit.LookViT": (
        _made("look_vit.LookViT", dim=128, image_size=64, num_classes=10, depth=2, patch_size=16,
              heads=4, highres_patch_size=8), _images()),
    "t2t.T2TViT": (
        _made("t2t.T2TViT", **{key: IMAGE[key] for key in IMAGE if key != "patch_size"}),
        _images()),
    "cct.CCT": (
        _made("cct.CCT", img_size=64, embedding_dim=128, n_conv_layers=2, num_layers=3,
              num_heads=4, mlp_ratio=3.0, num_classes=10, positional_embedding="learnable"),
        _images()),
    "cct_3d.CCT": (
        _made("cct_3d.CCT", img_size=64, num_frames=8, embedding_dim=128, n_conv_layers=2,
              frame_kernel_size=3, num_layers=3, num_heads=4, mlp_ratio=3.0, num_classes=10,
              positional_embedding="learnable"), lambda: torch.randn(2, 3, 8, 64, 64)),
    "cross_vit.CrossViT": (
        _made("cross_vit.CrossViT", image_size=64, num_classes=10, depth=2, sm_dim=64,
              sm_patch_size=8, sm_enc_mlp_dim=128, lg_dim=128, lg_patch_size=16, lg_enc_depth=2,
              lg_enc_mlp_dim=256), _images()),
    "pit.PiT": (
        _made("pit.PiT", image_size=64, patch_size=8, num_classes=10, dim=64, depth=(1, 2, 1),
              heads=4, mlp_dim=128), _images()),
    "levit.LeViT": (
        _made("levit.LeViT", image_size=224, num_classes=10, stages=3, dim=(64, 96, 128), depth=2,
              heads=(2, 3, 4), mlp_mult=2), _images(224)),
    "cvt.CvT": (_made("cvt.CvT", num_classes=10, **CVT), _images(224)),
    "twins_svt.TwinsSVT": (
        _made("twins_svt.TwinsSVT", num_classes=10, s1_emb_dim=32, s2_emb_dim=64, s3_emb_dim=96,
              s4_emb_dim=128, s3_depth=2, s4_depth=1), _images(224)),
    "regionvit.RegionViT": (_made("regionvit.RegionViT", **WINDOWED, use_peg=True), _images(224)),
    "crossformer.CrossFormer": (_made("crossformer.CrossFormer", **WINDOWED), _images(224)),
    "scalable_vit.ScalableViT": (
        _made("scalable_vit.ScalableViT", num_classes=10, dim=32, heads=(1, 2, 4, 8),
              depth=(1, 1, 2, 1), reduction_factor=(8, 4, 2, 1),
              window_size=(64, 32, None, None)), _images(256)),
    "sep_vit.SepViT": (
        _made("sep_vit.SepViT", num_classes=10, dim=32, heads=(1, 2, 4, 8), depth=(1, 1, 2, 1)),
        _images(224)),
    "max_vit.MaxViT": (
        _made("max_vit.MaxViT", num_classes=10, dim=32, depth=(1, 1, 2, 1)), _images(224)),
    "max_vit_with_registers.MaxViT": (
        _made("max_vit_with_registers.MaxViT", num_classes=10, dim=32, depth=(1, 1, 2, 1)),
        _images(224)),
    "nest.NesT": (
        _made("nest.NesT", image_size=64, patch_size=4, dim=48, heads=3, num_hierarchies=3,
              block_repeats=(1, 1, 2), num_classes=10), _images()),
    "mobile_vit.MobileViT": (
        _made("mobile_vit.MobileViT", image_size=(64, 64), dims=[48, 60, 72], num_classes=10,
              channels=[16, 32, 48, 48, 64, 64, 80, 80, 96, 96, 384]), _images()),
    "na_vit.NaViT": (_made("na_vit.NaViT", **IMAGE), lambda: ([_mixed()[0]],)),  # type: ignore[index]
    "na_vit_nested_tensor.NaViT": (_made("na_vit_nested_tensor.NaViT", **IMAGE), _mixed),
    "na_vit_nested_tensor_3d.NaViT": (
        _made("na_vit_nested_tensor_3d.NaViT", **IMAGE, max_frames=8, frame_patch_size=2),
        _mixed_movies),
    "vit_1d.ViT": (
        _made("vit_1d.ViT", seq_len=256, patch_size=16, num_classes=10, **SIZES), _series),
    "simple_vit_1d.SimpleViT": (
        _made("simple_vit_1d.SimpleViT", seq_len=256, patch_size=16, num_classes=10, **SIZES),
        _series),
    "vit_3d.ViT": (_made("vit_3d.ViT", **VIDEO), _movie),
    "simple_vit_3d.SimpleViT": (_made("simple_vit_3d.SimpleViT", **VIDEO), _movie),
    "simple_flash_attn_vit_3d.SimpleViT": (
        _made("simple_flash_attn_vit_3d.SimpleViT", **VIDEO), _movie),
    **{
        f"{module}.ViViT{suffix}": (
            _made(f"{module}.ViViT", **{k: v for k, v in VIDEO.items() if k != "depth"},
                  spatial_depth=2, temporal_depth=2, **more), _movie)
        for module, suffix, more in (
            ("vivit", "", {}), ("vivit", ", factorized_self_attention",
                                {"variant": "factorized_self_attention"}),
            ("vivit_with_moss", "", {}))
    },
    **{
        f"{module}.ViTND": (
            _made(f"{module}.ViTND", ndim=3, input_shape=(8, 32, 32), patch_size=(2, 8, 8),
                  num_classes=10, **SIZES), _movie)
        for module in ("vit_nd", "vit_nd_pope", "vit_nd_rotary")
    },
    "wwt.WWT": (
        _made("wwt.WWT", image_size=64, patch_size=8, num_classes=10, dim=64, depth=2,
              num_slots=(16, 8), heads=4, mlp_dim=128), _images()),
    "efficient.ViT": (
        _made("efficient.ViT", image_size=64, patch_size=8, num_classes=10, dim=128,
              transformer=lambda: _x("Encoder", **TRUNK, ff_glu=True, residual_attn=True)),
        _images()),
    "distill.DistillableViT": (_made("distill.DistillableViT", **IMAGE), _images()),
    "distill.DistillWrapper": (
        _made("distill.DistillWrapper", student=_made("distill.DistillableViT", **IMAGE),
              teacher=_vit), lambda: (torch.randn(2, 3, 64, 64), torch.randint(0, 10, (2,)))),
    "mae.MAE": (_made("mae.MAE", encoder=_vit, decoder_dim=64, decoder_depth=2), _images()),
    "simmim.SimMIM": (_made("simmim.SimMIM", encoder=_vit), _images()),
    "mpp.MPP": (_made("mpp.MPP", transformer=_vit, patch_size=8, dim=128), _images()),
    "mp3.MP3": (
        _made("mp3.MP3", vit=_made("mp3.ViT", **IMAGE), masking_ratio=0.75), _images()),
    "learnable_memory_vit.Adapter": (
        _made("learnable_memory_vit.Adapter", vit=_made("learnable_memory_vit.ViT", **IMAGE)),
        _images()),
    "dino.Dino": (_made("dino.Dino", **_LEARNER), _images()),
    "lejepa.LeJEPA": (_made("lejepa.LeJEPA", **_LEARNER), _images()),
    "es_vit.EsViTTrainer": (
        _made("es_vit.EsViTTrainer", **_LEARNER | {"image_size": 224, "hidden_layer": "layers",
              "net": _made("cvt.CvT", num_classes=10, **CVT)}), _images(224)),
    "recorder.Recorder": (_made("recorder.Recorder", vit=_vit), _images()),
    "extractor.Extractor": (_made("extractor.Extractor", vit=_vit), _images()),
    "accept_video_wrapper.AcceptVideoWrapper": (
        _made("accept_video_wrapper.AcceptVideoWrapper", image_net=_vit, add_time_pos_emb=True,
              time_seq_len=8, dim_emb=10), lambda: torch.randn(2, 3, 4, 64, 64)),
    "levjepa.LeVJEPA": (
        _made("levjepa.LeVJEPA", image_size=32, local_size=16,
              encoder=_made("levjepa.VideoTransformer", image_size=32, patch_size=8, frames=8,
                            **SIZES)), _movie),
    "levjepa_nd.LeVJEPAND": (
        _made("levjepa_nd.LeVJEPAND", input_shape=(8, 32, 32), augment_src=lambda: torch.clone,
              augment_tgt=lambda: torch.clone,
              encoder=_made("levjepa_nd.NDTransformer", ndim=3, input_shape=(8, 32, 32),
                            patch_size=(1, 8, 8), **SIZES)), _movie),
    "vat.VAT": (
        _made("vat.VAT", vit=_made("vat.ViT", **IMAGE), num_views=2,
              vit_layer_indices=(0, 1, 2), **_ACTIONS), _acting()),
    "vaat.AST": (
        _made("vaat.AST", **SIZES, num_classes=10, patch_size=16), lambda: torch.randn(2, 8000)),
    "vaat.VAAT": (
        _made("vaat.VAAT", vit=_made("vaat.ViT", **IMAGE), ast=_made("vaat.AST", **SIZES),
              num_image_views=2, num_audio_views=2, vit_layer_indices=(0, 1, 2),
              ast_layer_indices=(0, 1, 2), **_ACTIONS),
        _acting(audio_or_spec=lambda: torch.randn(2, 2, 8000))),
    "vat_siglip.SigLIPVAT": (
        _made("vat_siglip.SigLIPVAT", num_views=2, siglip_image_size=64, siglip_patch_size=8,
              siglip_dim=128, siglip_depth=3, siglip_heads=4, siglip_mlp_dim=256,
              vit_layer_indices=(0, 1, 2), **_ACTIONS), _acting()),
}  # fmt: skip

TRUNK: dict[str, Any] = {"dim": 128, "depth": 3, "heads": 4}
TOKENS = 300


def _x(name: str, **settings: Any) -> Any:
    return getattr(importlib.import_module("x_transformers"), name)(**settings)


def _text(layers: str = "Decoder", **settings: Any) -> Callable[[], nn.Module]:
    """A language model; settings of the wrapper are those that start with ``w_``."""
    outer = {key[2:]: value for key, value in settings.items() if key.startswith("w_")}
    inner = {key: value for key, value in settings.items() if not key.startswith("w_")}

    def build() -> nn.Module:
        found = _x(
            "TransformerWrapper", num_tokens=TOKENS, max_seq_len=64,
            attn_layers=_x(layers, **TRUNK, **inner), **outer,
        )  # fmt: skip
        assert isinstance(found, nn.Module)
        return found

    return build


def _ids() -> object:
    return torch.randint(0, TOKENS, (2, 32))


def _pair() -> object:
    return (_ids(), _ids())


_X: dict[str, Entry] = {
    "decoder": (_text(), _ids),
    "encoder": (_text("Encoder"), _ids),
    "decoder, rotary, swiglu, rmsnorm": (
        _text(rotary_pos_emb=True, ff_swish=True, ff_glu=True, use_rmsnorm=True), _ids),
    "decoder, grouped queries": (_text(attn_kv_heads=2, rotary_pos_emb=True), _ids),
    "decoder, one key-value head, flash": (_text(attn_one_kv_head=True, attn_flash=True), _ids),
    "decoder, ALiBi": (_text(alibi_pos_bias=True), _ids),
    "decoder, T5 relative bias": (_text(rel_pos_bias=True), _ids),
    "decoder, dynamic position bias": (_text(dynamic_pos_bias=True), _ids),
    "decoder, query-key norm": (_text(attn_qk_norm=True, attn_qk_norm_dim_scale=True), _ids),
    "decoder, talking heads": (_text(attn_pre_talking_heads=True), _ids),
    "decoder, sandwich norm": (_text(sandwich_norm=True), _ids),
    "decoder, post-norm with scaled residual": (_text(pre_norm=False, scale_residual=True), _ids),
    "decoder, gated residual": (_text(gate_residual=True), _ids),
    "decoder, macaron": (_text(macaron=True), _ids),
    "decoder, memory key-values and tokens": (
        _text(attn_num_mem_kv=4, w_num_memory_tokens=4), _ids),
    "decoder, gated values": (_text(attn_gate_values=True), _ids),
    "decoder, ReLU squared, no bias": (_text(ff_relu_squared=True, ff_no_bias=True), _ids),
    "decoder, hyper-connections": (_text(num_residual_streams=4), _ids),
    "decoder, tied embedding": (_text(w_tie_embedding=True), _ids),
    "decoder, latent queries and keys": (
        _text(attn_use_latent_q=True, attn_dim_latent_q=32, attn_use_latent_kv=True,
              attn_dim_latent_kv=32), _ids),
    "decoder, recurrent memory": (_text(shift_tokens=1), _ids),
    "encoder-decoder": (
        lambda: _x("XTransformer", dim=128, enc_num_tokens=TOKENS, enc_depth=2, enc_heads=4,
                   enc_max_seq_len=64, dec_num_tokens=TOKENS, dec_depth=2, dec_heads=4,
                   dec_max_seq_len=64), _pair),
    "vision transformer": (
        lambda: _x("ViTransformerWrapper", image_size=64, patch_size=8, num_classes=10,
                   attn_layers=_x("Encoder", **TRUNK)), _images()),
    "continuous": (
        lambda: _x("ContinuousTransformerWrapper", dim_in=16, dim_out=10, max_seq_len=64,
                   attn_layers=_x("Encoder", **TRUNK)), lambda: torch.randn(2, 32, 16)),
    "autoregressive wrapper": (lambda: _x("AutoregressiveWrapper", net=_text()()), _ids),
    "multi-input": (
        lambda: _x("MultiInputTransformerWrapper", num_tokens={"note": 20, "pitch": 30},
                   max_seq_len=64, return_only_embed=True, attn_layers=_x("Decoder", **TRUNK)),
        lambda: ({"note": torch.randint(0, 20, (2, 32)), "pitch": torch.randint(0, 30, (2, 32))},)),
}  # fmt: skip

TABLES: dict[str, dict[str, Entry]] = {"vit-pytorch": _VIT, "x-transformers": _X}


def build(source: str, name: str) -> tuple[nn.Module, object]:
    """A model of a source of :data:`TABLES`, where it can be on meta, and inputs for it."""
    from initium._load.optional import import_optional
    from initium._load.random import seeded
    from initium._load.weightless import weightless

    import_optional(source.replace("-", "_"))
    made, batch = TABLES[source][name]
    with seeded(0):
        try:
            with weightless():
                model = made()
        except RuntimeError:  # trainers run their model once while they are built
            model = made()
        return model, batch()
