"""Inputs for any transformers model, from the signature of its forward and its configuration.

Covered: the main input, required arguments, decoder ids, boxes, second towers, and what cross
attention reads, with sizes taken from nested configurations; images as pixels, patches with their
grid, pairs and videos; sound as samples or features; time series; labels for heads that then return
their own loss. Not covered: images spliced into text by placeholder tokens (the text alone is run),
sessions, and other contracts that neither the signature nor the configuration shows.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
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
_CROSS = re.compile(r"cross|enc_dec|encoder_attn|encdec", re.IGNORECASE)


def transformers_inputs(
    model: nn.Module, *, labels: bool = True, function: Callable[..., Any] | None = None
) -> dict[str, Any]:
    """Keyword arguments for ``model.forward``, or for another method of the model.

    Args:
        model: a transformers model, possibly on the meta device.
        labels: add what makes the model return its own loss, where it has one.
        function: the method, such as ``model.get_image_features``.

    Raises:
        Nothing: a model with a contract of its own gets a batch that it may reject.
    """
    maker = _Maker(model, model.forward if function in (None, model) else function)
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

    def __init__(self, model: nn.Module, function: Callable[..., Any]) -> None:
        self.model = model
        self.config: Any = model.config
        self.signature = inspect.signature(function).parameters
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
        if main not in ("input_ids", "inputs") and "inputs" not in names and not decodes:
            names.append("input_ids")
        if decodes:
            names.append("decoder_input_ids")
        crosses = any(_CROSS.search(name) for name, _ in self.model.named_modules())
        if crosses and not decodes:
            names.append("encoder_hidden_states")
        names += ["bbox", "visual_feats", "visual_pos", "states", "actions", "returns_to_go",
                  "timesteps", "decoder_input_values", "context_input_ids",
                  "context_attention_mask", "doc_scores", "spatial_shapes"]  # fmt: skip
        return [name for name in dict.fromkeys(names) if name in self.signature]

    def make(self, name: str) -> Any:
        """A tensor (or a plain value) for the argument ``name``."""
        for pattern, maker in _MAKERS:
            if re.search(pattern, name):
                return maker(self, name)
        if re.match(r"(output_|use_|return_|is_|do_|interpolate)", name):
            return False
        return self.hidden("hidden_size", "d_model", "n_embd")

    def hidden(self, *settings: str, length: int = LENGTH) -> torch.Tensor:
        width = self.find(*settings, default=64)
        return self.normal(self.batch, length, int(width))

    def boxes(self) -> torch.Tensor:
        corner = torch.randint(0, 400, (self.batch, LENGTH, 2), generator=self.generator)
        return torch.cat([corner, corner + 100], dim=-1)

    def sound(self) -> torch.Tensor:
        """Samples, or where mel bins are counted, spectrograms with time first."""
        bins = self.find("num_mel_bins")
        sampled = self.find("codebook_size", "conv_dim", "upsampling_ratios") is not None
        return self.waveform() if sampled or not bins else self.normal(self.batch, 1024, bins)

    def past(self) -> torch.Tensor:
        """The known part of a time series."""
        length = self.find("context_length", "seq_length", default=LENGTH)
        lags = max(self.find("lags_sequence", default=None) or [0])
        channels = self.find("num_input_channels", "input_size", default=1)
        sizes = (self.batch, length + lags)
        return self.normal(*sizes, channels) if channels > 1 or not lags else self.normal(*sizes)

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
        """Samples; a codec's come with their channels."""
        channels = self.find("audio_channels", "num_channels", "channels")
        if channels is None and self.find("codebook_size") and not self.find("conv_dim"):
            channels = 1
        sizes = (SAMPLES,) if channels is None else (int(channels), SAMPLES)
        return self.normal(self.batch, *sizes)

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
        projected = self.find("conv_kernel_sizes", "feature_projection_input_dim")
        if positions and not projected:
            return self.normal(self.batch, bins, 2 * positions)
        return self.normal(self.batch, FRAMES, bins)

    def images(self, name: str) -> torch.Tensor:
        vision = ("vision", "video", "image")
        size = self.find("image_size", "img_size", "input_size", prefer=vision, default=224)
        if isinstance(size, dict):
            size = (size.get("height", 224), size.get("width", 224))
        height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
        stem = self.first(nn.Conv2d, nn.Conv3d)
        named = self.find("num_channels", "in_channels", "in_chans", prefer=vision, default=3)
        channels = stem.in_channels if stem is not None and stem.groups == 1 else named
        if self.find("patch_size") and "spatial_shapes" in self.signature:
            side = self.find("patch_size", prefer=vision)
            return self.normal(self.batch, GRID * GRID, channels * side * side)
        if re.search(r"KeypointMatching|LoFTR|LightGlue|SuperGlue", type(self.model).__name__):
            return self.normal(self.batch, 2, channels, height, width)
        moving = "video" in (name + type(self.model).__name__).lower() or self.find("tubelet_size")
        frames = self.find("num_frames", "frames_per_clip", prefer=vision)
        if (moving or "CLIP" in type(self.model).__name__) and isinstance(frames, int):
            return self.normal(self.batch, frames, channels, height, width)
        return self.normal(self.batch, channels, height, width)

    def patches(self) -> torch.Tensor:
        """Flattened patches of the images of :data:`GRID` by :data:`GRID` patches."""
        stem = self.first(nn.Conv2d, nn.Conv3d, nn.Linear)
        if stem is not None:
            return self.normal(self.batch * GRID * GRID, stem.weight[0].numel())
        channels = self.find("in_channels", "in_chans", "num_channels", default=3)
        depth = self.find("temporal_patch_size", default=1)
        side = self.find("patch_size", "spatial_patch_size", default=14)
        return self.normal(self.batch * GRID * GRID, channels * depth * side * side)

    def first(self, *kinds: type[nn.Module]) -> Any:
        """The first layer of these kinds in a part that looks at pictures, else in the model."""
        layers = [(n, m) for n, m in self.model.named_modules() if isinstance(m, kinds)]
        seeing = [m for name, m in layers if re.search(r"vis|imag|patch|pixel", name)]
        return next(iter([*seeing, *(m for _, m in layers)]), None)

    def flat_patches(self) -> torch.Tensor:
        """Patches with their row and column in front."""
        side, channels = self.find("patch_size", default=16), self.find("num_channels", default=3)
        cells = torch.cartesian_prod(torch.arange(1, GRID + 1), torch.arange(1, GRID + 1))
        place = cells.float().expand(self.batch, -1, -1)
        return torch.cat(
            [place, self.normal(self.batch, GRID * GRID, channels * side * side)], dim=-1
        )

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


def _of(method: str, *arguments: Any, **more: Any) -> Callable[[_Maker, str], Any]:
    return lambda maker, name: getattr(maker, method)(*arguments, **more)


def _ones(maker: _Maker, name: str) -> torch.Tensor:
    return torch.ones(maker.batch, LENGTH, dtype=torch.long)


def _zeros(maker: _Maker, name: str) -> torch.Tensor:
    return torch.zeros(maker.batch, LENGTH, dtype=torch.long)


_MAKERS: tuple[tuple[str, Callable[[_Maker, str], Any]], ...] = (
    (r"^context_input_ids$", lambda maker, name: maker.ids().repeat_interleave(
        maker.find("n_docs", default=1), 0)),
    (r"^context_attention_mask$", lambda maker, name: torch.ones(
        maker.batch * maker.find("n_docs", default=1), maker.length(), dtype=torch.long)),
    (r"^doc_scores$", lambda maker, name: maker.normal(
        maker.batch, maker.find("n_docs", default=1))),
    (r"input_ids$", _of("ids")),
    (r"token_type_ids$", _zeros),
    (r"^flattened_patches$", _of("flat_patches")),
    (r"^(prompt_)?(pixel_values(_videos)?|videos|images?|prompt_masks)$", lambda maker, name: (
        maker.patches() if "grid_thw" in maker.signature else maker.images(name))),
    (r"^hidden_states$", lambda maker, name: (
        maker.patches() if "grid_thw" in maker.signature
        else maker.hidden("hidden_size", "d_model", "n_embd"))),
    (r"^(\w+_)?grid_thw$|^grid_hws$", lambda maker, name: torch.tensor(
        [[1, GRID, GRID]] * maker.batch)),
    (r"^spatial_shapes$", lambda maker, name: torch.tensor([[GRID, GRID]] * maker.batch)),
    (r"^pixel_attention_mask$", lambda maker, name: torch.ones(
        maker.batch, GRID * GRID, dtype=torch.long)),
    (r"^input_features$", _of("features")),
    (r"^(input_values|inputs)$", _of("sound")),
    (r"^(spectrogram|decoder_input_values|audio_mel)$", _of(
        "hidden", "num_mel_bins", "model_in_dim", "input_feat_size", length=FRAMES)),
    (r"^bbox$", _of("boxes")),
    (r"^visual_feats$", _of("hidden", "visual_feat_dim")),
    (r"^visual_pos$", _of("hidden", "visual_pos_dim")),
    (r"^states$", _of("hidden", "state_dim")),
    (r"^actions$", _of("hidden", "act_dim", "action_dim", "max_action_dim")),
    (r"^returns_to_go$", lambda maker, name: maker.normal(maker.batch, LENGTH, 1)),
    (r"^timesteps$", lambda maker, name: torch.arange(LENGTH).expand(maker.batch, -1)),
    (r"^past_values$", _of("past")),
    (r"^past_time_features$|^future_time_features$", lambda maker, name: maker.normal(
        maker.batch, maker.past().shape[1], maker.find("num_time_features", default=1))),
    (r"^past_observed_mask$", lambda maker, name: torch.ones_like(maker.past())),
    (r"mask$", _ones),
    (r"^encoder_hidden_states$", _of(
        "hidden", "encoder_hidden_size", "cross_attention_hidden_size", "encoder_width",
        "encoder_embed_dim", "hidden_size", "d_model")),
    (r"^position_ids$", lambda maker, name: torch.arange(LENGTH).expand(maker.batch, -1)),
)  # fmt: skip


def _special_ids(config: Any) -> Iterator[int]:
    """Every id that a configuration gives a meaning to."""
    for item in configs(config):
        for name, value in vars(item).items():
            if re.search(r"token_(id|index)$|token_ids$", name):
                values = value if isinstance(value, (list, tuple)) else [value]
                yield from (v for v in values if isinstance(v, int))
