"""Arguments for any callable of a model, guessed: ``guesses(function, module)``.

Covered: what the names of the arguments say (ids, masks, positions, rotary tables, grids, other
sequences), with widths from the layers that come first in the module and from the nearest
configuration. The likeliest guess comes first, and the caller tries one after the other. Floating
tensors are on the meta device: the guesses are for a trace. Not covered: arguments that are objects
of a model's own classes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn

__all__ = ["guesses", "signature"]

BATCH = 2
LENGTH = 16
GRID = 4
MOST = 24
"""Guesses for one callable."""

_STATES = re.compile(
    r"^(x|x_?\w|inputs?|hidden\w*|src|tgt|memory|context|query|queries|q|target\w*|latents?|sequence"
    r"|tensor|data|sample|residual|states?)$"
    r"|(hidden|hidden_states?|states?|embeds?|embedding_output|embeddings?|feats?|features?|tokens"
    r"|output|queries|vectors?|sequence)$"
)
_OTHER = re.compile(
    r"^(memory|context|key|keys|value|values|k|v|kv|encoder\w*states|cross\w*|image\w*|vision\w*"
    r"|audio\w*|visual\w*|mem\w*|conditioning|cond)"
)
_IDS = re.compile(r"(^|_)(ids|tokens|codes|indices|labels|token|idx)$")
_IMAGE = re.compile(r"pixel|image|img|video|frames$")
_MASK = re.compile(r"mask|padding|(^|_)bias$")
_GRID = re.compile(r"grid|(^|_)thw|spatial_shapes|target_sizes|tgt_sizes")
_ROTARY = re.compile(r"rope|rotary|position_embeddings?$|freqs|pos_emb")
_TIME = re.compile(r"time(step)?s?$|temb|sigma|(^|_)t$")
_CROSS = re.compile(r"cross|enc_dec|encoder_attn|encdec", re.IGNORECASE)
_USEFUL = re.compile(
    r"^(position_embeddings|encoder_hidden_states|attention_mask|position_ids|grid_thw|cu_seqlens"
    r"|memory|context|image_grid_thw)$"
)


def signature(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters that can be passed by name; empty where Python cannot tell."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    try:
        found = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    return {name: item for name, item in found.items() if item.kind in kinds}


def guesses(
    function: Callable[..., Any], module: nn.Module, config: Any = None
) -> Iterator[dict[str, Any]]:
    """Keyword arguments with which ``function`` may run, the likeliest first.

    Args:
        function: ``module`` itself, or one of its methods.
        module: whose layers say how wide things are.
        config: the nearest transformers configuration, for what the layers do not say.

    Example:
        >>> first = next(guesses(layer := nn.Linear(5, 3), layer))
        >>> {name: tuple(value.shape) for name, value in first.items()}
        {'input': (2, 16, 5)}
    """
    forward = module.forward if function is module else function
    return islice(_unique(_all(signature(forward), module, config)), MOST)


def _unique(found: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    for item in found:
        key = repr({name: _shape(value) for name, value in item.items()})
        if key not in seen:
            seen.add(key)
            yield item


def _shape(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.dtype
    return tuple(map(_shape, value)) if isinstance(value, tuple) else repr(value)


def _all(
    arguments: Mapping[str, inspect.Parameter], module: nn.Module, config: Any
) -> Iterator[dict[str, Any]]:
    required = [name for name, item in arguments.items() if item.default is item.empty]
    more = [name for name in arguments if name not in required and _USEFUL.search(name)]
    crossing = any(_CROSS.search(name) for name, _ in module.named_modules())
    likely = [
        name
        for name in more
        if name == "position_embeddings" or (crossing and not _MASK.search(name))
    ]
    first = next((name for name in arguments if _carries(name)), None)
    if first is not None and not any(_carries(name) for name in required):
        required = [first, *required]
    base = _Base(module, config)
    shapes = list(base.shapes())
    for shape in shapes:
        for names in (required, [*required, *likely], [*required, *more]):
            for width in dict.fromkeys((shape.width, *base.others()[:2])):
                yield {
                    name: base.make(name, shape, width, name == first)
                    for name in dict.fromkeys(names)
                }


def _carries(name: str) -> bool:
    plain = not (_MASK.search(name) or _GRID.search(name) or name.startswith("position"))
    return plain and bool(_STATES.search(name) or _IDS.search(name) or _IMAGE.search(name))


@dataclass(frozen=True, slots=True)
class _Shape:
    """What the first argument looks like: its sizes, and how it is counted."""

    sizes: tuple[int, ...]
    width: int
    high: int | None = None

    @property
    def length(self) -> int:
        """How many elements the sequence has: its first size where there is no batch."""
        return self.sizes[1] if len(self.sizes) > 2 or self.high is not None else self.sizes[0]


class _Base:
    def __init__(self, module: nn.Module, config: Any) -> None:
        self.module = module
        self.config = getattr(module, "config", None) or config
        self.generator = torch.Generator().manual_seed(0)

    def setting(self, *names: str) -> int | None:
        for name in names:
            for holder in (self.module, *self.module.children(), self.config):
                value = getattr(holder, name, None)
                if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                    return value
        return None

    def shapes(self) -> Iterator[_Shape]:
        """Shapes that the first layers accept, in the order of the layers."""
        forms: dict[tuple[str, int], None] = {}
        for layer in self.module.modules():
            form = _form(layer)
            if form is not None and form not in forms:
                forms[form] = None
            if len(forms) >= 5:
                break
        width = self.setting("hidden_size", "d_model", "embed_dim", "dim")
        if width is not None:
            forms.setdefault(("wide", width))
        for kind, size in forms:
            yield _SHAPES[kind](size)
        for kind, size in forms:
            yield from (_Shape(sizes, size) for sizes in _FURTHER[kind](size))

    def others(self) -> list[int]:
        """Widths of a second sequence: those of the other layers, and what configurations say."""
        widths = {
            layer.in_features: None for layer in self.module.modules() if type(layer) is nn.Linear
        }
        named = self.setting("encoder_hidden_size", "cross_attention_dim", "kv_dim", "vision_dim")
        return [*([named] if named else []), *list(widths)[:6]][:4]

    def make(self, name: str, shape: _Shape, width: int, first: bool) -> Any:
        batch, length = shape.sizes[0], shape.length
        if first:
            return self.tensor(shape)
        if _ROTARY.search(name):
            return self.rotary(length, len(shape.sizes) > 2)
        if name.startswith(("cu_seq", "cu_window")):
            return torch.tensor([0, length], dtype=torch.int32)
        if name.startswith(("max_seq", "seq_len", "length")):
            return length
        if _GRID.search(name):
            return torch.tensor([[1, GRID, GRID]] * batch)
        if name.startswith("past_key") or name in ("cache", "past", "layer_past"):
            return None
        if _MASK.search(name):
            return None if "attention" in name else torch.ones(batch, length, dtype=torch.bool)
        if name.startswith(("position", "pos_ids")) or name == "cache_position":
            return torch.arange(length).expand(batch, length)
        if re.search(r"(height|width|(^|_)[hw])$", name):
            return GRID
        if name in ("layer_idx", "idx", "index", "i", "layer_index"):
            return 0
        if re.match(r"(output_|use_|return_|is_|do_)", name):
            return False
        if _TIME.search(name):
            return self.normal(batch, width) if "emb" in name else self.normal(batch)
        if _IDS.search(name):
            return torch.randint(2, (batch, length), generator=self.generator)
        if _OTHER.search(name):
            return self.normal(batch, length, width)
        if _STATES.search(name):
            return self.tensor(shape)
        return self.normal(batch, length, width)

    def tensor(self, shape: _Shape) -> torch.Tensor:
        if shape.high is not None:
            return torch.randint(shape.high, shape.sizes, generator=self.generator)
        return self.normal(*shape.sizes)

    def rotary(self, length: int, batched: bool) -> tuple[torch.Tensor, torch.Tensor]:
        size = self.setting("head_dim", "attention_head_size", "head_size")
        if size is None:
            width = self.setting("hidden_size", "embed_dim", "d_model") or 64
            heads = self.setting("num_attention_heads", "num_heads", "n_heads") or 1
            size = max(width // heads, 1)
        sizes = (1, length, size) if batched else (length, size)
        return self.normal(*sizes), self.normal(*sizes)

    @staticmethod
    def normal(*sizes: int) -> torch.Tensor:
        return torch.empty(sizes, device="meta")


def _form(layer: nn.Module) -> tuple[str, int] | None:
    """What kind of input a layer that holds weights takes, and how wide."""
    if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        return "ids", layer.num_embeddings
    if isinstance(layer, nn.modules.conv._ConvNd):
        return f"conv{len(layer.kernel_size)}", layer.in_channels
    if isinstance(layer, nn.Linear):
        return "wide", layer.in_features
    if isinstance(layer, nn.modules.batchnorm._NormBase):
        return "conv2", layer.num_features
    if isinstance(layer, nn.RNNBase):
        return "wide", layer.input_size
    weight = layer._parameters.get("weight")
    if weight is not None and weight.dim() == 1 and "Norm" in type(layer).__name__:
        return "wide", len(weight)
    return None


_SHAPES: dict[str, Callable[[int], _Shape]] = {
    "ids": lambda size: _Shape((BATCH, LENGTH), 1, size),
    "wide": lambda size: _Shape((BATCH, LENGTH, size), size),
    "conv1": lambda size: _Shape((BATCH, size, 64 * LENGTH), size),
    "conv2": lambda size: _Shape((BATCH, size, 64, 64), size),
    "conv3": lambda size: _Shape((BATCH, size, 4, 64, 64), size),
}
_FURTHER: dict[str, Callable[[int], list[tuple[int, ...]]]] = {
    "ids": lambda size: [],
    "wide": lambda size: [
        (LENGTH, size),
        (BATCH, size, 64),
        (BATCH, size, LENGTH, LENGTH),
        (BATCH, LENGTH, LENGTH, size),
        (BATCH, 1, LENGTH, size),
    ],
    "conv1": lambda size: [(BATCH, LENGTH * 4, size)],
    "conv2": lambda size: [(BATCH, size, 224, 224), (BATCH, 2, size, 64, 64)],
    "conv3": lambda size: [(BATCH, 4, size, 64, 64), (BATCH, size, 16, 224, 224)],
}
