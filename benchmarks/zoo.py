"""Small models of all families with batches, for ``moments.py``: built again for every seed.

transformers at the widest of its tiny sizes with at most 256 channels, timm at the smallest image
that runs, vit-pytorch and x-transformers as in ``lucidrains.py``, the demo models, and nets written
out here. Without a loss of their own, tensors of two or three dimensions get random class labels.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from fresh import FRESH_NETS
from lucidrains import TABLES
from torch import nn
from torch.nn import functional as F

import initium
from initium._load import load
from initium._load.optional import import_optional
from initium._load.tiny import Rung, shrink

__all__ = ["FRESH", "MODELS", "Net", "alone", "build", "warm"]

WIDEST = 256
BATCH = 8
HIDDEN = ("hidden_size", "d_model", "n_embd", "dim", "hidden_sizes", "embed_dim", "d_embed")


@dataclass(frozen=True)
class Net:
    """A model with a batch; ``source`` names the family."""

    name: str
    model: nn.Module
    inputs: Any
    targets: Any = None

    @property
    def source(self) -> str:
        return self.name.partition(":")[0]


def build(name: str, seed: int = 0) -> Net:
    """The model ``name`` as its library initialises it with ``seed``; the batch is fixed."""
    source, _, rest = name.partition(":")
    torch.manual_seed(seed)
    if source == "hf":
        loaded = load(f"hf:{_config(rest)}", seed=seed)
        return Net(name, loaded.model, loaded.inputs)
    if source == "demo":
        loaded = load(name, seed=seed)
        return Net(name, loaded.model, loaded.inputs[:32], loaded.targets[:32])  # type: ignore[index]
    if source == "timm":
        size, given = _image(rest)
        model = import_optional("timm").create_model(rest, **given)
        images = _normal(BATCH, model.pretrained_cfg["input_size"][0], size, size)
        return Net(name, model, images, _labels((BATCH,), model.num_classes))
    if source in TABLES:
        import_optional(source.replace("-", "_"))
        made, batch = TABLES[source][rest]
        model = made()
        torch.manual_seed(1)
        return _with_labels(name, model, batch())
    make, batch = (NETS | FRESH_NETS)[rest]
    model = make()
    torch.manual_seed(1)
    return _with_labels(name, model, batch())


def _with_labels(name: str, model: nn.Module, inputs: Any) -> Net:
    """Random classes for an output [N, C] or [N, T, C]; a loss or anything else goes without."""
    with torch.no_grad():
        output = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    shape: tuple[int, ...] = ()
    if isinstance(output, torch.Tensor) and output.is_floating_point():
        shape = tuple(output.shape)
    return Net(
        name, model, inputs, _labels(shape[:-1], shape[-1]) if len(shape) in (2, 3) else None
    )


def _labels(shape: tuple[int, ...], classes: int) -> torch.Tensor:
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(1))


def _normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@lru_cache
def _config(kind: str) -> Path:
    """A configuration file with two layers and at most :data:`WIDEST` channels."""
    mapping = import_optional("transformers").CONFIG_MAPPING
    settings = mapping[kind]().to_dict()
    sizes = [one for entry in _nested(settings) for one in _sizes(entry)]
    divisor = next(d for d in (1, 2, 4, 8, 16) if d == 16 or max(sizes, default=768) <= WIDEST * d)
    small = shrink(settings, Rung(divisor)) | {"model_type": kind}
    path = Path(tempfile.mkdtemp()) / "config.json"
    path.write_text(json.dumps(small, default=str))
    return path


def _nested(settings: dict[str, Any]) -> list[dict[str, Any]]:
    inner = [value for value in settings.values() if isinstance(value, dict)]
    return [settings, *(found for one in inner for found in _nested(one))]


def _sizes(settings: dict[str, Any]) -> list[int]:
    found = [settings[key] for key in HIDDEN if settings.get(key)]
    return [max(one) if isinstance(one, list) else one for one in found]


@lru_cache
def _image(name: str) -> tuple[int, dict[str, Any]]:
    """The smallest image that a model of timm takes, and the arguments for that."""
    timm = import_optional("timm")
    for size in (64, 96, 128, 160, 192, 224):
        for given in ({"img_size": size}, {}):
            try:
                model = timm.create_model(name, **given).eval()
                with torch.no_grad():
                    model(torch.zeros(1, model.pretrained_cfg["input_size"][0], size, size))
            except Exception:
                continue
            return size, given
    raise ValueError(f"{name} runs at no size up to 224")


# Nets written out -----------------------------------------------------------------------------


class Residual(nn.Module):
    """x + branch(x), with a norm before the branch, after the sum, or none."""

    def __init__(
        self, branch: nn.Module, norm: nn.Module | None = None, post: bool = False
    ) -> None:
        super().__init__()
        self.branch, self.post = branch, post
        self.norm = nn.Identity() if norm is None else norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.post:
            out: torch.Tensor = self.norm(x + self.branch(x))
            return out
        return x + self.branch(self.norm(x))


class Recurrent(nn.Module):
    """Token ids through an embedding and a recurrent stack to classes."""

    def __init__(self, kind: Callable[..., nn.RNNBase], width: int = 128) -> None:
        super().__init__()
        self.embed = nn.Embedding(200, width)
        self.rnn = kind(width, width, num_layers=2, batch_first=True)
        self.head = nn.Linear(width, 20)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.rnn(self.embed(ids))[0])
        return out


class Gated(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return out


class Pooled(nn.Module):
    """Features [N, C, ...], their mean over positions, and a head."""

    def __init__(self, features: nn.Module, channels: int) -> None:
        super().__init__()
        self.features, self.head = features, nn.Linear(channels, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.features(x).flatten(2).mean(2))
        return out


def _mlp(phi: Callable[[], nn.Module], depth: int, width: int) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), phi()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def _branch(width: int, phi: Callable[[], nn.Module] = nn.GELU) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 4 * width), phi(), nn.Linear(4 * width, width))


def _stream(block: Callable[[], nn.Module], depth: int, width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(width, width), *(block() for _ in range(depth)), nn.LayerNorm(width),
        nn.Linear(width, 10),
    )  # fmt: skip


def _conv(phi: Callable[[], nn.Module], norm: Callable[[int], nn.Module], depth: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 48, 3, padding=1)]
    for _ in range(depth):
        layers += [nn.Conv2d(48, 48, 3, padding=1), norm(48), phi()]
    return Pooled(nn.Sequential(*layers), 48)


def _conv_block(norm: Callable[[int], nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(48, 48, 3, padding=1), norm(48), nn.ReLU(), nn.Conv2d(48, 48, 3, padding=1),
        norm(48),
    )  # fmt: skip


def _resnet(norm: Callable[[int], nn.Module], depth: int) -> nn.Module:
    stem = nn.Conv2d(3, 48, 3, padding=1)
    return Pooled(nn.Sequential(stem, *(Residual(_conv_block(norm)) for _ in range(depth))), 48)


def _group(channels: int) -> nn.Module:
    return nn.GroupNorm(8, channels)


def _none(channels: int) -> nn.Module:
    return nn.Identity()


def _vectors(width: int) -> Callable[[], object]:
    return lambda: torch.randn(32, width)


def _pictures() -> object:
    return torch.randn(BATCH, 3, 16, 16)


def _tokens() -> object:
    return torch.randint(0, 200, (BATCH, 16))


def _autoencoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 3, 4, 2, 1),
    )  # fmt: skip


def _encoder(first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(128, 4, 512, 0.0, batch_first=True, norm_first=first)
    encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    return nn.Sequential(nn.Embedding(200, 128), encoder, nn.Linear(128, 200))


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], object]]] = {
    "plain relu 12 x 256": (lambda: _mlp(nn.ReLU, 12, 256), _vectors(256)),
    "plain tanh 12 x 256": (lambda: _mlp(nn.Tanh, 12, 256), _vectors(256)),
    "plain gelu 12 x 512": (lambda: _mlp(nn.GELU, 12, 512), _vectors(512)),
    "plain silu 8 x 512": (lambda: _mlp(nn.SiLU, 8, 512), _vectors(512)),
    "plain elu 12 x 256": (lambda: _mlp(nn.ELU, 12, 256), _vectors(256)),
    "plain selu 12 x 256": (lambda: _mlp(nn.SELU, 12, 256), _vectors(256)),
    "plain leaky relu 12 x 256": (lambda: _mlp(nn.LeakyReLU, 12, 256), _vectors(256)),
    "plain mish 8 x 256": (lambda: _mlp(nn.Mish, 8, 256), _vectors(256)),
    "plain linear 12 x 256": (lambda: _mlp(nn.Identity, 12, 256), _vectors(256)),
    "pre-norm residual 8 x 128": (
        lambda: _stream(lambda: Residual(_branch(128), nn.LayerNorm(128)), 8, 128), _vectors(128)),
    "post-norm residual 8 x 128": (
        lambda: _stream(lambda: Residual(_branch(128), nn.LayerNorm(128), True), 8, 128),
        _vectors(128)),
    "norm-free residual 8 x 128": (
        lambda: _stream(lambda: Residual(_branch(128, nn.ReLU)), 8, 128), _vectors(128)),
    "gated pre-norm residual 6 x 128": (
        lambda: _stream(lambda: Residual(Gated(128), nn.RMSNorm(128)), 6, 128), _vectors(128)),
    "plain convolutions relu, 8": (lambda: _conv(nn.ReLU, _none, 8), _pictures),
    "plain convolutions gelu, 8": (lambda: _conv(nn.GELU, _none, 8), _pictures),
    "convolutions, batch norm": (lambda: _conv(nn.ReLU, nn.BatchNorm2d, 6), _pictures),
    "convolutions, group norm": (lambda: _conv(nn.SiLU, _group, 6), _pictures),
    "convolutions, instance norm": (lambda: _conv(nn.ReLU, nn.InstanceNorm2d, 6), _pictures),
    "residual convolutions, batch norm": (lambda: _resnet(nn.BatchNorm2d, 4), _pictures),
    "residual convolutions, no norm": (lambda: _resnet(_none, 4), _pictures),
    "transposed convolutions": (_autoencoder, _pictures),
    "torch encoder, pre-norm": (lambda: _encoder(True), _tokens),
    "torch encoder, post-norm": (lambda: _encoder(False), _tokens),
    "rnn": (lambda: Recurrent(nn.RNN), _tokens),
    "gru": (lambda: Recurrent(nn.GRU), _tokens),
    "lstm": (lambda: Recurrent(nn.LSTM), _tokens),
}  # fmt: skip

HF = (
    "gpt2", "gpt_neox", "gptj", "opt", "bloom", "llama", "mistral", "qwen3", "gemma2", "phi3",
    "falcon", "mixtral", "olmoe", "mamba", "bert", "roberta", "albert", "electra", "distilbert",
    "deberta-v2", "modernbert", "t5", "bart", "vit", "deit", "beit", "dinov2", "convnext", "swin",
    "resnet", "regnet", "clip", "wav2vec2",
)  # fmt: skip
TIMM = (
    "resnet18", "resnetv2_50", "regnetx_002", "mobilenetv2_035", "mobilenetv3_small_050",
    "efficientnet_lite0", "densenet121", "nf_resnet26", "convnext_atto", "ghostnet_050",
    "lcnet_035", "tinynet_e", "repvgg_a0", "vit_tiny_patch16_224", "deit_tiny_patch16_224",
    "pit_ti_224", "xcit_nano_12_p16_224", "mixer_s32_224", "resmlp_12_224", "gmlp_ti16_224",
    "poolformer_s12", "edgenext_xx_small",
)  # fmt: skip
LUCIDRAINS = {
    "vit-pytorch": (
        "vit.ViT", "simple_vit.SimpleViT", "deepvit.DeepViT", "parallel_vit.ViT",
        "simple_vit_with_register_tokens.SimpleViT", "cait.CaiT", "xcit.XCiT", "cct.CCT",
        "pit.PiT", "nest.NesT", "simple_vit_with_qk_norm.SimpleViT",
        "simple_vit_with_value_residual.SimpleViT", "vit_1d.ViT", "vit_3d.ViT",
    ),
    "x-transformers": (
        "decoder", "encoder", "decoder, rotary, swiglu, rmsnorm", "decoder, grouped queries",
        "decoder, ALiBi", "decoder, T5 relative bias", "decoder, query-key norm",
        "decoder, sandwich norm", "decoder, post-norm with scaled residual",
        "decoder, gated residual", "decoder, macaron", "decoder, ReLU squared, no bias",
        "decoder, tied embedding", "vision transformer",
    ),
}  # fmt: skip
DEMOS = ("mlp-relu-10-256", "mlp-tanh-10-256", "mlp-gelu-20-256", "convnet", "resnet", "vit", "gpt")

MODELS = (
    *(f"net:{name}" for name in NETS),
    *(f"demo:{name}" for name in DEMOS),
    *(f"hf:{name}" for name in HF),
    *(f"x-transformers:{name}" for name in LUCIDRAINS["x-transformers"]),
    *(f"vit-pytorch:{name}" for name in LUCIDRAINS["vit-pytorch"]),
    *(f"timm:{name}" for name in TIMM),
)
"""The models on which predictions were compared while they were written."""

FRESH = (
    *(f"net:{name}" for name in FRESH_NETS),
    *(f"hf:{name}" for name in (
        "smollm3", "minicpmv4_7", "laguna", "xclip", "mobilevitv2", "audio-spectrogram-transformer",
        "unlimited_ocr", "moonshine", "glm4_moe_lite", "siglip",
    )),
    *(f"vit-pytorch:{name}" for name in (
        "accept_video_wrapper.AcceptVideoWrapper", "efficient.ViT", "cross_vit.CrossViT",
        "distill.DistillableViT", "simple_vit_with_patch_dropout.SimpleViT",
    )),
    *(f"timm:{name}" for name in (
        "efficientvit_m3", "efficientformer_l1", "tiny_vit_5m_224", "vitamin_small_224",
        "fastvit_sa24", "hgnet_small", "lcnetv2_large",
    )),
)  # fmt: skip
"""Models held out, as ``fresh.py`` says."""


def warm() -> None:
    """Import what every model needs, so that processes forked from this one have it already."""
    for package in ("transformers", "timm", "einops", "x_transformers", "vit_pytorch"):
        import_optional(package)
    importlib.import_module("transformers.models.auto.modeling_auto")
    importlib.import_module("transformers.modeling_utils")
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    initium.initialize(net, "auto", torch.randn(8, 8))
    initium.check(net, torch.randn(8, 8), torch.arange(8) % 4)


def alone(work: Callable[[str], Any], name: str, timeout: float) -> Any:
    """``work(name)`` in a process of its own; a text that says why if that crashes or hangs."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, work, name), daemon=True)
    process.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(timeout) else f"took more than {timeout:g} s"
    except EOFError:
        process.join()
        return f"the process ended with code {process.exitcode}"
    finally:
        process.kill()
        process.join()


def _send(sender: Connection, work: Callable[[str], Any], name: str) -> None:
    try:
        sender.send(work(name))
    except Exception as error:
        sender.send(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
