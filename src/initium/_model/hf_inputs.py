"""Inputs for any transformers model, from the signature of its forward and its configuration.

Covered: the main input, required arguments, decoder ids, boxes, and second towers, with sizes taken
from nested configurations; labels for heads that then return their own loss. Not covered: images
spliced into text by placeholder tokens (the text alone is run), sessions, and other contracts that
neither the signature nor the configuration shows.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

__all__ = ["transformers_inputs"]

BATCH = 4
LENGTH = 32
SAMPLES = 16000
FRAMES = 128
GRID = 8

_SEQUENCE_LABELS = re.compile(
    r"(ForCausalLM|LMHeadModel|ForMaskedLM|ForConditionalGeneration|ForQuestion.*Generation)$"
)
_CLASS_LABELS = re.compile(r"For(Sequence|Image|Video|Audio|TimeSeries)Classification")
_IMAGES = {"pixel_values", "pixel_values_videos", "videos", "images", "flattened_patches"}


def transformers_inputs(model: nn.Module, *, labels: bool = True) -> dict[str, Any]:
    """Keyword arguments for ``model.forward``.

    Args:
        model: a transformers model, possibly on the meta device.
        labels: add what makes the model return its own loss, where it has one.

    Raises:
        Nothing: a model with a contract of its own gets a batch that it may reject.
    """
    maker = _Maker(model)
    batch: dict[str, Any] = {name: maker.make(name) for name in maker.wanted()}
    if labels:
        batch |= maker.labels(batch)
    return batch


def configs(config: Any, prefer: tuple[str, ...] = ()) -> list[Any]:
    """The configuration and all nested ones; class names with a word of ``prefer`` come first."""
    found = [config]
    for value in vars(config).values():
        if hasattr(value, "model_type") and hasattr(value, "to_dict"):
            found += configs(value)

    def rank(item: Any) -> bool:
        return not any(word in type(item).__name__.lower() for word in prefer)

    return sorted(found, key=rank)


class _Maker:
    """Sizes from the configuration, values from a fixed seed."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.config: Any = model.config
        self.signature = inspect.signature(model.forward).parameters
        self.generator = torch.Generator().manual_seed(0)
        # transformers finds the end of each text by its padding, and cannot without a pad token.
        head = type(model).__name__
        unpadded = "ForSequenceClassification" in head and self.find("pad_token_id") is None
        self.batch = 1 if unpadded else BATCH

    def find(self, *names: str, prefer: tuple[str, ...] = (), default: Any = None) -> Any:
        """The first of ``names`` that any configuration sets."""
        for config in configs(self.config, prefer):
            for name in names:
                value = getattr(config, name, None)
                if value is not None and not callable(value):
                    return value
        return default

    def wanted(self) -> list[str]:
        """The arguments to pass: the main input, required ones, and second towers."""
        main = getattr(self.model, "main_input_name", "input_ids")
        names = [main] if main in self.signature else []
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        names += [
            name for name, p in self.signature.items() if p.default is p.empty and p.kind in kinds
        ]
        if not names:
            every = ("input_ids", "pixel_values", "input_features", "input_values")
            names += [name for name in every if name in self.signature][:1]
        placeholders = self.find("image_token_id", "image_token_index") is not None
        if main == "input_ids" and not placeholders:
            names.append("pixel_values")
        decodes = bool(getattr(self.config, "is_encoder_decoder", False))
        if main != "input_ids" and not decodes:
            names.append("input_ids")
        if decodes:
            names.append("decoder_input_ids")
        names.append("bbox")
        return [name for name in dict.fromkeys(names) if name in self.signature]

    def make(self, name: str) -> torch.Tensor:
        """A tensor for the argument ``name``."""
        if name.endswith("input_ids"):
            return self.ids()
        if name in _IMAGES or (name == "hidden_states" and "grid_thw" in self.signature):
            return self.patches() if "grid_thw" in self.signature else self.images(name)
        if name == "grid_thw":
            return torch.tensor([[1, GRID, GRID]] * self.batch)
        if name == "input_features":
            return self.features()
        if name == "input_values":
            bins = self.find("num_mel_bins")
            return self.normal(self.batch, 1024, bins) if bins else self.waveform()
        if name == "bbox":
            corner = torch.randint(0, 400, (self.batch, LENGTH, 2), generator=self.generator)
            return torch.cat([corner, corner + 100], dim=-1)
        if name.endswith("attention_mask"):
            return torch.ones(self.batch, LENGTH, dtype=torch.long)
        width = self.find("hidden_size", "d_model", "n_embd", default=64)
        return self.normal(self.batch, LENGTH, int(width))

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator)

    def ids(self) -> torch.Tensor:
        """Random token ids, none of them with a special meaning."""
        size = self.find("vocab_size", prefer=("text", "decoder"), default=100)
        size = size if isinstance(size, int) else 100
        special = set(_special_ids(self.config))
        plain = torch.tensor([i for i in range(size) if i not in special] or [0])
        drawn = torch.randint(len(plain), (self.batch, self.length()), generator=self.generator)
        return plain[drawn]

    def length(self) -> int:
        longest = self.find("max_position_embeddings", "n_positions", prefer=("text",))
        return min(LENGTH, longest) if isinstance(longest, int) and longest > 1 else LENGTH

    def waveform(self) -> torch.Tensor:
        channels = self.find("audio_channels")
        return (
            self.normal(self.batch, channels, SAMPLES)
            if channels
            else self.normal(self.batch, SAMPLES)
        )

    def features(self) -> torch.Tensor:
        """Spectrograms: ``[batch, mel, time]`` where positions are counted, else time first."""
        bins = self.find(
            "feature_projection_input_dim",
            "num_mel_bins",
            "feature_size",
            "input_feat_per_channel",
            "input_dim",
            prefer=("audio", "speech", "encoder"),
            default=80,
        )
        positions = self.find("max_source_positions")
        if positions and not self.find("conv_kernel_sizes"):
            return self.normal(self.batch, bins, 2 * positions)
        return self.normal(self.batch, FRAMES, bins)

    def images(self, name: str) -> torch.Tensor:
        vision = ("vision", "video", "image")
        size = self.find("image_size", "img_size", "input_size", prefer=vision, default=224)
        if isinstance(size, dict):
            size = (size.get("height", 224), size.get("width", 224))
        height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
        channels = self.find("num_channels", "in_channels", "in_chans", prefer=vision, default=3)
        moving = "video" in (name + type(self.model).__name__).lower() or self.find("tubelet_size")
        frames = self.find("num_frames")
        if moving and frames:
            return self.normal(self.batch, frames, channels, height, width)
        return self.normal(self.batch, channels, height, width)

    def patches(self) -> torch.Tensor:
        """Flattened patches of the images of :data:`GRID` by :data:`GRID` patches."""
        channels = self.find("in_channels", "in_chans", "num_channels", default=3)
        depth = self.find("temporal_patch_size", default=1)
        side = self.find("patch_size", "spatial_patch_size", default=14)
        return self.normal(self.batch * GRID * GRID, channels * depth * side * side)

    def labels(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Labels with which the model returns its own loss, or nothing.

        A causal model predicts its inputs, shifted. Masked and encoder-decoder models get targets
        that are independent of the inputs, because copying the input is not what they train on.
        """
        if "return_loss" in self.signature and len(batch) > 1:
            return {"return_loss": True}
        if "labels" not in self.signature:
            return {}
        head = type(self.model).__name__
        if _CLASS_LABELS.search(head):
            classes = int(self.find("num_labels", default=2))
            return {"labels": torch.randint(classes, (self.batch,), generator=self.generator)}
        if not _SEQUENCE_LABELS.search(head):
            return {}
        decodes = bool(getattr(self.config, "is_encoder_decoder", False))
        if "input_ids" in batch and not decodes and not head.endswith("ForMaskedLM"):
            return {"labels": batch["input_ids"].clone()}
        if "decoder_input_ids" in batch or "input_ids" in batch:
            return {"labels": self.ids()}
        return {}


def _special_ids(config: Any) -> Iterator[int]:
    """Every id that a configuration gives a meaning to."""
    for item in configs(config):
        for name, value in vars(item).items():
            if re.search(r"token_(id|index)$|token_ids$", name):
                values = value if isinstance(value, (list, tuple)) else [value]
                yield from (v for v in values if isinstance(v, int))
